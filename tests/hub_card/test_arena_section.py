"""The card's section on battles, from results that the real experiment wrote."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

from hub_card.build_card import main
from hub_card.model_facts import build_model_facts
from hub_card.publish import build_parser, publish
from hub_card.result_files import MissingFactError, read_arena
from modeling_apex.arena.arena_plots import save_plots
from modeling_apex.arena.arena_report import save_results
from modeling_apex.arena.battle_files import build_battle_table
from modeling_apex.arena.experiment import ArenaOptions, run_arena

from loopback_hub import LoopbackHub

NAMES = ("score_streams", "score_likes", "coherence", "musicality", "memorability", "clarity", "naturalness")


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `apex-music arena` writes, from battles whose votes are drawn here."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(120):
        first, second = generator.choice(4, 2, replace=False)
        row = {"battle_uuid": f"b{number}", "is_instrumental": bool(number % 2), "prompt": f"p{number // 2}"}
        row |= {"user_pseudonym": f"u{number // 3}", "system_a": f"s{first}", "system_b": f"s{second}"}
        row["preference"] = "AB"[generator.integers(2)]
        row |= {f"{name}_{side}": generator.uniform(1, 5) for name in NAMES for side in "ab"}
        rows.append(row)
    options = ArenaOptions(num_folds=3, num_draws=100, classifiers=("logistic_regression",))
    results, _ = run_arena(build_battle_table(rows), options)
    folder = tmp_path_factory.mktemp("arena")
    save_results(results, folder)
    save_plots(results, folder)
    return folder


def test_battles_must_be_called_what_they_are(tiny_release: Path, arena: Path) -> None:
    with pytest.raises(MissingFactError, match="nothing says the model's battles; write `battles` into the facts"):
        build_model_facts(tiny_release, arena=arena)
    with pytest.raises(ValueError, match="there are arena results, and a reason why there are none"):
        build_model_facts(tiny_release, arena=arena, no_arena_because="x")


def test_card_shows_all_protocols_and_plots(
    tiny_release: Path, arena: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tiny_release / "facts.json").write_text('{"battles": "Battles whose votes were drawn by a coin."}')
    output = tmp_path / "card"
    words = ["--model", str(tiny_release), "--arena", str(arena), "--output", str(output)]
    assert main(words) == 0, capsys.readouterr().err
    card = (output / "README.md").read_text()
    assert "Battles whose votes were drawn by a coin." in card
    assert read_arena(arena)["conclusion"] in card
    for protocol in ("random folds", "grouped by prompt and user", "leave one system out", "within system pairs"):
        assert f"\n### Protocol: {protocol}\n" in card
    assert "| baseline: system_tags_only |" in card
    assert "| baseline: position_only |" in card
    assert "![ROC curves of the classifiers](arena/roc.png)" in card
    assert (output / "arena" / "roc.png").read_bytes() == (arena / "roc.png").read_bytes()
    assert [line for line in card.splitlines() if line.startswith("# ")] == ["# apex-tiny"]


def test_results_beside_the_model_need_no_word(tiny_release: Path, arena: Path) -> None:
    (tiny_release / "facts.json").write_text('{"battles": "Battles whose votes were drawn by a coin."}')
    shutil.copytree(arena, tiny_release / "arena")
    assert main(["--model", str(tiny_release)]) == 0
    assert "](arena/roc.png)" in (tiny_release / "README.md").read_text()


def test_the_reason_may_stand_in_the_facts(tiny_release: Path) -> None:
    (tiny_release / "facts.json").write_text('{"no_arena_because": "nobody voted yet."}')
    assert main(["--model", str(tiny_release)]) == 0
    assert "Not measured: nobody voted yet." in (tiny_release / "README.md").read_text()


def test_synthetic_battles_are_called_synthetic(tiny_release: Path, arena: Path, tmp_path: Path) -> None:
    text = (arena / "results.json").read_text()
    simulated = tmp_path / "results.json"
    simulated.write_text(text.replace('"group": "popularity"', '"group": "truth"', 1))
    facts = build_model_facts(tiny_release, arena=simulated)
    assert facts.battles == "Synthetic battles, whose outcome a simulation drew: not human votes."


def test_incomplete_results_are_refused(arena: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text((arena / "results.json").read_text().replace('"protocols"', '"other"'))
    with pytest.raises(MissingFactError, match="no `protocols`"):
        read_arena(tmp_path)


def test_results_and_plots_are_published_with_the_model(
    tiny_release: Path, arena: Path, api: HfApi, hub: LoopbackHub
) -> None:
    (tiny_release / "facts.json").write_text('{"battles": "Battles whose votes were drawn by a coin."}')
    words = ["--model", str(tiny_release), "--arena", str(arena), "--repo", "tester/apex"]
    publish(build_parser().parse_args(words), api=api, say=lambda line: None)
    files = hub.get_files("tester/apex")
    assert {"arena/results.json", "arena/report.md", "arena/roc.png"} <= set(files)
    assert b"arena/roc.png" in files["SHA256SUMS"]
