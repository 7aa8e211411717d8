"""What is seen: every number is there, text cannot become markup, and nothing is claimed that was not computed."""

import base64
import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from modeling_apex import PreferenceHead, rank_reports
from modeling_apex.inference.report_apex import format_report
from spaces_demo import about_view, compare_view, rank_view, score_view
from spaces_demo.advice import build_advice
from spaces_demo.markup import render
from spaces_demo.model_files import find_preference_head, load_results
from spaces_demo.samples import load_samples
from spaces_demo.scoring import Scorer
from spaces_demo.settings import SpaceSettings
from spaces_demo.wording import (
    SCORE_WORDS,
    format_chance,
    format_count,
    format_length,
    format_list,
    format_model,
    format_number,
    format_title,
)

HOSTILE = "<img src=x onerror=alert(1)>.wav"


@pytest.fixture
def reports(scorer: Scorer, songs_folder: Path) -> list[dict[str, Any]]:
    return [scorer.score(str(songs_folder / f"{name}.wav")) for name in ("first", "second", "third")]


def read_downloads(html: str) -> dict[str, str]:
    """Return the content of each download link by file name."""
    links = re.findall(r'download="([^"]+)" href="data:[^;]+;charset=utf-8;base64,([^"]+)"', html)
    return {name: base64.b64decode(data).decode() for name, data in links}


def test_scores_show_all_seven_with_their_meaning(report: dict[str, Any]) -> None:
    html = score_view.build_scores(report)
    for name, score in report["scores"].items():
        assert f'data-score="{name}"' in html
        assert SCORE_WORDS[name][1] in html
        shown = f"score {score:.1f} of 100" if name in report["percentiles"] else f"<strong>{score:.2f}</strong>"
        assert shown in html
    for percentile in report["percentiles"].values():
        assert f"<strong>{percentile:.0f}</strong>" in html


def test_what_a_percentile_and_an_interval_are_of_is_said(report: dict[str, Any]) -> None:
    plain = {name: value for name, value in report.items() if "reference" not in name and "interval" not in name}
    html = score_view.build_scores(plain | {"percentile_basis": "the inverted target"})
    assert "is expected to do better than 80 of 100 songs" in html
    assert "(the inverted target)" in html
    assert "such songs lie between" not in html
    calibrated = {"reference_percentiles": {"clarity": 71.2}, "percentile_basis": "share of 200 songs: <b>mine</b>"}
    intervals = {"interval_level": 0.9, "intervals": {"score_streams": [0.0, 37.8], "coherence": [1.5, 3.25]}}
    html = score_view.build_scores(plain | calibrated | intervals)
    assert "scores better than 80 of 100 songs that the model was held against" in html
    assert "(share of 200 songs: &lt;b&gt;mine&lt;/b&gt;)" in html
    assert "90 of 100 such songs lie between 0.0 and 37.8" in html
    assert "90 of 100 such songs lie between 1.50 and 3.25" in html
    assert html.count("such songs lie between") == 2


def test_every_score_has_the_percentile_that_the_command_line_shows(report: dict[str, Any]) -> None:
    ranks = {name: 10.4 + number for number, name in enumerate(report["scores"])}
    html = score_view.build_scores(report | {"reference_percentiles": ranks})
    line = format_report(report | {"reference_percentiles": ranks})
    for name, rank in ranks.items():
        part = " ".join(html.split(f'data-score="{name}"')[1].split("data-score")[0].split())
        shown = f"<strong>{rank:.0f}</strong>" if report["groups"][name] == "popularity" else f"percentile {rank:.0f}"
        assert shown in part
        assert re.search(rf"^  {name} .* {rank:.0f}  ", line, re.MULTILINE)
    # A model that knows no such songs has those of popularity alone, and makes none up.
    html = score_view.build_scores({**report, "percentiles": {}})
    assert "percentile" not in html


