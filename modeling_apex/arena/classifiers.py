"""
Classifiers of battles: those of the paper, made symmetric in A and B.

What comes in are features in both orders and the winners; what leaves are margins. The symmetric wrapper trains on
every battle in both orders and answers with half the difference of its two readings, so exchanging A and B changes the
sign of a margin and nothing else, whatever the classifier inside. XGBoost takes part when it is installed.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.pair_features import PairFeatures
from modeling_apex.arena.predictions import PairPrediction, build_system_pairs
from modeling_apex.arena.protocols import Fold
from modeling_apex.statistics.logistic import fit_logistic

# The notebook searches a grid for its SVM with balanced classes; which grid is not published.
SVM_GRID = {"svc__C": [0.1, 1.0, 10.0], "svc__gamma": ["scale", 0.01, 0.1]}
SVM_FOLDS = 3
PUBLISHED_RECIPE_DIFFERENCES = (
    f"recipe published: the notebook's grid of the SVM is not published; here C of {SVM_GRID['svc__C']} and gamma of "
    f"{SVM_GRID['svc__gamma']}, by the AUC of {SVM_FOLDS} folds within the training battles",
    "recipe published: how the notebook makes combined_popularity is not published; here the mean of the popularity "
    "scores",
)
# Rows in both orders stand twice, which halves what the penalty (C = 1) weighs beside each battle.
SYMMETRIC_PENALTY, PENALTY, INTERCEPT_PENALTY = 0.5, 1.0, 1e-9
FIT_TOLERANCE = 1e-5  # Newton's last step; what it leaves is its square

CLASSIFIERS = ("logistic_regression", "random_forest", "gradient_boosting", "adaboost", "svm", "xgboost")


def get_default_classifiers() -> tuple[str, ...]:
    """Name the classifiers that can run here: all, but XGBoost only when it is installed."""
    has_xgboost = importlib.util.find_spec("xgboost") is not None
    return tuple(name for name in CLASSIFIERS if has_xgboost or name != "xgboost")


def build_classifier(name: str, seed: int, recipe: str = "symmetric") -> Any:
    """
    Build an untrained classifier with the scikit-learn interface.

    Args:
        name (`str`): One of `CLASSIFIERS`, but for logistic regression, which [`predict_margins`] fits itself.
        seed (`int`): Seed of whatever is random in it.
        recipe (`str`, defaults to `"symmetric"`): `"published"` searches a grid for the SVM, with balanced classes.

    Returns:
        `Any`: The classifier.

    Raises:
        `ValueError`: If the name is unknown.
        `ImportError`: If XGBoost is asked for and not installed.
    """
    from sklearn.ensemble import AdaBoostClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if name == "xgboost":
        try:
            from xgboost import XGBClassifier
        except ImportError as error:
            raise ImportError("The classifier 'xgboost' needs XGBoost: `pip install xgboost`.") from error
        return XGBClassifier(n_estimators=100, max_depth=3, learning_rate=0.05, n_jobs=1, random_state=seed)
    builders: dict[str, Callable[[], Any]] = {
        "random_forest": lambda: RandomForestClassifier(n_estimators=200, min_samples_leaf=5, random_state=seed),
        "gradient_boosting": lambda: HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.05, max_leaf_nodes=8, early_stopping=False, random_state=seed
        ),
        "adaboost": lambda: AdaBoostClassifier(n_estimators=50, random_state=seed),
        "svm": lambda: make_pipeline(StandardScaler(), SVC(C=1.0, kernel="rbf")),
    }
    if recipe == "published" and name == "svm":
        machine = make_pipeline(StandardScaler(), SVC(kernel="rbf", class_weight="balanced"))
        return GridSearchCV(machine, SVM_GRID, scoring="roc_auc", cv=SVM_FOLDS)
    if name not in builders:
        raise ValueError(f"Classifier {name!r} is unknown. Choose among {CLASSIFIERS}.")
    return builders[name]()


def _read_margins(classifier: Any, values: np.ndarray) -> np.ndarray:
    if hasattr(classifier, "decision_function"):
        return np.asarray(classifier.decision_function(values), dtype=np.float64)
    return np.asarray(classifier.predict_proba(values)[:, 1], dtype=np.float64) - 0.5


def predict_logistic_margins(
    train: PairFeatures,
    outcomes: np.ndarray,
    test: PairFeatures,
    *,
    is_symmetric: bool = True,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """
    Fit logistic regressions on standardised features and read their margins, for many tables or samples at once.

    This is scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=1.0))`, trained on both orders where
    it is symmetric; there features that do not change sign between the orders have no part in a margin.

    Args:
        train (`PairFeatures` of shape `(..., num_battles, num_features)`): Features of the battles to train on.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1 where A won, 0 where B won.
        test (`PairFeatures` of shape `(..., num_test_battles, num_features)`): Features of the battles to predict.
        is_symmetric (`bool`, defaults to `True`): See [`predict_margins`].
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*):
            How often each battle stands in each bootstrap sample; then there is one table.

    Returns:
        `np.ndarray` of shape `(..., num_test_battles)` or `(num_draws, num_test_battles)`: The margins.
    """
    if is_symmetric:
        design, asked = (0.5 * (part.values - part.swapped) for part in (train, test))
        center = 0.0
    else:
        design, asked = train.values, test.values
        center = design.mean(axis=-2, keepdims=True)
    # The scale of the whole training set serves all its samples, too.
    scale = np.sqrt(np.mean((design - center) ** 2, axis=-2, keepdims=True))
    scale = np.where(scale > 1e-12, scale, 1.0)
    design, asked = (design - center) / scale, (asked - center) / scale
    penalties = np.full(design.shape[-1], SYMMETRIC_PENALTY if is_symmetric else PENALTY)
    if not is_symmetric:
        design, asked = (np.concatenate([part, np.ones_like(part[..., :1])], axis=-1) for part in (design, asked))
        penalties = np.append(penalties, INTERCEPT_PENALTY)
    trials = 1.0 if weights is None else weights
    found = fit_logistic(design, outcomes * trials, penalties, trials=trials, tolerance=FIT_TOLERANCE)
    return (asked @ found[..., None])[..., 0] if asked.ndim > 2 else found @ asked.T


def predict_margins(
    name: str, seed: int, train: PairFeatures, outcomes: np.ndarray, test: PairFeatures, *, is_symmetric: bool = True
) -> np.ndarray:
    """
    Train a classifier on decisive battles and read its margins of A over B on others.

    Args:
        name (`str`): One of `CLASSIFIERS`.
        seed (`int`): Seed of whatever is random in it.
        train (`PairFeatures`): Features of the battles to train on.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1 where A won, 0 where B won.
        test (`PairFeatures`): Features of the battles to predict.
        is_symmetric (`bool`, defaults to `True`):
            Train on both orders and answer antisymmetrically. Otherwise battles are taken in the order in which they
            were shown, as published, and the classifier can learn that one position wins more often.

    Returns:
        `np.ndarray` of shape `(num_test_battles,)`: The margins.

    Raises:
        `ValueError`: If there is no battle to train on, or without symmetry one class only.
    """
    if not len(outcomes) or (not is_symmetric and len(np.unique(outcomes)) < 2):
        raise ValueError(
            f"A classifier cannot learn from {len(outcomes)} battles of {len(np.unique(outcomes))} class(es). It "
            "needs battles won by A and battles won by B."
        )
    if name == "logistic_regression":
        return predict_logistic_margins(train, outcomes, test, is_symmetric=is_symmetric)
    classifier = build_classifier(name, seed, "symmetric" if is_symmetric else "published")
    if not is_symmetric:
        return _read_margins(classifier.fit(train.values, outcomes), test.values)
    # Each battle is written down with the same side first however it was shown: otherwise the rows of the two orders
    # would trade places when A and B are exchanged, and a random forest would draw other trees.
    differences = train.values - train.swapped
    first = np.argmax(differences != 0, axis=1)
    is_turned = (differences[np.arange(len(first)), first] < 0)[:, None]
    ahead = np.where(is_turned, train.swapped, train.values)
    behind = np.where(is_turned, train.values, train.swapped)
    ahead_won = np.where(is_turned[:, 0], 1.0 - outcomes, outcomes)
    classifier.fit(np.concatenate([ahead, behind]), np.concatenate([ahead_won, 1.0 - ahead_won]).astype(int))
    return 0.5 * (_read_margins(classifier, test.values) - _read_margins(classifier, test.swapped))


def cross_predict(
    table: BattleTable,
    features: dict[str, PairFeatures],
    folds: list[Fold],
    *,
    classifiers: tuple[str, ...],
    seed: int,
    is_symmetric: bool = True,
    is_within_pairs: bool = False,
    num_jobs: int = 1,
) -> dict[tuple[str, str], PairPrediction]:
    """
    Train every classifier on every feature set in every fold and predict the held-out battles.

    Args:
        table (`BattleTable`): The battles; ties are predicted but never trained on.
        features (`dict[str, PairFeatures]`): Feature sets by name, one row a battle of the table.
        folds (`list[Fold]`): The folds.
        classifiers (`tuple[str, ...]`): Names out of `CLASSIFIERS`.
        seed (`int`): Seed of the classifiers.
        is_symmetric (`bool`, defaults to `True`): See [`predict_margins`].
        is_within_pairs (`bool`, defaults to `False`): Compare within pairs of systems only.
        num_jobs (`int`, defaults to 1): Number of processes.

    Returns:
        `dict[tuple[str, str], PairPrediction]`: Predictions by classifier and feature set.
    """
    from joblib import Parallel, delayed

    keys = [(classifier, feature_set) for classifier in classifiers for feature_set in features]
    outcomes = table.outcomes
    decisive = [fold.train_indices[table.is_decisive[fold.train_indices]] for fold in folds]
    tasks = (
        delayed(predict_margins)(
            classifier,
            seed,
            features[feature_set].select(train),
            outcomes[train],
            features[feature_set].select(fold.test_indices),
            is_symmetric=is_symmetric,
        )
        for classifier, feature_set in keys
        for fold, train in zip(folds, decisive, strict=True)
    )
    margins = Parallel(n_jobs=num_jobs)(tasks)
    rows = np.concatenate([fold.test_indices for fold in folds])
    strata = build_system_pairs(table)[0][rows] if is_within_pairs else None
    return {
        key: PairPrediction(
            " / ".join(key), np.concatenate(margins[number * len(folds) : (number + 1) * len(folds)]), rows, strata
        )
        for number, key in enumerate(keys)
    }
