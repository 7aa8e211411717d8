"""`apex-music score`: songs to scores, as a table on the terminal or as a file."""

import argparse
import sys
from pathlib import Path
from typing import Any

from modeling_apex.commands.options import add_scoring_arguments, load_scorer, score_songs
from modeling_apex.corpus.identity import identify_file
from modeling_apex.corpus.score_columns import list_score_columns
from modeling_apex.corpus.score_journal import OUTPUT_FORMATS, ScoreJournal
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.inference.report_apex import (
    describe_scales,
    escape_controls,
    format_count,
    format_duration,
    format_interval,
    format_report,
    format_score,
    format_table,
)
from modeling_apex.process_exit import print_lines

HELP = "score songs: popularity (0 to 100) and aesthetics (1 to 5)"
DESCRIPTION = (
    "Score songs from their audio. One broken song is reported and the others are scored; the exit status is then 1. "
    "With --output, an interrupted run is taken up by the same command."
)
EXAMPLES = ("song.mp3", "album/ --output scores.csv", "'takes/*.wav' --model amaai-lab/apex --segments")
WHEN_INTERRUPTED = "with --output, the same command goes on where this one stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scoring_arguments(parser)
    parser.add_argument(
        "--output", metavar="FILE", help=f"write reports to a file instead ({', '.join(OUTPUT_FORMATS)})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    parser.add_argument(
        "--recheck",
        action="store_true",
        help="with --output: read songs of an interrupted run again to see whether they changed, whatever size and "
        "times of the files say, and score URLs again",
    )
    parser.add_argument("--segments", action="store_true", help="score each segment too (the timeline of a song)")
    parser.add_argument("--embeddings", action="store_true", help="add the song embedding to .json and .jsonl reports")


def run(arguments: argparse.Namespace) -> int:
    _refuse_without_place(arguments)
    songs = find_songs(arguments.songs)
    if arguments.output:
        return _score_to_file(songs, arguments)
    reports = []
    for report in score_songs(songs, arguments, return_timeline=arguments.segments):
        reports.append(report)
        if arguments.segments and "error" not in report:
            print_lines(format_report(report) + "\n")
    scored = [report for report in reports if "error" not in report]
    if len(scored) == 1 and not arguments.segments:
        print_lines(format_report(scored[0]))
    elif scored and not arguments.segments:
        print_lines(format_score_table(scored))
    return 1 if len(scored) < len(reports) else 0


def _refuse_without_place(arguments: argparse.Namespace) -> None:
    """Refuse an option whose result the output has no place for, before anything is scored."""
    suffix = Path(arguments.output).suffix if arguments.output else None
    for name, has_place in (
        ("segments", suffix not in (".csv", ".parquet")),
        ("embeddings", suffix in (".json", ".jsonl")),
    ):
        if getattr(arguments, name) and not has_place:
            raise ValueError(
                f"--{name} has no place in {f'a {suffix} file' if suffix else 'the table on the terminal'}. Name an "
                f"--output that ends in .json or .jsonl, or leave --{name} out."
            )


def _score_to_file(songs: list[str], arguments: argparse.Namespace) -> int:
    from modeling_apex.engines.model_hashes import compute_scores_hash

    scorer = load_scorer(arguments)
    names = ("dtype", "engine", "precision", "resampler", "segments", "embeddings")
    settings = {
        "weights_sha256": compute_scores_hash(scorer.model),
        **{name: getattr(arguments, name) for name in names},
        "features": identify_file(arguments.features).sha256 if arguments.features else None,
    }
    if arguments.tail:  # said only where it is, so that journals of before go on
        settings["tail"] = arguments.tail
    columns = list_score_columns(scorer.model.config)
    with ScoreJournal(arguments.output, settings, columns=columns, overwrite=arguments.overwrite) as journal:
        remaining = journal.list_remaining(songs, rereads=arguments.recheck)
        if num_done := len(songs) - len(remaining):
            message = f"resuming: {num_done} of {format_count(len(songs), 'song')} already in {journal.path}"
            print_lines(escape_controls(message), file=sys.stderr)
        options = {"return_timeline": arguments.segments, "return_embedding": arguments.embeddings}
        for song, report in zip(remaining, score_songs(remaining, arguments, scorer=scorer, **options), strict=True):
            journal.add(song, report)
        num_failed = sum("error" in report for report in journal.finish(songs))
    scored = format_count(len(songs) - num_failed, "song")
    print_lines(escape_controls(f"{arguments.output}: {scored} scored, {num_failed} failed"), file=sys.stderr)
    return 1 if num_failed else 0


def format_score_table(reports: list[dict[str, Any]]) -> str:
    """Return one line a song: its scores in native units with their intervals, popularity also as a percentile."""
    names = list(reports[0]["scores"])
    header = ["song", "length", *names]
    rows = []
    for report in reports:
        cells = []
        for name in names:
            maximum, notes = report["ranges"][name][1], []
            if name in report.get("percentiles", {}):
                notes.append(f"p{report['percentiles'][name]:.0f}")
            if name in report.get("intervals", {}):
                notes.append(format_interval(report["intervals"][name], maximum))
            cell = format_score(report["scores"][name], maximum)
            cells.append(f"{cell} ({', '.join(notes)})" if notes else cell)
        rows.append([str(report["song"]), format_duration(report["duration_seconds"]), *cells])
    notes = [
        escape_controls(f"warning: {report['song']}: {warning}")
        for report in reports
        for warning in report["warnings"]
    ]
    return "\n".join([format_table(header, rows), describe_scales(reports), *notes])
