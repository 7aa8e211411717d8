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


def describe_models(result: dict[str, Any]) -> str:
    """Say how the models compare, and what the features that leak the target do to the fused one."""

    def cell(model: dict[str, Any], split: str, metric: str, digits: int) -> str:
        value = model[split][metric]["value"]
        return "–" if value is None else f"{value:.{digits}f}"

    rows = []
    for name, model in result["models"].items():
        parameters = "–" if model["num_parameters"] is None else f"{model['num_parameters']:,}"
        cells = [
            cell(model, split, metric, digits)
            for split in ("test", "unseen")
            for metric, digits in (("spearman", 2), ("mae", 1), ("f1", 2))
        ]
        rows.append([name, *cells, parameters, f"{model['cpu_seconds_per_song']:.3f}"])
    names = [
        f"{name}, {songs}" for songs in ("new artists", "unseen generators") for name in ("Spearman", "MAE", "F1")
    ]
    header = ["model", *names, "parameters", "CPU s / song"]
    return format_markdown_table(header, rows) + "\n\n" + describe_leaks(result) + "\n\n" + describe_fusion(result)


def describe_leaks(result: dict[str, Any]) -> str:
    """Say by numbers what the leaking features are worth, beside the paper's figures and trivial predictions."""
    names = ("fused CNN, with leaking features", "fused CNN, without leaking features")
    told, untold = (result["models"][name]["test"] for name in names)
    songs, paper = result["songs"]["test"], result["paper"]
    change = result["differences"][" minus ".join(names)]["test"]["f1"]
    meaning = (
        "came from features that no unpublished song has" if change["low"] > 0 else "is not told apart from chance"
    )
    return (
        "With the features that leak the target (artist popularity, followers, plays, likes) the fused CNN has F1 "
        f"{told['f1']['value']:.2f} and MAE {told['mae']['value']:.1f} on new artists; arXiv 2505.07280 reports "
        f"{paper['f1']:.2f} and {paper['mae']:.1f} on its own data. Without them it has {untold['f1']['value']:.2f} "
        f"and {untold['mae']['value']:.1f}: {change['value']:.2f} of F1 ({change['low']:.2f} to {change['high']:.2f}) "
        f"{meaning}. A hit is a popularity of {result['hit_threshold']:g} or more, {songs['hit_share']:.0%} of the "
        f"songs: predicting the majority class has F1 {songs['f1_of_majority_class']:.2f}, calling every song a hit "
        f"{songs['f1_of_calling_all_hits']:.2f}."
    )


def describe_fusion(result: dict[str, Any]) -> str:
    """Say whether the fused model beats its branches, and what could be reached."""
    rows = []
    for name, parts in result["differences"].items():
        cells = [
            f"{part['value']:+.3f} ({part['low']:+.3f} to {part['high']:+.3f})"
            for part in (parts[split]["spearman"] for split in ("test", "unseen"))
        ]
        rows.append([name, *cells])
    header = ["difference of Spearman", "new artists", "unseen generators"]
    ceiling, num_songs = result["ceilings"]["audio_and_release"], result["num_songs"]
    num_tiny = json.loads(TINY_RESULTS.read_text(encoding="utf-8"))["training"]["num_songs"]
    text = (
        f"{num_songs['train']:,} synthetic training songs of {result['song_seconds']:g} s, {num_songs['test']} of new "
        f"artists, {num_songs['unseen']} of unseen generators; means of {result['num_seeds']} seeds, 95 % intervals "
        "over seeds and artists. Who knows exactly what one hears and how the track was released, which is all that "
        f"is known of an unpublished song, reaches a Spearman of {ceiling:.2f}. The encoder of apex-tiny was trained "
        f"on {num_tiny:,} other synthetic songs with aesthetic labels, which no other model had. Seconds are of one "
        f"thread, from encoded audio to report. `{result['command']}`."
    )
    return format_markdown_table(header, rows) + "\n\n" + text


SECTIONS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "resamplers": (RESULTS / "resamplers.json", describe_resamplers),
    "apex-tiny": (TINY_RESULTS, describe_tiny),
    "heads": (RESULTS / "heads.json", describe_heads),
    "presets": (RESULTS / "presets.json", describe_presets),
    "models": (RESULTS / "models.json", describe_models),
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
