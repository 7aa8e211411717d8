"""What a long command says of itself in a log: few lines, and at the end why songs failed."""

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from modeling_apex.cli import main
from modeling_apex.commands import progress
from modeling_apex.corpus.error_kinds import ERROR_KINDS, OTHER, count_error_kinds, find_error_kind
from modeling_apex.corpus.ray_job import NO_RESULT

from song_folders import make_wav


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., list[str]]:
    """Follow so many songs, each of which takes so many seconds, and return what was said."""

    def run(num_songs: int, seconds: float, **options: Any) -> list[str]:
        clock = itertools.count()
        with monkeypatch.context() as patch:
            # In the module alone: other threads of this process ask the clock as well.
            patch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock) * seconds))
            left = num_songs - options.get("num_done", 0)
            reports = ({"song": str(number)} for number in range(left))
            assert sum(1 for _ in progress.follow_reports(reports, num_songs, **options)) == left
        return capsys.readouterr().err.splitlines()

    return run


def test_lines_come_with_shares_of_the_songs(follow: Callable) -> None:
    said = follow(100_000, 0.0001)
    assert len(said) == 19
    assert said[0] == "5000 of 100000 songs, 0 failed; 0:00 so far, about 0:10 left"
    assert re.fullmatch(r"95000 of 100000 songs, .*", said[-1])
    assert follow(100_000, 0.0001, num_done=90_000)[0].startswith("95000 of 100000 songs")


def test_a_long_run_says_something_every_half_minute_and_less_and_less(follow: Callable) -> None:
    said = follow(19, 40.0)
    assert len(said) == 18, "no song is passed over in silence for 40 s"
    assert said[0] == "1 of 19 songs, 0 failed; 0:40 so far, about 12:00 left"
    assert follow(200_000, 1.0)[-1].endswith(" h so far, about 2.7 h left")
    assert len(follow(400_000, 20.0)) < 200


def test_short_runs_and_terminals_have_no_lines(follow: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow(19, 0.1) == []
    assert follow(1, 1000.0) == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert not re.search(r"\d+ of 1000 songs", "\n".join(follow(1000, 1.0)))


def test_the_last_line_counts_why_songs_failed(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.wav").write_bytes(make_wav(1, 0.15))
    (tmp_path / "text.mp3").write_bytes(b"this is no song")
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "folder.mp3").mkdir()
    soundfile.write(tmp_path / "short.wav", np.full(3, 0.1), 24_000)
    soundfile.write(tmp_path / "long.wav", np.full(24_000 * 3, 0.1), 24_000)
    soundfile.write(tmp_path / "nan.wav", np.full(24_000, np.nan, np.float32), 24_000, "FLOAT")
    kinds = {
        "good.wav": None,
        "text.mp3": OTHER,
        "empty.mp3": OTHER,
        "nan.wav": OTHER,
        "folder.mp3": "not accessible",
        "gone.wav": "missing file",
        "short.wav": "too short",
        "long.wav": "too large",
        "": "no path in the table",
        "http://127.0.0.1:9/a.mp3": "address refused",
        "file:///etc/passwd": "address refused",
        "az://container/a.flac": "missing package",
    }
    (tmp_path / "songs.csv").write_text("id,path\n" + "".join(f"{n},{name}\n" for n, name in enumerate(kinds)))
    words = ["score", str(tmp_path / "songs.csv"), "--model", str(tiny_folder), "--max-seconds", "2"]
    assert main([*words, "--output", str(tmp_path / "out.csv")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{tmp_path}/out.csv: 1 song scored, 11 failed ({OTHER}: 3, address refused: 2, ")
    for kind in filter(None, kinds.values()):
        assert f"{kind}: {list(kinds.values()).count(kind)}" in last
    words = ["score", "http://127.0.0.1:9/a.mp3", "--model", str(tiny_folder), "--allow-private-addresses"]
    assert main([*words, "--output", str(tmp_path / "url.csv")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("url.csv: 0 songs scored, 1 failed (network: 1)")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("https://a/b: the server answered 404 Not Found. Check the URL.", "missing file"),
        ("https://a/b: the server answered 503 Busy. Check the URL.", "network"),
        ("s3://a/b: there is no such song in the store. Check the URI.", "missing file"),
        ("a.m4a: the decoder of this M4A file died (SIGSEGV). The file is damaged", "decoder died"),
        ("a.m4a: the decoder of this M4A file returned nothing for 60 s and was stopped.", "decoder died"),
        (NO_RESULT, "decoder died"),
        ("the encoder yields NaN or infinity. Check that the input is finite", "model"),
        ("[Errno 13] Permission denied: 'a.wav'", "not accessible"),
        ("b.mp3: whatever else", OTHER),
    ],
)
def test_kinds_of_what_cannot_be_made_here(error: str, kind: str) -> None:
    assert find_error_kind(error) == kind


def test_kinds_are_counted_and_each_is_explained() -> None:
    assert count_error_kinds([None, "", "x", "y", "a: but the limit is 5"]) == {OTHER: 2, "too large": 1}
    page = (Path(__file__).parent.parent / "docs" / "score-many-songs.md").read_text()
    for kind in (*ERROR_KINDS, OTHER):
        assert f"| {kind} |" in page
