"""Corpus embedding: equal to scoring, whole after any interruption, and never mixed."""

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from patience import PATIENCE

import modeling_apex.corpus.embed as embed_module
from modeling_apex import ApexFeatureExtractor, ApexModel, load_pipeline
from modeling_apex.cli import main
from modeling_apex.corpus import song_decoding
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedding_manifest import load_manifest
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.corpus.shards import read_shard_facts
from modeling_apex.corpus.song_decoding import decode_song, decode_songs
from modeling_apex.corpus.song_source import (
    AudioFolderSource,
    HubSongSource,
    ParquetSongSource,
    Song,
    compute_source_fingerprint,
    open_song_source,
)
from modeling_apex.inference.audio_limits_apex import AudioLimits

from song_folders import make_wav, write_dataset

SIZES = {"train": 9, "validation": 4}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", SIZES)


def read_rows(folder: Path) -> dict[str, list]:
    """All rows of all shards, in the order of the shards' names."""
    rows: dict[str, list] = {}
    for path in sorted(folder.glob("*.parquet")):
        for name, values in pq.read_table(path).to_pydict().items():
            rows.setdefault(name, []).extend(values)
    return rows


def test_embeddings_are_those_of_scoring(dataset: Path, tmp_path: Path, tiny_model: ApexModel) -> None:
    summary = embed_songs(dataset, tmp_path / "out", tiny_model, songs_per_shard=4, num_decoders=2, batch_size=3)
    assert (summary.num_songs, summary.failures) == (13, [])
    store = open_embedding_store(tmp_path / "out")
    scorer = load_pipeline(tiny_model)
    for split, size in SIZES.items():
        stored = store.get_split(split)
        rows = list(open_song_source(dataset).iterate(split, 0, size))
        assert stored.list_values("id") == [row.id for row in rows]
        for index, row in enumerate(rows):
            report = scorer(row.audio, return_embedding=True)
            assert stored.offsets[index + 1] - stored.offsets[index] == report["num_segments"]
            assert stored.song_embeddings[index : index + 1][0] == pytest.approx(
                report["embedding"], rel=1e-4, abs=1e-5
            )
        assert stored.build_labels(["coherence", "nothing"])[:, 0] == pytest.approx(
            [row.columns["coherence"] for row in rows]
        )
        assert np.isnan(stored.build_labels(["nothing"])).all()
        assert stored.list_values("platform") == [row.columns["platform"] for row in rows]
        assert stored.list_values("nothing") == [None] * size


def test_rows_do_not_depend_on_shards_threads_or_batches(dataset: Path, tmp_path: Path, tiny_model: ApexModel) -> None:
    embed_songs(dataset, tmp_path / "one", tiny_model)
    embed_songs(dataset, tmp_path / "two", tiny_model, songs_per_shard=2, num_decoders=3, batch_size=5)
    one, two = read_rows(tmp_path / "one"), read_rows(tmp_path / "two")
    assert np.array(one.pop("embedding")) == pytest.approx(np.array(two.pop("embedding")), rel=1e-4, abs=1e-5)
    assert one == two
    assert one["segment_index"][:6] == [0, 0, 1, 0, 1, 2]


