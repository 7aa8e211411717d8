"""
The trunk and all heads' branches as one grouped computation, for training on stored embeddings.

What comes in are embeddings `(B, D)`; what leaves are scores `(B, H)`, equal to `ApexModel.compute_scores`. The
branches have one shape, so their weights are stacked and each layer of all heads is one product instead of one a head.
Weights come from an [`ApexModel`] and go back into one, under the names that checkpoints have.

Nothing here depends on how many processes share a batch: batch norm sees the whole batch through a sum over
processes, and dropout masks are drawn for the whole batch from a seed that the caller gives for each step, of which
each process takes its own rows. So two processes train as one does, and a resumed run as an uninterrupted one.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.training.processes import is_distributed

# Names of a LinearBlock's tensors in a checkpoint, and of the stacked ones here.
BLOCK_TENSORS = {
    "weight": "block.0.weight",
    "bias": "block.0.bias",
    "scale": "block.1.weight",
    "shift": "block.1.bias",
    "running_mean": "block.1.running_mean",
    "running_variance": "block.1.running_var",
    "num_batches_tracked": "block.1.num_batches_tracked",
}
BATCH_NORM_EPSILON = 1e-5  # PyTorch's defaults, which the published heads were trained with
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class BatchShare:
    """Say which rows of a batch this process holds, and where the batch's randomness comes from."""

    seed: int  # of the dropout masks of this step, equal in all processes
    num_rows: int  # of the whole batch
    start: int = 0  # first row that this process holds


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; gradients are summed likewise."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = _SumOverProcesses.apply(gradient)
        return total


