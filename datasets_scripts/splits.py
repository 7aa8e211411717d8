"""
Splits: keys of songs come in, a split for every song leaves, and nothing that belongs together is ever torn apart.

Three wishes meet here, and together they leave one design. *Adding a song must not move another one*: starting from a
single song and adding the rest one by one, no song ever moves, so a song's split can only be a function of that song.
*Songs of one creator stay together*: so it is a function of the creator, here a hash of the creator and the seed.
*Songs of one prompt, or with near-identical audio, never fall into two splits* although their creators may: then one
of them has to go. So when a prompt or a recording occurs in several splits, its songs stay in the first of train,
validation and test that has it and are left out of the others; how many is counted. The usual alternative, joining
all creators who share a prompt into one group, lets one new song join two groups (which moves one of them), and with
everyday prompts it joins most of a corpus into a single group.

The price is stratification. A hash knows nothing of platform or popularity, so every platform and every popularity
band is divided in the wanted ratio in expectation, with the scatter of chance. Small corpora may prefer *quotas*: each
platform and popularity band is then divided as exactly as the sizes of its groups allow, and no group is torn apart
either, but a song that is added later can move others. [`compute_split_balance`] measures what came out of either, and
the dataset card shows it.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets_scripts.disk_columns import (
    Column,
    DiskColumn,
    build_records,
    iterate_chunks,
    iterate_groups,
    iterate_marked,
    read_near,
    save_column,
    save_group_bounds,
    sort_records,
)

SPLIT_NAMES = ("train", "validation", "test")
SPLIT_METHODS = ("hash", "quota")
DEFAULT_SPLIT_RATIOS = (85.0, 10.0, 5.0)
# Songs without a value for a key (no creator, no prompt) carry this hash; it never links anything.
NO_KEY = 0
LEFT_OUT = -1
NUM_POPULARITY_BANDS = 5
MAX_NAMED_OFFENDERS = 10

# What is sorted on the way: songs by their key, groups into the line in which they are assigned.
KEYED_SONG = np.dtype([("key", "<u8"), ("code", "i1"), ("position", "<i8")])
GROUPED_SONG = np.dtype([("key", "<u8"), ("position", "<i8"), ("platform", "<i8"), ("percentile", "<f8")])
CODED_SONG = np.dtype([("position", "<i8"), ("code", "i1")])
GROUP = np.dtype([("platform", "<i8"), ("band", "i1"), ("hash", "<f8"), ("group", "<i8"), ("size", "<i8")])
GROUP_ORDER = ("platform", "band", "hash", "group")
GROUP_CODE = np.dtype([("group", "<i8"), ("code", "i1")])


class SplitLeakageError(ValueError):
    """Songs that belong together were found in two splits; the message names them."""


@dataclass
class SplitAssignment:
    """
    The outcome of [`build_splits`].

    Args:
        split_codes ([`DiskColumn`] of length `num_songs`):
            Index into `SPLIT_NAMES` for every song, or `LEFT_OUT`, int8.
        num_left_out (`dict[str, int]`):
            How many songs were left out, by the key that would have leaked.
    """

    split_codes: DiskColumn
    num_left_out: dict[str, int] = field(default_factory=dict)


def compute_key(*parts: str | None) -> int:
    """
    Hash a key to 64 bits; `NO_KEY` when its last part is empty.

    Text is compared without regard to case and runs of white space, so that " A sad song" and "a sad  song" are one
    prompt. Two different keys share a hash with a probability of about 3e-8 in a corpus of a million.

    Args:
        parts (`str` or `None`):
            What makes up the key, the most specific part last: `compute_key("suno", "alice")`.

    Returns:
        `int`: an unsigned 64-bit number.
    """
    cleaned = [" ".join((part or "").casefold().split()) for part in parts]
    return compute_exact_key("\x1f".join(cleaned)) if cleaned and cleaned[-1] else NO_KEY


def compute_exact_key(text: str) -> int:
    """Hash text to 64 bits letter by letter, as ids need it: unlike prompts, ids differ by case."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def parse_split_ratios(text: str) -> tuple[float, float, float]:
    """
    Read split ratios such as `"85:10:5"`.

    Args:
        text (`str`):
            Three numbers for train, validation and test, separated by colons. They need not add up to 100.

    Returns:
        `tuple[float, float, float]`: the three numbers.

    Raises:
        `ValueError`: If these are not three numbers, none negative and not all zero.
    """
    try:
        ratios = tuple(float(part) for part in text.split(":"))
    except ValueError as error:
        raise ValueError(f"Split ratios must look like 85:10:5, got {text!r}.") from error
    return _validate_ratios(ratios)


