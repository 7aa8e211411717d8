"""
Every fenced block of the repository, in Markdown, in the templates of cards and in docstrings: a test runs it, or it
is listed here with the reason why none does. Data, and directives of the website, are not commands.
"""

import ast
import re
from collections import Counter
from pathlib import Path

from test_pages import ELSEWHERE, EXAMPLES, EXECUTED

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo")
FENCE = re.compile(r"^ *```([^\n`]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
DATA = {"json", "bibtex", "text"}
# Which tests run the blocks of a file that is not a page of the website.
RUN_BY = {
    "spaces_demo/README.md": "tests/spaces_demo/test_readme_examples.py",
    "hub_card/templates/model.md.jinja": "tests/hub_card/test_model_card.py",
    "hub_card/templates/dataset.md.jinja": "tests/hub_card/test_dataset_card.py",
    "modeling_apex/checkpoints/export.py": "tests/checkpoints/test_export.py",
}
# Commands that no test can run: how many blocks of a file, and why.
NOT_RUN = {
    "README.md": (2, "they install this program"),
    "CONTRIBUTING.md": (1, "targets of the Makefile, which CI runs"),
    "docs/start-songwriter.md": (1, "a target of the Makefile, which CI runs"),
    "docs/start-platform.md": (1, "it installs this program"),
    "docs/start-researcher.md": (1, "it installs this program"),
    "docs/start-integrator.md": (1, "it installs this program"),
    "docs/score-on-other-engines.md": (2, "packages to install, and records of one machine's speed"),
    "docs/score-many-songs.md": (2, "an array of jobs and torchrun"),
    "docs/score-millions.md": (6, "a cluster, and processes and workers, which tests/corpus starts in small"),
    "docs/train.md": (1, "torchrun, which the tests of training start with their own arguments"),
    "docs/publish-and-verify.md": (1, "a repository on the Hub"),
    "spaces_demo/README.md": (2, "servers that run until they are stopped, and an upload to the Hub"),
}


def list_fenced(path: Path) -> list[tuple[str, str]]:
    """List the fenced blocks of a file, of a module those in its texts: the kind that the fence states, content."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return FENCE.findall(text)
    nodes = list(ast.walk(ast.parse(text)))
    inside = {id(value) for node in nodes if isinstance(node, ast.JoinedStr) for value in node.values}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in inside]
    # A text with values in it comes in pieces, so its fences are looked for in the source.
    texts += [ast.get_source_segment(text, node) for node in nodes if isinstance(node, ast.JoinedStr)]
    return [block for piece in texts if isinstance(piece, str) for block in FENCE.findall(piece)]


def list_files() -> list[Path]:
    """List the pages, templates and modules that may hold examples."""
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    for package in PACKAGES:
        for pattern in ("*.md", "*.jinja", "*.py"):
            pages += (REPOSITORY / package).rglob(pattern)
    return sorted(pages)


def test_every_block_is_run_or_listed() -> None:
    run = {*EXECUTED, *(REPOSITORY / "docs" / f"{stem}.md" for stem in ELSEWHERE), *map(REPOSITORY.joinpath, RUN_BY)}
    not_run: Counter[str] = Counter()
    unknown = []
    for path in list_files():
        name = path.relative_to(REPOSITORY).as_posix()
        for kind, content in list_fenced(path):
            if kind in ("console", "") and path.suffix == ".md":
                not_run[name] += 1
            elif kind in ("bash", "python"):
                if path not in run and not (path in EXAMPLES and ">>> " in content):
                    unknown.append(f"{name}: no test runs {content}")
            elif kind not in DATA and not (kind.startswith("{") and path.parent.name == "docs"):
                unknown.append(f"{name}: a block of the kind {kind!r}")
    assert unknown == []
    assert not_run == {name: count for name, (count, _) in NOT_RUN.items()}


def test_what_runs_a_page_is_there() -> None:
    for page, test in RUN_BY.items():
        assert "block" in (REPOSITORY / test).read_text(encoding="utf-8"), f"{test} does not run the blocks of {page}"
    tests = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if path.parent.name != "docs"]
    tests += [path for path in Path(__file__).parent.glob("test_*.py") if path.name not in ("test_pages.py", __file__)]
    texts = [path.read_text(encoding="utf-8") for path in tests]
    for stem in ELSEWHERE:
        if (REPOSITORY / "docs" / f"{stem}.md").exists():
            assert any(f'"{stem}.md"' in text for text in texts), (
                f"no test names docs/{stem}.md, whose blocks must run"
            )
