"""
The personal head as a head like any other: a linear taste written into a branch of an `ApexModel`.

What comes in are a model and the weights of its trunk's output; what leaves is a model with one more head, whose other
scores are what they were. A branch is made of blocks that bend what they are given; two units of a block, one of them
upside down, hand a number on as it is, because GELU(x) - GELU(-x) = x.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.inference.score_heads_apex import ScoreBranch

PERSONAL = "personal"


def describe_head(name: str, minimum: float, maximum: float, *, is_of_pairs: bool) -> dict[str, Any]:
    """Describe a personal head as `config.heads` does: a rating, or the chance to win against an average song."""
    scale = "probability" if is_of_pairs else "rating"
    return {"name": name, "minimum": minimum, "maximum": maximum, "group": PERSONAL, "scale": scale}


def compute_slope(head: Mapping[str, Any]) -> tuple[float, float]:
    """
    Return factor and offset that turn a strength into the logit of the head's range.

    Votes have logits already. A rating keeps its unit in the middle of the range, and bends towards its ends.
    """
    if head["scale"] == "probability":
        return 1.0, 0.0
    slope = 4.0 / (head["maximum"] - head["minimum"])
    return slope, -slope * (head["minimum"] + head["maximum"]) / 2


def build_personal_model(
    base: ApexModel, head: Mapping[str, Any], weights: Any, offset: float, **fields: Any
) -> ApexModel:
    """
    Build a model with one head more.

    Args:
        base ([`ApexModel`]): The model, in float32.
        head (`Mapping`): From [`describe_head`].
        weights (array of shape `(trunk_width,)`), offset (`float`): A song's strength by the trunk's output.
        fields: Fields of the config that change with it.

    Returns:
        [`ApexModel`]: in evaluation mode.

    Raises:
        `ValueError`: If the model has such a head already, or branches too narrow to hand a number on.
    """
    check_base(base.config, head["name"])
    described = base.config.to_dict() | {"heads": [*base.config.heads, dict(head)], **fields}
    model = ApexModel(ApexConfig.from_dict(described)).eval()
    model.load_state_dict(base.state_dict(), strict=False)
    slope, shift = compute_slope(head)
    strength = torch.as_tensor(weights, dtype=torch.float32) * slope
    _write_branch(getattr(model, f"branch_{head['name']}"), strength, offset * slope + shift)
    return model


def check_base(config: Any, name: str) -> None:
    """Raise a `ValueError` if a model of this config cannot carry a personal head of this name."""
    if not name.isidentifier():
        raise ValueError(f"--head {name!r}: the name of a score must be a plain word, such as {PERSONAL}.")
    if name in config.head_names:
        raise ValueError(f"the model has a score {name!r} already. Name the new one by --head, or a model without it.")
    if config.prediction_level != "song":
        raise ValueError(
            f"the model scores each {config.prediction_level} on its own, and a taste is fitted to whole songs. Name "
            "a model whose prediction_level is 'song'."
        )
    if any(width < 2 for width in config.branch_dims):
        raise ValueError(
            f"the model's branches are {min(config.branch_dims)} wide at their narrowest, and a personal head takes "
            "2. Choose another model."
        )


@torch.no_grad()
def _write_branch(branch: ScoreBranch, weights: torch.Tensor, offset: float) -> None:
    blocks: Any
    last: Any
    *blocks, last = branch.branch
    row = weights
    for number, module in enumerate(blocks):
        linear, norm = module.block[0], module.block[1]
        for parameter in (linear.weight, linear.bias, norm.bias, norm.running_mean):
            parameter.zero_()
        norm.running_var.fill_(1.0)
        norm.weight.fill_(math.sqrt(1.0 + norm.eps))  # which undoes the norm
        if number:
            row = linear.weight.new_zeros(linear.in_features)
            row[0], row[1] = 1.0, -1.0
        linear.weight[0], linear.weight[1] = row, -row
    if blocks:
        row = last.weight.new_zeros(last.in_features)
        row[0], row[1] = 1.0, -1.0
    last.weight[0] = row
    last.bias.fill_(offset)
