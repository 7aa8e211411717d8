"""`apex-music train`: stored embeddings to a trained model, in a run folder that describes itself."""

import argparse
import sys
import types
import typing
from dataclasses import fields
from typing import Any

from modeling_apex.inference.report_apex import format_table


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="embeddings to a trained model",
        description="Train trunk and heads on stored embeddings; with --train-encoder, the whole model from audio; "
        "with --model-type spectrogram-fusion, a convolutional network on spectrograms fused with track features. "
        "The run folder holds arguments, metrics, plots, checkpoints and best/, a model that scores like any other. "
        "Several processes share each batch with the same result: ACCELERATE_USE_CPU=true torchrun --nproc_per_node "
        "2 -m modeling_apex.cli train ...",
        epilog="examples:\n"
        "  apex-music train embeddings/suno --output runs/first --preset improved\n"
        "  apex-music train embeddings/suno --output runs/first --preset improved --resume\n"
        "  apex-music train embeddings/suno --output runs/segments --mode segment --loss equal\n"
        "  apex-music train data/tracks --output runs/fusion --model-type spectrogram-fusion --branches fused",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "data",
        metavar="EMBEDDINGS",
        help="folder of apex-music embed; with --train-encoder or --model-type spectrogram-fusion a dataset",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run that lies there")
    add_training_arguments(parser)
    parser.set_defaults(run=run, when_interrupted="with --resume the same command goes on after the last epoch")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, the preset, and one option a training argument."""
    from modeling_apex.training.arguments import CHOICES, PRESETS, ApexTrainingArguments

    parser.add_argument(
        "--model", metavar="M", help="the model whose encoder made the embeddings (default: what their manifest names)"
    )
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        help="published (default), improved, or fusion (default with --model-type spectrogram-fusion)",
    )
    parser.add_argument("--arguments", metavar="JSON", help="file of differences from the preset")
    group = parser.add_argument_group("training arguments (defaults: those of the preset)")
    kinds = typing.get_type_hints(ApexTrainingArguments)
    for option in fields(ApexTrainingArguments):
        flag = "--" + option.name.replace("_", "-")
        kind = kinds[option.name]
        if isinstance(kind, types.UnionType):
            kind = next(choice for choice in typing.get_args(kind) if choice is not type(None))
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": option.metadata["help"]}
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
        elif option.name in CHOICES:
            group.add_argument(flag, type=kind, choices=CHOICES[option.name], **settings)
        else:
            group.add_argument(flag, type=kind, metavar=kind.__name__[0].upper(), **settings)


def collect_arguments(arguments: argparse.Namespace) -> Any:
    """Build the training arguments: preset, then the JSON file, then what the command line says."""
    from modeling_apex.training.arguments import (
        DEFAULT_PRESETS,
        ApexTrainingArguments,
        build_arguments,
        load_differences,
    )

    differences = load_differences(arguments.arguments) if arguments.arguments else {}
    given = vars(arguments)
    model_type = given.get("model_type") or differences.get("model_type") or "apex"
    preset = arguments.preset or differences.get("preset") or DEFAULT_PRESETS.get(model_type, "published")
    differences.pop("preset", None)
    differences |= {
        option.name: given[option.name] for option in fields(ApexTrainingArguments) if option.name in given
    }
    return build_arguments(preset, **differences)


def run(arguments: argparse.Namespace) -> int:
    from transformers.utils import logging

    from modeling_apex.commands.embed import is_main_process
    from modeling_apex.training.train import close_processes, train_heads

    logging.disable_progress_bar()  # of loading weights; the work has its own
    settings = collect_arguments(arguments)
    options: dict[str, Any] = {
        "resume": arguments.resume,
        "show_progress": sys.stderr.isatty(),
        "model": arguments.model,
    }
    if settings.model_type == "spectrogram-fusion":
        from modeling_apex.training.fusion.task import train_fusion

        if options.pop("model") is not None:
            raise ValueError("--model names the encoder of an APEX model; a spectrogram-fusion model starts anew.")
        result = train_fusion(arguments.data, arguments.output, settings, **options)
    elif settings.train_encoder:
        from modeling_apex.training.encoder.task import train_end_to_end

        if arguments.model is None:
            raise ValueError("--train-encoder needs --model: where the encoder starts from.")
        result = train_end_to_end(arguments.data, arguments.output, settings, **options)
    else:
        result = train_heads(arguments.data, arguments.output, settings, **options)
    if is_main_process():
        print(format_epoch(result.history[result.best_epoch]))
        print(f"best epoch {result.best_epoch} of {result.num_epochs}; model: {result.best}")
    close_processes()
    return 0


def format_epoch(entry: dict[str, Any]) -> str:
    """Return the validation metrics of one epoch as a table."""
    rows = [
        [name, *(f"{metrics[metric]:.3f}" for metric in ("mse", "mae", "pearson", "spearman"))]
        for name, metrics in entry["validation"].items()
    ]
    return format_table(["score (validation)", "MSE", "MAE", "Pearson", "Spearman"], rows)