def compute_split_codes(
    group_keys: NDArray[np.uint64], *, seed: int = 42, ratios: Sequence[float] = DEFAULT_SPLIT_RATIOS
) -> NDArray[np.int8]:
    """
    Compute the split of every group from nothing but its key and the seed.

    Args:
        group_keys (`np.ndarray` of shape `(num_songs,)`):
            Hashes of the groups, from [`compute_key`].
        seed (`int`, defaults to 42):
            Another seed gives another division.
        ratios (`Sequence[float]`, defaults to 85, 10 and 5):
            Shares of train, validation and test.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: indices into `SPLIT_NAMES`, int8.
    """
    shares = np.asarray(_validate_ratios(tuple(ratios)), dtype=np.float64)
    bounds = np.cumsum(shares / shares.sum())[:-1]
    return np.searchsorted(bounds, _compute_uniform(group_keys, seed), side="right").astype(np.int8)


def compute_quota_codes(
    group_keys: Column,
    platforms: Column,
    percentiles: Column,
    *,
    seed: int = 42,
    ratios: Sequence[float] = DEFAULT_SPLIT_RATIOS,
    folder: Path | None = None,
) -> DiskColumn:
    """
    Compute the split of every group so that platforms and popularity bands are divided as exactly as groups allow.

    Groups line up by platform, by the popularity band of their mean percentile, and by hash within a band; each goes
    to the split that is furthest behind its share of the songs so far.

    Args:
        group_keys ([`Column`] of length `num_songs`):
            Hashes of the groups, from [`compute_key`].
        platforms ([`Column`] of length `num_songs`):
            The platform of each song, as numbers; a group counts for that of its first song.
        percentiles ([`Column`] of length `num_songs`):
            Percentile of each song's plays, 0 to 100.
        seed (`int`, defaults to 42):
            Another seed gives another division.
        ratios (`Sequence[float]`, defaults to 85, 10 and 5):
            Shares of train, validation and test.
        folder (`Path`, *optional*):
            Where files lie. Defaults to the system's folder for temporary files.

    Returns:
        [`DiskColumn`] of length `num_songs`: indices into `SPLIT_NAMES`, int8.
    """
    shares = np.asarray(_validate_ratios(tuple(ratios)), dtype=np.float64)
    shares /= shares.sum()
    songs = (
        build_records(GROUPED_SONG, key=keys, position=start + np.arange(len(keys)), platform=names, percentile=ranks)
        for start, (keys, names, ranks) in iterate_chunks(group_keys, platforms, percentiles)
    )
    by_group = sort_records(songs, GROUPED_SONG, ["key", "position"], folder)
    in_line = sort_records(_iterate_group_facts(by_group, seed, folder), GROUP, GROUP_ORDER, folder)
    assigned = sort_records(_assign_quotas(in_line, shares), GROUP_CODE, ["group"], folder)
    codes = (
        build_records(CODED_SONG, position=chunk["position"], code=read_near(assigned.field("code"), groups))
        for chunk, groups, _ in iterate_groups(by_group, ["key"])
    )
    in_order = sort_records(codes, CODED_SONG, ["position"], folder)
    return save_column((chunk for _, chunk in iterate_chunks(in_order.field("code"))), np.int8, folder)


def build_splits(
    codes: Column, linked_keys: Mapping[str, Column] | None = None, *, folder: Path | None = None
) -> SplitAssignment:
    """
    Leave out the songs that would let something linked lie in two splits.

    Args:
        codes ([`Column`] of length `num_songs`):
            The split of every song's group, from [`compute_split_codes`] or [`compute_quota_codes`].
        linked_keys (`Mapping[str, Column]`, *optional*):
            Further keys that must not occur in two splits, by name (`"prompt"`, `"audio"`); `NO_KEY` links nothing.
        folder (`Path`, *optional*):
            Where files lie. Defaults to the system's folder for temporary files.

    Returns:
        [`SplitAssignment`]: the split of every song, and how many were left out because of which key.

    Raises:
        `ValueError`: If the columns differ in length.
    """
    linked_keys = linked_keys or {}
    for name, keys in linked_keys.items():
        if len(keys) != len(codes):
            raise ValueError(f"`linked_keys[{name!r}]` has {len(keys)} entries but there are {len(codes)} songs.")
    codes = save_column((chunk for _, chunk in iterate_chunks(codes)), np.int8, folder)
    num_left_out = dict.fromkeys(linked_keys, 0)
    # Earlier splits keep what they have; a later one gives up the songs that it shares with any of them.
    for later in range(1, len(SPLIT_NAMES)):
        for name, keys in linked_keys.items():
            leaking = _find_leaking(codes, keys, later, folder)
            codes = save_column(_leave_out(codes, leaking), np.int8, folder)
            num_left_out[name] += len(leaking)
    return SplitAssignment(codes, num_left_out)