def test_a_broken_song_is_listed_and_the_others_are_embedded(
    tmp_path: Path, tiny_model: ApexModel, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_dataset(tmp_path / "dataset", SIZES, broken=("train-song-3", "validation-song-0"))
    with caplog.at_level(logging.WARNING):
        summary = embed_songs(dataset, tmp_path / "out", tiny_model, songs_per_shard=4)
    assert "not embedded: train-song-3" in caplog.text
    assert summary.num_songs == 11
    listed = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert listed == summary.failures
    assert [(entry["split"], entry["id"]) for entry in listed] == [
        ("train", "train-song-3"),
        ("validation", "validation-song-0"),
    ]
    assert "is not in a format that this program reads" in listed[0]["error"]
    assert "train-song-3" not in read_rows(tmp_path / "out")["id"]


def test_failures_are_tried_again_on_request(tmp_path: Path, tiny_model: ApexModel) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(make_wav(0, 0.15))
    (folder / "b.wav").write_bytes(make_wav(1, 0.35))
    limits = AudioLimits(max_seconds=0.2)
    assert len(embed_songs(folder, tmp_path / "out", tiny_model, limits=limits).failures) == 1
    assert len(embed_songs(folder, tmp_path / "out", tiny_model).failures) == 1
    summary = embed_songs(folder, tmp_path / "out", tiny_model, retry_failures=True)
    assert (summary.num_songs, summary.failures) == (2, [])
    assert set(read_rows(tmp_path / "out")["id"]) == {"a.wav", "b.wav"}


def test_limits_are_those_of_scoring(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    from modeling_apex.cli import main

    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "short.wav").write_bytes(make_wav(0, 0.15))
    (folder / "long.wav").write_bytes(make_wav(1, 0.6))
    words = ["embed", str(folder), "--model", str(tiny_folder), "--output", str(tmp_path / "out")]
    assert main([*words, "--max-seconds", "0.5"]) == 1
    assert "1 song, 2 segments, 1 failed" in capsys.readouterr().out
    (failure,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert failure["id"] == "long.wav"
    assert "0.5" in failure["error"]
    assert main([*words, "--retry-failures"]) == 0
    assert "2 songs, 8 segments, 0 failed" in capsys.readouterr().out


def test_a_segment_that_the_encoder_cannot_bear_fails_its_song_alone(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = ApexModel.compute_segment_embeddings
    calls = iter(range(1000))

    def fail_batches(self: ApexModel, values: torch.Tensor) -> torch.Tensor:
        if len(values) > 1 or next(calls) == 0:
            raise FloatingPointError("the encoder yields NaN")
        return compute(self, values)

    monkeypatch.setattr(ApexModel, "compute_segment_embeddings", fail_batches)
    summary = embed_songs(dataset, tmp_path / "out", tiny_model, batch_size=4)
    assert [(failure["id"], failure["error"]) for failure in summary.failures] == [
        ("train-song-0", "the encoder yields NaN")
    ]


def test_an_interrupted_run_goes_on_with_the_missing_shards(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_songs(dataset, tmp_path / "whole", tiny_model, songs_per_shard=2)
    save = embed_module.save_shard
    saved: list[str] = []

    def save_or_die(path: Path, *rest: object) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(path, *rest)
        saved.append(path.name)

    monkeypatch.setattr(embed_module, "save_shard", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        embed_songs(dataset, tmp_path / "parts", tiny_model, songs_per_shard=2)
    assert not load_manifest(tmp_path / "parts")["is_complete"]
    with pytest.raises(ValueError, match="this embedding is unfinished"):
        open_embedding_store(tmp_path / "parts")
    saved.clear()
    monkeypatch.setattr(embed_module, "save_shard", lambda path, *rest: (saved.append(path.name), save(path, *rest)))
    embed_songs(dataset, tmp_path / "parts", tiny_model, songs_per_shard=2)
    assert len(saved) == 7 - 3  # five shards of train, two of validation
    assert read_rows(tmp_path / "parts") == read_rows(tmp_path / "whole")


def embed_slowly(*arguments: Any) -> None:
    """Embed with shards spread over seconds, so that a kill that comes late still hits the work and not its end."""
    torch.set_num_threads(1)  # a forked process does not have the threads of OpenMP that torch thinks it has
    save = embed_module.save_shard

    def save_slowly(*values: Any) -> None:
        time.sleep(0.3)
        save(*values)

    embed_module.save_shard = save_slowly
    embed_songs(*arguments, songs_per_shard=2)


def test_killed_at_random_moments_it_loses_and_repeats_nothing(tmp_path: Path, tiny_model: ApexModel) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 40, "validation": 6}, broken=("train-song-5",))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    embed_songs(dataset, whole, tiny_model, songs_per_shard=2)
    moments = random.Random(0)
    num_kills = 0
    for _ in range(8):
        process = multiprocessing.get_context("fork").Process(target=embed_slowly, args=(dataset, parts, tiny_model))
        process.start()
        time.sleep(moments.uniform(0, 0.6))
        process.kill()
        process.join()
        num_kills += process.exitcode == -signal.SIGKILL
    assert num_kills >= 4
    summary = embed_songs(dataset, parts, tiny_model, songs_per_shard=2)
    assert (summary.num_songs, [failure["id"] for failure in summary.failures]) == (45, ["train-song-5"])
    assert read_rows(parts) == read_rows(whole)
    assert not list(parts.glob("*.writing"))


def test_a_finished_folder_is_unfinished_while_failures_are_tried_again(
    tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(make_wav(0, 0.15))
    (folder / "b.wav").write_bytes(b"half a download")
    embed_songs(folder, tmp_path / "out", tiny_model)
    (folder / "b.wav").write_bytes(make_wav(1, 0.15))

    def stop(*values: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed_module._EmbeddingRun, "close_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_songs(folder, tmp_path / "out", tiny_model, retry_failures=True)
    with pytest.raises(ValueError, match="this embedding is unfinished"):
        open_embedding_store(tmp_path / "out")
    embed_songs(folder, tmp_path / "out", tiny_model)
    assert open_embedding_store(tmp_path / "out").manifest["num_songs"] == 2


def test_a_shard_that_cannot_be_written_leaves_no_half(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        embed_songs(dataset, tmp_path / "out", tiny_model)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_what_a_killed_run_left_of_its_columns_is_removed(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_songs(dataset, tmp_path / "out", tiny_model)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *values: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(shutil, "rmtree", lambda *values, **options: None)  # as killed: nothing is tidied up
        with pytest.raises(KeyboardInterrupt):
            open_embedding_store(tmp_path / "out", tmp_path / "columns")
    (leftover,) = (tmp_path / "columns").iterdir()
    (leftover / "stray").touch()
    open_embedding_store(tmp_path / "out", tmp_path / "columns")
    name = leftover.name.removesuffix(".writing")
    assert sorted(path.name for path in (tmp_path / "columns").iterdir()) == [name, f"{name}-audio"]
    assert not (tmp_path / "columns" / name / "stray").exists()


def test_a_decoding_thread_that_ends_is_an_error_and_no_hang(
    tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_thread(*options: object) -> None:
        raise SystemExit("the thread ends")

    monkeypatch.setattr(song_decoding, "decode_song", end_thread)
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    with pytest.raises(SystemExit, match="the thread ends"):
        list(decode_songs([Song("a", None, {})], extractor, num_threads=2))


def test_two_processes_share_the_shards(
    tmp_path: Path, dataset: Path, tiny_model: ApexModel, tiny_folder: Path
) -> None:
    embed_songs(dataset, tmp_path / "one", tiny_model, songs_per_shard=2)
    words = ["-m", "modeling_apex.cli", "embed", str(dataset), "--model", str(tiny_folder), "--songs-per-shard", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    command += ["--output", str(tmp_path / "two")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("13 songs") == 1  # one process speaks for both
    assert read_rows(tmp_path / "two") == read_rows(tmp_path / "one")


def test_refuses_another_model_dtype_source_or_cut(dataset: Path, tmp_path: Path, tiny_model: ApexModel) -> None:
    out = tmp_path / "out"
    embed_songs(dataset, out, tiny_model)
    with pytest.raises(ValueError, match=r"another model or precision \(dtype 'float32' instead of 'bfloat16'\)"):
        embed_songs(dataset, out, tiny_model, dtype="bfloat16")
    with pytest.raises(ValueError, match="resampler 'sinc' instead of 'soxr'"):
        embed_songs(dataset, out, tiny_model, resampler="soxr")
    with pytest.raises(ValueError, match="started with another songs_per_shard"):
        embed_songs(dataset, out, tiny_model, songs_per_shard=3)
    with pytest.raises(ValueError, match="started with another source"):
        embed_songs(write_dataset(tmp_path / "more", {"train": 5}), out, tiny_model)
    (tmp_path / "dataset").rename(tmp_path / "moved")
    embed_songs(tmp_path / "moved", out, tiny_model)
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1.0)
    with pytest.raises(ValueError, match="weights_sha256"):
        embed_songs(tmp_path / "moved", out, tiny_model)


def test_refuses_a_shard_from_elsewhere(dataset: Path, tmp_path: Path, tiny_model: ApexModel) -> None:
    out = tmp_path / "out"
    embed_songs(dataset, out, tiny_model)
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1.0)
    embed_songs(dataset, tmp_path / "other", tiny_model)
    (tmp_path / "other" / "train-00000.parquet").replace(out / "train-00000.parquet")
    with pytest.raises(ValueError, match=r"train-00000.parquet: holds embeddings of another model"):
        open_embedding_store(out)
    pq.write_table(
        pq.read_table(out / "train-00000.parquet").replace_schema_metadata(None), out / "train-00000.parquet"
    )
    with pytest.raises(ValueError, match="not a shard of embeddings"):
        read_shard_facts(out / "train-00000.parquet")


def test_refuses_options_that_make_no_sense(dataset: Path, tmp_path: Path, tiny_model: ApexModel) -> None:
    with pytest.raises(ValueError, match="`dtype` must be one of float32, bfloat16, float16, got 'int8'"):
        embed_songs(dataset, tmp_path / "out", tiny_model, dtype="int8")
    for name, value in (("num_decoders", 0), ("batch_size", -1), ("songs_per_shard", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got {value}"):
            embed_songs(dataset, tmp_path / "out", tiny_model, **{name: value})
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "x.parquet").touch()
    with pytest.raises(ValueError, match=r"holds files but no manifest.json"):
        embed_songs(dataset, stray, tiny_model)


def test_lower_precision_is_close_and_leaves_the_model_alone(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel
) -> None:
    embed_songs(dataset, tmp_path / "full", tiny_model)
    embed_songs(dataset, tmp_path / "half", tiny_model, dtype="bfloat16")
    assert tiny_model.encoder.dtype == torch.float32
    full, half = (np.array(read_rows(tmp_path / name)["embedding"]) for name in ("full", "half"))
    assert 0 < np.linalg.norm(full - half) / np.linalg.norm(full) < 0.5  # 16 random units round roughly
    assert load_manifest(tmp_path / "half")["identity"]["dtype"] == "bfloat16"


def test_sources(tmp_path: Path, dataset: Path) -> None:
    songs = open_song_source(dataset)
    assert isinstance(songs, ParquetSongSource)
    assert songs.splits == SIZES
    assert [song.id for song in songs.iterate("train", 3, 6)] == ["train-song-3", "train-song-4", "train-song-5"]
    assert "prompt" not in songs.columns.names
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.wav").write_bytes(make_wav(0, 0.1))
    assert isinstance(open_song_source(folder), AudioFolderSource)
    (folder / "a.wav").unlink()
    with pytest.raises(FileNotFoundError, match="no audio in this folder"):
        open_song_source(folder)


def test_hub_datasets_come_through_datasets(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    made = datasets.load_dataset("parquet", data_dir=str(dataset / "data"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    songs, local = open_song_source("owner/songs"), open_song_source(dataset)
    assert isinstance(songs, HubSongSource)
    assert compute_source_fingerprint(songs) == compute_source_fingerprint(local)
    assert next(songs.iterate("validation", 1, 3)).columns == next(local.iterate("validation", 1, 3)).columns
    names = songs.columns.names
    assert songs.read_columns("train", names).equals(local.read_columns("train", names))
    ((cache, first, last),) = songs.locate("train", 2, 5)
    assert (cache.suffix, first, last) == (".arrow", 2, 5)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nope", "../nope/", "nope/", "~/nope", "a/b/c", "nope", ".x/y"])
def test_a_folder_that_is_not_there_is_no_name_of_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def refuse_to_ask(name: str) -> None:
        raise AssertionError(f"asked the Hub for {name}")

    monkeypatch.setattr("datasets.load_dataset", refuse_to_ask)
    assert main(["embed", name, "--output", str(tmp_path / "out")]) == 2
    assert f"{name}: no such folder. Pass a dataset folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_that_neither_disk_nor_hub_has(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["embed", "nope/folder", "--output", str(tmp_path / "out")]) == 2
    assert "nope/folder: no such folder, and no dataset of the Hub that could be read" in capsys.readouterr().err


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(FileNotFoundError, match=r"song\.wav: not a folder\. Pass a dataset folder"):
        open_song_source(tmp_path / "song.wav")


def test_source_refusals(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder. Pass a dataset folder"):
        open_song_source(tmp_path / "nowhere")
    table = pq.read_table(dataset / "data" / "train-00000-of-00001.parquet")
    twice = tmp_path / "twice"
    (twice / "data").mkdir(parents=True)
    pq.write_table(table, twice / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table, twice / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="the song id 'train-song-0' occurs twice"):
        compute_source_fingerprint(open_song_source(twice))
    pq.write_table(table, twice / "data" / "songs.parquet")
    with pytest.raises(ValueError, match=r"expected shards named like train-00000-of-00001.parquet"):
        open_song_source(twice)
    bare = tmp_path / "bare"
    bare.mkdir()
    pq.write_table(table.drop_columns(["audio"]), bare / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="no column audio; it has id, platform"):
        open_song_source(bare)
    with pytest.raises(FileNotFoundError, match="Make embeddings first"):
        load_manifest(tmp_path)


def test_a_song_without_audio_fails_alone(tiny_model: ApexModel) -> None:
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    songs = [Song("a", None, {}), Song("b", {"bytes": make_wav(0, 0.1), "path": None}, {})]
    segments = list(decode_songs(songs, extractor, num_threads=2))
    assert [(segment.song.id, segment.error) for segment in segments] == [
        ("a", "the dataset has no audio for this song"),
        ("b", None),
    ]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_fault_of_the_program_is_not_taken_for_a_broken_song(tiny_model: ApexModel, num_threads: int) -> None:
    def break_off() -> object:
        yield Song("a", {"bytes": make_wav(0, 0.1), "path": None}, {})
        raise RuntimeError("the disk is gone")

    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(decode_songs(break_off(), extractor, num_threads=num_threads))


def test_decoding_can_be_left_early(tiny_model: ApexModel) -> None:
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    song = Song("a", {"bytes": make_wav(0, 3.0), "path": None}, {})
    before = threading.active_count()
    segments = decode_songs([song] * 50, extractor, num_threads=2)
    assert next(segments).song.id == "a"
    assert threading.active_count() > before
    segments.close()
    assert threading.active_count() == before


def test_songs_leave_in_order_whatever_the_threads(tiny_model: ApexModel) -> None:
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    lengths = [1.5, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 1.2, 0.1]
    songs = [Song(f"{n}", {"bytes": make_wav(n, s), "path": None}, {}) for n, s in enumerate(lengths)]
    alone = [segment for song in songs for segment in decode_song(song, extractor)]
    assert len(alone) == 42
    for num_threads in (1, 2, 4, 12):
        together = list(decode_songs(iter(songs), extractor, num_threads=num_threads))
        assert [segment.song.id for segment in together] == [segment.song.id for segment in alone]
        assert np.array_equal([segment.samples for segment in together], [segment.samples for segment in alone])


def test_command_says_what_failed(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeling_apex.cli import main

    dataset = write_dataset(tmp_path / "dataset", {"train": 2}, broken=("train-song-1",))
    assert main(["embed", str(dataset), "--model", str(tiny_folder), "--output", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert "1 song, 1 segment, 1 failed" in output.out
    assert "failures.jsonl" in output.err
