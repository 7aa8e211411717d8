"""Features and classifiers: symmetry, the right sign, and no effect where there is none."""

import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_apex.arena.classifiers import (
    CLASSIFIERS,
    build_classifier,
    cross_predict,
    predict_logistic_margins,
    predict_margins,
)
from modeling_apex.arena.direct_rules import build_direct_rules
from modeling_apex.arena.pair_features import build_pair_features, build_side_features
from modeling_apex.arena.protocols import build_random_folds
from modeling_apex.statistics.pair_metrics import compute_auc

from simulated_battles import build_table, swap_sides

LOCAL_CLASSIFIERS = tuple(name for name in CLASSIFIERS if name != "xgboost")


def test_the_better_song_wins() -> None:
    """The published rules let the lower score win; whatever happens to the code, higher must mean preferred."""
    table = build_table(300, popularity_effect=3.0, aesthetics_effect=6.0)
    for rule in build_direct_rules(table):
        assert compute_auc(rule.margins, table.outcomes)[0] > 0.5, rule.name
    sure = build_table(2)
    sure.scores[:, 0], sure.scores[:, 1] = 4.0, 2.0
    assert all((rule.margins > 0).all() for rule in build_direct_rules(sure)[:-1])


def test_direct_rules_are_antisymmetric() -> None:
    table = build_table(50)
    for rule, swapped in zip(build_direct_rules(table), build_direct_rules(swap_sides(table)), strict=True):
        np.testing.assert_allclose(swapped.margins, -rule.margins, atol=1e-12)


def test_features_follow_the_recipe() -> None:
    table = build_table(20)
    symmetric = build_pair_features(table, [0, 1])
    published = build_pair_features(table, [0, 1], recipe="published")
    first, second = table.scores[:, 0, 0], table.scores[:, 1, 0]
    difference, _, _, ratio, _, _, is_instrumental, interaction, _, _ = published.values.T
    np.testing.assert_allclose(difference, first - second)
    np.testing.assert_allclose(ratio, first / second)
    np.testing.assert_allclose(interaction, (first - second) * table.instrumental)
    np.testing.assert_array_equal(is_instrumental, table.instrumental)
    flipped = np.arange(7) != 4  # all but whether the battle is instrumental
    np.testing.assert_allclose(symmetric.swapped, symmetric.values * np.where(flipped, -1.0, 1.0), atol=1e-12)


def test_a_score_of_zero_has_no_ratio() -> None:
    table = build_table(20)
    whole = build_pair_features(table, [0, 1])
    table.scores[0, 0, 0] = 0.0
    features = build_pair_features(table, [0, 1])
    assert np.isfinite(features.values).all()
    np.testing.assert_array_equal(features.values[1:], np.delete(whole.values[1:], 2, axis=1))


@pytest.mark.parametrize("name", LOCAL_CLASSIFIERS)
def test_classifiers_change_sign_when_sides_are_swapped(name: str) -> None:
    table = build_table(80, popularity_effect=2.0, aesthetics_effect=2.0)
    features = build_pair_features(table, list(range(7)))
    swapped = build_pair_features(swap_sides(table), list(range(7)))
    margins = predict_margins(name, 0, features, table.outcomes, features)
    other = predict_margins(name, 0, swapped, 1.0 - table.outcomes, swapped)
    np.testing.assert_allclose(other, -margins, atol=1e-9)
    assert compute_auc(margins, table.outcomes)[0] > 0.6


