"""
The page on rewards: its commands run one after the other, and its examples in one program, on small songs.
"""

import json
import runpy
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from executed_pages import find_broken_links, list_blocks, list_programs, run_programs
from small_model import build_small_model
from song_folders import make_wav

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
NUM_PROMPTS, NUM_TAKES = 12, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with takes, their ratings, a benchmark's rows and a small model."""
    folder = tmp_path_factory.mktemp("page")
    build_small_model().save_pretrained(folder / "model")
    ratings = ["song,rating"]
    for prompt in range(NUM_PROMPTS):
        (folder / "takes" / f"prompt-{prompt}").mkdir(parents=True)
        for take in range(NUM_TAKES):
            number = NUM_TAKES * prompt + take
            path = folder / "takes" / f"prompt-{prompt}" / f"{number}.wav"
            path.write_bytes(make_wav(number, 0.25))
            ratings.append(f"{path.name},{1 + number % 5}")
    (folder / "ratings.csv").write_text("\n".join(ratings) + "\n")
    (folder / "cmi").mkdir()
    rows = []
    for number in range(6):
        (folder / "cmi" / f"{number}.wav").write_bytes(make_wav(number, 0.2))
        row = {"split": "test", "prompt": f"{number}", "audio-path": f"{number}.wav"}
        rows.append({**row, "source": "MusicEval", "musicality": number})
        battle = {"source": "Music Arena", "audio2": f"{(number + 1) % 6}.wav", "preference": "model_a"}
        rows.append(row | battle)
    (folder / "cmi" / "all_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_command_runs(folder: Path) -> None:
    programs = list_programs(list_blocks(PAGE), folder, {"MODEL": "model"})
    assert [words[1] for words in programs] == ["robustness", "select", "embed", "personalise", "select", "bench"]
    for words, status in run_programs(programs, folder):
        assert status == 0, words
    chosen = [json.loads(line) for line in (folder / "runs/mine-best/selected.jsonl").read_text().splitlines()]
    assert len(chosen) == NUM_PROMPTS
    assert all(1 <= report["scores"]["personal"] <= 5 for report in chosen)
    results = json.loads((folder / "runs/cmi/results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["model", "runs/mine"]
    assert results["datasets"]["MusicArena"]["differences"]


def test_every_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class LocalRewardBackend:
        def __init__(self, device: str, **model_kwargs: Any) -> None:
            self.device, self.model_kwargs = device, model_kwargs
            self._load_model()  # type: ignore[attr-defined]

    kinds = {"MetricCategory": Enum("MetricCategory", ["INDEPENDENT"]), "MetricType": Enum("MetricType", ["DICT"])}
    base = {"BaseMetric": type("BaseMetric", (), {}), "MetricMetadata": SimpleNamespace}
    for name, members in (
        ("unirl.reward.local.base", {"LocalRewardBackend": LocalRewardBackend}),
        ("versa.definition", base | kinds),
    ):
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            module = ModuleType(".".join(parts[:depth]))
            monkeypatch.setitem(sys.modules, module.__name__, module)
        vars(module).update(members)
    blocks = list_blocks(PAGE, "python")
    assert len(blocks) == 11
    (tmp_path / "examples.py").write_text("\n".join(blocks))
    names = runpy.run_path(str(tmp_path / "examples.py"))
    assert names["output"].rewards.shape == (4,)
    assert float(names["waveform"].grad.abs().max()) > 0
    assert len(names["scores"]) == 4
    assert float(names["metric"].compute()) == pytest.approx(sum(names["output"].tolist()) / 4, abs=1e-4)


def test_links_to_files_lead_somewhere() -> None:
    assert find_broken_links(PAGE) == []
