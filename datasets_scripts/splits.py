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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLIT_NAMES = ("train", "validation", "test")
SPLIT_METHODS = ("hash", "quota")
DEFAULT_SPLIT_RATIOS = (85.0, 10.0, 5.0)
# Songs without a value for a key (no creator, no prompt) carry this hash; it never links anything.
NO_KEY = 0
LEFT_OUT = -1
NUM_POPULARITY_BANDS = 5
MAX_NAMED_OFFENDERS = 10


class SplitLeakageError(ValueError):
    """Songs that belong together were found in two splits; the message names them."""


@dataclass
class SplitAssignment:
    """
    The outcome of [`build_splits`].

    Args:
        split_codes (`np.ndarray` of shape `(num_songs,)`):
            Index into `SPLIT_NAMES` for every song, or `LEFT_OUT`, int8.
        num_left_out (`dict[str, int]`):
            How many songs were left out, by the key that would have leaked.
    """

    split_codes: NDArray[np.int8]
    num_left_out: dict[str, int] = field(default_factory=dict)


def compute_key(*parts: str | None) -> int:
    """
    Hash a key, its most specific part last, to 64 bits; `NO_KEY` when that part is empty.

    Text is compared without regard to case and runs of white space, so that " A sad song" and "a sad  song" are one
    prompt. Two different keys share a hash with a probability of about 3e-8 in a corpus of a million.
    """
    cleaned = [" ".join((part or "").casefold().split()) for part in parts]
    return compute_exact_key("\x1f".join(cleaned)) if cleaned and cleaned[-1] else NO_KEY


def compute_exact_key(text: str) -> int:
    """Hash text to 64 bits letter by letter, as ids need it: unlike prompts, ids differ by case."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def parse_split_ratios(text: str) -> tuple[float, float, float]:
    """
    Read the shares of train, validation and test, such as `"85:10:5"`; they need not add up to 100.

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
    group_keys: NDArray[np.uint64],
    platforms: NDArray,
    percentiles: NDArray[np.float64],
    *,
    seed: int = 42,
    ratios: Sequence[float] = DEFAULT_SPLIT_RATIOS,
) -> NDArray[np.int8]:
    """
    Compute the split of every group so that platforms and popularity bands are divided as exactly as groups allow.

    Groups line up by platform, by the popularity band of their mean percentile, and by hash within a band; each goes
    to the split that is furthest behind its share of the songs so far.

    Args:
        group_keys, seed, ratios:
            As for [`compute_split_codes`].
        platforms (`np.ndarray` of shape `(num_songs,)`):
            The platform of each song, as numbers; a group counts for that of its first song.
        percentiles (`np.ndarray` of shape `(num_songs,)`):
            Percentile of each song's plays, 0 to 100.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: indices into `SPLIT_NAMES`, int8.
    """
    shares = np.asarray(_validate_ratios(tuple(ratios)), dtype=np.float64)
    shares /= shares.sum()
    keys, firsts, groups, sizes = np.unique(group_keys, return_index=True, return_inverse=True, return_counts=True)
    bands = _compute_bands(np.bincount(groups, weights=percentiles, minlength=len(keys)) / sizes)
    codes, num_assigned = np.zeros(len(keys), dtype=np.int8), np.zeros(len(shares))
    for group in np.lexsort((_compute_uniform(keys, seed), bands, platforms[firsts])):
        wanted = shares * (num_assigned.sum() + sizes[group])
        # A split without a share stays empty even when the others are ahead of theirs.
        codes[group] = np.argmax(np.where(shares > 0, wanted - num_assigned, -np.inf))
        num_assigned[codes[group]] += sizes[group]
    return codes[groups]


