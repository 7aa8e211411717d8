"""The logistic fit against scikit-learn, and its trials, offsets and independent fits against plain rows."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from modeling_apex.statistics.logistic import compute_logistic, fit_logistic


def test_fit_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    values, outcomes = generator.normal(size=(100, 3)), generator.integers(0, 2, 100)
    expected = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10).fit(values, outcomes).coef_[0]
    np.testing.assert_allclose(fit_logistic(values, outcomes, np.ones(3)), expected, atol=1e-5)


def test_trials_are_repeated_rows() -> None:
    generator = np.random.default_rng(1)
    values, trials = generator.normal(size=(20, 2)), generator.integers(1, 4, 20)
    successes = generator.binomial(trials, 0.5)
    rows = np.repeat(np.arange(20), trials)
    outcomes = np.concatenate([np.arange(n) < k for n, k in zip(trials, successes, strict=True)]).astype(float)
    expected = fit_logistic(values[rows], outcomes, np.ones(2))
    np.testing.assert_allclose(fit_logistic(values, successes, np.ones(2), trials=trials), expected, rtol=1e-10)


def test_known_logits_are_a_feature_of_coefficient_one() -> None:
    generator = np.random.default_rng(2)
    values, known = generator.normal(size=(50, 1)), generator.normal(size=50)
    outcomes = (generator.random(50) < compute_logistic(known + values[:, 0])).astype(float)
    (found,) = fit_logistic(values, outcomes, np.array([0.5]), offsets=known)
    gradient = 0.5 * found - values[:, 0] @ (outcomes - compute_logistic(known + found * values[:, 0]))
    assert abs(gradient) < 1e-9
    assert abs(found - fit_logistic(values, outcomes, np.array([0.5]))[0]) > 0.01


def test_leading_axes_are_independent_fits() -> None:
    generator = np.random.default_rng(3)
    values, outcomes = generator.normal(size=(30, 2)), generator.integers(0, 2, (2, 3, 30)).astype(float)
    found = fit_logistic(values, outcomes, np.ones(2))
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found[1, 2], fit_logistic(values, outcomes[1, 2], np.ones(2)), rtol=1e-10)
