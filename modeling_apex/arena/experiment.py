"""
The arena experiment: do predicted scores foretell which of two songs people prefer, on generators unseen in training?

What comes in is a table of battles; what leaves is one JSON-ready dictionary with everything that the report, the
plots and the conclusion read: direct rules, classifiers under five protocols, baselines, the effect of aesthetics,
leaderboards, the preference head and the gain of anchor battles. Every predictor of a subset is measured on the same
bootstrap draws; a logistic regression is refitted on each.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from modeling_apex.arena.aesthetics_effect import (
    PRIMARY_CLASSIFIER,
    PRIMARY_PROTOCOL,
    EffectTester,
    build_conclusion,
    summarize_aesthetics_effect,
)
from modeling_apex.arena.anchors import compute_anchor_gains
from modeling_apex.arena.baselines import measure_baselines, measure_coin
from modeling_apex.arena.battle_resamples import RESAMPLED_UNITS, draw_battle_resamples
from modeling_apex.arena.battle_table import SUBSETS, BattleTable, drop_missing_scores
from modeling_apex.arena.classifiers import (
    CLASSIFIERS,
    PUBLISHED_RECIPE_DIFFERENCES,
    cross_predict,
    get_default_classifiers,
)
from modeling_apex.arena.direct_rules import build_direct_rules
from modeling_apex.arena.leaderboard import compute_leaderboards
from modeling_apex.arena.pair_features import (
    RECIPES,
    PairFeatures,
    build_pair_features,
    list_scores_without_ratio,
)
from modeling_apex.arena.permutations import CLAIMS, refit_draws
from modeling_apex.arena.predictions import MeasuredPrediction, PairPrediction, compare_measured, measure_subsets
from modeling_apex.arena.preference import MINIMUM_TRAINING_BATTLES, PreferenceHead, fit_preference_head
from modeling_apex.arena.protocols import (
    PROTOCOLS,
    WITHIN_PAIRS,
    Fold,
    ProtocolUnavailableError,
    build_folds,
    check_battles,
    check_folds,
    count_decisive_battles,
    drop_rare_systems,
)
from modeling_apex.statistics.bootstrap import Resamples
from modeling_apex.statistics.result_schema import build_opening
from modeling_apex.statistics.shares import INTERVAL_LEVEL

logger = logging.getLogger(__name__)

WITHOUT_AESTHETICS = "popularity"
WITH_AESTHETICS = "popularity_and_aesthetics"


@dataclass(frozen=True)
class ArenaOptions:
    """
    Hold the options of the experiment.

    Args:
        num_folds (`int`, defaults to 10): Folds of the cross-validations.
        num_draws (`int`, defaults to 1000): Bootstrap draws.
        num_refits (`int`, defaults to 200): Draws on which a logistic regression is refitted.
        num_permutations (`int`, *optional*):
            Permutations of the aesthetic scores; defaults to what Holm's correction over the tests of this run needs.
            0 makes no test.
        seed (`int`, defaults to 0): Seed of folds, classifiers, draws and permutations.
        protocols (`tuple[str, ...]`): Which protocols to run.
        classifiers (`tuple[str, ...]`): Which classifiers to run.
        permuted_classifiers (`tuple[str, ...]`):
            Which of them to test by permutations; defaults to the logistic regression, the others take hours.
        claim (`str`, defaults to `"songs"`): What aesthetics are asked to tell; see `build_permutations`.
        recipe (`str`, defaults to `"symmetric"`):
            `"published"` takes the paper's features and classifiers, which are not symmetric in A and B.
        drop_rare_systems (`bool`, defaults to `False`): Leave out systems with fewer decisive battles than folds.
        resample (`str`, defaults to `"auto"`): What the intervals draw; see `draw_battle_resamples`.
        families (`tuple[str, ...]`): `SYSTEM=FAMILY` where the name of a system does not tell its family.
        singing (`tuple[str, ...]`, *optional*): Systems that can sing; see `find_singing_systems`.
        num_jobs (`int`, defaults to 1): Number of processes for the classifiers.

    Raises:
        `ValueError`: If a protocol, classifier, recipe, claim or unit is unknown, there are fewer than 100 draws, or a
            family cannot be read.
    """

    num_folds: int = 10
    num_draws: int = 1000
    num_refits: int = 200
    num_permutations: int | None = None
    seed: int = 0
    protocols: tuple[str, ...] = PROTOCOLS
    classifiers: tuple[str, ...] = field(default_factory=get_default_classifiers)
    permuted_classifiers: tuple[str, ...] = (PRIMARY_CLASSIFIER,)
    claim: str = "songs"
    recipe: str = "symmetric"
    drop_rare_systems: bool = False
    resample: str = "auto"
    families: tuple[str, ...] = ()
    singing: tuple[str, ...] | None = None
    num_jobs: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown:
            raise ValueError(f"Unknown protocols {unknown}. Choose among {PROTOCOLS}.")
        unknown = [name for name in (*self.classifiers, *self.permuted_classifiers) if name not in CLASSIFIERS]
        if unknown:
            raise ValueError(f"Unknown classifiers {unknown}. Choose among {CLASSIFIERS}.")
        if self.recipe not in RECIPES:
            raise ValueError(f"Feature recipe {self.recipe!r} is unknown. Choose one of {RECIPES}.")
        if self.claim not in CLAIMS:
            raise ValueError(f"`claim` is {self.claim!r}. Choose one of {CLAIMS}.")
        if self.resample not in RESAMPLED_UNITS:
            raise ValueError(f"`resample` is {self.resample!r}. Choose one of {RESAMPLED_UNITS}.")
        if self.num_draws < 100 or self.num_refits < 100:
            raise ValueError(
                f"`num_draws` is {self.num_draws} and `num_refits` {self.num_refits}. An interval needs at least 100 "
                "bootstrap draws."
            )
        if self.num_permutations is not None and self.num_permutations < 0:
            raise ValueError(f"`num_permutations` is {self.num_permutations}. Expected 0 or more.")
        for stated in self.families:
            if not all(stated.partition("=")[::2]):
                raise ValueError(f"Family {stated!r} cannot be read. Expected SYSTEM=FAMILY.")

    @property
    def stated_families(self) -> dict[str, str]:
        """Give the stated family by system."""
        return {system: family for system, _, family in (stated.partition("=") for stated in self.families)}


def run_arena(
    table: BattleTable, options: ArenaOptions | None = None, *, provenance: Mapping[str, str | None] | None = None
) -> tuple[dict[str, Any], PreferenceHead | None]:
    """
    Run the whole experiment.

    Args:
        table (`BattleTable`), options (`ArenaOptions`, *optional*): The battles, and how to judge them.
        provenance (`dict`, *optional*): `model`, `model_sha256` and `input_sha256` for the opening of the results.

    Returns:
        `tuple[dict, PreferenceHead | None]`: The JSON-ready results, as the schema `"arena"` of `result_schema` says,
        and the preference head, `None` without scores. A part that the table cannot serve holds `unavailable` with the
        reason.

    Raises:
        `ValueError`: If the battles have one class only, no battle is complete, or there are too few permutations.
    """
    options, given = options or ArenaOptions(), table
    table, missing = drop_missing_scores(table)
    dropped: dict[str, int] = {}
    if options.drop_rare_systems:
        table, dropped = drop_rare_systems(table, options.num_folds)
    check_battles(table, options.num_folds)
    table = table.select(table.is_voted)
    resamples = draw_battle_resamples(table, options.num_draws, options.seed, options.resample)
    results: dict[str, Any] = {
        **build_opening("arena", **(provenance or {})),
        "options": {**asdict(options), "interval_level": INTERVAL_LEVEL},
        "resampled": resamples.describe(),
        "notes": [],
        "battles": _describe_battles(given, table, dropped, options.num_folds),
        "missing_scores": missing,
        "scores": [asdict(column) for column in table.score_columns],
    }
    won = PairPrediction("always A", np.ones(len(table)), np.arange(len(table)))
    results["share_won_by_a"] = {
        subset: found.summarize(resamples)["accuracy"]
        for subset, found in measure_subsets(won, table, resamples.weights).items()
    }
    rules = build_direct_rules(table)
    results["direct_rules"] = {rule.name: _summarize(rule, table, resamples) for rule in rules}
    results["coin"] = _measure_coins(table, options)

    logger.info("Training classifiers on %d battles.", int(table.is_decisive.sum()))
    results["protocols"], results["aesthetics_effect"], leaderboard_predictions = _run_protocols(
        table, resamples, options
    )
    margins = {rule.name: rule.margins for rule in rules} | leaderboard_predictions
    drawn: dict[str, Any] = {"num_draws": options.num_draws, "seed": options.seed, "resample": options.resample}
    # The human leaderboard needs no scores: it is made of every vote given, like the public one.
    for name, board, predictions in (("human_leaderboards", given, None), ("leaderboards", table, margins)):
        boards = (
            compute_leaderboards(board, predictions, singing=options.singing, **drawn) if table.has_systems else {}
        )
        results[name] = {subset: boards.get(subset) for subset in SUBSETS}
    results["preference_head"], results["anchors"], head = _run_preference(table, options)
    results["notes"] = _list_notes(results, table, options)
    results["conclusion"] = build_conclusion(results)
    return results, head


def _summarize(
    prediction: PairPrediction, table: BattleTable, resamples: Resamples
) -> dict[str, dict[str, dict[str, Any]]]:
    measured = measure_subsets(prediction, table, resamples.weights)
    return {subset: found.summarize(resamples) for subset, found in measured.items()}


def _measure_coins(table: BattleTable, options: ArenaOptions) -> dict[str, Any]:
    parts = {subset: table.select(table.get_subset_mask(subset)) for subset in SUBSETS}
    drawn = (options.num_draws, options.seed, "battle" if options.resample == "battle" else "auto")
    return {
        subset: measure_coin(part, draw_battle_resamples(part, *drawn), seed=options.seed)
        for subset, part in parts.items()
        if part.is_decisive.any()
    }


def _describe_battles(
    given: BattleTable, used: BattleTable, dropped: dict[str, int], num_folds: int
) -> dict[str, Any]:
    outcomes = used.outcomes[used.is_decisive]
    counts = count_decisive_battles(used) if used.has_systems else {}
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
        "num_systems": len(counts),
        "num_against_itself": int((~used.is_between_systems).sum()) if used.has_systems else 0,
        "rare_systems": {name: count for name, count in counts.items() if count < num_folds},
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
        chosen[WITH_AESTHETICS] = table.get_group_indices("popularity", "aesthetics")
    if sorted(everything) not in [sorted(indices) for indices in chosen.values()]:
        chosen["all_scores"] = everything
    return {name: build_pair_features(table, indices, recipe=recipe) for name, indices in chosen.items() if indices}


def _build_protocols(
    table: BattleTable, options: ArenaOptions
) -> tuple[dict[str, tuple[list[Fold], dict[str, int]]], dict[str, str]]:
    """Give the folds of each protocol with those left out, and why the others cannot run."""
    is_symmetric = options.recipe == "symmetric"
    available, reasons = {}, {}
    for protocol in options.protocols:
        try:
            keywords: dict[str, Any] = {"is_stratified": not is_symmetric, "families": options.stated_families}
            folds = build_folds(protocol, table, options.num_folds, options.seed, **keywords)
            available[protocol] = check_folds(folds, table, is_symmetric=is_symmetric)
        except ProtocolUnavailableError as error:
            reasons[protocol] = str(error)
    return available, reasons


def _run_protocols(
    table: BattleTable, resamples: Resamples, options: ArenaOptions
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Give the results of each protocol, the effect of aesthetics, and margins for the leaderboards."""
    features = build_feature_sets(table, options.recipe)
    available, reasons = _build_protocols(table, options)
    tester = EffectTester(
        table,
        features.get(WITHOUT_AESTHETICS) if WITH_AESTHETICS in features else None,
        len(available),
        classifiers=[name for name in options.classifiers if name in options.permuted_classifiers],
        num_permutations=options.num_permutations,
        claim=options.claim,
        recipe=options.recipe,
        seed=options.seed,
        num_jobs=options.num_jobs,
    )
    refits = draw_battle_resamples(table, options.num_refits, options.seed, options.resample)
    results: dict[str, Any] = {}
    effects: list[dict[str, Any]] = []
    leaderboard_predictions: dict[str, np.ndarray] = {}
    for protocol in options.protocols:
        if protocol in reasons:
            results[protocol] = {"unavailable": reasons[protocol]}
            continue
        folds, left_out = available[protocol]
        results[protocol], predictions = _run_protocol(protocol, table, features, folds, (resamples, refits), options)
        results[protocol]["folds_left_out"] = left_out
        effects += [
            {"protocol": protocol, "classifier": name, **tester.test(protocol, name, folds, found["all"]["auc"])}
            for name, found in results[protocol]["with_minus_without_aesthetics"].items()
        ]
        if protocol == PRIMARY_PROTOCOL:
            leaderboard_predictions = {
                f"{classifier} on {feature_set}": prediction.compute_battle_margins(len(table))
                for (classifier, feature_set), prediction in predictions.items()
                if classifier == PRIMARY_CLASSIFIER
            }
    effect = summarize_aesthetics_effect(effects, options.claim, tester.num_permutations)
    return results, effect, _keep_complete(leaderboard_predictions)


