"""
The dataset card: a manifest comes in, the text of a `README.md` leaves.

Every number in it is read from the manifest; what the columns mean comes from the layout contract.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from datasets_scripts.splits import SPLIT_NAMES
from modeling_apex.storage.markdown import build_table, escape_markdown

SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGEST_SIZE_CATEGORY = "1M<n<10M"

TARGETS_TEXT = """\
`score_streams` and `score_likes` are computed from the raw counts: the percentile rank of a song among the songs of
its platform, then `100 * (percentile / 100) ** alpha` with `alpha = ln 0.5 / ln 0.8`, so that the 80th percentile
scores 50 (arXiv 2605.03395). Songs with equal counts share the average of their ranks, and a percentile is
`100 * (rank - 0.5) / n`. Ranks are taken after the filters below and before the split, over all songs of a platform.
"""

METHOD_TEXTS = {
    "hash": """\
A group's split is a hash of the group and a seed. Songs that are added later therefore move no other song, but
platforms and popularity bands are divided in the wanted ratio only up to chance.""",
    "quota": """\
Groups line up by platform, popularity and hash, and each goes to the split that is furthest behind its share. That
divides platforms and popularity bands evenly, but songs that are added later can move others.""",
}
SPLITS_TEXT = """\
Songs of one {group} are one group, and a group is never divided. {method} A song by several creators belongs to the
group of the first, and is left out where another of them is in an earlier split, so none of them is in two. {common}