def check_split_leakage(
    split_codes: Column,
    keys: Mapping[str, Column],
    *,
    name_song: Callable[[int], str] = str,
    folder: Path | None = None,
) -> None:
    """
    Fail when a key occurs in two splits. Independent of how the splits were made.

    Args:
        split_codes ([`Column`] of length `num_songs`):
            Index into `SPLIT_NAMES`, or `LEFT_OUT`.
        keys (`Mapping[str, Column]`):
            Hashes by name (`"creator"`, `"prompt"`, `"audio"`), each of length `num_songs`.
        name_song (`Callable[[int], str]`, *optional*):
            Turns a row number into the name shown in the message.
        folder (`Path`, *optional*):
            Where files lie. Defaults to the system's folder for temporary files.

    Raises:
        [`SplitLeakageError`]: If a key occurs in two splits; the message names the offending songs.
    """
    offenders: list[str] = []
    for key_name, values in keys.items():
        by_key = _sort_by_key(split_codes, values, ["key", "position"], folder)
        for first, second in itertools.islice(_iterate_torn_pairs(by_key), MAX_NAMED_OFFENDERS):
            offenders.append(
                f"{name_song(int(first['position']))} ({SPLIT_NAMES[first['code']]}) and "
                f"{name_song(int(second['position']))} ({SPLIT_NAMES[second['code']]}) share one {key_name}"
            )
    if offenders:
        shown = "; ".join(offenders[:MAX_NAMED_OFFENDERS])
        raise SplitLeakageError(f"Songs that belong together lie in different splits, at least these: {shown}.")


def compute_split_balance(split_codes: Column, platforms: Column, percentiles: Column) -> list[dict[str, Any]]:
    """
    Count songs per platform, popularity band and split, to show how evenly the hash divided them.

    Args:
        split_codes ([`Column`] of length `num_songs`):
            Index into `SPLIT_NAMES`, or `LEFT_OUT`.
        platforms ([`Column`] of length `num_songs`):
            The platform of each song, as names or numbers.
        percentiles ([`Column`] of length `num_songs`):
            Percentile of each song's plays on its platform, 0 to 100.

    Returns:
        `list[dict]`: one entry per platform and fifth of popularity: `platform`, `popularity_band` (such as
        `"0-20"`) and one count per split.
    """
    counts: dict[Any, NDArray[np.int64]] = {}
    for _, (codes, names, ranks) in iterate_chunks(split_codes, platforms, percentiles):
        bands = _compute_bands(ranks)
        for platform in np.unique(names):
            table = counts.setdefault(platform, np.zeros((NUM_POPULARITY_BANDS, len(SPLIT_NAMES)), dtype=np.int64))
            is_counted = (names == platform) & (codes != LEFT_OUT)
            np.add.at(table, (bands[is_counted], codes[is_counted]), 1)
    width = 100 // NUM_POPULARITY_BANDS
    return [
        {
            "platform": str(platform),
            "popularity_band": f"{band * width}-{(band + 1) * width}",
            **dict(zip(SPLIT_NAMES, counts[platform][band].tolist(), strict=True)),
        }
        for platform in sorted(counts)
        for band in range(NUM_POPULARITY_BANDS)
    ]


def _iterate_group_facts(by_group: DiskColumn, seed: int, folder: Path | None) -> Iterator[NDArray]:
    """Say of each group how many songs it has, on which platform, and how popular they are on average."""
    firsts = DiskColumn(GROUPED_SONG, folder)
    for chunk, _, is_first in iterate_groups(by_group, ["key"]):
        firsts.append(chunk[is_first])
    bounds = save_group_bounds(by_group, ["key"], folder)
    sums = save_column(_iterate_percentile_sums(by_group), np.float64, folder)
    for start, (first_songs, percentiles) in iterate_chunks(firsts, sums):
        num_songs = np.diff(bounds[start : start + len(percentiles) + 1])
        yield build_records(
            GROUP,
            platform=first_songs["platform"],
            band=_compute_bands(percentiles / num_songs),
            hash=_compute_uniform(first_songs["key"], seed),
            group=start + np.arange(len(num_songs)),
            size=num_songs,
        )


