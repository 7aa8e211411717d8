"""
The preference head: the smallest useful reward model on top of the scores.

What comes in are two reports (or battles to learn from); what leaves is the probability that the first song wins. Each
song has a strength, a weighted sum of its scores, and the probability is the logistic function of the difference of
two strengths: Bradley-Terry, so that any number of songs can be sorted. A bias for position A or B is fitted and kept
apart; it is left out unless asked for, since a ranking must not depend on the order of its input. Using a head takes
numpy only.
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
from modeling_apex.statistics.pair_metrics import compute_auc
from modeling_apex.storage.output_folder import replace_text

PREFERENCE_HEAD_FILE = "preference_head.json"
FORMAT_VERSION = 1
_NUM_FOLDS = 10
_NUM_DRAWS = 1000
MINIMUM_TRAINING_BATTLES = 2 * _NUM_FOLDS


@dataclass(frozen=True)
class PreferenceHead:
    """
    Hold a fitted preference head.

    Args:
        weights (`dict[str, float]`): Weight of each score, in logits per native unit, temperature included.
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


def _fit_difference_weights(differences: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    scale = np.sqrt((differences**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    return fit_logistic(differences / scale, outcomes, np.ones(differences.shape[1])) / scale


def _fit_temperature_and_bias(margins: np.ndarray, outcomes: np.ndarray) -> tuple[float, float]:
    """Fit `logit = margin / temperature + bias` on margins of battles that did not train them."""
    # The weak penalty only matters when margins carry nothing or everything; slope and bias stay finite then.
    design = np.stack([margins, np.ones(len(margins))], axis=1)
    slope, bias = fit_logistic(design, outcomes, np.array([1e-3, 1e-3]))
    # Held-out margins that point the wrong way carry no information: hot enough to say "even", never a reversed sign.
    return 1.0 / max(slope, 1e-3), bias


def _fit_weights(
    differences: np.ndarray, outcomes: np.ndarray, table: BattleTable, seed: int
) -> tuple[Any, float, float]:
    margins = np.zeros(len(outcomes))
    for fold in build_random_folds(table, min(_NUM_FOLDS, len(table)), seed):
        weights = _fit_difference_weights(differences[fold.train_indices], outcomes[fold.train_indices])
        margins[fold.test_indices] = differences[fold.test_indices] @ weights
    temperature, bias = _fit_temperature_and_bias(margins, outcomes)
    return _fit_difference_weights(differences, outcomes), temperature, bias


def _predict_held_out(
    decisive: BattleTable, differences: np.ndarray, folds: list[Fold], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the rows that the folds predict, and their logits without and with the position bias."""
    rows, plain, biased, outcomes = [], [], [], decisive.outcomes
    for fold in folds:
        train, test = fold.train_indices, fold.test_indices
        if len(train) < MINIMUM_TRAINING_BATTLES // 2:
            continue
        weights, temperature, bias = _fit_weights(differences[train], outcomes[train], decisive.select(train), seed)
        logits = differences[test] @ weights / temperature
        rows.append(test)
        plain.append(logits)
        biased.append(logits + bias)
    if not rows:
        raise ProtocolUnavailableError("no fold leaves enough battles to train on")
    return np.concatenate(rows), np.concatenate(plain), np.concatenate(biased)


def _measure_held_out(
    decisive: BattleTable, predicted: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int, resample: str
) -> dict[str, Any]:
    from modeling_apex.arena.battle_resamples import draw_battle_resamples
    from modeling_apex.statistics.calibration import summarize_calibration

    rows, plain, biased = predicted
    resamples, outcomes = draw_battle_resamples(decisive, _NUM_DRAWS, seed, resample), decisive.outcomes[rows]
    drawn = resamples.select(rows)
    errors = {
        name: summarize_calibration(compute_logistic(logits), outcomes, drawn, seed=seed)
        for name, logits in (("calibration_error", biased), ("calibration_error_without_position_bias", plain))
    }
    auc = drawn.summarize(float(compute_auc(plain, outcomes)[0]), compute_auc(plain, outcomes, drawn.weights))
    return {**errors, "auc": auc, "resampled": resamples.describe()}


def _measure_unseen_systems(
    decisive: BattleTable, differences: np.ndarray, seed: int, resample: str
) -> dict[str, Any]:
    try:
        folds = build_folds("leave_one_system_out", decisive, _NUM_FOLDS, seed)
        return _measure_held_out(decisive, _predict_held_out(decisive, differences, folds, seed), seed, resample)
    except ProtocolUnavailableError as error:
        return {"unavailable": str(error)}


def fit_preference_head(table: BattleTable, *, seed: int = 0, resample: str = "auto") -> PreferenceHead:
    """
    Fit the preference head on decisive battles and measure its calibration on battles that it has not seen.

    Temperature and position bias are fitted on margins predicted out of fold. Calibration and AUC come from an outer
    cross-validation around all of that: random folds, and one system left out at a time, as a new generator meets it.

    Args:
        table (`BattleTable`), seed (`int`, defaults to 0): Battles with all their scores, and the seed of the folds.
        resample (`str`, defaults to `"auto"`): What the intervals draw; see `draw_battle_resamples`.

    Returns:
        `PreferenceHead`: The head fitted on all decisive battles.

    Raises:
        `ValueError`: If there are fewer than 20 decisive battles, no score to weigh, or a score is missing.
    """
    from modeling_apex.statistics.calibration import compute_calibration_bins

    decisive = table.select(table.is_decisive)
    indices = decisive.get_group_indices("popularity", "aesthetics", "other")
    if len(decisive) < MINIMUM_TRAINING_BATTLES or not indices:
        raise ValueError(
            f"A preference head needs scores and at least {MINIMUM_TRAINING_BATTLES} decisive battles, "
            f"received {len(indices)} scores and {len(decisive)} decisive battles."
        )
    scores = decisive.scores[:, :, indices]
    if np.isnan(scores).any():
        raise ValueError("A score is missing. Leave such battles out first, with `drop_missing_scores`.")
    differences, outcomes = scores[:, 0] - scores[:, 1], decisive.outcomes

    held_out = _predict_held_out(decisive, differences, build_random_folds(decisive, _NUM_FOLDS, seed + 1), seed)
    measured = {"random_folds": _measure_held_out(decisive, held_out, seed, resample)}
    measured["leave_one_system_out"] = _measure_unseen_systems(decisive, differences, seed, resample)
    known = measured["random_folds"]
    weights, temperature, bias = _fit_weights(differences, outcomes, decisive, seed)
    names = [decisive.score_columns[index].name for index in indices]
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
            "expected_calibration_error": known["calibration_error"]["estimate"],
            "expected_calibration_error_without_position_bias": known["calibration_error_without_position_bias"][
                "estimate"
            ],
            "held_out_auc": known["auc"]["estimate"],
            "held_out": measured,
            "calibration_bins": compute_calibration_bins(compute_logistic(held_out[2]), outcomes[held_out[0]]),
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
