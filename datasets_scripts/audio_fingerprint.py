"""
Recognise the same recording twice: audio comes in, a small fingerprint leaves, and fingerprints form clusters.

Byte-equal files are found by their hash. A re-encoded, louder or slightly trimmed copy is not byte-equal, so every
song also gets 240 bits that survive such treatment, in the manner of Haitsma and Kalker (ISMIR 2002) but one set for
the whole song instead of one a moment: the song between its first and last sound is divided into 16 overlapping
parts, each with its energy in 17 bands, and a bit says whether the balance of two neighbouring bands rises from a
part to the next. Copies of a recording differ in a few bits, different songs in about half of them. A song whose
bands never move (a silent one, a steady tone) has no such balance: it gets no fingerprint.
"""

import numpy as np
from numpy.typing import NDArray

NUM_BANDS = 17
NUM_PARTS = 16
FINGERPRINT_BYTES = (NUM_PARTS - 1) * (NUM_BANDS - 1) // 8
# Bands below 3.5 kHz survive every encoder and every sampling rate from 8 kHz up.
BAND_EDGES_HZ = np.geomspace(150.0, 3500.0, NUM_BANDS + 1)
FRAME_SECONDS = 0.085
# What is quieter than this below the loudest frame is lead-in or lead-out, which copies often lack.
TRIM_DECIBELS = 50.0
# Standard deviation of a part's soft edge, in parts.
PART_SOFTNESS = 1.0
# A balance that moves less than this (in natural log units, root mean square) is numerical noise, not music.
MINIMUM_MOVEMENT = 1e-3
MAX_DISTANCE_BITS = 36
# 15 blocks of 16 bits: of two copies that differ in a tenth of their bits, some block is equal in 95 % of cases, of
# two that differ in a twentieth practically always.
NUM_BLOCKS = 15
# Within a crowded block only this many neighbours are compared, so that the cost stays linear.
MAX_NEIGHBOURS = 64


