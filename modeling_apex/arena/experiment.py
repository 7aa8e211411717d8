"""
The arena experiment: do predicted scores foretell which of two songs people prefer, on generators unseen in training?

What comes in is a table of battles; what leaves is one JSON-ready dictionary with everything that the report, the
plots and the conclusion read: direct rules, classifiers under four protocols, baselines, the effect of aesthetics,
leaderboards, the preference head and the gain of anchor battles. Every predictor of a subset is measured on the same
bootstrap draws.
"""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from modeling_apex.arena.anchors import compute_anchor_gains
from modeling_apex.arena.baselines import (
    has_duration_and_loudness,
    measure_coin,
    predict_by_duration_and_loudness,
    predict_by_position,
    predict_by_system,
)
from modeling_apex.arena.battle_table import SUBSETS, BattleTable, drop_missing_scores
from modeling_apex.arena.classifiers import cross_predict, get_default_classifiers
from modeling_apex.arena.direct_rules import build_direct_rules
from modeling_apex.arena.leaderboard import compute_leaderboards
from modeling_apex.arena.pair_features import RECIPES, PairFeatures, build_pair_features
from modeling_apex.arena.predictions import MeasuredPrediction, PairPrediction, measure_prediction
from modeling_apex.arena.preference import MINIMUM_TRAINING_BATTLES, PreferenceHead, fit_preference_head
from modeling_apex.arena.protocols import (
    PROTOCOLS,
    ProtocolUnavailableError,
    build_battle_groups,
    build_folds,
    check_battles,
    drop_rare_systems,
)
from modeling_apex.statistics.bootstrap import (
    INTERVAL_LEVEL,
    compute_bootstrap_p_value,
    compute_holm_rejections,
    draw_bootstrap_weights,
    summarize_draws,
)

logger = logging.getLogger(__name__)

WITHOUT_AESTHETICS = "popularity"
WITH_AESTHETICS = "popularity_and_aesthetics"
# The question is about generators unseen in training, and the paper's simplest classifier has nothing to tune: this
# one comparison is the primary one, fixed before any battle is read. All others are corrected for being many.
PRIMARY_PROTOCOL = "leave_one_system_out"
PRIMARY_CLASSIFIER = "logistic_regression"


@dataclass(frozen=True)
class ArenaOptions:
    """
    Hold the options of the experiment.

    Args:
        num_folds (`int`, defaults to 10): Folds of the cross-validations.
        num_draws (`int`, defaults to 1000): Bootstrap draws.
        seed (`int`, defaults to 0): Seed of folds, classifiers and draws.
        protocols (`tuple[str, ...]`): Which protocols to run.
        classifiers (`tuple[str, ...]`): Which classifiers to run.
        recipe (`str`, defaults to `"symmetric"`):
            `"published"` takes the paper's features and classifiers as they are, which are not symmetric in A and B.
        drop_rare_systems (`bool`, defaults to `False`): Leave out systems with fewer decisive battles than folds.
        bootstrap_groups (`bool`, defaults to `False`): Draw groups of shared prompts and users instead of battles.
        num_jobs (`int`, defaults to 1): Number of processes for the classifiers.

    Raises:
        `ValueError`: If a protocol or the recipe is unknown, or there are fewer than 100 draws.
    """

    num_folds: int = 10
    num_draws: int = 1000
    seed: int = 0
    protocols: tuple[str, ...] = PROTOCOLS
    classifiers: tuple[str, ...] = field(default_factory=get_default_classifiers)
    recipe: str = "symmetric"
    drop_rare_systems: bool = False
    bootstrap_groups: bool = False
    num_jobs: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown:
            raise ValueError(f"Unknown protocols {unknown}. Choose among {PROTOCOLS}.")
        if self.recipe not in RECIPES:
            raise ValueError(f"Feature recipe {self.recipe!r} is unknown. Choose one of {RECIPES}.")
        if self.num_draws < 100:
            raise ValueError(f"`num_draws` is {self.num_draws}. An interval needs at least 100 bootstrap draws.")


def _measure(prediction: PairPrediction, table: BattleTable, weights: np.ndarray) -> dict[str, MeasuredPrediction]:
    """Measure a prediction on each subset that it speaks of."""
    masks = {subset: table.get_subset_mask(subset) for subset in SUBSETS}
    return {
        subset: measure_prediction(prediction, table, weights, mask)
        for subset, mask in masks.items()
        if mask[prediction.battle_indices].any()
    }


