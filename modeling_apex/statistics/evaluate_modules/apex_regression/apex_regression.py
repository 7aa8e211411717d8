"""
The metric `apex_regression` for `evaluate.load`: how well one score follows its labels.

```python
>>> import evaluate
>>> metric = evaluate.load("modeling_apex/statistics/evaluate_modules/apex_regression")
>>> metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])["spearman"]
1.0
```
"""

from typing import Any

import datasets
import evaluate

from modeling_apex.statistics.metrics import compute_bootstrap_intervals, compute_metrics  # From: apex-music

DESCRIPTION = "Mean squared error, mean absolute error, Pearson and Spearman correlation of one score, over songs."
INPUTS = """
Args:
    predictions (`list[float]`): scores, one per song, in native units.
    references (`list[float]`): labels, one per song; NaN where a song has none.
    num_draws (`int`, defaults to 0): bootstrap resamples; 0 leaves the intervals out.
    seed (`int`, defaults to 0): seed of the resampling.
Returns:
    `dict`: `mse`, `mae`, `pearson`, `spearman`, and with `num_draws` also `<name>_low` and `<name>_high`, 95 %.
"""


class ApexRegression(evaluate.Metric):
    """Score the predictions of one head against its labels."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, num_draws: int = 0, seed: int = 0) -> dict[str, float]:
        results = compute_metrics(predictions, references)
        if num_draws:
            intervals = compute_bootstrap_intervals(predictions, references, num_draws=num_draws, seed=seed)
            for name, (low, high) in intervals.items():
                results[f"{name}_low"], results[f"{name}_high"] = low, high
        return results
