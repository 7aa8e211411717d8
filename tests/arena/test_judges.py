"""Several judges on the same battles: paired differences, battles that all scored, songs whole and in part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modeling_apex.arena.arena_report import build_report
from modeling_apex.arena.battle_files import build_battle_table
from modeling_apex.arena.battle_scores import compute_battle_scores, load_beginning
from modeling_apex.arena.judges import _correct_for_number, compare_judges, load_judge
from modeling_apex.checkpoints.convert_songeval import convert_songeval, name_scores
from modeling_apex.cli import main

import published_songeval
from result_schemas import check_result
from simulated_battles import build_rows
from song_folders import make_wav

QUICK = ["--num-folds", "3", "--num-draws", "100", "--num-permutations", "0", "--no-plots"]
QUICK += ["--classifiers", "logistic_regression", "--protocols", "random_folds"]


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return build_rows(150, popularity_effect=1.0, aesthetics_effect=6.0, tie_share=0.1)


def muddle(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every battle the scores of the battle before."""
    names = [name for name in rows[0] if name.startswith(("musicality_", "clarity_", "coherence_", "memorability_"))]
    return [row | {name: before[name] for name in names} for row, before in zip(rows, [rows[-1], *rows], strict=False)]


def test_differences_are_paired_and_of_the_same_battles(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    good = load_judge(f"good={write_table(tmp_path / 'good.jsonl', rows[:-10])}")
    same = load_judge(f"same:musicality={write_table(tmp_path / 'same.jsonl', rows)}")
    poor_rows = muddle(rows)
    poor_rows[0]["clarity_a"] = None
    poor = load_judge(f"poor:musicality,clarity={write_table(tmp_path / 'poor.jsonl', poor_rows)}")
    table = build_battle_table(rows)
    found = compare_judges(table, [good, same, poor], num_draws=100)
    decisive = int(table.is_decisive.sum())
    used = table.select(table.is_decisive & (np.arange(len(table)) < 140) & (np.arange(len(table)) > 0))
    assert (found["num_battles"], found["num_left_out"]) == (len(used), decisive - len(used))
    assert set(found["rules"]) == {
        *("good: musicality", "good: aesthetics_mean", "same: musicality", "poor: musicality", "poor: clarity")
    }
    assert len(found["differences"]) == 10
    pairs = {(pair["first"], pair["second"]): pair["subsets"]["all"] for pair in found["differences"]}
    nothing = pairs["good: musicality", "same: musicality"]["accuracy"]
    assert nothing["estimate"] == 0.0
    assert nothing["reason"]  # every draw gives the same, so there is no interval to speak of
    better = pairs["good: musicality", "poor: musicality"]["accuracy"]
    column = [column.name for column in used.score_columns].index("musicality")
    is_right = (used.scores[:, 0, column] > used.scores[:, 1, column]) == (used.outcomes == 1)
    assert found["rules"]["good: musicality"]["all"]["accuracy"]["estimate"] == pytest.approx(is_right.mean())
    first, second = (found["rules"][f"{name}: musicality"]["all"]["accuracy"] for name in ("good", "poor"))
    assert better["estimate"] == pytest.approx(first["estimate"] - second["estimate"])
    assert 0 < better["low"] < better["estimate"] < better["high"]
    assert [judge["num_battles"] for judge in found["judges"]] == [140, 150, 149]
    assert len(found["judges"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("scores.jsonl", r"Judge 'scores.jsonl' cannot be read. Expected NAME\[:RULE,RULE\]=TABLE"),
        ("=scores.jsonl", "cannot be read"),
        ("a:=scores.jsonl", r"no rule aesthetics_mean for the judge 'a'; it allows musicality\."),
        ("a:musicality,=scores.jsonl", "cannot be read"),
        ("a:appeal=scores.jsonl", r"scores\.jsonl: no rule appeal for the judge 'a'; it allows musicality\."),
    ],
)
def test_declarations_are_refused(
    declaration: str, message: str, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ("battle_uuid", "preference", "musicality_a", "musicality_b")
    write_table(tmp_path / "scores.jsonl", [{name: row[name] for name in kept} for row in rows])
    with pytest.raises(ValueError, match=message):
        load_judge(declaration)


def test_judges_of_other_battles_or_votes_are_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    table, path = build_battle_table(rows), tmp_path / "scores.jsonl"
    judge = load_judge(f"one={write_table(path, rows)}")
    with pytest.raises(ValueError, match="Names of judges must be unique, got one, one"):
        compare_judges(table, [judge, judge])
    turned = [row | {"preference": {"A": "B", "B": "A"}.get(row["preference"], "A")} for row in rows]
    other = load_judge(f"two={write_table(path, turned)}")
    with pytest.raises(ValueError, match=r"scores\.jsonl: battle .* has the vote A, but the table of battles says"):
        compare_judges(table, [judge, other])
    apart = load_judge(f"two={write_table(path, [row | {'battle_uuid': 'x' + row['battle_uuid']} for row in rows])}")
    with pytest.raises(ValueError, match=r"The judges share no battle with a winner; .* one 150, two 150, of 150"):
        compare_judges(table, [judge, apart])


def test_the_beginning_of_a_song_is_cut_at_its_own_rate(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", samples, 44_100, subtype="FLOAT")
    song = load_beginning(str(tmp_path / "song.wav"), 0.25)
    assert song["sampling_rate"] == 44_100
    np.testing.assert_array_equal(song["array"], samples[:11_025].mean(axis=1))
    assert len(load_beginning(str(tmp_path / "song.wav"), 60)["array"]) == 44_100


def test_scores_of_beginnings_are_never_mixed_with_those_of_whole_songs(tmp_path: Path) -> None:
    output, heard = tmp_path / "scores.jsonl", []

    def judge(song: Any) -> dict[str, Any]:
        heard.append(len(song["array"]))
        return {"scores": {"musicality": 3.0}, "groups": {"musicality": "aesthetics"}, "duration_seconds": 1.0}

    systems = {"system_a": "s", "system_b": "t"}
    battles = [
        {
            **systems,
            "battle_uuid": "one",
            "preference": "A",
            "audio_a": make_wav(1, 0.5),
            "audio_b": make_wav(2, 0.05),
        },
        {**systems, "battle_uuid": "two", "preference": "B", "audio_a": make_wav(3, 0.5), "audio_b": b"no song"},
    ]
    keywords: dict[str, Any] = {"model_id": "tiny", "weights_sha256": "a" * 64, "loudness": None}
    table = compute_battle_scores(battles, judge, output, first_seconds=0.2, **keywords)
    rate = heard[0] / 0.2
    assert heard == [round(seconds * rate) for seconds in (0.2, 0.05, 0.2)]
    assert np.isnan(table.scores[1, 1, 0])
    assert "is not in a format that this program reads" in output.read_text()
    compute_battle_scores(battles, judge, output, first_seconds=0.2, **keywords)
    assert heard[3:] == []
    for other in (None, 0.3):
        with pytest.raises(ValueError, match=r"seconds heard of each song.* Delete it and run the same"):
            compute_battle_scores(battles, judge, output, first_seconds=other, **keywords)


def test_apex_and_songeval_side_by_side_whole_and_their_beginnings(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The commands as the help gives them, one after the other."""
    import pyarrow
    import pyarrow.parquet

    published_songeval.write_muq_folder(tmp_path / "MuQ")
    published_songeval.write_songeval_head(tmp_path / "head" / "model.safetensors")
    convert_songeval(tmp_path / "head", tmp_path / "MuQ", tmp_path / "songeval")
    seven = tmp_path / "SongBench" / "model.safetensors"
    published_songeval.write_songeval_head(seven, published_songeval.build_songeval_head(num_outputs=7))
    names = ["melody", "coherence", "musicality", "memorability", "clarity", "naturalness", "vocals"]
    convert_songeval(seven, tmp_path / "MuQ", tmp_path / "songbench", heads=name_scores(names))
    rows = [
        {
            "battle_uuid": f"battle-{number}",
            "preference": "A" if number % 3 else "B",
            "system_a": f"system-{number % 2}",
            "system_b": f"system-{1 - number % 2}",
            **{
                f"audio_{side}": {"bytes": make_wav(number + start, 0.4), "path": None}
                for side, start in (("a", 1), ("b", 50))
            },
        }
        for number in range(9)
    ]
    (tmp_path / "battles").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "battles" / "test-00000-of-00001.parquet")
    runs, judges = tmp_path / "runs", []
    for judge, model, words in (
        ("apex", tiny_folder, []),
        ("songeval", tmp_path / "songeval", []),
        ("songeval-beginning", tmp_path / "songeval", ["--first-seconds", "0.2"]),
        ("songbench:melody,all_scores_mean", tmp_path / "songbench", []),
    ):
        name = judge.partition(":")[0]
        place = ["--model", str(model), "--output", str(runs / name), *words]
        assert main(["arena", str(tmp_path / "battles"), *place, *QUICK]) == 0, capsys.readouterr().err
        judges += ["--judge", f"{judge}={runs / name / 'battle_scores.jsonl'}"]
    table = str(runs / "apex" / "battle_scores.jsonl")
    assert main(["arena", table, *judges, "--output", str(runs / "all"), *QUICK]) == 0, capsys.readouterr().err
    results = json.loads((runs / "all" / "results.json").read_text())
    check_result(results)
    assert results["judges"]["num_battles"] == 9
    assert len(results["judges"]["differences"]) == 8 * 7 // 2
    assert {"songbench: melody", "songbench: all_scores_mean"} < results["judges"]["rules"].keys()
    pair = {"songeval: musicality", "songeval-beginning: musicality"}
    assert any({found["first"], found["second"]} == pair for found in results["judges"]["differences"])
    report = (runs / "all" / "report.md").read_text()
    assert report == build_report(results)
    assert "## Judges side by side" in report
    assert "apex: musicality minus songeval: musicality" in report


def test_cutting_needs_audio(rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [write_table(tmp_path / "t.jsonl", rows), "--first-seconds", "5", "--output", str(tmp_path / "out")]
    assert main(["arena", *words]) == 2
    assert "--first-seconds cuts audio, and without --model there is none" in capsys.readouterr().err


def test_differences_are_corrected_for_how_many_there_are() -> None:
    """What one pair alone would show to differ does not stand among twenty that do not; what is plain does."""

    def build(estimate: float | None) -> dict[str, Any]:
        low, high = (None, None) if estimate is None else (estimate - 0.1, estimate + 0.1)
        return {"subsets": {"all": {"auc": {"estimate": estimate, "low": low, "high": high}}}}

    pairs = [build(0.11), build(0.5), build(None), *(build(0.01) for _ in range(20))]
    _correct_for_number(pairs)
    found = [pair["subsets"]["all"]["auc"]["survives_correction"] for pair in pairs]
    assert found == [False, True, *[False] * 21]
    alone = [build(0.11)]
    _correct_for_number(alone)
    assert alone[0]["subsets"]["all"]["auc"]["survives_correction"]
