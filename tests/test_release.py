"""What a release says of itself is the same everywhere: its version, and the command lines of the workflow."""

import re
import tomllib
from pathlib import Path

import yaml

from hub_card.model_card import CITATION
from modeling_apex import __version__

REPOSITORY = Path(__file__).parent.parent


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_one_version_stands_everywhere() -> None:
    (newest, *_) = re.findall(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    stated = {
        "CHANGELOG.md": newest,
        "CITATION.cff": yaml.safe_load(read("CITATION.cff"))["version"],
        "pyproject.toml": tomllib.loads(read("pyproject.toml"))["project"]["version"],
    }
    others = {name: version for name, version in stated.items() if version != __version__}
    assert not others, f"modeling_apex.__version__ is {__version__}, and other files state another version: {others}"


def test_the_citation_names_the_paper_and_the_licence() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == tomllib.loads(read("pyproject.toml"))["project"]["license"]
    (paper,) = citation["references"]
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert f"{{{' and '.join(authors)}}}" in CITATION
    assert paper["title"] in CITATION.replace("{", "").replace("}", "")
    assert paper["url"] in read("README.md")
    assert CITATION in read("README.md")


def test_the_workflow_runs_the_entry_point_on_every_version_and_builds_the_docs() -> None:
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "bash .ci/run" in [step.get("run") for step in jobs["tests"]["steps"]]
    targets = [step["run"].split()[1] for step in jobs["docs"]["steps"] if step.get("run", "").startswith("make ")]
    assert targets == ["docs"]
    assert re.search(r"^docs:", read("Makefile"), flags=re.MULTILINE)


def test_a_bug_report_asks_for_the_environment() -> None:
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug.yml"))
    (field,) = [field for field in form["body"] if field.get("id") == "env"]
    assert "`apex-music env`" in field["attributes"]["label"]
    assert field["validations"]["required"]
