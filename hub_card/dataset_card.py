"""
Render the card of a published dataset.

What comes in is a folder that `datasets_scripts.build` finished: its manifest, and the card that the builder wrote
(origin, columns, splits, filters with counts). What leaves is that card with what a stranger on the Hub needs besides:
how to load it, what the licence permits, and the hash of every file.
"""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from hub_card.card_checks import CARD_NAME
from hub_card.markdown import format_bytes
from hub_card.model_card import build_environment
from hub_card.result_files import MissingFactError, get_fact, load_result_file
from modeling_apex.checkpoints.component_licenses import LICENSES
from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.storage.file_names import check_relative_path
from modeling_apex.storage.markdown import build_table, escape_markdown

MANIFEST_NAME = "manifest.json"
# Where the part begins that is added to the builder's card; a card that has it already is rendered anew from there.
FIRST_ADDED_HEADING = "\n## Use\n"


def render_dataset_card(folder: str | os.PathLike, *, repo_id: str | None = None) -> str:
    """
    Render the card of a dataset.

    Args:
        folder (`str` or `os.PathLike`):
            A finished dataset.
        repo_id (`str`, *optional*):
            The Hub repository that the card is for.

    Returns:
        `str`: Markdown with YAML front matter.

    Raises:
        `FileNotFoundError`: If there is no manifest or no card of the builder.
        [`MissingFactError`]: If the manifest lacks a fact, or the licence is not stated.
        `ImportError`: If jinja2 is not installed.
    """
    root = Path(folder)
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, so the dataset is not finished; finish the build first.")
    manifest = load_result_file(path)
    card = root / CARD_NAME
    if not card.is_file():
        raise FileNotFoundError(f"{card}: the card that the builder wrote is missing; build the dataset again.")
    builders_card, _, _ = card.read_text(encoding="utf-8").partition(FIRST_ADDED_HEADING)
    find = partial(get_fact, manifest, source=str(path))
    first_config = next(iter(find("configs").values()))
    text: str = (
        build_environment()
        .get_template("dataset.md.jinja")
        .render(
            builders_card=builders_card.rstrip(),
            repo_id=repo_id,
            first_split=next(iter(first_config)),
            builder=find("builder"),
            versions=", ".join(f"{name} {version}" for name, version in find("versions").items()),
            sha256=find("sha256"),
            license_text=_explain_license(find("options", "license"), str(path)),
            files_table=_build_files_table(_list_shards(manifest, str(path))),
        )
    )
    return text.rstrip() + "\n"


def _list_shards(manifest: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """List the shards of a manifest, each with `path`, `num_rows`, `num_bytes` and `sha256`."""
    splits = get_fact(manifest, "splits", source=source)
    return [shard for name in splits for shard in get_fact(splits, name, "shards", source=source)]


def find_changed_shards(folder: str | os.PathLike) -> list[str]:
    """Compare the shards of a finished dataset with its manifest: one line for each that is missing or other."""
    root = Path(folder)
    problems = []
    for shard in _list_shards(load_result_file(root / MANIFEST_NAME), str(root / MANIFEST_NAME)):
        path = root / check_relative_path(shard["path"], f"{root / MANIFEST_NAME}: the shard")
        if not path.is_file():
            problems.append(f"{shard['path']}: in the manifest but not in the folder")
        elif compute_file_hash(path) != shard["sha256"]:
            problems.append(f"{shard['path']}: its hash differs from the manifest")
    return problems


def _build_files_table(shards: Iterable[dict[str, Any]]) -> str:
    rows = [
        [
            escape_markdown(shard["path"]),
            f"{shard['num_rows']:,}",
            format_bytes(shard["num_bytes"]),
            f"`{shard['sha256']}`",
        ]
        for shard in shards
    ]
    return build_table(["file", "rows", "size", "SHA-256"], rows)


def _explain_license(license_id: str, source: str) -> str:
    license = LICENSES.get(license_id)
    if license is None:
        raise MissingFactError(
            f"{source}: the licence is {license_id!r}, which says nothing. Build the dataset again and name it "
            f"(--license, one of {', '.join(LICENSES)}), or do not publish it."
        )
    sentences = [f"[{license.name}]({license.url}), as the owners of the source state it."]
    if not license.allows_adaptations:
        sentences.append("It forbids sharing altered copies: publish it only if its owners agree.")
    if not license.allows_commercial_use:
        sentences.append("Commercial use needs their permission.")
    if license.needs_same_license:
        sentences.append("What is made from it must carry the same licence.")
    return " ".join(sentences)
