"""`apex-music embed`: a dataset or a folder of audio to stored embeddings."""

import argparse
import sys

from modeling_apex.commands.options import (
    DTYPES,
    RESAMPLERS,
    add_engine_arguments,
    add_limit_arguments,
    build_limits,
    positive_int,
)
from modeling_apex.inference.report_apex import escape_controls, format_count
from modeling_apex.process_exit import print_lines

HELP = "store the segment embeddings of songs, for training"
DESCRIPTION = (
    "Decode and encode every song once, by the classes that also score. The same command resumes an interrupted run, "
    "even a killed one; if audio has changed, it embeds the affected shards again. Labels are not stored: training "
    "reads them from the dataset. A broken song is listed in failures.jsonl with its reason; the exit status is then "
    "1. Several processes share the work: torchrun --nproc_per_node 8 -m modeling_apex.cli embed ..."
)
EXAMPLES = (
    "datasets/synthetic --output embeddings/synthetic",
    "datasets/suno --model apex-95m --dtype bfloat16 --decoders 8 --output embeddings/suno",
)
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATASET", help="dataset folder, folder of audio, or Hub dataset id")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for shards and manifest")
    parser.add_argument("--model", metavar="M", help="folder or Hub id (default: the embedded demonstration model)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the encoder")
    add_engine_arguments(parser)
    parser.add_argument("--resampler", choices=RESAMPLERS, default="sinc", help="as for score (default: sinc)")
    for name, default, words in (
        ("--batch-size", None, "segments per batch (default: chosen automatically)"),
        ("--decoders", 1, "threads that decode (default: 1)"),
        ("--songs-per-shard", 256, "songs per shard, the most that a killed process loses (default: 256)"),
    ):
        parser.add_argument(name, type=positive_int, default=default, metavar="N", help=words)
    parser.add_argument("--retry-failures", action="store_true", help="retry songs that failed before")
    parser.add_argument(
        "--recheck",
        action="store_true",
        help="read every file again to see whether its audio changed, whatever its size and times say, and fetch "
        "songs from URLs again",
    )
    add_limit_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.corpus.embed import FAILURES_NAME, embed_songs
    from modeling_apex.model_names import find_model
    from modeling_apex.training.processes import close_processes, is_main_process

    names = ("dtype", "engine", "precision", "compile", "resampler", "songs_per_shard", "batch_size", "retry_failures")
    summary = embed_songs(
        arguments.source,
        arguments.output,
        find_model(arguments.model),
        limits=build_limits(arguments),
        num_decoders=arguments.decoders,
        rereads=arguments.recheck,
        show_progress=sys.stderr.isatty(),
        **{name: getattr(arguments, name) for name in names},
    )
    num_failed = len(summary.failures)
    if is_main_process():
        songs, segments = format_count(summary.num_songs, "song"), format_count(summary.num_segments, "segment")
        print_lines(escape_controls(f"{summary.folder}: {songs}, {segments}, {num_failed} failed"))
        if num_failed:
            print_lines(escape_controls(f"why they failed: {summary.folder / FAILURES_NAME}"), file=sys.stderr)
    close_processes()
    return 1 if num_failed else 0
