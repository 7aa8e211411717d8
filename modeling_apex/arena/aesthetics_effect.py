"""
The question of the paper: do aesthetic scores help to predict preferences, beside popularity?

What comes in are differences of AUC with minus without aesthetics, and the same on permuted aesthetics. What leaves
are rows with one of four verdicts, and a conclusion in words: `helps`, `hurts`, `no evidence` (with the smallest
effect that this table could have shown) or `not testable` (with the reason).
"""

from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.pair_features import PairFeatures
from modeling_apex.arena.permutations import build_permutations, compute_null_differences
from modeling_apex.arena.protocols import WITHIN_PAIRS, Fold
from modeling_apex.statistics.shares import INTERVAL_LEVEL
from modeling_apex.statistics.significance import (
    SIGNIFICANCE_LEVEL,
    compute_holm_rejections,
    compute_needed_draws,
    compute_permutation_p_values,
    compute_smallest_effect,
)

# The question is about generators unseen in training, and the paper's simplest classifier has nothing to tune: this
# one comparison is the primary one, fixed before any battle is read. All others are corrected for being many.
PRIMARY_PROTOCOL = "leave_one_system_out"
PRIMARY_CLASSIFIER = "logistic_regression"
HOPELESS_P_VALUE = 0.2  # after the first permutations: no number of further ones is likely to make it significant
HELPS, HURTS, NO_EVIDENCE, NOT_TESTABLE = "helps", "hurts", "no evidence", "not testable"


class EffectTester:
    """
    Test the effect of aesthetics under one protocol and classifier after the other, by the same permutations.

    Args:
        table (`BattleTable`): The battles.
        without (`PairFeatures`, *optional*): Features without aesthetics; `None` where there is nothing to compare.
        num_protocols (`int`): Under how many protocols tests will be made.
        classifiers (`list[str]`): Which classifiers are tested.
        num_permutations (`int`, *optional*): Defaults to what Holm's correction over all tests needs; 0 makes no test.
        claim (`str`): See [`build_permutations`].
        recipe (`str`), seed (`int`), num_jobs (`int`): As for [`compute_null_differences`].

    Raises:
        `ValueError`: If there are too few permutations for this many tests.
    """

    def __init__(
        self,
        table: BattleTable,
        without: PairFeatures | None,
        num_protocols: int,
        *,
        classifiers: list[str],
        num_permutations: int | None,
        claim: str,
        **options: Any,
    ):
        self.table, self.without, self.classifiers, self.options = table, without, classifiers, options
        num_tests = num_protocols * len(classifiers) if without is not None else 0
        needed = compute_needed_draws(num_tests)
        if num_permutations and num_tests and num_permutations < needed:
            raise ValueError(
                f"`num_permutations` is {num_permutations}, but Holm's correction over the {num_tests} tests of this "
                f"run needs at least {needed}. Ask for {needed} (--num-permutations {needed}), for fewer protocols, "
                "or for 0 to make no test."
            )
        self.num_permutations = needed if num_permutations is None else num_permutations
        self.permutations = build_permutations(table, options["seed"], claim) if num_tests else None

    def test(self, protocol: str, classifier: str, folds: list[Fold], compared: dict[str, Any]) -> dict[str, Any]:
        """
        Give the row of one protocol and classifier, as [`describe_effect`] does.

        Where the first permutations leave no doubt that nothing is significant, no more are made.
        """
        if classifier not in self.classifiers:
            reason = f"{classifier} is not refitted on permuted aesthetics (--permute {classifier} does that)"
            return describe_effect(compared, None, reason)
        if not self.num_permutations:
            return describe_effect(compared, None, "no permutations were asked for")
        if self.without is None or self.permutations is None or not self.permutations.can_permute:
            reason = "no system has two songs whose aesthetic scores could be exchanged"
            return describe_effect(compared, None, reason)
        first, null = min(compute_needed_draws(1), self.num_permutations), np.zeros(0)
        row: dict[str, Any] = {}
        for numbers in (range(first), range(first, self.num_permutations)):
            if len(numbers) and (row.get("p_value") or 0.0) <= HOPELESS_P_VALUE:
                more = compute_null_differences(
                    self.table,
                    self.without,
                    folds,
                    self.permutations,
                    classifier=classifier,
                    numbers=numbers,
                    is_within_pairs=protocol == WITHIN_PAIRS,
                    **self.options,
                )
                null = np.concatenate([null, more])
                row = describe_effect(compared, null)
        return row