def test_ties_are_predicted_but_never_trained_on() -> None:
    table = build_table(100, aesthetics_effect=3.0, tie_share=0.3)
    features = {"all": build_pair_features(table, list(range(7)))}
    folds = build_random_folds(table, 4, 0)
    (found,) = cross_predict(table, features, folds, classifiers=("logistic_regression",), seed=0).values()
    is_tie = table.preferences == "TIE"
    assert np.isfinite(found.compute_battle_margins(100)[is_tie]).all()
    fold = folds[0]
    train = fold.train_indices[~is_tie[fold.train_indices]]
    given, asked = features["all"].select(train), features["all"].select(fold.test_indices)
    alone = predict_margins("logistic_regression", 0, given, table.outcomes[train], asked)
    np.testing.assert_allclose(alone, found.margins[: len(fold.test_indices)])


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_logistic_regression_is_that_of_scikit_learn(is_symmetric: bool) -> None:
    table = build_table(150, popularity_effect=2.0, aesthetics_effect=2.0)
    features = build_pair_features(table, list(range(7)), recipe="symmetric" if is_symmetric else "published")
    train, test = features.select(np.arange(100)), features.select(np.arange(100, 150))
    outcomes = table.outcomes[:100]
    margins = predict_margins("logistic_regression", 0, train, outcomes, test, is_symmetric=is_symmetric)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=10_000, tol=1e-10))
    if is_symmetric:
        model.fit(np.concatenate([train.values, train.swapped]), np.concatenate([outcomes, 1 - outcomes]))
        expected = 0.5 * (model.decision_function(test.values) - model.decision_function(test.swapped))
    else:
        expected = model.fit(train.values, outcomes).decision_function(test.values)
    np.testing.assert_allclose(margins, expected, atol=1e-4)


def test_samples_are_fitted_as_if_battles_were_repeated() -> None:
    table = build_table(60, aesthetics_effect=3.0)
    features = build_pair_features(table, [0, 1])
    weights = np.random.default_rng(0).integers(0, 3, (2, 60)).astype(float)
    found = predict_logistic_margins(features, table.outcomes, features, weights=weights)
    scale = np.sqrt((features.values**2).mean(axis=0))
    for row in range(2):
        rows = np.repeat(np.arange(60), weights[row].astype(int))
        design = np.where(scale > 0, features.values / np.where(scale > 0, scale, 1), 0.0)
        design[:, 4] = 0.0  # whether the battle is instrumental says nothing of A against B
        model = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10).fit(design[rows], table.outcomes[rows])
        np.testing.assert_allclose(found[row], design @ model.coef_[0], atol=1e-4)


def test_the_published_recipe_has_combined_popularity_and_a_balanced_grid() -> None:
    table = build_table(30)
    symmetric = build_pair_features(table, [0, 1, 2])
    published = build_pair_features(table, [0, 1, 2], recipe="published")
    assert symmetric.values.shape[1] == 3 * 3 + 1
    assert published.values.shape[1] == 4 * 3 + 1
    combined = table.scores[..., :2].mean(axis=-1)
    np.testing.assert_allclose(published.values[:, 3], combined[:, 0] - combined[:, 1])
    search = build_classifier("svm", 0, "published")
    assert search.estimator.named_steps["svc"].class_weight == "balanced"
    assert set(search.param_grid) == {"svc__C", "svc__gamma"}
    assert build_classifier("svm", 0).named_steps["svc"].class_weight is None


def test_refusals() -> None:
    table = build_table(20)
    with pytest.raises(ValueError, match="Feature recipe 'own' is unknown"):
        build_pair_features(table, [0], recipe="own")
    with pytest.raises(ValueError, match="at least one score"):
        build_pair_features(table, [])
    with pytest.raises(ValueError, match="Classifier 'oracle' is unknown"):
        build_classifier("oracle", 0)
    features = build_pair_features(table, [0], recipe="published")
    with pytest.raises(ValueError, match=r"cannot learn from 20 battles of 1 class\(es\)"):
        predict_margins("svm", 0, features, np.ones(20), features, is_symmetric=False)
    table.durations[0, 0] = 0.0
    with pytest.raises(ValueError, match=r"not above zero in battles \['battle-0'\]"):
        build_side_features(table)
    table.loudness[0, 0] = np.nan
    with pytest.raises(ValueError, match="duration or loudness is missing"):
        build_side_features(table)


def test_xgboost_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ImportError, match="pip install xgboost"):
        build_classifier("xgboost", 0)
