"""The simulated cluster: it does all the work, once, and failures cost what they lose."""

import json
from pathlib import Path

import pytest
from simulate_cluster import RESULTS, Assumptions, Fleet, list_fleets, main, read_rates, simulate
from update_readme import build_page

from executed_pages import find_broken_links

PAGE = Path(__file__).parents[2] / "docs" / "score-millions.md"
FLEET = Fleet(num_songs=6_400, num_workers=4, songs_per_block=64, has_accelerators=False)
RATES = {"decode": 0.001, "decode_spread": 1.0, "encode_on_a_core": 0.01}
SAME_LENGTH = Assumptions(spread_of_songs=0.0, start_seconds=0.0)


def test_equal_songs_take_their_work_over_the_workers() -> None:
    found = simulate(FLEET, RATES, SAME_LENGTH, has_failures=False)
    assert found["hours"] * 3600 == pytest.approx(100 * 64 * 180 * 0.011 / 4)
    assert found["share_of_time_at_work"] == pytest.approx(1.0)
    assert found["skew_seconds"] == pytest.approx(0.0)
    assert found["failures"] == 0


def test_an_accelerator_waits_for_its_decoder() -> None:
    fleet = Fleet(num_songs=640, num_workers=1, songs_per_block=64, has_accelerators=True)
    for decode, seconds in ((0.0001, 6 / 100), (0.01, 1.8)):
        found = simulate(fleet, RATES | {"decode": decode}, SAME_LENGTH, has_failures=False)
        assert found["hours"] * 3600 == pytest.approx(640 * seconds)


def test_failures_cost_time_and_no_song() -> None:
    often = Assumptions(spread_of_songs=0.0, start_seconds=0.0, hours_between_failures_of_a_worker=0.2)
    peace = simulate(FLEET, RATES, often, has_failures=False)
    found = simulate(FLEET, RATES, often, has_failures=True)
    assert found["failures"] > 0
    assert found["share_of_work_lost"] > 0
    assert found["hours"] > peace["hours"]


def test_smaller_blocks_lose_less() -> None:
    often = Assumptions(hours_between_failures_of_a_worker=0.5)
    lost = [
        simulate(Fleet(25_600, 4, songs_per_block, False), RATES, often, has_failures=True)["share_of_work_lost"]
        for songs_per_block in (16, 256)
    ]
    assert lost[0] < lost[1]


def test_the_result_says_what_is_measured_and_what_assumed(tmp_path: Path) -> None:
    assert main(["--only", "10 million songs, 32 accelerators, 512", "--output", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["measured"] == read_rates(RESULTS)
    assert found["assumed"]["accelerator_segments_per_second"] > 0
    (fleet,) = found["fleets"].values()
    assert fleet["driver_gigabytes"]["this package"] < fleet["driver_gigabytes"]["checkpoint of Ray Data"]


def test_the_committed_result_has_all_fleets() -> None:
    assert json.loads((RESULTS / "cluster.json").read_text())["fleets"].keys() == list_fleets().keys()


def test_the_tables_and_links_of_the_page_are_those_of_its_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert build_page(text) == text
    assert "songs a second" in text
    assert find_broken_links(PAGE) == []
