"""
The loss of several scores at once: one mean squared error a score, over the labels that are there, and three ways to
add them up (arXiv 2605.03395): equally, with popularity weighted, or by learned uncertainties.
"""

from collections.abc import Sequence

import torch
from torch import nn

from modeling_apex.training.arguments import LOSSES


def compute_squared_error_sums(
    scores: torch.Tensor, labels: torch.Tensor, spreads: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Sum the squared errors of each head over the labels that are there.

    Args:
        scores, labels (`torch.FloatTensor` of shape `(num_rows, num_heads)`):
            In native units; labels are NaN where one is missing.
        spreads (`torch.FloatTensor` of shape `(num_heads,)`, *optional*):
            Unit of each head's errors, in native units. Defaults to ones.

    Returns:
        `torch.FloatTensor` of shape `(num_heads,)`.
    """
    is_present = ~torch.isnan(labels)
    errors = scores - labels.nan_to_num()
    return torch.where(is_present, errors if spreads is None else errors / spreads, 0.0).square().sum(0)


class MultiTaskLoss(nn.Module):
    """
    Add up the mean squared errors of several heads.

    Args:
        kind (`str`):
            `"equal"`: their sum. `"weighted"`: popularity counts `popularity_weight` times. `"uncertainty"`:
            `error / (2 sigma ** 2) + log sigma` each, with learned sigmas.
        groups (`Sequence[str]`):
            Group of each head, `"popularity"` or `"aesthetics"`.
        popularity_weight (`float`, defaults to 5.0):
            Weight of popularity in `"weighted"`.
        label_variances (`Sequence[float]`, *optional*):
            Variance of each head's training labels; errors are divided by it, so that a head counts by how well it
            does and not by the size of its units. Defaults to ones: errors in squared native units, as published.

    Raises:
        `ValueError`: If `kind` is unknown.
    """

    weights: torch.Tensor
    variances: torch.Tensor

    def __init__(
        self,
        kind: str,
        groups: Sequence[str],
        *,
        popularity_weight: float = 5.0,
        label_variances: Sequence[float] | None = None,
    ):
        super().__init__()
        if kind not in LOSSES:
            raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}, got {kind!r}.")
        is_weighted = kind == "weighted"
        weights = [popularity_weight if is_weighted and group == "popularity" else 1.0 for group in groups]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        variances = [1.0] * len(groups) if label_variances is None else list(label_variances)
        self.register_buffer("variances", torch.tensor(variances, dtype=torch.float32), persistent=False)
        self.log_sigmas = nn.Parameter(torch.zeros(len(groups))) if kind == "uncertainty" else None

    def forward(self, errors: torch.Tensor, is_present: torch.Tensor) -> torch.Tensor:
        """
        Compute the loss.

        Args:
            errors (`torch.FloatTensor` of shape `(num_heads,)`):
                Mean squared error of each head, in squared native units.
            is_present (`torch.BoolTensor` of shape `(num_heads,)`):
                Whether a head has any label here; one without takes no part, its sigma included.

        Returns:
            `torch.FloatTensor` of shape `()`.
        """
        terms = errors / self.variances * self.weights
        if self.log_sigmas is not None:
            terms = terms * torch.exp(-2 * self.log_sigmas) / 2 + self.log_sigmas
        return torch.where(is_present, terms, 0.0).sum()
