"""
Pairwise accuracy with ties, as an `evaluate` metric that works alone: `evaluate.load("<this folder>")`.

What comes in are margins of A over B and human votes; what leaves are shares of votes that the margins foretold.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

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
_OUTCOMES = {"A": 1.0, "B": 0.0, "TIE": 0.5}


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
        unknown = sorted({str(vote) for vote in references} - {*_OUTCOMES, "BOTH_BAD"})
        if unknown:
            raise ValueError(f"Unknown votes {unknown}. Expected A, B, TIE or BOTH_BAD.")
        if not np.isfinite(tie_margin) or tie_margin < 0:
            raise ValueError(f"`tie_margin` is {tie_margin}. Expected a finite number of at least zero.")
        is_voted = np.array([vote != "BOTH_BAD" for vote in references], dtype=bool)
        margins = np.asarray(predictions, dtype=np.float64)[is_voted]
        if not np.isfinite(margins).all():
            raise ValueError("`predictions` hold a NaN or infinite margin. Leave battles without a prediction out.")
        outcomes = np.array([_OUTCOMES[vote] for vote in references if vote != "BOTH_BAD"])
        predicted = np.where(np.abs(margins) <= tie_margin, 0.5, 0.5 + 0.5 * np.sign(margins))
        is_decisive = outcomes != 0.5
        half_right = 1.0 - np.abs(predicted - outcomes)
        return {
            "accuracy": float(half_right[is_decisive].mean()) if is_decisive.any() else None,
            "accuracy_with_ties": float((predicted == outcomes).mean()) if len(outcomes) else None,
            "num_decisive": int(is_decisive.sum()),
            "num_ties": int((~is_decisive).sum()),
            "num_both_bad": int((~is_voted).sum()),
        }
