"""
A null distribution that fits again: what the same number of columns brings when they say nothing of the votes.

What comes in is a table with folds; what leaves are, per permutation, the difference of AUC with minus without
aesthetics. A bootstrap of finished predictions cannot give this: more columns fit the training battles better and the
others worse, whatever they say, and predictions that are not fitted again hide it.

Songs keep what the test is not about. A song's popularity stays with it, and of its aesthetics the part that follows
from popularity, and from the system where the claim is about songs; what is left is exchanged between songs (Freedman
and Lane, 1983), all aesthetic scores together. A song that stands in several battles gets the same in all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.classifiers import predict_logistic_margins, predict_margins
from modeling_apex.arena.pair_features import PairFeatures, build_features_of_scores
from modeling_apex.arena.predictions import build_system_pairs
from modeling_apex.arena.protocols import Fold
from modeling_apex.statistics.pair_metrics import compute_auc

CLAIMS = ("songs", "any")
FITTED_AT_ONCE = 100_000_000  # bytes of features of permuted tables


def number_songs(table: BattleTable) -> np.ndarray:
    """
    Number the distinct songs of a table, by system and scores.

    Args:
        table (`BattleTable`): Battles with all their scores.

    Returns:
        `np.ndarray` of shape `(num_battles, 2)`: The song of each side.
    """
    keys = [
        (str(system), scores.tobytes())
        for systems, sides in zip(table.systems, table.scores, strict=True)
        for system, scores in zip(systems, sides, strict=True)
    ]
    # Sorted, so that the numbers do not depend on which side a song stood.
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    return np.array([numbers[key] for key in keys], dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class AestheticPermutations:
    """
    Hold what permutations of the aesthetic scores keep and what they exchange.

    Args:
        songs (`np.ndarray` of shape `(num_battles, 2)`): Song of each side.
        expected (`np.ndarray` of shape `(num_songs, num_aesthetics)`): What follows from popularity and system.
        residuals (`np.ndarray` of shape `(num_songs, num_aesthetics)`): What is exchanged.
        strata (`np.ndarray` of shape `(num_songs,)`): Songs within which it is exchanged.
        limits (`np.ndarray` of shape `(2, num_aesthetics)`): Smallest and largest score that was seen.
        seed (`int`): Seed of the permutations.
    """

    songs: np.ndarray
    expected: np.ndarray
    residuals: np.ndarray
    strata: np.ndarray
    limits: np.ndarray
    seed: int

    @property
    def can_permute(self) -> bool:
        """Whether any song can get another's aesthetics."""
        has_others = np.bincount(self.strata)[self.strata] > 1
        return bool((np.ptp(self.residuals[has_others], axis=0) > 1e-12).any()) if has_others.any() else False

    def draw(self, number: int) -> np.ndarray:
        """Draw one permutation: aesthetic scores of shape `(num_battles, 2, num_aesthetics)`."""
        generator = np.random.default_rng((self.seed, number))
        places = np.argsort(self.strata, kind="stable")
        sources = np.lexsort((generator.random(len(self.strata)), self.strata))
        scores = self.expected.copy()
        scores[places] += self.residuals[sources]
        return np.clip(scores, *self.limits)[self.songs]


def build_permutations(table: BattleTable, seed: int, claim: str = "songs") -> AestheticPermutations:
    """
    Build the permutations of a table's aesthetic scores.

    Args:
        table (`BattleTable`): Battles with popularity and aesthetics.
        seed (`int`): Seed of the permutations.
        claim (`str`, defaults to `"songs"`):
            `"songs"`: aesthetics tell apart songs of one system; what they say of systems stays as it is.
            `"any"`: they say anything at all, of songs or of systems.

    Returns:
        [`AestheticPermutations`]: The permutations.

    Raises:
        `ValueError`: If `claim` is unknown.
    """
    if claim not in CLAIMS:
        raise ValueError(f"`claim` is {claim!r}. Choose one of {CLAIMS}.")
    songs = number_songs(table)
    _, first = np.unique(songs, return_index=True)
    scores = table.scores.reshape(-1, table.scores.shape[-1])[first]
    systems = np.unique(table.systems.reshape(-1)[first].astype(str), return_inverse=True)[1]
    strata = systems if claim == "songs" else np.zeros(len(first), dtype=np.int64)
    popularity = scores[:, table.get_group_indices("popularity")]
    aesthetics = scores[:, table.get_group_indices("aesthetics")]
    counts = np.bincount(strata)[:, None].astype(np.float64)

    def compute_means(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(counts), values.shape[1]))
        np.add.at(sums, strata, values)
        return (sums / counts)[strata]

    means = compute_means(aesthetics)
    centered = popularity - compute_means(popularity)
    slopes = np.linalg.lstsq(centered, aesthetics - means, rcond=None)[0]
    expected = means + centered @ slopes
    limits = np.stack([aesthetics.min(axis=0), aesthetics.max(axis=0)])
    return AestheticPermutations(songs, expected, aesthetics - expected, strata, limits, seed)


