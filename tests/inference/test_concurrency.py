"""One pipeline for many: threads that share it get the numbers of one, and songs that were scored are forgotten."""

import gc
import io
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modeling_apex import ApexModel, load_pipeline

from waveforms import make_waveform

NUM_THREADS = 16
RATES = (8000, 16_000, 24_000, 44_100, 48_000)


def make_songs(folder: Path, number: int) -> list[Any]:
    """Songs of all kinds and rates, of different lengths; the last one is broken."""
    songs: list[Any] = []
    for row in range(number):
        rate = RATES[row % len(RATES)]
        waveform = make_waveform(0.08 + 0.07 * (row % 5), rate, num_channels=1 + row % 2, seed=row)
        if row % 3 == 0:
            songs.append({"array": waveform, "sampling_rate": rate})
            continue
        file = io.BytesIO()
        soundfile.write(file, waveform.T, rate, format="FLAC" if row % 2 else "WAV")
        path = folder / f"{row}.{'flac' if row % 2 else 'wav'}"
        path.write_bytes(file.getvalue())
        songs.append(str(path) if row % 3 == 1 else file.getvalue())
    return [*songs, b"not audio"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sixteen_threads_get_the_numbers_of_one(tmp_path: Path, tiny_model: ApexModel, batch_size: int) -> None:
    scorer = load_pipeline(tiny_model, batch_size=batch_size)
    songs = make_songs(tmp_path, 20)
    options = {"on_error": "report", "return_timeline": True, "return_embedding": True}
    expected = [scorer(song, **options) for song in songs]
    assert "error" in expected[-1]
    start = threading.Barrier(NUM_THREADS)

    def score_all(number: int) -> list[tuple[int, Any]]:
        start.wait()
        order = np.random.default_rng(number).permutation(len(songs))
        return [(int(row), scorer(songs[row], **options)) for row in order]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for reports in pool.map(score_all, range(NUM_THREADS)):
            for row, report in reports:
                assert report == expected[row]  # bit for bit: Python's floats, as they are


def test_threads_may_ask_for_different_things(tmp_path: Path, tiny_model: ApexModel) -> None:
    scorer = load_pipeline(tiny_model)
    song = make_songs(tmp_path, 2)[1]
    wishes: list[dict[str, Any]] = [
        {},
        {"return_timeline": True},
        {"return_embedding": True},
        {"resampler": "soxr"},
        {"return_percentiles": False},
        {"batch_size": 2},
    ]
    expected = [scorer(song, **wish) for wish in wishes]
    assert expected[0] != expected[1]

    def score(row: int) -> bool:
        return scorer(song, **wishes[row % len(wishes)]) == expected[row % len(wishes)]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        assert all(pool.map(score, range(96)))


@pytest.mark.parametrize("is_broken", [False, True])
def test_scored_songs_are_forgotten(tiny_model: ApexModel, is_broken: bool) -> None:
    """Python's memory after many songs; `tests/benchmarks/measure_leaks.py` watches the process over 10,000."""
    scorer = load_pipeline(tiny_model)
    waveform = make_waveform(0.3, 24_000).astype(np.float32)  # 29 kB
    song: Any = b"x" * 30_000 if is_broken else {"array": waveform, "sampling_rate": 24_000}

    def score_songs(number: int) -> None:
        for _ in range(number):
            scorer(dict(song) if isinstance(song, dict) else bytes(bytearray(song)), on_error="report")
        gc.collect()

    score_songs(5)  # fills every cache
    tracemalloc.start()
    score_songs(5)
    before, _ = tracemalloc.get_traced_memory()
    score_songs(60)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000, "60 songs of 29 kB each left more than three of them behind"


def test_open_files_and_threads_do_not_grow(
    song_file: Callable[..., Path], tmp_path: Path, tiny_model: ApexModel
) -> None:
    def list_open_songs() -> list[Path]:
        # Of this test alone: other descriptors and threads of the process come and go as they like.
        links = (link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists())
        return [path for path in links if path.is_relative_to(tmp_path.resolve())]

    def list_own_threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("apex-")}

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to list open files")
    scorer = load_pipeline(tiny_model)
    songs = [str(song_file("a.flac")), str(song_file("b.wav")), "absent.wav"]
    assert all(song == "absent.wav" or Path(song).is_relative_to(tmp_path) for song in songs)
    scorer(songs, on_error="report")
    before = list_own_threads()
    for _ in range(20):
        scorer(songs, on_error="report")
        assert list_open_songs() == []
    assert list_own_threads() == before