def test_timeline_has_a_part_for_each_segment_and_marks_the_extremes(report: dict[str, Any]) -> None:
    html = score_view.build_timeline(report)
    spans = [("0.000", "2.000"), ("2.000", "4.000"), ("4.000", "5.000")]
    rows = re.findall(r'<div class="apex-strip [^"]*" .*?</div>', html, re.DOTALL)
    assert len(rows) == 1 + len(report["scores"])
    for row in rows:
        assert re.findall(r'data-start="([\d.]+)" data-end="([\d.]+)"', row) == spans
        assert re.findall(r"flex-grow:([\d.]+)", row) == ["2.000", "2.000", "1.000"], "as long as in the waveform"
    for name, row in zip(report["scores"], rows[1:], strict=True):
        scores = [segment["scores"][name] for segment in report["segments"]]
        starts = [("0:00", "0:02", "0:04")[scores.index(extreme(scores))] for extreme in (max, min)]
        maximum = report["ranges"][name][1]
        high, low = (format_number(extreme(scores), maximum) for extreme in (max, min))
        assert f"{format_title(name)}: strongest {high} at {starts[0]}, weakest {low} at {starts[1]}" in row
        middle = {"0:00": "20.000%", "0:02": "60.000%", "0:04": "90.000%"}
        assert f'data-word="strongest" style="--at:{middle[starts[0]]}"' in row
        assert f'data-word="weakest" style="--at:{middle[starts[1]]}"' in row
    numbers = html.split("<tbody>")[1]
    assert [row.count("<td>") for row in numbers.split("<tr>")[1:]] == [len(report["scores"])] * 3


def build_long(report: dict[str, Any], scores: list[dict[str, float]]) -> dict[str, Any]:
    """A report of segments of 10 s with the given scores, on top of the song's own."""
    segments = [
        {"start_seconds": 10.0 * number, "end_seconds": 10.0 * (number + 1), "scores": report["scores"] | part}
        for number, part in enumerate(scores)
    ]
    return {**report, "segments": segments}


@pytest.mark.parametrize("num_segments", [2, 6, 7, 60, 61])
def test_times_of_a_timeline_never_crowd(report: dict[str, Any], num_segments: int) -> None:
    long = build_long(report, [{"clarity": 2.0 + number / 100} for number in range(num_segments)])
    html = score_view.build_timeline(long)
    ticks = re.search(r'<div class="apex-ticks".*?</div>', html, re.DOTALL)
    assert ticks is not None
    places = [float(place) for place in re.findall(r"left:([\d.]+)%", ticks[0])]
    assert places[0] == 0.0
    assert places[-1] <= 90.0
    assert min(b - a for a, b in pairwise([*places, 100.0 + 10.0])) >= 10.0
    assert html.count('tabindex="0" title="Play from') == 1, "one stop of the tab key, however long the song"


def test_advice_names_the_parts_and_what_to_work_on(report: dict[str, Any]) -> None:
    parts = [{"naturalness": 2.0, "clarity": 3.9, "score_streams": 1.0}, {"naturalness": 4.0, "clarity": 4.0}, {}]
    parts[1]["score_streams"] = parts[2]["score_streams"] = 90.0
    parts[2] |= {"naturalness": 3.5, "clarity": 3.95}
    advice = build_advice(build_long(report, parts))
    assert advice["text"] == (
        "Strongest from 0:10 to 0:20, weakest from 0:00 to 0:10. "
        "To lift that part, begin with naturalness: 2.00 there, 3.75 in the rest of the song."
    ), "popularity falls more, but is nothing to work on"
    assert (advice["strongest"]["start_seconds"], advice["weakest"]["start_seconds"]) == (10.0, 0.0)
    html = score_view.build_timeline(build_long(report, parts))
    assert 'data-start="10.000" data-end="20.000">Play the strongest part<' in html
    assert 'data-start="0.000" data-end="10.000">Play the weakest part<' in html