def compute_null_differences(
    table: BattleTable,
    without: PairFeatures,
    folds: list[Fold],
    permutations: AestheticPermutations,
    *,
    classifier: str,
    numbers: range,
    recipe: str = "symmetric",
    is_within_pairs: bool = False,
    seed: int = 0,
    num_jobs: int = 1,
) -> np.ndarray:
    """
    Compute the difference of AUC with minus without aesthetics on tables with permuted aesthetics.

    Args:
        table (`BattleTable`): The battles.
        without (`PairFeatures`): Features without aesthetics.
        folds (`list[Fold]`): The folds of the protocol.
        permutations ([`AestheticPermutations`]): The permutations; the same numbers are the same in every protocol.
        classifier (`str`): One of `CLASSIFIERS`; logistic regressions are fitted many at once.
        numbers (`range`): Which permutations, so that more can be made later.
        recipe (`str`, defaults to `"symmetric"`): See [`build_pair_features`].
        is_within_pairs (`bool`, defaults to `False`): Compare within pairs of systems only.
        seed (`int`, defaults to 0): Seed of the classifiers.
        num_jobs (`int`, defaults to 1): Number of processes.

    Returns:
        `np.ndarray` of shape `(len(numbers),)`: The differences.
    """
    from joblib import Parallel, delayed

    aesthetics, indices = table.get_group_indices("aesthetics"), table.get_group_indices("popularity", "aesthetics")
    fit = partial(_fit_folds, classifier, seed, table, folds, recipe == "symmetric")
    measure = _build_measure(table, folds, is_within_pairs)

    def run(start: int, stop: int) -> list[float]:
        permuted = np.broadcast_to(table.scores, (stop - start, *table.scores.shape)).copy()
        for number in range(start, stop):
            permuted[number - start][..., aesthetics] = permutations.draw(number)
        features = build_features_of_scores(table, permuted, indices, recipe=recipe)
        return [measure(margins) for margins in fit(features)]

    base = measure(fit(without))
    step = max(1, FITTED_AT_ONCE // (16 * len(table) * 4 * (len(indices) + 1)))
    tasks = (delayed(run)(start, min(start + step, numbers.stop)) for start in numbers[::step])
    found = Parallel(n_jobs=num_jobs)(tasks)
    return np.array([value for part in found for value in part]) - base


def _build_measure(table: BattleTable, folds: list[Fold], is_within_pairs: bool) -> Callable[[np.ndarray], float]:
    """Build what computes the AUC of margins in the order of the folds."""
    rows = np.concatenate([fold.test_indices for fold in folds])
    outcomes, strata, turned = table.outcomes[rows], None, np.ones(len(rows))
    if is_within_pairs:
        names, orientations = build_system_pairs(table)
        strata, turned = np.unique(names[rows].astype(str), return_inverse=True)[1], orientations[rows]
        outcomes = np.where(turned > 0, outcomes, 1.0 - outcomes)
    return lambda margins: float(compute_auc(margins * turned, outcomes, strata=strata)[0])


def _fit_folds(
    classifier: str, seed: int, table: BattleTable, folds: list[Fold], is_symmetric: bool, features: PairFeatures
) -> np.ndarray:
    """Give the margins of all folds, `(..., num_predictions)`, for one table or for many at once."""
    margins, outcomes, is_decisive = [], table.outcomes, table.is_decisive
    for fold in folds:
        rows = fold.train_indices[is_decisive[fold.train_indices]]
        train, test = features.select(rows), features.select(fold.test_indices)
        if classifier == "logistic_regression":
            found = predict_logistic_margins(train, outcomes[rows], test, is_symmetric=is_symmetric)
        else:
            found = _predict_one_by_one(
                train, outcomes[rows], test, name=classifier, seed=seed, is_symmetric=is_symmetric
            )
        margins.append(found)
    return np.concatenate(margins, axis=-1)


def _predict_one_by_one(
    train: PairFeatures, outcomes: np.ndarray, test: PairFeatures, *, name: str, seed: int, is_symmetric: bool
) -> np.ndarray:
    if train.values.ndim == 2:
        return predict_margins(name, seed, train, outcomes, test, is_symmetric=is_symmetric)
    return np.stack(
        [
            predict_margins(
                name,
                seed,
                PairFeatures(train.values[number], train.swapped[number]),
                outcomes,
                PairFeatures(test.values[number], test.swapped[number]),
                is_symmetric=is_symmetric,
            )
            for number in range(len(train.values))
        ]
    )


def refit_draws(
    table: BattleTable,
    features: PairFeatures,
    folds: list[Fold],
    weights: np.ndarray,
    *,
    is_symmetric: bool = True,
) -> np.ndarray:
    """
    Fit a logistic regression again on every bootstrap sample.

    Args:
        table (`BattleTable`): The battles.
        features (`PairFeatures`): Their features.
        folds (`list[Fold]`): The folds. They are not dealt again, so that no battle trains and is predicted at once.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`): How often each battle stands in each sample.
        is_symmetric (`bool`, defaults to `True`): See [`predict_margins`].

    Returns:
        `np.ndarray` of shape `(num_draws, num_predictions)`: Margins in the order of the folds.
    """
    margins, outcomes, is_decisive = [], table.outcomes, table.is_decisive
    for fold in folds:
        train = fold.train_indices[is_decisive[fold.train_indices]]
        margins.append(
            predict_logistic_margins(
                features.select(train),
                outcomes[train],
                features.select(fold.test_indices),
                is_symmetric=is_symmetric,
                weights=weights[:, train],
            )
        )
    return np.concatenate(margins, axis=1)