def describe_effect(compared: dict[str, Any], null: np.ndarray | None, reason: str | None = None) -> dict[str, Any]:
    """
    Build one row of the effect: an estimate with its paired interval, beside what permuted aesthetics bring.

    Args:
        compared (`dict`): `estimate`, `low` and `high` of the difference of AUC.
        null (`np.ndarray` of shape `(num_permutations,)`, *optional*): The difference on permuted aesthetics.
        reason (`str`, *optional*): Why there is no null.

    Returns:
        `dict`: `compared`, `verdict` at the level of this row alone, `p_value` (two-sided) with `p_better` and
        `p_worse`, `null_mean`, `excess` (what the aesthetics bring over as many columns of noise), `smallest_effect`
        and `num_permutations`. Survives JSON.
    """
    row: dict[str, Any] = {**compared, "verdict": NOT_TESTABLE, "p_value": None, "p_better": None, "p_worse": None}
    if null is None or compared["estimate"] is None:
        return {**row, "reason": reason or compared.get("reason", "not defined on these battles")}
    better, worse = compute_permutation_p_values(compared["estimate"], null)
    smallest = compute_smallest_effect(null)
    if better is None or worse is None or smallest is None:
        return {**row, "reason": "permuted aesthetics change nothing here, so there is nothing to compare with"}
    p_value, mean = min(1.0, 2 * min(better, worse)), float(np.nanmean(null))
    row |= {"p_value": p_value, "p_better": better, "p_worse": worse, "null_mean": mean}
    row |= {"excess": compared["estimate"] - mean, "smallest_effect": smallest, "num_permutations": len(null)}
    return {**row, "verdict": _judge(row, p_value < SIGNIFICANCE_LEVEL)}


def _judge(row: dict[str, Any], is_significant: bool) -> str:
    # More than noise columns would bring, and still less than leaving them out, is no help.
    if is_significant and row["p_better"] < row["p_worse"] and row["estimate"] > 0:
        return HELPS
    if is_significant and row["p_worse"] < row["p_better"] and row["estimate"] < 0:
        return HURTS
    return NO_EVIDENCE


def summarize_aesthetics_effect(rows: list[dict[str, Any]], claim: str, num_permutations: int) -> dict[str, Any]:
    """
    Correct the rows for being many.

    Args:
        rows (`list[dict]`): Rows of [`describe_effect`], each with its `protocol` and `classifier`.
        claim (`str`): What aesthetics would say something of: `"songs"` of one system, or `"any"`.
        num_permutations (`int`): Permutations behind every p-value that is not hopeless.

    Returns:
        `dict`: `rows` with `is_significant_after_holm`; the verdict of the primary row is its own, those of the others
        are after Holm's correction.

    Raises:
        `ValueError`: If there were too few permutations for this many tests.
    """
    if not rows:
        return {"unavailable": "the table does not have both popularity and aesthetic scores", "rows": []}
    tested = [row for row in rows if row["p_value"] is not None]
    rejections = compute_holm_rejections([row["p_value"] for row in tested], num_draws=num_permutations)
    for row, rejected in zip(tested, rejections, strict=True):
        row["is_significant_after_holm"] = rejected
        if (row["protocol"], row["classifier"]) != (PRIMARY_PROTOCOL, PRIMARY_CLASSIFIER):
            row["verdict"] = _judge(row, rejected)
    after_holm = [_judge(row, row["is_significant_after_holm"]) for row in tested]
    return {
        "metric": "auc",
        "claim": claim,
        "num_permutations": num_permutations,
        "primary": {"protocol": PRIMARY_PROTOCOL, "classifier": PRIMARY_CLASSIFIER},
        "num_tested": len(tested),
        "num_better_after_holm": after_holm.count(HELPS),
        "num_worse_after_holm": after_holm.count(HURTS),
        "rows": rows,
    }


def build_conclusion(results: dict[str, Any]) -> str:
    """
    Say in words what the primary comparison found; the words follow from the numbers.

    Args:
        results (`dict`): Results of `run_arena`, complete up to `aesthetics_effect`.

    Returns:
        `str`: One to three sentences.
    """
    effect = results["aesthetics_effect"]
    if "unavailable" in effect:
        return f"Whether aesthetics help cannot be said: {effect['unavailable']}."
    primary = next(
        (r for r in effect["rows"] if (r["protocol"], r["classifier"]) == (PRIMARY_PROTOCOL, PRIMARY_CLASSIFIER)), None
    )
    others = (
        f"Of {effect['num_tested']} comparisons tested, {effect['num_better_after_holm']} are better with aesthetics "
        f"and {effect['num_worse_after_holm']} worse after Holm's correction."
    )
    if primary is None:
        return f"Not testable: {PRIMARY_CLASSIFIER} under {PRIMARY_PROTOCOL} could not be run on this table. {others}"
    if primary["verdict"] == NOT_TESTABLE:
        return f"Not testable with {PRIMARY_CLASSIFIER} under {PRIMARY_PROTOCOL}: {primary['reason']}. {others}"
    words = {
        HELPS: "Yes: aesthetic scores help",
        HURTS: "No: aesthetic scores hurt",
        NO_EVIDENCE: "No: there is no evidence that aesthetic scores help",
    }
    interval = "" if primary["low"] is None else f", paired interval {primary['low']:+.3f} to {primary['high']:+.3f}"
    sentence = (
        f"{words[primary['verdict']]} to predict preferences on systems left out of training ({PRIMARY_CLASSIFIER}, "
        f"AUC with minus without {primary['estimate']:+.3f}{interval} at {INTERVAL_LEVEL:.0%}; as many columns of "
        f"noise add {primary['null_mean']:+.3f}; p = {primary['p_value']:.4f} by {primary['num_permutations']} "
        "permutations with refitting)."
    )
    if primary["verdict"] == NO_EVIDENCE:
        sentence += (
            f" An effect of {primary['smallest_effect']:.3f} over noise would have been found in 4 of 5 such tables."
        )
    return f"{sentence} {others}"
