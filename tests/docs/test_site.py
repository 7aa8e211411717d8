"""The website of the documentation: it builds without a warning, loads nothing from elsewhere, and its links hold."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from patience import PATIENCE

from modeling_apex import __all__ as public_names
from modeling_apex.cli import COMMANDS
from modeling_apex.inference.song_report_apex import SongReport
from modeling_apex.statistics.result_schema import SCHEMAS

REPOSITORY = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that a link may name."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.places.add(found.get("id", ""))
        if tag == "a":
            self.links.add(found.get("href", ""))
        elif tag in ("script", "img", "iframe"):
            self.loaded.add(found.get("src", ""))
        elif tag == "link":
            self.loaded.add(found.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="the extra `docs`, which `make test` installs, is not here")
    folder = tmp_path_factory.mktemp("site")
    words = [
        "--builder",
        "html",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        str(REPOSITORY / "docs"),
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 20
    for path, page in pages.items():
        assert not [place for place in page.loaded if re.match(r"(https?:)?//", place)], path.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_internal_link_leads_to_a_page_and_a_place(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"https?:|mailto:", link) or link in ("", "#"):
                continue
            name, _, place = link.partition("#")
            target = (path.parent / unquote(name)).resolve() if name else path
            is_there = target in pages if target.suffix == ".html" else target.exists()
            if not is_there or (place and target in pages and unquote(place) not in pages[target].places):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_search_finds_a_page_without_a_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "judge-on-battles" in index
    assert (site / "search.html").is_file()


def test_the_reference_is_whole(site: Path) -> None:
    commands = (site / "command-line.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"usage: apex-music {name}" not in commands] == []
    python = (site / "python.html").read_text(encoding="utf-8")
    assert [name for name in public_names if f'id="modeling_apex.{name}"' not in python] == []
    results = (site / "reports-and-results.html").read_text(encoding="utf-8")
    assert [name for name in (*SCHEMAS, *SongReport.__annotations__) if name not in results] == []
    assert all(f">{name}<" in (site / "config-fields.html").read_text() for name in ("layer_indices", "heads", "tail"))