class FingerprintAccumulator:
    """
    Collect band energies while a song is read block by block, then compute its fingerprint.

    Args:
        sampling_rate (`int`):
            Sampling rate of the blocks, in hertz.
    """

    def __init__(self, sampling_rate: int):
        self.sampling_rate = sampling_rate
        self.num_samples = 0
        self._hop_samples = max(round(0.5 * FRAME_SECONDS * sampling_rate), 1)
        self._frame_samples = 2 * self._hop_samples
        frequencies = np.fft.rfftfreq(self._frame_samples, 1.0 / sampling_rate)
        self._band_starts = np.searchsorted(frequencies, BAND_EDGES_HZ)
        # The squares of half-overlapping sine windows add up to one: no moment of the song weighs more than another.
        phases = (np.arange(self._frame_samples) + 0.5) / self._frame_samples
        self._window = np.sin(np.pi * phases).astype(np.float32)
        self._rest = np.zeros(0, dtype=np.float32)
        self._energies: list[NDArray[np.float64]] = []

    def push(self, block: NDArray[np.float32]) -> None:
        """Take the next samples of the song, shape `(num_samples,)`."""
        self.num_samples += block.size
        samples = np.concatenate([self._rest, block])
        num_frames = max(samples.size // self._hop_samples - 1, 0)
        self._rest = samples[num_frames * self._hop_samples :]
        if num_frames:
            frames = np.lib.stride_tricks.sliding_window_view(samples, self._frame_samples)[:: self._hop_samples]
            frames = frames[:num_frames] * self._window
            power = np.abs(np.fft.rfft(frames, axis=1)) ** 2  # (num_frames, num_bins)
            cumulative = np.concatenate([np.zeros((num_frames, 1)), np.cumsum(power, axis=1)], axis=1)
            self._energies.append(np.diff(cumulative[:, self._band_starts], axis=1))  # (num_frames, NUM_BANDS)

    def finish(self) -> bytes | None:
        """Return the fingerprint of `FINGERPRINT_BYTES` bytes, or `None` when there is nothing to recognise."""
        energies = np.concatenate(self._energies) if self._energies else np.zeros((0, NUM_BANDS))
        return compute_fingerprint(energies)


def compute_fingerprint(energies: NDArray[np.float64]) -> bytes | None:
    """
    Compute the fingerprint of a song from the energies of its frames.

    Args:
        energies (`np.ndarray` of shape `(num_frames, 17)`):
            Energy per frame and band.

    Returns:
        `bytes` of length `FINGERPRINT_BYTES`, or `None` for a song that is silent, steady or shorter than 16 frames.
    """
    loudness = energies.sum(axis=1)
    audible = np.flatnonzero(loudness > loudness.max(initial=0.0) * 10 ** (-TRIM_DECIBELS / 10))
    if not audible.size:
        return None
    energies = energies[audible[0] : audible[-1] + 1]
    if len(energies) < NUM_PARTS:
        return None
    # Soft, overlapping parts: a hard edge would let a beat change sides when a copy is shifted by a few milliseconds.
    centres = (np.arange(NUM_PARTS) + 0.5) / NUM_PARTS
    positions = (np.arange(len(energies)) + 0.5) / len(energies)
    weights = np.exp(-0.5 * ((centres[:, None] - positions) / (PART_SOFTNESS / NUM_PARTS)) ** 2)
    parts = weights @ energies / weights.sum(axis=1, keepdims=True)  # (NUM_PARTS, NUM_BANDS)
    logarithms = np.log(parts + 1e-9 * loudness.max())
    movement = np.diff(np.diff(logarithms, axis=1), axis=0)  # (NUM_PARTS - 1, NUM_BANDS - 1)
    if np.sqrt(np.mean(movement**2)) < MINIMUM_MOVEMENT:
        return None
    return np.packbits(movement > 0).tobytes()


def cluster_fingerprints(
    fingerprints: NDArray[np.uint8], *, max_distance: int = MAX_DISTANCE_BITS
) -> NDArray[np.int64]:
    """
    Join songs whose fingerprints are nearly equal.

    Candidates are pairs that agree in one of 15 blocks of bits, so the cost does not grow with the square of the
    number of songs; a pair that differs in every block is missed.

    Args:
        fingerprints (`np.ndarray` of shape `(num_songs, 30)`):
            Fingerprints, uint8.
        max_distance (`int`, defaults to 36):
            In how many of the 240 bits two copies may differ.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: for every song the first song of its cluster.

    Raises:
        `ValueError`: If the array has another shape.
    """
    if fingerprints.ndim != 2 or fingerprints.shape[1] != FINGERPRINT_BYTES:
        raise ValueError(f"`fingerprints` must have shape (num_songs, {FINGERPRINT_BYTES}), got {fingerprints.shape}.")
    if not len(fingerprints):
        return np.zeros(0, dtype=np.int64)
    # Equal fingerprints first: they are one cluster however many there are.
    rows = np.ascontiguousarray(fingerprints).view(f"V{FINGERPRINT_BYTES}").ravel()
    _, first_rows, inverse = np.unique(rows, return_index=True, return_inverse=True)
    distinct = fingerprints[first_rows]
    parents = np.arange(len(distinct))
    blocks = _split_into_blocks(distinct)
    for index, block in enumerate(blocks.T):
        # Within a block the next two blocks decide the order, so that near ones stand near.
        order = np.lexsort((blocks[:, index - NUM_BLOCKS + 2], blocks[:, index - NUM_BLOCKS + 1], block))
        ordered = block[order]
        for offset in range(1, min(MAX_NEIGHBOURS, len(order) - 1) + 1):
            positions = np.flatnonzero(ordered[offset:] == ordered[:-offset])
            if not positions.size:
                break
            left, right = order[positions], order[positions + offset]
            distance = np.bitwise_count(distinct[left] ^ distinct[right]).sum(axis=1)
            for first, second in zip(left[distance <= max_distance], right[distance <= max_distance], strict=True):
                _join(parents, int(first), int(second))
    roots = np.array([_find_root(parents, index) for index in range(len(parents))], dtype=np.int64)
    # Name a cluster by its first song, whatever the order of the distinct fingerprints.
    first_of_root = np.full(len(parents), np.iinfo(np.int64).max)
    np.minimum.at(first_of_root, roots, first_rows)
    return first_of_root[roots[inverse]].astype(np.int64)


def _split_into_blocks(fingerprints: NDArray[np.uint8]) -> NDArray[np.int64]:
    bits = np.unpackbits(fingerprints, axis=1).reshape(len(fingerprints), NUM_BLOCKS, -1)
    return bits.astype(np.int64) @ (1 << np.arange(bits.shape[2], dtype=np.int64))


def _find_root(parents: NDArray[np.int64], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = int(parents[index])
    return index


def _join(parents: NDArray[np.int64], first: int, second: int) -> None:
    first, second = _find_root(parents, first), _find_root(parents, second)
    parents[max(first, second)] = min(first, second)
