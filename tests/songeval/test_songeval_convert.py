"""From the published files to one strict checkpoint: what is taken, dropped, recorded and refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from modeling_apex.checkpoints import convert_songeval as converter
from modeling_apex.checkpoints.convert_songeval import SongEvalConversion, convert_songeval
from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
from modeling_apex.inference.songeval_mel_apex import compute_log_mel

import published_songeval as layout
import reference_songeval as reference
from waveforms import make_waveform


@pytest.fixture
def sources(published, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both sources, to be damaged."""
    encoder, head = tmp_path / "muq", tmp_path / "head.safetensors"
    shutil.copytree(published.encoder, encoder)
    shutil.copyfile(published.head, head)
    return head, encoder


def edit_config(encoder: Path, **fields: Any) -> None:
    config = json.loads((encoder / "config.json").read_text())
    config["w2v2_config"] |= {name: fields.pop(name) for name in list(fields) if name in config["w2v2_config"]}
    kept = {name: value for name, value in (config | fields).items() if value is not ...}
    (encoder / "config.json").write_text(json.dumps(kept))


def edit_weights(path: Path, **tensors: Any) -> None:
    weights = load_file(path) | tensors
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


def test_every_tensor_is_taken_or_dropped(conversion: SongEvalConversion, published) -> None:
    assert len(published.weights) == 525 + 22
    assert sorted([*conversion.taken, *conversion.dropped]) == sorted(published.weights)
    assert len(conversion.taken) == 270
    stored = load_file(conversion.folder / "model.safetensors")
    assert sorted(stored) == sorted(conversion.taken.values())
    assert all(torch.equal(stored[ours], published.weights[name]) for name, ours in conversion.taken.items())
    assert not [
        name for name in conversion.dropped if re.match(r"model\.(conformer\.layers\.[0-5]|conv)\.|attn|ffd|fc", name)
    ]


def test_sources_are_recorded(conversion: SongEvalConversion, published) -> None:
    provenance = json.loads((conversion.folder / "config.json").read_text())["provenance"]
    assert provenance["encoder"]["source"] == "MuQ-small"
    assert provenance["encoder"]["license"] == "cc-by-nc-4.0"
    assert provenance["heads"]["license"] == "cc-by-nc-sa-4.0"
    digest = hashlib.sha256(published.head.read_bytes()).hexdigest()
    assert provenance["heads"]["sha256"] == {"model.safetensors": digest}
    assert provenance["encoder"]["is_published"] == {"config.json": False, "model.safetensors": False}
    assert str(published.head.parent) not in json.dumps(provenance)
    summary = conversion.format_summary()
    assert f"heads model.safetensors model.safetensors sha256 {digest}: is not the published file" in summary
    assert re.search(r"model\.rvq +dropped +64", summary)
    assert re.search(r"model\.conformer\.layers +encoder\.layers +204", summary)