def test_advice_says_so_where_there_is_none_to_give(report: dict[str, Any]) -> None:
    level = build_long(report, [{"clarity": 3.00}, {"clarity": 3.07}])
    turning = build_long(report, [{"clarity": 2.0, "coherence": 4.0}, {"clarity": 4.0, "coherence": 2.0}])
    only_plays = build_long(report, [{"score_streams": 80.0}, {"score_streams": 20.0}])
    short = build_long(report, [{"clarity": 2.0}, {"clarity": 4.0}])
    short["segments"][1]["end_seconds"] = 11.0
    wanted = {
        "The song is even: no part stands out in any score.": level,
        "No part stands out: where one score rises, another falls.": turning,
        "The song is too short for its parts to be compared.": short,
    }
    for text, made in wanted.items():
        assert build_advice(made) == {"text": text, "strongest": None, "weakest": None}
        assert "Play the strongest part" not in score_view.build_timeline(made)
    text = build_advice(only_plays)["text"]
    assert text.endswith(
        "weakest from 0:10 to 0:20. What is weaker there is plays: 20.0 there, 80.0 in the rest of the song."
    )


def test_a_mostly_silent_last_segment_is_pointed_out(report: dict[str, Any]) -> None:
    assert "holds only" not in score_view.build_timeline(report)
    last = {**report["segments"][-1], "end_seconds": 4.5}
    html = score_view.build_timeline({**report, "segments": [*report["segments"][:-1], last]})
    assert "holds only 0.5 seconds of sound" in html


def test_one_segment_has_no_timeline(report: dict[str, Any]) -> None:
    assert "no timeline" in score_view.build_timeline({**report, "segments": report["segments"][:1]})


def test_names_and_warnings_cannot_become_markup(reports: list[dict[str, Any]]) -> None:
    hostile = [{**report, "song": HOSTILE, "warnings": ["<script>"]} for report in reports]
    pages = [
        "".join(score_view.render_report(hostile[0])),
        compare_view.render_comparison(compare_view.build_comparison(hostile[0], hostile[1])),
        rank_view.render_ranking(rank_view.build_ranking([*hostile, {**hostile[0], "error": HOSTILE}])),
    ]
    for page in pages:
        # The page's own picture is the only one.
        assert page.count("<img") == page.count('<img src="data:image/png;base64,')
        assert "<script" not in page
        assert "&lt;img" in page
        assert 'data-announcement="' in page


def test_downloads_hold_the_report(report: dict[str, Any]) -> None:
    downloads = read_downloads("".join(score_view.render_report(report)))
    assert json.loads(downloads["first-scores.json"]) == report
    row = next(csv.DictReader(io.StringIO(downloads["first-scores.csv"])))
    assert float(row["coherence"]) == report["scores"]["coherence"]


def test_without_a_head_no_probability_is_invented(reports: list[dict[str, Any]]) -> None:
    comparison = compare_view.build_comparison(reports[0], reports[1])
    assert comparison["probability_a"] is None
    shares = [abs(row["share"]) for row in comparison["scores"]]
    assert shares == sorted(shares, reverse=True)
    html = compare_view.render_comparison(comparison)
    assert "without a preference head" in html
    assert "%</span>" not in html


def test_a_head_gives_the_probability_and_what_decides(reports: list[dict[str, Any]]) -> None:
    head = PreferenceHead({"coherence": 2.0, "score_likes": 0.01})
    there = compare_view.build_comparison(reports[0], reports[1], head)
    back = compare_view.build_comparison(reports[1], reports[0], head)
    assert there["probability_a"] == pytest.approx(1 - back["probability_a"])
    weights = {row["score"]: row["weight_in_logits"] for row in there["scores"]}
    difference = reports[0]["scores"]["coherence"] - reports[1]["scores"]["coherence"]
    assert weights["coherence"] == pytest.approx(2.0 * difference)
    assert weights["musicality"] == 0
    logit = sum(weights.values())
    assert there["probability_a"] == pytest.approx(1 / (1 + 2.718281828459045**-logit))
    assert f"A {format_chance(there['probability_a'])}" in compare_view.render_comparison(there)


@pytest.mark.parametrize(
    ("probability", "sentence"),
    [
        (0.5, "Too close to call."),
        (0.46, "Too close to call."),
        (0.6, "Song A is more likely to win."),
        (0.1, "Song B is clearly more likely to win."),
    ],
)
def test_the_verdict_fits_the_probability(reports: list[dict[str, Any]], probability: float, sentence: str) -> None:
    comparison = compare_view.build_comparison(reports[0], reports[1], PreferenceHead({"coherence": 1.0}))
    assert sentence in compare_view.render_comparison({**comparison, "probability_a": probability})


