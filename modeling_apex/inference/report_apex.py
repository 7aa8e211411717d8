"""
What a person or a program reads of score reports: flat rows for tables, CSV, JSON, and text for a terminal.

What comes in are reports as `song_report_apex` makes them. Standard library only, so that reports can be read where no
model runs.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What SongEval asked its raters (arXiv 2505.10793), in a few words; popularity as in arXiv 2605.03395.
SCORE_MEANINGS = {
    "popularity": "popularity of the track",
    "hit_probability": "probability that the popularity reaches the threshold of a hit",
    "score_streams": "engagement by plays",
    "score_likes": "engagement by likes",
    "coherence": "overall coherence",
    "musicality": "overall musicality",
    "memorability": "memorability",
    "clarity": "clarity of song structure",
    "naturalness": "naturalness of vocal breathing and phrasing",
}
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
FEATURE_WORDS = {
    "given": "track features",
    "missing": "missing features",
    "leaking": "features that leak the target",
}


def flatten_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """
    Turn a report into one flat row for CSV or Parquet.

    Args:
        report (`dict`):
            What [`build_report`] or [`build_error_report`] returned.

    Returns:
        `dict`: `song`, one column a score, `<name>_percentile` for popularity, `<name>_training_percentile` where
        the model knows its training songs, `<name>_reference_percentile`, `<name>_low` and `<name>_high` where it
        knows a reference set, `percentile_basis`, `distance` and `is_novel`, `duration_seconds`, `num_segments`,
        `model_id`, `model_revision`, `warnings` (joined by "; ") and `error`; where the model takes track features,
        `given_features`, `missing_features` and `leaking_features`. Timeline and embedding are left out.
    """
    row: dict[str, Any] = {"song": report["song"], **report.get("scores", {})}
    for kind in ("", "training_", "reference_", "target_"):
        row |= {f"{name}_{kind}percentile": value for name, value in report.get(f"{kind}percentiles", {}).items()}
    if "percentile_basis" in report:
        row["percentile_basis"] = report["percentile_basis"]
    for name, (low, high) in report.get("intervals", {}).items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    row |= {name: report["novelty"][name] for name in ("distance", "is_novel") if "novelty" in report}
    row["duration_seconds"] = report.get("duration_seconds")
    row["num_segments"] = report.get("num_segments")
    row["model_id"] = report["model"]["id"]
    row["model_revision"] = report["model"]["revision"]
    row["warnings"] = "; ".join(report.get("warnings", ()))
    row |= {f"{name}_features": "; ".join(names) for name, names in report.get("features", {}).items()}
    row["error"] = report.get("error")
    return row


def flatten_reports(
    reports: Iterable[Mapping[str, Any]], first_columns: Iterable[str] = ()
) -> tuple[list[str], list[dict[str, Any]]]:
    """Flatten many reports to rows with one list of columns: the given ones, then those of the first scored song."""
    rows = [flatten_report(report) for report in reports]
    columns = dict.fromkeys(first_columns)
    for row in sorted(rows, key=lambda row: row["error"] is not None):
        columns.update(dict.fromkeys(row))
    return list(columns), [{column: row.get(column) for column in columns} for row in rows]


def format_csv(reports: Iterable[Mapping[str, Any]], first_columns: Iterable[str] = ()) -> str:
    """Return reports as CSV text with a header line; arguments are those of `flatten_reports`."""
    return format_rows(*flatten_reports(reports, first_columns))


def format_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """
    Return rows as CSV text with a header line.

    Text that a spreadsheet would take for a formula, such as a song called `=1+1.wav`, gets a `'` in front, as is
    usual; numbers stay numbers.
    """
    return "".join(
        format_row(f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell for cell in cells)
        for cells in (columns, *([row.get(column) for column in columns] for row in rows))
    )


def format_row(cells: Iterable[Any]) -> str:
    """Return cells as one line of CSV."""
    line = io.StringIO()
    # With this terminator, a cell that holds either of its characters is quoted.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def format_json(reports: Iterable[Mapping[str, Any]]) -> str:
    """Return reports as a JSON array, readable and stable."""
    return json.dumps(list(reports), indent=2, ensure_ascii=False) + "\n"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left_columns: Sequence[int] = (0,)) -> str:
    """
    Lay out cells as a plain text table.

    Args:
        header (`Sequence[str]`):
            Column titles.
        rows (`Sequence[Sequence[str]]`):
            Cells, one sequence a row.
        left_columns (`Sequence[int]`, defaults to `(0,)`):
            Columns of words, aligned to the left; the others hold numbers and are aligned to the right.

    Returns:
        `str`: lines, a rule under the header.
    """
    lines = [[escape_controls(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    texts = [
        "  ".join(
            cell.ljust(width) if column in left_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([texts[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *texts[1:]])


def escape_controls(text: Any) -> str:
    """
    Make a text safe to print: a file may be named by a stranger, and a terminal obeys control characters.

    Args:
        text:
            Anything; usually the name of a song, or a message with one in it.

    Returns:
        `str`: one line, in which line breaks, terminal codes, invisible and direction-changing characters and bytes
        that are no text stand as escapes such as `\\x1b`.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def format_report(report: Mapping[str, Any]) -> str:
    """Return one report as text for a terminal: scores, ranges, percentiles, meaning, timeline."""
    if "error" in report:
        return f"{escape_controls(report['song'])}\n  not scored: {escape_controls(report['error'])}"
    segments = format_count(report["num_segments"], "segment")
    lines = [f"{escape_controls(report['song'])}  ({format_duration(report['duration_seconds'])}, {segments})"]
    percentiles = report.get("reference_percentiles", report.get("percentiles", {}))
    training_percentiles = {} if "reference_percentiles" in report else report.get("training_percentiles", {})
    # A report without any still has the column, unless popularity is no percentile to begin with.
    has_percentiles = bool(percentiles) or "percentiles" not in report
    intervals = report.get("intervals", {})
    rows = []
    for name, score in report["scores"].items():
        minimum, maximum = report["ranges"][name]
        percentile = percentiles.get(name)
        row = [f"  {name}", format_score(score, maximum), f"{minimum:g} to {maximum:g}"]
        if intervals:
            row.insert(2, format_interval(intervals[name], maximum) if name in intervals else "")
        if has_percentiles:
            row.append("" if percentile is None else f"{percentile:.0f}")
        if training_percentiles:
            row.append(f"{training_percentiles[name]:.0f} %" if name in training_percentiles else "")
        rows.append([*row, SCORE_MEANINGS.get(name, "")])
    header = ["  score", "value", "range", *(["percentile"] if has_percentiles else []), "meaning"]
    if intervals:
        header.insert(2, f"{100 * report['interval_level']:g} % interval")
    if training_percentiles:
        header.insert(-1, "better than (training songs)")
    lines.append(format_table(header, rows, left_columns=(0, len(header) - 1)))
    if "segments" in report:
        names = list(report["scores"])
        timeline = [
            [
                f"  {format_duration(segment['start_seconds'])} to {format_duration(segment['end_seconds'])}",
                *(format_score(segment["scores"][name], report["ranges"][name][1]) for name in names),
            ]
            for segment in report["segments"]
        ]
        lines += ["", format_table(["  segment", *names], timeline)]
    if has_percentiles and "percentile_basis" in report:
        lines.append(f"  percentile: {escape_controls(report['percentile_basis'])}")
    for name, names in report.get("features", {}).items():
        if names:
            lines.append(escape_controls(f"  {FEATURE_WORDS.get(name, name)}: {', '.join(names)}"))
    lines += [escape_controls(f"  warning: {warning}") for warning in report["warnings"]]
    return "\n".join(lines)