def test_published_files_are_recognised(published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {
        name: hashlib.sha256((published.encoder / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    content = published.head.read_bytes()
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(converter, "PUBLISHED_HASHES", hashes)
    monkeypatch.setattr(converter, "PUBLISHED_HEAD_BLOB", blob)
    conversion = convert_songeval(published.head, published.encoder, tmp_path / "songeval")
    assert conversion.config.provenance["encoder"]["source"] == "OpenMuQ/MuQ-large-msd-iter"
    assert conversion.config.provenance["heads"]["source"] == "ASLP-lab/SongEval"
    assert "is not the published file" not in conversion.format_summary()
    assert conversion.format_summary().count("is the published file") == 3


def test_the_config_of_these_tests_is_the_published_one(tmp_path: Path) -> None:
    layout.write_muq_folder(tmp_path / "muq", layout.MUQ_LARGE, {"model.cls_token": torch.zeros(1)})
    digest = hashlib.sha256((tmp_path / "muq" / "config.json").read_bytes()).hexdigest()
    assert digest == converter.PUBLISHED_HASHES["config.json"]


def test_a_folder_serves_as_head(published, tmp_path: Path) -> None:
    conversion = convert_songeval(published.head.parent, published.encoder, tmp_path / "songeval")
    assert conversion.config.provenance["heads"]["source"] == "SongEval"


@torch.no_grad()
def test_songbench_has_seven_outputs(sources: tuple[Path, Path], tmp_path: Path) -> None:
    head, encoder = sources
    weights = layout.write_songeval_head(head, layout.build_songeval_head(num_outputs=7))
    with pytest.raises(ValueError, match="has 7 outputs, but 5 scores are named"):
        convert_songeval(head, encoder, tmp_path / "songeval")
    heads = [{"name": f"score_{i}", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics"} for i in range(7)]
    folder = convert_songeval(head, encoder, tmp_path / "songeval", heads=heads).folder
    model, song = SongEvalModel.from_pretrained(folder), torch.from_numpy(make_waveform(1.0))[None]
    embedding = model.compute_segment_embeddings(song)
    torch.testing.assert_close(model(song).scores, reference.score(embedding, weights))
    assert model.config.head_names == [f"score_{i}" for i in range(7)]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"model.conformer.layers.3.extra": torch.zeros(2)},
            "model.conformer.layers.3.extra does not belong to this model",
        ),
        ({"fc.weight": torch.zeros(2)}, "fc.weight does not belong to this model"),
        ({"model.conv.linear.bias": None}, "the weights of encoder.subsampling.projection.bias are missing"),
        ({"model.conv.linear.bias": torch.zeros(31)}, r"'model.conv.linear.bias' is F32 of the shape \(31,\), but"),
        ({"model.conv.linear.bias": torch.zeros(32, dtype=torch.float16)}, r"is F16 of the shape \(32,\), but must"),
        ({"model.conv.linear.bias": torch.full((32,), torch.nan)}, "NaN or infinite: model.conv.linear.bias"),
    ],
)
def test_encoder_weights_are_refused_by_name(
    tensors: dict, message: str, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    head, encoder = sources
    edit_weights(encoder / "model.safetensors", **tensors)
    with pytest.raises(ValueError, match=message):
        convert_songeval(head, encoder, tmp_path / "songeval")
    assert not (tmp_path / "songeval").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"attn.2.bias_k": torch.zeros(2)}, "attn.2.bias_k does not belong to this model"),
        ({"attn.3.out_proj.bias": None}, "the weights of head.attention.3.out_proj.bias are missing"),
        ({"ffd.0.weight": torch.zeros(48, 31)}, r"'ffd.0.weight' is F32 of the shape \(48, 31\)"),
        ({"fc.weight": None}, "so it is not a head of SongEval"),
    ],
)
def test_head_weights_are_refused_by_name(
    tensors: dict, message: str, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    head, encoder = sources
    edit_weights(head, **tensors)
    with pytest.raises(ValueError, match=message):
        convert_songeval(head, encoder, tmp_path / "songeval")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"is_flash": True}, "`is_flash` is True, but this model needs False"),
        ({"label_rate": 50}, "`label_rate` is 50, but this model needs 25"),
        ({"hidden_act": "gelu"}, "`hidden_act` is 'gelu', but this model needs 'swish'"),
        ({"position_embeddings_type": "relative"}, "`position_embeddings_type` is 'relative', but"),
        ({"layer_norm_eps": 1e-6}, "`layer_norm_eps` is 1e-06, but this model needs 1e-05"),
        ({"w2v2_config": ...}, "has no `w2v2_config`, so it is not MuQ's"),
        ({"stat": None}, "has no `stat`, so it is not MuQ's"),
        ({"encoder_dim": "wide"}, r"config\.json: does not describe a MuQ: `encoder_size` must be an integer"),
        ({"stat": {"melspec_2048_mean": 6.8, "melspec_2048_std": 0.0}}, r"config\.json: does not .*`mel_std` must be"),
        ({"conv_dim": ...}, "lacks the field 'conv_dim'"),
        ({"encoder_dim": 10**9}, "`encoder_size` must be at most 16384"),
    ],
)
def test_encoder_configs_are_refused_by_name(
    fields: dict, message: str, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    head, encoder = sources
    if "conv_dim" in fields:  # the conformer's own fields have one of this name too
        config = json.loads((encoder / "config.json").read_text())
        del config["conv_dim"]
        (encoder / "config.json").write_text(json.dumps(config))
    else:
        edit_config(encoder, **fields)
    with pytest.raises(ValueError, match=message):
        convert_songeval(head, encoder, tmp_path / "songeval")


def test_a_damaged_header_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    head, encoder = sources
    content = head.read_bytes()
    head.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"head\.safetensors: not a valid safetensors file"):
        convert_songeval(head, encoder, tmp_path / "songeval")


