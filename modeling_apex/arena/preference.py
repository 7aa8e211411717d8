"""
The preference head: the smallest useful reward model on top of the scores.

What comes in are two reports (or battles to learn from); what leaves is the probability that the first song wins. Each
song has a strength, a weighted sum of its scores, and the probability is the logistic function of the difference of
two strengths: Bradley-Terry, so that any number of songs can be sorted. Scores of one song rise and fall together, so
that a free fit sets some against others; a weight is therefore never below zero where a higher score is a better one,
and what a score adds to a decision is what it says. A bias for position A or B is fitted and kept apart; it is left
out unless asked for, since a ranking must not depend on the order of its input. Using a head takes numpy only.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.protocols import Fold, ProtocolUnavailableError, build_folds, build_random_folds
from modeling_apex.model_names import choose_hub_options, find_model
from modeling_apex.statistics.logistic import compute_logistic, fit_logistic
from modeling_apex.statistics.pair_metrics import compute_accuracy, compute_auc
from modeling_apex.storage.output_folder import replace_text

PREFERENCE_HEAD_FILE = "preference_head.json"
FORMAT_VERSION = 1
_NUM_FOLDS = 10
_NUM_DRAWS = 1000
MINIMUM_TRAINING_BATTLES = 2 * _NUM_FOLDS
BETTER_IF_HIGHER = ("popularity", "aesthetics")
"""Groups of scores whose weights are never below zero; of others nobody said which way is better."""


@dataclass(frozen=True)
class PreferenceHead:
    """
    Hold a fitted preference head.

    Args:
        weights (`dict[str, float]`):
            Weight of each score, in logits per native unit, temperature included. Heads of earlier versions may have
            weights below zero for any score.
        position_bias (`float`, defaults to 0.0): Logits in favour of position A.
        temperature (`float`, defaults to 1.0):
            What the fitted weights were divided by, kept for the record; above one when they were too sure of
            themselves.
        training (`dict`): What the head was fitted on and how well calibrated it is on battles it had not seen.

    Raises:
        `ValueError`: If there is no weight or a number is not finite.
    """

    weights: dict[str, float]
    position_bias: float = 0.0
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [*self.weights.values(), self.position_bias, self.temperature]
        if not self.weights or not all(math.isfinite(number) for number in numbers) or self.temperature <= 0:
            raise ValueError(
                "A preference head needs at least one weight, finite numbers and a temperature above zero, received "
                f"weights {self.weights}, position_bias {self.position_bias}, temperature {self.temperature}."
            )

    def compute_strength(self, report: Mapping[str, Any]) -> float:
        """
        Compute the strength of a song; the song with the higher strength is predicted to be preferred.

        Args:
            report (`Mapping[str, Any]`): A report with `scores` by name, or such scores themselves.

        Returns:
            `float`: Strength in logits. Only differences between songs mean something.

        Raises:
            `TypeError`: If the report is not a mapping.
            `ValueError`: If a score that the head weighs is missing or not a finite number.
        """
        if not isinstance(report, Mapping):
            raise TypeError(f"A report must be a mapping with `scores`, received {type(report).__name__}.")
        scores = report.get("scores", report)
        strength = 0.0
        for name, weight in self.weights.items():
            value = scores.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise ValueError(
                    f"The preference head weighs the score {name!r}, but the report has {value!r} for it. Pass "
                    f"reports of the model that the head belongs to; it needs {list(self.weights)}."
                )
            strength += weight * float(value)
        return strength

    def compute_probability(
        self, report_a: Mapping[str, Any], report_b: Mapping[str, Any], *, use_position_bias: bool = False
    ) -> float:
        """Compute the probability that song A is preferred to song B; see [`score_preference`]."""
        logit = self.compute_strength(report_a) - self.compute_strength(report_b)
        return float(compute_logistic(np.array(logit + (self.position_bias if use_position_bias else 0.0))))

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write `preference_head.json` into a model folder and return its path."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / PREFERENCE_HEAD_FILE
        replace_text(path, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n")
        return path

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "PreferenceHead":
        """
        Read a head from a model folder or from the file itself.

        Args:
            path (`str` or `Path`): The folder or the file.

        Returns:
            `PreferenceHead`: The head.

        Raises:
            `FileNotFoundError`: If there is none.
            `ValueError`: If the file is not a preference head of this format.
        """
        file = Path(path)
        file = file / PREFERENCE_HEAD_FILE if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(f"There is no preference head at {file}. `apex-music arena` fits and saves one.")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            version = content.pop("format_version")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is not a preference head: {error!r}.") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{file} has format version {version!r}; this release reads version {FORMAT_VERSION}.")
        try:
            return cls(**content)
        except (TypeError, AttributeError, OverflowError, ValueError) as error:
            raise ValueError(f"{file} does not hold the fields of a preference head: {error}.") from error


def score_preference(
    report_a: Mapping[str, Any], report_b: Mapping[str, Any], head: PreferenceHead, *, use_position_bias: bool = False
) -> float:
    """
    Compute the probability that song A is preferred to song B.

    Args:
        report_a (`Mapping[str, Any]`): Report of song A.
        report_b (`Mapping[str, Any]`): Report of song B.
        head (`PreferenceHead`): The head that belongs to the model of the reports.
        use_position_bias (`bool`, defaults to `False`):
            Add the bias of people for one position. Off, `score_preference(a, b) = 1 - score_preference(b, a)`.

    Returns:
        `float`: Probability between 0 and 1.
    """
    return head.compute_probability(report_a, report_b, use_position_bias=use_position_bias)


def _fit_difference_weights(differences: np.ndarray, outcomes: np.ndarray, is_bounded: np.ndarray) -> np.ndarray:
    """Fit one weight a score, those that `is_bounded` marks from zero up."""
    scale = np.sqrt((differences**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    design = differences / scale
    weights = fit_logistic(design, outcomes, np.ones(len(scale)))
    if (weights[is_bounded] < 0).any():
        weights = _fit_from_zero_up(design, outcomes, is_bounded, weights)
    return weights / scale


def _fit_from_zero_up(
    design: np.ndarray, outcomes: np.ndarray, is_bounded: np.ndarray, start: np.ndarray
) -> np.ndarray:
    from scipy.optimize import minimize

    def compute_loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ weights
        loss = np.logaddexp(0.0, logits).sum() - outcomes @ logits + 0.5 * weights @ weights
        return float(loss), design.T @ (compute_logistic(logits) - outcomes) + weights

    bounds = [(0.0 if bounded else None, None) for bounded in is_bounded]
    start = np.where(is_bounded, np.maximum(start, 0.0), start)
    options = {"ftol": 0.0, "gtol": 1e-9, "maxiter": 1000}  # the loss itself is flat long before the weights stand
    return minimize(compute_loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def _fit_temperature_and_bias(margins: np.ndarray, outcomes: np.ndarray) -> tuple[float, float]:
    """Fit `logit = margin / temperature + bias` on margins of battles that did not train them."""
    # The weak penalty only matters when margins carry nothing or everything; slope and bias stay finite then.
    design = np.stack([margins, np.ones(len(margins))], axis=1)
    slope, bias = fit_logistic(design, outcomes, np.array([1e-3, 1e-3]))
    # Held-out margins that point the wrong way carry no information: hot enough to say "even", never a reversed sign.
    return 1.0 / max(slope, 1e-3), bias


@dataclass(frozen=True)
class _Battles:
    """Decisive battles: their table, the differences of their scores, and which scores are better if higher."""

    table: BattleTable
    differences: np.ndarray
    is_bounded: np.ndarray

    def select(self, rows: np.ndarray) -> "_Battles":
        return _Battles(self.table.select(rows), self.differences[rows], self.is_bounded)


@dataclass(frozen=True)
class _HeldOut:
    """Logits of held-out battles, without and with the position bias, and margins of a fit without bounds."""

    rows: np.ndarray
    plain: np.ndarray
    biased: np.ndarray
    unbounded: np.ndarray


def _fit_weights(battles: _Battles, seed: int) -> tuple[np.ndarray, float, float]:
    outcomes, differences = battles.table.outcomes, battles.differences
    margins = np.zeros(len(outcomes))
    for fold in build_random_folds(battles.table, min(_NUM_FOLDS, len(outcomes)), seed):
        train, test = fold.train_indices, fold.test_indices
        weights = _fit_difference_weights(differences[train], outcomes[train], battles.is_bounded)
        margins[test] = differences[test] @ weights
    temperature, bias = _fit_temperature_and_bias(margins, outcomes)
    return _fit_difference_weights(differences, outcomes, battles.is_bounded), temperature, bias


def _predict_held_out(battles: _Battles, folds: list[Fold], seed: int) -> _HeldOut:
    """Predict the battles of the folds, each by a head that has not seen them."""
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for fold in folds:
        train, test = battles.select(fold.train_indices), battles.differences[fold.test_indices]
        if len(train.differences) < MINIMUM_TRAINING_BATTLES // 2:
            continue
        weights, temperature, bias = _fit_weights(train, seed)
        free = _fit_difference_weights(train.differences, train.table.outcomes, np.zeros_like(train.is_bounded))
        logits = test @ weights / temperature
        for column, values in zip(columns, (fold.test_indices, logits, logits + bias, test @ free), strict=True):
            column.append(values)
    if not columns[0]:
        raise ProtocolUnavailableError("no fold leaves enough battles to train on")
    return _HeldOut(*map(np.concatenate, columns))


def _measure_held_out(decisive: BattleTable, predicted: _HeldOut, seed: int, resample: str) -> dict[str, Any]:
    from modeling_apex.arena.battle_resamples import draw_battle_resamples
    from modeling_apex.statistics.calibration import summarize_calibration

    plain, rows = predicted.plain, predicted.rows
    resamples, outcomes = draw_battle_resamples(decisive, _NUM_DRAWS, seed, resample), decisive.outcomes[rows]
    drawn = resamples.select(rows)
    errors = {
        name: summarize_calibration(compute_logistic(logits), outcomes, drawn, seed=seed)
        for name, logits in (
            ("calibration_error", predicted.biased),
            ("calibration_error_without_position_bias", plain),
        )
    }
    auc = drawn.summarize(float(compute_auc(plain, outcomes)[0]), compute_auc(plain, outcomes, drawn.weights))
    estimates, draws = (
        [compute_accuracy(margins, outcomes, weights) for margins in (plain, predicted.unbounded)]
        for weights in (None, drawn.weights)
    )
    own, free = (float(estimate[0]) for estimate in estimates)
    accuracies = {
        "accuracy": drawn.summarize_share(own, draws[0], len(rows)),
        "accuracy_without_bounds": drawn.summarize_share(free, draws[1], len(rows)),
        "accuracy_difference": drawn.summarize(own - free, draws[0] - draws[1]),
    }
    return {**errors, "auc": auc, **accuracies, "resampled": resamples.describe()}


def _measure_unseen_systems(battles: _Battles, seed: int, resample: str) -> dict[str, Any]:
    try:
        folds = build_folds("leave_one_system_out", battles.table, _NUM_FOLDS, seed)
        return _measure_held_out(battles.table, _predict_held_out(battles, folds, seed), seed, resample)
    except ProtocolUnavailableError as error:
        return {"unavailable": str(error)}


def _choose_battles(table: BattleTable) -> tuple[BattleTable, list[int]]:
    """Return the decisive battles, and which of their scores a head may weigh."""
    decisive = table.select(table.is_decisive)
    indices = decisive.get_group_indices("popularity", "aesthetics", "other")
    if len(decisive) < MINIMUM_TRAINING_BATTLES or not indices:
        raise ValueError(
            f"A preference head needs scores and at least {MINIMUM_TRAINING_BATTLES} decisive battles, "
            f"received {len(indices)} scores and {len(decisive)} decisive battles."
        )
    if np.isnan(decisive.scores[:, :, indices]).any():
        raise ValueError("A score is missing. Leave such battles out first, with `drop_missing_scores`.")
    return decisive, indices


def fit_preference_head(table: BattleTable, *, seed: int = 0, resample: str = "auto") -> PreferenceHead:
    """
    Fit the preference head on decisive battles and measure its calibration on battles that it has not seen.

    Weights of scores that are better if higher ([`BETTER_IF_HIGHER`]) are never below zero. Temperature and position
    bias are fitted on margins predicted out of fold. Calibration, AUC and accuracy, beside that of a fit without these
    bounds, come from an outer cross-validation around all of that: random folds, and one system left out at a time.

    Args:
        table (`BattleTable`), seed (`int`, defaults to 0): Battles with all their scores, and the seed of the folds.
        resample (`str`, defaults to `"auto"`): What the intervals draw; see `draw_battle_resamples`.

    Returns:
        `PreferenceHead`: The head fitted on all decisive battles.

    Raises:
        `ValueError`: If there are fewer than 20 decisive battles, no score to weigh, or a score is missing.
    """
    from modeling_apex.statistics.calibration import compute_calibration_bins

    decisive, indices = _choose_battles(table)
    scores = decisive.scores[:, :, indices]
    columns = [decisive.score_columns[index] for index in indices]
    is_bounded = np.array([column.group in BETTER_IF_HIGHER for column in columns])
    battles = _Battles(decisive, scores[:, 0] - scores[:, 1], is_bounded)
    held_out = _predict_held_out(battles, build_random_folds(decisive, _NUM_FOLDS, seed + 1), seed)
    measured = {"random_folds": _measure_held_out(decisive, held_out, seed, resample)}
    measured["leave_one_system_out"] = _measure_unseen_systems(battles, seed, resample)
    known = measured["random_folds"]
    weights, temperature, bias = _fit_weights(battles, seed)
    names = [column.name for column in columns]
    return PreferenceHead(
        weights={name: float(weight) for name, weight in zip(names, weights / temperature, strict=True)},
        position_bias=float(bias),
        temperature=float(temperature),
        training={
            "num_battles": len(decisive),
            # Known truth exists in a simulation only; whoever shows a probability must be able to say so.
            "votes": "simulated" if decisive.get_group_indices("truth") else "people",
            "seed": seed,
            "num_folds": _NUM_FOLDS,
            "never_below_zero": [name for name, bounded in zip(names, is_bounded, strict=True) if bounded],
            "expected_calibration_error": known["calibration_error"]["estimate"],
            "expected_calibration_error_without_position_bias": known["calibration_error_without_position_bias"][
                "estimate"
            ],
            "held_out_auc": known["auc"]["estimate"],
            "held_out": measured,
            "calibration_bins": compute_calibration_bins(
                compute_logistic(held_out.biased), decisive.outcomes[held_out.rows]
            ),
            "weights_per_standard_deviation": {
                name: float(weight * scores[:, :, number].std() / temperature)
                for number, (name, weight) in enumerate(zip(names, weights, strict=True))
            },
        },
    )


def load_preference_head(model: str | os.PathLike | None = None, revision: str | None = None) -> PreferenceHead | None:
    """
    Load the preference head that lies beside a model.

    Args:
        model (`str` or `os.PathLike`, *optional*):
            A folder or a Hub id. Defaults to the embedded demonstration model.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub model.

    Returns:
        [`PreferenceHead`] or `None`: `None` if the model has no preference head.
    """
    try:
        name = find_model(model)
        if os.path.isdir(name):
            path = os.path.join(name, PREFERENCE_HEAD_FILE)
            found = path if os.path.isfile(path) else None
        else:
            from transformers.utils import cached_file

            options = choose_hub_options(name, {"revision": revision})
            found = cached_file(name, PREFERENCE_HEAD_FILE, **options, _raise_exceptions_for_missing_entries=False)
    except OSError:  # there is no such model, or none can be reached: loading the model says so, and what to do
        return None
    return None if found is None else PreferenceHead.from_pretrained(found)
