"""Protocols: what may never stand in training and test at once, and what is refused."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from modeling_apex.arena.baselines import predict_by_position, predict_by_system
from modeling_apex.arena.predictions import build_system_pairs, measure_prediction
from modeling_apex.arena.protocols import (
    PROTOCOLS,
    Fold,
    ProtocolUnavailableError,
    build_battle_groups,
    build_folds,
    build_random_folds,
    check_battles,
    check_folds,
    count_decisive_battles,
    drop_rare_systems,
    find_families,
)
from modeling_apex.statistics.bootstrap import draw_bootstrap_weights

from simulated_battles import build_table, name_families, swap_sides


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_predict_every_battle_and_never_train_on_it(protocol: str, seed: int) -> None:
    table = name_families(build_table(200, num_systems=6))
    folds = build_folds(protocol, table, 5, seed)
    tested = np.concatenate([fold.test_indices for fold in folds])
    expected = np.full(200, 2 if protocol == "leave_one_system_out" else 1)
    if protocol == "leave_one_family_out":
        expected = np.array([len({name[0] for name in battle}) for battle in table.systems])
    np.testing.assert_array_equal(np.bincount(tested, minlength=200), expected)
    pairs, _ = build_system_pairs(table)
    for fold in folds:
        assert not set(fold.train_indices) & set(fold.test_indices)
        train, test = table.select(fold.train_indices), table.select(fold.test_indices)
        if protocol == "grouped_by_prompt_and_user":
            assert not set(train.prompts) & set(test.prompts)
            assert not set(train.users) & set(test.users)
        if protocol == "leave_one_system_out":
            assert fold.name.removeprefix("without ") not in train.systems
        if protocol == "leave_one_family_out":
            assert fold.name.removeprefix("without ") not in {name[0] for name in train.systems.reshape(-1)}
        if protocol == "within_system_pairs":
            assert not set(pairs[fold.train_indices]) & set(pairs[fold.test_indices])


def test_groups_join_through_prompts_and_users() -> None:
    table = build_table(4)
    table.prompts[:] = ["p", "p", "q", ""]
    table.users[:] = ["u", "v", "v", ""]
    groups = build_battle_groups(table)
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_stratified_folds_have_equal_shares_of_wins() -> None:
    table = build_table(200)
    shares = [table.outcomes[f.test_indices].mean() for f in build_random_folds(table, 10, 0, is_stratified=True)]
    assert max(shares) - min(shares) <= 0.1


def test_folds_do_not_read_the_sides() -> None:
    table = name_families(build_table(100, num_systems=6))
    for protocol in PROTOCOLS:
        for fold, other in zip(
            build_folds(protocol, table, 5, 0), build_folds(protocol, swap_sides(table), 5, 0), strict=True
        ):
            np.testing.assert_array_equal(fold.test_indices, other.test_indices)


def test_within_pairs_system_tags_know_nothing() -> None:
    table = build_table(300, system_effect=2.0)
    weights = np.ones((1, 300))
    random, _ = predict_by_system(table, build_folds("random_folds", table, 5, 0))
    within, _ = predict_by_system(table, build_folds("within_system_pairs", table, 5, 0), is_within_pairs=True)
    assert measure_prediction(random, table, weights).estimates["auc"] > 0.7
    assert measure_prediction(within, table, weights).estimates == {"auc": 0.5}


def test_position_baseline_follows_the_training_folds_only() -> None:
    table = build_table(100)
    table.preferences[:] = "B"
    table.preferences[:30] = "A"
    prediction, again = predict_by_position(table, build_random_folds(table, 5, 0), 1.0 - np.eye(100)[:30])
    assert again.shape == (30, 100)
    assert set(prediction.margins) == {-1.0}
    assert measure_prediction(prediction, table, np.ones((1, 100))).estimates["accuracy"] == pytest.approx(0.7)


def test_system_tags_are_fitted_again_on_every_draw() -> None:
    table = build_table(120, system_effect=1.0)
    folds = build_folds("leave_one_system_out", table, 5, 0)
    weights = draw_bootstrap_weights(120, 2, seed=0)
    plain, again = predict_by_system(table, folds, weights)
    assert again.shape == (2, len(plain.margins))
    for row, counts in zip(again, weights.astype(int), strict=True):
        start = 0
        for fold in folds:
            train = np.repeat(fold.train_indices, counts[fold.train_indices])
            asked = np.arange(len(train), len(train) + len(fold.test_indices))
            repeated = table.select(np.concatenate([train, fold.test_indices]))
            expected, _ = predict_by_system(repeated, [Fold("one", np.arange(len(train)), asked)])
            np.testing.assert_allclose(row[start : start + len(asked)], expected.margins, atol=1e-8)
            start += len(asked)


def test_system_tags_tell_systems_that_were_left_out_as_scikit_learn_does() -> None:
    table = build_table(300, num_systems=7, system_effect=1.0)
    names, systems = np.unique(table.systems.astype(str), return_inverse=True)
    met = np.eye(len(names))[systems.reshape(table.systems.shape)]
    design, outcomes = met[:, 0] - met[:, 1], table.preferences == "A"
    margins, truth = [], []
    for system in range(len(names)):
        is_left_out = design[:, system] != 0
        model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
        model.fit(design[~is_left_out], outcomes[~is_left_out])
        margins.append(model.decision_function(design[is_left_out]))
        truth.append(outcomes[is_left_out])
    expected = roc_auc_score(np.concatenate(truth), np.concatenate(margins))
    found, _ = predict_by_system(table, build_folds("leave_one_system_out", table, 7, 0))
    estimates = measure_prediction(found, table, np.ones((1, 300))).estimates
    assert estimates["auc"] == pytest.approx(expected, abs=1e-6)


def test_one_class_only_is_refused() -> None:
    table = build_table(50)
    table.preferences[:] = "A"
    with pytest.raises(ValueError, match="All 50 decisive battles were won by A: there is only one class"):
        check_battles(table, 5)
    table.preferences[:] = "TIE"
    with pytest.raises(ValueError, match="None of the 50 battles has a winner"):
        check_battles(table, 5)
    with pytest.raises(ValueError, match="`num_folds` is 1"):
        check_battles(build_table(50), 1)


def test_systems_with_fewer_battles_than_folds_stop_nothing_and_can_be_left_out() -> None:
    table = build_table(100)
    table.systems[:3, 0] = "newcomer"
    check_battles(table, 10)
    kept, dropped = drop_rare_systems(table, 10)
    assert dropped == {"newcomer": 3}
    assert len(kept) == 97


def test_folds_with_nothing_to_train_on_are_left_out_and_counted() -> None:
    table = build_table(40)
    table.systems[:, 0] = "everywhere"
    folds = build_folds("leave_one_system_out", table, 5, 0)
    kept, left_out = check_folds(folds, table, is_symmetric=True)
    assert len(kept) == len(folds) - 1
    assert left_out == {"without everywhere": 40}
    table.preferences[:] = "A"
    assert len(check_folds(folds, table, is_symmetric=True)[0]) == len(kept)
    with pytest.raises(ProtocolUnavailableError, match="no fold leaves decisive battles of both sides"):
        check_folds(folds, table, is_symmetric=False)


def test_families_are_names_without_versions_or_what_is_stated() -> None:
    table = build_table(8)
    names = ["lyria-3-30s", "lyria-3-pro-preview", "musicgen-small", "musicgen-medium", "elevenlabs-music-v1"]
    names += ["acestep-1.5-turbo-1.7b", "sonauto-v3-preview", "suno"]
    table.systems[:, 0] = table.systems[:, 1] = names
    families = find_families(table, {"suno": "sonauto"})
    assert [families[name] for name in names] == [
        "lyria",
        "lyria",
        "musicgen",
        "musicgen",
        "elevenlabs-music",
        "acestep",
        "sonauto",
        "sonauto",
    ]
    with pytest.raises(ValueError, match=r"given for systems \['udio'\] that are not in the table"):
        find_families(table, {"udio": "u"})


def test_a_system_that_only_ties_is_counted_as_having_no_battle() -> None:
    table = build_table(20)
    table.systems[0, 0], table.preferences[0] = "newcomer", "TIE"
    assert count_decisive_battles(table)["newcomer"] == 0


def test_protocols_that_a_table_cannot_serve_say_why() -> None:
    table = build_table(40, num_systems=2)
    with pytest.raises(ProtocolUnavailableError, match="only 2 systems"):
        build_folds("leave_one_system_out", table, 5, 0)
    with pytest.raises(ProtocolUnavailableError, match="only one pair"):
        build_folds("within_system_pairs", table, 5, 0)
    with pytest.raises(ProtocolUnavailableError, match="only 2 systems"):
        build_folds("leave_one_family_out", table, 5, 0)
    with pytest.raises(ProtocolUnavailableError, match="only 1 families"):
        build_folds("leave_one_family_out", build_table(40), 5, 0)
    alone = {f"system-{number}": f"{number}" for number in range(5)}
    with pytest.raises(ProtocolUnavailableError, match="no family has two systems"):
        build_folds("leave_one_family_out", build_table(40), 5, 0, families=alone)
    table.prompts[:], table.users[:] = "", ""
    with pytest.raises(ProtocolUnavailableError, match="neither prompts nor users"):
        build_folds("grouped_by_prompt_and_user", table, 5, 0)
    table.prompts[:30] = "one"
    with pytest.raises(ProtocolUnavailableError, match="30 of 40 battles into one group"):
        build_folds("grouped_by_prompt_and_user", table, 5, 0)
    table.prompts[:] = "one"
    with pytest.raises(ProtocolUnavailableError, match="into 1 groups, fewer than 5 folds"):
        build_folds("grouped_by_prompt_and_user", table, 5, 0)
    with pytest.raises(ValueError, match="Protocol 'leave_none' is unknown"):
        build_folds("leave_none", table, 5, 0)
