"""The doors of SongEval: Auto classes, pipeline, commands, remote code; what needs segments says so."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, pipeline

from modeling_apex import SongEvalConfig, SongEvalModel, load_pipeline, load_scorer, load_whole_song
from modeling_apex.checkpoints.convert_songeval import SongEvalConversion
from modeling_apex.checkpoints.export import build_short_card, export_model, list_code
from modeling_apex.cli import main
from modeling_apex.engines.model_hashes import compute_scores_hash, compute_weights_hash
from modeling_apex.inference.audio_limits_apex import AudioError

import published_songeval
from strangers import run_elsewhere
from waveforms import make_waveform

SongFile = Callable[..., Path]


def test_auto_classes_read_a_converted_folder(conversion: SongEvalConversion) -> None:
    assert type(AutoConfig.from_pretrained(conversion.folder)) is SongEvalConfig
    model = AutoModel.from_pretrained(conversion.folder)
    assert type(model) is SongEvalModel
    song = load_whole_song(
        make_waveform(1.5, 44_100, num_channels=2), sampling_rate=44_100, target_rate=model.config.sampling_rate
    )
    with torch.inference_mode():
        scores = model(torch.from_numpy(song.samples)[None]).scores
    assert scores.shape == (1, 5)
    assert ((scores > 1) & (scores < 5)).all()


def test_the_command_converts(published, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--muq", str(published.encoder), "--songeval", str(published.head), "--output", str(tmp_path / "made")]
    assert main(["convert", *words]) == 0
    printed = capsys.readouterr().out
    assert "is not the published file" in printed
    assert f"written: {tmp_path / 'made'}" in printed
    assert (tmp_path / "made" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got none of them. Pass --encoder and --heads for APEX, or --muq and --songeval for SongEval."),
        (["--encoder", "mert"], "got --encoder. Pass"),
        (["--encoder", "mert", "--songeval", "head"], "got --encoder --songeval. Pass"),
        (["--encoder", "mert", "--heads", "apex", "--scores", "a"], "got --encoder --heads --scores. Pass"),
    ],
)
def test_halves_that_do_not_belong_together_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["convert", *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@torch.inference_mode()
def test_three_doors_give_what_the_model_says_of_the_whole_song(
    model: SongEvalModel, conversion: SongEvalConversion, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    song = song_file("song.wav", 1.7, 44_100, num_channels=2)
    expected = model(torch.from_numpy(load_whole_song(song).samples)[None])
    named = dict(zip(model.config.head_names, expected.scores[0].tolist(), strict=True))
    scorer = pipeline("apex-popularity", model=str(conversion.folder))
    report = scorer(str(song), return_embedding=True)
    assert report["scores"] == named
    assert report["embedding"] == expected.song_embedding[0].tolist()
    assert (report["num_segments"], report["duration_seconds"]) == (1, pytest.approx(1.7, abs=1e-4))
    assert set(report["groups"].values()) == {"aesthetics"}
    assert report["percentiles"] == report["target_percentiles"] == {}
    assert next(load_scorer(conversion.folder).score([song]))["scores"] == named
    assert scorer(str(song), resampler="sinc")["scores"] == named, "the model has a resampler of its own"
    assert main(["score", str(song), "--model", str(conversion.folder)]) == 0
    assert f"musicality     {named['musicality']:.2f}  1 to 5" in capsys.readouterr().out


def test_company_and_batches_change_nothing(conversion: SongEvalConversion) -> None:
    songs = [make_waveform(seconds, 24_000, seed=seed) for seed, seconds in enumerate((1.0, 1.0, 1.3, 1.0, 0.8))]
    scorer = load_scorer(conversion.folder)
    alone = [next(scorer.score([song], sampling_rate=24_000))["scores"] for song in songs]
    scorer.batch_size = 4
    shapes = []
    scorer.model.encoder.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    together = [report["scores"] for report in scorer.score(songs, sampling_rate=24_000)]
    assert [shape[0] for shape in shapes] == [2, 1, 1, 1], "songs of equal length go together, others do not"
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, abs=1e-5)


def test_a_bad_song_costs_that_song(model: SongEvalModel, song_file: SongFile) -> None:
    model.config.max_song_seconds = 1.5
    good, long, short = song_file("good.wav", 1.2), song_file("long.wav", 1.6), song_file("short.wav", 0.04)
    scorer = load_scorer(model, batch_size=3)
    reports = list(scorer.score([good, long, short, "missing.wav", good], on_error="report"))
    assert "long.wav: lasts more than 1.5 s, the longest song that this model scores" in reports[1]["error"]
    assert "short.wav: lasts 0.0400 s" in reports[2]["error"]
    assert "missing.wav" in reports[3]["error"]
    assert reports[0]["scores"] == reports[4]["scores"]
    with pytest.raises(AudioError, match="does not cut them"):
        next(scorer.score([long]))


def test_a_timeline_is_refused_in_words(conversion: SongEvalConversion, song_file: SongFile) -> None:
    report = load_pipeline(conversion.folder)(str(song_file("song.wav", 1.0)), return_timeline=True)
    assert "segments" not in report
    assert report["warnings"] == [
        "there is no timeline: this model hears a song whole, and scores of its parts would be other scores"
    ]


def test_whole_songs_go_one_by_one_unless_asked(model: SongEvalModel) -> None:
    """On a CPU also without a thread that decodes songs in advance: each would take the memory of a song."""
    shapes: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: shapes.append(len(inputs[0])))
    before = threading.enumerate()
    songs = [make_waveform(0.5)] * 3
    for _ in load_scorer(model).score(songs, sampling_rate=24_000):
        assert not [thread for thread in threading.enumerate() if thread not in before and "apex" in thread.name]
    assert shapes == [1, 1, 1]


def test_what_needs_segments_or_an_engine_is_refused(
    conversion: SongEvalConversion, tmp_path: Path, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    folder, song = str(conversion.folder), str(song_file("song.wav", 1.0))
    no_engine = "a songeval model has no encoder that an engine could run instead"
    for words, message in (
        (
            ["embed", str(tmp_path), "--model", folder, "--output", str(tmp_path / "out")],
            "no embeddings to store; it ",
        ),
        (["score", song, "--model", folder, "--engine", "openvino"], no_engine),
        (["validate", song, "--model", folder, "--precision", "bf16"], no_engine),
        (["export", "--model", folder, "--format", "onnx", "--output", str(tmp_path / "onnx")], no_engine),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no segments to cut it into"):
        _ = SongEvalConfig().segment_seconds


def test_rank_sorts_by_the_scores_that_are_there(
    conversion: SongEvalConversion, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    songs = [str(song_file(f"{number}.wav", 0.6 + 0.2 * number)) for number in range(2)]
    assert main(["rank", *songs, "--model", str(conversion.folder)]) == 0
    assert "sorted by the mean place" in capsys.readouterr().out


def test_calibration_gives_ranks(
    conversion: SongEvalConversion, tmp_path: Path, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    for number in range(20):
        song_file(f"songs/{number}.wav", 0.3 + 0.01 * number)
    calibrated = tmp_path / "calibrated"
    words = [str(conversion.folder), str(tmp_path / "songs"), "--output", str(calibrated)]
    assert main(["calibrate", *words]) == 0, capsys.readouterr().err
    report = load_pipeline(calibrated)(str(tmp_path / "songs" / "3.wav"))
    assert set(report["reference_percentiles"]) == set(report["scores"])
    assert 0 <= report["reference_percentiles"]["clarity"] <= 100
    assert report["percentile_basis"] == "share of songs with a lower score among 20: songs"


@pytest.fixture
def exported(conversion: SongEvalConversion, tmp_path: Path) -> Path:
    return export_model(conversion.folder, tmp_path / "exported")


def test_verify_checks_it(
    exported: Path, conversion: SongEvalConversion, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["verify", "--model", str(exported)]) == 0
    printed = capsys.readouterr().out
    assert "probe signal" in printed
    assert "There was nothing to compare it with: convert the published files" in printed
    assert main(["verify", "--model", str(exported), "--against", str(conversion.folder)]) == 0
    assert "every number is equal" in capsys.readouterr().out
    card = (exported / "README.md").read_text()
    (exported / "README.md").write_text(card.replace("license: other\nlicense_name", "license: mit\nx_name"))
    config = json.loads((exported / "config.json").read_text())
    config["provenance"]["encoder"]["source"] = "OpenMuQ/MuQ-large-msd-iter"
    (exported / "config.json").write_text(json.dumps(config))
    (exported / "preprocessor_config.json").write_text('{"segment_seconds": 30.0}')
    assert main(["verify", "--model", str(exported)]) == 1
    printed = capsys.readouterr().out
    assert "the card says mit, but the encoder is OpenMuQ/MuQ-large-msd-iter under cc-by-nc-4.0" in printed
    assert "this model hears songs whole and has none" in printed


def test_the_card_names_the_licence_of_each_part(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "license: other\nlicense_name: licenses-of-the-components\nlicense_link: README.md#licences\n" in card
    assert "| encoder | MuQ-small | [CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/) |" in card
    licence = "[CC BY-NC-SA 4.0](https://creativecommons.org/licenses/by-nc-sa/4.0/)"
    assert f"| heads | model.safetensors | {licence} |" in card
    assert "The licence of the encoder and the heads excludes commercial use." in card
    free = SongEvalConfig(provenance={"encoder": {"source": "mine", "license": "mit"}})
    assert build_short_card(free).startswith("---\nlicense: apache-2.0\nlibrary_name")
    assert "excludes" not in build_short_card(free)


def test_export_runs_as_remote_code_without_the_package(
    exported: Path, song_file: SongFile, tmp_path: Path, conversion: SongEvalConversion
) -> None:
    code = {path.name for path in list_code("songeval")}
    assert {path.name for path in exported.iterdir()} == {*code, "config.json", "model.safetensors", "README.md"}
    song = song_file("song.wav", 0.9, 44_100, num_channels=2)
    program = """
