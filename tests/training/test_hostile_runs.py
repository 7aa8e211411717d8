"""Runs, embeddings and tables from strangers: what is resumed and read without opening a pickle as code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_scripts.metadata_tables import iterate_table
from modeling_apex import ApexModel
from modeling_apex.cli import main
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.training import loop
from modeling_apex.training.loop import PROGRESS_NAME, Progress
from modeling_apex.training.train import train

from booby_traps import TRAPS, build_numpy_file


@pytest.fixture
def marker(tmp_path: Path) -> Any:
    """The file that a trap makes when it goes off; it must not be there in the end."""
    path = tmp_path / "trap-went-off"
    yield path
    assert not path.exists()


@pytest.fixture
def checkpoint(
    embeddings: Path, tiny_model: ApexModel, quick: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The newest checkpoint of a run that was stopped after its second epoch."""
    record = loop._record

    def record_and_stop(*values: Any) -> None:
        record(*values)
        if values[-1]["epoch"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_record", record_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(embeddings, tmp_path / "run", quick(), model=tiny_model)
    return tmp_path / "run" / "checkpoints" / "epoch-0001"


@pytest.fixture
def resume(embeddings: Path, tiny_model: ApexModel, quick: Callable, tmp_path: Path) -> Callable[[], Any]:
    return lambda: train(embeddings, tmp_path / "run", quick(), model=tiny_model, resume=True)


def test_the_pickles_of_a_checkpoint_are_these(checkpoint: Path, resume: Callable[[], Any]) -> None:
    # Whatever another release of Accelerate adds here must be looked at before it is opened.
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {"model.safetensors", "optimizer.bin", "random_states_0.pkl", "best.safetensors", PROGRESS_NAME}
    assert len(resume().history) == 3


@pytest.mark.parametrize("trap", TRAPS)
def test_an_optimizer_that_holds_code(checkpoint: Path, resume: Callable[[], Any], marker: Path, trap: str) -> None:
    (checkpoint / "optimizer.bin").write_bytes(TRAPS[trap](marker))
    with pytest.raises(ValueError, match=r"epoch-0001: holds a pickle with more than numbers in it, which could run"):
        resume()


@pytest.mark.parametrize("name", ["random_states_0.pkl", "scheduler.bin", "sampler.bin"])
def test_other_pickles_are_not_opened_as_code(
    checkpoint: Path, resume: Callable[[], Any], marker: Path, name: str
) -> None:
    # Random states do not decide what training does, and the other files are none of ours.
    (checkpoint / name).write_bytes(TRAPS["torch"](marker))
    assert len(resume().history) == 3


def test_a_pickle_that_accelerate_would_open_as_code(
    checkpoint: Path, resume: Callable[[], Any], marker: Path
) -> None:
    (checkpoint / "custom_checkpoint_0.pkl").write_bytes(TRAPS["torch"](marker))
    with pytest.raises(RuntimeError, match="Number of custom checkpoints"):
        resume()


def test_weights_as_a_pickle(checkpoint: Path, resume: Callable[[], Any], marker: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(TRAPS["torch"](marker))
    with pytest.raises(ValueError, match="holds a pickle with more than numbers in it"):
        resume()


def test_a_checkpoint_without_its_progress(checkpoint: Path, resume: Callable[[], Any]) -> None:
    (checkpoint / PROGRESS_NAME).unlink()
    with pytest.raises(FileNotFoundError, match=r"progress\.json: no such file, so this checkpoint cannot be resumed"):
        resume()


def test_progress_round_trips_with_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    entry = {"epoch": 0, "spearman": float("nan"), "loss": 0.1 + 0.2, "largest": float("inf")}
    progress = Progress([entry], best_epoch=0)
    progress.save(tmp_path)
    assert repr(Progress.load(tmp_path)) == repr(progress)


@pytest.mark.parametrize("kind", ["segments", "offsets", "song_embeddings"])
def test_stored_columns(embeddings: Path, marker: Path, kind: str) -> None:
    cache = embeddings.parent / "columns"
    open_embedding_store(embeddings, cache)
    path = next(cache.glob(f"*/train.{kind}.npy"))
    path.write_bytes(build_numpy_file(marker))
    with pytest.raises(ValueError, match=r"allow_pickle|Array can't be memory-mapped"):
        open_embedding_store(embeddings, cache)
    path.write_bytes(TRAPS["pickle"](marker))
    with pytest.raises(ValueError, match=r"allow_pickle|pickle"):
        open_embedding_store(embeddings, cache)


@pytest.mark.parametrize("name", ["labels.pkl", "labels.parquet", "labels.csv", "labels.jsonl", "labels.jsonl.zst"])
def test_tables_of_labels(tmp_path: Path, marker: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TRAPS["pickle"](marker))
    with pytest.raises((ValueError, OSError)):
        list(iterate_table(path))


@pytest.mark.parametrize("name", ["songs.py", "dataset.py"])
def test_a_dataset_that_brings_a_script(tmp_path: Path, marker: Path, name: str) -> None:
    folder = tmp_path / name.removesuffix(".py")
    folder.mkdir()
    (folder / name).write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    assert main(["embed", str(folder), "--output", str(tmp_path / "out")]) == 2
    np.save(folder / "data.npy", np.zeros(3))
    assert main(["embed", str(folder), "--output", str(tmp_path / "out")]) == 2
