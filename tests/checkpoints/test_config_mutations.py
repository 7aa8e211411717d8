"""Configs with one field changed to what it must not be: each is refused by a check of ours, or makes a model."""

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoFeatureExtractor

from modeling_apex import (
    ApexConfig,
    ApexFeatureExtractor,
    ApexModel,
    PreferenceHead,
    SongEvalConfig,
    SongEvalModel,
    SpectrogramFusionConfig,
    SpectrogramFusionModel,
    load_preference_head,
)
from modeling_apex.cli import main
from modeling_apex.loading import find_model_class, load_model, load_pipeline, load_scorer
from modeling_apex.process_exit import USER_ERRORS, is_slip
from modeling_apex.storage.config_files import MAX_CONFIG_BYTES

from small_model import build_small_model

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
BAD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2_000_000_000, 10**400, 1.5, float("nan"), float("inf"), -1e300),
    *("", "text", "\x1b[2J", [], [-1], ["a"], [None], [[1]], {}, {"a": 1}, DEEP),
)
# Fields of transformers, names of methods and of limits, and what older configs say.
OTHERS = (
    *("num_labels", "id2label", "label2id", "dtype", "torch_dtype", "attn_implementation", "_attn_implementation"),
    *("output_attentions", "quantization_config", "to_dict", "max_num_numbers", "validate_encoder", "self", "cls"),
    *("name_or_path", "per_layer_config", "rope_scaling", "problem_type", "auto_map", "_name_or_path", "sub_configs"),
    *("hidden_size", "pruned_heads", "use_return_dict", "segment_sec", "mode", "seed", "_commit_hash", "fields"),
)


NO_JSON = (b"", b"{", b"\xff\xfe{", b"\xef\xbb\xbf{}", b"[" * 100_000)


def build_fields(kind: str) -> dict[str, Any]:
    if kind == "apex":
        return build_small_model().config.to_dict()
    if kind == "fusion":
        numeric = {"name": "tempo", "kind": "numeric", "transform": "identity", "is_leaking": False}
        categorical = {"name": "genre", "kind": "categorical", "categories": ["a"], "is_leaking": False}
        return SpectrogramFusionConfig(features=[{**numeric, "mean": 1.0, "std": 1.0}, categorical]).to_dict()
    return SongEvalConfig().to_dict()


