"""Fingerprints: copies of a recording are near, other recordings far, and clusters are what the distances say."""

import io

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly
from source_trees import make_song

from datasets_scripts.audio_fingerprint import (
    FINGERPRINT_BYTES,
    MAX_DISTANCE_BITS,
    FingerprintAccumulator,
    cluster_fingerprints,
    compute_fingerprint,
)

RATE = 16_000


def compute_distance(first, second):
    return int(np.bitwise_count(np.frombuffer(first, np.uint8) ^ np.frombuffer(second, np.uint8)).sum())


def fingerprint_song(song, sampling_rate):
    accumulator = FingerprintAccumulator(sampling_rate)
    accumulator.push(song)
    return accumulator.finish()


def encode_as_mp3(song):
    buffer = io.BytesIO()
    soundfile.write(buffer, song, RATE, format="MP3", compression_level=0.7)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


def add_silence(song):
    return np.concatenate([np.zeros(RATE // 2, np.float32), song, np.zeros(RATE, np.float32)])


@pytest.mark.parametrize(
    ("copy", "rate"),
    [
        (lambda song: 0.2 * song, RATE),
        (encode_as_mp3, RATE),
        (add_silence, RATE),
        (lambda song: song[RATE // 10 :], RATE),
        (lambda song: resample_poly(song, 1, 2).astype(np.float32), RATE // 2),
    ],
    ids=["quieter", "mp3", "silence around", "trimmed", "half the rate"],
)
def test_copies_are_near(copy, rate):
    song = make_song(1, seconds=20, sampling_rate=RATE)
    original = fingerprint_song(song, RATE)
    assert compute_distance(original, fingerprint_song(copy(song), rate)) <= MAX_DISTANCE_BITS


def test_other_songs_are_far():
    fingerprints = [fingerprint_song(make_song(seed, seconds=5), 8000) for seed in range(12)]
    distances = [compute_distance(a, b) for index, a in enumerate(fingerprints) for b in fingerprints[:index]]
    assert min(distances) > 1.5 * MAX_DISTANCE_BITS


def test_the_size_of_blocks_does_not_matter():
    song = make_song(2, seconds=5)
    accumulator = FingerprintAccumulator(8000)
    for start in range(0, song.size, 977):
        accumulator.push(song[start : start + 977])
    assert accumulator.finish() == fingerprint_song(song, 8000)
    assert accumulator.num_samples == song.size


@pytest.mark.parametrize("song", [np.zeros(80_000), np.zeros(0), np.ones(10), make_song(3, seconds=0.2)])
def test_what_is_silent_or_too_short_has_no_fingerprint(song):
    assert fingerprint_song(song.astype(np.float32), 8000) is None


def test_what_never_moves_has_no_fingerprint():
    assert compute_fingerprint(np.ones((100, 17))) is None


def test_clusters_join_copies_and_nothing_else():
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 256, (300, FINGERPRINT_BYTES), dtype=np.uint8)
    copies = originals[:40].copy()
    bits = np.unpackbits(copies, axis=1)
    for row in bits:
        row[generator.choice(240, 12, replace=False)] ^= 1
    clusters = cluster_fingerprints(np.concatenate([originals, np.packbits(bits, axis=1), originals[:5]]))
    assert clusters[:300].tolist() == list(range(300))
    assert clusters[300:].tolist() == [*range(40), *range(5)]


def test_equal_fingerprints_are_one_cluster_however_many():
    assert cluster_fingerprints(np.full((5000, FINGERPRINT_BYTES), 7, dtype=np.uint8)).tolist() == [0] * 5000


def test_no_fingerprints_have_no_clusters():
    assert cluster_fingerprints(np.zeros((0, FINGERPRINT_BYTES), dtype=np.uint8)).shape == (0,)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(num_songs, 30\), got \(3, 4\)"):
        cluster_fingerprints(np.zeros((3, 4), dtype=np.uint8))
