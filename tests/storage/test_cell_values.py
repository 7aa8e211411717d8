"""Cells: one rule of what is unknown, exact numbers, text that can be written."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from modeling_apex.storage.cell_values import check_duration, is_unknown, parse_number, read_text
from modeling_apex.storage.table_reader import TableError


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            "",
            "  ",
            "nan",
            "NaN",
            "None",
            "NULL",
            "N/A",
            "n/a",
            "<NA>",
            "#N/A",
            "unknown",
            "\ufeff",
            "\u200b",
            "-",
        ),
        *(float("nan"), np.float32("nan"), np.nan, decimal.Decimal("NaN"), pd.NA, pd.NaT, [], [None, "nan"], {}, b""),
        "\\N",
    ],
)
def test_nothing_is_unknown_in_whatever_words(value):
    assert is_unknown(value)
    assert read_text(value) is None


@pytest.mark.parametrize("value", [0, False, 0.0, "0", "Nana", "no", "Nonesuch", ["a"], {"a": None}, np.int64(0)])
def test_what_is_there_is_known(value):
    assert not is_unknown(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((7, 7), ("7", 7), (" 7.5 ", 7.5), ("1e3", 1000.0), ("-.5", -0.5)),
        *((2**60 + 1, 2**60 + 1), (str(2**60 + 1), 2**60 + 1)),
        *((value, None) for value in ("1_000", "1,5", "1e400", 10**400, "9" * 500, "", None, True, "inf", "٣")),
    ],
)
def test_numbers_stay_exact_or_are_none(value, expected):
    number = parse_number(value)
    assert number == expected
    assert type(number) is type(expected)


def test_text_can_always_be_written():
    assert read_text(1000.0) == "1000"
    assert read_text(0) == "0"
    assert read_text("\ud83d") == "\ufffd"
    assert read_text("\ud83d\ude00") == "\U0001f600"
    assert read_text(datetime.date(2025, 1, 2)) == "2025-01-02"


def test_durations_are_seconds():
    assert check_duration(18_350, "duration", "t:1") == 18_350
    with pytest.raises(TableError, match=r"t:1: duration is 174315, .* 48\.4 hours\. Is it in milliseconds\?"):
        check_duration(174_315, "duration", "t:1")
    with pytest.raises(TableError, match="t:1: duration is -1 seconds, expected a number that is not negative"):
        check_duration(-1, "duration", "t:1")
