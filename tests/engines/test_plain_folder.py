"""A plain folder: the pipeline's reports bit for bit, without transformers, or no model at all."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import PATIENCE
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import HubertModel

from modeling_apex import ApexConfig, ApexModel, load_pipeline, load_scorer
from modeling_apex.checkpoints.export import export_model
from modeling_apex.cli import main
from modeling_apex.engines.encoder_shapes import list_encoder_shapes
from modeling_apex.engines.plain_folder import PlainModel, load_plain_model
from modeling_apex.inference.score_heads_apex import ScoreHeadsMixin

from waveforms import make_waveform

SongFile = Callable[..., Path]


@pytest.fixture
def songs(song_file: SongFile, tmp_path: Path) -> list[Any]:
    """Songs of every kind, good and bad."""
    (tmp_path / "notes.mp3").write_text("this is not audio")
    return [
        str(song_file("exact.wav", 0.35)),
        str(song_file("stereo.flac", 0.77, 44_100, num_channels=2, seed=1)),
        str(song_file("lossy.mp3", 1.3, 48_000, seed=2)),
        song_file("vorbis.ogg", 0.1, 32_000, seed=3).read_bytes(),
        {"array": make_waveform(0.61, 16_000, seed=4), "sampling_rate": 16_000},
        {"array": np.zeros(5000, np.float32), "sampling_rate": 24_000},
        {"id": "song-7", "audio": {"path": None, "bytes": song_file("row.wav", 0.2, seed=5).read_bytes()}},
        str(tmp_path / "notes.mp3"),
        str(tmp_path / "absent.wav"),
        {"array": np.ones(1, np.float32), "sampling_rate": 24_000},
    ]


def edit_config(folder: Path, **fields: Any) -> None:
    """Change fields of config.json; `encoder__NAME` is a field of the encoder, `...` removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in fields.items():
        target = config["encoder_config"] if name.startswith("encoder__") else config
        target[name.removeprefix("encoder__")] = value
        if value is ...:
            del target[name.removeprefix("encoder__")]
    path.write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], **metadata: str) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata=metadata or {"format": "pt"})


