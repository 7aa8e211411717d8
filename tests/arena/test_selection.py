"""Choosing the best of several takes: keys, leads, floors, pairs, and the command that does it."""

import json

import numpy as np
import pytest
import soundfile

from modeling_apex.arena.selection import (
    Candidate,
    build_key,
    build_pairs,
    choose_best,
    rank_within,
    take_top_share,
)
from modeling_apex.cli import main


def make(song, group="a", columns=None, **scores):
    return Candidate(song, group, scores, {"song": song, **(columns or {})})


def test_percentile_ranks_within_a_group():
    assert rank_within([3.0, 1.0, 2.0]) == [100, 0, 50]
    assert rank_within([1.0, 1.0]) == [50, 50]
    assert rank_within([7.0]) == [50]


def test_one_score_is_its_own_key_and_several_are_compared_by_rank():
    songs = [make("x", p=80.0, m=1.0), make("y", p=20.0, m=3.0), make("z", p=50.0, m=4.0)]
    assert build_key(["m"])(songs) == [1, 3, 4]
    assert build_key(["p", "m"])(songs) == [50, 25, 75]
    assert build_key(["p", "m"], strength=lambda scores: scores["p"] / 10)(songs) == [8, 2, 5]


def test_columns_of_ones_own_are_fused_by_rank_and_less_may_be_better():
    songs = [make("x", columns={"wer": "0.5"}, m=3.0), make("y", columns={"wer": 0.1}, m=2.0)]
    assert build_key(["m"], {"wer": -1.0})(songs) == [50, 50]
    assert build_key(["m"], {"wer": -3.0})(songs) == [25, 75]
    assert build_key(["m"], {"wer": 1.0})(songs) == [100, 0]
    with pytest.raises(ValueError, match="x: the column 'clap' holds None"):
        build_key(["m"], {"clap": 1.0})(songs)


def test_the_best_of_each_group_is_chosen_or_nothing_without_a_lead():
    songs = [make("a1", "a", m=3.0), make("b1", "b", m=2.0), make("a2", "a", m=3.5), make("b2", "b", m=2.1)]
    first, second = choose_best(songs, build_key(["m"]), margin=0.3)
    assert (first.group, [candidate.song for candidate, _ in first.chosen], first.lead) == ("a", ["a2"], 0.5)
    assert (second.group, second.chosen) == ("b", [])
    assert second.lead == pytest.approx(0.1)
    both = choose_best(songs, build_key(["m"]), num_best=2, margin=9)
    assert [len(choice.chosen) for choice in both] == [2, 2]  # nothing is left to lead
    assert both[0].lead is None


@pytest.mark.parametrize(("floor", "expected"), [(None, "y"), ("first", "z"), ("median", "z")])
def test_no_score_falls_below_the_floor(floor, expected):
    songs = [make("x", p=50.0, m=3.0), make("y", p=90.0, m=1.0), make("z", p=60.0, m=3.0)]
    [choice] = choose_best(songs, build_key(["p"]), floor=floor)
    assert choice.chosen[0][0].song == expected
    assert choice.num_refused == {None: 0, "first": 1, "median": 2}[floor]


def test_pairs_are_of_one_group_and_differ_by_the_margin():
    songs = [make(name, group, m=value) for name, group, value in (("x", "a", 1.0), ("y", "a", 2.0), ("z", "a", 4.0))]
    songs += [make("w", "b", m=9.0), make("v", "c", m=1.0), make("u", "c", m=1.0)]
    choices = choose_best(songs, build_key(["m"]))
    [pair] = build_pairs(choices)
    assert (pair["group"], pair["chosen"], pair["rejected"], pair["margin"]) == ("a", "z", "x", 3.0)
    assert pair["chosen_report"] == {"song": "z"}
    every = build_pairs(choices, pairing="all", margin=1.5)
    assert [(pair["chosen"], pair["rejected"]) for pair in every] == [("z", "y"), ("z", "x")]


def test_the_top_share_is_of_all_songs():
    choices = choose_best([make(f"s{row}", f"g{row % 3}", m=float(row)) for row in range(20)], build_key(["m"]))
    assert [candidate.song for candidate, _ in take_top_share(choices, 0.1)] == ["s19", "s18"]


def test_refusals():
    songs = [make("x", m=1.0)]
    for options in ({"num_best": 0}, {"margin": -1.0}, {"margin": float("nan")}):
        with pytest.raises(ValueError, match="at least one song is chosen"):
            choose_best(songs, build_key(["m"]), **options)
    with pytest.raises(ValueError, match="`floor` must be one of first, median"):
        choose_best(songs, build_key(["m"]), floor="mean")
    with pytest.raises(ValueError, match="`pairing` must be one of best-worst, all"):
        build_pairs([], pairing="some")


