"""`apex-music bench cmi`: rows in CMI-RewardBench's own format, its rules, its metrics, and what is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from modeling_apex.arena.cmi_bench import BenchRow, measure_bench, read_bench_rows
from modeling_apex.cli import main
from modeling_apex.statistics.result_schema import SCHEMAS

from result_schemas import list_violations
from song_folders import make_wav

# As `data/all_test.jsonl` has them: fields of one source are absent or null in the rows of another.
COMMON = {"split": "test", "lyrics": None, "ref-audio-path": None, "modality": "text", "benchmark_dataset": "x"}


def make_rows(num_pairs: int = 6) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(5):
        rated = {**COMMON, "prompt": f"a song {number}", "audio-path": f"PAM/{number}.wav", "musicality": 1.0 + number}
        rows.append({**rated, "source": "PAM-Music", "text-music alignment": 3.5})
        rows.append({**rated, "source": "MusicEval", "audio2": None})
    for number in range(num_pairs):
        pair = {**COMMON, "audio-path": f"PAM/{number % 5}.wav", "audio2": f"PAM/{(number + 1) % 5}.wav"}
        pair["prompt"] = f"prompt {number // 2}"
        vote = ("model_a", "model_b", "both", "neither")[number % 4]
        rows.append({**pair, "source": "Music Arena 2025", "preference": vote})
        votes = {"preference-musicality": "AB"[number % 2].lower(), "preference-alignment": "a", "confidence": 4}
        rows.append({**pair, "source": "cmi-arena-annotation", **votes})
    rows.append({**COMMON, "source": "PAM-Music", "split": "train", "audio-path": "PAM/0.wav", "musicality": 2.0})
    rows.append({**COMMON, "source": "something else", "audio-path": "PAM/0.wav", "musicality": 2.0})
    rows.append({**COMMON, "source": "MusicEval", "audio-path": "PAM/0.wav", "musicality": None})
    return rows


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    (tmp_path / "data" / "PAM").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "data" / "PAM" / f"{number}.wav").write_bytes(make_wav(number, 0.3))
    write_rows(tmp_path, make_rows())
    return tmp_path


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "data" / "all_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, model: Path, *words: str) -> int:
    places = ["--rows", str(folder / "data" / "all_test.jsonl"), "--audio", str(folder / "data")]
    return main(["bench", "cmi", *places, "--model", str(model), "--output", str(folder / "out"), *words])


def make_pairs(votes: list[float], scores: list[tuple[float, float]]) -> tuple[list[BenchRow], dict[str, float]]:
    rows, found = [], {}
    for number, (vote, (a, b)) in enumerate(zip(votes, scores, strict=True)):
        found |= {f"{number}a": a, f"{number}b": b}
        rows.append(BenchRow("MusicArena", [f"{number}a", f"{number}b"], vote, f"p{number}", ""))
    return rows, found


def test_a_tie_counts_as_b_and_both_as_half_right() -> None:
    rows, found = make_pairs([1, 0, 0, 1, 0.5, 0.5], [(2, 1), (1, 2), (1, 1), (1, 1), (2, 1), (1, 1)])
    result = measure_bench(rows, {"m": found}, {})["datasets"]["MusicArena"]
    assert result["results"]["m"]["estimate"] == pytest.approx((1 + 1 + 1 + 0 + 0.5 + 0.5) / 6)
    assert result["num_predicted_ties"] == {"m": 3}


def test_models_are_compared_in_pairs_on_the_rows_that_all_scored() -> None:
    generator = np.random.default_rng(0)
    votes = [float(generator.integers(2)) for _ in range(200)]
    rows, good = make_pairs(votes, [(vote, 0.5) for vote in votes])
    _, bad = make_pairs(votes, [(float(generator.normal()), 0.0) for _ in votes])
    del good["0a"]
    result = measure_bench(rows, {"good": good, "bad": bad}, {"1a": "missing"}, num_draws=200)["datasets"][
        "MusicArena"
    ]
    (difference,) = result["differences"]
    assert (difference["first"], difference["second"]) == ("good", "bad")
    assert 0.3 < difference["low"] < difference["estimate"] < difference["high"] < 0.7
    assert result["results"]["good"]["estimate"] == 1.0
    assert result["num_rows"] == 199
    assert result["published"]["CMI-RM"] == 0.7343


def test_ratings_are_correlated_as_scipy_does() -> None:
    generator = np.random.default_rng(0)
    ratings = generator.integers(1, 6, 60).astype(float)
    found = {str(number): float(rating + generator.normal()) for number, rating in enumerate(ratings)}
    rows = [BenchRow("PAM", [str(number)], rating, f"p{number}", "") for number, rating in enumerate(ratings)]
    result = measure_bench(rows, {"m": found}, {}, num_draws=100)["datasets"]["PAM"]
    scores = list(found.values())
    assert result["results"]["m"]["estimate"] == pytest.approx(spearmanr(scores, ratings).statistic)
    others = result["other_correlations"]["m"]
    assert others["kendall"]["estimate"] == pytest.approx(kendalltau(scores, ratings).statistic)
    assert others["pearson"]["estimate"] == pytest.approx(pearsonr(scores, ratings).statistic)
    for measured in others.values():
        assert measured["low"] < measured["estimate"] < measured["high"]
    assert "TuneJury" not in result["published"]


def test_the_whole_command(benchmark: Path, tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(benchmark, tiny_folder, "--num-draws", "50", "--max-seconds", "0.2") == 0
    said = capsys.readouterr().out
    results = json.loads((benchmark / "out" / "results.json").read_text())
    assert list_violations(results, SCHEMAS["bench"]) == []
    assert {name: found["num_rows"] for name, found in results["datasets"].items()} == {
        "PAM": 5,
        "MusicEval": 5,
        "MusicArena": 6,
        "CMI-Pref": 6,
    }
    assert results["datasets"]["MusicArena"]["resampled"] == {"unit": "prompt", "num_units": {"prompt": 3}}
    assert results["num_rows_left_out"] == {
        "of the split train": 1,
        "of another source": 1,
        "without a label (MusicEval)": 1,
    }
    assert "CMI-RM *" in said
    assert "tiny-model: kendall " in said
    assert "measured by its authors, not here" in said
    (path,) = (benchmark / "out").glob("*.jsonl")
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    assert [report["duration_seconds"] for report in reports] == pytest.approx([0.2] * 5)
    scores = [report["scores"]["musicality"] for report in reports]
    order = np.corrcoef(np.argsort(np.argsort(scores)), range(5))[0, 1]
    assert results["datasets"]["PAM"]["results"][str(tiny_folder)]["estimate"] == pytest.approx(order)
    assert run(benchmark, tiny_folder) == 2
    assert "Choose another output, or pass --overwrite" in capsys.readouterr().err
    assert run(benchmark, tiny_folder, "--overwrite", "--whole-songs", "--score", "clarity", "--num-draws", "20") == 0
    again = json.loads((benchmark / "out" / "results.json").read_text())
    assert (again["max_seconds"], again["score"]) == (None, "clarity")


def test_missing_and_broken_songs_are_named_and_cost_their_rows(
    benchmark: Path, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (benchmark / "data" / "PAM" / "0.wav").unlink()
    (benchmark / "data" / "PAM" / "1.wav").write_bytes(b"not audio at all")
    rows = make_rows()
    for path in ("../../out.wav", "a\x00b.wav", "x" * 5000):
        rows.append({**COMMON, "source": "PAM", "audio-path": path, "musicality": 2.0})
    write_rows(benchmark, rows)
    assert run(benchmark, tiny_folder, "--num-draws", "20") == 1
    said = capsys.readouterr().err
    assert "all_test.jsonl:1: " in said
    assert "0.wav: no such file." in said
    assert "1.wav: " in said
    assert "is outside" in said
    results = json.loads((benchmark / "out" / "results.json").read_text())
    assert results["datasets"]["PAM"]["num_left_out"] == {
        "audio is not there": 4,
        "audio could not be scored": 1,
    }
    assert results["datasets"]["PAM"]["num_rows"] == 3
    assert results["num_missing_songs"] == 4
    assert results["models"][0]["num_failed_songs"] == 1


def test_an_interrupted_run_goes_on(
    benchmark: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from modeling_apex.arena import battle_scores

    load, loaded = battle_scores.load_beginning, []

    def stop_at_the_third(audio: Any, seconds: float) -> Any:
        loaded.append(audio)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return load(audio, seconds)

    monkeypatch.setattr(battle_scores, "load_beginning", stop_at_the_third)
    assert run(benchmark, tiny_folder) == 130
    capsys.readouterr()
    assert run(benchmark, tiny_folder, "--num-draws", "20") == 0
    assert "resuming: 2 of 5 songs already in" in capsys.readouterr().err
    assert len(loaded) == 6


def test_refusals(benchmark: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = benchmark / "data" / "all_test.jsonl"
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl: no such file\. Pass data/all_test\.jsonl"):
        read_bench_rows(tmp_path / "nothing.jsonl", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such folder\. Pass the folder that the paths"):
        read_bench_rows(rows, tmp_path / "nothing")
    other = tmp_path / "other.jsonl"
    other.write_text('{"split": "test", "source": "mine"}\n{"split": "test", "source": "Music Arena"}\n')
    with pytest.raises(ValueError, match=r"no row belongs to the test set .*\(1 of another source, 1 without a label"):
        read_bench_rows(other, tmp_path)
    assert run(benchmark, tiny_folder, "--score", "beauty") == 2
    assert "has no score 'beauty' to judge by; it has score_streams" in capsys.readouterr().err
    assert run(benchmark, tiny_folder, "--model", str(tiny_folder) + "//") == 2
    assert "would share a file of reports" in capsys.readouterr().err
    words = ["bench", "cmi", "--rows", str(rows), "--audio", str(benchmark / "data" / "PAM"), "--output", str(other)]
    assert main(words) == 2
    assert "holds none of the songs that" in capsys.readouterr().err
