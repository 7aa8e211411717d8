"""`apex-music score`: songs to scores, as a table on the terminal or as a file."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modeling_apex.corpus.feature_table import FeatureTable
from modeling_apex.corpus.identity import hash_json, identify_file
from modeling_apex.corpus.score_journal import OUTPUT_FORMATS, ScoreJournal
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.engines import ENGINES, PRECISIONS
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.report_apex import (
    escape_controls,
    format_duration,
    format_report,
    format_score,
    format_table,
)

DTYPES = ("float32", "bfloat16", "float16")
RESAMPLERS = ("sinc", "soxr")
MEGABYTE = 1024**2
MODEL_SUFFIXES = (".json", ".safetensors", ".onnx", ".xml", ".bin")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "score",
        help="score songs: popularity (0 to 100) and aesthetics (1 to 5)",
        description="Score songs from their audio. One broken song is reported and the others are scored; the exit "
        "status is then 1. With --output, an interrupted run is taken up by the same command.",
        epilog="examples:\n"
        "  apex-music score song.mp3\n"
        "  apex-music score album/ --output scores.csv\n"
        "  apex-music score 'takes/*.wav' --model amaai-lab/apex --segments",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    parser.set_defaults(run=run, when_interrupted="with --output, the same command goes on where this one stopped")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that scores songs takes."""
    parser.add_argument("songs", nargs="+", metavar="SONG", help="file, folder, pattern or URL")
    parser.add_argument("--model", metavar="M", help="folder or Hub id (default: the embedded demonstration model)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub model")
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="precision of the encoder (default: float32)"
    )
    add_engine_arguments(parser)
    parser.add_argument(
        "--features",
        metavar="TABLE",
        help="track features for a spectrogram-fusion model (.csv, .jsonl, .json): a column `song`, one a feature",
    )
    parser.add_argument("--batch-size", type=_positive_int, metavar="N", help="segments at once (default: as suits)")
    parser.add_argument(
        "--resampler",
        choices=RESAMPLERS,
        default="sinc",
        help="sinc: the filter that the weights were trained behind (default); soxr: faster, scores differ slightly",
    )
    add_limit_arguments(parser)


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is refused; `build_limits` reads it."""
    defaults = AudioLimits()
    limits = parser.add_argument_group("what is refused")
    limits.add_argument(
        "--max-seconds",
        type=_positive_number,
        default=defaults.max_seconds,
        metavar="S",
        help=f"longest song ({defaults.max_seconds:g})",
    )
    limits.add_argument(
        "--max-megabytes",
        type=_positive_number,
        default=defaults.max_bytes / MEGABYTE,
        metavar="N",
        help=f"largest file or download, in units of 1024 x 1024 bytes ({defaults.max_bytes / MEGABYTE:g})",
    )
    limits.add_argument(
        "--max-channels",
        type=_positive_int,
        default=defaults.max_channels,
        metavar="N",
        help=f"most channels; more than one are mixed by their mean ({defaults.max_channels})",
    )
    limits.add_argument(
        "--max-sampling-rate",
        type=_positive_int,
        default=defaults.max_sampling_rate,
        metavar="HZ",
        help=f"highest sampling rate, in hertz ({defaults.max_sampling_rate})",
    )
    limits.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let URLs lead to this machine and its own network; off, because a URL may come from a stranger",
    )


def build_limits(arguments: argparse.Namespace) -> AudioLimits:
    """Return the limits that the command line states."""
    return AudioLimits(
        max_seconds=arguments.max_seconds,
        max_bytes=round(arguments.max_megabytes * MEGABYTE),
        max_channels=arguments.max_channels,
        max_sampling_rate=arguments.max_sampling_rate,
        allow_private_addresses=arguments.allow_private_addresses,
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what runs the encoder; the defaults are the exact path."""
    parser.add_argument(
        "--engine", choices=tuple(ENGINES), default="torch", help="what runs the encoder (default: torch)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what the encoder computes in; anything but float32 changes scores, and runs where `apex-music validate` "
        "has measured by how much (default: float32)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the torch path first, which takes minutes; for long runs"
    )


def run(arguments: argparse.Namespace) -> int:
    songs = find_songs(arguments.songs)
    if arguments.output:
        return _score_to_file(songs, arguments)
    reports = []
    for report in score_songs(songs, arguments, return_timeline=arguments.segments):
        reports.append(report)
        if arguments.segments and "error" not in report:
            print(format_report(report) + "\n")
    scored = [report for report in reports if "error" not in report]
    if len(scored) == 1 and not arguments.segments:
        print(format_report(scored[0]))
    elif scored and not arguments.segments:
        print(format_score_table(scored))
    return 1 if len(scored) < len(reports) else 0