def test_equal_songs_push_nowhere(reports: list[dict[str, Any]]) -> None:
    html = compare_view.render_comparison(
        compare_view.build_comparison(reports[0], reports[0], PreferenceHead({"coherence": 1.0}))
    )
    assert html.count('aria-label="even"') == 7 + 2  # scores, and groups of them
    assert "Too close to call" in html


def test_bars_and_words_agree_with_what_the_scores_add(reports: list[dict[str, Any]]) -> None:
    names = list(reports[0]["scores"])
    high = {**reports[0], "scores": {name: reports[0]["ranges"][name][1] * 0.9 for name in names}}
    low = {**reports[1], "scores": {name: reports[1]["ranges"][name][1] * 0.3 for name in names}}
    head = PreferenceHead({name: 0.05 if name.startswith("score") else 0.5 for name in names} | {"clarity": 0.0})
    there, back = (compare_view.build_comparison(*pair, head) for pair in ((high, low), (low, high)))
    assert [row["weight_in_logits"] >= 0 for row in there["scores"]] == [True] * 7
    assert sum(there["groups"].values()) == pytest.approx(sum(row["weight_in_logits"] for row in there["scores"]))
    assert set(there["groups"]) == {"popularity", "aesthetics"}
    assert there["reasons"][0].startswith("For song A: ")
    assert back["reasons"][0] == there["reasons"][0].replace("song A", "song B")
    assert "likes" in there["reasons"][0]
    assert there["reasons"][1:] == ["Not used by this model: clarity."]
    html = compare_view.render_comparison(there)
    assert "toward B" not in html
    assert html.count('class="apex-sum"') == 2
    # Without a head nothing is added up, since scores of different kinds have no common unit.
    assert compare_view.build_comparison(high, low)["groups"] == {}
    assert "apex-sum" not in compare_view.render_comparison(compare_view.build_comparison(high, low))


def test_a_head_of_an_earlier_version_says_what_its_weights_mean(reports: list[dict[str, Any]]) -> None:
    scores = {"score_likes": 90.0, "coherence": 4.5}
    loud = {**reports[0], "scores": reports[0]["scores"] | scores}
    quiet = {**reports[0], "scores": reports[0]["scores"] | {"score_likes": 10.0, "coherence": 1.5}}
    head = PreferenceHead({"score_likes": -0.01, "score_streams": 0.02, "coherence": 2.0})
    comparison = compare_view.build_comparison(loud, quiet, head)
    reasons = comparison["reasons"]
    assert reasons[0] == "For song A: coherence."
    assert reasons[1] == "For song B: likes."
    assert reasons[2] == "Not used by this model: musicality, memorability, clarity and naturalness."
    assert reasons[3].startswith("In this model higher likes counts against a song")
    assert "Read the sum of a group" in compare_view.render_comparison(comparison)


def test_ranking_is_best_first_and_keeps_the_refused(reports: list[dict[str, Any]]) -> None:
    refused = {"song": "broken.mp3", "error": "broken.mp3: no", "model": reports[0]["model"]}
    ranking = rank_view.build_ranking([*reports, refused], "coherence")
    scores = [row["report"]["scores"]["coherence"] for row in ranking["ranking"]]
    assert scores == sorted(scores, reverse=True)
    html = rank_view.render_ranking(ranking)
    assert "Not scored: broken.mp3: no" in html
    assert "by coherence" in html
    assert "Plays and Likes: percentiles. The others: 1 to 5." in html
    rows = list(csv.DictReader(io.StringIO(read_downloads(html)["ranking.csv"])))
    assert [row["place"] for row in rows] == ["1", "2", "3", ""]
    assert [row["song"] for row in rows] == [row["report"]["song"] for row in ranking["ranking"]] + ["broken.mp3"]


