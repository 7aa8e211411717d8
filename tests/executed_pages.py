"""
Pages of the documentation whose commands a test runs.

The shell runs each `bash` block as a reader's would; where it would start a program of this project, it notes the
words, and the program runs here, in this process, so that torch is imported once. Blocks that no test can run, such as
those of a cluster, are marked `console`.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from patience import PATIENCE

from modeling_apex.cli import main

_NOTER = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" >> "$NOTES"
printf '\\n' >> "$NOTES"
"""


def list_blocks(page: Path, language: str = "bash") -> list[str]:
    """List the fenced blocks of a page in one language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def list_programs(blocks: Sequence[str], folder: Path, variables: Mapping[str, str]) -> list[list[str]]:
    """Run blocks in one shell, in a folder, and return the words of each program that it would start."""
    places = folder / "bin"
    places.mkdir(exist_ok=True)
    for name in ("apex-music", "python"):
        (places / name).write_text(_NOTER)
        (places / name).chmod(0o755)
    notes = folder / "notes"
    environment = {"PATH": f"{places}:{os.environ['PATH']}", "NOTES": str(notes), **variables}
    script = "\n".join(["set -eu", *blocks])
    subprocess.run(["bash", "-c", script], cwd=folder, env=environment, check=True, timeout=PATIENCE)
    lines = notes.read_text(encoding="utf-8").removesuffix("\0\n").split("\0\n")
    return [line.split("\0") for line in lines]


def run_programs(programs: Sequence[Sequence[str]], folder: Path) -> Iterator[tuple[Sequence[str], int]]:
    """Run programs in a folder, one after the other, and yield the words and the exit status of each."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        for words in programs:
            if words[0] == "apex-music":
                yield words, main(list(words[1:]))
            else:
                assert words[:2] == ["python", "-m"], words
                yield words, import_module(words[2]).main(list(words[3:]))
    finally:
        os.chdir(before)


def find_broken_links(page: Path) -> list[str]:
    """Return the files that a page links to and that are not there."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8"))
    return [target for target in targets if not (page.parent / target).exists()]
