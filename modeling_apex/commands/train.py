"""`apex-music train`: train a model on stored embeddings, in a run folder that describes itself."""

import argparse
import sys
from typing import Any

from modeling_apex.commands.training_options import add_label_arguments, add_training_arguments, collect_arguments
from modeling_apex.inference.report_apex import format_count, format_table
from modeling_apex.process_exit import print_lines

HELP = "train a model on embeddings"
DESCRIPTION = (
    "Train trunk and heads on stored embeddings; with --train-encoder, the whole model from audio; with --model-type "
    "spectrogram-fusion, a convolutional network on spectrograms fused with track features. The run folder holds "
    "arguments, metrics, plots, checkpoints, results.json and best/, a model that scores like any other. With "
    "--resume and a larger --num-epochs a run is extended: weights and optimizer carry on under the learning rates of "
    "a run of that length, so the result differs from that of a run which had that length from the start. Several "
    "processes share each batch with the same result: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m "
    "modeling_apex.cli train ..."
)
EXAMPLES = (
    "embeddings/suno --output runs/first --preset improved",
    "embeddings/suno --output runs/first --preset improved --resume",
    "embeddings/suno --output runs/first --preset improved --resume --num-epochs 100",
    "embeddings/suno --output runs/segments --mode segment --loss equal",
    "data/tracks --output runs/fusion --model-type spectrogram-fusion --branches fused",
)
WHEN_INTERRUPTED = "run the same command again with --resume to go on after the last epoch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="EMBEDDINGS",
        help="folder written by apex-music embed; with --train-encoder or --model-type spectrogram-fusion a dataset",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--resume", action="store_true", help="resume the run in that folder")
    add_label_arguments(parser)
    add_training_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.training.processes import close_processes, is_main_process
    from modeling_apex.training.train import train

    result = train(
        arguments.data,
        arguments.output,
        collect_arguments(arguments),
        model=arguments.model,
        songs=arguments.songs,
        rereads=arguments.recheck,
        resume=arguments.resume,
        show_progress=sys.stderr.isatty(),
    )
    if is_main_process():
        print_lines(format_results(result.results))
        print_lines(f"model: {result.best}")
    close_processes()
    return 0


def format_results(results: dict[str, Any]) -> str:
    """Return what a run came to as text: its scores of the validation songs beside the constants, and its findings."""
    rows = []
    for name, head in results["validation"].items():
        baselines = head["baselines"]
        values = [head["mse"], baselines["mean"]["mse"], head["mae"], baselines["median"]["mae"]]
        values += [head["pearson"], head["spearman"]]
        rows.append([name, *("-" if value is None else f"{value:.3f}" for value in values)])
    header = ["score (validation)", "MSE", "of the mean", "MAE", "of the median", "Pearson", "Spearman"]
    summary = (
        f"best epoch {results['best_epoch']} of {results['num_epochs']} (counted from 0)"
        f"{', ended by --patience' if results['ended_by'] == 'patience' else ''}; "
        f"{format_count(results['steps_per_epoch'], 'step')} an epoch at batch size {results['batch_size']}"
    )
    return "\n".join([format_table(header, rows), summary, *(f"note: {words}" for words in results["findings"])])