@pytest.fixture
def table(tmp_path):
    names = ("score_streams", "score_likes", "coherence", "musicality", "memorability", "clarity", "naturalness")
    rows = [
        {
            "song": f"{prompt}{take}.wav",
            "prompt": prompt,
            "wer": 0.1 * take,
            "scores": dict.fromkeys(names, 1.0 + take),
        }
        for prompt in ("p", "q")
        for take in range(3)
    ]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_chooses_from_a_table(table, tmp_path, capsys):
    output = tmp_path / "best"
    words = ["select", str(table), "--of-group", "prompt", "--by", "musicality", "--output", str(output)]
    assert main(words) == 0
    assert [row["song"] for row in read(output / "selected.jsonl")] == ["p2.wav", "q2.wav"]
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in read(output / "pairs.jsonl")] == [
        ("p2.wav", "p0.wav", 2.0),
        ("q2.wav", "q0.wav", 2.0),
    ]
    assert len(read(output / "top_decile.jsonl")) == 1
    assert "2 groups, 0 without a choice; 2 pairs" in capsys.readouterr().out
    assert main([*words, "--fuse", "wer=-3"]) == 0
    assert [row["song"] for row in read(output / "selected.jsonl")] == ["p0.wav", "q0.wav"]
    assert main([*words, "--margin", "1.5"]) == 0
    assert read(output / "selected.jsonl") == []


def test_the_command_reads_the_csv_that_score_writes(table, tmp_path):
    rows = read(table)
    header = ["song", "prompt", *rows[0]["scores"]]
    lines = [",".join(header)] + [
        ",".join(map(str, [row["song"], row["prompt"], *row["scores"].values()])) for row in rows
    ]
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    words = ["select", str(tmp_path / "scores.csv"), "--of-group", "prompt", "--output", str(tmp_path / "best")]
    assert main(words) == 0
    assert len(read(tmp_path / "best" / "selected.jsonl")) == 2


def test_the_command_scores_a_folder_and_groups_by_folder(tmp_path):
    rng = np.random.default_rng(0)
    for place in ("one/a.wav", "one/b.wav", "two/c.wav"):
        path = tmp_path / "takes" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(24_000), 24_000)
    (tmp_path / "takes" / "two" / "d.wav").write_bytes(b"RIFF no song")
    output = tmp_path / "best"
    assert main(["select", str(tmp_path / "takes"), "--output", str(output)]) == 1  # one song could not be scored
    selected = read(output / "selected.jsonl")
    assert [row["group"] for row in selected] == [str(tmp_path / "takes" / name) for name in ("one", "two")]
    assert len(read(output / "pairs.jsonl")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--of-group", "prmpt"], "there is no column 'prmpt' to group by; there are song, prompt, wer"),
        (["--of-group", "prompt", "--by", "loudness"], "cannot rank by 'loudness'"),
        (["--of-group", "prompt", "--fuse", "wer=0"], "a weight must be a number other than zero"),
        (["--of-group", "prompt", "--fuse", "wer=x"], "such as wer=-0.5"),
        (["--of-group", "prompt", "--fuse", "clap"], "the column 'clap' holds None"),
        (["--of-group", "prompt", "--margin", "-1"], "--margin must be zero or more"),
    ],
)
def test_the_command_refuses(table, tmp_path, words, message, capsys):
    assert main(["select", str(table), *words, "--output", str(tmp_path / "best")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"song": "x"}, "holds no score"),
        ({"musicality": 1.0}, "row 1 has no name"),
        ({"song": "x", "musicality": "high"}, "the score musicality is 'high'"),
        ({"song": "x", "musicality": 1.0, "folder": ""}, "the column 'folder' is empty"),
        ({"song": "x", "error": "broken"}, "no scored song"),
    ],
)
def test_rows_that_cannot_be_chosen_from(tmp_path, row, message, capsys):
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert main(["select", str(path), "--output", str(tmp_path / "best")]) == 2
    assert message in capsys.readouterr().err


def test_songs_with_other_scores_are_not_compared(tmp_path, capsys):
    path = tmp_path / "scores.jsonl"
    rows = [{"song": "x", "scores": {"a": 1.0}}, {"song": "y", "scores": {"b": 1.0}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["select", str(path), "--output", str(tmp_path / "best")]) == 2
    assert "y: has the scores ['b'], but the first song has ['a']" in capsys.readouterr().err
