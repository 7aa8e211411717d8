"""Settings from the environment: what is set, what is refused, and that the README tells the same."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from spaces_demo.settings import SpaceSettings

README = Path(__file__).parents[2] / "spaces_demo" / "README.md"


def test_nothing_set_means_defaults() -> None:
    assert SpaceSettings.from_environment({}) == SpaceSettings()
    assert SpaceSettings.from_environment({"APEX_MODEL": " ", "APEX_QUEUE": ""}) == SpaceSettings()


def test_each_variable_sets_its_field() -> None:
    settings = SpaceSettings.from_environment(
        {
            "APEX_MODEL": "a/b, c/d,,a/b",
            "APEX_MAX_SECONDS": "90.5",
            "APEX_MAX_MB": "0.5",
            "APEX_MAX_SONGS": "3",
            "APEX_QUEUE": "2",
            "APEX_CONCURRENCY": "4",
            "APEX_KEEP_MINUTES": "1.5",
            "APEX_DEVICE": "cpu",
        }
    )
    assert settings == SpaceSettings(("a/b", "c/d"), 90.5, 0.5, 3, 2, 4, 1.5, "cpu")
    assert settings.max_bytes == 512 * 1024


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("APEX_MAX_SECONDS", "ten", "APEX_MAX_SECONDS must be a number, got 'ten'"),
        ("APEX_QUEUE", "2.5", "APEX_QUEUE must be a whole number, got '2.5'"),
        ("APEX_CONCURRENCY", "0", "APEX_CONCURRENCY must be positive and finite, got 0"),
        ("APEX_MAX_MB", "nan", "APEX_MAX_MB must be positive and finite, got nan"),
    ],
)
def test_wrong_values_name_the_variable(variable: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SpaceSettings.from_environment({variable: text})


def test_readme_lists_every_variable_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(APEX_\w+)` \| ([^|]+?) \|", README.read_text(), flags=re.MULTILINE))
    assert set(rows) == {setting.metadata["variable"] for setting in fields(SpaceSettings)}
    for setting in fields(SpaceSettings):
        if isinstance(setting.default, (int, float)):
            assert float(rows[setting.metadata["variable"]]) == setting.default
