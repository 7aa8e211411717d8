"""What a dataset was built from: one changed value, however well hidden, is found or refused by name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from killed_build import read_folder
from source_trees import (
    AESTHETIC_NAMES,
    encode_song,
    make_battle,
    make_song,
    make_songeval_row,
    make_suno_row,
    save_arena_tree,
    save_fma_tree,
    save_json_lines,
)

from datasets_scripts import metadata_tables, parquet_folder
from datasets_scripts.build import main
from datasets_scripts.build_arguments import build_parser
from datasets_scripts.metadata_tables import pin_revision
from datasets_scripts.song_record import CorpusOptions
from datasets_scripts.sources import load_ledger, name_sources, save_ledger
from datasets_scripts.training_songs import AUDIO_IN_TABLE, NO_AUDIO, SongSource, TrainingSongs
from modeling_apex.corpus import identity

SPLITS = ("--splits", "1:0:0")
Build = Callable[..., int]


def encode_wav(seed: int) -> bytes:
    """Encode a song in a file of always the same size."""
    return encode_song(make_song(seed, seconds=1), container="WAV")


def replace_unnoticed(path: Path, data: bytes | Callable[[bytes], bytes]) -> None:
    """Change a file so that its name, its size and its time of writing stay what they were."""
    before, status = path.read_bytes(), path.stat()
    after = data if isinstance(data, bytes) else data(before)
    assert len(after) == len(before)
    assert after != before
    path.write_bytes(after)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def make_training_tree(root: Path) -> list[str]:
    rows = [make_suno_row(number) for number in range(6)]
    save_json_lines(root / "songs.jsonl", rows)
    save_json_lines(root / "labels.jsonl", [{"id": row["id"], **dict.fromkeys(AESTHETIC_NAMES, 2.0)} for row in rows])
    (root / "audio").mkdir()
    for number, row in enumerate(rows):
        (root / "audio" / f"{row['id']}.wav").write_bytes(encode_wav(number))
    source = [str(root / "songs.jsonl"), str(root / "audio"), "suno"]
    return ["training", "--source", *source, "--labels", str(root / "labels.jsonl"), *SPLITS]


def make_songeval_tree(root: Path) -> list[str]:
    save_json_lines(root / "metadata.jsonl", [make_songeval_row(n, file_name=f"mp3/{n}.wav") for n in range(4)])
    (root / "mp3").mkdir()
    for number in range(4):
        (root / "mp3" / f"{number}.wav").write_bytes(encode_wav(number))
    return ["songeval", "--source", str(root), *SPLITS]


def make_arena_tree(root: Path) -> list[str]:
    save_arena_tree(root, {"07-2026FEB": [make_battle(number, "07-2026FEB") for number in (1, 2)]})
    return ["music-arena", "--source", str(root)]


def make_fma_tree(root: Path) -> list[str]:
    save_fma_tree(root, 5)
    for number, path in enumerate(sorted((root / "audio").rglob("*.mp3"))):
        path.write_bytes(encode_wav(number))
    return ["fma", "--tracks", str(root / "tracks.csv"), "--audio", str(root / "audio"), *SPLITS]


def make_tracks_tree(root: Path) -> list[str]:
    rows = [f"track-{number},artist-{number},{10 * number},2019-05\n" for number in range(5)]
    (root / "tracks.csv").write_text("track_id,artist_id,popularity,release_date\n" + "".join(rows))
    (root / "audio").mkdir()
    for number in range(5):
        (root / "audio" / f"track-{number}.wav").write_bytes(encode_wav(number))
    return ["spotify", "--tracks", str(root / "tracks.csv"), "--audio", str(root / "audio"), *SPLITS]


TREES = {
    "training": make_training_tree,
    "songeval": make_songeval_tree,
    "music-arena": make_arena_tree,
    "fma": make_fma_tree,
    "spotify": make_tracks_tree,
}
# Builder, file, what is replaced by what, the source that the refusal names, and where the new value is found.
CHANGES = [
    ("training", "labels.jsonl", (b'"clarity": 2.0', b'"clarity": 4.0'), "labels.jsonl", ("clarity", 4.0)),
    ("training", "songs.jsonl", (b'"Title 3"', b'"Tutti 3"'), "songs.jsonl", ("title", "Tutti 3")),
    ("training", "audio/song-003.wav", None, "audio", ("audio", None)),
    ("songeval", "metadata.jsonl", (b'"Coherence": 1', b'"Coherence": 4'), "metadata.jsonl", ("coherence", 3.25)),
    ("songeval", "mp3/2.wav", None, "audio", ("audio", None)),
    ("music-arena", "battle_data/07-2026FEB/battle-1.json", (b'"B"', b'"A"'), "battles", ("preference", "A")),
    ("music-arena", "audio_files/07-2026FEB/battle-1_a.mp3", None, "audio", ("audio_a", None)),
    ("fma", "tracks.csv", (b'"Song, 3"', b'"Sung, 3"'), "tracks.csv", ("title", "Sung, 3")),
    ("fma", "audio/000/000002.mp3", None, "audio", ("audio", None)),
    ("spotify", "tracks.csv", (b"track-3,artist-3,30", b"track-3,artist-3,90"), "tracks.csv", ("popularity", 90.0)),
    ("spotify", "audio/track-3.wav", None, "audio", ("audio", None)),
]


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests are seconds old, and are to be known by their stamps all the same."""
    monkeypatch.setattr(identity, "SETTLING_NS", -(10**15))


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to identify them."""
    names: list[str] = []
    digest = identity.hashlib.file_digest

    def count(file, *words):
        names.append(Path(file.name).name)
        return digest(file, *words)

    monkeypatch.setattr(identity, "hashlib", SimpleNamespace(sha256=identity.hashlib.sha256, file_digest=count))
    return names


def make_tree(tmp_path: Path, name: str) -> list[str]:
    root = tmp_path / "tree"
    root.mkdir()
    return [*TREES[name](root), "--output", str(tmp_path / "out")]


def list_values(output: Path, column: str) -> list:
    rows = datasets.load_dataset("parquet", data_files=str(output / "data" / "**" / "*.parquet"), split="train")
    if column.startswith("audio"):
        return [cell["bytes"] for cell in rows.cast_column(column, datasets.Audio(decode=False))[column]]
    return list(rows[column])


@pytest.mark.parametrize(
    ("name", "file", "change", "source", "found"), CHANGES, ids=[f"{case[0]}-{case[3]}" for case in CHANGES]
)
def test_a_changed_source_is_refused_by_name_and_rebuilt_on_request(
    name, file, change, source, found, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words, output, path = make_tree(tmp_path, name), tmp_path / "out", tmp_path / "tree" / file
    assert main(words) == 0
    before = read_folder(output)
    column, value = found
    data = path.read_bytes()
    changed = data.replace(*change) if change else data[:-40] + bytes(40)
    assert (changed if value is None else value) not in list_values(output, column)
    replace_unnoticed(path, changed)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{output}: holds a dataset made from something else ({source} " in said
    assert "Rebuild it with --overwrite" in said
    assert said.count("instead of") == 1
    assert read_folder(output) == before
    assert main([*words, "--overwrite"]) == 0
    assert (changed if value is None else value) in list_values(output, column)
    assert main(words) == 0
    assert "is already finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", TREES)
def test_unchanged_sources_are_not_read_again(name, tmp_path, num_read, capsys):
    words = make_tree(tmp_path, name)
    assert main(words) == 0
    files = list(load_ledger(tmp_path / "out")[1])
    assert {Path(file.path).name for file in files} <= set(num_read)
    num_read.clear()
    assert main(words) == 0
    assert not num_read
    assert main([*words, "--recheck"]) == 0
    assert sorted(num_read) == sorted(Path(file.path).name for file in files)
    assert capsys.readouterr().out.count("is already finished") == 2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(manifest["sources"]) == {file.source for file in files}
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_single_table_is_known_by_its_own_hash(tmp_path):
    words = make_tree(tmp_path, "training")
    assert main(words) == 0
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert sources["labels.jsonl"] == identity.identify_file(tmp_path / "tree" / "labels.jsonl").sha256


def test_stamps_and_hashes_of_the_files_are_what_recheck_does_not_trust(tmp_path, capsys):
    words = make_tree(tmp_path, "training")
    assert main(words) == 0
    places, files = load_ledger(tmp_path / "out")
    forged = [file._replace(identity=identity.ContentIdentity("0" * 64, file.identity.stamp)) for file in files]
    save_ledger(tmp_path / "out", places, forged)
    assert main(words) == 2
    assert main([*words, "--recheck"]) == 0
    assert main(words) == 0


def test_a_ledger_that_is_gone_costs_time_only(tmp_path, num_read, capsys):
    words, output = make_tree(tmp_path, "training"), tmp_path / "out"
    assert main(words) == 0
    (output / parquet_folder.LEDGER_NAME).unlink()
    num_read.clear()
    assert main(words) == 0
    assert len(num_read) == 8
    assert not (output / ".build").exists()
    num_read.clear()
    assert main(words) == 0
    assert not num_read
    (output / parquet_folder.LEDGER_NAME).unlink()
    replace_unnoticed(tmp_path / "tree" / "audio" / "song-001.wav", encode_wav(77))
    assert main(words) == 2
    assert "(audio " in capsys.readouterr().err


def test_sources_that_moved_are_known_by_their_content(tmp_path, capsys):
    words = make_tree(tmp_path, "training")
    assert main(words) == 0
    shutil.copytree(tmp_path / "tree", tmp_path / "moved")
    moved = [word.replace(str(tmp_path / "tree"), str(tmp_path / "moved")) for word in words]
    assert main(moved) == 0
    assert load_ledger(tmp_path / "out")[0][0] == str((tmp_path / "moved" / "songs.jsonl").resolve())
    (tmp_path / "moved" / "audio" / "song-001.wav").write_bytes(encode_wav(55))
    assert main(moved) == 2
    assert "(audio " in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.parametrize("appears", [True, False])
def test_an_audio_file_that_appears_or_vanishes_is_a_change(appears, tmp_path, capsys):
    words, path = make_tree(tmp_path, "training"), tmp_path / "tree" / "audio" / "song-002.wav"
    if appears:
        path.rename(tmp_path / "aside.wav")
    assert main(words) == 0
    path.write_bytes(encode_wav(2)) if appears else path.unlink()
    assert main(words) == 2
    assert "(audio " in capsys.readouterr().err
    (tmp_path / "tree" / "audio" / "of-no-song.wav").write_bytes(encode_wav(3))
    assert main([*words, "--overwrite"]) == 0
    assert len(list_values(tmp_path / "out", "id")) == 6 - (not appears)


def test_an_audio_file_of_no_song_is_no_change(tmp_path):
    words = make_tree(tmp_path, "training")
    assert main(words) == 0
    (tmp_path / "tree" / "audio" / "of-no-song.wav").write_bytes(encode_wav(3))
    assert main(words) == 0


def test_a_table_more_or_less_is_a_change(tmp_path, capsys):
    tables = tmp_path / "tables"
    for number in range(2):
        save_json_lines(tables / f"part-{number}.jsonl", [make_suno_row(number)])
    words = ["training", "--source", str(tables), "none", "suno", *SPLITS, "--output", str(tmp_path / "out")]
    assert main(words) == 0
    save_json_lines(tables / "part-2.jsonl", [make_suno_row(2)])
    assert main(words) == 2
    assert "(part-2.jsonl None instead of" in capsys.readouterr().err
    (tables / "part-2.jsonl").unlink()
    (tables / "part-1.jsonl").unlink()
    assert main(words) == 2
    assert "… instead of None)" in capsys.readouterr().err


def test_a_dataset_of_an_earlier_version_loads_and_is_not_called_finished(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words, output = make_tree(tmp_path, "training"), tmp_path / "out"
    assert main(words) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["sources"]
    (output / "manifest.json").write_text(json.dumps(manifest))
    (output / parquet_folder.LEDGER_NAME).unlink()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "holds a finished dataset of an earlier version, which did not record the content of its sources" in said
    assert "Rebuild it with --overwrite" in said
    assert datasets.load_dataset(str(output), split="train").num_rows == 6
    assert main([*words, "--overwrite"]) == 0


def test_sources_that_are_gone_are_named(tmp_path, capsys):
    words = make_tree(tmp_path, "training")
    assert main(words) == 0
    shutil.rmtree(tmp_path / "tree")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "holds a finished dataset, but its sources are gone" in said
    assert "tree" in said
    assert not (tmp_path / "out" / ".build").exists()


@pytest.mark.parametrize("name", ["training", "music-arena"])
def test_an_unfinished_build_whose_audio_changed_mixes_nothing(name, tmp_path, monkeypatch):
    words = [*make_tree(tmp_path, name), "--max-shard-size", "0.01"]
    write_shard, written = parquet_folder._write_shard, []

    def stop_at_second(shard, *rest):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(shard.path)
        write_shard(shard, *rest)

    monkeypatch.setattr(parquet_folder, "_write_shard", stop_at_second)
    assert main(words) == 130
    monkeypatch.setattr(parquet_folder, "_write_shard", write_shard)
    for path in sorted((tmp_path / "tree").rglob("*.wav" if name == "training" else "*.mp3")):
        replace_unnoticed(path, lambda data: data[:-40] + bytes(40))
    assert main(words) == 0
    resumed = read_folder(tmp_path / "out")
    assert main([*words, "--overwrite"]) == 0
    assert read_folder(tmp_path / "out") == resumed


@pytest.mark.parametrize(
    ("when", "file"), [("iterate_records", "songs.jsonl"), ("iterate_records", "labels.jsonl"), ("examine", "audio")]
)
def test_what_changes_during_the_build_stops_it(when, file, tmp_path, monkeypatch, capsys):
    from datasets_scripts import audio_examination

    words, path = make_tree(tmp_path, "training"), tmp_path / "tree" / file
    if when == "examine":
        path, examine = path / "song-000.wav", audio_examination.examine_audio_file

        def change_first(audio):
            if audio == path:
                path.write_bytes(encode_wav(99))
            return examine(audio)

        monkeypatch.setattr(audio_examination, "examine_audio_file", change_first)
    else:
        iterate = TrainingSongs.iterate_records

        def change_last(builder, folder):
            yield from iterate(builder, folder)
            path.write_bytes(path.read_bytes() + b"\n")

        monkeypatch.setattr(TrainingSongs, "iterate_records", change_last)
    assert main(words) == 2
    assert f"{path} changed while the dataset was being built. Start the build again." in capsys.readouterr().err


def test_audio_of_a_battle_that_changes_during_the_build_stops_it(tmp_path, monkeypatch, capsys):
    words, path = make_tree(tmp_path, "music-arena"), tmp_path / "tree/audio_files/07-2026FEB/battle-2_b.mp3"
    write_shard = parquet_folder._write_shard

    def change_before(*words):
        path.write_bytes(b"other")
        write_shard(*words)

    monkeypatch.setattr(parquet_folder, "_write_shard", change_before)
    assert main(words) == 2
    assert f"{path} changed while the dataset was being built" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["labels.jsonl", "songs.jsonl", "audio/song-001.wav"])
def test_the_cache_of_datasets_is_another_one_for_other_content(file, tmp_path):
    make_tree(tmp_path, "training")
    root = tmp_path / "tree"
    config = {
        "sources": [SongSource(str(root / "songs.jsonl"), str(root / "audio"), "suno")],
        "labels": str(root / "labels.jsonl"),
    }
    before = TrainingSongs(cache_dir=str(tmp_path), **config).cache_dir
    assert TrainingSongs(cache_dir=str(tmp_path), **config).cache_dir == before
    replace_unnoticed(root / file, lambda data: data[:-40] + data[-40:].swapcase())
    assert TrainingSongs(cache_dir=str(tmp_path), **config).cache_dir != before


def test_audio_inside_a_table_is_known_by_the_table(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def save(seed):
        rows = [
            {**make_suno_row(number), "audio": {"bytes": encode_wav(number + seed), "path": f"{number}.wav"}}
            for number in range(3)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "songs.parquet")

    save(0)
    source = [str(tmp_path / "songs.parquet"), AUDIO_IN_TABLE, "suno"]
    words = ["training", "--source", *source, *SPLITS, "--output", str(tmp_path / "out")]
    assert main(words) == 0
    assert {file.source for file in load_ledger(tmp_path / "out")[1]} == {"songs.parquet"}
    assert main(words) == 0
    save(10)
    assert main(words) == 2
    assert "(songs.parquet " in capsys.readouterr().err


def test_sources_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / "a" / "songs.csv", tmp_path / "b" / "songs.csv", tmp_path / "a" / "songs.csv"]
    assert name_sources(paths) == [("songs.csv", paths[0]), ("songs.csv (2)", paths[1])]


def test_rows_of_the_hub_are_those_of_one_commit(monkeypatch):
    asked, commits = [], iter(["1" * 40, "2" * 40])

    class Api:
        def dataset_info(self, repo_id, revision=None):
            asked.append((repo_id, revision))
            return SimpleNamespace(sha=next(commits))

    def load_dataset(name, **options):
        asked.append((name, options["revision"]))
        return datasets.Dataset.from_list([make_suno_row(1)]).to_iterable_dataset()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    metadata_tables.pin_revision.cache_clear()
    builder = TrainingSongs(
        sources=[SongSource("me/songs", NO_AUDIO, "suno", revision="v1")], corpus=CorpusOptions(needs_audio=False)
    )
    assert builder.describe_options()["sources"][0]["revision"] == "1" * 40
    assert len(list(builder.iterate_records(Path("nowhere")))) == 1
    assert asked == [("me/songs", "v1"), ("me/songs", "1" * 40)]
    assert pin_revision(__file__) is None


def test_a_hub_that_does_not_tell_the_commit_is_named(monkeypatch):
    class Api:
        def dataset_info(self, repo_id, revision=None):
            raise OSError("the line broke")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    metadata_tables.pin_revision.cache_clear()
    with pytest.raises(OSError, match=r"me/other: the Hub does not say which commit the main branch is \(the line"):
        pin_revision("me/other")


def test_help_says_what_a_finished_dataset_is_valid_for(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "valid for exactly the tables, labels and audio that made it" in said
    assert "--recheck reads them all" in said
