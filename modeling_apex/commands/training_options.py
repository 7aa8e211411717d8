"""The options that commands of training share: the model, the preset, where labels come from, and every argument."""

import argparse
from dataclasses import fields
from typing import Any

from modeling_apex.training.arguments import (
    DEFAULT_PRESETS,
    PRESETS,
    ApexTrainingArguments,
    build_arguments,
    get_kind,
    load_differences,
)


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where labels come from, and whether to trust that files look unchanged."""
    parser.add_argument(
        "--songs", metavar="DATASET", help="where labels come from (default: the dataset that the embeddings name)"
    )
    parser.add_argument(
        "--recheck", action="store_true", help="read every source file again, whatever its size and times say"
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, the preset, and one option a training argument, in the groups that these have."""
    parser.add_argument(
        "--model",
        metavar="M",
        help="the model whose encoder made the embeddings (default: what their manifest names); with --train-encoder, "
        "what is trained on: an APEX model, or an encoder alone (default: m-a-p/MERT-v1-95M)",
    )
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        help="what the options below default to: published, improved, or fusion (default: published; with "
        "--model-type spectrogram-fusion, fusion)",
    )
    parser.add_argument("--arguments", metavar="JSON", help="file of differences from the preset")
    groups: dict[str, Any] = {}
    for option in fields(ApexTrainingArguments):
        title, choices, kind = option.metadata["group"], option.metadata["choices"], get_kind(option)
        group = groups[title] = groups.get(title) or parser.add_argument_group(title)
        flag = "--" + option.name.replace("_", "-")
        if kind is bool:
            values: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            values = {"type": kind} | ({"choices": choices} if choices else {"metavar": kind.__name__[0].upper()})
        group.add_argument(flag, default=argparse.SUPPRESS, help=option.metadata["help"], **values)


def collect_arguments(arguments: argparse.Namespace) -> Any:
    """Build the training arguments: preset, then the JSON file, then what the command line says."""
    differences = load_differences(arguments.arguments) if arguments.arguments else {}
    given = vars(arguments)
    model_type = given.get("model_type") or differences.get("model_type") or "apex"
    preset = arguments.preset or differences.get("preset") or DEFAULT_PRESETS.get(model_type, "published")
    differences.pop("preset", None)
    differences |= {
        option.name: given[option.name] for option in fields(ApexTrainingArguments) if option.name in given
    }
    return build_arguments(preset, **differences)