def _summarize(measured: dict[str, MeasuredPrediction]) -> dict[str, dict[str, Any]]:
    return {
        subset: {name: summarize_draws(value, part.draws[name]) for name, value in part.estimates.items()}
        for subset, part in measured.items()
    }


def run_arena(table: BattleTable, options: ArenaOptions | None = None) -> tuple[dict[str, Any], PreferenceHead | None]:
    """
    Run the whole experiment.

    Args:
        table (`BattleTable`): The battles, with or without scores.
        options (`ArenaOptions`, *optional*): The options.

    Returns:
        `tuple[dict, PreferenceHead | None]`: The JSON-ready results and the preference head, `None` without scores. A
        part that the table cannot serve holds `unavailable` with the reason.

    Raises:
        `ValueError`: If the battles have one class only, a system has fewer battles than folds, or no battle is
        complete.
    """
    options = options or ArenaOptions()
    given = table
    table, missing = drop_missing_scores(table)
    dropped: dict[str, int] = {}
    if options.drop_rare_systems:
        table, dropped = drop_rare_systems(table, options.num_folds)
    check_battles(table, options.num_folds)
    table = table.select(table.is_voted)
    groups = build_battle_groups(table) if options.bootstrap_groups else None
    weights = draw_bootstrap_weights(len(table), options.num_draws, options.seed, groups)
    results: dict[str, Any] = {
        "options": {**asdict(options), "interval_level": INTERVAL_LEVEL},
        "battles": _describe_battles(given, table, dropped),
        "missing_scores": missing,
        "scores": [asdict(column) for column in table.score_columns],
    }
    is_won_by_a = PairPrediction("always A", np.ones(len(table)), np.arange(len(table)))
    results["share_won_by_a"] = {
        subset: found["accuracy"] for subset, found in _summarize(_measure(is_won_by_a, table, weights)).items()
    }
    rules = build_direct_rules(table)
    results["direct_rules"] = {rule.name: _summarize(_measure(rule, table, weights)) for rule in rules}

    logger.info("Training classifiers on %d battles.", int(table.is_decisive.sum()))
    results["protocols"], leaderboard_predictions = _run_protocols(table, weights, options)
    results["aesthetics_effect"] = _summarize_aesthetics_effect(results["protocols"])
    parts = {subset: table.select(table.get_subset_mask(subset)) for subset in SUBSETS}
    results["coin"] = {
        subset: measure_coin(part.outcomes, num_draws=options.num_draws, seed=options.seed)
        for subset, part in parts.items()
        if part.is_decisive.any()
    }
    margins = {rule.name: rule.margins for rule in rules} | leaderboard_predictions
    # The human leaderboard needs no scores: it is made of every vote given, like the public one.
    results["human_leaderboards"] = compute_leaderboards(given, num_draws=options.num_draws, seed=options.seed)
    results["leaderboards"] = compute_leaderboards(table, margins, num_draws=options.num_draws, seed=options.seed)
    results["preference_head"], results["anchors"], head = _run_preference(table, options)
    results["conclusion"] = build_conclusion(results)
    return results, head


def _describe_battles(given: BattleTable, used: BattleTable, dropped: dict[str, int]) -> dict[str, Any]:
    outcomes = used.outcomes[used.is_decisive]
    return {
        "num_given": len(given),
        "num_both_bad": int((given.preferences == "BOTH_BAD").sum()),
        "num_used": len(used),
        "num_ties": int((used.preferences == "TIE").sum()),
        "num_decisive": len(outcomes),
        "num_won_by_a": int(outcomes.sum()),
        "num_won_by_b": int((1 - outcomes).sum()),
        "num_instrumental": int((used.instrumental == 1).sum()),
        "num_vocal": int((used.instrumental == 0).sum()),
        "num_not_known_if_instrumental": int((used.instrumental == -1).sum()),
        "num_systems": len(np.unique(used.systems.astype(str))),
        "rare_systems_left_out": dropped,
    }


