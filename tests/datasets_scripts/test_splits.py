"""Splits: for any seed nothing linked is torn apart, and no song moves when another is added."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_scripts.splits import (
    LEFT_OUT,
    NO_KEY,
    SPLIT_NAMES,
    SplitLeakageError,
    _compute_uniform,
    build_splits,
    check_split_leakage,
    compute_key,
    compute_quota_codes,
    compute_split_balance,
    compute_split_codes,
    parse_split_ratios,
)

# Few creators and prompts, so that they cross often. 0 stands for "has no prompt".
songs = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=40)
seeds = st.integers(0, 2**40)


def build_keys(table):
    creators, prompts, recordings = (
        np.array([compute_key(kind, str(value) if value else None) for value in column], dtype=np.uint64)
        for kind, column in zip(("creator", "prompt", "audio"), zip(*table, strict=True), strict=True)
    )
    return creators, {"prompt": prompts, "audio": recordings}


def divide_by_hash(creators, seed):
    return compute_split_codes(creators, seed=seed, ratios=(50, 30, 20))


def divide_by_quota(creators, seed):
    percentiles = np.linspace(0, 100, len(creators))
    codes = compute_quota_codes(creators, np.zeros(len(creators)), percentiles, seed=seed, ratios=(50, 30, 20))
    return np.asarray(codes)


@pytest.mark.parametrize("divide", [divide_by_hash, divide_by_quota])
@given(table=songs, seed=seeds)
@settings(max_examples=100, deadline=None)
def test_no_group_lies_in_two_splits_for_any_seed(divide, table, seed):
    creators, linked = build_keys(table)
    codes = np.asarray(build_splits(divide(creators, seed), linked).split_codes)
    for column in range(3):
        for value in {row[column] for row in table} - {0}:
            members = {int(code) for row, code in zip(table, codes, strict=True) if row[column] == value}
            assert len(members - {LEFT_OUT}) <= 1
    check_split_leakage(codes, {"creator": creators, **linked})


def build_and_split(table, seed):
    creators, linked = build_keys(table)
    return np.asarray(build_splits(divide_by_hash(creators, seed), linked).split_codes)


@given(songs, st.tuples(st.integers(1, 12), st.integers(0, 8), st.integers(0, 8)), seeds, st.data())
@settings(max_examples=100, deadline=None)
def test_adding_a_song_moves_no_other_song(table, added, seed, data):
    position = data.draw(st.integers(0, len(table)))
    grown = [*table[:position], added, *table[position:]]
    before, after = build_and_split(table, seed), np.delete(build_and_split(grown, seed), position)
    in_both = (before != LEFT_OUT) & (after != LEFT_OUT)
    assert np.array_equal(before[in_both], after[in_both])


@given(songs, seeds)
@settings(max_examples=50, deadline=None)
def test_the_order_of_songs_does_not_matter(table, seed):
    assert np.array_equal(build_and_split(table, seed), build_and_split(table[::-1], seed)[::-1])


def test_training_songs_are_never_left_out():
    keys = np.arange(1, 2001, dtype=np.uint64)
    one_prompt_for_all = {"prompt": np.ones(2000, dtype=np.uint64)}
    alone = compute_split_codes(keys, seed=1)
    assignment = build_splits(alone, one_prompt_for_all)
    assert np.array_equal(np.asarray(assignment.split_codes) == 0, alone == 0)
    assert assignment.num_left_out == {"prompt": int(np.sum(alone > 0))}


def test_shares_follow_the_ratios_in_every_platform_and_popularity_band():
    num_songs = 60_000
    generator = np.random.default_rng(0)
    keys = np.array([compute_key("creator", str(index)) for index in range(num_songs)], dtype=np.uint64)
    platforms = np.where(np.arange(num_songs) % 3 == 0, "udio", "suno")
    percentiles = generator.uniform(0, 100, num_songs)
    balance = compute_split_balance(compute_split_codes(keys, seed=7), platforms, percentiles)
    assert len(balance) == 10
    for entry in balance:
        total = sum(entry[split] for split in SPLIT_NAMES)
        for split, share in zip(SPLIT_NAMES, (0.85, 0.10, 0.05), strict=True):
            # Five standard errors of a share among that many songs.
            assert abs(entry[split] / total - share) < 5 * (share * (1 - share) / total) ** 0.5


def test_quotas_divide_every_platform_and_popularity_band_evenly():
    num_songs = 2000
    generator = np.random.default_rng(1)
    keys = np.array([compute_key("creator", str(index // 2)) for index in range(num_songs)], dtype=np.uint64)
    platforms = np.arange(num_songs) // 2 % 2
    percentiles = np.repeat(generator.uniform(0, 100, num_songs // 2), 2)
    codes = compute_quota_codes(keys, platforms, percentiles, seed=9)
    for entry in compute_split_balance(codes, platforms, percentiles):
        total = sum(entry[split] for split in SPLIT_NAMES)
        for split, share in zip(SPLIT_NAMES, (0.85, 0.10, 0.05), strict=True):
            # Off by a group or two of two songs, where chance would be off by ten songs and more.
            assert abs(entry[split] - share * total) <= 4
    assert not np.array_equal(codes, compute_quota_codes(keys, platforms, percentiles, seed=10))


def test_quotas_leave_a_split_without_a_share_empty():
    keys = np.arange(1, 51, dtype=np.uint64)
    codes = compute_quota_codes(keys, np.zeros(50), np.zeros(50), ratios=(80, 20, 0))
    assert np.bincount(np.asarray(codes)).tolist() == [40, 10]


@given(songs, seeds)
@settings(max_examples=50, deadline=None)
def test_splits_are_those_of_a_plain_restatement(table, seed):
    creators, linked = build_keys(table)
    platforms = np.array([row[1] % 3 for row in table])
    percentiles = np.random.default_rng(seed).uniform(0, 100, len(table))
    members = {key: np.flatnonzero(creators == key).tolist() for key in sorted(set(creators.tolist()))}
    uniform = dict(zip(creators.tolist(), _compute_uniform(creators, seed).tolist(), strict=True))

    def find_place(key):
        mean = sum(percentiles[row] for row in members[key]) / len(members[key])
        return platforms[members[key][0]], min(int(mean * 5 // 100), 4), uniform[key]

    wanted, num_assigned = np.zeros(len(table), dtype=np.int8), np.zeros(3)
    for key in sorted(members, key=find_place):
        shares = np.array([0.5, 0.3, 0.2]) * (num_assigned.sum() + len(members[key]))
        code = int(np.argmax(shares - num_assigned))
        wanted[members[key]], num_assigned[code] = code, num_assigned[code] + len(members[key])
    codes = compute_quota_codes(creators, platforms, percentiles, seed=seed, ratios=(50, 30, 20))
    assert codes.tolist() == wanted.tolist()
    left_out = dict.fromkeys(linked, 0)
    for later in (1, 2):
        for name, keys in linked.items():
            earlier = {int(keys[row]) for row in range(len(table)) if 0 <= wanted[row] < later} - {NO_KEY}
            leaking = [row for row in range(len(table)) if wanted[row] == later and int(keys[row]) in earlier]
            wanted[leaking], left_out[name] = LEFT_OUT, left_out[name] + len(leaking)
    assignment = build_splits(codes, linked)
    assert (assignment.split_codes.tolist(), assignment.num_left_out) == (wanted.tolist(), left_out)


def test_leakage_is_found_between_the_last_of_many():
    keys = {"prompt": np.array([9, 5, 5, 5], dtype=np.uint64)}
    with pytest.raises(SplitLeakageError, match=r"2 \(train\) and 3 \(test\) share one prompt"):
        check_split_leakage(np.array([0, 0, 0, 2], dtype=np.int8), keys)


def test_another_seed_gives_another_division_and_the_same_seed_the_same():
    keys = np.arange(1, 1001, dtype=np.uint64)
    assert np.array_equal(compute_split_codes(keys, seed=3), compute_split_codes(keys, seed=3))
    assert not np.array_equal(compute_split_codes(keys, seed=3), compute_split_codes(keys, seed=4))


def test_the_division_is_the_same_on_every_machine():
    keys = np.array([compute_key("creator", name) for name in "abcdefgh"], dtype=np.uint64)
    assert compute_split_codes(keys, seed=42, ratios=(40, 30, 30)).tolist() == [2, 0, 0, 0, 2, 2, 0, 2]


def test_ratios_of_zero_leave_a_split_empty():
    keys = np.arange(1, 501, dtype=np.uint64)
    assert set(compute_split_codes(keys, ratios=(100, 0, 0)).tolist()) == {0}
    assert set(compute_split_codes(keys, ratios=(0, 0, 1)).tolist()) == {2}


def test_keys_forgive_case_and_white_space_and_know_empty_ones():
    assert compute_key("prompt", " A sad\n song") == compute_key("prompt", "a  sad song")
    assert compute_key("suno", "ann") != compute_key("udio", "ann")
    assert compute_key("prompt", None) == compute_key("prompt", "  ") == NO_KEY


def test_leakage_names_the_offenders():
    codes = np.array([0, 0, 2, LEFT_OUT], dtype=np.int8)
    keys = {"prompt": np.array([5, 7, 5, 7], dtype=np.uint64)}
    with pytest.raises(SplitLeakageError, match=r"song-0 \(train\) and song-2 \(test\) share one prompt"):
        check_split_leakage(codes, keys, name_song=lambda row: f"song-{row}")


def test_leakage_names_at_most_ten_pairs():
    codes = np.tile(np.array([0, 1], dtype=np.int8), 50)
    keys = {"creator": np.repeat(np.arange(1, 51, dtype=np.uint64), 2)}
    with pytest.raises(SplitLeakageError) as caught:
        check_split_leakage(codes, keys)
    assert str(caught.value).count("share one creator") == 10


def test_ratios_are_read_from_text():
    assert parse_split_ratios("85:10:5") == (85.0, 10.0, 5.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_split_ratios("85/10/5"), "must look like 85:10:5, got '85/10/5'"),
        (lambda: parse_split_ratios("85:15"), "three numbers for train, validation, test"),
        (lambda: parse_split_ratios("0:0:0"), "not all zero"),
        (lambda: parse_split_ratios("nan:1:1"), "none negative"),
        (
            lambda: build_splits(np.zeros(3, dtype=np.int8), {"prompt": np.ones(2, dtype=np.uint64)}),
            r"`linked_keys\['prompt'\]` has 2 entries but there are 3 songs",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
