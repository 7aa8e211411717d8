"""Stored work is of exactly what made it: change one thing, and the new value is found or the old one refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

import modeling_apex.corpus.embed as embed_module
from modeling_apex import ApexFeatureExtractor, ApexModel, load_pipeline
from modeling_apex.corpus import identity, song_decoding
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.corpus.song_source import ParquetSongSource, open_song_source
from modeling_apex.corpus.waveform_store import open_waveform_store

from song_folders import make_wav, write_dataset

SIZES = {"train": 8, "validation": 4}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", SIZES)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests are made just now; take them for old ones."""
    monkeypatch.setattr(identity, "SETTLING_NS", -(2**62))


@pytest.fixture
def embed(dataset: Path, tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Embed the dataset, two songs a shard, and return the names of the shards that were made."""

    def run(source: Any = dataset, **options: Any) -> list[str]:
        made = []
        save = embed_module.save_shard
        with monkeypatch.context() as patch:
            patch.setattr(embed_module, "save_shard", lambda path, *rest: (made.append(path.stem), save(path, *rest)))
            embed_songs(source, tmp_path / "out", tiny_model, songs_per_shard=2, **options)
        return made

    return run


def rewrite(dataset: Path, change: Callable[[dict[str, list]], None], split: str = "train") -> None:
    """Write a split of a dataset again, with columns that `change` has changed."""
    path = dataset / "data" / f"{split}-00000-of-00001.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, schema=table.schema), path)


def replace_audio(columns: dict[str, list], row: int = 5) -> None:
    columns["audio"][row] = {"bytes": make_wav(77, 0.15), "path": None}


def change_label(columns: dict[str, list], value: float = 4.0) -> None:
    columns["coherence"][0] = value


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParquetSongSource, "iterate", lambda *_: pytest.fail("audio was read again"))
    monkeypatch.setattr(identity.hashlib, "file_digest", lambda *_: pytest.fail("a file was read again"))


def test_a_corrected_label_reaches_training(dataset: Path, tmp_path: Path, embed: Callable) -> None:
    rewrite(dataset, lambda columns: change_label(columns, 2.0))
    embed()
    before = open_embedding_store(tmp_path / "out")
    rewrite(dataset, change_label)
    after = open_embedding_store(tmp_path / "out")
    assert before.get_split("train").build_labels(["coherence"])[0, 0] == 2.0
    assert after.get_split("train").build_labels(["coherence"])[0, 0] == 4.0
    assert after.dataset_sha256 != before.dataset_sha256
    assert after.manifest_sha256 == before.manifest_sha256
    assert embed() == [], "the audio is what it was"


def test_embeddings_hold_no_labels(tmp_path: Path, embed: Callable) -> None:
    embed()
    names = pq.read_schema(tmp_path / "out" / "train-00000.parquet").names
    assert names == ["id", "segment_index", "num_real_samples", "embedding"]


def test_replaced_audio_is_refused_until_its_shard_is_made_anew(
    dataset: Path, tmp_path: Path, embed: Callable, tiny_model: ApexModel
) -> None:
    assert len(embed()) == 6
    before = open_embedding_store(tmp_path / "out")
    rewrite(dataset, replace_audio)
    message = (
        rf"audio of 1 song has changed .* 'train-song-5'.* apex-music embed {dataset} --output {tmp_path / 'out'}"
    )
    with pytest.raises(ValueError, match=message):
        open_embedding_store(tmp_path / "out")
    assert embed() == ["train-00002"]
    after = open_embedding_store(tmp_path / "out")
    assert after.manifest_sha256 != before.manifest_sha256
    report = load_pipeline(tiny_model)(make_wav(77, 0.15), return_embedding=True)
    assert after.get_split("train").song_embeddings[5:6][0] == pytest.approx(report["embedding"], rel=1e-4, abs=1e-5)


def test_a_replaced_file_of_the_same_size_and_time_is_seen(
    tmp_path: Path, tiny_model: ApexModel, embed: Callable, settled: None
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.wav").write_bytes(make_wav(number, 0.15))
    assert len(embed(folder)) == 2
    status = (folder / "3.wav").stat()
    (folder / "3.wav").write_bytes(make_wav(9, 0.15))
    os.utime(folder / "3.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=r"audio of 1 song has changed .* '3\.wav'"):
        open_embedding_store(tmp_path / "out")
    assert embed(folder) == ["train-00001"]
    open_embedding_store(tmp_path / "out")


def test_a_file_that_was_another_while_it_was_decoded_is_embedded_again(
    tmp_path: Path, embed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(make_wav(0, 0.15))
    decode = song_decoding.decode_song

    def replace_and_decode(*options: Any) -> Any:
        (folder / "a.wav").write_bytes(make_wav(1, 0.15))
        yield from decode(*options)

    with monkeypatch.context() as patch:
        patch.setattr(song_decoding, "decode_song", replace_and_decode)
        embed(folder)
    (folder / "a.wav").write_bytes(make_wav(0, 0.15))
    assert embed(folder) == ["train-00000"]
    assert embed(folder) == []


def test_a_song_that_failed_is_embedded_once_its_file_is_whole(
    tmp_path: Path, tiny_model: ApexModel, embed: Callable
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"half a download")
    embed(folder)
    assert embed(folder) == []
    (folder / "a.wav").write_bytes(make_wav(1, 0.15))
    with pytest.raises(ValueError, match=r"audio of 1 song has changed"):
        open_embedding_store(tmp_path / "out")
    assert embed(folder) == ["train-00000"]
    assert open_embedding_store(tmp_path / "out").get_split("train").num_songs == 1


def test_unchanged_audio_is_recognised_without_reading_it(
    dataset: Path, tmp_path: Path, embed: Callable, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset / "song.wav").write_bytes(make_wav(5, 0.15))
    rewrite(dataset, lambda columns: columns["audio"].__setitem__(1, {"bytes": None, "path": "song.wav"}))
    assert len(embed()) == 6
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert embed() == []
        open_embedding_store(tmp_path / "out")
    # Rewritten with the same audio, it is read once by each of both, and never encoded.
    rewrite(dataset, change_label)
    open_embedding_store(tmp_path / "out")
    assert embed() == []
    forbid_reading(monkeypatch)
    open_embedding_store(tmp_path / "out")
    assert embed() == []


def test_a_file_beside_an_unchanged_dataset_can_change(
    dataset: Path, tmp_path: Path, embed: Callable, settled: None
) -> None:
    (dataset / "song.wav").write_bytes(make_wav(5, 0.15))
    rewrite(dataset, lambda columns: columns["audio"].__setitem__(1, {"bytes": None, "path": "song.wav"}))
    embed()
    (dataset / "song.wav").write_bytes(make_wav(6, 0.15))
    with pytest.raises(ValueError, match=r"audio of 1 song has changed .* 'train-song-1'"):
        open_embedding_store(tmp_path / "out")
    (dataset / "song.wav").unlink()
    with pytest.raises(ValueError, match=r"audio of 1 song has changed .* 'train-song-1'"):
        open_embedding_store(tmp_path / "out")
    assert embed() == ["train-00000"]


def test_reading_again_finds_what_stamps_hide(dataset: Path, tmp_path: Path, embed: Callable, settled: None) -> None:
    embed()
    rewrite(dataset, replace_audio)
    path = dataset / "data" / "train-00000-of-00001.parquet"
    for record in (tmp_path / "out").glob("train-*.audio.json"):  # as if the file system had hidden the change
        fields = json.loads(record.read_text())
        status = path.stat()
        fields["files"][0][3] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        record.write_text(json.dumps(fields))
    assert embed() == []
    with pytest.raises(ValueError, match="audio of 1 song has changed"):
        open_embedding_store(tmp_path / "out", rereads=True)
    assert embed(rereads=True) == ["train-00002"]


def test_what_lies_behind_a_url_is_known_by_its_address(tmp_path: Path, embed: Callable) -> None:
    folder = tmp_path / "urls"
    folder.mkdir()
    table = {"id": ["a", "b"], "audio": [f"https://me:5ecret@127.0.0.1/{name}.mp3?sig=5ecret" for name in "ab"]}
    pq.write_table(pa.table(table), folder / "train-00000-of-00001.parquet")
    assert embed(folder) == ["train-00000"]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert "https://127.0.0.1/a.mp3?sig=***: " in (tmp_path / "out" / "failures.jsonl").read_text()
    assert not [path for path in written if b"5ecret" in path.read_bytes()]
    assert embed(folder) == []
    assert embed(folder, rereads=True) == ["train-00000"], "it is fetched again on request"
    table["audio"][0] = "https://127.0.0.1/c.mp3"
    pq.write_table(pa.table(table), folder / "train-00000-of-00001.parquet")
    assert embed(folder) == ["train-00000"]


def test_labels_come_from_a_dataset_that_is_found(dataset: Path, tmp_path: Path, embed: Callable) -> None:
    embed()
    dataset.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"dataset', which the manifest names, was not found.*--songs DATA"):
        open_embedding_store(tmp_path / "out")
    for songs in (tmp_path / "moved", open_song_source(tmp_path / "moved")):
        store = open_embedding_store(tmp_path / "out", songs=songs)
        assert store.get_split("train").list_values("id") == [f"train-song-{index}" for index in range(8)]


def test_songs_that_are_gone_or_new_are_counted_and_refused(dataset: Path, tmp_path: Path, embed: Callable) -> None:
    embed()
    rewrite(dataset, lambda columns: columns["id"].__setitem__(slice(0, 2), ["x", "y"]))
    message = (
        r"2 songs were embedded and are not in the dataset, for example 'train-song-0' in 'train'; 2 songs are new in "
        rf"the dataset, for example 'x' in 'train'\. Embed it into a new folder: apex-music embed {dataset}"
    )
    with pytest.raises(ValueError, match=message):
        open_embedding_store(tmp_path / "out")
    with pytest.raises(ValueError, match="started with another source"):
        embed()
    (dataset / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"the dataset has no split validation\. Embed it into a new folder"):
        open_embedding_store(tmp_path / "out")


def test_labels_are_joined_by_id_and_not_by_place(dataset: Path, tmp_path: Path, embed: Callable) -> None:
    embed()
    before = open_embedding_store(tmp_path / "out")
    rewrite(dataset, lambda columns: [values.reverse() for values in columns.values()])
    after = open_embedding_store(tmp_path / "out")
    assert after.get_split("train").songs.equals(before.get_split("train").songs)
    assert after.dataset_sha256 == before.dataset_sha256, "the order of songs changes no training"
    rewrite(dataset, replace_audio)
    with pytest.raises(ValueError, match=r"audio of 1 song has changed .* 'train-song-2'"):
        open_embedding_store(tmp_path / "out")


def test_decoded_songs_follow_their_audio_and_their_labels(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)

    def open_store(**options: Any) -> Any:
        return open_waveform_store(open_song_source(dataset), tmp_path / "cache", extractor, **options)

    before = open_store()
    rewrite(dataset, change_label)
    corrected = open_store()
    assert corrected.folder == before.folder
    assert corrected.get_split("train").build_labels(["coherence"])[0, 0] == 4.0
    assert corrected.dataset_sha256 != before.dataset_sha256
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        open_store()
    rewrite(dataset, replace_audio)
    after = open_store()
    assert after.manifest_sha256 != before.manifest_sha256
    old, new = (np.asarray(store.get_split("train").segments) for store in (before, after))
    assert not np.array_equal(old, new)
    monkeypatch.setattr(ParquetSongSource, "iterate", lambda *_: iter(()))
    assert open_store(rereads=True).manifest_sha256 != after.manifest_sha256, "every song is read"


def train(out: Path, run: Path, *words: str) -> int:
    from modeling_apex.cli import main

    options = ["--num-epochs", "1", "--batch-size", "4", "--report-to", "none", *words]
    return main(["train", str(out), "--output", str(run), *options])


def test_a_run_whose_labels_changed_is_not_resumed(
    dataset: Path, tmp_path: Path, tiny_folder: Path, embed: Callable, capsys: pytest.CaptureFixture
) -> None:
    embed()
    words = ("--model", str(tiny_folder))
    assert train(tmp_path / "out", tmp_path / "run", *words) == 0
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["dataset_sha256"] == open_embedding_store(tmp_path / "out").dataset_sha256
    rewrite(dataset, change_label)
    assert train(tmp_path / "out", tmp_path / "run", *words, "--resume") == 2
    said = capsys.readouterr().err
    assert "this run was started with other data (dataset_sha256 was" in said
    assert "embeddings_manifest_sha256" not in said


def test_a_model_folder_that_holds_other_weights_now_is_refused(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    embed_songs(dataset, tmp_path / "out", tiny_folder)
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1.0)
    tiny_model.save_pretrained(tiny_folder)
    assert train(tmp_path / "out", tmp_path / "run") == 2
    assert "embeddings of another model or precision (weights_sha256" in capsys.readouterr().err
    with pytest.raises(ValueError, match="embeddings of another model or precision"):
        embed_songs(dataset, tmp_path / "out", tiny_folder)


def test_batch_sizes_below_one_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from modeling_apex.cli import main

    for flag in ("--batch-size", "--decoders", "--songs-per-shard"):
        with pytest.raises(SystemExit):
            main(["embed", "songs", "--output", str(tmp_path), flag, "-1"])
        assert f"argument {flag}: must be at least 1, got -1" in capsys.readouterr().err


def test_help_says_how_to_force_a_check(capsys: pytest.CaptureFixture) -> None:
    from modeling_apex.cli import main

    for command in ("embed", "score"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--recheck" in capsys.readouterr().out


def list_stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {str(path): (status.st_mtime_ns, status.st_ctime_ns) for path, status in found.items()}


@pytest.mark.parametrize("what", ["nothing", "links"])
def test_nothing_is_written_into_a_folder_that_is_only_read(
    dataset: Path, tmp_path: Path, embed: Callable, what: str
) -> None:
    embed()
    out, diary = tmp_path / "out", tmp_path / "diary"
    diary.write_text("dear diary")
    if what == "links":
        for name in (".lock", "columns", "manifest.json.writing", ".columns.lock", "train-00000.audio.json.writing"):
            (out / name).symlink_to(diary)
    before = list_stamps(out)
    assert open_embedding_store(out).get_split("train").num_songs == 8
    assert list_stamps(out) == before
    assert diary.read_text() == "dear diary"


def test_other_shards_under_the_same_manifest_are_other_columns(tmp_path: Path, embed: Callable) -> None:
    embed()
    first = open_embedding_store(tmp_path / "out").get_split("train").segments[:]
    path = tmp_path / "out" / "train-00000.parquet"
    table = pq.read_table(path)
    changed = pa.FixedSizeListArray.from_arrays(pc.negate(table["embedding"].combine_chunks().flatten()), 16)
    pq.write_table(table.set_column(table.schema.get_field_index("embedding"), "embedding", changed), path)
    second = open_embedding_store(tmp_path / "out").get_split("train").segments[:]
    assert (second[: len(changed)] == -first[: len(changed)]).all()


def test_a_split_is_no_way_out_of_the_folder(tmp_path: Path, embed: Callable) -> None:
    embed()
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"]["splits"] = {"../../../victim/planted": 0, "train": 8, "validation": 4}
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=r"manifest\.json: the split '\.\./\.\./.*planted' cannot be the name of a file"
    ):
        open_embedding_store(tmp_path / "out", tmp_path / "cache" / "columns")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("is_complete"), "for it lacks is_complete"),
        (lambda manifest: manifest.update(songs_per_shard=0), "for it has sizes that are not counts"),
        (
            lambda manifest: manifest["source"].update(splits={"train": -1}),
            "does not say how many songs each split has",
        ),
        (lambda manifest: manifest["source"].pop("name"), "does not give the name and ids of its songs"),
        (
            lambda manifest: manifest.update(songs_per_shard=1),
            r"lists 8 shards of 'train', and there are 4\. Make the",
        ),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, embed: Callable, change: Callable, message: str) -> None:
    embed()
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"out.*{message}.*apex-music embed .* --output"):
        open_embedding_store(tmp_path / "out")
    path.write_text("[]")
    with pytest.raises(
        ValueError, match=r"manifest\.json: not the manifest of a folder of embeddings, for it is not a JSON"
    ):
        open_embedding_store(tmp_path / "out")


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40:200] = bytes(160)
    path.write_bytes(content)


def damage_table(column: str, values: pa.Array) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        damage_bytes,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata({"apex": "{"}), path),
        lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata({"apex": "{}"}), path),
        damage_table("segment_index", pa.array([1, 2, 3, 4], pa.int32())),
        damage_table("embedding", pa.array([[0.0] * 16] * 4, pa.list_(pa.float64(), 16))),
    ],
    ids=["bytes", "cut", "empty", "facts", "no facts", "index", "type"],
)
def test_a_damaged_shard_is_named(tmp_path: Path, embed: Callable, damage: Callable[[Path], None]) -> None:
    embed()
    path = tmp_path / "out" / "train-00001.parquet"
    damage(path)
    match = rf"{path}: damaged \(.+\)\. Delete it, then make it again: apex-music embed DATASET --output {path.parent}"
    with pytest.raises(ValueError, match=match):
        open_embedding_store(tmp_path / "out")
    path.unlink()
    assert embed() == ["train-00001"]
    open_embedding_store(tmp_path / "out")


def test_shards_have_one_schema_and_merge(dataset: Path, tmp_path: Path, embed: Callable) -> None:
    rewrite(
        dataset, lambda columns: [columns["audio"].__setitem__(row, {"bytes": b"?", "path": None}) for row in (0, 1)]
    )
    embed()
    paths = sorted((tmp_path / "out").glob("*.parquet"))
    assert pa.concat_tables([pq.read_table(path) for path in paths]).num_rows > 0
    (loaded,) = load_dataset(
        "parquet", data_files=[str(path) for path in paths], cache_dir=str(tmp_path / "hf")
    ).values()
    assert loaded.features["embedding"].length == 16