def _score_to_file(songs: list[str], arguments: argparse.Namespace) -> int:
    scorer = load_scorer(arguments)
    settings = {
        "weights_sha256": hash_scorer(scorer),
        "dtype": arguments.dtype,
        "engine": arguments.engine,
        "precision": arguments.precision,
        "resampler": arguments.resampler,
        "segments": arguments.segments,
        "embeddings": arguments.embeddings,
        "features": identify_file(arguments.features).sha256 if arguments.features else None,
    }
    with ScoreJournal(arguments.output, settings, overwrite=arguments.overwrite) as journal:
        remaining = journal.list_remaining(songs, rereads=arguments.recheck)
        if num_done := len(songs) - len(remaining):
            print(f"resuming: {num_done} of {len(songs)} songs are already in {journal.path}", file=sys.stderr)
        options = {"return_timeline": arguments.segments, "return_embedding": arguments.embeddings}
        for report in score_songs(remaining, arguments, scorer=scorer, **options):
            journal.add(report)
        journal.finish(songs)
        num_failed = sum("error" in journal.reports[song] for song in songs)
    print(f"{arguments.output}: {len(songs) - num_failed} songs scored, {num_failed} failed", file=sys.stderr)
    return 1 if num_failed else 0


def hash_scorer(scorer: Any) -> str:
    """Hash everything of a model that its scores depend on: the files of its folder, or its commit on the Hub."""
    folder = Path(scorer.model.config._name_or_path)
    names = sorted(path for path in folder.glob("*") if path.suffix in MODEL_SUFFIXES)
    files = {path.name: identify_file(path).sha256 for path in names}
    return hash_json(files or [scorer.model_id, scorer.model_revision])


def load_scorer(arguments: argparse.Namespace) -> Any:
    """Load what scores as the command line says: the quick way where that is possible, else the pipeline."""
    return _load_quick_scorer(arguments) or _load_pipeline(arguments)


def _load_quick_scorer(arguments: argparse.Namespace) -> Any:
    from modeling_apex import loading

    if arguments.revision or arguments.dtype != "float32":
        return None
    if (arguments.engine, arguments.precision, arguments.compile) != ("torch", "float32", False):
        return None
    from modeling_apex.engines.plain_folder import load_quick_scorer

    model = arguments.model or loading.EMBEDDED_MODEL
    return load_quick_scorer(model, device=arguments.device, batch_size=arguments.batch_size)


def _load_pipeline(arguments: argparse.Namespace) -> Any:
    from transformers.utils import logging

    from modeling_apex.loading import load_pipeline

    logging.disable_progress_bar()  # of loading weights; the songs have their own
    options = {name: getattr(arguments, name) for name in ("revision", "device") if getattr(arguments, name)}
    options |= {name: getattr(arguments, name) for name in ("engine", "precision", "compile")}
    scorer = load_pipeline(arguments.model, dtype=arguments.dtype, batch_size=arguments.batch_size, **options)
    if arguments.precision != "float32":
        print(scorer.model.encoder_engine.describe(), file=sys.stderr)
    return scorer


def score_songs(
    songs: list[str], arguments: argparse.Namespace, *, scorer: Any = None, **options: Any
) -> Iterator[dict[str, Any]]:
    """Yield one report a song, with progress on a terminal; what fails goes to stderr too."""
    from tqdm import tqdm

    if not songs:
        return
    features = FeatureTable(arguments.features).find_all(songs) if arguments.features else [None] * len(songs)
    scorer = scorer or load_scorer(arguments)
    inputs = (
        song if row is None else {"id": song, "audio": song, "features": row}
        for song, row in zip(songs, features, strict=True)
    )
    options |= {"resampler": arguments.resampler, "limits": build_limits(arguments), "read_ahead": True}
    reports = scorer(inputs, on_error="report", **options)
    # `disable=None` shows the bar on a terminal only.
    with tqdm(total=len(songs), unit="song", disable=None if len(songs) > 1 else True) as progress:
        for song, report in zip(songs, reports, strict=True):
            report["song"] = song
            progress.update()
            if "error" in report:
                with progress.external_write_mode(sys.stderr):
                    print(f"not scored: {escape_controls(report['error'])}", file=sys.stderr)
            yield report


def format_score_table(reports: list[dict[str, Any]]) -> str:
    """Return one line a song: its scores in native units, popularity also as a percentile."""
    names = list(reports[0]["scores"])
    header = ["song", "length", *names]
    rows = []
    for report in reports:
        cells = []
        for name in names:
            cell = format_score(report["scores"][name], report["ranges"][name][1])
            percentile = report.get("percentiles", {}).get(name)
            cells.append(cell if percentile is None else f"{cell} (p{percentile:.0f})")
        rows.append([str(report["song"]), format_duration(report["duration_seconds"]), *cells])
    notes = [
        escape_controls(f"warning: {report['song']}: {warning}")
        for report in reports
        for warning in report["warnings"]
    ]
    legend = "popularity runs from 0 to 100, (pN) is its percentile; aesthetics run from 1 to 5"
    if "hit_probability" in names:
        legend = "popularity runs from 0 to 100, hit_probability from 0 to 1"
    return "\n".join([format_table(header, rows), legend, *notes])


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value
