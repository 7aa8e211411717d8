"""The command line as its users meet it: output, exit status, refusals, interruption."""

import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import stopped_command
from patience import PATIENCE

from hub_card.hub_upload import PublishError
from modeling_apex import ApexModel, PreferenceHead, load_pipeline, load_preference_head, score_preference
from modeling_apex.cli import GROUPS, build_parser, main
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.inference.scoring_apex import SongScorer

import published_layout as layout

SongFile = Callable[..., Path]


@pytest.fixture
def album(song_file: SongFile) -> Path:
    for row in range(3):
        song_file(f"album/{row}.wav", 0.12 + 0.1 * row, seed=row)
    (song_file("album/disc 2/ä.flac", 0.2, seed=9).parent / "cover.jpg").write_bytes(b"\xff\xd8")
    return song_file("album/0.wav", 0.12).parent


def test_score_prints_one_song_in_full(tiny_folder: Path, song_file: SongFile, capsys: pytest.CaptureFixture) -> None:
    path = song_file(seconds=0.35)
    assert main(["score", str(path), "--model", str(tiny_folder)]) == 0
    out = capsys.readouterr().out
    expected = load_pipeline(tiny_folder)(str(path))
    assert f"{expected['scores']['score_streams']:.1f}" in out
    assert f"{expected['scores']['clarity']:.2f}" in out
    assert "clarity of song structure" in out


