"""The README: its tables come from result files, its commands exist, its links lead somewhere."""

import re
import sys
from pathlib import Path

from modeling_apex.cli import COMMANDS

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_result_files(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "tests" / "benchmarks"), *sys.path])
    import update_readme

    assert "<!-- begin apex-tiny -->" in README
    assert update_readme.build_readme(README) == README, "run `make readme`"


def test_commands_exist() -> None:
    pieces = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", README, flags=re.DOTALL)
    code = "\n".join(block or inline for block, inline in pieces)
    named = set(re.findall(r"^apex-music ([a-z]+)", code, flags=re.MULTILINE))
    assert named <= set(COMMANDS)
    assert {"score", "rank", "convert", "export", "embed", "train", "evaluate", "arena"} <= named


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)`?", README)) <= targets


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
