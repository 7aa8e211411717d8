"""
The model that a run trains: from the one whose encoder it uses, to what its scores of the training songs are.

A run keeps the encoder of a base model and trains trunk and heads that its arguments describe; afterwards the model
knows the quantiles of its own scores, so that a report can say what a song is better than.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.checkpoints.reference_checks import NUM_QUANTILES
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.loading import load_apex_model
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.batches import seeded


def load_base_model(model: str | os.PathLike | ApexModel) -> ApexModel:
    """Load a model in float32, whatever precision it is stored in; a loaded one stays as it is."""
    return load_apex_model(model) if isinstance(model, (str, os.PathLike)) else model


def build_training_config(config: ApexConfig, arguments: ApexTrainingArguments) -> ApexConfig:
    """
    Build the config of the model that a run will train, from that of the model whose encoder it uses.

    A trunk of three layers is one of two with a layer of their mean width between them, as published (512, 384, 256).

    Raises:
        `ValueError`: If the task leaves no head.
    """
    described = config.to_dict()
    heads = [head for head in config.heads if arguments.task == "full" or head["group"] == "popularity"]
    if not heads:
        raise ValueError("the task `popularity` leaves no head: the model has no head of the group popularity.")
    first, last = config.shared_dims[0], config.shared_dims[-1]
    described |= {
        "heads": heads,
        "shared_dims": [first, last] if arguments.num_shared_layers == 2 else [first, (first + last) // 2, last],
        "prediction_level": arguments.mode,
        "tail": arguments.tail,
        "freeze_encoder": not arguments.train_encoder,
        "percentile_tables": {},
        "reference": {},
    }
    return ApexConfig.from_dict(described)


def build_trained_model(base: ApexModel, arguments: ApexTrainingArguments) -> ApexModel:
    """Build the model that a run trains: the encoder of `base`, and heads that start as the arguments say."""
    config = build_training_config(base.config, arguments)
    with seeded(arguments.seed):
        model = ApexModel(config)
    tensors = base.state_dict()
    if arguments.initial_heads == "new":
        tensors = {name: value for name, value in tensors.items() if name.startswith(("encoder.", "aggregator."))}
    expected = model.state_dict()
    kept = {name: value for name, value in tensors.items() if name in expected}
    misshapen = [name for name, value in kept.items() if value.shape != expected[name].shape]
    absent = [name for name in expected if name not in kept]
    if misshapen or (arguments.initial_heads == "model" and absent):
        raise ValueError(
            f"initial_heads='model' needs a model with the heads and trunk that are trained; it differs in "
            f"{', '.join((misshapen + absent)[:3])}. Set num_shared_layers to its depth, or initial_heads='new'."
        )
    model.load_state_dict(kept, strict=False)
    return model


def describe_trained_model(
    config: Any,
    run_name: str,
    arguments: ApexTrainingArguments,
    data: Mapping[str, Any],
    schedules: Sequence[Mapping[str, int]] = (),
) -> dict[str, Any]:
    """
    Build the `provenance` of a trained model: it has a name of its own, and of its base only what is still in it.

    Args:
        config ([`ApexConfig`] or [`SpectrogramFusionConfig`]):
            The config, whose `provenance` is that of the model that the run started from.
        run_name (`str`):
            Name of the run folder.
        arguments ([`ApexTrainingArguments`]), data (`Mapping`):
            How it was trained, and on what.
        schedules (`Sequence[dict]`):
            As [`RunFolder.load_schedules`] reads them; noted where the run was extended, for it then repeats no other.
    """
    base = config.provenance
    name = "".join(letter for letter in run_name if letter.isprintable()) or "trained"
    described: dict[str, Any] = {"name": f"{name}-trained" if name == EMBEDDED_MODEL.name else name}
    if base.get("name"):
        described["base"] = {"source": base["name"]}
    kept = {"encoder": arguments.train_encoder}
    if arguments.initial_heads == "model":
        kept["heads"] = True
    for part, is_trained in kept.items():
        source = base.get(part) or described.get("base")
        if source is not None:
            described[part] = {**source, "is_trained": True} if is_trained else dict(source)
    extended = {"schedules": [dict(schedule) for schedule in schedules]} if len(schedules) > 1 else {}
    return {**described, "training": {"arguments": asdict(arguments), "data": dict(data), **extended}}


def build_percentile_tables(scores: NDArray[np.float32], head_names: Sequence[str]) -> dict[str, list[float]]:
    """
    Build what `config.percentile_tables` holds: 101 ascending quantiles of each score.

    Args:
        scores (`np.ndarray` of shape `(num_songs, num_heads)`), head_names (`Sequence[str]`):
            The model's scores of its training songs, and the names of their columns.
    """
    quantiles = np.quantile(scores.astype(np.float64), np.linspace(0, 1, NUM_QUANTILES), axis=0)
    # Interpolation rounds: two equal quantiles may come out a last digit apart, in the wrong order.
    quantiles = np.maximum.accumulate(quantiles, axis=0)
    return {name: quantiles[:, column].tolist() for column, name in enumerate(head_names)}
