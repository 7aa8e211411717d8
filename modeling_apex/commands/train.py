"""`apex-music train`: stored embeddings to a trained model, in a run folder that describes itself."""

import argparse
import sys
from typing import Any

from modeling_apex.commands.training_options import add_label_arguments, add_training_arguments, collect_arguments
from modeling_apex.inference.report_apex import format_table
from modeling_apex.process_exit import print_lines

HELP = "embeddings to a trained model"
DESCRIPTION = (
    "Train trunk and heads on stored embeddings; with --train-encoder, the whole model from audio; with --model-type "
    "spectrogram-fusion, a convolutional network on spectrograms fused with track features. The run folder holds "
    "arguments, metrics, plots, checkpoints and best/, a model that scores like any other. Several processes share "
    "each batch with the same result: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m modeling_apex.cli train "
    "..."
)
EXAMPLES = (
    "embeddings/suno --output runs/first --preset improved",
    "embeddings/suno --output runs/first --preset improved --resume",
    "embeddings/suno --output runs/segments --mode segment --loss equal",
    "data/tracks --output runs/fusion --model-type spectrogram-fusion --branches fused",
)
WHEN_INTERRUPTED = "with --resume the same command goes on after the last epoch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="EMBEDDINGS",
        help="folder of apex-music embed; with --train-encoder or --model-type spectrogram-fusion a dataset",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run that lies there")
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
        print_lines(format_epoch(result.history[result.best_epoch]))
        print_lines(f"best epoch {result.best_epoch} of {result.num_epochs}; model: {result.best}")
    close_processes()
    return 0


def format_epoch(entry: dict[str, Any]) -> str:
    """Return the validation metrics of one epoch as a table."""
    rows = [
        [name, *(f"{metrics[metric]:.3f}" for metric in ("mse", "mae", "pearson", "spearman"))]
        for name, metrics in entry["validation"].items()
    ]
    return format_table(["score (validation)", "MSE", "MAE", "Pearson", "Spearman"], rows)
