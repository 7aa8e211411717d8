"""
What people read of a robustness result: tables as Markdown and for a terminal, a sentence, a plot.

What comes in is what `robustness.json` holds; what leaves is text, and a PNG.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.arena.arena_report import format_interval
from modeling_apex.inference.report_apex import escape_controls, format_count, format_table
from modeling_apex.robustness.perturbations import IDENTITY
from modeling_apex.storage.markdown import build_table, escape_markdown
from modeling_apex.storage.output_folder import replace_file

RESULTS_NAME = "robustness.json"
REPORT_NAME = "report.md"
PLOT_NAME = "robustness.png"


def compute_relative_changes(results: Mapping[str, Any]) -> dict[str, float]:
    """
    Compute how far each perturbation moves scores, in standard deviations between songs, on average over the scores.

    Args:
        results (`dict`): What `robustness.json` holds.

    Returns:
        `dict[str, float]`: By name, the largest first; without the control, and without what no song was fit for.
    """
    spreads = _get_spreads(results)
    found = {
        row["name"]: float(
            np.mean([row["changes"][name]["mean_absolute"]["estimate"] / spreads[name] for name in spreads])
        )
        for row in results["perturbations"]
        if row["kind"] != IDENTITY and row["changes"] and spreads
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _get_spreads(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the standard deviations between songs of the scores that have one."""
    spreads = {name: score["standard_deviation"] for name, score in results["scores"].items()}
    return {name: spread for name, spread in spreads.items() if spread > 0}


def describe_largest(results: Mapping[str, Any], num_named: int = 3) -> str:
    """Say in a sentence what moves scores most, and what least."""
    found = compute_relative_changes(results)
    if not found:
        return "No score differs between these songs, so there are no differences to compare changes with."
    most = [f"{escape_markdown(name)} ({share:.2f})" for name, share in list(found.items())[:num_named]]
    least, share = list(found.items())[-1]
    return (
        f"Scores move most with: {'; '.join(most)}; least with: {escape_markdown(least)} ({share:.2f}). The numbers "
        "are mean absolute changes in standard deviations between the songs, averaged over the scores."
    )


def build_changes_table(results: Mapping[str, Any]) -> str:
    """Build a Markdown table: by perturbation, the mean absolute change of each score, and the largest in brackets."""

    def write(changes: Mapping[str, Any], digits: int) -> str:
        return f"{changes['mean_absolute']['estimate']:.{digits}f} ({changes['largest']:+z.{digits}f})"

    return _build_markdown(results, write, with_flips=True)


def build_report(results: Mapping[str, Any]) -> str:
    """
    Build the Markdown report.

    Args:
        results (`dict`): What `robustness.json` holds.

    Returns:
        `str`: Markdown.
    """
    scores = ", ".join(
        f"{score['standard_deviation']:.2f} ({escape_markdown(name)})" for name, score in results["scores"].items()
    )
    facts = [
        f"- {escape_markdown(results['model'])}, {results['num_songs']} songs; {results['num_failed_songs']} more "
        "could not be scored.",
        f"- Standard deviation between the songs: {scores}.",
        f"- Brackets are 95 % intervals over songs, by {results['num_draws']} bootstrap draws, seed "
        f"{results['seed']}; of flipped pairs Wilson's. The largest change has none: it grows with the songs.",
        f"- `{IDENTITY}` is the control: the song decoded and written again as it is.",
        *list_left_out(results),
    ]
    sections = [
        ("Mean absolute change", lambda changes, digits: format_interval(changes["mean_absolute"], digits)),
        ("Mean change", lambda changes, digits: format_interval(changes["mean"], digits)),
        ("Largest change", lambda changes, digits: f"{changes['largest']:+z.{digits}f}"),
        (
            "Share of pairs of songs whose order turns round",
            lambda changes, _: format_interval(changes["flipped_pairs"]),
        ),
    ]
    tables = [f"## {title}\n\n{_build_markdown(results, write)}" for title, write in sections]
    opening = ["# Robustness", "", f"**{describe_largest(results)}**", "", *facts]
    return "\n\n".join(["\n".join(opening), *tables]) + "\n"


