"""Cards and publishing of datasets, on a small dataset that the real builder wrote."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import DatasetCard, HfApi
from patience import PATIENCE

from datasets_scripts.build import main as build_dataset
from hub_card.build_card import main as build_card
from hub_card.card_checks import find_card_problems
from hub_card.dataset_card import find_changed_shards, render_dataset_card
from hub_card.publish import build_parser, publish
from hub_card.result_files import MissingFactError

from loopback_hub import LoopbackHub

REPO = "tester/rated-songs"
DIMENSIONS = ("Coherence", "Musicality", "Memorability", "Clarity", "Naturalness")


@pytest.fixture(scope="session")
def built_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rated songs in SongEval's layout, built."""
    source = tmp_path_factory.mktemp("songeval")
    (source / "mp3").mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for number in range(12):
        rating = dict.fromkeys(DIMENSIONS, 1 + number % 5)
        rows.append({"file_name": f"mp3/{number}.flac", "gender": "female", "annotation": [rating]})
        time = np.arange(16_000) / 8000
        pitches = generator.uniform(150, 3000, 12)[np.minimum((6 * time).astype(int), 11)]
        soundfile.write(source / "mp3" / f"{number}.flac", 0.3 * np.sin(2 * np.pi * pitches * time), 8000)
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path_factory.mktemp("built") / "songeval"
    words = ["songeval", "--source", str(source), "--splits", "50:25:25", "--output", str(output)]
    assert build_dataset(words) == 0
    return output


@pytest.fixture
def dataset(built_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_dataset, tmp_path / "dataset"))


def test_card_adds_use_licence_and_hashes(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    card = render_dataset_card(dataset, repo_id=REPO)
    assert card.startswith((dataset / "README.md").read_text().rstrip())
    assert f'load_dataset("{REPO}", split="train")' in card
    assert "[CC BY-NC-SA 4.0](https://creativecommons.org/licenses/by-nc-sa/4.0/)" in card
    assert "Commercial use needs their permission. What is made from it must carry the same licence." in card
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            assert f"| {shard['path']} | {shard['num_rows']} |" in card
            assert shard["sha256"] in card
    assert find_card_problems(card, dataset, repo_type="dataset") == []
    assert DatasetCard(card, ignore_metadata_errors=False).data.license == "cc-by-nc-sa-4.0"


def test_a_card_that_was_rendered_before_is_rendered_anew(dataset: Path) -> None:
    first = render_dataset_card(dataset, repo_id=REPO)
    (dataset / "README.md").write_text(first)
    assert render_dataset_card(dataset, repo_id=REPO) == first
    assert build_card(["--dataset", str(dataset)]) == 0
    assert "load_dataset" not in (dataset / "README.md").read_text(), "without a repository there is nothing to load"


def test_unknown_licence_stops_the_card(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["options"]["license"] = "other"
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingFactError, match="the licence is 'other', which says nothing"):
        render_dataset_card(dataset)


@pytest.mark.parametrize("fact", ["builder", "sha256", "versions", "configs", "splits"])
def test_a_missing_fact_stops_the_card(dataset: Path, fact: str) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    del manifest[fact]
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingFactError, match=rf"manifest\.json: no `{fact}`"):
        render_dataset_card(dataset)


def test_unfinished_datasets_are_refused(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    (dataset / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match="the card that the builder wrote is missing"):
        render_dataset_card(dataset)
    (dataset / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="missing, so the dataset is not finished"):
        render_dataset_card(dataset)
    assert build_card(["--dataset", str(dataset), "--arena", "somewhere"]) == 2
    assert "--arena is about models; the card of a dataset does not use it" in capsys.readouterr().err


def test_published_and_read_back(dataset: Path, api: HfApi, hub: LoopbackHub) -> None:
    words = ["--dataset", str(dataset), "--repo", REPO, "--private"]
    publish(build_parser().parse_args(words), api=api, say=lambda line: None)
    files = hub.get_files(REPO, "dataset")
    shards = [name for name in files if name.endswith(".parquet")]
    assert len(shards) == 3
    assert all(files[name] == (dataset / name).read_bytes() for name in [*shards, "manifest.json"])
    assert f'load_dataset("{REPO}", split="train")' in files["README.md"].decode()
    assert REPO not in (dataset / "README.md").read_text(), "the folder itself is left as it was"


def test_the_code_block_runs(dataset: Path, api: HfApi, hub: LoopbackHub, tmp_path: Path) -> None:
    publish(build_parser().parse_args(["--dataset", str(dataset), "--repo", REPO]), api=api, say=lambda line: None)
    card = hub.get_files(REPO, "dataset")["README.md"].decode()
    (block,) = re.findall(r"^```python\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert done.stdout.startswith(f"{manifest['splits']['train']['num_rows']} ['id', 'audio'")


def test_changed_shards_and_foreign_paths_are_not_published(dataset: Path, api: HfApi, hub: LoopbackHub) -> None:
    shard = next((dataset / "data").glob("train-*"))
    content = shard.read_bytes()
    arguments = build_parser().parse_args(["--dataset", str(dataset), "--repo", REPO])
    shard.write_bytes(content[:-1] + b"?")
    with pytest.raises(ValueError, match=rf"data/{shard.name}: its hash differs from the manifest"):
        publish(arguments, api=api, say=lambda line: None)
    shard.unlink()
    assert find_changed_shards(dataset) == [f"data/{shard.name}: in the manifest but not in the folder"]
    shard.write_bytes(content)
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["options"]["embeds_audio"] = False
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="its rows hold paths of this machine in place of audio"):
        publish(arguments, api=api, say=lambda line: None)
    (dataset / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json, so the dataset is not finished"):
        publish(arguments, api=api, say=lambda line: None)
    assert hub.repositories == {}
