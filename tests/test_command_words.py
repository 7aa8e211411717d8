"""What every command line refuses or takes alike: words that are empty, and homes that nobody has."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import datasets_scripts.build
import hub_card.build_card
import hub_card.publish
import spaces_demo.deploy
from modeling_apex.cli import COMMANDS, main
from modeling_apex.process_exit import refuse_empty_words

REPOSITORY = Path(__file__).parent.parent
OTHERS = (datasets_scripts.build.main, hub_card.build_card.main, hub_card.publish.main, spaces_demo.deploy.main)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["", "--output", "x"], "word 1"),
        (["a", "b", " "], "word 3"),
        (["--output", ""], "--output"),
        (["-o", "\t"], "-o"),
        (["a", "--output="], "--output"),
        (["a", "--output= "], "--output"),
        (["--", ""], "word 2"),
    ],
)
def test_an_empty_word_is_refused_by_its_place(words: list[str], place: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{place} of the command line is an empty string, '.*'\. Say what is meant"
    ):
        refuse_empty_words(words)


def test_other_words_pass() -> None:
    refuse_empty_words(["score", "a = b.wav", "=", "--flag", "-", "--by=all", "x="])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", [["--model", ""], ["--output", ""], ["--output="], [""]])
def test_no_command_takes_an_empty_word(
    command: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, *words]) == 2
    assert re.fullmatch(r"apex-music: .+ is an empty string, ''\. .+\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", OTHERS)
def test_no_other_command_takes_an_empty_word(run: Callable, capsys: pytest.CaptureFixture) -> None:
    assert run(["training", "--output", ""]) == 2
    assert "--output of the command line is an empty string, ''" in capsys.readouterr().err


NOBODY = "~nobody-of-this-name/x"


@pytest.mark.parametrize(
    "words",
    [
        ["score", NOBODY],
        ["score", "a.wav", "--features", f"{NOBODY}.csv"],
        ["embed", NOBODY, "--output", "out"],
        ["label", NOBODY, "--teacher", NOBODY, "--output", "out.csv"],
        ["train", NOBODY, "--output", "out"],
        ["evaluate", NOBODY, "--model", NOBODY],
        ["robustness", NOBODY, NOBODY, "--output", "out"],
        ["arena", f"{NOBODY}.csv", "--output", "out"],
        ["convert", "--encoder", NOBODY, "--heads", NOBODY, "--output", "out"],
        ["convert", "--songeval", NOBODY, "--muq", NOBODY, "--output", "out"],
        ["export", "--model", NOBODY, "--output", "out"],
        ["verify", "--model", NOBODY],
    ],
)
def test_the_home_of_nobody_is_a_name_that_is_not_there(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) in (1, 2)
    said = "".join(capsys.readouterr())
    assert NOBODY in said
    assert "home" not in said


def test_a_tilde_is_expanded_in_one_way() -> None:
    """`os.path.expanduser` leaves a home that it does not know; the method of `Path` raises a `RuntimeError`."""
    for folder in ("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert not re.search(r"(?<!os\.path)\.expanduser\(", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_description_fits_the_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    _, description, *_ = capsys.readouterr().out.split("\n\n")
    if command != "build":  # its description is laid out by hand, for 120 columns
        assert max(map(len, description.splitlines())) <= 80
