"""
The dataset card: a manifest comes in, the text of a `README.md` leaves.

Every number in it is read from the manifest; what the columns mean comes from the layout contract.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from datasets_scripts.splits import SPLIT_NAMES

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
Songs of one {group} are one group, and a group is never torn apart. {method}

Something else that may not lie in two splits ({linked}) can still occur in several groups: its songs then stay in the
first of train, validation and test and are left out of the others; the table of filters counts them. How the songs
came out:
"""

BATTLES_TEXT = """\
Battles in the layout of Music Arena (music-arena/music-arena-dataset): two systems answered one prompt, and a person
heard both songs and said which one they prefer. `preference` is `A`, `B`, `TIE` or `BOTH_BAD`. There is one config a
month, and `default` has them all; every battle is in the split `test`, because battles judge models and train none.
"""


def render_front_matter(manifest: Mapping[str, Any], *, pretty_name: str, license_id: str, tags: Sequence[str]) -> str:
    """
    Write the YAML block at the top of a dataset card.

    Args:
        manifest (`Mapping`):
            The manifest of the folder.
        pretty_name (`str`):
            The dataset's name for people.
        license_id (`str`):
            The Hub's identifier of the licence, such as `"cc-by-4.0"`, or `"other"`.
        tags (`Sequence[str]`):
            Tags beyond the shared ones.

    Returns:
        `str`: the block, with its dashes.
    """
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


def render_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a Markdown table, its header from the keys of the first row."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([str(row[name]) for name in header] for row in rows)]
    return "".join(f"| {' | '.join(_escape(cell) for cell in line)} |\n" for line in lines)


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
        pretty_name (`str`):
            The dataset's name for people.
        introduction (`str`):
            What it is and where it comes from.
        license_id (`str`):
            The Hub's identifier of the licence.
        tags (`Sequence[str]`):
            Tags beyond the shared ones.
        columns (`Mapping[str, str]`):
            What each column means.

    Returns:
        `str`: the text of `README.md`.
    """
    linked = [name for name in manifest["options"]["group_by"] if name != "creator"]
    group = "creator" if "creator" in manifest["options"]["group_by"] else "prompt"
    counts = [{"split": name, "songs": split["num_rows"]} for name, split in manifest["splits"].items()]
    filters = [{"left out": name, "songs": count} for name, count in manifest["num_dropped"].items()]
    parts = [
        render_front_matter(manifest, pretty_name=pretty_name, license_id=license_id, tags=tags),
        f"# {pretty_name}\n\n{introduction.strip()}\n",
        f"## Songs\n\n{render_table(counts)}",
        f"## Columns\n\n{_render_columns(columns)}"
        "\n`audio` is kept as its encoded file: cast it with `datasets.Audio()` to let `datasets` decode it, or pass "
        "the cell to the `apex-popularity` pipeline as it is.\n",
    ]
    if manifest["balance"]:
        balance = [{"platform": e["platform"], "plays percentile": e["popularity_band"]} | _pick(e, SPLIT_NAMES)
                   for e in manifest["balance"]]  # fmt: skip
        method = METHOD_TEXTS[manifest["options"]["split_method"]]
        text = SPLITS_TEXT.format(group=group, method=method, linked=" or ".join(linked) or "nothing here")
        parts += [f"## Targets\n\n{TARGETS_TEXT}", f"## Splits\n\n{text}\n{render_table(balance)}"]
    if filters:
        parts.append(f"## Filters\n\nOf {manifest['num_records']} songs in the source:\n\n{render_table(filters)}")
    parts.append("`manifest.json` has the hashes, options and versions of this build.\n")
    return "\n".join(parts)


def render_battle_card(manifest: Mapping[str, Any], *, license_id: str, columns: Mapping[str, str]) -> str:
    """
    Write the card of a dataset of battles.

    Args:
        manifest (`Mapping`):
            The manifest of the folder.
        license_id (`str`):
            The Hub's identifier of the licence.
        columns (`Mapping[str, str]`):
            What each column means.

    Returns:
        `str`: the text of `README.md`.
    """
    months = [{"month": name, "battles": split["num_rows"]} for name, split in manifest["splits"].items()]
    votes = [{"vote": name, "battles": count} for name, count in manifest["preferences"].items()]
    filters = [{"left out": name, "battles": count} for name, count in manifest["num_dropped"].items()]
    name = "Music Arena battles"
    parts = [
        render_front_matter(manifest, pretty_name=name, license_id=license_id, tags=["music-preference"]),
        f"# {name}\n\n{BATTLES_TEXT}",
        f"## Battles\n\n{render_table(months)}\n{render_table(votes)}",
        f"## Columns\n\n{_render_columns(columns)}",
        f"## Filters\n\nOf {manifest['num_records']} battles in the source:\n\n{render_table(filters)}",
        "`manifest.json` has the hashes, options and versions of this build.\n",
    ]
    return "\n".join(parts)


def _render_columns(columns: Mapping[str, str]) -> str:
    return "".join(f"- `{name}`: {text}\n" for name, text in columns.items())


def _pick(entry: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: entry[name] for name in names}


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