def test_missing_sources_are_named(published, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Pass ckpt/model\.safetensors of https://github\.com/ASLP-lab"):
        convert_songeval(tmp_path / "none.safetensors", published.encoder, tmp_path / "songeval")
    (tmp_path / "muq").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json and no model\.safetensors"):
        convert_songeval(published.head, tmp_path / "muq", tmp_path / "songeval")
    with pytest.raises(FileNotFoundError, match="no such folder, and not a Hub id"):
        convert_songeval(published.head, tmp_path / "none", tmp_path / "songeval")
    with pytest.raises(FileNotFoundError, match="run `hf download OpenMuQ/MuQ-large-msd-iter` once"):
        convert_songeval(published.head, "OpenMuQ/MuQ-large-msd-iter", tmp_path / "songeval")


def test_a_full_folder_is_not_touched(published, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert_songeval(published.head, published.encoder, tmp_path)


@pytest.mark.parametrize(("num_outputs", "num_bytes"), [(5, 100_792_244), (7, 100_808_636)])
def test_heads_have_the_size_of_the_published_files(num_outputs: int, num_bytes: int) -> None:
    """SongEval's head, and SongBench's, to the byte: only names, shapes and types make the size of a file."""
    small = layout.build_songeval_head(num_outputs=num_outputs)
    widths = {32: 1024, 48: 4096, 64: 2048, 96: 3072}
    weights = {
        name: torch.empty([widths.get(width, width) for width in tensor.shape]) for name, tensor in small.items()
    }
    assert len(weights) == 22
    assert len(save(weights)) == num_bytes
    assert num_outputs != 5 or sum(tensor.numel() for tensor in weights.values()) == 25_197_573


@pytest.mark.slow
@torch.no_grad()
def test_the_published_shape_converts_and_agrees(tmp_path: Path) -> None:
    head, encoder = tmp_path / "model.safetensors", tmp_path / "muq"
    weights = layout.write_muq_folder(encoder, layout.MUQ_LARGE, layout.build_muq_weights(layout.MUQ_LARGE))
    weights |= layout.write_songeval_head(head, layout.build_songeval_head(1024, 4096))
    assert (encoder / "model.safetensors").stat().st_size == 1_333_825_096
    assert head.stat().st_size == 100_792_244
    conversion = convert_songeval(head, encoder, tmp_path / "songeval")
    assert conversion.config.provenance["encoder"]["is_published"] == {"config.json": True, "model.safetensors": False}
    model = SongEvalModel.from_pretrained(conversion.folder)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 196_503_557 + 12
    song = make_waveform(10.0)
    weights = reference.widen({name: weights[name] for name in conversion.taken})
    state = reference.hidden_states(song, weights, 16)[-1]
    ours = model.encoder(compute_log_mel(torch.from_numpy(song)[None], model.config))
    assert float((ours.double() - state).norm() / state.norm()) <= 1e-5
    scores = reference.score(reference.pool(state, weights), weights)
    torch.testing.assert_close(model(torch.from_numpy(song)[None]).scores.double(), scores, rtol=0, atol=1e-4)