def build_feature_sets(table: BattleTable, recipe: str) -> dict[str, PairFeatures]:
    """
    Build the feature sets that the table's scores allow.

    Args:
        table (`BattleTable`): Battles with all their scores.
        recipe (`str`): See [`build_pair_features`].

    Returns:
        `dict[str, PairFeatures]`: `popularity` and `popularity_and_aesthetics` as in the paper where both groups are
        there; `all_scores` where there are others or only aesthetics; empty without scores.
    """
    popularity, aesthetics = table.get_group_indices("popularity"), table.get_group_indices("aesthetics")
    everything = table.get_group_indices("popularity", "aesthetics", "other")
    chosen = {WITHOUT_AESTHETICS: popularity}
    if popularity and aesthetics:
        chosen[WITH_AESTHETICS] = popularity + aesthetics
    if everything not in list(chosen.values()):
        chosen["all_scores"] = everything
    return {name: build_pair_features(table, indices, recipe=recipe) for name, indices in chosen.items() if indices}


def _run_protocols(
    table: BattleTable, weights: np.ndarray, options: ArenaOptions
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    is_symmetric = options.recipe == "symmetric"
    features = build_feature_sets(table, options.recipe)
    results: dict[str, Any] = {}
    leaderboard_predictions: dict[str, np.ndarray] = {}
    for protocol in options.protocols:
        is_within = protocol == "within_system_pairs"
        try:
            folds = build_folds(protocol, table, options.num_folds, options.seed, is_stratified=not is_symmetric)
            for fold in folds:
                if not table.is_decisive[fold.train_indices].any():
                    raise ProtocolUnavailableError(f"{fold.name} leaves no decisive battle to train on")
        except ProtocolUnavailableError as error:
            results[protocol] = {"unavailable": str(error)}
            continue
        predictions = cross_predict(
            table,
            features,
            folds,
            classifiers=options.classifiers,
            seed=options.seed,
            is_symmetric=is_symmetric,
            is_within_pairs=is_within,
            num_jobs=options.num_jobs,
        )
        measured = {key: _measure(prediction, table, weights) for key, prediction in predictions.items()}
        classifiers: dict[str, Any] = {}
        for (classifier, feature_set), found in measured.items():
            classifiers.setdefault(classifier, {})[feature_set] = _summarize(found)
        results[protocol] = {
            "num_folds": len(folds),
            "is_symmetric": is_symmetric,
            "classifiers": classifiers,
            "baselines": _measure_baselines(table, weights, protocol, options),
            "with_minus_without_aesthetics": {
                classifier: _compare(measured[classifier, WITH_AESTHETICS], measured[classifier, WITHOUT_AESTHETICS])
                for classifier in options.classifiers
                if WITHOUT_AESTHETICS in features and WITH_AESTHETICS in features
            },
            "margins": {" / ".join(key): _list_margins(found, table) for key, found in predictions.items()},
        }
        if protocol == PRIMARY_PROTOCOL:
            leaderboard_predictions = {
                f"{classifier} on {feature_set}": prediction.compute_battle_margins(len(table))
                for (classifier, feature_set), prediction in predictions.items()
                if classifier == PRIMARY_CLASSIFIER
            }
    return results, leaderboard_predictions


def _list_margins(prediction: PairPrediction, table: BattleTable) -> dict[str, list[Any]]:
    rows = prediction.battle_indices
    return {
        "battle_ids": [str(name) for name in table.battle_ids[rows]],
        "margins": [round(float(margin), 6) for margin in prediction.margins],
        "outcomes": [float(outcome) for outcome in table.outcomes[rows]],
    }


def _measure_baselines(
    table: BattleTable, weights: np.ndarray, protocol: str, options: ArenaOptions
) -> dict[str, Any]:
    is_within = protocol == "within_system_pairs"
    folds = build_folds(protocol, table, options.num_folds, options.seed)
    by_system = predict_by_system(table, folds, is_within_pairs=is_within)
    baselines: dict[str, Any] = {"system_tags_only": _summarize(_measure(by_system, table, weights))}
    if not is_within:
        baselines["position_only"] = _summarize(_measure(predict_by_position(table, folds), table, weights))
    is_known = has_duration_and_loudness(table)
    listed = [str(name) for name in table.battle_ids[~is_known]]
    try:
        if not (is_known & table.is_decisive).sum() >= MINIMUM_TRAINING_BATTLES:
            raise ProtocolUnavailableError(
                f"duration and loudness are known for {int(is_known.sum())} of {len(table)} battles only"
            )
        known = table.select(is_known)
        folds = build_folds(protocol, known, options.num_folds, options.seed)
        prediction = predict_by_duration_and_loudness(known, folds, seed=options.seed, is_within_pairs=is_within)
        found = _summarize(_measure(prediction, known, weights[:, is_known]))
        baselines["duration_and_loudness_only"] = {**found, "battles_left_out": listed}
    except ProtocolUnavailableError as error:
        baselines["duration_and_loudness_only"] = {"unavailable": str(error)}
    return baselines


def _compare(
    first: dict[str, MeasuredPrediction], second: dict[str, MeasuredPrediction]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Give first minus second, per subset and metric, with a paired bootstrap interval and p-value."""
    compared: dict[str, dict[str, dict[str, Any]]] = {}
    for subset, part in first.items():
        compared[subset] = {}
        for name, value in part.estimates.items():
            draws = part.draws[name] - second[subset].draws[name]
            summary = summarize_draws(value - second[subset].estimates[name], draws)
            compared[subset][name] = {**summary, "p_value": compute_bootstrap_p_value(draws)}
    return compared


def _summarize_aesthetics_effect(protocols: dict[str, Any]) -> dict[str, Any]:
    """Collect the differences of AUC over all battles and correct them for being many."""
    rows = [
        {"protocol": protocol, "classifier": classifier, **compared["all"]["auc"]}
        for protocol, found in protocols.items()
        for classifier, compared in found.get("with_minus_without_aesthetics", {}).items()
    ]
    tested = [row for row in rows if row["p_value"] is not None]
    for row, rejected in zip(tested, compute_holm_rejections([row["p_value"] for row in tested]), strict=True):
        row["is_significant_after_holm"] = rejected
    if not rows:
        return {"unavailable": "the table does not have both popularity and aesthetic scores", "rows": []}
    return {
        "metric": "auc",
        "primary": {"protocol": PRIMARY_PROTOCOL, "classifier": PRIMARY_CLASSIFIER},
        "num_better_after_holm": sum(row["is_significant_after_holm"] and row["estimate"] > 0 for row in tested),
        "num_worse_after_holm": sum(row["is_significant_after_holm"] and row["estimate"] < 0 for row in tested),
        "rows": rows,
    }


def _run_preference(
    table: BattleTable, options: ArenaOptions
) -> tuple[dict[str, Any], dict[str, Any], PreferenceHead | None]:
    num_decisive = int(table.is_decisive.sum())
    if not table.get_group_indices("popularity", "aesthetics", "other"):
        reason = {"unavailable": "the table has no scores"}
        return reason, reason, None
    if num_decisive < MINIMUM_TRAINING_BATTLES:
        reason = {"unavailable": f"{num_decisive} decisive battles are fewer than {MINIMUM_TRAINING_BATTLES}"}
        return reason, reason, None
    head = fit_preference_head(table, seed=options.seed)
    return asdict(head), compute_anchor_gains(table, num_draws=options.num_draws, seed=options.seed), head


def build_conclusion(results: dict[str, Any]) -> str:
    """
    Say in words what the primary comparison found; the words follow from the numbers.

    Args:
        results (`dict`): Results of [`run_arena`], complete up to `aesthetics_effect`.

    Returns:
        `str`: One to three sentences.
    """
    effect = results["aesthetics_effect"]
    if "unavailable" in effect:
        return f"Whether aesthetics help cannot be said: {effect['unavailable']}."
    primary = next(
        (r for r in effect["rows"] if (r["protocol"], r["classifier"]) == (PRIMARY_PROTOCOL, PRIMARY_CLASSIFIER)), None
    )
    tested = len(effect["rows"])
    others = (
        f"Of all {tested} comparisons, {effect['num_better_after_holm']} are better with aesthetics and "
        f"{effect['num_worse_after_holm']} worse after Holm's correction."
    )
    if primary is None or primary["p_value"] is None:
        return f"The primary comparison ({PRIMARY_CLASSIFIER}, {PRIMARY_PROTOCOL}) could not be made. {others}"
    if primary["p_value"] >= 0.05:
        verdict = "No: there is no evidence that aesthetic scores help"
    elif primary["estimate"] > 0:
        verdict = "Yes: aesthetic scores help"
    else:
        verdict = "No: aesthetic scores hurt"
    return (
        f"{verdict} to foretell preferences on systems left out of training ({PRIMARY_CLASSIFIER}, AUC with "
        f"minus without {primary['estimate']:+.3f}, {INTERVAL_LEVEL:.0%} interval {primary['low']:+.3f} to "
        f"{primary['high']:+.3f}, p = {primary['p_value']:.3f}). {others}"
    )