def list_places(fields: dict[str, Any], start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, value in fields.items():
        yield (*start, name)
        if isinstance(value, dict):
            yield from list_places(value, (*start, name))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from list_places(value[0], (*start, name, 0))


def mutate(fields: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(fields)
    target: Any = changed
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return changed


@pytest.mark.parametrize("kind", ["apex", "fusion", "songeval"])
def test_each_field_with_each_bad_value(kind: str) -> None:
    fields = build_fields(kind)
    classes = {"apex": ApexConfig, "fusion": SpectrogramFusionConfig, "songeval": SongEvalConfig}
    config_class: Any = classes[kind]
    places = [*list_places(fields), *((name,) for name in OTHERS if name not in fields)]
    if kind == "apex":
        places += [("encoder_config", name) for name in OTHERS if name not in fields["encoder_config"]]
    num_refused, num_kept, num_slips = 0, 0, 0
    for place in places:
        for value in BAD:
            try:
                config = config_class.from_dict(mutate(fields, place, value))
                config.to_json_string()
            except USER_ERRORS as error:  # any other kind is a fault, and so is a slip of an expression
                num_slips += is_slip(error) or len(str(error)) > 2000
                num_refused += 1
            else:
                num_kept += 1
        assert num_slips == 0, place
    assert num_refused > num_kept > 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_labels", 2_000_000_000, "`num_labels` must be at most 10000, got a larger number"),
        ("num_labels", None, "`num_labels` must be an integer, got None"),
        (
            "id2label",
            {str(number): "" for number in range(10_001)},
            "`id2label` has 10,001 entries, but at most 10,000",
        ),
        ("id2label", {"one": "a"}, "`id2label` must number its labels, got {'one': 'a'}"),
        ("label2id", [1], r"`label2id` must be a dict, got \[1\]"),
        ("problem_type", "none", "`problem_type` must be one of 'regression', "),
        ("dtype", "cuda", "`dtype` must be one of 'float16', "),
        ("architectures", [1], r"`architectures` must be a string, got 1"),
        ("attn_implementation", [], r"`attn_implementation` must be a string, got \[\]"),
        ("_name_or_path", 3, "`_name_or_path` must be a string, got 3"),
        (
            "max_num_numbers",
            10**18,
            "`max_num_numbers` is not a config field, and would shadow a meth",
        ),
        ("anything", DEEP, "nested deeper than 32 levels, or has more than 4,000,000 entries"),
        (
            "provenance",
            {"notice": "\x1b[2Jall is well"},
            "`provenance.notice` must be at most 10,000 characters without",
        ),
        ("provenance", {"encoder": "MERT"}, "`provenance.encoder` must be a dict, got 'MERT'"),
        ("provenance", {"heads": {"source": 3}}, r"`provenance.heads.source` must be a string, got \{'source': 3\}"),
        ("mert_model_name", 3, "`mert_model_name` must be a string, got 3"),
    ],
)
def test_what_is_said(name: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build_small_model().config.from_dict({**build_fields("apex"), name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_act", "nonsense", "`encoder_config.hidden_act` must be one of 'gelu', "),
        ("num_labels", 2_000_000_000, "`encoder_config.num_labels` must be at most 10000"),
        ("mask_time_prob", 1e300, "`encoder_config.mask_time_prob` must be at most 1, got 1e"),
        ("num_feat_extract_layers", 3, "`encoder_config` cannot be: .*Configuration for convolutional layers"),
        ("to_dict", 1, "`encoder_config.to_dict` is not a config field"),
    ],
)
def test_what_is_said_of_an_encoder(name: str, value: Any, message: str) -> None:
    fields = build_fields("apex")
    fields["encoder_config"][name] = value
    with pytest.raises((TypeError, ValueError), match=message):
        build_small_model().config.from_dict(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"segment_seconds": 1e6},
            "`segment_seconds` 1e.06 at `sampling_rate` 24000 is 24,000,000,000 samples, above",
        ),
        ({"segment_seconds": 600.0, "hop_size": 1}, r"the spectrogram of one segment would need [\d,]+ numbers"),
        ({"num_mel_bands": 5000}, "`num_mel_bands` must be at most 1024"),
    ],
)
def test_spectrograms_that_would_fill_the_memory(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectrogramFusionConfig(**fields)


def test_features_without_end() -> None:
    feature = {"kind": "categorical", "categories": ["a"], "is_leaking": False}
    with pytest.raises(ValueError, match="`features` has 1,001 entries, but at most 1,000 are accepted"):
        SpectrogramFusionConfig(features=[{**feature, "name": f"f{number}"} for number in range(1001)])


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '"text"', "{", "[" * 100_000, "\x00", '{"model_type": []}', "{}"]
)
def test_a_config_file_that_is_none(
    tiny_folder: Path, content: str, song_file: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    (tiny_folder / "config.json").write_text(content)
    for door in (find_model_class, load_pipeline):
        with pytest.raises((OSError, ValueError)):
            door(tiny_folder)
    for words in (["score", str(song_file())], ["export", "--output", str(tiny_folder / "out")]):
        assert main([*words, "--model", str(tiny_folder)]) == 2
    assert str(tiny_folder) in capsys.readouterr().err
    assert main(["verify", "--model", str(tiny_folder)]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, r"config\.json: is not JSON \(.*\)\. Download the model again") for content in NO_JSON),
        *(
            (content, r"config\.json: must hold the fields of a config by name, `model_type` a text, got ")
            for content in (b"[1]", b"null", b"3", b'"text"', b'{"model_type": [1]}')
        ),
    ],
)
def test_each_door_of_ours_names_the_file_that_is_no_config(tiny_folder: Path, content: bytes, message: str) -> None:
    extractor = tiny_folder / "preprocessor_config.json"
    extractor.write_bytes(content)
    with pytest.raises(ValueError, match=f"{tiny_folder}/preprocessor_{message}"):
        ApexFeatureExtractor.from_pretrained(tiny_folder)
    extractor.unlink()
    (tiny_folder / "config.json").write_bytes(content)
    classes = (ApexConfig, ApexModel, SpectrogramFusionConfig, SpectrogramFusionModel, SongEvalConfig, SongEvalModel)
    for door in (*(each.from_pretrained for each in classes), load_model, load_scorer, load_pipeline):
        with pytest.raises(ValueError, match=f"{tiny_folder}/{message}"):
            door(tiny_folder)


