"""Licences of components, and what they leave for the whole."""

import pytest

from modeling_apex.checkpoints.component_licenses import (
    CODE,
    KNOWN_COMPONENTS,
    LICENSES,
    SYNTHETIC_SONGS,
    Component,
    compute_combined_license,
    find_component,
)

MERT = KNOWN_COMPONENTS[0]


@pytest.mark.parametrize("source", ["m-a-p/MERT-v1-95M", "MERT-v1-95M", "m-a-p/MERT-v1-95M@main", " mert-v1-95m/"])
def test_known_components_are_found_by_id_and_folder_name(source: str) -> None:
    assert find_component(source) is MERT


def test_unknown_sources_are_not_guessed() -> None:
    assert find_component("someone/MERT-v1-95M-tuned") is None
    assert find_component("") is None


def test_every_known_licence_is_described() -> None:
    named = {component.license_id for component in KNOWN_COMPONENTS} - {None}
    assert named <= set(LICENSES)


@pytest.mark.parametrize(
    ("licenses", "combined"),
    [
        ([], "apache-2.0"),
        (["mit", "cc0-1.0", "cc-by-4.0"], "apache-2.0"),
        (["cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-4.0", "mit"], "cc-by-nc-4.0"),
        (["cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "other"),
        ([None], "other"),
        (["a-licence-of-their-own"], "a-licence-of-their-own"),
    ],
)
def test_the_whole_is_as_restricted_as_its_parts(licenses: list[str | None], combined: str) -> None:
    parts = [Component(f"part {number}", "songs", name) for number, name in enumerate(licenses)]
    assert compute_combined_license([CODE, SYNTHETIC_SONGS, *parts]) == combined
