"""Ranking: which scores count, and places that ties share."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from modeling_apex.arena.preference import PreferenceHead
from modeling_apex.arena.ranking import compute_places, find_groups, format_ranking, rank_reports
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.inference.song_report_apex import build_report as build_stated_report
from modeling_apex.inference.track_features_apex import FUSION_HEADS

RANGES = {"score_streams": [0, 100], "score_likes": [0, 100], "musicality": [1, 5], "clarity": [1, 5]}


def build_report(song: str, *scores: float, ranges: dict[str, list[float]] = RANGES, **fields: Any) -> dict[str, Any]:
    return {"song": song, "scores": dict(zip(ranges, scores, strict=True)), "ranges": ranges, **fields}


def order(reports: list[dict[str, Any]], by: str) -> str:
    return "".join(song.report["song"] for song in rank_reports(reports, by=by))


# Popular and ugly, or beautiful and unknown: each group alone tells the other order.
SONGS = (("a", 90, 80, 1.5, 1.5), ("b", 10, 20, 4.5, 4.5), ("c", 50, 50, 3.0, 3.0))
GROUPS = dict(zip(RANGES, ["popularity", "popularity", "aesthetics", "aesthetics"], strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        {},  # without percentiles: a report of the version before, called with `return_percentiles=False`
        {"percentiles": {"score_streams": 97.0, "score_likes": 93.0}},
        {"training_percentiles": dict.fromkeys(RANGES, 50.0)},
        {"groups": GROUPS},
    ],
)
def test_a_group_is_ranked_by_its_own_scores_with_percentiles_or_without(fields: dict[str, Any]) -> None:
    reports = [build_report(*song, **fields) for song in SONGS]
    assert order(reports, "aesthetics") == "bca"
    assert order(reports, "popularity") == "acb"
    assert [song.mean_place for song in rank_reports(reports, by="aesthetics")] == [1.0, 2.0, 3.0]
    assert [song.mean_place for song in rank_reports(reports, by="all")] == [2.0, 2.0, 2.0]


def test_stated_groups_decide_whatever_a_range_looks_like() -> None:
    ranges = {"plays": [0, 1000], "stars": [0, 10], "mood": [1, 5], "tempo": [0, 100]}
    groups = {"plays": "popularity", "stars": "popularity", "mood": "aesthetics", "tempo": "measured"}
    reports = [
        build_report("a", 900, 9, 1, 0, ranges=ranges, groups=groups),
        build_report("b", 100, 1, 4, 50, ranges=ranges, groups=groups),
    ]
    assert [order(reports, by) for by in ("popularity", "aesthetics", "measured", "tempo")] == ["ab", "ba", "ba", "ba"]


def test_reports_of_the_version_before_are_grouped_by_name_and_then_by_range() -> None:
    ranges = {"popularity": [0, 100], "hit_probability": [0, 1], "mood": [1, 5], "plays": [0, 100], "stars": [0, 10]}
    found = find_groups(build_report("a", 50, 0.5, 3, 40, 4, ranges=ranges))
    assert found == {"popularity": "popularity", "hit_probability": "hit", "mood": "aesthetics", "plays": "popularity"}
    reports = [
        build_report("a", 90, 0.1, 1, 1, 1, ranges=ranges),
        build_report("b", 10, 0.9, 5, 100, 9, ranges=ranges),
    ]
    assert order(reports, "aesthetics") == order(reports, "stars") == "ba"
    assert order(reports, "popularity") == "ab"  # the score of that name


@pytest.mark.parametrize("heads", [DEFAULT_HEADS, FUSION_HEADS], ids=["apex", "fusion"])
def test_reports_that_the_version_before_wrote_are_grouped(heads: Any, request: pytest.FixtureRequest) -> None:
    stored = json.loads((Path(__file__).parent.parent / "made_by_0_1" / "reports.json").read_text())
    report = stored[request.node.callspec.id]
    assert find_groups(report) == {head["name"]: head["group"] for head in heads}


def test_reports_as_they_are_built_are_grouped() -> None:
    report = build_stated_report(
        "a", [50.0, 50.0, 3.0, 3.0, 3.0, 3.0, 3.0], DEFAULT_HEADS,
        popularity_exponent=3.1, duration_seconds=30.0, num_segments=1, model_id="m", with_percentiles=False,
    )  # fmt: skip
    assert find_groups(report) == {head["name"]: head["group"] for head in DEFAULT_HEADS}


def test_refusals() -> None:
    reports = [build_report(*song) for song in SONGS]
    with pytest.raises(
        ValueError, match=r"by 'groove'; choose one of preference, all, popularity, aesthetics, score_s"
    ):
        rank_reports(reports, by="groove")
    with pytest.raises(ValueError, match="cannot rank by 'preference': this model has no preference head"):
        rank_reports(reports, by="preference")


@given(st.lists(st.integers(-3, 3).map(float), max_size=20))
@settings(max_examples=40, deadline=None)
def test_places_are_ranks_from_the_highest_and_ties_share_them(scores: list[float]) -> None:
    assert compute_places(scores) == rankdata([-score for score in scores]).tolist()


def test_the_chance_against_the_first_is_said_in_words_and_of_the_others_only() -> None:
    reports = [build_report(*song) for song in SONGS]
    head = PreferenceHead({"musicality": 1.0})
    header, _, first, second, third, legend = format_ranking(rank_reports(reports, head=head)).splitlines()
    assert header.split()[:4] == ["song", "preferred", "to", "1."]
    assert first.split()[:3] == ["1.", "b", "–"]
    assert second.split()[:3] == ["2.", "c", "18%"]
    assert third.split()[:3] == ["3.", "a", "5%"]
    assert legend.endswith("preferred to 1.: how likely a listener is to prefer the song to the first one")
    assert "mean place" in format_ranking(rank_reports(reports))