def test_an_extractor_file_elsewhere_is_named_too(tiny_folder: Path) -> None:
    (tiny_folder / "elsewhere.json").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match=r"elsewhere\.json: is not JSON \(.*\)\. Download the model again"):
        ApexFeatureExtractor.from_pretrained(tiny_folder / "elsewhere.json")
    (tiny_folder / "elsewhere.json").write_bytes(b"[1]")
    with pytest.raises(ValueError, match=r"elsewhere\.json: must hold the fields of a .*, got \[1\]"):
        ApexFeatureExtractor.from_pretrained(tiny_folder / "elsewhere.json")


def test_a_config_file_without_end(tiny_folder: Path) -> None:
    with open(tiny_folder / "config.json", "wb") as file:
        file.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(ValueError, match="33,554,433 bytes, but a config has at most 33,554,432"):
        load_pipeline(tiny_folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("num_labels",), 2_000_000_000),
        (("sampling_rate",), 10**400),
        (("segment_seconds",), float("nan")),
        (("layer_indices",), [10**9]),
        (("heads", 0, "maximum"), "5"),
        (("encoder_config", "hidden_act"), 3),
        (("encoder_config", "layer_norm_eps"), 1e300),
        (("encoder_config",), "hubert"),
        (("percentile_tables",), {"clarity": [1]}),
        (("self",), 1),
        (("mert_model_name",), ["a"]),
    ],
)
def test_the_command_line_refuses_and_exits_with_2(
    tiny_folder: Path,
    place: tuple[Any, ...],
    value: Any,
    song_file: Callable[..., Path],
    capsys: pytest.CaptureFixture,
) -> None:
    fields = json.loads((tiny_folder / "config.json").read_text())
    (tiny_folder / "config.json").write_text(json.dumps(mutate(fields, place, value)))
    assert main(["score", str(song_file()), "--model", str(tiny_folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of whatever kind, so that it is one of ours)
        AutoConfig.from_pretrained(tiny_folder)
    assert isinstance(caught.value, USER_ERRORS)
    assert not is_slip(caught.value)


@pytest.mark.parametrize("name", ["weights", "position_bias", "temperature", "format_version", "weight", "file"])
def test_each_field_of_a_preference_head(tmp_path: Path, name: str) -> None:
    PreferenceHead({"clarity": 1.0}).save_pretrained(tmp_path)
    path = tmp_path / "preference_head.json"
    fields = json.loads(path.read_text())
    for value in BAD:
        changed = {"weight": {**fields, "weights": {"clarity": value}}, "file": value}
        path.write_text(json.dumps(changed.get(name, {**fields, name: value})))
        with contextlib.suppress(ValueError):  # any other kind is a fault
            strength = load_preference_head(tmp_path).compute_strength({"clarity": 3.0})
            assert math.isfinite(strength)
    path.write_text('{"format_version": 1, "weights": {"clarity": 1e400}}')
    with pytest.raises(
        ValueError, match=r"preference_head\.json does not hold the fields of a preference head: A pref"
    ):
        load_preference_head(tmp_path)


@pytest.mark.parametrize("name", ["sampling_rate", "segment_seconds", "minimum_num_samples", "segment_num_samples"])
def test_each_field_of_a_feature_extractor(tmp_path: Path, name: str) -> None:
    ApexFeatureExtractor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    fields = json.loads(path.read_text())
    for value in BAD:
        path.write_text(json.dumps({**fields, name: value, "from_config": 1, "_load_waveform": 1}))
        with contextlib.suppress(ValueError, OSError):
            loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
            assert loaded.segment_num_samples == round(loaded.segment_seconds * loaded.sampling_rate)
            assert callable(loaded._load_waveform)
