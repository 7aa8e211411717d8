"""The published layouts: read exactly, converted strictly, refused where they do not fit; no pickle runs."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from modeling_apex import ApexModel, load_pipeline
from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion
from modeling_apex.checkpoints.published import (
    build_published_aggregator,
    infer_head_config,
    read_encoder,
    read_heads,
    read_pickle_or_safetensors,
    read_tensors,
    split_head_checkpoint,
)

import published_layout as layout
from waveforms import make_waveform

HIDDEN = layout.MERT_SMALL["hidden_size"]


@pytest.fixture
def mert(tmp_path: Path) -> Path:
    layout.write_mert_folder(tmp_path / "mert")
    return tmp_path / "mert"


@pytest.fixture
def apex(tmp_path: Path, mert: Path) -> Path:
    layout.write_apex_folder(tmp_path / "apex", str(mert), HIDDEN, segment_sec=1)
    return tmp_path / "apex"


def rewrite(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize("with_aggregator", [False, True])
def test_published_layout_loads_through_the_auto_class(tmp_path: Path, mert: Path, with_aggregator: bool) -> None:
    weights = layout.write_apex_folder(
        tmp_path / "published", str(mert), HIDDEN, segment_sec=1, with_aggregator=with_aggregator
    )
    model = AutoModel.from_pretrained(tmp_path / "published")
    assert type(model) is ApexModel
    assert not model.training
    for name, tensor in weights.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    expected = [0.3822692632675171, 0.4150039553642273, -0.11713624000549316, 0.45930564403533936]
    assert model.aggregator.weight.flatten().tolist() == expected
    assert model.config.provenance["val_loss"] == 398.77835954938615
    assert set(model.config.provenance["encoder"]["sha256"]) == {"config.json", "pytorch_model.bin"}
    assert model.config.mert_model_name is None, "the loaded model is complete: saving it needs no second source"


def test_published_layout_saves_as_a_complete_checkpoint(tmp_path: Path, apex: Path) -> None:
    model = AutoModel.from_pretrained(apex)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    stored = again.state_dict()
    assert {name: weight.shape for name, weight in stored.items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }
    assert all(torch.equal(stored[name], weight) for name, weight in model.state_dict().items())
    values = torch.randn(1, 2, 24_000, generator=torch.Generator().manual_seed(0))
    # Where a weight lies in memory may decide how a library sums, so equal weights give scores equal within rounding.
    torch.testing.assert_close(
        again(input_values=values).scores, model(input_values=values).scores, rtol=1e-5, atol=1e-6
    )


def test_published_layout_loads_through_the_pipeline(apex: Path) -> None:
    waveform = make_waveform(2.3)
    report = load_pipeline(apex)(waveform, sampling_rate=24_000)
    converted = load_pipeline(AutoModel.from_pretrained(apex))(waveform, sampling_rate=24_000)
    assert report["scores"] == converted["scores"]
    assert report["num_segments"] == 3
    assert report["model"]["id"] == str(apex)


def test_encoder_can_be_named_at_loading(tmp_path: Path, mert: Path) -> None:
    layout.write_apex_folder(tmp_path / "published", "nobody/nowhere", HIDDEN, segment_sec=1)
    with pytest.raises(FileNotFoundError, match=r"(?s)nobody/nowhere: cannot get the encoder.*To work offline"):
        ApexModel.from_pretrained(tmp_path / "published")
    model = ApexModel.from_pretrained(tmp_path / "published", mert_model_name=str(mert))
    assert model.config.hidden_size == HIDDEN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_published_layout_takes_a_dtype(apex: Path, dtype: torch.dtype) -> None:
    model = AutoModel.from_pretrained(apex, dtype=dtype)
    assert model.encoder.dtype == dtype
    assert model.shared[0].block[0].weight.dtype == torch.float32


def test_conversion_keeps_every_number(tmp_path: Path, mert: Path) -> None:
    encoder = torch.load(mert / "pytorch_model.bin", weights_only=True)
    heads = layout.write_best_model(tmp_path / "best_model.pt", HIDDEN)
    folder = save_conversion(convert_checkpoint(mert, tmp_path / "best_model.pt"), tmp_path / "out")
    state = ApexModel.from_pretrained(folder).state_dict()
    for name, tensor in heads.items():
        assert torch.equal(state[name], tensor), name
    renamed = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    for name, tensor in encoder.items():
        for old, new in renamed.items():
            name = name.replace(f"conv.{old}", f"conv.{new}")
        assert torch.equal(state[f"encoder.{name}"], tensor), name
    assert len(state) == len(heads) + len(encoder) + 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_conversion_says_what_went_where(tmp_path: Path, mert: Path, apex: Path) -> None:
    summary = convert_checkpoint(mert, apex).format_summary()
    assert "heads: branch_naturalness" in summary
    assert summary.count("published constant") == 2, "aggregator weight and bias, where nothing is stored"
    positional = next(line for line in summary.splitlines() if "encoder: encoder.encoder" in line)
    assert " 2 " in positional, "weight_g and weight_v are renamed"
    assert "sha256" in summary
    assert str(tmp_path) in summary, "the person who converts sees which files were read"


def test_conversion_records_hashes_but_no_path_of_this_machine(tmp_path: Path, mert: Path, apex: Path) -> None:
    folder = save_conversion(convert_checkpoint(mert, apex), tmp_path / "out")
    text = (folder / "config.json").read_text()
    assert str(tmp_path) not in text
    provenance = json.loads(text)["provenance"]
    assert len(provenance["heads"]["sha256"]["pytorch_model.bin"]) == 64
    assert provenance["encoder"]["source"] == "mert"


@pytest.mark.parametrize("mode", ["song", "segment"])
def test_training_mode_of_the_pickle_decides_the_prediction_level(tmp_path: Path, mert: Path, mode: str) -> None:
    layout.write_best_model(tmp_path / "best_model.pt", HIDDEN, mode=mode)
    config = convert_checkpoint(mert, tmp_path / "best_model.pt").model.config
    assert config.prediction_level == mode
    assert config.segment_seconds == 30
    assert config.provenance["epoch"] == 50


def test_popularity_only_and_three_layer_trunk(tmp_path: Path, mert: Path) -> None:
    weights = layout.build_head_weights(HIDDEN, (512, 384, 256), layout.SCORE_NAMES[:2])
    torch.save({"model_state": weights, "task": "popularity", "shared": 3}, tmp_path / "best_model.pt")
    config = convert_checkpoint(mert, tmp_path / "best_model.pt").model.config
    assert config.head_names == ["score_streams", "score_likes"]
    assert config.shared_dims == [512, 384, 256]


def test_shape_of_mert_330m_converts(tmp_path: Path) -> None:
    # 330M differs from 95M in its width and depth, and in these four fields, which change the computation.
    config = {
        **layout.MERT_SMALL,
        "num_hidden_layers": 24,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "attention_relax": 32.0,
    }
    layout.write_mert_folder(tmp_path / "mert", config)
    layout.write_best_model(tmp_path / "best_model.pt", HIDDEN)
    model = convert_checkpoint(tmp_path / "mert", tmp_path / "best_model.pt").model
    assert model.config.encoder_config.do_stable_layer_norm
    assert len(model.encoder.encoder.layers) == 24
    assert torch.isfinite(model(input_values=torch.randn(1, 1, 24_000)).scores).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_extractor_cqt": True}, "the encoder has a CQT front end"),
        ({"deepnorm": True}, "the encoder uses deepnorm"),
        ({"model_type": "wav2vec2"}, "model_type 'wav2vec2' is not an encoder that this package runs"),
    ],
)
def test_encoders_that_hubert_cannot_represent_are_refused(mert: Path, fields: dict, message: str) -> None:
    rewrite(mert, **fields)
    with pytest.raises(ValueError, match=message):
        read_encoder(mert)


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path("exploded").touch, ())


@pytest.mark.parametrize("door", ["encoder", "heads", "best_model.pt", "auto"])
def test_no_pickle_runs(tmp_path: Path, mert: Path, apex: Path, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps({"model_state": {"shared.0.block.0.weight": Bomb()}})
    target = {"encoder": mert / "pytorch_model.bin", "best_model.pt": tmp_path / "best_model.pt"}
    path = target.get(door, apex / "pytorch_model.bin")
    path.write_bytes(bomb)
    doors: dict[str, Callable[[], object]] = {
        "encoder": lambda: read_encoder(mert),
        "heads": lambda: read_heads(apex),
        "best_model.pt": lambda: read_heads(tmp_path / "best_model.pt"),
        "auto": lambda: AutoModel.from_pretrained(apex),
    }
    with pytest.raises(ValueError, match="a pickle that holds code is refused"):
        doors[door]()
    assert not (tmp_path / "exploded").exists()


def test_pickle_through_the_ordinary_door_does_not_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Exception, match=r"(?i)weights_only|unpickl|load"):
        ApexModel.from_pretrained(tiny_folder)
    assert not (tmp_path / "exploded").exists()


def test_head_files_that_are_no_apex_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    torch.save({"lstm.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"key 'lstm\.weight' does not belong in an APEX checkpoint"):
        read_heads(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="expected a dict of weights, got list"):
        read_pickle_or_safetensors(path)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="'a' is not a tensor; expected a plain state dict"):
        read_tensors(path)
    with pytest.raises(ValueError, match="'epoch' is not a tensor; this is not an APEX checkpoint"):
        split_head_checkpoint({"epoch": 3}, "x.pt")
    with pytest.raises(ValueError, match="`model_state` holds no weights"):
        split_head_checkpoint({"model_state": {}}, "x.pt")


def test_encoder_stored_with_the_heads_is_ignored(tmp_path: Path) -> None:
    weights = {**layout.build_head_weights(HIDDEN), "mert.feature_projection.projection.bias": torch.zeros(HIDDEN)}
    torch.save(weights, tmp_path / "heads.bin")
    assert not any(name.startswith("mert.") for name in read_heads(tmp_path / "heads.bin").state_dict)


def test_unknown_aggregators_are_refused() -> None:
    with pytest.raises(ValueError, match=r"only the published one .* this one has seed 7 and 4 layers"):
        build_published_aggregator({"seed": 7}, "heads")
    with pytest.raises(ValueError, match="this one has seed 42 and 3 layers"):
        build_published_aggregator({"layer_indices": [1, 2, 3]}, "heads")


def test_heads_are_inferred_or_refused() -> None:
    with pytest.raises(ValueError, match=r"branches \['groove'\] belong to no known head"):
        infer_head_config({"branch_groove.branch.2.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="no trunk"):
        infer_head_config({"aggregator.bias": torch.zeros(1)})


def test_heads_of_another_width_are_refused(tmp_path: Path, mert: Path) -> None:
    layout.write_best_model(tmp_path / "best_model.pt", 768)
    with pytest.raises(ValueError, match=f"`input_dim` is 768 but the encoder's hidden size is {HIDDEN}"):
        convert_checkpoint(mert, tmp_path / "best_model.pt")


def test_incomplete_heads_are_refused(tmp_path: Path, mert: Path) -> None:
    weights = layout.build_head_weights(HIDDEN)
    del weights["branch_clarity.branch.2.bias"]
    torch.save({"model_state": weights}, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match=r"(?s)do not fit together: .*branch_clarity\.branch\.2\.bias"):
        convert_checkpoint(mert, tmp_path / "best_model.pt")


def test_damaged_weights_and_unknown_modes_are_refused(tmp_path: Path, mert: Path) -> None:
    weights = layout.write_best_model(tmp_path / "best_model.pt", HIDDEN, mode="album")
    with pytest.raises(ValueError, match="`mode` is 'album'; expected 'song' or 'segment'"):
        convert_checkpoint(mert, tmp_path / "best_model.pt")
    weights["shared.0.block.0.bias"][3] = torch.nan
    torch.save({"model_state": weights}, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match=r"weights that are NaN or infinite: shared\.0\.block\.0\.bias"):
        convert_checkpoint(mert, tmp_path / "best_model.pt")


def test_missing_sources_are_named(tmp_path: Path, mert: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder, and not a Hub id"):
        read_heads(tmp_path / "absent" / "deeper")
    (mert / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds none of model\.safetensors, pytorch_model\.bin \(found: "):
        read_encoder(mert)


def test_output_that_exists_is_refused(tmp_path: Path, mert: Path, apex: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep.txt").touch()
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        save_conversion(convert_checkpoint(mert, apex), tmp_path / "out")
