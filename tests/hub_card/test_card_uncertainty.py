"""What a card says of percentiles, intervals, unfamiliar songs and robustness: from files, and of these weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hub_card.build_card import main
from hub_card.card_checks import find_card_problems
from hub_card.model_card import render_model_card
from hub_card.model_facts import build_model_facts
from hub_card.publish import main as publish
from hub_card.result_files import MissingFactError, read_robustness
from modeling_apex import ApexModel
from modeling_apex.cli import main as run_command
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.training.reference import build_reference

REASON = "no battles were at hand."


def set_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def render(folder: Path) -> str:
    card = render_model_card(build_model_facts(folder, no_arena_because=REASON))
    assert find_card_problems(card, folder) == []
    return card


def make_reference(model: ApexModel, *, num_songs: int = 120, **options: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    scores = generator.uniform(2, 4, (num_songs, 7)).astype(np.float32)
    given = {
        "name": "songs of <b>mine</b>",
        "song_ids": [str(row) for row in range(num_songs)],
        "labels": scores + np.linspace(-0.5, 0.5, num_songs, dtype=np.float32)[:, None],
        "embeddings": generator.normal(size=(num_songs, 16)).astype(np.float32),
    }
    return build_reference(scores, model.config.head_names, **{**given, **options})


def make_uncertainty(reference: dict[str, Any]) -> dict[str, Any]:
    shares = {head: {"share": 0.9, "num_songs": 200} for head in reference["intervals"]}
    return {
        "reference": {"sha256": reference["sha256"]},
        "coverage": {"alike": shares, "of others": {**shares, "clarity": {"share": 0.7, "num_songs": 100}}},
        "novelty": {
            "called_novel": {"alike": {"share": 0.01, "num_sounds": 200}, "noise": {"share": 1, "num_sounds": 60}}
        },
    }


@pytest.fixture
def calibrated(tiny_release: Path, tiny_model: ApexModel) -> Path:
    """The release with a reference set, and with what was measured of it."""
    reference = make_reference(tiny_model)
    set_config(tiny_release, reference=reference)
    (tiny_release / "uncertainty.json").write_text(json.dumps(make_uncertainty(reference)))
    return tiny_release


def test_without_a_reference_set_the_percentile_is_the_inverted_target(tiny_release: Path) -> None:
    card = render(tiny_release)
    assert "Here it is the inverted target: a score is an expected value, so low songs get too high" in card
    assert "The model has no reference set, so its reports have no intervals" in card


def test_with_one_the_percentile_is_a_rank_among_songs_that_are_named_and_counted(calibrated: Path) -> None:
    card = render(calibrated)
    assert "it is a rank: the percentage of songs with a lower score among 120, which are songs of" in card
    assert r"\<b\>mine\</b\>" in card
    assert "<b>" not in card
    assert "inverted target" not in card


def test_intervals_stand_beside_how_often_they_held(calibrated: Path) -> None:
    card = render(calibrated)
    assert (
        "the label of 90 % of new songs (`interval_level`), by split-conformal prediction from 120 songs, each" in card
    )
    width = json.loads((calibrated / "config.json").read_text())["reference"]["intervals"]["clarity"]
    assert 0.4 < width < 0.5
    assert f"| `clarity` | ± {width:.2f} | 0.90 [0.85, 0.93] | 0.70 [0.60, 0.78] |" in card
    assert "The least is 0.70, for `clarity` on of others, where 0.9 was meant" in card


def test_warnings_stand_beside_their_false_alarms_and_hits(calibrated: Path) -> None:
    card = render(calibrated)
    assert "farther away than that of 99 % of the reference songs" in card
    assert "| alike | 200 | 1.0 % |" in card
    assert "| noise | 60 | 100.0 % |" in card


def test_what_was_not_measured_is_said(calibrated: Path, tiny_model: ApexModel) -> None:
    (calibrated / "uncertainty.json").unlink()
    card = render(calibrated)
    assert "How many labels of other songs these intervals contain was not measured." in card
    assert "How often that is right was not measured." in card
    groups = [row // 3 for row in range(90)]
    set_config(calibrated, reference=make_reference(tiny_model, num_songs=90, groups=groups))
    card = render(calibrated)
    assert "from 90 songs, in 30 groups that each count as one, such as those of an artist: songs of" in card
    assert "The reference set is too small to show which songs are unlike it" in card
    set_config(calibrated, reference=make_reference(tiny_model, labels=None))
    assert "The songs of the reference set had no labels, so reports have no intervals." in render(calibrated)


def test_what_was_measured_of_another_reference_set_is_refused(calibrated: Path, tiny_model: ApexModel) -> None:
    set_config(calibrated, reference=make_reference(tiny_model, num_songs=130))
    with pytest.raises(
        ValueError, match=r"uncertainty\.json: was measured with another reference set than the model's"
    ):
        render(calibrated)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("coverage", "alike", "clarity", "share"), r"no `coverage\.alike\.clarity\.share`"),
        (("coverage", "of others", "coherence"), r"no `coverage\.of others\.coherence\.share`"),
        (("novelty", "called_novel"), r"no `novelty\.called_novel`"),
        (("reference",), r"no `reference\.sha256`"),
    ],
)
def test_a_number_that_is_missing_stops_the_build(calibrated: Path, path: tuple[str, ...], message: str) -> None:
    file = calibrated / "uncertainty.json"
    content = place = json.loads(file.read_text())
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    file.write_text(json.dumps(content))
    with pytest.raises(MissingFactError, match=message):
        render(calibrated)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {},
            "- Segments have equal weight, and the last one is padded with silence: where only a few seconds are",
        ),
        ({"tail": "weighted"}, "- A segment counts by the seconds of song in it"),
        ({"tail": "drop", "tail_seconds": 4.5}, "- A last segment of less than 4.5 s is not heard, unless the song"),
    ],
)
def test_limits_say_what_this_model_does_with_the_end_of_a_song(tiny_release: Path, fields: dict, text: str) -> None:
    set_config(tiny_release, **fields)
    assert text in render(tiny_release)


@pytest.fixture
def shaken(tiny_release: Path, song_file: Callable[..., Path]) -> Path:
    """The release with its own robustness results beside it, as the command writes them."""
    songs = [str(song_file(f"{row}.wav", 0.3 + 0.1 * row, seed=row)) for row in range(2)]
    words = ["--only", "gain", "silence", "channels", "--num-draws", "50", "--device", "cpu"]
    output = tiny_release / "robustness"
    assert run_command(["robustness", str(tiny_release), *songs, *words, "--output", str(output)]) == 0
    return tiny_release


def test_robustness_is_shown_with_its_plot(shaken: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--model", str(shaken), "--no-arena-because", REASON, "--output", str(tmp_path / "card")]
    assert main(words) == 0, capsys.readouterr().err
    card = (tmp_path / "card" / "README.md").read_text()
    section = card.partition("## Robustness\n")[2].partition("\n## ")[0]
    assert "The same 2 songs were scored again after harmless changes of their files" in section
    assert "Scores move most with: " in section
    change = read_robustness(shaken / "robustness")["perturbations"][4]
    cell = change["changes"]["clarity"]
    row = next(line for line in section.splitlines() if line.startswith(f"| {change['name']} | 2 |"))
    assert f"{cell['mean_absolute']['estimate']:.3f} ({cell['largest']:+z.3f})" in row
    assert "- mono: without 2 songs (the song has one channel)." in section
    plot = re.search(r"!\[.+\]\((robustness/robustness\.png)\)", section)
    assert plot is not None
    assert (tmp_path / "card" / plot[1]).read_bytes() == (shaken / plot[1]).read_bytes()


def test_robustness_of_other_weights_is_refused(shaken: Path) -> None:
    model = ApexModel.from_pretrained(shaken)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    model.save_pretrained(shaken)
    with pytest.raises(ValueError, match=r"are for other weights or settings of the model than"):
        render(shaken)


def test_robustness_must_be_whole(shaken: Path) -> None:
    path = shaken / "robustness" / "robustness.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "perturbations"}))
    with pytest.raises(MissingFactError, match=r"robustness\.json: no `perturbations`; at the top there is result"):
        render(shaken)
    with pytest.raises(FileNotFoundError, match=r"robustness\.json: no such result file"):
        build_model_facts(shaken, no_arena_because=REASON, robustness=shaken)


def test_what_the_card_speaks_of_is_published_with_it(
    shaken: Path, tiny_model: ApexModel, capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", str(shaken), "--repo", "a/b", "--dry-run", "--no-arena-because", REASON]
    assert publish(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    for name in ("robustness.json", "report.md", "robustness.png"):
        assert f"robustness/{name}" in said
    assert "scores.jsonl" not in said  # every version of every song, by its path


def test_the_embedded_model_has_all_of_it() -> None:
    card = render_model_card(build_model_facts(EMBEDDED_MODEL))
    assert "were scored again after harmless changes of their files" in card
    assert "| systems not in training | 440 |" in card
    assert "not measured" not in card
    control = read_robustness(EMBEDDED_MODEL / "robustness")["perturbations"][0]
    assert control["name"] == "none"
    assert {changes["largest"] for changes in control["changes"].values()} == {0.0}
