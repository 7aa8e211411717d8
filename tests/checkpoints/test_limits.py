"""What a checkpoint may claim: sizes in its config, and headers of its weight files."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from modeling_apex import ApexConfig, ApexFeatureExtractor, ApexModel
from modeling_apex.checkpoints.limits import (
    MAX_HEADER_BYTES,
    SMALL_DIFFERENCE,
    check_shard_names,
    check_weight_files,
    count_numbers,
    read_safetensors_shapes,
)
from modeling_apex.registration import EMBEDDED_MODEL

ConfigFactory = Callable[..., ApexConfig]


class TestConfigs:
    @pytest.mark.parametrize(
        "encoder",
        [
            {},
            {"feat_extract_norm": "layer", "conv_bias": True},
            {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "adapter_attn_dim": 4},
            {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "feat_proj_layer_norm": False},
            {"conv_pos_batch_norm": True},
        ],
    )
    def test_numbers_are_counted_without_building(self, tiny_config: ConfigFactory, encoder: dict) -> None:
        config = tiny_config(encoder)
        assert count_numbers(config) == sum(tensor.numel() for tensor in ApexModel(config).state_dict().values())

    def test_numbers_of_the_models_that_there_are(self) -> None:
        shapes = read_safetensors_shapes(EMBEDDED_MODEL / "model.safetensors").values()
        stored = sum(torch.Size(shape).numel() for shape in shapes)
        assert count_numbers(ApexConfig.from_pretrained(EMBEDDED_MODEL)) == stored
        with torch.device("meta"):
            published = ApexModel(ApexConfig())
        assert count_numbers(ApexConfig()) == sum(tensor.numel() for tensor in published.state_dict().values())

    @pytest.mark.parametrize(
        ("encoder", "message"),
        [
            ({"hidden_size": 10**9}, r"`encoder_config.hidden_size` must be between 1 and 65536, got 1000000000"),
            ({"hidden_size": 10**400}, r"`encoder_config.hidden_size` must be .*got a number of more than 18 digits"),
            ({"num_hidden_layers": 10**8}, r"`encoder_config.num_hidden_layers` must be between 1 and 512"),
            ({"num_hidden_layers": -1}, r"`encoder_config.num_hidden_layers` must be between 1 and 512, got -1"),
            ({"num_attention_heads": 0}, r"`encoder_config.num_attention_heads` must be between 1 and 1024, got 0"),
            ({"num_attention_heads": 3}, r"`encoder_config.hidden_size` 16 must be a multiple of `num_attention_he"),
            ({"num_conv_pos_embedding_groups": 5}, r"16 must be a multiple of `num_conv_pos_embedding_groups` 5"),
            ({"intermediate_size": 2**60}, r"`encoder_config.intermediate_size` must be between 1 and 262144"),
            ({"num_conv_pos_embeddings": 2**40}, r"`encoder_config.num_conv_pos_embeddings` must be between 1 and"),
            ({"conv_dim": [8, 8, 10**12]}, r"`encoder_config.conv_dim` must be between 1 and 65536"),
            ({"conv_stride": [5, 0, 2]}, r"`encoder_config.conv_stride` must be between 1 and 65536, got 0"),
            ({"conv_kernel": [10, -3, 2]}, r"`encoder_config.conv_kernel` must be between 1 and 65536, got -3"),
            (
                {name: [1] * 10_000 for name in ("conv_dim", "conv_kernel", "conv_stride")},
                r"`len\(encoder_config.conv_dim\)` must be between 1 and 32, got 10000",
            ),
        ],
    )
    def test_absurd_encoders(self, tiny_config: ConfigFactory, encoder: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_config(encoder)

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("hidden_size", "16", r"`encoder_config.hidden_size` must be a whole number, got '16'"),
            ("hidden_size", True, r"`encoder_config.hidden_size` must be a whole number, got True"),
            ("conv_dim", "888", r"`encoder_config.conv_dim` must be a list of integers, got '888'"),
            ("conv_stride", 2, r"`encoder_config.conv_stride` must be a list of integers, got 2"),
        ],
    )
    def test_sizes_of_a_wrong_kind(self, tiny_config: ConfigFactory, field: str, value: Any, message: str) -> None:
        config = tiny_config()
        object.__setattr__(config.encoder_config, field, value)  # past what the release of transformers checks itself
        with pytest.raises(TypeError, match=message):
            config.validate_encoder()

    def test_convolutions_that_do_not_fit_together(self, tiny_config: ConfigFactory) -> None:
        config = tiny_config()
        object.__setattr__(config.encoder_config, "conv_kernel", [10, 3])
        with pytest.raises(ValueError, match=r"must each have one entry per convolution, got 3, 2 and 3"):
            config.validate_encoder()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"segment_seconds": 1e9},
                r"`segment_seconds` 1e\+09 at `sampling_rate` 24000 is .* above the limit",
            ),
            ({"segment_seconds": 1e308}, r"`segment_seconds` must be finite and of a plausible size"),
            ({"sampling_rate": 10**12}, r"`sampling_rate` 1000000000000 is .* samples, above the limit"),
            ({"sampling_rate": 10**400}, r"`sampling_rate` must be at most 9007199254740992, got a larger number"),
            ({"segment_seconds": 10**400}, r"`segment_seconds` must be finite and of a plausible size"),
            ({"shared_dims": [10**7]}, r"`shared_dims` must be at most 65536, got a larger number"),
            ({"branch_dims": [4] * 65}, r"`branch_dims` has 65 entries, but at most 64 are accepted"),
            ({"layer_indices": [0] * 10_000}, r"`layer_indices` has 10000 entries, but at most 64 are accepted"),
            (
                {"shared_dims": [65_536] * 3},
                r"a model of [\d,]+ numbers, above the limit of 2,000,000,000; noth",
            ),
            (
                {"heads": [{"name": f"s{i}", "minimum": 0, "maximum": 1, "group": "aesthetics"} for i in range(1001)]},
                r"`heads` has 1001 entries, but at most 1000 are accepted",
            ),
        ],
    )
    def test_absurd_fields(self, tiny_config: ConfigFactory, fields: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_config(**fields)

    def test_a_segment_that_would_fill_the_memory(self, tiny_config: ConfigFactory) -> None:
        encoder = {"conv_stride": [1, 1, 1], "conv_dim": [512, 8, 8]}
        with pytest.raises(ValueError, match=r"one segment would need [\d,]+ numbers between two layers"):
            tiny_config(encoder, segment_seconds=600.0)

    def test_the_limit_can_be_raised(self, tiny_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ApexConfig, "max_num_numbers", 1000)
        with pytest.raises(ValueError, match=r"above the limit of 1,000; nothing was allocated. If you trust it"):
            tiny_config()
        monkeypatch.setattr(ApexConfig, "max_num_numbers", 10**6)
        assert tiny_config()

    def test_a_checkpoint_is_refused_by_every_door(self, tiny_folder: Path) -> None:
        config = json.loads((tiny_folder / "config.json").read_text())
        config["encoder_config"]["hidden_size"] = 10**9
        (tiny_folder / "config.json").write_text(json.dumps(config))
        for door in (ApexConfig.from_pretrained, AutoConfig.from_pretrained, ApexModel.from_pretrained):
            with pytest.raises(ValueError, match="hidden_size"):
                door(tiny_folder)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"segment_seconds": 1e9},
                r"`segment_seconds` 1000000000\.0 at `sampling_rate` 24000 is .* above",
            ),
            ({"segment_seconds": float("nan")}, r"`segment_seconds` must be a positive number of seconds, got nan"),
            ({"segment_seconds": "30"}, r"`segment_seconds` must be a positive number of seconds, got '30'"),
            ({"sampling_rate": 0}, r"`sampling_rate` must be a positive whole number of hertz, got 0"),
            ({"minimum_num_samples": -1}, r"`minimum_num_samples` must be a positive whole number, got -1"),
        ],
    )
    def test_a_feature_extractor(self, tmp_path: Path, fields: dict, message: str) -> None:
        ApexFeatureExtractor().save_pretrained(tmp_path)
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        with pytest.raises(ValueError, match=message):
            ApexFeatureExtractor.from_pretrained(tmp_path)


def write_safetensors(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list, offsets: list, dtype: Any = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


class TestHeaders:
    def test_a_sound_file(self, tmp_path: Path) -> None:
        tensors = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64), "c": torch.zeros(0, 5)}
        save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
        shapes = read_safetensors_shapes(tmp_path / "x.safetensors")
        assert shapes == {"a": (2, 3), "b": (), "c": (0, 5)}
        check_weight_files([tmp_path / "x.safetensors"], 7)

    @pytest.mark.parametrize(
        ("header", "data", "length", "message"),
        [
            (b"", b"", 10**15, r"states 1000000000000000 bytes, but the file has 8; is it complete\?"),
            (b"{}", b"", 2**64 - 1, r"states 18446744073709551615 bytes, but the file has 10"),
            (b"not json", b"", None, r"is not JSON \(Expecting value"),
            (b"\xff\xfe", b"", None, r"is not JSON \('utf-8' codec"),
            (b"[" * 100_000, b"", None, r"is not JSON \(maximum recursion"),
            (b'{"a":{"dtype":"F32"},"a":{}}', b"", None, r"is not JSON \(a name occurs twice"),
            ([1], b"", None, r"must be a list of at most 100000 tensors by name"),
            ({"a": 3}, b"", None, r"describes 'a' by 3"),
            ({"a": {**entry([1], [0, 4]), "more": 1}}, bytes(4), None, r"describes 'a' by \{"),
            ({"a": entry([1], [0, 4], "F99")}, bytes(4), None, r"gives 'a' the unknown dtype 'F99'"),
            ({"a": entry([1], [0, 4], ["F32"])}, bytes(4), None, r"gives 'a' the unknown dtype \['F32'\]"),
            ({"a": entry([-1], [0, 4])}, bytes(4), None, r"gives 'a' the shape \[-1\]"),
            ({"a": entry([True], [0, 4])}, bytes(4), None, r"gives 'a' the shape \[True\]"),
            ({"a": entry([1.0], [0, 4])}, bytes(4), None, r"gives 'a' the shape \[1\.0\]"),
            ({"a": entry([1], [0])}, bytes(4), None, r"gives 'a' the shape \[1\] at \[0\]"),
            ({"a": entry([1] * 65, [0, 4])}, bytes(4), None, r"gives 'a' the shape \[1, 1"),
            ({"a": entry([2**40, 2**40], [0, 4])}, bytes(4), None, r"gives 'a' 4 bytes for the shape"),
            ({"a": entry([2**62], [0, 2**52])}, bytes(4), None, r"gives 'a' the shape \[4611686018427387904\]"),
            ({"a": entry([1], [4, 0])}, bytes(4), None, r"gives 'a' -4 bytes for the shape \[1\] of F32"),
            (
                {"a": entry([2], [0, 8])},
                bytes(4),
                None,
                r"states 8 bytes of tensors, but the file holds 4; is it",
            ),
            ({"a": entry([1], [0, 4])}, bytes(9), None, r"states 4 bytes of tensors, but the file holds 9"),
            (
                {"a": entry([1], [0, 4]), "b": entry([1], [2, 6])},
                bytes(6),
                None,
                r"leaves a gap or an overlap",
            ),
            (
                {"a": entry([1], [0, 4]), "b": entry([1], [0, 4])},
                bytes(4),
                None,
                r"leaves a gap or an overlap",
            ),
            ({"a": entry([1], [4, 8])}, bytes(8), None, r"leaves a gap or an overlap before 'a', at byte 0"),
        ],
    )
    def test_lies(self, tmp_path: Path, header: Any, data: bytes, length: int | None, message: str) -> None:
        path = write_safetensors(tmp_path / "x.safetensors", header, data, length=length)
        with pytest.raises(ValueError, match=r"x\.safetensors: not a valid safetensors file; its header " + message):
            read_safetensors_shapes(path)

    def test_a_header_beyond_the_limit(self, tmp_path: Path) -> None:
        with open(tmp_path / "x.safetensors", "wb") as file:
            file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
            file.truncate(MAX_HEADER_BYTES + 100)
        with pytest.raises(ValueError, match=r"its header is 100000001 bytes long, above the limit of 100000000"):
            read_safetensors_shapes(tmp_path / "x.safetensors")

    def test_every_truncation_is_refused(self, tiny_folder: Path) -> None:
        path = tiny_folder / "model.safetensors"
        whole = path.read_bytes()
        for percent in range(0, 100, 5):
            path.write_bytes(whole[: len(whole) * percent // 100])
            with pytest.raises(ValueError, match=r"model\.safetensors: not a valid safetensors file; its header"):
                ApexModel.from_pretrained(tiny_folder)

    def test_weights_of_another_size_are_refused_before_a_model_is_built(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tiny_folder / "model.safetensors"
        shape = [SMALL_DIFFERENCE * 4]
        header = json.dumps({"oversized": entry(shape, [0, 4 * shape[0]])}).encode()
        with open(path, "wb") as file:  # a sparse file: large by its length, small on the disk
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * shape[0])
        monkeypatch.setattr(ApexModel, "__init__", lambda *arguments: pytest.fail("a model was built"))
        with pytest.raises(ValueError, match=r"holds 40,000,000 numbers, but its config describes a model of [\d,]+:"):
            ApexModel.from_pretrained(tiny_folder)
        with pytest.raises(ValueError, match=r"holds 0 numbers, but its config describes a model of 1,900,000,000"):
            check_weight_files([write_safetensors(path, {})], 1_900_000_000)

    def test_large_models_of_the_right_size_pass(self, tmp_path: Path) -> None:
        path = write_safetensors(tmp_path / "x.safetensors", {"a": entry([10], [0, 40])}, bytes(40))
        check_weight_files([path, path], 20)
        check_weight_files([path])


class TestShards:
    def test_a_model_in_shards_loads(self, tiny_model: ApexModel, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path, max_shard_size="10KB")
        assert (tmp_path / "model.safetensors.index.json").is_file()
        loaded = ApexModel.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in tiny_model.state_dict().items())
        shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=rf"{shard.name} is missing; model\.safetensors\.index\.json"):
            ApexModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "name",
        ["../other/model.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", "..\\x.safetensors", "", 3],
    )
    def test_an_index_that_points_outside(self, tiny_folder: Path, name: Any) -> None:
        weights = load_file(tiny_folder / "model.safetensors")
        (tiny_folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (tiny_folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"index\.json: names .* as a file of weights; expected the plain na"):
            ApexModel.from_pretrained(tiny_folder)

    @pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors"])
    def test_an_index_of_nothing(self, weight_map: Any) -> None:
        with pytest.raises(ValueError, match=r"x\.json: `weight_map` must name a file for each tensor, got"):
            check_shard_names(Path("x.json"), weight_map)
