"""Cells: empty ones are unknown, filled ones make sense or are refused with their place."""

from datetime import UTC, date, datetime

import pytest

from datasets_scripts.field_values import read_count, read_flag, read_number, read_time
from modeling_apex.storage.table_reader import TableError


def test_empty_cells_are_unknown():
    for value in (None, "", " ", "null", "NaN"):
        assert read_number(value, "n", "t:1") is None
        assert read_count(value, "n", "t:1") is None
        assert read_time(value, "n", "t:1") is None
        assert read_flag(value, "n", "t:1") is None


@pytest.mark.parametrize(("value", "expected"), [(7, 7), ("7", 7), (7.0, 7), ("12.0", 12), (0, 0)])
def test_counts(value, expected):
    assert read_count(value, "play_count", "t:1") == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("False", False), ("yes", True), (0, False), ("1", True)]
)
def test_flags(value, expected):
    assert read_flag(value, "has_vocal", "t:1") is expected


@pytest.mark.parametrize(
    "value",
    ["2025-03-01T12:00:00.000Z", "2025-03-01 12:00:00", datetime(2025, 3, 1, 12), "2025-03-01T14:00:00+02:00"],
)
def test_moments(value):
    assert read_time(value, "created_at", "t:1") == datetime(2025, 3, 1, 12, tzinfo=UTC)


def test_a_day_is_its_first_moment():
    assert read_time(date(2025, 3, 1), "created_at", "t:1") == datetime(2025, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (read_count, -1, "t:9: play_count is -1, expected a whole number that is not negative"),
        (read_count, "1.5", "t:9: play_count is '1.5', expected a whole number"),
        (read_count, "many", "t:9: play_count is 'many', expected a number"),
        (read_count, True, "t:9: play_count is True, expected a number"),
        (read_number, float("inf"), "t:9: play_count is inf, expected a number"),
        (read_time, "yesterday", "t:9: play_count is 'yesterday', expected a time such as"),
        (read_time, 17, "t:9: play_count is 17, expected a time such as"),
        (read_flag, "perhaps", "t:9: play_count is 'perhaps', expected one of true, yes, 1, false, no, 0"),
    ],
)
def test_refusals(read, value, message):
    with pytest.raises(TableError, match=message):
        read(value, "play_count", "t:9")