def test_ranking_goes_by_default_as_the_command_does(reports: list[dict[str, Any]]) -> None:
    head = PreferenceHead({"clarity": 3.0}, training={"votes": "simulated"})
    for chosen in (None, head):
        ranking = rank_view.build_ranking(reports, head=chosen)
        expected = rank_reports(reports, head=chosen)
        assert [row["report"]["song"] for row in ranking["ranking"]] == [song.report["song"] for song in expected]
        assert [row["chance_against_best"] for row in ranking["ranking"]] == [
            song.chance_against_best for song in expected
        ]
    html = rank_view.render_ranking(ranking)
    assert ranking["order"] == "preference"
    assert "by predicted preference" in html
    assert "how likely a simulated listener is to prefer that song to the first one" in html
    chances = re.findall(r'<td data-sort="0[.\d]+">(\d+ %|–)</td>', html)
    assert chances[0] == "–"
    assert chances[1:] == [format_chance(song.chance_against_best) for song in expected[1:]]
    assert "Preferred to the first" not in rank_view.render_ranking(rank_view.build_ranking(reports, "all", head))


def test_a_song_called_as_a_formula_stays_text_in_the_csv(reports: list[dict[str, Any]]) -> None:
    named = [{**report, "song": "=1+1.wav"} for report in reports]
    refused = {"song": "@x.mp3", "error": "-no", "model": reports[0]["model"]}
    html = rank_view.render_ranking(rank_view.build_ranking([*named, refused]))
    rows = list(csv.DictReader(io.StringIO(read_downloads(html)["ranking.csv"])))
    assert [row["song"] for row in rows] == ["'=1+1.wav"] * 3 + ["'@x.mp3"]
    assert rows[-1]["error"] == "'-no"


def test_a_ranking_of_nothing_but_refused_songs_says_so(reports: list[dict[str, Any]]) -> None:
    refused = {"song": "broken.mp3", "error": "broken.mp3: no", "model": reports[0]["model"]}
    html = rank_view.render_ranking(rank_view.build_ranking([refused]))
    assert "Not scored" in html
    assert "<table" not in html


def test_unknown_orders_are_refused(reports: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="cannot rank by 'beauty'"):
        rank_view.build_ranking(reports, "beauty")


def test_about_shows_what_was_measured_and_names_what_is_missing(scorer: Scorer, tmp_path: Path) -> None:
    pipeline = scorer.get_scorer("random-model")
    facts = about_view.collect_facts(pipeline, None, load_results(pipeline))
    assert facts["missing"] == ["results.json", "arena/results.json", "preference_head.json"]
    html = about_view.build_about(facts, SpaceSettings())
    assert html.count("Not there for this model") == 3
    assert "&lt;none&gt;" in html
    assert json.loads(json.dumps(facts)) == facts

    coherence = {
        "num_songs": 440,
        "spearman": {"value": 0.876, "low": 0.8, "high": 0.91},
        "mae": 0.25,
        "baselines": {"median": {"mae": 0.75}},
    }
    results = {
        "training": {"num_songs": 1234},
        "evaluations": {"unseen": {"scores": {"coherence": coherence, "clarity": {"num_songs": 430}}}, "odd": "text"},
        "splits": {"test": {"all": {"clarity": {"spearman": {"value": None}, "mae": 0.125}}, "suno": {}}, "odd": 3},
        "label_sources": ["pseudo-labels <of> a model"],
    }
    arena = {"conclusion": "Aesthetics do not help <here>."}
    facts = about_view.collect_facts(
        pipeline,
        PreferenceHead({"clarity": 1.0}, training={"num_battles": 400}),
        {"results.json": results, "arena/results.json": arena},
    )
    html = about_view.build_about(facts, SpaceSettings(max_seconds=90))
    wanted = (
        "1,234",
        "0.88",
        "0.80 to 0.91",
        "0.75",
        "430 to 440 songs per score",
        "training never heard",
        "test split",
    )
    for text in (*wanted, "0.12", "pseudo-labels &lt;of&gt; a model", "not help &lt;here&gt;", "400"):
        assert text in html, text
    assert "1 minute 30 seconds" in html
    assert "Not there" not in html


