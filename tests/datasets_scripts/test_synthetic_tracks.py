"""The synthetic tracks: popularity has the parts it claims, features know what they may, leaks know more."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from datasets_scripts.build import main
from datasets_scripts.synthetic.song_layouts import PlannedSong, plan_songs
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS
from datasets_scripts.synthetic.track_layout import (
    ALBUM_SHARES,
    GENRE_DEMAND,
    LAYOUT,
    OPTIONAL_COLUMNS,
    SHARES,
    build_tracks,
    compute_track_ceilings,
)
from datasets_scripts.synthetic.world import WorldOptions


@pytest.fixture(scope="module")
def plan() -> list[PlannedSong]:
    options = WorldOptions(num_songs=1200, seed=3, seconds=4.0)
    return plan_songs(options, LAYOUT, [system.name for system in PLATFORMS], "natural")


@pytest.fixture(scope="module")
def tracks(plan: list[PlannedSong]) -> tuple[list[dict], list[dict]]:
    return build_tracks(plan)


def test_parts_have_the_shares_that_are_claimed(tracks: tuple[list[dict], list[dict]]) -> None:
    truth = tracks[1]
    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert sum(ALBUM_SHARES) == pytest.approx(1.0)
    assert np.mean(list(GENRE_DEMAND.values())) == pytest.approx(0.0, abs=1e-9)
    for name, share in SHARES.items():
        assert np.var([row[f"{name}_part"] for row in truth]) == pytest.approx(share, rel=0.25), name
    correlations = np.corrcoef([[row[f"{name}_part"] for row in truth] for name in SHARES])
    assert np.abs(correlations - np.eye(4)).max() < 0.12, "parts are independent"


def test_audio_and_release_know_more_than_either(tracks: tuple[list[dict], list[dict]]) -> None:
    ceilings = compute_track_ceilings(tracks[1])
    assert ceilings["audio_and_release"] > max(ceilings["audio"], ceilings["release"]) + 0.1
    assert ceilings["audio_and_release"] < 0.9, "fame and luck stay unknown"


def test_leaking_features_are_computed_from_the_outcome(tracks: tuple[list[dict], list[dict]]) -> None:
    rows, truth = tracks
    popularity = np.array([row["popularity"] for row in truth])

    def correlate(name: str) -> float:
        known = np.array([row[name] != "" for row in rows])
        values = [float(row[name]) for row, is_known in zip(rows, known, strict=True) if is_known]
        return abs(float(spearmanr(values, popularity[known])[0]))

    assert correlate("play_count") > 0.95
    assert correlate("artist_popularity") > 0.6
    for name in ("danceability", "energy", "valence", "loudness", "acousticness", "tempo", "num_markets"):
        assert correlate(name) < 0.6, name
    assert correlate("danceability") > 0.2
    assert correlate("liveness") < 0.1


def test_optional_cells_are_empty_now_and_then(tracks: tuple[list[dict], list[dict]]) -> None:
    rows = tracks[0]
    for name in OPTIONAL_COLUMNS:
        assert 0.01 < np.mean([row[name] == "" for row in rows]) < 0.08, name
    assert all(row["popularity"] != "" and row["artist_id"] for row in rows)


def test_songs_of_an_artist_share_fame_and_songs_do_not_depend_on_their_number(plan: list[PlannedSong]) -> None:
    rows, truth = build_tracks(plan[:40])
    assert {len({row["fame_part"] for row in truth if row["artist_id"] == artist}) for artist in
            {row["artist_id"] for row in truth}} == {1}  # fmt: skip
    assert truth[:40] == build_tracks(plan[:80])[1][:40]
    assert len({row["track_id"] for row in rows}) == 40


def test_layout_goes_through_the_builder(tmp_path: Path) -> None:
    unseen = ARENA_SYSTEMS[0].name
    words = ["synthetic", "--layout", "tracks", "--num-songs", "8", "--seconds", "2", "--systems", unseen]
    words += ["--num-processes", "1", "--output", str(tmp_path / "world")]
    assert main(words) == 0
    with open(tmp_path / "world" / "tracks.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    truth = [json.loads(line) for line in (tmp_path / "world" / "truth.jsonl").read_text().splitlines()]
    assert {row["system"] for row in truth} == {unseen}
    assert set(json.loads((tmp_path / "world" / "truth_ceilings.json").read_text())) == {
        "audio",
        "release",
        "audio_and_release",
    }
    before = (tmp_path / "world" / "tracks.csv").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "world" / "tracks.csv").read_bytes() == before
    words = ["spotify", "--tracks", str(tmp_path / "world" / "tracks.csv"), "--audio", str(tmp_path / "world/audio")]
    assert main([*words, "--splits", "1:0:1", "--split-method", "quota", "--output", str(tmp_path / "tracks")]) == 0
    manifest = json.loads((tmp_path / "tracks" / "manifest.json").read_text())
    assert sum(split["num_rows"] for split in manifest["splits"].values()) == 8
    assert manifest["options"]["leaking_names"] == [
        "artist_popularity", "artist_followers", "play_count", "like_count"]  # fmt: skip
