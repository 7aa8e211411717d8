"""What a terminal is shown: whatever an argument or a file says, none of it can steer the terminal."""

import importlib
import io
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from modeling_apex.cli import main
from modeling_apex.process_exit import CommandParser, print_lines

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\r\n"
PROGRAMS = {
    "modeling_apex.cli": ["score", "a"],
    "datasets_scripts.build": ["training", "--source", "a", "b", "suno", "--output", "c"],
    "hub_card.build_card": ["--dataset", "x"],
    "hub_card.publish": ["--repo", "me/x", "--model", "x"],
    "spaces_demo.deploy": ["--space", "me/x"],
    "modeling_apex.training.tiny.__main__": [],
}


def check_shown(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    assert "owned" in text


@pytest.mark.parametrize("module", PROGRAMS)
def test_what_is_wrong_with_the_words_is_shown_escaped(module: str, capsys: pytest.CaptureFixture) -> None:
    program = importlib.import_module(module)
    with pytest.raises(SystemExit) as ended:
        program.main([*PROGRAMS[module], f"--nonsense={HOSTILE}a"])
    assert ended.value.code == 2
    check_shown(capsys.readouterr().err)


def test_lines_stay_and_controls_are_escaped(capsys: pytest.CaptureFixture) -> None:
    print_lines(f"one {HOSTILE}two\n")
    assert capsys.readouterr().out == "one \\x1b]0;owned\\x07\\x1b[2J\\u202e\\r\ntwo\n\n"
    file = io.StringIO()
    print_lines(Path("a\x1b"), file=file)
    assert file.getvalue() == "a\\x1b\n"
    parser = CommandParser(prog="p")
    parser.add_subparsers().add_parser("inner").add_argument("--number", type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(["inner", "--number", HOSTILE])
    check_shown(capsys.readouterr().err)


def test_what_a_command_logs_is_escaped() -> None:
    program = f"""
        import logging, sys
        from modeling_apex.process_exit import run_command
        sys.argv[1:] = []
        def run(arguments):
            logging.getLogger("any").warning("%s: a lock, says %s", "here", {HOSTILE!r})
            return 0
        sys.exit(run_command("a", run, words=None, when_interrupted=""))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.startswith("here: a lock, says ")
    check_shown(done.stderr)


def test_what_commands_print_of_names_is_escaped(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / f"owned {HOSTILE}"
    assert main(["export", "--model", str(tiny_folder), "--output", str(output)]) == 0
    check_shown(capsys.readouterr().out)
    model = output.with_name("\x1b[31mowned")
    output.rename(model)
    assert main(["verify", "--model", str(model), "--against", f"{model}{HOSTILE}"]) == 1
    check_shown(capsys.readouterr().out)