import json, sys
from transformers import AutoModel, pipeline
folder, song = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
scorer = pipeline("apex-popularity", model=folder, trust_remote_code=True)
reports = scorer([song, song], return_timeline=True, batch_size=2)
print(json.dumps({"reports": reports}))
"""
    first, second = run_elsewhere(program, tmp_path, str(exported), str(song), having=("soxr",))["reports"]
    assert "pip install torch transformers soundfile soxr" in (exported / "README.md").read_text()
    assert first == second
    assert first["scores"] == pytest.approx(load_pipeline(conversion.folder)(str(song))["scores"], abs=1e-6)
    assert first["warnings"]


@torch.no_grad()
def test_hashes_know_every_weight(model: SongEvalModel, conversion: SongEvalConversion) -> None:
    weights, scores = compute_weights_hash(model), compute_scores_hash(model)
    assert compute_scores_hash(load_scorer(conversion.folder).model) == scores
    for name in ("encoder.subsampling.projection.bias", "head.reduction.bias", "head.output.bias"):
        parameter = model.get_parameter(name)
        before = parameter.clone()
        parameter[0] += 1
        assert compute_weights_hash(model) != weights, name
        assert compute_scores_hash(model) != scores, name
        parameter.copy_(before)
    model.config.heads[0]["name"] = "another"
    assert compute_weights_hash(model) == weights
    assert compute_scores_hash(model) != scores


def test_outputs_are_named_on_the_command_line(
    published, tmp_path: Path, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    head = tmp_path / "SongBench" / "model.safetensors"
    published_songeval.write_songeval_head(head, published_songeval.build_songeval_head(num_outputs=7))
    words = ["--muq", str(published.encoder), "--songeval", str(head), "--output", str(tmp_path / "made")]
    assert main(["convert", *words, "--scores", *"abcdef"]) == 2
    assert "has 7 outputs, but 6 scores are named. Name each output, in their order (`--scores`" in (
        capsys.readouterr().err
    )
    assert main(["convert", *words, "--scores", *"abcdefg"]) == 0
    report = load_pipeline(tmp_path / "made")(str(song_file("song.wav", 1.0)))
    assert list(report["scores"]) == list("abcdefg")
    assert report["ranges"]["g"] == [1.0, 5.0]


def test_a_card_with_results_is_refused_and_the_licensed_one_named(
    conversion: SongEvalConversion, capsys: pytest.CaptureFixture
) -> None:
    assert main(["card", "--model", str(conversion.folder)]) == 2
    said = capsys.readouterr().err
    assert "cards with results are made for APEX models only, but this one's `model_type` is 'songeval'" in said
    assert f"`apex-music export --model {conversion.folder} --output DIR`" in said
    assert "You are using a model of type" not in said