def describe_scales(reports: Sequence[Mapping[str, Any]]) -> str:
    """
    Say what the scores of a table mean: a legend.

    Args:
        reports (`Sequence[dict]`):
            Reports of one model, at least one.

    Returns:
        `str`: the range of each group, or of its scores by name where they differ, and what `(pN, low to high)` is, if
        a score has a percentile or an interval.
    """
    ranges, groups = reports[0]["ranges"], reports[0]["groups"]
    names: dict[tuple[str, float, float], list[str]] = {}
    for name, (minimum, maximum) in ranges.items():
        names.setdefault((groups[name], minimum, maximum), []).append(name)
    are_alike = len(names) == len(set(groups.values())) and "hit" not in groups.values()
    words = [
        f"{group if are_alike else ', '.join(heads)} from {minimum:g} to {maximum:g}"
        for (group, minimum, maximum), heads in names.items()
    ]
    lines = [f"ranges: {', '.join(words)}"]
    if any(report.get("percentiles") for report in reports):
        lines[0] += "; (pN) is a percentile"
        lines.append(f"percentile: {escape_controls(reports[0]['percentile_basis'])}")
    if "intervals" in reports[0]:
        share = f"{100 * reports[0]['interval_level']:g} %"
        lines.append(
            f"(low to high) holds the label of {share} of songs like those that were measured, and of fewer others"
        )
    return "\n".join(lines)


def format_score(score: float, maximum: float) -> str:
    """Return a score with as many digits as its range can bear: one for 0 to 100, two for 1 to 5."""
    return f"{score:.1f}" if maximum > 10 else f"{score:.2f}"


def format_count(number: int, noun: str) -> str:
    """Return how many there are: `1 song`, `2 songs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_interval(interval: Sequence[float], maximum: float) -> str:
    """Return the ends of an interval as words, in the digits of its score."""
    low, high = (format_score(end, maximum) for end in interval)
    return f"{low} to {high}"


def format_duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, `2:24` for 144 s."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
