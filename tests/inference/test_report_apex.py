"""Room 10: the report as data, as rows and as text."""

import csv
import io
import json

import pytest

from modeling_apex.commands.score import format_score_table
from modeling_apex.inference.heads_apex import DEFAULT_HEADS, POPULARITY_EXPONENT
from modeling_apex.inference.report_apex import (
    describe_scales,
    escape_controls,
    flatten_reports,
    format_csv,
    format_duration,
    format_json,
    format_report,
    format_rows,
    format_table,
)
from modeling_apex.inference.song_report_apex import (
    INVERTED_TARGET,
    build_error_report,
    build_report,
    compute_percentile,
)
from modeling_apex.inference.track_features_apex import FUSION_HEADS

SCORES = [50.0, 11.6, 3.0, 3.5, 2.25, 4.0, 1.5]


def report(song: str = "a.mp3", **options: object) -> dict:
    fields: dict = {
        "popularity_exponent": POPULARITY_EXPONENT,
        "duration_seconds": 144.4,
        "num_segments": 5,
        "model_id": "amaai-lab/apex",
        "model_revision": "0123abc",
    }
    return build_report(song, SCORES, DEFAULT_HEADS, **{**fields, **options})


def test_percentiles_are_those_of_the_paper() -> None:
    # The 80th percentile scores 50 and the median 11.6 (arXiv 2605.03395).
    assert compute_percentile(50, POPULARITY_EXPONENT) == pytest.approx(80)
    assert compute_percentile(11.6, POPULARITY_EXPONENT) == pytest.approx(50, abs=0.1)
    assert compute_percentile(0, POPULARITY_EXPONENT) == 0
    assert compute_percentile(100, POPULARITY_EXPONENT) == 100
    scores = [0, 1, 5, 20, 60, 99, 100]
    percentiles = [compute_percentile(score, POPULARITY_EXPONENT) for score in scores]
    assert percentiles == sorted(percentiles)


def test_report_survives_json() -> None:
    timeline = [{"start_seconds": 0.0, "end_seconds": 30.0, "scores": {"coherence": 3.0}}]
    full = report(segments=timeline, embedding=[0.5, -1.0], warnings=["the song is silent"])
    assert json.loads(json.dumps(full)) == full
    assert full["percentiles"].keys() == {"score_streams", "score_likes"}
    assert full["ranges"]["clarity"] == [1.0, 5.0]
    assert "percentiles" not in report(with_percentiles=False)


def test_rows_have_one_set_of_columns_whether_songs_failed_or_not() -> None:
    failed = build_error_report("b.mp3", "b.mp3: empty file", model_id="m")
    columns, rows = flatten_reports([failed, report()])
    assert columns[:2] == ["song", "score_streams"]
    assert all(list(row) == columns for row in rows)
    assert rows[0]["error"] == "b.mp3: empty file"
    assert rows[0]["coherence"] is None
    assert rows[1]["score_streams_percentile"] == pytest.approx(80)
    parsed = list(csv.DictReader(io.StringIO(format_csv([failed, report()]))))
    assert float(parsed[1]["clarity"]) == 4.0
    assert parsed[0]["clarity"] == ""


def test_names_with_commas_quotes_and_line_breaks_survive_csv() -> None:
    name = 'a, "b"\nc.mp3'
    assert next(csv.DictReader(io.StringIO(format_csv([report(name)]))))["song"] == name


def test_json_text_is_an_array() -> None:
    assert [row["song"] for row in json.loads(format_json([report("ä.mp3"), report("b.mp3")]))] == ["ä.mp3", "b.mp3"]


def test_text_names_scores_ranges_meaning_and_timeline() -> None:
    timeline = [
        {"start_seconds": 0.0, "end_seconds": 30.0, "scores": dict.fromkeys(report()["scores"], 2.0)},
        {"start_seconds": 30.0, "end_seconds": 41.0, "scores": dict.fromkeys(report()["scores"], 3.0)},
    ]
    text = format_report(report(segments=timeline, warnings=["the file is truncated"]))
    assert "a.mp3  (2:24, 5 segments)" in text
    assert "naturalness of vocal breathing and phrasing" in text
    assert "0 to 100" in text
    assert "0:30 to 0:41" in text
    assert "warning: the file is truncated" in text
    assert "not scored: no" in format_report(build_error_report("x", "no", model_id="m"))


