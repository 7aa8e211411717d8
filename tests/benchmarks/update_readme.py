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


def describe_engines(result: dict[str, Any]) -> str:
    """Say how fast every engine and precision is, and what it changes."""
    scores = result["scores"]["paths"]
    rows = []
    for path in result["full_size"]["paths"]:
        name = f"{path['engine']} {path['precision']}{' compiled' if path['is_compiled'] else ''}"
        change = "–"
        if name in scores:
            found = scores[name]
            change = f"{max(value / found['ranges'][head] for head, value in found['largest_change'].items()):.3%}"
        title = {"published float32": "the published way", "torch float32": "the default"}.get(name, f"`{name}`")
        rows.append(
            [
                title,
                f"{path['cpu_seconds']:.1f}",
                f"{path['speed_ratio_to_published']:.2f}",
                f"{path['relative_error_of_embedding']:.0e}" if path["engine"] != "published" else "–",
                change,
            ]
        )
    header = ["path", "CPU s per 30 s segment", "times the published speed", "error of the embedding", "score change"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        format_markdown_table(header, rows)
        + f"\n\nTimes and errors: {result['full_size']['model']}, one thread, least of {result['num_rounds']} rounds "
        f"in one run (load average {result['load_average']:.0f}), {result['hardware']}; {versions}. On random weights "
        f"the error says what the arithmetic does, not what a song would show. Score change: the largest of any score "
        f"as a share of its range; {result['scores']['model']} on {result['scores']['songs']}; "
        f"{result['scores']['calibration']} served as calibration. `{result['command']}`."
    )


def describe_gpu(result: dict[str, Any]) -> str:
    """Say how fast a GPU is, or that none was measured."""
    if not result["is_gpu"]:
        return f"On a GPU nothing was measured yet: none was at hand. `{result['command']}` does it."
    rows = [
        [
            f"{path['precision']}{', compiled' if path['is_compiled'] else ''}",
            f"{path['songs_per_second']:.1f}",
            "–" if path["share_of_peak"] is None else f"{path['share_of_peak']:.0%}",
            f"{path['relative_error_to_cpu']:.0e}",
        ]
        for path in result["paths"]
    ]
    header = ["precision", "songs of 3 minutes a second", "share of the peak rate", "error against float32 on a CPU"]
    return format_markdown_table(header, rows) + f"\n\n{result['hardware']}, {result['model']}; `{result['command']}`."


def describe_embed_processes(result: dict[str, Any]) -> str:
    """Say what a second process is worth to `embed`."""
    return (
        f"Two processes embedded {result['songs']} in {result['two_processes']['seconds']:.1f} s where one took "
        f"{result['one_process']['seconds']:.1f} s: {result['speed_up']:.2f} times the speed, for "
        f"{result['cpu_seconds_ratio']:.2f} times the CPU time ({result['model']}, {result['num_cores']} cores, one "
        f"thread a process, least of {result['num_rounds']} rounds, load average {result['load_before']:.1f} at the "
        f"start; `{result['command']}`)."
    )


SECTIONS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "resamplers": (RESULTS / "resamplers.json", describe_resamplers),
    "apex-tiny": (TINY_RESULTS, describe_tiny),
    "heads": (RESULTS / "heads.json", describe_heads),
    "presets": (RESULTS / "presets.json", describe_presets),
    "engines": (RESULTS / "engines.json", describe_engines),
    "gpu": (RESULTS / "gpu.json", describe_gpu),
    "embed-processes": (RESULTS / "embed_processes.json", describe_embed_processes),
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
