"""
README.md and the pages of docs: every command and every line of Python on them runs, on small inputs.

A page runs in a folder of its own, in which the files that pages speak of lie, and models of random weights under the
names that the published ones have on the Hub, in their layout. What is made smaller is listed below.
"""

import json
import os
import re
import shutil
from doctest import DocTestParser
from pathlib import Path

import pytest
import soundfile

from modeling_apex.cli import main

import published_layout
from executed_pages import list_blocks, list_programs, run_programs
from published_songeval import write_muq_folder, write_songeval_head
from simulated_battles import build_rows
from song_folders import write_dataset
from waveforms import make_waveform

REPOSITORY = Path(__file__).parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
# Pages with a test of their own.
ELSEWHERE = {"from-raw-songs", "score-millions", "rewards"}
EXECUTED = [
    page for page in PAGES if page.stem not in ELSEWHERE and any(map(list_blocks, [page, page], ["bash", "python"]))
]
# What no test can run: installing, serving, a cluster, a repository on the Hub, records of this machine's speed.
CONSOLE = {
    "README": 2,
    "start-songwriter": 1,
    "score-on-other-engines": 2,
    "train": 1,
    "publish-and-verify": 1,
    "score-many-songs": 2,
}
QUICK_ARENA = "--num-folds 2 --num-draws 100 --classifiers logistic_regression --no-plots"
SMALLER = {
    "build-datasets": {
        "--num-songs 500": "--num-songs 24 --seconds 2",
        "--num-songs 400 --seconds 20": "--num-songs 24 --seconds 2",
        "--split-method quota": "--split-method quota --splits 50:25:25",
    },
    "judge-on-battles": {
        "--output runs/arena": f"--output runs/arena {QUICK_ARENA}",
        "--output runs/apex\n": f"--output runs/apex {QUICK_ARENA}\n",
        "--output runs/apex-arena": f"--output runs/apex-arena {QUICK_ARENA}",
        "--output runs/songeval\n": f"--output runs/songeval {QUICK_ARENA}\n",
        "--output runs/songeval-120": f"--output runs/songeval-120 {QUICK_ARENA}",
        "--output runs/side-by-side": f"--output runs/side-by-side {QUICK_ARENA}",
    },
    "numbers": {"apex-tiny data/songs": "apex-tiny album"},
    "start-researcher": {
        "--num-songs 200 --seconds 20": "--num-songs 24 --seconds 2",
        "--splits 60:20:20": "--splits 50:25:25",
        "--num-epochs 50": "--num-epochs 2",
    },
    "train": {"--preset improved": "--preset improved --num-epochs 2"},
    "train-spectrogram-fusion": {
        "--num-songs 400 --seconds 10": "--num-songs 24 --seconds 2",
        "--split-method quota": "--split-method quota --splits 50:25:25",
        "--output runs/fusion": "--output runs/fusion --num-epochs 1",
    },
    "reward-in-your-program": {"320_000": "32_000"},
}
# Models that a page makes itself, and folders that it writes.
MADE = {"convert-and-export": {"apex-95m", "songeval"}, "build-datasets": {"data"}, "start-researcher": {"data"}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files and models that pages speak of."""
    folder = tmp_path_factory.mktemp("inputs")
    songs = ["song.mp3", "a.mp3", "b.mp3", "take-1.wav", "take-2.wav"]
    songs += [f"{place}/{name}.wav" for place in ("takes", "album", "songs") for name in ("first", "second", "third")]
    songs += [f"album/{number}.wav" for number in range(24)]  # as many as a reference set needs
    songs += [f"prompts/{prompt}/{take}.wav" for prompt in "xy" for take in "12"]
    for number, song in enumerate(songs):
        (folder / song).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / song, make_waveform(1.2, seed=number), 24_000)
    before = os.getcwd()
    os.chdir(folder)
    try:
        published_layout.write_mert_folder(Path("m-a-p/MERT-v1-95M"))
        width = published_layout.MERT_SMALL["hidden_size"]
        published_layout.write_apex_folder(Path("amaai-lab/apex"), "m-a-p/MERT-v1-95M", width, segment_sec=1)
        write_muq_folder(Path("OpenMuQ/MuQ-large-msd-iter"))
        write_songeval_head(Path("SongEval/ckpt/model.safetensors"))
        words = ["--muq", "OpenMuQ/MuQ-large-msd-iter", "--songeval", "SongEval/ckpt", "--output", "songeval"]
        assert main(["convert", *words]) == 0
        words = ["--encoder", "m-a-p/MERT-v1-95M", "--heads", "amaai-lab/apex", "--output", "apex-95m"]
        assert main(["convert", *words]) == 0
        write_dataset(Path("data/songs"), {"train": 8, "validation": 6, "test": 6})
        words = ["build", "synthetic", "--layout", "music-arena", "--num-songs", "24", "--seconds", "2"]
        assert main([*words, "--output", "raw"]) == 0
        assert main(["build", "music-arena", "--source", "raw", "--output", "data/arena"]) == 0
        write_tables()
    finally:
        os.chdir(before)
    return folder


def write_tables() -> None:
    """Write the tables that pages name: battles, and scores of the takes of two prompts."""
    from modeling_apex import flatten_reports, format_rows, load_scorer

    rows = build_rows(60)
    Path("battles.csv").write_text(format_rows(list(rows[0]), rows))
    reports = list(load_scorer().score([str(path) for path in sorted(Path("prompts").rglob("*.wav"))]))
    prompts = [{"prompt": Path(report["song"]).parent.name, "word_error_rate": 0.1} for report in reports]
    lines = [json.dumps({**report, **prompt}) for report, prompt in zip(reports, prompts, strict=True)]
    Path("takes.jsonl").write_text("\n".join(lines))
    columns, flat = flatten_reports(reports)
    rows = [{**row, **prompt} for row, prompt in zip(flat, prompts, strict=True)]
    Path("takes.csv").write_text(format_rows([*columns, "prompt", "word_error_rate"], rows))


def make_smaller(block: str, smaller: dict[str, str], used: set[str]) -> str:
    """Replace what is large on a page by what a test can wait for, and note what was found."""
    for large, small in smaller.items():
        if large in block:
            used.add(large)
            block = block.replace(large, small)
    return block


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_every_command_and_every_line_of_python_runs(
    page: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    made = MADE.get(page.stem, set())
    shutil.copytree(inputs, folder, ignore=lambda place, names: made if place == str(inputs) else ())
    used: set[str] = set()
    smaller = SMALLER.get(page.stem, {})
    commands = [make_smaller(block, smaller, used) for block in list_blocks(page)]
    if commands:
        for words, status in run_programs(list_programs(commands, folder, {}), folder):
            assert status == 0, words
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in list_blocks(page, "python"):
        exec(compile(make_smaller(block, smaller, used), str(page), "exec"), names)  # noqa: S102 (the page is ours)
    assert used == set(smaller), "the page no longer says what is made smaller"


EXAMPLES = [
    path
    for package in ("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_run(path: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (*inputs.iterdir(), REPOSITORY / "modeling_apex"):
        (tmp_path / place.name).symlink_to(place)
    monkeypatch.chdir(tmp_path)
    examples = DocTestParser().get_examples(path.read_text(encoding="utf-8").replace("```\n", "\n"))
    names: dict[str, object] = {}
    assert examples
    for example in examples:
        exec(compile(example.source, str(path), "single"), names)  # noqa: S102 (the example is ours)


def test_what_is_not_executed_is_counted() -> None:
    found = {page.stem: len(list_blocks(page, "console")) for page in PAGES if page.stem not in ELSEWHERE}
    assert {stem: count for stem, count in found.items() if count} == CONSOLE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_hides_in_a_block_of_another_kind(page: Path) -> None:
    blocks = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for kind, content in blocks:
        assert kind, f"a block that does not say what it is: {content}"
        if re.search(r"^(\$ )?(apex-music|python|make|pip) ", content, flags=re.MULTILINE):
            assert kind in ("bash", "console"), content
