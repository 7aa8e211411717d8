"""Reading ahead: the same items in the same order, bounded, and no thread left behind however it ends."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Audio, Dataset
from patience import PATIENCE
from stopped_command import take_interrupts
from transformers.pipelines.pt_utils import KeyDataset

from modeling_apex import ApexModel, ApexPopularityPipeline, SongScorer, load_pipeline, load_scorer
from modeling_apex.inference.read_ahead_apex import SEGMENTS_AHEAD, ReadAhead

from waveforms import make_waveform

SongFile = Callable[..., Path]


def find_readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "apex-read-ahead"]


@pytest.fixture(autouse=True)
def no_thread_stays_behind() -> Iterator[None]:
    assert find_readers() == []
    yield
    assert find_readers() == []


@pytest.fixture
def scorer(tiny_model: ApexModel) -> ApexPopularityPipeline:
    return load_pipeline(tiny_model)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for does not happen"
        time.sleep(0.002)


@pytest.mark.parametrize("num_ahead", [1, 2, 100])
def test_items_are_the_same_in_the_same_order(num_ahead: int) -> None:
    items = ReadAhead(range(50), num_ahead)
    assert len(items) == 50
    assert list(items) == list(range(50))
    assert list(items) == list(range(50)), "each iteration begins anew"
    assert list(ReadAhead([], num_ahead)) == []


def test_nobody_reads_before_the_first_item_is_asked_for() -> None:
    asked = []
    reader = iter(ReadAhead(asked.append(row) for row in range(3)))
    assert find_readers() == []
    assert asked == []
    next(reader)
    assert 1 <= len(asked) <= 3
    assert len(list(reader)) == 2
    assert list(reader) == []


def test_no_more_than_the_bound_is_made_in_advance() -> None:
    alive: weakref.WeakSet = weakref.WeakSet()

    class Item:
        def __init__(self) -> None:
            alive.add(self)

    most = 0
    reader = iter(ReadAhead((Item() for _ in range(300)), 3))
    for row, item in enumerate(reader):
        most = max(most, len(alive))
        if row == 10:  # a slow consumer: the thread runs as far ahead as it may
            wait_until(lambda: len(alive) >= 4)
            time.sleep(0.05)
            assert len(alive) == 4, "the one in use, and three ahead"
        del item
    assert most <= 5


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    reader = iter(ReadAhead(items()))
    assert [next(reader) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(reader)
    assert list(reader) == []


def test_a_consumer_may_stop_early() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread().name)

    source = ReadAhead(items())
    reader = iter(source)
    assert [next(reader), next(reader)] == [0, 1]
    assert len(find_readers()) == 1
    source.close()
    assert find_readers() == []
    assert closed == ["apex-read-ahead"], "a generator is closed in the thread that ran it"
    assert list(reader) == []
    source.close()


def test_an_item_in_the_making_is_let_go_when_the_consumer_closes() -> None:
    is_closing = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        is_closing.wait(PATIENCE)
        yield 1

    source = ReadAhead(items())
    reader = iter(source)
    assert next(reader) == 0
    threading.Timer(0.05, is_closing.set).start()
    source.close()
    assert is_closing.is_set(), "closing waits for the item in the making"
    assert list(reader) == []


def test_a_new_iteration_ends_the_one_before() -> None:
    source = ReadAhead(range(1000))
    first = iter(source)
    next(first)
    second = iter(source)
    assert next(second) == 0
    assert len(find_readers()) == 1
    assert list(first) == []
    source.close()


def test_a_dropped_iterator_takes_its_thread_along() -> None:
    reader = iter(ReadAhead(range(1000)))
    next(reader)
    del reader
    assert find_readers() == []
    cycle: list[Any] = [iter(ReadAhead(range(1000)))]
    next(cycle[0])
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert find_readers() == []


def test_a_failing_step_ends_the_thread(tiny_model: ApexModel) -> None:
    scorer, song = SongScorer(tiny_model), {"array": make_waveform(0.3), "sampling_rate": 24_000}
    for step in ("read", "encode", "report"):
        steps = {
            "read": scorer.read,
            "encode": scorer.encode,
            "report": scorer.report,
        }

        def fail(inputs: Any) -> Any:
            raise ZeroDivisionError

        reports = scorer.run([song] * 1000, **{**steps, step: fail})
        with pytest.raises(ZeroDivisionError) as caught:
            list(reports)
        assert caught.traceback, "the traceback is alive and holds the iterator"
        assert find_readers() == []
        assert list(reports) == []


def test_results_of_the_pipeline_may_be_asked_without_iter_and_again(
    scorer: ApexPopularityPipeline, song_file: SongFile
) -> None:
    songs = [str(song_file(f"{row}.wav", seed=row)) for row in range(2)]
    reports = scorer(KeyDataset([{"audio": song} for song in songs], "audio"), batch_size=3)
    assert len(reports) == 2
    first = [next(reports), next(reports)]
    assert [report["song"] for report in first] == songs
    with pytest.raises(StopIteration):
        next(reports)
    assert list(reports) == first, "each iteration begins anew"


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_ahead` must be at least 1, got 0"):
        ReadAhead([], 0)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_do_not_depend_on_it(
    scorer: ApexPopularityPipeline, song_file: SongFile, tmp_path: Path, batch_size: int
) -> None:
    songs = [str(song_file(f"{row}.wav", 0.07 + 0.21 * row, seed=row)) for row in range(4)]
    songs.insert(2, str(tmp_path / "absent.wav"))
    options = {"on_error": "report", "batch_size": batch_size, "return_timeline": True}
    expected = scorer(songs, read_ahead=False, **options)
    assert scorer(songs, **options) == expected
    assert list(scorer(iter(songs), read_ahead=True, **options)) == expected
    assert ["error" in report for report in expected] == [False, False, True, False, False]


def test_who_reads_ahead_by_default(
    scorer: ApexPopularityPipeline, song_file: SongFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(song_file())
    threads = []
    preprocess = scorer.preprocess

    def note_thread(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        yield from preprocess(*arguments, **options)

    monkeypatch.setattr(scorer, "preprocess", note_thread)

    def reads_ahead(songs: Any, **options: Any) -> bool:
        threads.clear()
        reports = scorer(songs, **options)
        assert isinstance(reports, dict) or len(list(reports)) == 1
        return threads == ["apex-read-ahead"]

    dataset = Dataset.from_dict({"audio": [path]}).cast_column("audio", Audio(decode=False))
    assert reads_ahead(path)
    assert reads_ahead([path])
    assert reads_ahead(dataset)
    assert reads_ahead(KeyDataset(dataset, "audio"))
    assert not reads_ahead(iter([path]))
    assert reads_ahead(iter([path]), read_ahead=True)
    assert not reads_ahead([path], read_ahead=False)
    assert len(scorer(KeyDataset(dataset, "audio"))) == 1
    unwrapped = load_pipeline(scorer.model, read_ahead=False)
    monkeypatch.setattr(unwrapped, "preprocess", note_thread)
    threads.clear()
    unwrapped(path)
    assert threads == ["MainThread"]


def test_an_error_of_the_model_leaves_no_thread(
    scorer: ApexPopularityPipeline, song_file: SongFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = str(song_file(seconds=3.0))

    def fail(inputs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(scorer.model, "compute_segment_embeddings", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer([song, song])
    assert find_readers() == [], "although the traceback is still alive"
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer(song)
    assert find_readers() == []


@pytest.mark.parametrize("door", ["pipeline", "scorer"])
def test_reports_that_nobody_takes_leave_no_thread(tiny_folder: Path, song_file: SongFile, door: str) -> None:
    is_pipeline = door == "pipeline"
    score = load_pipeline(tiny_folder) if is_pipeline else load_scorer(tiny_folder, device="cpu").score
    reports = score(iter([str(song_file(seconds=1.0))] * 20), read_ahead=True)
    assert next(iter(reports))["num_segments"] == 10
    assert len(find_readers()) == 1
    del reports
    assert find_readers() == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_long_song_is_never_far_ahead(
    scorer: ApexPopularityPipeline, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    song = {"array": make_waveform(4.0), "sampling_rate": 24_000}  # 40 segments
    made, most, encoded = [0], [0], [0]
    preprocess, compute = scorer.preprocess, scorer.model.compute_segment_embeddings

    def count_made(*arguments: Any, **options: Any) -> Any:
        for item in preprocess(*arguments, **options):
            made[0] += 1
            yield item

    def encode_slowly(values: Any) -> Any:
        time.sleep(0.005)
        most[0] = max(most[0], made[0] - encoded[0])
        encoded[0] += len(values)
        return compute(values)

    monkeypatch.setattr(scorer, "preprocess", count_made)
    monkeypatch.setattr(scorer.model, "compute_segment_embeddings", encode_slowly)
    assert scorer([song], batch_size=batch_size)[0]["num_segments"] == 40
    assert 1 < most[0] <= SEGMENTS_AHEAD + batch_size


def test_ctrl_c_stops_both_threads(tiny_folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys, threading, numpy as np\n"
        "from modeling_apex import load_scorer\n"
        "scorer = load_scorer(sys.argv[1], device='cpu')\n"
        "noise = np.random.default_rng(0).standard_normal(200000).astype(np.float32)\n"
        "song = {'array': noise * 0.1, 'sampling_rate': 24000}\n"
        "try:\n"
        "    for report in scorer.score([song] * 100000):\n"
        "        print('scored', flush=True)\n"
        "except KeyboardInterrupt as error:\n"
        "    print(len(threading.enumerate()), flush=True)\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tiny_folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=take_interrupts,
    )
    assert process.stdout.readline() == "scored\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert output.splitlines()[-1] == "1", "the main thread alone"
    assert errors == ""


def test_what_a_user_holds_open_stays_open(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    with open(song_file(seconds=0.5), "rb") as file:
        scorer(file)
        assert not file.closed
    assert np.isfinite(list(scorer(str(song_file()))["scores"].values())).all()
