"""apex-tiny: the recipe at toy size, its songs and labels, and the embedded model as users meet it."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_apex import ApexFeatureExtractor, ApexModel
from modeling_apex.loading import load_pipeline
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.training.tiny import __main__ as command
from modeling_apex.training.tiny.evaluation import TARGETS, find_missed_targets, score_songs
from modeling_apex.training.tiny.fitting import build_model, compute_loss, draw_segments, train_model
from modeling_apex.training.tiny.making import make_model
from modeling_apex.training.tiny.readme import build_readme
from modeling_apex.training.tiny.recipe import TINY_ENCODER, TinyRecipe
from modeling_apex.training.tiny.songs import SAMPLING_RATE, SongSet, SongTable, compute_labels, render_song_set

from waveforms import make_waveform

TOY = TinyRecipe(
    num_training_songs=12,
    num_validation_songs=24,
    num_test_songs=6,
    num_unseen_songs=22,
    song_seconds=2.0,
    segment_seconds=1.0,
    num_epochs=2,
    batch_size=4,
    encoder={
        **TINY_ENCODER,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": [2, 12, 8, 8],
        "conv_kernel": [1, 256, 4, 3],
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    },
    shared_dims=(8,),
    branch_dims=(4,),
)


@pytest.fixture(scope="module")
def toy_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """Two runs of the toy recipe, each with songs of its own: their folders, and the results of the first."""
    root = tmp_path_factory.mktemp("toy")
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    for name in ("first", "second"):
        make_model(TOY, root / f"{name}-songs", root / name, num_processes=1)
    torch.use_deterministic_algorithms(was_deterministic)
    results = json.loads((root / "first" / "results.json").read_text(encoding="utf-8"))
    return root / "first", root / "second", results


def load_results() -> dict:
    return json.loads((EMBEDDED_MODEL / "results.json").read_text(encoding="utf-8"))


def test_recipe_is_deterministic(toy_runs):
    first, second, _ = toy_runs
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (first / "config.json").read_bytes() == (second / "config.json").read_bytes()


def test_recipe_writes_a_folder_that_loads_and_scores(toy_runs):
    folder, _, _ = toy_runs
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "results.json",
    }
    model = ApexModel.from_pretrained(folder)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert ApexFeatureExtractor.from_pretrained(folder).segment_seconds == TOY.segment_seconds
    assert set(model.config.percentile_tables) == set(model.config.head_names)
    report = load_pipeline(folder)(make_waveform(2.5), sampling_rate=SAMPLING_RATE)
    assert report["num_segments"] == 3
    assert np.isfinite(list(report["scores"].values())).all()


def test_results_say_what_was_measured_on_what(toy_runs):
    results = toy_runs[2]
    assert results["training"]["recipe"] == json.loads(json.dumps(dataclasses.asdict(TOY)))
    assert len(results["training"]["losses"]) == TOY.num_epochs
    for name, num_songs in (("test", TOY.num_test_songs), ("unseen", TOY.num_unseen_songs)):
        evaluation = results["evaluations"][name]
        assert evaluation["num_songs"] == num_songs
        assert set(evaluation["spearman_by_system"]) == set(evaluation["systems"])
        for score, numbers in evaluation["scores"].items():
            group = "popularity" if score.startswith("score_") else "aesthetics"
            assert numbers["target"] == TARGETS[name][group]
            assert numbers["is_target_met"] == (numbers["spearman"]["value"] >= numbers["target"])
            assert group == "popularity" or numbers["spearman_ceiling"] > 0.9


def test_readme_holds_only_numbers_of_the_results_and_names_what_falls_short(toy_runs):
    folder, _, results = toy_runs
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme == build_readme(results)
    missed = find_missed_targets(results)
    assert missed  # twelve songs teach nothing
    for sentence in missed:
        assert f"- {sentence}\n" in readme


def test_readme_of_a_model_without_faults_says_so(toy_runs):
    results = json.loads(json.dumps(toy_runs[2]))
    for evaluation in results["evaluations"].values():
        for numbers in evaluation["scores"].values():
            numbers["is_target_met"] = True
    assert find_missed_targets(results) == []
    assert "Every score reaches the rank correlation that was asked of it" in build_readme(results)


def test_undefined_correlation_is_a_missed_target(toy_runs):
    results = json.loads(json.dumps(toy_runs[2]))
    numbers = results["evaluations"]["test"]["scores"]["clarity"]
    numbers["spearman"] = {"value": None, "low": None, "high": None}
    numbers["is_target_met"] = False
    assert any("`clarity`" in sentence and "undefined" in sentence for sentence in find_missed_targets(results))
    assert "| `clarity` | undefined | undefined to undefined |" in build_readme(results)


def test_loss_falls_when_the_toy_is_trained_for_longer(tmp_path):
    recipe = dataclasses.replace(
        TOY, num_epochs=40, batch_size=12, learning_rate=1e-2, segment_seconds=2.0, padded_share=0.0
    )
    table = render_song_set(recipe.build_song_sets()["training"], tmp_path, num_processes=1)
    losses = train_model(build_model(recipe, table), table, recipe)
    assert losses[-1] < 0.7 * losses[0]


def test_loss_that_is_not_finite_stops_training(tmp_path):
    table = render_song_set(TOY.build_song_sets()["training"], tmp_path, num_processes=1)
    model = build_model(TOY, table)
    with torch.no_grad():
        model.branch_clarity.branch[-1].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1, step 1\. Lower the learning rate"):
        train_model(model, table, TOY)


def test_untrained_model_starts_at_the_mean_label(tmp_path):
    table = render_song_set(TOY.build_song_sets()["training"], tmp_path, num_processes=1)
    model = build_model(TOY, table)
    with torch.no_grad():
        for head in model.config.heads:
            model.get_submodule(f"branch_{head['name']}").branch[-1].weight.zero_()
    scores, _ = score_songs(model, table)
    np.testing.assert_allclose(scores, np.tile(np.nanmean(table.labels, 0), (12, 1)), rtol=1e-4)


def test_loss_counts_in_spreads_and_leaves_missing_labels_out():
    scores = torch.tensor([[1.0, 50.0], [3.0, 50.0]])
    labels = torch.tensor([[3.0, float("nan")], [3.0, 30.0]])
    loss = compute_loss(scores, labels, torch.tensor([2.0, 10.0]))
    assert float(loss) == pytest.approx(((1.0 + 0.0) / 2 + 4.0) / 2)
    assert torch.isfinite(compute_loss(scores, torch.full_like(labels, float("nan")), torch.ones(2)))


def test_padded_segments_end_in_silence_and_are_normalised():
    songs = np.random.default_rng(0).integers(-9000, 9000, (3, 4000)).astype(np.int16)
    table = SongTable(songs, np.zeros((3, 7)), np.zeros((3, 7)), np.array(["a"] * 3))
    generator = np.random.default_rng(1)
    segments = draw_segments(table, np.arange(3), 1000, 1.0, generator)
    assert segments.shape == (3, 1000)
    torch.testing.assert_close(segments.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(segments.std(1), torch.ones(3), atol=1e-2, rtol=0)
    assert all(len(set(segment[-2:].tolist())) == 1 for segment in segments)
    whole = draw_segments(table, np.arange(3), 1000, 0.0, generator)
    assert all(len(set(segment[-200:].tolist())) > 1 for segment in whole)


def test_sets_of_songs_share_neither_songs_nor_systems_with_training():
    sets = TinyRecipe().build_song_sets()
    plans = {name: dataclasses.replace(song_set, num_songs=44).plan() for name, song_set in sets.items()}
    ids = [spec.song_id for plan in plans.values() for spec in plan]
    assert len(set(ids)) == len(ids) == 4 * 44
    assert len({spec.seed for plan in plans.values() for spec in plan}) == 4
    systems = {name: {spec.system for spec in plan} for name, plan in plans.items()}
    assert systems["test"] == systems["validation"] == systems["training"]
    assert len(systems["unseen"]) == 11
    assert not systems["unseen"] & systems["training"]


def test_factors_of_test_songs_are_independent():
    sets = TinyRecipe().build_song_sets()
    for name in ("test", "unseen"):
        factors = np.array([list(spec.factors.to_dict().values()) for spec in sets[name].plan()])
        correlations = np.corrcoef(factors.T)[~np.eye(5, dtype=bool)]
        assert np.abs(correlations).max() < 0.2


def test_labels_follow_the_truth_and_unplayed_songs_have_no_popularity():
    labels, truth = compute_labels(SongSet("labels", 400, 3, ("synthwave-a",), ("independent",), 2.0).plan())
    is_unplayed = np.isnan(labels[:, 0])
    assert 0 < is_unplayed.mean() < 0.1
    assert (np.isnan(labels[:, 1]) == is_unplayed).all()
    assert not np.isnan(labels[:, 2:]).any()
    played = labels[~is_unplayed, 0]
    assert 0 < played.min() < played.max() < 100
    assert np.corrcoef(truth[~is_unplayed, 0], played)[0, 1] > 0.6
    for column in range(2, 7):
        assert np.corrcoef(truth[:, column], labels[:, column])[0, 1] > 0.95


def test_rendered_songs_are_kept_and_other_options_are_refused(tmp_path, monkeypatch):
    song_set = SongSet("kept", 2, 3, ("synthwave-a",), ("natural",), 2.0)
    first = render_song_set(song_set, tmp_path, num_processes=1)
    monkeypatch.setattr("modeling_apex.training.tiny.songs.render_song", None)  # rendering again would fail
    again = render_song_set(song_set, tmp_path, num_processes=1)
    np.testing.assert_array_equal(first.waveforms, again.waveforms)
    np.testing.assert_array_equal(first.labels, again.labels)
    with pytest.raises(ValueError, match="holds songs made with other options"):
        render_song_set(dataclasses.replace(song_set, seed=4), tmp_path)


def test_two_processes_render_the_same_songs(tmp_path):
    song_set = SongSet("pair", 4, 3, ("synthwave-a",), ("natural", "independent"), 2.0)
    alone = render_song_set(song_set, tmp_path / "alone", num_processes=1)
    together = render_song_set(song_set, tmp_path / "together", num_processes=2)
    np.testing.assert_array_equal(alone.waveforms, together.waveforms)
    assert np.abs(alone.waveforms).max() > 1000


def test_command_reports_what_is_missed(tmp_path, monkeypatch, caplog, toy_runs):
    monkeypatch.setattr(command, "make_model", lambda *arguments: toy_runs[2])
    with caplog.at_level(logging.INFO):
        status = command.main(["--output", str(tmp_path), "--num-epochs", "1", "--songs", str(tmp_path / "songs")])
    assert status == 1
    assert "Missed: `" in caplog.text


def test_an_interrupted_command_says_what_is_kept(tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "make_model", interrupt)
    assert command.main(["--output", str(tmp_path), "--songs", str(tmp_path / "songs")]) == 130
    assert capsys.readouterr().err == "\ninterrupted; the same command uses the songs again that were rendered\n"


def test_a_mistaken_command_ends_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "make_model", lambda *arguments: [].pop())
    words = ["--output", str(tmp_path), "--songs"]
    assert command.main([*words, ""]) == 2
    assert "--songs of the command line is an empty string" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert command.main([*words, str(tmp_path / "file" / "songs")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert command.main([*words, str(tmp_path / "songs")]) == 3
    assert "a fault of this program, not of its input: IndexError" in capsys.readouterr().err


def test_embedded_model_is_small_and_says_what_it_is():
    size = sum(path.stat().st_size for path in EMBEDDED_MODEL.iterdir())
    assert size <= 8_000_000
    config = json.loads((EMBEDDED_MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["provenance"]["name"] == "apex-tiny"
    assert "trained on synthetic songs" in config["provenance"]["notice"]
    assert "amaai-lab/apex" in config["provenance"]["notice"]


def test_embedded_model_scores_any_song_with_one_notice(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        pipeline = load_pipeline()
    finally:
        logger.removeHandler(caplog.handler)
    notices = [record for record in caplog.records if "demonstration model" in record.getMessage()]
    assert len(notices) == 1
    report = pipeline(make_waveform(1.0, 44_100, num_channels=2), sampling_rate=44_100)
    for name, score in report["scores"].items():
        minimum, maximum = report["ranges"][name]
        assert minimum < score < maximum


def test_embedded_model_tells_good_songs_from_poor_ones():
    from datasets_scripts.synthetic.samples import build_sample_specs
    from datasets_scripts.synthetic.song import render_song

    specs = list(build_sample_specs().values())
    good, poor = specs[0], specs[-1]
    pipeline = load_pipeline()
    scores = [pipeline(render_song(spec), sampling_rate=spec.sampling_rate)["scores"] for spec in (good, poor)]
    for name in scores[0]:
        assert scores[0][name] > scores[1][name], name


def test_embedded_results_meet_the_targets_or_the_readme_says_which_are_missed():
    results = load_results()
    readme = (EMBEDDED_MODEL / "README.md").read_text(encoding="utf-8")
    assert readme == build_readme(results)
    for evaluation in results["evaluations"].values():
        for numbers in evaluation["scores"].values():
            assert numbers["spearman"]["low"] < numbers["spearman"]["value"] < numbers["spearman"]["high"]
            assert numbers["is_target_met"] == (numbers["spearman"]["value"] >= numbers["target"])
    for sentence in find_missed_targets(results):
        assert f"- {sentence}\n" in readme


def test_embedded_model_reproduces_some_of_its_results():
    """A few songs of the test set, rendered and scored here: the stored numbers belong to the stored weights."""
    results, recipe = load_results(), TinyRecipe()
    song_set = recipe.build_song_sets()["test"]
    assert song_set.num_songs == results["evaluations"]["test"]["num_songs"]
    specs = song_set.plan()[:24]
    factors = np.array([list(spec.factors.to_dict().values()) for spec in specs])
    from datasets_scripts.synthetic.song import render_song

    model = ApexModel.from_pretrained(EMBEDDED_MODEL)
    waveforms = np.stack([np.round(render_song(spec) * 32_767).astype(np.int16) for spec in specs])
    scores, _ = score_songs(model, SongTable(waveforms, factors, factors, np.array([])))
    for column in range(5):
        assert np.corrcoef(scores[:, column + 2], factors[:, column])[0, 1] > 0.5
