"""
Write the tables of README.md from result files, between its `<!-- begin NAME -->` and `<!-- end NAME -->` marks.

    python tests/benchmarks/update_readme.py

A test compares README.md with what this makes, so a number in it cannot outlive the run that it came from.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent
README = REPOSITORY / "README.md"
RESULTS = Path(__file__).parent / "results"
TINY_RESULTS = REPOSITORY / "modeling_apex" / "pretrained" / "apex-tiny" / "results.json"


def format_markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_resamplers(result: dict[str, Any]) -> str:
    """Say what soxr in place of the published filter does to scores."""
    rows = [
        [f"`{name}`", f"{difference['mean']:.3f}", f"{difference['largest']:.3f}"]
        for name, difference in result["difference"].items()
    ]
    return (
        format_markdown_table(["score", "mean change", "largest change"], rows)
        + f"\n\nModel: {result['model']}; {result['songs']}. Made by `{result['command']}`."
    )


def describe_tiny(result: dict[str, Any]) -> str:
    """Say how well apex-tiny hears the synthetic songs that it never saw."""
    test, unseen = result["evaluations"]["test"], result["evaluations"]["unseen"]
    rows = []
    for name, seen in test["scores"].items():
        other = unseen["scores"][name]
        cells = [
            f"{score['spearman']['value']:.2f} ({score['spearman']['low']:.2f} to {score['spearman']['high']:.2f})"
            for score in (seen, other)
        ]
        ceilings = [f"{score['spearman_ceiling']:.2f}" for score in (seen, other)]
        rows.append([f"`{name}`", cells[0], ceilings[0], cells[1], ceilings[1]])
    header = ["score", "new songs", "ceiling", "unseen systems", "ceiling"]
    return (
        format_markdown_table(header, rows)
        + f"\n\nSpearman correlation with 95 % intervals on {test['num_songs']} and {unseen['num_songs']} synthetic "
        "songs whose five factors were drawn independently; the ceiling is what a listener who knows the truth of the "
        "simulation reaches."
    )


def describe_heads(result: dict[str, Any]) -> str:
    """Say what training the heads costs beside the published design."""
    ratios = result["published_over_ours"]
    rows = [
        ["one epoch", f"{ratios['epoch_seconds']:.1f}"],
        ["loading the embeddings", f"{ratios['load_seconds']:.1f}"],
        ["peak memory", f"{ratios['peak_memory_mb']:.1f}"],
    ]
    return (
        format_markdown_table(["training the heads", "published design / ours"], rows)
        + f"\n\n{result['num_songs']:,} songs, {result['num_threads']} thread, both in one run of "
        "`tests/benchmarks/bench_heads.py`."
    )


def describe_presets(result: dict[str, Any]) -> str:
    """Say what each difference between training conditions is worth."""

    def cell(groups: dict[str, Any], group: str) -> str:
        if group not in groups:
            return "–"
        value = groups[group]
        return f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"

    rows = [
        [name, cell(groups, "popularity"), cell(groups, "aesthetics")]
        for name, groups in result["differences"].items()
    ]
    return (
        format_markdown_table(["difference of mean Spearman", "popularity", "aesthetics"], rows)
        + f"\n\nSynthetic songs, embedded by apex-tiny; {result['num_seeds']} seeds, 95 % intervals; "
        "`tests/benchmarks/compare_presets.py`."
    )


def describe_cold_start(result: dict[str, Any]) -> str:
    """Say what the first score costs, from the start of the process."""
    names = {
        "apex-music score": "`apex-music score CLIP`",
        "pipeline": "the same through `load_pipeline`",
        "import transformers, modeling_apex": "`import transformers, modeling_apex`",
        "import transformers": "`import transformers`",
    }
    rows = [
        [words, *(f"{result['programs'][name][f'{unit}_over_imports']:.2f}" for unit in ("wall", "cpu"))]
        for name, words in names.items()
    ]
    return (
        format_markdown_table(["whole process / `import transformers, torch`", "wall", "CPU"], rows)
        + f"\n\napex-tiny on the CPU; {result['clip']}; medians of {result['num_rounds']} rounds; torch "
        f"{result['versions']['torch']}, transformers {result['versions']['transformers']}. Made by "
        f"`{result['command']}`."
    )


SECTIONS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "resamplers": (RESULTS / "resamplers.json", describe_resamplers),
    "cold-start": (RESULTS / "cold_start.json", describe_cold_start),
    "apex-tiny": (TINY_RESULTS, describe_tiny),
    "heads": (RESULTS / "heads.json", describe_heads),
    "presets": (RESULTS / "presets.json", describe_presets),
}


def build_readme(text: str) -> str:
    """Return README text with every marked section made anew from its result file."""
    for name in re.findall(r"<!-- begin (\S+) -->", text):
        path, describe = SECTIONS[name]
        section = describe(json.loads(path.read_text(encoding="utf-8")))
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(
            pattern, lambda match, section=section: f"{match[1]}{section}\n{match[2]}", text, flags=re.DOTALL
        )
    return text


def main() -> None:
    README.write_text(build_readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
