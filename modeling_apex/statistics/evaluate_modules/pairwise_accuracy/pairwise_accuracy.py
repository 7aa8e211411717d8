"""
Pairwise accuracy with ties, as an `evaluate` metric: `evaluate.load("<this folder>")`.

What comes in are margins of A over B and human votes; what leaves are shares of votes that the margins predicted.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from modeling_apex.statistics.pair_metrics import compute_accuracy, read_votes  # From: apex-music

_DESCRIPTION = """
How often the predicted winner of a battle is the one that people voted for.

- `accuracy`: over votes for A or B. A predicted tie counts as half.
- `accuracy_with_ties`: over votes for A, B or a tie. A tie must be predicted as a tie, which happens when the
  margin is not larger than `tie_margin`.
- Votes that both songs were bad compare nothing: they are counted in `num_both_bad` and left out.
"""
_INPUTS = """
predictions (`list[float]`): margin of A over B; above zero A is predicted to win.
references (`list[str]`): "A", "B", "TIE" or "BOTH_BAD".
tie_margin (`float`, defaults to 0.0): largest absolute margin that predicts a tie.
"""
_CITATION = "Rank accuracy of pairwise preferences; votes as in Music Arena (https://huggingface.co/music-arena)."


class PairwiseAccuracy(evaluate.Metric):
    """Compute pairwise accuracy, without and with ties."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[str], tie_margin: float = 0.0) -> dict[str, Any]:
        outcomes, margins = read_votes(references), np.asarray(predictions, dtype=np.float64)
        if not np.isfinite(tie_margin) or tie_margin < 0:
            raise ValueError(f"`tie_margin` is {tie_margin}. Expected a finite number of at least zero.")
        is_voted = ~np.isnan(outcomes)
        outcomes, margins = outcomes[is_voted], margins[is_voted]
        if not np.isfinite(margins).all():
            raise ValueError("`predictions` hold a NaN or infinite margin. Leave battles without a prediction out.")
        margins = np.where(np.abs(margins) <= tie_margin, 0.0, margins)
        num_ties = int((outcomes == 0.5).sum())
        return {
            "accuracy": float(compute_accuracy(margins, outcomes)[0]) if num_ties < len(outcomes) else None,
            "accuracy_with_ties": float((0.5 + 0.5 * np.sign(margins) == outcomes).mean()) if len(outcomes) else None,
            "num_decisive": len(outcomes) - num_ties,
            "num_ties": num_ties,
            "num_both_bad": int((~is_voted).sum()),
        }