class GroupedBlock(nn.Module):
    """Linear, batch norm, GELU, dropout, for one or several groups at once; one group is the trunk's block."""

    running_mean: torch.Tensor
    running_variance: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, num_groups: int, num_inputs: int, num_outputs: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(num_groups, num_outputs, num_inputs))
        # Batch norm subtracts this bias again, so its true gradient is zero, and what training would add to it is
        # rounding noise, blown up by Adam to full steps: it stays as it starts.
        self.bias = nn.Parameter(torch.empty(num_groups, num_outputs), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(num_groups, num_outputs))
        self.shift = nn.Parameter(torch.zeros(num_groups, num_outputs))
        self.register_buffer("running_mean", torch.zeros(num_groups, num_outputs))
        self.register_buffer("running_variance", torch.ones(num_groups, num_outputs))
        self.register_buffer("num_batches_tracked", torch.zeros(num_groups, dtype=torch.long))

    def forward(
        self, inputs: torch.Tensor, share: BatchShare | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        """
        Apply the block.

        Args:
            inputs (`torch.FloatTensor` of shape `(B, C)` or `(G, B, C)`):
                One input for all groups, or one each.
            share ([`BatchShare`], *optional*), generator (`torch.Generator`, *optional*):
                Which rows of the batch these are, and the source of dropout masks; needed in training.

        Returns:
            `torch.FloatTensor` of shape `(B, G * C')`: the groups side by side.
        """
        num_groups, num_outputs, num_inputs = self.weight.shape
        if inputs.ndim == 2:
            hidden = F.linear(inputs, self.weight.reshape(-1, num_inputs), self.bias.reshape(-1))  # (B, G * C')
        else:
            product = torch.baddbmm(self.bias.unsqueeze(1), inputs, self.weight.transpose(1, 2))  # (G, B, C')
            hidden = product.transpose(0, 1).reshape(-1, num_groups * num_outputs)  # (B, G * C')
        hidden = F.gelu(self._normalize(hidden.to(self.scale.dtype), share))
        if self.training and self.dropout > 0:
            assert share is not None
            assert generator is not None
            hidden.mul_(self._draw_mask(hidden, share, generator))  # in place: GELU needs only its input again
        return hidden

    def _normalize(self, hidden: torch.Tensor, share: BatchShare | None) -> torch.Tensor:
        mean, variance = self.running_mean.view(-1), self.running_variance.view(-1)
        scale, shift = self.scale.reshape(-1), self.shift.reshape(-1)
        if not (self.training and is_distributed()):
            if self.training:
                self.num_batches_tracked += 1
            return F.batch_norm(
                hidden, mean, variance, scale, shift, self.training, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON
            )
        assert share is not None
        batch_mean = _SumOverProcesses.apply(hidden.sum(0)) / share.num_rows
        centered = hidden - batch_mean
        batch_variance = _SumOverProcesses.apply(centered.square().sum(0)) / share.num_rows
        with torch.no_grad():
            self.num_batches_tracked += 1
            mean.lerp_(batch_mean, BATCH_NORM_MOMENTUM)
            variance.lerp_(batch_variance * (share.num_rows / (share.num_rows - 1)), BATCH_NORM_MOMENTUM)
        return centered * torch.rsqrt(batch_variance + BATCH_NORM_EPSILON) * scale + shift

    def _draw_mask(self, hidden: torch.Tensor, share: BatchShare, generator: torch.Generator) -> torch.Tensor:
        # One random word decides for four values, 16 bits each: several times faster than a number for each, and a
        # probability is still met to 1 / 65536.
        num_values = share.num_rows * hidden.shape[1]
        words = torch.empty(-(-num_values // 4), dtype=torch.int64, device=generator.device)
        words.random_(-(2**63), None, generator=generator)
        parts = words.view(torch.int16)[:num_values].view(share.num_rows, -1)[share.start : share.start + len(hidden)]
        num_dropped = round(self.dropout * 2**16)
        factor = 2**16 / (2**16 - num_dropped)
        if hidden.is_cuda:
            return (parts >= num_dropped - 2**15).to(hidden.device, hidden.dtype).mul_(factor)
        # On a CPU, NumPy compares 16-bit numbers ten times as fast as torch does.
        mask = torch.empty_like(hidden)
        values = mask.numpy()
        np.multiply(parts.numpy() >= num_dropped - 2**15, values.dtype.type(factor), out=values)
        return mask


class GroupedHeads(nn.Module):
    """Trunk and heads of an [`ApexConfig`], which says widths, dropouts and heads, with all branches stacked."""

    minimum: torch.Tensor
    span: torch.Tensor

    def __init__(self, config: ApexConfig):
        super().__init__()
        self.head_names = list(config.head_names)
        widths = [config.hidden_size, *config.shared_dims]
        self.shared = nn.ModuleList(
            GroupedBlock(1, before, after, config.dropout_shared) for before, after in itertools.pairwise(widths)
        )
        sizes = [widths[-1], *config.branch_dims]
        self.branches = nn.ModuleList(
            GroupedBlock(len(self.head_names), before, after, config.dropout_branch)
            for before, after in itertools.pairwise(sizes)
        )
        self.output_weight = nn.Parameter(torch.empty(len(self.head_names), sizes[-1]))
        self.output_bias = nn.Parameter(torch.empty(len(self.head_names)))
        minimum = torch.tensor([head["minimum"] for head in config.heads])
        maximum = torch.tensor([head["maximum"] for head in config.heads])
        self.register_buffer("minimum", minimum, persistent=False)
        self.register_buffer("span", maximum - minimum, persistent=False)

    @classmethod
    def from_model(cls, model: Any) -> "GroupedHeads":
        """Build grouped heads with the weights of an [`ApexModel`]."""
        heads = cls(model.config)
        heads.load_named_tensors(dict(model.state_dict()))
        return heads.train(model.training)

    def forward(self, embeddings: torch.Tensor, share: BatchShare | None = None) -> torch.Tensor:
        """
        Score embeddings.

        Args:
            embeddings (`torch.FloatTensor` of shape `(num_rows, hidden_size)`):
                Song or segment embeddings; in training, this process's rows of the batch.
            share ([`BatchShare`], *optional*):
                Which rows of the batch these are. Needed in training mode.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, num_heads)`: scores in native units.

        Raises:
            `ValueError`: If `share` is missing in training mode.
        """
        generator = None
        if self.training:
            if share is None:
                raise ValueError("in training mode, pass `share`: it carries the seed of the dropout masks.")
            # Not every kind of device draws 64-bit words.
            generator = torch.Generator("cuda" if embeddings.is_cuda else "cpu").manual_seed(share.seed)
        hidden = embeddings  # (B, D)
        for block in self.shared:
            hidden = block(hidden, share, generator)  # (B, C)
        num_heads = len(self.head_names)
        for position, block in enumerate(self.branches):
            if position:
                hidden = hidden.view(len(hidden), num_heads, -1).transpose(0, 1)  # (H, B, C)
            hidden = block(hidden, share, generator)  # (B, H * C')
        hidden = hidden.view(len(hidden), num_heads, -1)  # (B, H, C')
        logits = (hidden * self.output_weight).sum(-1) + self.output_bias  # (B, H)
        return torch.sigmoid(logits) * self.span + self.minimum

    def _iterate_named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor under its name in a checkpoint, as a view into the stacked one."""
        for position, block in enumerate(self.shared):
            for own, published in BLOCK_TENSORS.items():
                yield f"shared.{position}.{published}", getattr(block, own)[0]
        for index, head in enumerate(self.head_names):
            for position, block in enumerate(self.branches):
                for own, published in BLOCK_TENSORS.items():
                    yield f"branch_{head}.branch.{position}.{published}", getattr(block, own)[index]
            last = f"branch_{head}.branch.{len(self.branches)}"
            yield f"{last}.weight", self.output_weight[index : index + 1]
            yield f"{last}.bias", self.output_bias[index : index + 1]

    def build_named_tensors(self) -> dict[str, torch.Tensor]:
        """Return copies of all weights under the names that checkpoints have."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._iterate_named_tensors()}

    @torch.no_grad()
    def load_named_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take weights by the names that checkpoints have; others are left aside."""
        for name, tensor in self._iterate_named_tensors():
            tensor.copy_(tensors[name])