@pytest.mark.parametrize("level", ["song", "segment"])
def test_both_doors_give_the_same_reports(tiny_model: ApexModel, tmp_path: Path, songs: list[Any], level: str) -> None:
    tiny_model.config.prediction_level = level
    tiny_model.config.percentile_tables = {"coherence": [1 + 0.04 * row for row in range(101)]}
    tiny_model.save_pretrained(tmp_path / "model")
    plain, pipeline = load_scorer(tmp_path / "model"), load_pipeline(tmp_path / "model", device="cpu")
    assert type(plain.model) is PlainModel
    for options in ({}, {"return_timeline": True, "return_embedding": True}, {"return_percentiles": False}):
        expected = pipeline(songs, on_error="report", **options)
        assert ["error" in report for report in expected] == [False] * 7 + [True] * 3
        assert list(plain.score(iter(songs), on_error="report", **options)) == expected
    assert list(plain.score(songs[:2], resampler="soxr")) == pipeline(songs[:2], resampler="soxr")


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_both_doors_group_segments_alike(
    tiny_folder: Path, songs: list[Any], monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    found = []
    pipeline, plain = load_pipeline(tiny_folder), load_scorer(tiny_folder)
    for model, score in ((pipeline.model, pipeline), (plain.model, plain.score)):
        sizes = []
        encode = model._encode
        monkeypatch.setattr(
            model, "_encode", lambda rows, sizes=sizes, encode=encode: sizes.append(len(rows)) or encode(rows)
        )
        reports = list(score(songs, on_error="report"))
        in_turn = list(score(iter(songs), on_error="report"))
        assert reports == in_turn
        found.append((reports, sizes))
    assert found[0] == found[1]
    assert max(found[0][1]) == num_threads


def test_a_batch_size_that_is_asked_for_is_kept(tiny_folder: Path, song_file: SongFile) -> None:
    scorer = load_scorer(tiny_folder, batch_size=3)
    sizes = []
    encode = scorer.model._encode
    scorer.model._encode = lambda segments: sizes.append(len(segments)) or encode(segments)
    scorer.model.segments_per_pass = 8
    list(scorer.score([str(song_file("song.wav", 0.45))]))
    assert sizes == [3, 2]


def test_both_doors_give_the_same_reports_of_the_embedded_model(song_file: SongFile) -> None:
    songs = [str(song_file("long.flac", 23.0, 44_100, num_channels=2)), str(song_file("short.wav", 0.4, seed=1))]
    options = {"return_timeline": True, "return_embedding": True}
    plain, pipeline = load_scorer(device="cpu"), load_pipeline(device="cpu")
    assert type(plain.model) is PlainModel
    assert list(plain.score(songs, **options)) == pipeline(songs, **options)


def test_an_exported_folder_is_plain(tiny_model: ApexModel, tmp_path: Path, song_file: SongFile) -> None:
    folder = export_model(tiny_model, tmp_path / "exported")
    song = str(song_file())
    scorer = load_scorer(folder)
    assert type(scorer.model) is PlainModel
    assert list(scorer.score([song])) == [load_pipeline(folder, device="cpu")(song)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
        {"feat_proj_layer_norm": False, "mask_time_prob": 0.0},
        {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "adapter_attn_dim": 4},
        {"mask_time_prob": 0.0, "mask_feature_prob": 0.1, "num_conv_pos_embedding_groups": 4, "conv_bias": True},
        {"num_hidden_layers": 1, "conv_dim": [8, 12], "conv_kernel": [10, 3], "conv_stride": [5, 2]},
    ],
)
def test_weights_are_those_of_the_model(tiny_config: Callable[..., ApexConfig], fields: dict[str, Any]) -> None:
    config = tiny_config(encoder=fields, layer_indices=[0, 1])
    with torch.device("meta"):
        encoder = HubertModel(config.encoder_config).state_dict()
    assert list_encoder_shapes(config.encoder_config) == {
        name: tuple(weight.shape) for name, weight in encoder.items()
    }
    model = ApexModel(config)
    listed = PlainModel(model.config).list_weights()
    assert listed == {name: (tuple(weight.shape), weight.dtype) for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "spectrogram"},
        {"mert_model_name": "m-a-p/MERT-v1-95M"},
        {"dropout_shared": ...},
        {"droput_shared": 0.1},
        {"quantization_config": {"bits": 8}},
        {"layer_indices": [0, 9]},
        {"heads": []},
        {"encoder_config": None},
        {"input_dim": 768},
        {"encoder__model_type": "wav2vec2"},
        {"encoder__conv_bias": ...},
        {"encoder__conv_bias": "no"},
        {"encoder__conv_dim": [8, 8]},
        {"encoder__conv_dim": [8, 8, 0]},
        {"encoder__conv_dim": [8, 8, 8.5]},
        {"encoder__conv_dim": [], "encoder__conv_kernel": [], "encoder__conv_stride": []},
        {"encoder__hidden_size": 15},
        {"encoder__hidden_act": "relu"},
        {"encoder__conv_pos_batch_norm": True},
        {"encoder__layer_norm_eps": "small"},
        {"encoder___attn_implementation": "eager"},
        {"shared_dims": [12, 9]},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_config_out_of_the_ordinary_is_for_transformers(tiny_folder: Path, fields: dict[str, Any]) -> None:
    assert load_plain_model(tiny_folder) is not None
    edit_config(tiny_folder, **fields)
    assert load_plain_model(tiny_folder) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("aggregator.bias"),
        lambda weights: weights.pop("encoder.encoder.layers.1.layer_norm.bias"),
        lambda weights: weights.update(extra=torch.zeros(2)),
        lambda weights: weights.update({"aggregator.bias": torch.zeros(2)}),
        lambda weights: weights.update({"aggregator.bias": torch.zeros(1, dtype=torch.bfloat16)}),
        lambda weights: weights.update({"aggregator.bias": torch.zeros(1, dtype=torch.int64)}),
    ],
    ids=["missing in heads", "missing in encoder", "unexpected", "misshapen", "half precision", "integers"],
)
def test_weights_out_of_the_ordinary_are_for_transformers(
    tiny_folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    edit_weights(tiny_folder, change)
    assert load_plain_model(tiny_folder) is None


def test_files_out_of_the_ordinary_are_for_transformers(tiny_folder: Path, tmp_path: Path) -> None:
    assert load_plain_model("amaai-lab/apex") is None
    assert load_plain_model(tmp_path) is None
    (tiny_folder / "adapter_config.json").write_text("{}")
    assert load_plain_model(tiny_folder) is None
    (tiny_folder / "adapter_config.json").unlink()
    edit_weights(tiny_folder, lambda weights: None, format="numpy")
    assert load_plain_model(tiny_folder) is None
    (tiny_folder / "model.safetensors").write_bytes(b"torn")
    assert load_plain_model(tiny_folder) is None
    (tiny_folder / "model.safetensors").unlink()
    assert load_plain_model(tiny_folder) is None
    (tiny_folder / "config.json").write_text("{")
    assert load_plain_model(tiny_folder) is None
    (tiny_folder / "config.json").write_text("[]")
    assert load_plain_model(tiny_folder) is None


def test_an_accelerator_is_for_transformers(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_plain_model(tiny_folder, device="cuda:1") is None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert load_plain_model(tiny_folder) is None
    assert load_plain_model(tiny_folder, device="cpu") is not None


@pytest.mark.parametrize("words", [["--dtype", "bfloat16"], ["--revision", "main"], ["--device", "cpu:0"]])
def test_options_out_of_the_ordinary_are_for_transformers(
    tiny_folder: Path, song_file: SongFile, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    import modeling_apex.loading

    loaded, load = [], modeling_apex.loading.load_model

    def load_and_note(*arguments: Any, **options: Any) -> Any:
        loaded.append(options)
        return load(*arguments, **options)

    monkeypatch.setattr(modeling_apex.loading, "load_model", load_and_note)
    command = ["score", str(song_file()), "--model", str(tiny_folder)]
    assert main(command) == 0
    assert not loaded
    assert main([*command, *words]) == 0
    assert len(loaded) == 1


def test_a_damaged_checkpoint_is_explained_as_always(
    tiny_folder: Path, song_file: SongFile, capsys: pytest.CaptureFixture
) -> None:
    edit_weights(tiny_folder, lambda weights: weights.pop("branch_clarity.branch.2.bias"))
    assert main(["score", str(song_file()), "--model", str(tiny_folder)]) == 2
    assert "the checkpoint does not match ApexModel: {'missing_keys': ['branch_clarity" in capsys.readouterr().err
    edit_config(tiny_folder, layer_indices=[0, 9])
    assert main(["score", str(song_file()), "--model", str(tiny_folder)]) == 2
    assert "`layer_indices` holds 9, but the encoder has 3 layers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["score", "rank"])
def test_the_commands_import_no_transformers(tiny_folder: Path, song_file: SongFile, command: str) -> None:
    program = (
        "import sys\n"
        "from modeling_apex.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'transformers', 'torch', 'pandas', 'pyarrow'}))\n"
        "sys.exit(status)"
    )
    songs = [str(song_file("a.wav", seed=1)), str(song_file("b.mp3", 0.5, 44_100, seed=2))]
    words = [command, *songs, "--model", str(tiny_folder), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['torch']"
    assert songs[1] in done.stdout


@pytest.mark.parametrize("words", [["score"], ["score", "--output", "{}/scores.jsonl"], ["rank"]])
def test_a_core_installation_scores(tiny_folder: Path, song_file: SongFile, tmp_path: Path, words: list[str]) -> None:
    extras = ["accelerate", "av", "datasets", "gradio", "matplotlib", "onnx", "pandas", "pyarrow", "scipy", "sklearn"]
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({extras}))\n"
        "from modeling_apex.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    songs = [str(song_file("a.wav", seed=1)), str(song_file("b.wav", seed=2))]
    given = [word.format(tmp_path) for word in words]
    words = [given[0], *songs, *given[1:], "--model", str(tiny_folder), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "2 songs scored" in done.stderr if "--output" in words else songs[1] in done.stdout


def test_errors_and_options_are_those_of_the_pipeline(
    tiny_folder: Path, song_file: SongFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = load_scorer(tiny_folder)
    with pytest.raises(TypeError, match=r"unexpected arguments \['timeline'\]; expected sampling_rate, resampler"):
        scorer.score([str(song_file())], timeline=True)
    with pytest.raises(FileNotFoundError, match=r"absent\.mp3"):
        list(scorer.score([str(tmp_path / "absent.mp3")]))
    monkeypatch.setattr(scorer.model, "packed_encoder", lambda segments, _: torch.full((1, 4, 16), torch.nan))
    reports = list(scorer.score([str(song_file(seconds=0.3))], on_error="report"))
    assert "the encoder yields NaN or infinity" in reports[0]["error"]
    with pytest.raises(FloatingPointError, match="the encoder yields NaN or infinity"):
        list(scorer.score([str(song_file())]))


def test_the_notice_of_a_model_is_said_once(
    tiny_model: ApexModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model.config.provenance = {"notice": "for demonstration only"}
    tiny_model.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING, logger="modeling_apex"):
        load_scorer(tmp_path / "model")
        monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
        load_scorer(tmp_path / "model")
    assert caplog.messages == [f"{tmp_path / 'model'}: for demonstration only"]


def test_heads_without_an_encoder_say_so() -> None:
    class Headless(ScoreHeadsMixin, nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Headless has no encoder: it must define `_encode`"):
        Headless()._encode(torch.zeros(1, 100))