def test_score_prints_many_songs_as_a_table(tiny_folder: Path, album: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["score", str(album), "--model", str(tiny_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == find_songs([str(album)])
    assert "(p" in lines[2]


def test_score_prints_the_timeline(tiny_folder: Path, song_file: SongFile, capsys: pytest.CaptureFixture) -> None:
    assert main(["score", str(song_file(seconds=0.25)), "--model", str(tiny_folder), "--segments"]) == 0
    assert capsys.readouterr().out.count(" to 0:00") == 3


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_score_writes_every_format(tiny_folder: Path, album: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "out" / f"scores{suffix}"
    segments = ["--segments"] if suffix.startswith(".json") else []  # a table has no place for a timeline
    assert main(["score", str(album), "--model", str(tiny_folder), "--output", str(output), *segments]) == 0
    songs = find_songs([str(album)])
    expected = [load_pipeline(tiny_folder)(song)["scores"]["coherence"] for song in songs]
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    elif suffix == ".json":
        rows = json.loads(output.read_text())
    elif suffix == ".csv":
        with open(output, newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pyarrow.parquet.read_table(output).to_pylist()
    assert [row["song"] for row in rows] == songs
    found = [row["scores"]["coherence"] if "scores" in row else float(row["coherence"]) for row in rows]
    assert found == pytest.approx(expected, rel=1e-5)
    if suffix.startswith(".json"):
        assert rows[0]["segments"]
    kept = {output.name, f".{output.name}.songs"}
    assert {path.name for path in output.parent.iterdir()} == kept, "no journal stays behind"


@pytest.mark.parametrize("to_file", [False, True])
def test_one_broken_song_is_reported_and_the_others_are_scored(
    tiny_folder: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture, to_file: bool
) -> None:
    (album / "notes.mp3").write_text("this is not audio")
    words = ["score", str(album), str(tmp_path / "absent.wav"), "--model", str(tiny_folder)]
    if to_file:
        words += ["--output", str(tmp_path / "scores.jsonl")]
    assert main(words) == 1
    streams = capsys.readouterr()
    assert "notes.mp3" in streams.err
    assert "absent.wav" in streams.err
    if to_file:
        rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
        assert sum("error" in row for row in rows) == 2
        assert sum("scores" in row for row in rows) == 4
        assert "4 songs scored, 2 failed" in streams.err
    else:
        assert sum(".wav" in line or ".flac" in line for line in streams.out.splitlines()) == 4


def test_limits_are_options(tiny_folder: Path, song_file: SongFile, capsys: pytest.CaptureFixture) -> None:
    song = str(song_file(seconds=0.5, num_channels=2))
    for words, message in (
        (["--max-seconds", "0.4"], "lasts 0.5 s or more, but the limit is 0.4 s"),
        (["--max-megabytes", "0.001"], "bytes or more, but the limit is 1049"),
        (["--max-channels", "1"], "has 2 channels, but 1 to 1 are accepted"),
        (["--max-sampling-rate", "16000"], "must lie between 4000 and 16000 Hz"),
    ):
        assert main(["score", song, "--model", str(tiny_folder), *words]) == 1
        assert message in capsys.readouterr().err
    for flags, message in (([], "which is not a public address"), (["--allow-private-addresses"], "ConnectError")):
        assert main(["rank", song, "http://127.0.0.1:1/song.wav", "--model", str(tiny_folder), *flags]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["score", song, "--max-seconds", "-1"])
    assert "must be a positive number, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_names_that_are_no_text(
    tiny_folder: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture, suffix: str
) -> None:
    odd = os.path.join(os.fsdecode(os.fsencode(album) + b"/\xff\x1b[31m.wav"))
    shutil.copyfile(find_songs([str(album)])[0], odd)
    (album / "broken\n.mp3").write_text("this is not audio")
    output = tmp_path / f"scores{suffix}"
    assert main(["score", str(album), "--model", str(tiny_folder), "--output", str(output)]) == 1
    streams = capsys.readouterr()
    assert r"broken\n.mp3: is not in a format that this program reads" in streams.err
    assert "5 songs scored, 1 failed" in streams.err
    if suffix == ".jsonl":
        assert odd in [json.loads(line)["song"] for line in output.read_text().splitlines()]
    assert main(["score", str(album), "--model", str(tiny_folder)]) == 1
    assert r"\udcff\x1b[31m.wav" in capsys.readouterr().out


def test_doors_agree(tiny_folder: Path, album: Path, tmp_path: Path) -> None:
    songs = find_songs([str(album)])
    for batch_size in ("1", "3", "8"):
        output = tmp_path / f"{batch_size}.json"
        words = ["score", *songs, "--model", str(tiny_folder), "--batch-size", batch_size, "--output", str(output)]
        assert main(words) == 0
        for row in json.loads(output.read_text()):
            expected = load_pipeline(tiny_folder)(row["song"])["scores"]
            assert row["scores"] == pytest.approx(expected, rel=1e-5)


def test_rank_sorts_and_gives_reasons(
    tiny_folder: Path, album: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["rank", str(album), "--model", str(tiny_folder), "--by", "clarity"]) == 0
    lines = capsys.readouterr().out.splitlines()
    scorer = load_pipeline(tiny_folder)
    songs = sorted(find_songs([str(album)]), key=lambda song: -scorer(song)["scores"]["clarity"])
    assert [line.split("  ")[0] for line in lines[2:6]] == [f"{place}. {song}" for place, song in enumerate(songs, 1)]
    assert main(["rank", str(album), "--model", str(tiny_folder), "--top", "2"]) == 0
    assert capsys.readouterr().out.count(str(album)) == 2
    monkeypatch.setattr(SongScorer, "score", lambda *_, **__: pytest.fail("songs were scored first"))
    assert main(["rank", str(album), "--model", str(tiny_folder), "--by", "groove"]) == 2
    assert "cannot rank by 'groove'; choose one of preference, all, popularity, aesthetics" in capsys.readouterr().err


def test_rank_follows_the_preference_head(tiny_folder: Path, album: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["rank", str(album), "--model", str(tiny_folder), "--by", "preference"]) == 2
    assert "this model has no preference head" in capsys.readouterr().err
    PreferenceHead(weights={"coherence": -3.0, "score_likes": 0.01}).save_pretrained(tiny_folder)
    head = load_preference_head(tiny_folder)
    assert main(["rank", str(album), "--model", str(tiny_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    scorer = load_pipeline(tiny_folder)
    reports = sorted(map(scorer, find_songs([str(album)])), key=lambda report: -head.compute_strength(report))
    for place, (line, report) in enumerate(zip(lines[2:6], reports, strict=True), start=1):
        assert line.startswith(f"{place}. {report['song']}  ")
        chance = "–" if place == 1 else f"{score_preference(report, reports[0], head):.0%}"
        assert f" {chance} " in line
    assert load_preference_head("nobody/nowhere") is None


def test_convert_then_score(tmp_path: Path, song_file: SongFile, capsys: pytest.CaptureFixture) -> None:
    layout.write_mert_folder(tmp_path / "mert")
    layout.write_apex_folder(tmp_path / "apex", "mert", 32, segment_sec=1)
    words = ["--encoder", str(tmp_path / "mert"), "--heads", str(tmp_path / "apex"), "--output", str(tmp_path / "out")]
    assert main(["convert", *words]) == 0
    assert "published constant" in capsys.readouterr().out
    assert main(["score", str(song_file()), "--model", str(tmp_path / "out")]) == 0
    assert main(["convert", *words]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


def test_export_lists_what_it_wrote(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "--model", str(tiny_folder), "--output", str(tmp_path / "hub")]) == 0
    out = capsys.readouterr().out
    assert all(path.name in out for path in (tmp_path / "hub").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "{empty}"], "no audio in this folder; looked for .aac"),
        (["score", "{empty}/*.wav"], "no file matches this pattern"),
        (["score", "{song}", "--model", "{empty}"], "no config.json in this folder, so it is not a model"),
        (
            ["score", "{song}", "--model", "nobody/nowhere"],
            "nobody/nowhere: no such folder, and not available",
        ),
        (
            ["score", "{song}", "--model", "{model}", "--output", "x.xls"],
            "the suffix must be one of .jsonl, .json",
        ),
        (
            ["score", "{song}", "--model", "{model}", "--output", "{taken}"],
            "exists. Choose another output, or",
        ),
        (
            ["convert", "--encoder", "{empty}", "--heads", "{empty}", "--output", "{empty}/o"],
            "holds none of config.json",
        ),
    ],
)
def test_mistakes_are_explained_in_one_line(
    tiny_folder: Path,
    song_file: SongFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken.csv").touch()
    places = {"empty": tmp_path / "empty", "song": song_file(), "model": tiny_folder, "taken": tmp_path / "taken.csv"}
    assert main([word.format(**places) for word in words]) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert "Traceback" not in streams.err


@pytest.mark.parametrize(
    "words", [["train", "{place}", "--output", "{place}/run"], ["evaluate", "{place}", "--model", "{model}"]]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [("{{}}", "it lacks model, identity"), ("[]", "it is not a JSON object"), ("[1", "not JSON")],
)
def test_a_dataset_in_place_of_embeddings_is_refused_with_the_command_to_run_first(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], content: str, message: str
) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "manifest.json").write_text(content.format())
    assert main([word.format(place=tmp_path / "dataset", model=tiny_folder) for word in words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "mbed" in said


def test_an_output_whose_name_no_file_can_have_is_refused(
    tiny_folder: Path, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    words = ["score", str(song_file()), "--model", str(tiny_folder), "--output", "x" * 5000 + ".csv"]
    assert main(words) == 2
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "the device 'cuda:99' is not available with torch"),
        ("meta", "the device 'meta' is not available with torch"),
        ("gpu", "'gpu' is not a device. This machine has cpu"),
    ],
)
@pytest.mark.parametrize("command", ["score", "rank"])
def test_a_device_that_is_not_there_is_the_mistake_of_the_user(
    tiny_folder: Path, song_file: SongFile, capsys: pytest.CaptureFixture, command: str, device: str, message: str
) -> None:
    assert main([command, str(song_file()), "--model", str(tiny_folder), "--device", device]) == 2
    assert message in capsys.readouterr().err


def test_traceback_on_request(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "score", str(tmp_path)])


def test_our_own_slips_are_not_called_the_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise TypeError("`batch_size` must be an integer, got '8'.")

    def slip(*_: object) -> int:
        return len(refuse, 2)  # type: ignore[call-arg]

    def look_up(*_: object) -> int:
        return {}["is_complete"]

    for run, status, expected in (
        (refuse, 2, "apex-music verify: `batch_size` must be an integer, got '8'."),
        (slip, 3, "a fault of this program, not of its input: TypeError: len() takes exactly one argument"),
        (look_up, 3, "a fault of this program, not of its input: KeyError: 'is_complete'"),
    ):
        monkeypatch.setattr("modeling_apex.commands.verify.run", run)
        assert main(["verify", "--model", "m"]) == status
        streams = capsys.readouterr()
        assert expected in streams.err
        assert "Traceback" not in streams.err
        with pytest.raises((TypeError, KeyError)):
            main(["--traceback", "verify", "--model", "m"])


def test_wrong_words_exit_with_two(capsys: pytest.CaptureFixture) -> None:
    for words in (
        ["rank"],
        ["score", "a.wav", "--batch-size", "0"],
        ["embed", "album", "--output", "out", "--features", "t.csv"],  # an encoder hears the audio alone
        ["sing"],
        [],
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    assert "must be at least 1, got 0" in capsys.readouterr().err
    assert main(["score"]) == 2  # which takes songs as words or as a list
    assert "--songs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rank", "a.wav", "--top", "-1"], "argument --top: must be at least 1, got -1"),
        (["rank", "a.wav", "--top", "few"], "argument --top: must be a whole number, got 'few'"),
        (["score", "a.wav", "--batch-size", "2.5"], "argument --batch-size: must be a whole number, got '2.5'"),
        (["score", "a.wav", "--max-seconds", "nan"], "argument --max-seconds: must be a positive number, got nan"),
        (["score", "a.wav", "--max-megabytes", "big"], "argument --max-megabytes: must be a number, got 'big'"),
        (["validate", "a.wav", "--tolerance", "0"], "argument --tolerance: must be a positive number, got 0"),
        (["validate", "a.wav", "--tolerance", "nan"], "argument --tolerance: must be a positive number, got nan"),
    ],
)
def test_numbers_out_of_bounds_are_refused_by_name(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_of_every_command_has_an_example() -> None:
    parser = build_parser()
    for name, command in parser._subparsers._group_actions[0].choices.items():
        assert f"apex-music {name}" in command.format_help(), name


def test_names_are_expanded_once_and_in_order(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    assert find_songs(["1.wav", "*.wav", "https://example.org/a.mp3", "absent.mp3"]) == [
        "1.wav",
        "0.wav",
        "2.wav",
        "https://example.org/a.mp3",
        "absent.mp3",
    ]
    assert [Path(song).name for song in find_songs([str(album)])] == ["0.wav", "1.wav", "2.wav", "ä.flac"]


class InterruptedRunError(Exception):
    pass


def test_an_interrupted_run_is_taken_up(
    tiny_folder: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "scores.jsonl"
    words = ["score", str(album), "--model", str(tiny_folder), "--output", str(output)]
    add, added = ScoreJournal.add, []

    def add_two(journal: ScoreJournal, song: str, report: dict) -> None:
        if len(added) == 2:
            raise InterruptedRunError
        added.append(song)
        add(journal, song, report)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreJournal, "add", add_two)
        assert main(words) == 3
        assert "InterruptedRunError" in capsys.readouterr().err
    journal = tmp_path / "scores.jsonl.partial"
    with open(journal, "a") as file:
        file.write('{"song": "torn by a ki')
    for other in (("dtype", "bfloat16"), ("tail", "drop")):
        assert main([*words, f"--{other[0]}", other[1]]) == 2
        said = capsys.readouterr().err
        assert "an unfinished run with other settings (" in said
        assert f"{other[0]} " in said
        assert f"instead of {other[1]!r}" in said
    scored = []

    def add_and_note(journal: ScoreJournal, song: str, report: dict) -> None:
        scored.append(song)
        add(journal, song, report)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreJournal, "add", add_and_note)
        assert main(words) == 0
    assert "resuming: 2 of 4 songs" in capsys.readouterr().err
    assert sorted(added + scored) == sorted(find_songs([str(album)])), "no song lost, none twice"
    assert main(["score", str(album), "--model", str(tiny_folder), "--output", str(tmp_path / "whole.jsonl")]) == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_ctrl_c_says_how_to_go_on(tiny_folder: Path, tmp_path: Path, song_file: SongFile) -> None:
    for row in range(4):
        song_file(f"many/{row}.wav", 0.1, seed=row)
    output = tmp_path / "scores.jsonl"
    words = ["score", str(tmp_path / "many"), "--model", str(tiny_folder), "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, stopped_command.PROGRAM, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=stopped_command.take_interrupts,
    )
    stopped_command.wait_until_stopped(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "run the same command again to resume" in errors
    assert not output.exists()
    assert (tmp_path / "scores.jsonl.partial").exists()


def test_without_an_embedded_model_the_error_says_what_to_pass(
    song_file: SongFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("modeling_apex.model_names.EMBEDDED_MODEL", tmp_path / "absent")
    assert main(["score", str(song_file())]) == 2
    assert "no model was named, and this installation has no embedded one" in capsys.readouterr().err


def test_parquet_without_pyarrow_names_the_extra(tiny_folder: Path, song_file: SongFile, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ["score", str(song_file()), "--model", str(tiny_folder), "--output", str(tiny_folder / "x.parquet")]
    assert main(words) == 2
    assert 'pip install "apex-music[data]"' in capsys.readouterr().err


def test_broken_pipe_is_quiet(tiny_folder: Path, song_file: SongFile) -> None:
    program = f"{sys.executable} -m modeling_apex.cli score {song_file()} --model {tiny_folder} | true"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_published_model_needs_no_conversion(tmp_path: Path, song_file: SongFile, capsys) -> None:
    layout.write_mert_folder(tmp_path / "mert")
    layout.write_apex_folder(tmp_path / "apex", str(tmp_path / "mert"), 32, segment_sec=1)
    assert main(["score", str(song_file()), "--model", str(tmp_path / "apex")]) == 0
    assert "score_likes" in capsys.readouterr().out


def test_ranking_of_equal_songs_shares_places(tiny_model: ApexModel, song_file: SongFile) -> None:
    from modeling_apex.arena.ranking import compute_places, rank_reports

    assert compute_places([3.0, 1.0, 3.0, 2.0]) == [1.5, 4.0, 1.5, 3.0]
    reports = load_pipeline(tiny_model)([str(song_file("a.wav")), str(song_file("b.wav"))])
    assert [song.mean_place for song in rank_reports(reports)] == [1.5, 1.5]
    assert rank_reports([]) == []


def test_an_error_message_is_no_terminal_code(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["score", str(tmp_path / "\x1b[2J\u202e*.wav"), "--model", "x"]) == 2
    error = capsys.readouterr().err
    assert "\\x1b[2J\\u202e*.wav: no file matches this pattern" in error
    assert "\x1b" not in error
    assert "\u202e" not in error


def test_help_groups_every_command_by_what_it_is_for(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for group, names in GROUPS.items():
        listed = said.partition(f"\n{group}:\n")[2].partition("\n\n")[0].splitlines()
        assert [line.split()[0] for line in listed] == list(names)
        assert all(len(line.split()) > 2 and len(line) <= 119 for line in listed)


@pytest.mark.parametrize(
    ("command", "module", "words"),
    [
        (
            "build",
            "datasets_scripts.build",
            ["training", "--source", "t.csv", "none", "suno", "--output", "o", "--seed", "3"],
        ),
        ("build", "datasets_scripts.build", ["synthetic", "--output", "o", "--num-songs", "7"]),
        ("card", "hub_card.build_card", ["--model", "m", "--repo", "a/b"]),
        ("publish", "hub_card.publish", ["--dataset", "d", "--repo", "a/b", "--dry-run"]),
    ],
)
def test_a_command_and_its_program_are_one(
    command: str, module: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    program = importlib.import_module(module)
    monkeypatch.setattr(program, "run", lambda arguments: seen.append(vars(arguments).copy()) or 5)
    assert main([command, *words]) == program.main(words) == 5
    own = {"prog", "command", "run", "when_interrupted"}
    first, second = ({name: value for name, value in found.items() if name not in own} for found in seen)
    assert first == second
    assert len(first) > 5


def test_a_command_is_not_imported_for_another() -> None:
    program = (
        "import sys; from modeling_apex.cli import build_parser; build_parser().parse_args(['score', 'a.wav']); "
        "print([name for name in sys.modules if name.startswith(('hub_card', 'datasets_scripts', 'spaces_demo'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "[]\n", done.stderr


def test_the_page_is_served_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spaces_demo.app.main", lambda: 130)
    assert main(["demo"]) == 130


def test_an_upload_that_the_hub_refuses_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(arguments: object) -> None:
        raise PublishError("the Hub took nothing")

    monkeypatch.setattr("hub_card.publish.publish", refuse)
    assert main(["publish", "--model", "m", "--repo", "a/b"]) == 1
    assert capsys.readouterr().err == "apex-music publish: the Hub took nothing\n"