def test_table_aligns() -> None:
    lines = format_table(["song", "value"], [["a", "1.0"], ["longer", "10.0"]]).splitlines()
    assert lines == ["song    value", "-------------", "a         1.0", "longer   10.0"]


def test_duration() -> None:
    assert [format_duration(seconds) for seconds in (0, 59.4, 60, 3599.6)] == ["0:00", "0:59", "1:00", "60:00"]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="runs from 0 to 100, got 101"):
        compute_percentile(101, POPULARITY_EXPONENT)
    with pytest.raises(ValueError, match="`exponent` must be positive"):
        compute_percentile(50, 0)
    with pytest.raises(ValueError, match="2 scores for 7 heads"):
        build_report(
            "a",
            [1, 2],
            DEFAULT_HEADS,
            popularity_exponent=3.0,
            duration_seconds=1,
            num_segments=1,
            model_id="m",
        )
    with pytest.raises(ValueError, match=r"scores \['clarity'\] are not finite"):
        build_report(
            "a",
            [*SCORES[:5], float("nan"), 1.5],
            DEFAULT_HEADS,
            popularity_exponent=3.0,
            duration_seconds=1,
            num_segments=1,
            model_id="m",
        )


def test_names_cannot_command_a_terminal() -> None:
    name = "a\x1b[31m\nb\u202ec\udcff \N{MUSICAL NOTE}é.wav"
    shown = r"a\x1b[31m\nb\u202ec\udcff" + " \N{MUSICAL NOTE}é.wav"
    assert escape_controls(name) == shown
    text = format_report(build_error_report(name, f"{name}: is empty", model_id="m", model_revision=None))
    assert text == f"{shown}\n  not scored: {shown}: is empty"
    assert format_table(["song"], [[name]]).splitlines()[2] == shown


def build_head(**fields: object) -> dict:
    return {"name": "plays", "minimum": 0.0, "maximum": 10.0, "group": "popularity", "scale": "percentile", **fields}


@pytest.mark.parametrize(
    ("minimum", "maximum", "median"), [(0, 100, 11.6), (0, 10, 1.16), (0, 1000, 116), (1, 5, 1.464)]
)
def test_percentiles_follow_from_the_range_of_the_head(minimum: float, maximum: float, median: float) -> None:
    assert compute_percentile(median, POPULARITY_EXPONENT, minimum, maximum) == pytest.approx(50, abs=0.1)
    assert compute_percentile(minimum, POPULARITY_EXPONENT, minimum, maximum) == 0
    assert compute_percentile(maximum, POPULARITY_EXPONENT, minimum, maximum) == 100


def test_percentiles_words_and_legend_follow_from_heads() -> None:
    facts: dict = {
        "popularity_exponent": POPULARITY_EXPONENT,
        "duration_seconds": 1,
        "num_segments": 1,
        "model_id": "m",
    }
    heads = [
        build_head(),
        build_head(name="likes", maximum=1000.0),
        build_head(name="stars", scale="rating"),
        build_head(name="odds", minimum=0.1, maximum=0.9, group="hit", scale="probability"),
    ]
    made = build_report("a.mp3", [5.0, 500.0, 5.0, 0.5], heads, **facts)
    assert made["percentiles"] == {"plays": pytest.approx(80), "likes": pytest.approx(80)}
    assert made["groups"] == {"plays": "popularity", "likes": "popularity", "stars": "popularity", "odds": "hit"}
    assert made["scales"] == {"plays": "percentile", "likes": "percentile", "stars": "rating", "odds": "probability"}
    assert "0 to 1000" in format_report(made)
    assert "0.1 to 0.9" in format_report(made)
    assert describe_scales([made]) == (
        "ranges: plays, stars from 0 to 10, likes from 0 to 1000, odds from 0.1 to 0.9; (pN) is a percentile\n"
        f"percentile: {INVERTED_TARGET}"
    )


