"""Columns of embeddings on disk: rows are those of the file, and reading them leaves nothing mapped."""

import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_apex.corpus.song_store import StoredRows


@pytest.fixture
def matrix(tmp_path: Path) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    return values


def test_rows_are_those_of_the_file(tmp_path: Path, matrix: np.ndarray) -> None:
    rows = StoredRows(tmp_path / "rows.npy")
    assert len(rows) == 50
    assert rows.shape == (50, 7)
    assert np.array_equal(rows[10:20], matrix[10:20])
    assert np.array_equal(rows[np.array([3, 3, 49])], matrix[[3, 3, 49]])
    assert np.array_equal(np.asarray(rows), matrix)
    assert rows[np.zeros(0, np.int64)].shape == (0, 7)
    assert rows[:5].flags.writeable


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((0, 7), np.float32))
    rows = StoredRows(tmp_path / "rows.npy")
    assert rows[:3].shape == (0, 7)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which files are mapped")
def test_reading_leaves_nothing_mapped(tmp_path: Path, matrix: np.ndarray) -> None:
    rows = StoredRows(tmp_path / "rows.npy")
    read = [rows[start : start + 10] for start in range(0, 50, 10)]
    assert len(read) == 5
    assert str(tmp_path / "rows.npy") not in Path("/proc/self/maps").read_text()


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    path = tmp_path / "rows.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="mmap length is greater"):
        StoredRows(path)