def _iterate_percentile_sums(by_group: DiskColumn) -> Iterator[NDArray[np.float64]]:
    unfinished: NDArray[np.float64] = np.zeros(0)
    for chunk, groups, is_first in iterate_groups(by_group, ["key"]):
        if is_first[0]:
            yield unfinished
            unfinished = np.zeros(1)
        # The sum so far goes first, so that percentiles are added in the order of songs wherever a chunk ends.
        weights = np.concatenate([unfinished, chunk["percentile"]])
        sums = np.bincount(np.concatenate([[0], groups - groups[0]]), weights=weights).astype(np.float64)
        yield sums[:-1]
        unfinished = sums[-1:]
    yield unfinished


def _assign_quotas(in_line: DiskColumn, shares: NDArray[np.float64]) -> Iterator[NDArray]:
    """Give each group to the split that is furthest behind."""
    num_assigned = np.zeros(len(shares))
    for _, groups in iterate_chunks(in_line):
        codes = np.zeros(len(groups), dtype=np.int8)
        for index, size in enumerate(groups["size"]):
            wanted = shares * (num_assigned.sum() + size)
            # A split without a share stays empty even when the others are ahead of theirs.
            code = int(np.argmax(np.where(shares > 0, wanted - num_assigned, -np.inf)))
            codes[index] = code
            num_assigned[code] += size
        yield build_records(GROUP_CODE, group=groups["group"], code=codes)


def _sort_by_key(codes: Column, keys: Column, order: Sequence[str], folder: Path | None) -> DiskColumn:
    """Bring songs that share a key together, without those that are left out or have none."""

    def iterate() -> Iterator[NDArray]:
        for start, (split_codes, values) in iterate_chunks(codes, keys):
            chosen = np.flatnonzero((split_codes != LEFT_OUT) & (values != NO_KEY))
            yield build_records(KEYED_SONG, key=values[chosen], code=split_codes[chosen], position=start + chosen)

    return sort_records(iterate(), KEYED_SONG, order, folder)


def _find_leaking(codes: Column, keys: Column, later: int, folder: Path | None) -> DiskColumn:
    """Find the songs of a split whose key also occurs in an earlier one: their positions, ascending."""
    by_key = _sort_by_key(codes, keys, ["key", "code", "position"], folder)
    earliest = DiskColumn(np.int8, folder)
    for chunk, _, is_first in iterate_groups(by_key, ["key"]):
        earliest.append(chunk["code"][is_first])
    leaking = (
        chunk[(chunk["code"] == later) & (read_near(earliest, groups) < later)]
        for chunk, groups, _ in iterate_groups(by_key, ["key"])
    )
    return sort_records(leaking, KEYED_SONG, ["position"], folder)


def _leave_out(codes: Column, leaking: DiskColumn) -> Iterator[NDArray[np.int8]]:
    for codes_before, is_leaking in iterate_marked(codes, leaking.field("position")):
        yield np.where(is_leaking, np.int8(LEFT_OUT), codes_before)


def _iterate_torn_pairs(by_key: DiskColumn) -> Iterator[tuple[NDArray, NDArray]]:
    """Find neighbours that share a key but not a split."""
    previous = np.zeros(0, KEYED_SONG)
    for _, chunk in iterate_chunks(by_key):
        songs = np.concatenate([previous, chunk])
        is_torn = (songs["key"][1:] == songs["key"][:-1]) & (songs["code"][1:] != songs["code"][:-1])
        for position in np.flatnonzero(is_torn):
            yield songs[position], songs[position + 1]
        previous = songs[-1:]


def _compute_bands(percentiles: NDArray[np.float64]) -> NDArray[np.int64]:
    bands = np.asarray(percentiles) * NUM_POPULARITY_BANDS // 100
    return np.minimum(bands, NUM_POPULARITY_BANDS - 1).astype(np.int64)


def _compute_uniform(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Turn keys into numbers that are uniform between 0 and 1, another set for every seed."""
    salt = np.uint64(int.from_bytes(hashlib.blake2b(f"split:{seed}".encode(), digest_size=8).digest(), "little"))
    bits = _mix_bits(np.asarray(keys, dtype=np.uint64) ^ salt) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mix_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64-bit keys evenly: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _validate_ratios(ratios: Sequence[float]) -> tuple[float, float, float]:
    valid = len(ratios) == len(SPLIT_NAMES) and all(0 <= ratio < float("inf") for ratio in ratios) and sum(ratios) > 0
    if not valid:
        raise ValueError(
            f"Split ratios must be three numbers for {', '.join(SPLIT_NAMES)}, none negative and not all zero, "
            f"got {tuple(ratios)}."
        )
    return (float(ratios[0]), float(ratios[1]), float(ratios[2]))