Something else that may not lie in two splits ({linked}) can still occur in several groups: its songs then stay in the
first of train, validation and test and are left out of the others; the table of filters counts them. How the songs
came out:
"""
COMMON_TEXT = """\
A prompt that more than a tenth of the creators share (more than 3 must, and more than 10 suffice) does not show
kinship and links nothing: {num_prompts} such prompts, of {num_songs} songs."""

BATTLES_TEXT = """\
Battles in the layout of Music Arena (music-arena/music-arena-dataset): two systems answered one prompt, and a person
heard both songs and said which one they prefer. `preference` is `A`, `B`, `TIE` or `BOTH_BAD`. There is one config
per month, and `default` has them all; every battle is in the split `test`, because battles are for judging models, not
for training them.
"""


def _render_metadata(manifest: Mapping[str, Any], *, pretty_name: str, license_id: str, tags: Sequence[str]) -> str:
    """Write the YAML block at the top of a dataset card, with its dashes."""
    num_rows = sum(split["num_rows"] for split in manifest["splits"].values())
    category = next((name for bound, name in SIZE_CATEGORIES if num_rows < bound), LARGEST_SIZE_CATEGORY)
    configs = []
    for number, (name, splits) in enumerate(manifest["configs"].items()):
        files = [{"split": split, "path": path} for split, path in splits.items()]
        configs.append({"config_name": name, "data_files": files, **({"default": True} if number == 0 else {})})
    front_matter = {
        "pretty_name": pretty_name,
        "license": license_id,
        "task_categories": ["audio-classification"],
        "tags": ["music", "apex-music", *tags],
        "size_categories": [category],
        "configs": configs,
    }
    return f"---\n{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)}---\n"


def render_song_card(
    manifest: Mapping[str, Any],
    *,
    pretty_name: str,
    introduction: str,
    license_id: str,
    tags: Sequence[str],
    columns: Mapping[str, str],
) -> str:
    """
    Write the card of a song dataset.

    Args:
        manifest (`Mapping`):
            The manifest of the folder.
        pretty_name, introduction (`str`):
            The dataset's name for people, and what it is and where it comes from.
        license_id (`str`):
            The Hub's identifier of the licence, such as `"cc-by-4.0"`, or `"other"`.
        tags (`Sequence[str]`):
            Tags beyond the shared ones.
        columns (`Mapping[str, str]`):
            What each column means.

    Returns:
        `str`: the text of `README.md`.
    """
    linked = [name for name in manifest["options"]["group_by"] if name != "creator"]
    group = "creator" if "creator" in manifest["options"]["group_by"] else "prompt"
    parts = [
        _render_metadata(manifest, pretty_name=pretty_name, license_id=license_id, tags=tags),
        f"# {pretty_name}\n\n{introduction.strip()}\n",
        f"## Songs\n\n{_build_count_table('split', 'songs', _count_rows(manifest))}\n",
        f"## Columns\n\n{_render_columns(columns)}"
        "\n`audio` is kept as its encoded file: cast it with `datasets.Audio()` to let `datasets` decode it, or pass "
        "the cell to the `apex-popularity` pipeline as it is.\n",
    ]
    if manifest["balance"]:
        names = ("platform", "popularity_band", *SPLIT_NAMES)
        rows = [[str(entry[name]) for name in names] for entry in manifest["balance"]]
        balance = build_table(["platform", "plays percentile", *SPLIT_NAMES], rows)
        method = METHOD_TEXTS[manifest["options"]["split_method"]]
        common = COMMON_TEXT.format(**manifest["common_prompts"]) if "prompt" in linked else ""
        text = SPLITS_TEXT.format(
            group=group, method=method, linked=" or ".join(linked) or "nothing here", common=common
        )
        parts += [f"## Targets\n\n{TARGETS_TEXT}", f"## Splits\n\n{text}\n{balance}\n"]
    parts += _render_joins(manifest)
    if manifest["num_dropped"]:
        table = _build_count_table("left out", "songs", manifest["num_dropped"])
        parts.append(f"## Filters\n\nOf {manifest['num_records']} songs in the source:\n\n{table}\n")
    parts.append("`manifest.json` has the hashes, options and versions of this build.\n")
    return "\n".join(parts)


def _render_joins(manifest: Mapping[str, Any]) -> list[str]:
    """Write what found its song, and what is to be known of the splits, where there is such."""
    parts = []
    if matches := manifest["matches"]:
        names = ("source", "num_rows", "num_matched_rows", "num_songs", "num_matched_songs")
        rows = [[str(match.get(name, "")) for name in names] for match in matches]
        table = build_table(["joined", "rows", "of a song", "songs in the table", "found"], rows)
        parts.append(f"## Joins\n\nLabels and audio that were matched with the songs by their ids:\n\n{table}\n")
        parts += [_describe_teacher(match["source"], match["teacher"]) for match in matches if "teacher" in match]
    if manifest["warnings"]:
        # As code, because they quote ids of the tables, which may be anything.
        listed = "".join(f"- `{warning.replace('`', ' ')}`\n" for warning in manifest["warnings"])
        parts.append(f"## Warnings\n\n{listed}")
    return parts


def _describe_teacher(table: str, teacher: Mapping[str, Any]) -> str:
    """Say that labels were made by a model, by which, and when."""
    facts = [f"SHA-256 `{teacher['teacher_sha256']}`", teacher["labelled_on"]]
    if teacher["teacher_revision"] is not None:
        facts.insert(0, f"revision {escape_markdown(teacher['teacher_revision'])}")
    if teacher["apex_music_version"] is not None:
        facts.append(f"apex-music {escape_markdown(teacher['apex_music_version'])}")
    text = (
        f"The labels of {escape_markdown(table)} are **pseudo-labels of {escape_markdown(teacher['teacher'])}** "
        f"({', '.join(facts)}): the output of a model, not of people."
    )
    if number := teacher["num_failed_songs"]:
        text += f" Songs that it could not score, and that are unlabelled: {number}."
    return f"{text}\n"


def render_battle_card(manifest: Mapping[str, Any], *, license_id: str, columns: Mapping[str, str]) -> str:
    """Write the card of a dataset of battles; the arguments are those of [`render_song_card`]."""
    months = _build_count_table("month", "battles", _count_rows(manifest))
    votes = _build_count_table("vote", "battles", manifest["preferences"])
    filters = _build_count_table("left out", "battles", manifest["num_dropped"])
    name = "Music Arena battles"
    parts = [
        _render_metadata(manifest, pretty_name=name, license_id=license_id, tags=["music-preference"]),
        f"# {name}\n\n{BATTLES_TEXT}",
        f"## Battles\n\n{months}\n\n{votes}\n",
        f"## Columns\n\n{_render_columns(columns)}",
        f"## Filters\n\nOf {manifest['num_records']} battles in the source:\n\n{filters}\n",
        "`manifest.json` has the hashes, options and versions of this build.\n",
    ]
    return "\n".join(parts)


def _render_columns(columns: Mapping[str, str]) -> str:
    return "".join(f"- `{name}`: {text}\n" for name, text in columns.items())


def _count_rows(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {name: split["num_rows"] for name, split in manifest["splits"].items()}


def _build_count_table(kind: str, unit: str, counts: Mapping[str, int]) -> str:
    return build_table([kind, unit], [[name, str(count)] for name, count in counts.items()])