def _run_protocol(
    protocol: str,
    table: BattleTable,
    features: dict[str, PairFeatures],
    folds: list[Fold],
    drawn: tuple[Resamples, Resamples],
    options: ArenaOptions,
) -> tuple[dict[str, Any], dict[tuple[str, str], PairPrediction]]:
    """Give the results of one protocol, and its predictions."""
    is_symmetric, (resamples, refits) = options.recipe == "symmetric", drawn
    keywords: dict[str, Any] = {"is_symmetric": is_symmetric, "is_within_pairs": protocol == WITHIN_PAIRS}
    keywords |= {"classifiers": options.classifiers, "seed": options.seed, "num_jobs": options.num_jobs}
    predictions = cross_predict(table, features, folds, **keywords)
    classifiers: dict[str, Any] = {}
    measured: dict[tuple[str, str], tuple[dict[str, MeasuredPrediction], Resamples]] = {}
    for (classifier, name), prediction in predictions.items():
        again = None
        if classifier == PRIMARY_CLASSIFIER:
            again = refit_draws(table, features[name], folds, refits.weights, is_symmetric=is_symmetric)
        own = resamples if again is None else refits
        found = measure_subsets(prediction, table, own.weights, refitted=again)
        measured[classifier, name] = found, own
        classifiers.setdefault(classifier, {})[name] = {s: part.summarize(own) for s, part in found.items()}
    results = {
        "num_folds": len(folds),
        "is_symmetric": is_symmetric,
        "fitted_again_on_each_draw": [name for name in options.classifiers if name == PRIMARY_CLASSIFIER],
        "classifiers": classifiers,
        "baselines": measure_baselines(table, refits, protocol, folds, options.num_folds, options.seed),
        "with_minus_without_aesthetics": {
            classifier: compare_measured(
                measured[classifier, WITH_AESTHETICS][0], *measured[classifier, WITHOUT_AESTHETICS]
            )
            for classifier in options.classifiers
            if WITHOUT_AESTHETICS in features and WITH_AESTHETICS in features
        },
        "margins": {" / ".join(key): _list_margins(found, table) for key, found in predictions.items()},
    }
    return results, predictions