def build_splits(
    codes: NDArray[np.int8], linked_keys: Mapping[str, NDArray[np.uint64]] | None = None
) -> SplitAssignment:
    """
    Leave out the songs that would let something linked lie in two splits.

    Args:
        codes (`np.ndarray` of shape `(num_songs,)`):
            The split of every song's group, from [`compute_split_codes`] or [`compute_quota_codes`].
        linked_keys (`Mapping[str, np.ndarray]`, *optional*):
            Further keys that must not occur in two splits, by name (`"prompt"`, `"audio"`); `NO_KEY` links nothing.

    Returns:
        [`SplitAssignment`]: the split of every song, and how many were left out because of which key.

    Raises:
        `ValueError`: If the arrays differ in length.
    """
    linked_keys = linked_keys or {}
    for name, keys in linked_keys.items():
        if len(keys) != len(codes):
            raise ValueError(f"`linked_keys[{name!r}]` has {len(keys)} entries but there are {len(codes)} songs.")
    codes, num_left_out = codes.copy(), dict.fromkeys(linked_keys, 0)
    # Earlier splits keep what they have; a later one gives up the songs that it shares with any of them.
    for later in range(1, len(SPLIT_NAMES)):
        for name, keys in linked_keys.items():
            candidates = np.flatnonzero((codes == later) & (keys != NO_KEY))
            is_taken = np.isin(keys[candidates], keys[(codes != LEFT_OUT) & (codes < later)])
            codes[candidates[is_taken]] = LEFT_OUT
            num_left_out[name] += int(is_taken.sum())
    return SplitAssignment(codes, num_left_out)


def check_split_leakage(
    split_codes: NDArray[np.int8],
    keys: Mapping[str, NDArray[np.uint64]],
    *,
    name_song: Callable[[int], str] = str,
) -> None:
    """
    Fail when a key occurs in two splits. Independent of how the splits were made.

    Args:
        split_codes (`np.ndarray` of shape `(num_songs,)`):
            Index into `SPLIT_NAMES`, or `LEFT_OUT`.
        keys (`Mapping[str, np.ndarray]`):
            Hashes by name (`"creator"`, `"prompt"`, `"audio"`), each of shape `(num_songs,)`.
        name_song (`Callable[[int], str]`, *optional*):
            Turns a row number into the name shown in the message.

    Raises:
        [`SplitLeakageError`]: If a key occurs in two splits; the message names the offending songs.
    """
    offenders: list[str] = []
    for key_name, values in keys.items():
        songs = np.flatnonzero((split_codes != LEFT_OUT) & (values != NO_KEY))
        songs = songs[np.argsort(values[songs], kind="stable")]
        codes = split_codes[songs]
        is_torn = (values[songs[1:]] == values[songs[:-1]]) & (codes[1:] != codes[:-1])
        for place in np.flatnonzero(is_torn)[:MAX_NAMED_OFFENDERS]:
            first, second = (f"{name_song(int(songs[n]))} ({SPLIT_NAMES[codes[n]]})" for n in (place, place + 1))
            offenders.append(f"{first} and {second} share one {key_name}")
    if offenders:
        shown = "; ".join(offenders[:MAX_NAMED_OFFENDERS])
        raise SplitLeakageError(f"Songs that belong together lie in different splits, at least these: {shown}.")


def compute_split_balance(
    split_codes: NDArray[np.int8], platforms: NDArray, percentiles: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """
    Count songs per platform, popularity band and split, to show how evenly the hash divided them.

    Args:
        split_codes (`np.ndarray` of shape `(num_songs,)`):
            Index into `SPLIT_NAMES`, or `LEFT_OUT`.
        platforms (`np.ndarray` of shape `(num_songs,)`):
            The platform of each song, as names or numbers.
        percentiles (`np.ndarray` of shape `(num_songs,)`):
            Percentile of each song's plays on its platform, 0 to 100.

    Returns:
        `list[dict]`: one entry per platform and fifth of popularity: `platform`, `popularity_band` (such as
        `"0-20"`) and one count per split.
    """
    bands, counts = _compute_bands(percentiles), {}
    for platform in np.unique(platforms):
        is_counted = (platforms == platform) & (split_codes != LEFT_OUT)
        cells = bands[is_counted] * len(SPLIT_NAMES) + split_codes[is_counted]
        counts[platform] = np.bincount(cells, minlength=NUM_POPULARITY_BANDS * len(SPLIT_NAMES)).reshape(
            NUM_POPULARITY_BANDS, len(SPLIT_NAMES)
        )
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