def test_what_about_says_of_uploads_is_tested(scorer: Scorer, space_settings: SpaceSettings) -> None:
    tests = {
        "Songs up to 30 seconds and 1 MB": "test_refusals_speak_to_a_visitor",
        "up to 6 songs in a ranking": "test_too_few_and_too_many_songs_are_refused",
        "up to 8 requests waiting.": "test_twenty_at_once_finish_or_are_turned_away",
        "A scored upload is deleted when its page is closed, and every upload after 30 minutes at the latest.": (
            "test_an_upload_is_gone_when_its_page_is_closed",
            "test_every_upload_goes_after_the_time_that_is_promised",
            "test_the_running_page_deletes_by_itself",
        ),
        "Nothing is sent elsewhere.": "test_upload_a_song_and_read_its_seven_scores",
        "An upload that breaks off is deleted at once, and whatever is left when the page's program ends or starts "
        "again.": ("test_an_upload_that_breaks_off_is_gone", "test_nothing_stays_however_a_space_ends"),
        "Scores are not stored.": "test_nothing_stays_however_a_space_ends",
    }
    pipeline = scorer.get_scorer()
    html = about_view.build_about(about_view.collect_facts(pipeline, None, {}), space_settings)
    items = re.findall(r"<li>(.*?)</li>", html.partition("<h3>Limits</h3>")[2], re.DOTALL)[:2]
    told = " ".join(" ".join(items).replace(";", "").replace("&#39;", "'").split())
    assert told == " ".join(tests)
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for names in tests.values():
        for name in (names,) if isinstance(names, str) else names:
            assert f"def {name}(" in source, name


def test_the_score_tab_promises_what_about_does(space_settings: SpaceSettings) -> None:
    hint = " ".join(render("limits.html", settings=space_settings).split())
    assert "Up to 30 seconds and 1 MB. A scored upload is deleted when its page is closed, and every upload" in hint
    assert "after 30 minutes at the latest. Nothing is sent elsewhere." in hint


def test_banner_only_for_a_model_with_a_notice(scorer: Scorer) -> None:
    pipeline = scorer.get_scorer()
    facts = about_view.collect_facts(pipeline, None, {})
    assert "Demonstration model, trained on nothing." in about_view.build_banner(facts)
    assert about_view.build_banner({**facts, "notice": None}) == ""


def test_files_beside_a_model(scorer: Scorer, folder_with_head: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_preference_head(scorer.get_scorer("random-model")) is None
    pipeline = scorer.get_scorer("voting-model")
    head = find_preference_head(pipeline)
    assert head is not None
    assert set(head.weights) == set(pipeline.model.config.head_names)
    results = (folder_with_head / "results.json").read_text()
    (folder_with_head / "results.json").write_text("[1]")
    (folder_with_head / "arena").mkdir()
    (folder_with_head / "arena" / "results.json").write_text("{")
    saved = (folder_with_head / "preference_head.json").read_text()
    try:
        assert load_results(pipeline) == {"results.json": None, "arena/results.json": None}
        assert "holds no JSON object" in caplog.text
        PreferenceHead({"beauty": 1.0}).save_pretrained(folder_with_head)
        assert find_preference_head(pipeline) is None
        assert "the model has no scores ['beauty']" in caplog.text
        (folder_with_head / "preference_head.json").write_text("{}")
        assert find_preference_head(pipeline) is None
        assert "is not a preference head" in caplog.text
    finally:
        (folder_with_head / "preference_head.json").write_text(saved)
        (folder_with_head / "results.json").write_text(results)
        (folder_with_head / "arena" / "results.json").unlink()


def test_words() -> None:
    assert format_title("score_streams") == "Plays"
    assert format_title("new_head") == "New head"
    assert [format_length(seconds) for seconds in (1, 45, 60, 90, 0.5, 600)] == [
        "1 second",
        "45 seconds",
        "1 minute",
        "1 minute 30 seconds",
        "0.5 seconds",
        "10 minutes",
    ]
    assert [format_count(number, "song") for number in (1, 1200)] == ["1 song", "1,200 songs"]
    assert [format_chance(value) for value in (1.0, 0.625, 0.0)] == ["over 99 %", "62 %", "under 1 %"]
    assert [format_list(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert format_model({"id": "a/b", "revision": "0123456789"}) == "a/b at 01234567"


def test_samples_are_there_and_titled() -> None:
    samples = load_samples()
    assert samples[0].title == "Good pop"
    assert all(sample.path.is_file() for sample in samples)
