"""README.md and the pages of docs: tables come from result files, commands exist, links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest

from modeling_apex.cli import COMMANDS

from executed_pages import find_broken_links

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = (*REPOSITORY.glob("*.md"), *sorted((REPOSITORY / "docs").glob("*.md")))
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")


def test_tables_are_those_of_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "tests" / "benchmarks"), *sys.path])
    import update_readme

    shown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert update_readme.build_page(text) == text, f"{page}: run `make readme`"
        shown += re.findall(r"<!-- begin (\S+) -->", text)
    assert set(shown) == set(update_readme.SECTIONS), "a result that no page shows, or the reverse"
    assert "<!-- begin apex-tiny -->" in README


def test_commands_exist() -> None:
    pieces = re.findall(r"^```[^\n]*\n(.*?)^```$|`([^`\n]+)`", TEXT, flags=re.DOTALL | re.MULTILINE)
    code = "\n".join(block or inline for block, inline in pieces)
    named = set(re.findall(r"^(?:\$ )?apex-music ([a-z]+)", code, flags=re.MULTILINE))
    assert named <= set(COMMANDS)
    assert {"score", "rank", "convert", "export", "embed", "train", "evaluate", "arena"} <= named


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^\$ |^)make ([a-z-]+)", TEXT, flags=re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    assert find_broken_links(page) == []


def test_readme_stays_short() -> None:
    assert README.count("\n") <= 140, "README.md is an overview; what is longer belongs into docs"
