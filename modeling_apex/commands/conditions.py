"""`apex-music conditions`: the 24 published conditions, trained and evaluated, beside the paper's numbers."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from modeling_apex.commands.training_options import add_label_arguments, add_training_arguments, collect_arguments
from modeling_apex.process_exit import print_lines

HELP = "train and evaluate the 24 published conditions"
DESCRIPTION = (
    "Run mode x task x loss x trunk depth (arXiv 2605.03395), each in its own run folder, choose the best on the "
    "validation songs, evaluate it on the test songs once, and print our results beside the published ones. "
    "conditions.png shows the scores that the choice was made by. The same command resumes an interrupted run."
)
EXAMPLES = (
    "embeddings/suno --output runs/conditions",
    "embeddings/suno --output runs/two --only song-full-uncertainty-2 song-full-equal-2",
)
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("embeddings", metavar="EMBEDDINGS", help="folder written by apex-music embed")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the runs and results.json")
    parser.add_argument("--only", nargs="+", metavar="C", help="conditions such as song-full-uncertainty-2")
    parser.add_argument(
        "--split", default="test", metavar="S", help="split to evaluate the chosen condition on (default: test)"
    )
    add_label_arguments(parser)
    add_training_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.storage.output_folder import save_json
    from modeling_apex.storage.output_lock import OutputLock
    from modeling_apex.training.conditions import format_conditions, run_conditions, save_conditions_plot
    from modeling_apex.training.processes import build_accelerator, close_processes, is_main_process

    settings = collect_arguments(arguments)
    build_accelerator(settings, arguments.output)  # starts the processes, so that one of them can hold the output
    with ExitStack() as stack:
        if is_main_process():
            stack.enter_context(OutputLock(arguments.output))
        results = run_conditions(
            arguments.embeddings,
            arguments.output,
            settings,
            model=arguments.model,
            songs=arguments.songs,
            rereads=arguments.recheck,
            only=arguments.only,
            split=arguments.split,
            show_progress=sys.stderr.isatty(),
        )
        if is_main_process():
            print_lines(format_conditions(results))
            print_lines(f"\nmodel: {Path(arguments.output) / results['chosen'] / 'best'}")
            save_json(Path(arguments.output) / "results.json", results)
            save_conditions_plot(results, Path(arguments.output) / "conditions.png")
    close_processes()
    return 0
