"""The config: defaults, validation, round trips, and the published field names."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, HubertConfig

from modeling_apex import ApexConfig
from modeling_apex.inference.configuration_fields_apex import ApexFields, list_fields
from modeling_apex.inference.heads_apex import DEFAULT_HEADS

from published_layout import MERT_95M


def test_default_is_the_published_model() -> None:
    config = ApexConfig()
    assert config.head_names == [
        "score_streams",
        "score_likes",
        "coherence",
        "musicality",
        "memorability",
        "clarity",
        "naturalness",
    ]
    assert config.segment_num_samples == 720_000
    assert config.minimum_num_samples == 400
    assert config.hidden_size == 768
    assert 100 * 0.8**config.popularity_exponent == pytest.approx(50)
    for name in ("hidden_size", "conv_kernel", "conv_stride", "num_conv_pos_embeddings", "do_stable_layer_norm"):
        assert list(map(str, [getattr(config.encoder_config, name)])) == list(map(str, [MERT_95M[name]]))


def test_round_trip_keeps_every_field(tiny_config: Callable[..., ApexConfig], tmp_path: Path) -> None:
    heads = [{"name": "naturalness", "minimum": 1, "maximum": 5, "group": "aesthetics"}, dict(DEFAULT_HEADS[0])]
    config = tiny_config(heads=heads, prediction_level="segment", freeze_encoder=False, provenance={"epoch": 3})
    config.save_pretrained(tmp_path)
    assert ApexConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.head_names == ["naturalness", "score_streams"], "the order of heads is the order of the scores"
    assert loaded.encoder_config.hidden_size == 16


def test_heads_without_a_scale_get_that_of_their_group() -> None:
    heads = [{**DEFAULT_HEADS[0], "name": group, "group": group} for group in ("popularity", "aesthetics", "hit")]
    for head in heads:
        del head["scale"]
    assert [head["scale"] for head in ApexConfig(heads=heads).heads] == ["percentile", "rating", "probability"]
    assert ApexConfig(heads=[{**DEFAULT_HEADS[0], "scale": "rating"}]).heads[0]["scale"] == "rating"


def test_published_config_is_understood() -> None:
    published = {
        "mert_model_name": "m-a-p/MERT-v1-95M",
        "layer_indices": [2, 5, 8, -1],
        "segment_sec": 30,
        "seed": 42,
        "input_dim": 768,
        "shared_dims": [512, 256],
        "branch_dims": [128, 64],
        "dropout_shared": 0.3,
        "dropout_branch": 0.1,
        "auto_map": {"AutoConfig": "configuration_apex.APEXConfig"},
        "architectures": ["APEXModel"],
        "epoch": 50,
        "val_loss": 398.77835954938615,
    }
    config = ApexConfig(**published)
    assert config.segment_seconds == 30.0
    assert config.mert_model_name == "m-a-p/MERT-v1-95M"
    assert config.provenance == {"seed": 42, "epoch": 50, "val_loss": 398.77835954938615}
    assert not hasattr(config, "auto_map"), "the installed classes serve; nobody is asked to trust code"


@pytest.mark.parametrize("typo", ["layer_indexes", "head", "segment_second", "shared_dim", "dropout_branches"])
def test_near_miss_is_refused(typo: str) -> None:
    with pytest.raises(ValueError, match=f"unknown config field `{typo}`; did you mean `"):
        ApexConfig(**{typo: 1})


def test_fields_of_transformers_are_no_near_misses() -> None:
    config = ApexConfig(architectures=["ApexModel"], dtype="float32", transformers_version="5.0.0")
    assert config.architectures == ["ApexModel"]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"sampling_rate": "24000"}, TypeError, "`sampling_rate` must be an integer, got '24000'"),
        ({"sampling_rate": True}, TypeError, "`sampling_rate` must be an integer"),
        ({"sampling_rate": 0}, ValueError, "`sampling_rate` must be at least 1, got 0"),
        ({"segment_seconds": 0}, ValueError, r"`segment_seconds` must be above 0.0, got 0"),
        ({"segment_seconds": math.nan}, ValueError, "`segment_seconds` must be finite"),
        ({"segment_seconds": "30"}, TypeError, "`segment_seconds` must be a number"),
        ({"segment_seconds": 0.01}, ValueError, "fewer than the 400 that one frame of the encoder needs"),
        ({"dropout_shared": 1.0}, ValueError, "`dropout_shared` must be below 1.0"),
        ({"dropout_branch": -0.1}, ValueError, "`dropout_branch` must be at least 0.0"),
        ({"layer_indices": 2}, TypeError, "`layer_indices` must be a list of integers"),
        ({"layer_indices": []}, ValueError, "`layer_indices` is empty"),
        ({"layer_indices": [13]}, ValueError, "`layer_indices` holds 13, but the encoder has 12 layers"),
        ({"layer_indices": [-14]}, ValueError, "`layer_indices` holds -14"),
        ({"shared_dims": [0]}, ValueError, "`shared_dims` must be at least 1"),
        (
            {"prediction_level": "track"},
            ValueError,
            "`prediction_level` must be one of 'song', 'segment', got 'track'",
        ),
        ({"freeze_encoder": 1}, TypeError, "`freeze_encoder` must be true or false"),
        ({"input_dim": 1024}, ValueError, "`input_dim` is 1024 but the encoder's hidden size is 768"),
        (
            {"encoder_config": {"model_type": "wav2vec2"}},
            ValueError,
            "model_type 'wav2vec2'; this model runs encoders",
        ),
        ({"encoder_config": "mert"}, TypeError, "`encoder_config` must be a `HubertConfig` or a dict, got str"),
        ({"heads": {"coherence": [1, 5]}}, TypeError, "`heads` must be a list of dicts"),
        ({"heads": []}, ValueError, "`heads` is empty"),
        ({"heads": [{"name": "coherence"}]}, ValueError, "must have exactly name, minimum, maximum and group"),
        ({"heads": [{**DEFAULT_HEADS[0], "name": "a b"}]}, ValueError, "`name` must be a plain identifier, got 'a b'"),
        (
            {"heads": [{**DEFAULT_HEADS[0], "minimum": 100}]},
            ValueError,
            "`minimum` 100.0 must be below `maximum` 100.0",
        ),
        (
            {"heads": [{**DEFAULT_HEADS[0], "group": "x"}]},
            ValueError,
            r"`heads\[0\].group` must be one of 'popularity'",
        ),
        (
            {"heads": [{**DEFAULT_HEADS[0], "scale": "stars"}]},
            ValueError,
            r"`heads\[0\].scale` must be one of 'percentile', 'rating', 'probability', got 'stars'",
        ),
        ({"heads": [DEFAULT_HEADS[0], DEFAULT_HEADS[0]]}, ValueError, "names a score twice"),
        ({"provenance": ["here"]}, TypeError, r"`provenance` must be a dict, got \['here'\]"),
        (
            {"segment_sec": 5, "segment_seconds": 30.0},
            ValueError,
            r"`segment_sec` is 5 and `segment_seconds` is 30.0, but they are two names of one field",
        ),
        (
            {"mode": "song", "prediction_level": "segment"},
            ValueError,
            "`mode` is 'song' and `prediction_level` is 'seg",
        ),
    ],
)
def test_wrong_fields_are_refused(fields: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ApexConfig(**fields)


def test_own_fields_are_all_that_is_stored(tmp_path: Path) -> None:
    ApexConfig().save_pretrained(tmp_path)
    stored = set(json.loads((tmp_path / "config.json").read_text()))
    assert stored - {"model_type", "transformers_version", "architectures", "dtype"} <= set(list_fields(ApexFields))


def test_hubert_config_object_is_taken_as_it_is() -> None:
    encoder = HubertConfig(hidden_size=32, num_hidden_layers=8, num_attention_heads=2)
    assert ApexConfig(encoder_config=encoder).encoder_config is encoder
