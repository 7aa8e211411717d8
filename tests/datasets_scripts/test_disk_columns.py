"""Columns on disk: what is read, sorted and grouped in chunks is what numpy makes of the whole."""

import gc
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_scripts import disk_columns
from datasets_scripts.disk_columns import (
    DiskColumn,
    build_records,
    iterate_chunks,
    iterate_groups,
    iterate_marked,
    read_near,
    save_column,
    save_group_bounds,
    sort_records,
)

PAIR = np.dtype([("key", "<u8"), ("row", "<i8")])
# Few keys, so that they repeat, and the largest there is.
keys = st.lists(st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 1]), max_size=60)


@pytest.fixture(autouse=True)
def _few_rows_in_memory(monkeypatch):
    monkeypatch.setattr(disk_columns, "ROWS_PER_CHUNK", 4)
    monkeypatch.setattr(disk_columns, "MAX_MERGED_RUNS", 3)


def build_pairs(values):
    return build_records(PAIR, key=np.array(values, dtype=np.uint64), row=np.arange(len(values)))


def split_into_chunks(records, size):
    return (records[start : start + size] for start in range(0, len(records), size))


def test_slices_are_those_of_an_array(tmp_path):
    values = np.arange(11, dtype=np.int16)
    column = save_column(split_into_chunks(values, 5), np.int16, tmp_path)
    assert len(column) == 11
    for rows in (slice(None), slice(3, 7), slice(9, 40), slice(5, 5), slice(7, 3)):
        assert column[rows].tolist() == values[rows].tolist()
    assert np.asarray(column).tolist() == values.tolist()


def test_a_file_goes_with_its_column(tmp_path):
    column = save_column([np.zeros(3)], np.float64, tmp_path)
    copy = pickle.loads(pickle.dumps(column))  # noqa: S301 (our own)
    assert copy[:].tolist() == [0, 0, 0]
    del copy
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1
    del column
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no forking here")
def test_a_forked_process_leaves_the_file_alone(tmp_path):
    column = save_column([np.ones(2)], np.float64, tmp_path)
    path = next(tmp_path.iterdir())
    disk_columns._remove(path, os.getpid() + 1)
    assert column[:].tolist() == [1, 1]


def test_columns_are_read_side_by_side(tmp_path):
    left, right = np.arange(10), np.arange(10) * 2.0
    read = list(iterate_chunks(left, save_column([right], np.float64, tmp_path)))
    assert [start for start, _ in read] == [0, 4, 8]
    assert np.concatenate([chunk for _, (chunk, _) in read]).tolist() == left.tolist()
    assert np.concatenate([chunk for _, (_, chunk) in read]).tolist() == right.tolist()


@given(keys, st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_sorting_is_that_of_numpy(values, chunk_size):
    records = build_pairs(values)
    in_order = sort_records(split_into_chunks(records, chunk_size), PAIR, ["key", "row"])
    assert in_order[:].tolist() == records[np.argsort(records["key"], kind="stable")].tolist()
    back = sort_records((chunk for _, chunk in iterate_chunks(in_order)), PAIR, ["row"])
    assert back[:].tolist() == records.tolist()


@given(keys)
@settings(max_examples=100, deadline=None)
def test_groups_are_those_of_numpy(values):
    records = np.sort(build_pairs(values), order="key")
    column = save_column([records], PAIR)
    _, starts, inverse = np.unique(records["key"], return_index=True, return_inverse=True)
    read = list(iterate_groups(column, ["key"]))
    assert [group for _, groups, _ in read for group in groups] == inverse.tolist()
    assert np.flatnonzero([first for _, _, is_first in read for first in is_first]).tolist() == starts.tolist()
    assert save_group_bounds(column, ["key"])[:].tolist() == [*starts, len(values)]


@given(st.lists(st.booleans(), max_size=40))
def test_rows_are_marked(is_marked):
    column = np.arange(len(is_marked)) * 10
    read = list(iterate_marked(column, np.flatnonzero(is_marked)))
    assert [value for values, _ in read for value in values] == column.tolist()
    assert [mark for _, marks in read for mark in marks] == is_marked


def test_near_rows_are_read_in_one_go(tmp_path):
    column = save_column([np.arange(10) * 3], np.int64, tmp_path)
    assert read_near(column, np.array([4, 4, 6])).tolist() == [12, 12, 18]
    assert read_near(column, np.zeros(0, dtype=np.int64)).size == 0


def test_a_field_is_a_column(tmp_path):
    column = DiskColumn(PAIR, tmp_path)
    column.append(build_pairs([7, 8, 9]))
    assert len(column.field("key")) == 3
    assert column.field("key")[1:].tolist() == [8, 9]
    assert np.asarray(column.field("row")).tolist() == [0, 1, 2]
