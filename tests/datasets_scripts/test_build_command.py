"""The build command: what it writes is read back, the same everywhere, resumed after a kill; nonsense is refused."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import datasets
import pytest
from killed_build import build_until_killed, read_folder
from patience import PATIENCE
from source_trees import make_suno_row, save_json_lines

from datasets_scripts.build import main
from datasets_scripts.build_arguments import build_parser, parse_columns
from modeling_apex.storage.output_lock import OutputLock

from full_disks import fill_disk

REPOSITORY = Path(__file__).parents[2]

# Run by a Python that has imported nothing of the build; prints one line a dataset.
READER = """
import json, sys
import datasets
from modeling_apex.inference.audio_apex import load_audio

for folder in sys.argv[1:]:
    loaded, streamed = datasets.load_dataset(folder), datasets.load_dataset(folder, streaming=True)
    report = {}
    for split, rows in loaded.items():
        columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Audio)]
        assert list(streamed[split]) == list(rows)
        lengths = [len(load_audio(row[name])) for row in rows for name in columns if row[name] is not None]
        report[split] = {"num_rows": rows.num_rows, "num_songs": len(lengths), "shortest": min(lengths)}
    print(json.dumps(report))
"""


def training_arguments(tree, output, *more):
    source = [str(tree / "songs.jsonl"), str(tree / "audio"), "suno"]
    splits = ["--splits", "50:25:25", "--max-shard-size", "0.05", "--label-source", "synthetic"]
    labels = ["--labels", str(tree / "labels.jsonl")]
    return ["training", "--source", *source, *labels, *splits, "--output", str(output), *more]


@pytest.fixture(scope="module")
def training_folder(suno_tree, tmp_path_factory):
    """The training songs of `suno_tree`, built without interruption."""
    folder = tmp_path_factory.mktemp("built") / "training"
    assert main(training_arguments(suno_tree, folder)) == 0
    return folder


def test_every_dataset_is_read_back_in_a_fresh_process(
    training_folder, songeval_tree, arena_tree, fma_tree, tmp_path, monkeypatch
):
    folders = {name: str(tmp_path / name) for name in ("songeval", "music-arena", "fma")}
    splits = ["--splits", "50:25:25"]
    assert main(["songeval", "--source", str(songeval_tree), *splits, "--output", folders["songeval"]]) == 0
    assert main(["music-arena", "--source", str(arena_tree), "--output", folders["music-arena"]]) == 0
    fma = ["--tracks", str(fma_tree / "tracks.csv"), "--audio", str(fma_tree / "audio")]
    assert main(["fma", *fma, *splits, "--split-method", "quota", "--output", folders["fma"]]) == 0
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    arguments = [sys.executable, "-c", READER, str(training_folder), *folders.values()]
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    training, songeval, arena, fma_report = map(json.loads, done.stdout.splitlines())
    assert sum(split["num_rows"] for split in training.values()) == 24
    assert sum(split["num_rows"] for split in songeval.values()) == 12
    assert arena == {"test": {"num_rows": 8, "num_songs": 15, "shortest": arena["test"]["shortest"]}}
    assert sum(split["num_rows"] for split in fma_report.values()) == 11
    for report in (training, songeval, arena, fma_report):
        # Two seconds at 24 kHz; an MP3 may be padded by its encoder.
        assert all(48_000 <= split["shortest"] < 52_000 for split in report.values())


def test_the_manifest_tells_what_is_there(training_folder):
    manifest = json.loads((training_folder / "manifest.json").read_text())
    assert {name: split["num_rows"] for name, split in manifest["splits"].items()} == {
        name: rows.num_rows for name, rows in datasets.load_dataset(str(training_folder)).items()
    }
    assert len(manifest["splits"]["train"]["shards"]) > 1
    assert manifest["options"]["sources"][0]["metadata"] == "songs.jsonl"
    assert manifest["versions"]["datasets"] == datasets.__version__
    assert str(training_folder.parent) not in json.dumps(manifest)
    card = (training_folder / "README.md").read_text()
    assert card.startswith("---\npretty_name: ")
    assert "| train | " in card
    assert not (training_folder / ".build").exists()


def test_months_of_battles_are_configs(arena_tree, tmp_path):
    assert main(["music-arena", "--source", str(arena_tree), "--output", str(tmp_path / "arena")]) == 0
    of_month = datasets.load_dataset(str(tmp_path / "arena"), "08-2026MAR", split="test")
    assert sorted(of_month["battle_uuid"]) == [f"battle-{number}" for number in (1, 3, 5, 7)]
    assert datasets.load_dataset(str(tmp_path / "arena"), split="test").num_rows == 8


def test_a_rebuilt_dataset_has_the_same_bytes(training_folder, suno_tree, tmp_path):
    # Elsewhere, by another number of processes, and with the source in another place.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("songs.jsonl", "labels.jsonl", "audio"):
        (moved / name).symlink_to(suno_tree / name)
    assert main(training_arguments(moved, tmp_path / "again", "--num-workers", "2")) == 0
    assert read_folder(tmp_path / "again") == read_folder(training_folder)


@pytest.mark.parametrize(
    ("moment", "call_number"),
    [
        ("scanning", 5),
        ("examining", 10),
        ("writing a shard", 1),
        ("writing a shard", 3),
        ("inside a shard", 2),
        ("finishing a text", 2),
        ("finishing a text", 3),
        ("cleaning up", 2),
    ],
)
def test_a_killed_build_ends_with_the_same_bytes(
    moment, call_number, training_folder, suno_tree, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_build"])
    output = tmp_path / "killed"
    arguments = training_arguments(suno_tree, output)
    process = context.Process(target=build_until_killed, args=(arguments, moment, call_number))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert read_folder(output) != read_folder(training_folder)
    assert main(arguments) == 0
    assert read_folder(output) == read_folder(training_folder)


def test_a_resumed_build_looks_at_no_file_twice(suno_tree, tmp_path, monkeypatch, capsys):
    from datasets_scripts import audio_examination

    looked_at = []
    examine = audio_examination.examine_audio_file

    def stop_after_ten(path):
        looked_at.append(path.name)
        if len(looked_at) == 11:
            raise KeyboardInterrupt
        return examine(path)

    monkeypatch.setattr(audio_examination, "examine_audio_file", stop_after_ten)
    arguments = training_arguments(suno_tree, tmp_path / "out")
    assert main(arguments) == 130
    assert "interrupted; run the same command again to resume" in capsys.readouterr().err
    assert main(arguments) == 0
    assert len(looked_at) == 24 + 1
    assert len(set(looked_at)) == 24


def test_a_changed_source_forgets_the_shards_of_an_unfinished_build(suno_tree, tmp_path, monkeypatch):
    from datasets_scripts import parquet_folder

    write_shard, written = parquet_folder._write_shard, []

    def stop_at_third(shard, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.path)
        write_shard(shard, *rest)

    table = tmp_path / "songs.jsonl"
    rows = [json.loads(line) for line in (suno_tree / "songs.jsonl").read_text().splitlines()]
    save_json_lines(table, rows)
    arguments = training_arguments(suno_tree, tmp_path / "out")
    arguments[2] = str(table)
    monkeypatch.setattr(parquet_folder, "_write_shard", stop_at_third)
    assert main(arguments) == 130
    monkeypatch.setattr(parquet_folder, "_write_shard", write_shard)
    save_json_lines(table, [row | {"title": "Renamed"} for row in rows])
    assert main(arguments) == 0
    titles = {title for split in datasets.load_dataset(str(tmp_path / "out")).values() for title in split["title"]}
    assert titles == {"Renamed"}


def test_a_finished_build_is_kept_or_built_again_as_asked(suno_tree, tmp_path, capsys):
    arguments = training_arguments(suno_tree, tmp_path / "out")
    assert main(arguments) == 0
    first = read_folder(tmp_path / "out")
    assert main(arguments) == 0
    assert "is already finished: nothing to do" in capsys.readouterr().out
    assert main([*arguments, "--seed", "7"]) == 2
    assert "was built with other options (seed)" in capsys.readouterr().err
    assert read_folder(tmp_path / "out") == first
    assert main([*arguments, "--seed", "7", "--overwrite"]) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]["seed"] == 7
    assert main([*arguments, "--overwrite"]) == 0
    assert read_folder(tmp_path / "out") == first


def test_an_overwrite_that_is_cut_short_is_taken_up(suno_tree, tmp_path, monkeypatch, capsys):
    from datasets_scripts import parquet_folder

    arguments = training_arguments(suno_tree, tmp_path / "out")
    assert main(arguments) == 0
    first = read_folder(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(parquet_folder.shutil, "rmtree", lambda *args, **options: (_ for _ in ()).throw(OSError("cut")))
        assert main([*arguments, "--overwrite"]) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert main(arguments) == 0
    assert read_folder(tmp_path / "out") == first


def test_a_build_on_a_full_disk_is_taken_up_when_there_is_space(
    training_folder, suno_tree, small_disk, tmp_path, capsys
):
    arguments = training_arguments(suno_tree, small_disk / "out")
    ballast = fill_disk(small_disk, 200_000)
    assert main(arguments) == 2
    assert "the disk is full. Free some space, then run the same command again" in capsys.readouterr().err
    ballast.unlink()
    assert main(arguments) == 0
    assert read_folder(small_disk / "out") == read_folder(training_folder)


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder that nobody may write")
def test_an_output_that_cannot_be_written_is_said_so(suno_tree, capsys):
    assert main(training_arguments(suno_tree, "/sys/kernel/apex")) == 2
    said = capsys.readouterr().err
    assert "error: /sys/kernel/apex: cannot be written" in said
    assert "Choose an output that you may write to" in said


def test_two_builds_do_not_share_a_folder(suno_tree, tmp_path, capsys):
    arguments = training_arguments(suno_tree, tmp_path / "out")
    with OutputLock(tmp_path / "out"):
        assert main(arguments) == 2
        assert f"process {os.getpid()} on" in capsys.readouterr().err
        synthetic = ["synthetic", "--layout", "samples", "--output", str(tmp_path / "out")]
        assert main(synthetic) == 2
        assert "is writing this output" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()  # of a run that was killed at once
    assert main(arguments) == 0


def test_foreign_files_are_never_touched(suno_tree, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert main(training_arguments(suno_tree, tmp_path / "out", "--overwrite")) == 2
    assert "is not empty and was not written by this command" in capsys.readouterr().err
    assert read_folder(tmp_path / "out") == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--source", "only-one"], "--source takes METADATA AUDIO [PLATFORM], got 'only-one'"),
        (["--source", "t.jsonl", "none", "udio"], "Either all sources have audio or none"),
        (["--column", "likes"], "--column takes [PLATFORM:]FIELD=NAME, got 'likes'"),
        (["--column", "stars=likes"], "Unknown field 'stars'"),
        (["--splits", "90:10"], "Split ratios must be three numbers"),
        (["--as-of", "soon"], "--as-of: DATE is 'soon', expected a time"),
        (["--license", "nope-1.0"], "--license 'nope-1.0' is not one that the Hub knows; choose one of "),
        (["--max-shard-size", "-1"], "`max_shard_bytes` must be positive"),
        (["--labels", "nowhere.csv"], "No metadata table at nowhere.csv"),
    ],
)
def test_refusals(suno_tree, tmp_path, capsys, change, message):
    assert main([*training_arguments(suno_tree, tmp_path / "out"), *change]) == 2
    assert message in capsys.readouterr().err


def test_help_teaches(capsys):
    for command in ("training", "songeval", "music-arena", "fma"):
        with pytest.raises(SystemExit) as stopped:
            build_parser().parse_args([command, "--help"])
        assert stopped.value.code == 0
        shown = capsys.readouterr().out
        assert "python -m datasets_scripts.build " + command in shown
        assert "--output" in shown


def test_the_synthetic_world_brings_its_own_arguments(monkeypatch):
    seen = []
    world = types.ModuleType("datasets_scripts.synthetic.command")
    world.add_arguments = lambda parser: parser.add_argument("--num-songs", type=int)
    world.run = lambda args: seen.append(args.num_songs) or 3
    monkeypatch.setitem(sys.modules, "datasets_scripts.synthetic", types.ModuleType("datasets_scripts.synthetic"))
    monkeypatch.setitem(sys.modules, world.__name__, world)
    assert main(["synthetic", "--num-songs", "7"]) == 3
    assert seen == [7]


def test_the_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1)])
    for name in [name for name in sys.modules if name.split(".")[0] == "datasets_scripts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["training", "--source", str(table), "none", "suno", "--output", str(tmp_path / "out")]) == 2
    assert 'pyarrow is needed here and is not installed: pip install "apex-music[data]"' in capsys.readouterr().err


def test_columns_are_read_from_choices():
    assert parse_columns(["a=b|c.d", "udio:x=y=z"]) == {"a": "b|c.d", "udio:x": "y=z"}


def test_nothing_to_write_is_an_error(tmp_path, capsys):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1, play_count=0)])
    assert main(["training", "--source", str(table), "none", "suno", "--output", str(tmp_path / "out")]) == 2
    assert "No song is left of 1 (1 zero plays)" in capsys.readouterr().err