def test_legend_of_the_published_heads_and_of_the_fusion_model() -> None:
    words = "ranges: popularity from 0 to 100, aesthetics from 1 to 5"
    assert describe_scales([report()]) == f"{words}; (pN) is a percentile\npercentile: {INVERTED_TARGET}"
    assert describe_scales([report(with_percentiles=False)]) == words
    fusion = build_report(
        "a", [50.0, 0.5], FUSION_HEADS, popularity_exponent=None, duration_seconds=1, num_segments=1, model_id="m"
    )
    assert describe_scales([fusion]) == "ranges: popularity from 0 to 100, hit_probability from 0 to 1"


@pytest.mark.parametrize("name", ["=1+1.wav", "+a", "-a", "@SUM(A1)", "\ta", "\ra", "\na"])
def test_a_cell_of_csv_is_no_formula(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(format_csv([report() | {"song": name}]), newline=""))
    assert row["song"] == f"'{name}"


def test_numbers_of_csv_stay_numbers_and_columns_come_first() -> None:
    assert format_rows(["b", "=a"], [{"b": -1.5, "=a": None}, {"b": -2}]) == "b,'=a\n-1.5,\n-2,\n"
    header = format_csv([report()], ["song", "later", "error"]).splitlines()[0].split(",")
    assert header[:3] == ["song", "later", "error"]


def test_warnings_and_features_are_no_terminal_codes() -> None:
    hostile = report() | {"warnings": ["a\x1b[2J"], "features": {"given": ["b\u202e\n"]}}
    text = format_report(hostile)
    assert "warning: a\\x1b[2J" in text
    assert "track features: b\\u202e\\n" in text


REFERENCE = {
    "name": "the test's\x1b[31m songs",
    "num_songs": 200,
    "percentile_tables": {
        str(head["name"]): [head["minimum"] + row * (head["maximum"] - head["minimum"]) / 100 for row in range(101)]
        for head in DEFAULT_HEADS
    },
    "interval_level": 0.9,
    "intervals": {"score_streams": 60.0, "coherence": 0.5},
}


def test_a_reference_set_makes_ranks_and_intervals_of_scores() -> None:
    made = report(reference=REFERENCE)
    assert made["reference_percentiles"] == pytest.approx(
        dict(zip(made["scores"], [50, 11.6, 50, 62.5, 31.25, 75, 12.5], strict=True))
    )
    assert made["percentiles"] == pytest.approx({"score_streams": 50, "score_likes": 11.6})
    assert made["target_percentiles"] == report()["percentiles"] == report()["target_percentiles"]
    assert made["intervals"] == {"score_streams": [0.0, 100.0], "coherence": [2.5, 3.5]}  # within the range
    assert made["percentile_basis"] == "share of songs with a lower score among 200: the test's\x1b[31m songs"
    assert report()["percentile_basis"] == INVERTED_TARGET
    assert json.loads(json.dumps(made)) == made
    without = report(reference=REFERENCE, with_percentiles=False)
    assert not [name for name in without if "percentile" in name]
    assert without["intervals"] == made["intervals"]


def test_text_and_tables_show_ranks_intervals_and_what_they_are_of() -> None:
    made = report(reference=REFERENCE, percentile_tables={"coherence": [1.0] * 101})
    lines = format_report(made).splitlines()
    assert "90 % interval" in lines[1]
    assert "training songs" not in lines[1]  # one rank is enough
    assert " ".join(lines[5].split()) == "coherence 3.00 2.50 to 3.50 1 to 5 50 overall coherence"
    assert r"percentile: share of songs with a lower score among 200: the test's\x1b[31m songs" in lines[-1]
    assert f"percentile: {INVERTED_TARGET}" in format_report(report())
    _, _, row, *legend = format_score_table([made]).splitlines()
    assert " ".join(row.split()).startswith("a.mp3 2:24 50.0 (p50, 0.0 to 100.0) 11.6 (p12) 3.00 (2.50 to 3.50) 3.50 ")
    assert legend[0].endswith("; (pN) is a percentile")
    assert legend[2].startswith("(low to high) holds the label of 90 % of songs like those")
    (flat,) = flatten_reports([{**made, "novelty": {"distance": 2.0, "threshold": 1.0, "is_novel": True}}])[1]
    assert flat["coherence_reference_percentile"] == pytest.approx(50)
    assert flat["score_streams_target_percentile"] == pytest.approx(80)
    assert (flat["coherence_low"], flat["coherence_high"], flat["distance"], flat["is_novel"]) == (2.5, 3.5, 2.0, True)