def format_changes(results: Mapping[str, Any]) -> str:
    """Lay the mean absolute changes, and the share of flipped pairs, out as a table for a terminal."""
    header, rows = _build_rows(
        results, lambda changes, digits: f"{changes['mean_absolute']['estimate']:.{digits}f}", with_flips=True
    )
    notes = [f"left out: {name}: {reason}" for name, reason in results["left_out"].items()]
    note = "mean absolute changes; flipped pairs: pairs of songs whose order turns round, mean over the scores"
    return "\n".join([format_table(header, rows), note, *map(escape_controls, notes)])


def _build_markdown(
    results: Mapping[str, Any], write: Callable[[Mapping[str, Any], int], str], *, with_flips: bool = False
) -> str:
    header, rows = _build_rows(results, write, with_flips=with_flips)
    return build_table(
        [header[0], header[1], *(f"`{name}`" if name in results["scores"] else name for name in header[2:])],
        [[escape_markdown(row[0]), *row[1:]] for row in rows],
    )


def _build_rows(
    results: Mapping[str, Any], write: Callable[[Mapping[str, Any], int], str], *, with_flips: bool
) -> tuple[list[str], list[list[str]]]:
    rows = []
    for row in results["perturbations"]:
        if not row["changes"]:
            continue
        cells = [
            write(row["changes"][name], 2 if score["standard_deviation"] >= 2 else 3)
            for name, score in results["scores"].items()
        ]
        if with_flips:
            shares = [changes["flipped_pairs"]["estimate"] for changes in row["changes"].values()]
            defined = [share for share in shares if share is not None]
            cells.append(f"{100 * np.mean(defined):.1f} %" if defined else "–")
        rows.append([row["name"], f"{row['num_songs']}", *cells])
    return ["what was done", "songs", *results["scores"], *(["flipped pairs"] if with_flips else [])], rows


def list_left_out(results: Mapping[str, Any]) -> list[str]:
    """List, as items of Markdown, what could not be done here, or not to every song, and why."""
    items = [f"- Left out: {escape_markdown(name)}, because {reason}." for name, reason in results["left_out"].items()]
    for row in results["perturbations"]:
        reasons = {**row["unfit"], "the version could not be scored": row["num_failed_songs"]}
        items += [
            f"- {escape_markdown(row['name'])}: without {format_count(count, 'song')} ({escape_markdown(reason)})."
            for reason, count in reasons.items()
            if count
        ]
    return items


def save_plot(results: Mapping[str, Any], path: str | Path) -> Path:
    """
    Draw how far each perturbation moves each score, in standard deviations between songs, with intervals.

    Args:
        results (`dict`): What `robustness.json` holds.
        path (`str` or `Path`): The PNG to write.

    Raises:
        `ImportError`: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows = [row for row in results["perturbations"] if row["changes"]]
    spreads = _get_spreads(results)
    figure = Figure(figsize=(8.0, 1.5 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for number, (name, spread) in enumerate(spreads.items()):
        found = [row["changes"][name]["mean_absolute"] for row in rows]
        center = np.array([estimate["estimate"] for estimate in found]) / spread
        bounds = np.array([[e["estimate"] if e[end] is None else e[end] for e in found] for end in ("low", "high")])
        places = np.arange(len(rows)) + 0.6 * (number / max(len(spreads) - 1, 1) - 0.5)
        error = np.abs(bounds / spread - center)
        axes.errorbar(
            center, places, xerr=error, fmt="o", markersize=2.5, elinewidth=0.7, label=name.replace("_", " ")
        )
    axes.set_yticks(np.arange(len(rows)), [row["name"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="y", linewidth=0.2)
    axes.set(
        xlabel="mean absolute change, in standard deviations between songs (95 % interval)",
        title=f"What a song's file does to its scores, {results['num_songs']} songs",
    )
    figure.legend(fontsize=7, loc="outside right upper")
    place = Path(path)
    with replace_file(place) as file:
        # No date and no version: the same results give the same bytes.
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return place
