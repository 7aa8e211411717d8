"""
Splits: keys of songs come in, a split for every song leaves, and nothing that belongs together is ever torn apart.

Three wishes meet here, and together they leave one design. *Adding a song must not move another one*: starting from a
single song and adding the rest one by one, no song ever moves, so a song's split can only be a function of that song.
*Songs of one creator stay together*: so it is a function of the creator, here a hash of the creator and the seed.
*Songs of one prompt, or with near-identical audio, never fall into two splits* although their creators may: then one
of them has to go. So when a prompt or a recording occurs in several splits, its songs stay in the first of train,
validation and test that has it and are left out of the others; how many is counted. The same goes for a song by
several creators: its group is the first of them, and it is left out where another of them is in an earlier split. A
prompt that many creators share (`[Instrumental]`) is no sign of kinship and links nothing (see [`find_common`]). The
usual alternative, joining all creators who share a prompt into one group, lets one new song join two groups (which
moves one of them), and with everyday prompts it joins most of a corpus into a single group.

The price is stratification. A hash knows nothing of platform or popularity, so every platform and every popularity
band is divided in the wanted ratio in expectation, with the scatter of chance. Small corpora may prefer *quotas*: each
platform and popularity band is then divided as exactly as the sizes of its groups allow, and no group is torn apart
either, but a song that is added later can move others. [`compute_split_balance`] measures what came out of either, and
the dataset card shows it.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.corpus.song_ids import compute_exact_key

logger = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "validation", "test")
SPLIT_METHODS = ("hash", "quota")
DEFAULT_SPLIT_RATIOS = (85.0, 10.0, 5.0)
# Songs without a value for a key (no creator, no prompt) carry this hash; it never links anything.
NO_KEY = 0
LEFT_OUT = -1
NUM_POPULARITY_BANDS = 5
MAX_NAMED_OFFENDERS = 10
# A prompt is common when more creators use it than a tenth of them, but at least the first and at most the second.
FEWEST_SHARING, MOST_SHARING = 3, 10
# Fewer songs than this say little of a model.
TINY_SPLIT = 20
# The keys of all songs in order; or pairs of song numbers and keys, where a song may have none or several.
Links = NDArray[np.uint64] | tuple[NDArray[np.int64], NDArray[np.uint64]]


class EmptySplitError(ValueError):
    """A split that was asked for would have no songs; the message says why and what to do."""


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


def find_common(keys: NDArray[np.uint64], creators: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """
    Find the songs whose key, such as that of a prompt, so many creators share that it is no sign of kinship.

    Args:
        keys, creators (`np.ndarray` of shape `(num_songs,)`):
            Hashes from [`compute_key`]. All songs whose creator is not known count as those of one.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: whether more than a tenth of the creators have the song's key; more than
        3 must, and more than 10 always suffice.
    """
    songs = np.flatnonzero(keys != NO_KEY)
    songs = songs[np.lexsort((creators[songs], keys[songs]))]
    is_first = np.ones(len(songs), dtype=bool)
    is_first[1:] = (keys[songs[1:]] != keys[songs[:-1]]) | (creators[songs[1:]] != creators[songs[:-1]])
    found, num_creators = np.unique(keys[songs[is_first]], return_counts=True)
    limit = min(max(len(np.unique(creators)) / 10, FEWEST_SHARING), MOST_SHARING)
    return np.isin(keys, found[num_creators > limit])


def check_split_sizes(
    codes: NDArray[np.int8], ratios: Sequence[float], *, num_groups: int, group_by: Sequence[str]
) -> list[str]:
    """
    Refuse splits that come out empty, and name those that are tiny.

    Args:
        codes (`np.ndarray` of shape `(num_songs,)`):
            Index into `SPLIT_NAMES` for every song, or `LEFT_OUT`.
        ratios (`Sequence[float]`):
            The shares that were asked for; a split without one may be empty.
        num_groups (`int`), group_by (`Sequence[str]`):
            How many groups the songs form and by what, for the messages.

    Returns:
        `list[str]`: a sentence for each split of fewer than 20 songs, or of less than half its share.

    Raises:
        [`EmptySplitError`]: If a split that has a share has no songs.
    """
    counts = [int(np.sum(codes == code)) for code in range(len(SPLIT_NAMES))]
    shown = ", ".join(f"{count} {name}" for name, count in zip(SPLIT_NAMES, counts, strict=True))
    songs = f"{len(codes)} songs in {num_groups} groups ({', '.join(group_by) or 'each its own'}) became {shown}"
    num_left_out = int(np.sum(codes == LEFT_OUT))
    songs += f"; {num_left_out} share something with an earlier split and are left out" if num_left_out else ""
    warnings = []
    for name, count, share in zip(SPLIT_NAMES, counts, np.asarray(ratios) / np.sum(ratios), strict=True):
        if share > 0 and not count:
            raise EmptySplitError(
                f"The {name} split would be empty: {songs}. Divide them evenly (--split-method quota), with another "
                f"--seed, by fewer keys (--group-by), or do without that split (--splits, such as 90:10:0)."
            )
        is_behind = count < share * len(codes) / 2
        if 0 < share < 1 and (count < TINY_SPLIT or is_behind):
            advice = (
                "--split-method quota divides a small corpus evenly" if is_behind else "its metrics will be imprecise"
            )
            wanted = f"where its share is {share * len(codes):.0f}"
            warnings.append(f"the {name} split has only {count} songs, {wanted}: {songs}; {advice}")
    return warnings


def build_splits(codes: NDArray[np.int8], linked_keys: Mapping[str, Links] | None = None) -> SplitAssignment:
    """
    Leave out the songs that would let something linked lie in two splits.

    Args:
        codes (`np.ndarray` of shape `(num_songs,)`):
            The split of every song's group, from [`compute_split_codes`] or [`compute_quota_codes`].
        linked_keys (`Mapping[str, Links]`, *optional*):
            Further keys that must not occur in two splits, by name (`"prompt"`, `"audio"`); `NO_KEY` links nothing.
            Where songs may have several keys of a kind, pairs of song numbers and keys.

    Returns:
        [`SplitAssignment`]: the split of every song, and how many were left out because of which key.

    Raises:
        `ValueError`: If the arrays differ in length.
    """
    linked_keys = linked_keys or {}
    for name, keys in linked_keys.items():
        if not isinstance(keys, tuple) and len(keys) != len(codes):
            raise ValueError(f"`linked_keys[{name!r}]` has {len(keys)} entries but there are {len(codes)} songs.")
    codes, num_left_out = codes.copy(), dict.fromkeys(linked_keys, 0)
    # Earlier splits keep what they have; a later one gives up the songs that it shares with any of them.
    for later in range(1, len(SPLIT_NAMES)):
        for name, link in linked_keys.items():
            songs, keys = link if isinstance(link, tuple) else (None, link)
            of_link = codes if songs is None else codes[songs]
            candidates = np.flatnonzero((of_link == later) & (keys != NO_KEY))
            taken = candidates[np.isin(keys[candidates], keys[(of_link != LEFT_OUT) & (of_link < later)])]
            taken = taken if songs is None else np.unique(songs[taken])
            codes[taken] = LEFT_OUT
            num_left_out[name] += len(taken)
    return SplitAssignment(codes, num_left_out)


def check_split_leakage(
    split_codes: NDArray[np.int8],
    keys: Mapping[str, Links],
    *,
    name_song: Callable[[int], str] = str,
) -> None:
    """
    Fail when a key occurs in two splits. Independent of how the splits were made.

    Args:
        split_codes (`np.ndarray` of shape `(num_songs,)`):
            Index into `SPLIT_NAMES`, or `LEFT_OUT`.
        keys (`Mapping[str, Links]`):
            Hashes by name (`"creator"`, `"prompt"`, `"audio"`), as for [`build_splits`].
        name_song (`Callable[[int], str]`, *optional*):
            Turns a row number into the name shown in the message.

    Raises:
        [`SplitLeakageError`]: If a key occurs in two splits; the message names the offending songs.
    """
    offenders: list[str] = []
    for key_name, link in keys.items():
        numbers, values = link if isinstance(link, tuple) else (None, link)
        of_link = split_codes if numbers is None else split_codes[numbers]
        entries = np.flatnonzero((of_link != LEFT_OUT) & (values != NO_KEY))
        entries = entries[np.argsort(values[entries], kind="stable")]
        codes, songs = of_link[entries], entries if numbers is None else numbers[entries]
        is_torn = (values[entries[1:]] == values[entries[:-1]]) & (codes[1:] != codes[:-1])
        for place in np.flatnonzero(is_torn)[:MAX_NAMED_OFFENDERS]:
            first, second = (f"{name_song(int(songs[n]))} ({SPLIT_NAMES[codes[n]]})" for n in (place, place + 1))
            offenders.append(f"{first} and {second} share one {key_name}")
    if offenders:
        shown = "; ".join(offenders[:MAX_NAMED_OFFENDERS])
        raise SplitLeakageError(f"Songs that belong together are in different splits, at least these: {shown}.")


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
