"""
A linear taste: weights of features by which a listener's ratings or votes are told, and how well they are told.

What comes in are features of songs and judgements about them; what leaves are weights, and predictions of judgements
by fits that saw none of their songs or groups. Ratings are fitted by ridge regression, votes by logistic regression on
differences (Bradley-Terry); how strongly weights are held back is chosen within the training part of each fold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeling_apex.statistics.logistic import fit_logistic

NUM_FOLDS = 5
PENALTIES = np.logspace(-3.0, 3.0, 13)  # per judgement, of standardised features


@dataclass(frozen=True)
class TasteData:
    """
    Hold what a taste is fitted to.

    Args:
        features (`np.ndarray` of shape `(num_songs, num_features)`): Of each song.
        rows (`np.ndarray` of shape `(num_judgements, 1 or 2)`): The rated song, or those of a pair.
        values (`np.ndarray` of shape `(num_judgements,)`): Ratings, or how much of a win the first song's is.
        groups (`np.ndarray` of the shape of `rows`): What repeats.
    """

    features: NDArray[np.float64]
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    groups: NDArray[np.int64]

    @property
    def is_of_pairs(self) -> bool:
        return self.rows.shape[1] == 2

    def select(self, kept: NDArray) -> "TasteData":
        return TasteData(self.features, self.rows[kept], self.values[kept], self.groups[kept])

    def predict(self, strengths: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tell judgements by strengths of songs, `(..., num_songs)`: by themselves, or by their differences."""
        songs = strengths[..., self.rows]
        predicted: NDArray[np.float64] = songs[..., 0] - songs[..., 1] if self.is_of_pairs else songs[..., 0]
        return predicted

    def measure_loss(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum the squared errors of ratings, or the log losses of votes, along the last axis."""
        if self.is_of_pairs:
            return np.sum(np.logaddexp(0.0, predicted) - self.values * predicted, axis=-1)
        return np.sum((predicted - self.values) ** 2, axis=-1)


def fit_taste(data: TasteData, penalties: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Fit weights, once for each penalty.

    Args:
        data ([`TasteData`]), penalties (`np.ndarray` of shape `(num_penalties,)`): As in `PENALTIES`.

    Returns:
        `tuple`: weights `(num_penalties, num_features)` and offsets `(num_penalties,)`; a song's strength is in the
        unit of ratings, or in logits against the mean of the songs.
    """
    songs = data.features[np.unique(data.rows)]
    center, scale = songs.mean(axis=0), songs.std(axis=0)
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(center), 1e-9), scale, np.inf)  # what never varies says nothing
    held = penalties * len(data.values)
    standard = (data.features - center) / scale
    design = data.predict(standard.T).T  # (num_judgements, num_features)
    left, sizes, right = np.linalg.svd(design, full_matrices=False)
    if data.is_of_pairs:
        turned = left * sizes  # turned so that there are no more weights than judgements, which changes no fit
        shape = (len(held), *turned.shape)
        outcomes = np.broadcast_to(data.values, shape[:2])
        found = fit_logistic(np.broadcast_to(turned, shape), outcomes, np.repeat(held[:, None], len(sizes), axis=1))
        mean = 0.0
    else:
        mean = float(data.values.mean())
        found = sizes / (sizes**2 + held[:, None]) * (left.T @ (data.values - mean))
    weights = found @ right / scale
    return weights, mean - weights @ center


def predict_held_out(
    data: TasteData, penalties: NDArray[np.float64], num_folds: int, seed: int, *, chooses: bool = False
) -> NDArray[np.float64]:
    """
    Tell each judgement by a fit that saw none of its groups.

    Args:
        data ([`TasteData`]), penalties (`np.ndarray`): See [`fit_taste`].
        num_folds (`int`), seed (`int`): Folds of groups, and the seed that deals them.
        chooses (`bool`, defaults to `False`): Whether each fit chooses its penalty, by folds of its own.

    Returns:
        `np.ndarray` of shape `(num_penalties, num_judgements)`, or `(1, num_judgements)` with `chooses`.
    """
    _, numbers = np.unique(data.groups, return_inverse=True)
    numbers = numbers.reshape(data.groups.shape)
    num_groups = int(numbers.max()) + 1
    folds = (np.random.default_rng(seed).permutation(num_groups) % min(num_folds, num_groups))[numbers]
    predicted = np.zeros((1 if chooses else len(penalties), len(data.values)))
    for key in np.unique(np.sort(folds, axis=1), axis=0):
        is_test: NDArray = np.all(np.sort(folds, axis=1) == key, axis=1)
        training = data.select(~np.any(np.isin(folds, key), axis=1))
        if not len(training.values):
            continue  # told as even: nothing was learnt
        used = np.array([choose_penalty(training, penalties, num_folds, seed)]) if chooses else penalties
        weights, offsets = fit_taste(training, used)
        predicted[:, is_test] = data.select(is_test).predict(weights @ data.features.T + offsets[:, None])
    return predicted


def choose_penalty(data: TasteData, penalties: NDArray[np.float64], num_folds: int, seed: int) -> float:
    """Return the penalty by which judgements of groups that a fit has not seen are told best."""
    losses = data.measure_loss(predict_held_out(data, penalties, num_folds, seed))
    # Of those that tell them alike, the strongest.
    return float(penalties[np.flatnonzero(losses <= losses.min() * (1 + 1e-9))[-1]])
