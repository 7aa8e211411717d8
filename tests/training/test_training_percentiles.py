"""Percentile tables of training scores: in the config, in reports."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_apex import ApexConfig, ApexModel, load_pipeline
from modeling_apex.inference.report_apex import flatten_report, format_report
from modeling_apex.inference.song_report_apex import compute_training_percentile

TABLE = [float(value) for value in np.linspace(2, 4, 101)]


def test_the_share_of_training_songs_below() -> None:
    assert compute_training_percentile(3.0, TABLE) == pytest.approx(50)
    assert compute_training_percentile(3.005, TABLE) == pytest.approx(50.25)
    assert compute_training_percentile(1.0, TABLE) == 0.0
    assert compute_training_percentile(5.0, TABLE) == 100.0
    assert compute_training_percentile(2.0, [2.0] * 101) == 50.0


@given(st.lists(st.floats(1, 5), min_size=200, max_size=200), st.floats(1, 5))
@settings(max_examples=30, deadline=None)
def test_it_lies_between_the_shares_below_and_not_above(scores: list[float], score: float) -> None:
    table = np.maximum.accumulate(np.quantile(scores, np.linspace(0, 1, 101))).tolist()
    percentile = compute_training_percentile(score, table)
    below = 100 * np.mean(np.array(scores) < score)
    not_above = 100 * np.mean(np.array(scores) <= score)
    assert below - 1.5 <= percentile <= not_above + 1.5


def test_config_keeps_tables(tiny_config: Callable, tmp_path: Path) -> None:
    config = tiny_config(percentile_tables={"clarity": TABLE})
    config.save_pretrained(tmp_path)
    assert ApexConfig.from_pretrained(tmp_path).percentile_tables == {"clarity": TABLE}
    assert tiny_config().percentile_tables == {}


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ([1], TypeError, "must be a dict from score to quantiles, got list"),
        ({"beauty": TABLE}, ValueError, "names 'beauty', but the heads are score_streams"),
        ({"clarity": TABLE[:5]}, ValueError, "must be a list of 101 quantiles"),
        ({"clarity": TABLE[::-1]}, ValueError, "must not descend"),
        ({"clarity": [float("nan")] * 101}, ValueError, "must be finite"),
    ],
)
def test_config_refuses_damaged_tables(
    tiny_config: Callable, tables: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny_config(percentile_tables=tables)


def test_reports_say_what_a_song_is_better_than(tiny_model: ApexModel, song_file: Callable) -> None:
    song = song_file()
    report = load_pipeline(tiny_model)(song)
    assert "training_percentiles" not in report
    assert "better than" not in format_report(report)
    score = report["scores"]["clarity"]
    tiny_model.config.percentile_tables = {"clarity": [score - 1 + 0.02 * index for index in range(101)]}
    report = load_pipeline(tiny_model)(song)
    assert report["training_percentiles"] == {"clarity": pytest.approx(50, abs=0.1)}
    assert "better than (training songs)" in format_report(report)
    assert "50 %" in format_report(report)
    assert flatten_report(report)["clarity_training_percentile"] == report["training_percentiles"]["clarity"]
    assert "training_percentiles" not in load_pipeline(tiny_model)(song, return_percentiles=False)