def _keep_complete(predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep the predictors that judge every battle: one with a fold left out may not."""
    return {name: margins for name, margins in predictions.items() if np.isfinite(margins).all()}


def _list_margins(prediction: PairPrediction, table: BattleTable) -> dict[str, list[Any]]:
    rows = prediction.battle_indices
    return {
        "battle_ids": [str(name) for name in table.battle_ids[rows]],
        "margins": [round(float(margin), 6) for margin in prediction.margins],
        "outcomes": [float(outcome) for outcome in table.outcomes[rows]],
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
    head = fit_preference_head(table, seed=options.seed, resample=options.resample)
    anchors: dict[str, Any] = {"unavailable": "the table names no systems"}
    if table.has_systems:
        anchors = compute_anchor_gains(table, num_draws=options.num_draws, seed=options.seed)
    return asdict(head), anchors, head


def _list_notes(results: dict[str, Any], table: BattleTable, options: ArenaOptions) -> list[str]:
    """Say everything that was left out, and what differs from what a reader may expect."""
    battles, boards = results["battles"], results["human_leaderboards"].values()
    notes = [
        f"{count} {words}"
        for count, words in (
            (results["missing_scores"]["num_battles"], "battles lack a score and are left out"),
            (battles["num_both_bad"], "votes that both songs were bad are left out"),
            (battles["num_against_itself"], "battles of a system against itself count on no leaderboard"),
        )
        if count
    ]
    if rare := battles["rare_systems"]:
        notes.append(f"few decisive battles: {rare}; they are used, and left out of anchor calibration only")
    if battles["rare_systems_left_out"]:
        notes.append(f"left out as asked, for few decisive battles: {battles['rare_systems_left_out']}")
    if without := list_scores_without_ratio(table):
        notes.append(f"no ratio among the features, since not above zero everywhere: {', '.join(without)}")
    for protocol, found in results["protocols"].items():
        if found.get("folds_left_out"):
            notes.append(f"{protocol}: folds with nothing to train on left out: {found['folds_left_out']}")
    for unconnected in {str(board["unconnected"]) for board in boards if board and board["unconnected"]}:
        notes.append(
            f"not on one scale with the listed systems, since no chain of battles connects them: {unconnected}"
        )
    if results["human_leaderboards"]["vocal"] or results["human_leaderboards"]["instrumental"]:
        notes.append(
            "leaderboards by kind follow the public rule: vocal between two systems that can sing, else instrumental"
        )
    others = [name for name in options.classifiers if name != PRIMARY_CLASSIFIER]
    if others and any(column["group"] != "truth" for column in results["scores"]):
        notes.append(f"intervals of {', '.join(others)} are those of one fit; the logistic regression is refitted")
    return notes + (list(PUBLISHED_RECIPE_DIFFERENCES) if options.recipe == "published" else [])
