"""
What a checkpoint may claim: checks of its config and its weight files before anything is allocated or read.

What comes in are the fields of a config and the headers of safetensors files; what leaves is nothing, or an error that
names the field or the file. A checkpoint may come from a stranger: its config could ask for a petabyte, and its header
could point anywhere. Only the header of a file is read here, never a tensor. No torch and no transformers.
"""

import itertools
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex.engines.encoder_shapes import list_encoder_shapes
from modeling_apex.inference.audio_limits_apex import MAX_SEGMENT_SAMPLES

MAX_WIDTH = 65_536
MAX_ACTIVATIONS = 2**30
"""Most numbers between two layers of the encoder for one segment: 4 GiB in float32."""

# Field of the encoder's config to its largest value; all are at least one.
ENCODER_BOUNDS = {
    "hidden_size": MAX_WIDTH,
    "num_hidden_layers": 512,
    "num_attention_heads": 1024,
    "intermediate_size": 4 * MAX_WIDTH,
    "num_conv_pos_embeddings": MAX_WIDTH,
    "num_conv_pos_embedding_groups": MAX_WIDTH,
}
ENCODER_LIST_BOUNDS = {"conv_dim": MAX_WIDTH, "conv_kernel": MAX_WIDTH, "conv_stride": MAX_WIDTH}
MAX_CONV_LAYERS = 32

MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
MAX_TENSORS = 100_000
# Bits of a number of each kind that safetensors stores.
DTYPE_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
# A config and its weights that differ by less than this are left to strict loading, which names each tensor.
SMALL_DIFFERENCE = 10_000_000


def check_sizes(config: Any) -> None:
    """
    Refuse an [`ApexConfig`] with sizes that no model has, before anything is allocated.

    Raises:
        `TypeError`: If a size of the encoder is not a whole number.
        `ValueError`: If a size is out of bounds, the convolutions do not fit together, a division leaves a rest, or
            the model, a segment, or what passes between two layers would be too large.
    """
    _check_encoder(config.encoder_config)
    _check_model_size(config)


def _check_encoder(encoder: Any) -> None:
    """Check the sizes in an encoder's config, each for itself and together."""
    for name, maximum in ENCODER_BOUNDS.items():
        check_size(f"encoder_config.{name}", getattr(encoder, name), maximum)
    for name, maximum in ENCODER_LIST_BOUNDS.items():
        check_size_list(f"encoder_config.{name}", getattr(encoder, name), maximum)
    lengths = {len(getattr(encoder, name)) for name in ENCODER_LIST_BOUNDS}
    if len(lengths) > 1:
        raise ValueError(
            "`encoder_config.conv_dim`, `conv_kernel` and `conv_stride` must each have one entry per convolution, got "
            f"{len(encoder.conv_dim)}, {len(encoder.conv_kernel)} and {len(encoder.conv_stride)}."
        )
    for divisor in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        if encoder.hidden_size % getattr(encoder, divisor):
            raise ValueError(
                f"`encoder_config.hidden_size` {encoder.hidden_size} must be a multiple of `{divisor}` "
                f"{getattr(encoder, divisor)}."
            )


def _check_model_size(config: Any) -> None:
    """Check that a model can be built and run at all, once its encoder's fields were checked."""
    num_numbers = count_numbers(config)
    if num_numbers > config.max_num_numbers:
        raise ValueError(
            f"this config describes a model of {num_numbers:,} numbers, above the limit of "
            f"{config.max_num_numbers:,}; nothing was allocated. If you trust it, raise the limit: "
            "ApexConfig.max_num_numbers = ..."
        )
    if config.segment_num_samples > MAX_SEGMENT_SAMPLES:
        raise ValueError(
            f"`segment_seconds` {config.segment_seconds:g} at `sampling_rate` {config.sampling_rate} is "
            f"{config.segment_num_samples:,} samples, above the limit of {MAX_SEGMENT_SAMPLES:,}."
        )
    encoder, frames, largest = config.encoder_config, config.segment_num_samples, 0
    for width, kernel, stride in zip(encoder.conv_dim, encoder.conv_kernel, encoder.conv_stride, strict=True):
        frames = max(0, (frames - kernel) // stride + 1)
        largest = max(largest, frames * width)
    largest = max(largest, frames * encoder.intermediate_size, frames * encoder.hidden_size)
    if largest > MAX_ACTIVATIONS:
        raise ValueError(
            f"one segment would need {largest:,} numbers between two layers of the encoder, above the limit of "
            f"{MAX_ACTIVATIONS:,}. Shorten `segment_seconds`, or check `conv_stride`."
        )


def check_spectrogram_size(fields: Mapping[str, Any]) -> None:
    """
    Refuse a spectrogram-fusion model whose segments would fill the memory.

    Raises:
        `ValueError`: If a segment is too long, or what its first convolution makes of it too large.
    """
    num_samples = fields["segment_seconds"] * fields["sampling_rate"]
    if num_samples > MAX_SEGMENT_SAMPLES:
        raise ValueError(
            f"`segment_seconds` {fields['segment_seconds']:g} at `sampling_rate` {fields['sampling_rate']} is "
            f"{num_samples:,.0f} samples, above the limit of {MAX_SEGMENT_SAMPLES:,}."
        )
    num_bands = fields["num_mel_bands"] if fields["spectrogram"] == "log-mel" else fields["fft_size"] // 2 + 1
    widest = max(fields["channels"])
    num_numbers = num_samples / fields["hop_size"] * max(num_bands * widest, 2 * fields["fft_size"])
    if num_numbers > MAX_ACTIVATIONS and widest <= MAX_WIDTH:  # what is wider than that, the config itself refuses
        raise ValueError(
            f"the spectrogram of one segment would need {num_numbers:,.0f} numbers, above the limit of "
            f"{MAX_ACTIVATIONS:,}. Shorten `segment_seconds`, or raise `hop_size`."
        )


def count_numbers(config: Any) -> int:
    """Count the numbers in the state dict of an `ApexModel`, from its config alone."""

    def count_blocks(widths: Sequence[int]) -> int:
        return sum(a * b + 5 * b + 1 for a, b in itertools.pairwise(widths))

    encoder = sum(math.prod(shape) for shape in list_encoder_shapes(config.encoder_config).values())
    trunk = count_blocks([config.encoder_config.hidden_size, *config.shared_dims])
    branch = count_blocks([config.shared_dims[-1], *config.branch_dims]) + config.branch_dims[-1] + 1
    return int(encoder + len(config.layer_indices) + 1 + trunk + len(config.heads) * branch)


def check_weight_files(paths: Sequence[Path], num_expected: int | None = None) -> None:
    """
    Check the headers of safetensors files, and that together they hold about what a config asks for.

    Args:
        paths (`Sequence[Path]`), num_expected (`int`, *optional*):
            All files of a checkpoint, and what [`count_numbers`] says.

    Raises:
        `ValueError`: If a header is damaged or lies, or the files belong to a model of quite another size.
    """
    stored = sum(math.prod(shape) for path in paths for shape in read_safetensors_shapes(path).values())
    if num_expected is None or abs(stored - num_expected) <= SMALL_DIFFERENCE:
        return
    if stored > 2 * num_expected or num_expected > 2 * stored:
        raise ValueError(
            f"{paths[0]}: holds {stored:,} numbers, but its config describes a model of {num_expected:,}: they do not "
            "belong together, and nothing was loaded. Load the weights with the config that they were saved with."
        )


def read_safetensors_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """
    Read and check the header of a safetensors file, and none of its tensors: the shape of each by its name.

    Raises:
        `ValueError`: If the header is damaged, or states what the file does not hold: sizes, places or kinds of
            tensors, overlaps or gaps.
    """
    path = Path(path)
    num_bytes = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > num_bytes - 8:
            raise _build_header_error(path, f"states {length} bytes, but the file has {num_bytes}; is it complete?")
        if length > MAX_HEADER_BYTES:
            raise _build_header_error(path, f"is {length} bytes long, above the limit of {MAX_HEADER_BYTES}.")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_refuse_doubles)
    except (ValueError, RecursionError) as error:
        raise _build_header_error(path, f"is not JSON ({str(error)[:200]}).") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise _build_header_error(path, f"must be a list of at most {MAX_TENSORS} tensors by name.")
    header.pop("__metadata__", None)
    places = [(name, *_check_entry(path, name, entry)) for name, entry in header.items()]
    end = 0
    for name, _, begin, stop in sorted(places, key=lambda place: place[2:]):
        if begin != end:
            raise _build_header_error(path, f"leaves a gap or an overlap before {name!r:.100}, at byte {end}.")
        end = stop
    if end != num_bytes - 8 - length:
        raise _build_header_error(
            path, f"states {end} bytes of tensors, but the file holds {num_bytes - 8 - length}; is it complete?"
        )
    return {name: shape for name, shape, _, _ in places}


def check_shard_names(path: Path, weight_map: Any) -> list[str]:
    """
    Return the files that an index of weights names; each must lie beside it.

    Raises:
        `ValueError`: If the index names no files, or one that is not a plain file name.
    """
    if not isinstance(weight_map, Mapping) or not weight_map or len(weight_map) > MAX_TENSORS:
        raise ValueError(f"{path}: `weight_map` must name a file for each tensor, got {weight_map!r:.100}.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
            raise ValueError(
                f"{path}: names {name!r:.100} as a file of weights; expected the plain name of a .safetensors file "
                "beside it. Nothing was loaded."
            )
    return names


def check_size(label: str, value: Any, maximum: int) -> None:
    """Check a size of an encoder, before anything has it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{label}` must be a whole number, got {value!r:.80}.")
    if not 1 <= value <= maximum:
        shown = value if abs(value) < 10**18 else "a number of more than 18 digits"
        raise ValueError(f"`{label}` must be between 1 and {maximum}, got {shown}; nothing was allocated.")


def check_size_list(label: str, values: Any, maximum: int) -> None:
    """Check a size of each convolution of an encoder."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"`{label}` must be a list of integers, got {values!r:.80}.")
    check_size(f"len({label})", len(values), MAX_CONV_LAYERS)
    for value in values:
        check_size(label, value, maximum)


def _build_header_error(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path}: not a valid safetensors file; its header {problem} Nothing was loaded.")


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _check_entry(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    """Check one tensor of a header; return its shape and where it begins and stops."""

    def is_count_list(values: Any) -> bool:
        return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**53 for value in values)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _build_header_error(path, f"describes {name!r:.100} by {entry!r:.100}.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPE_BITS:
        raise _build_header_error(path, f"gives {name!r:.100} the unknown dtype {entry['dtype']!r:.40}.")
    if not is_count_list(shape) or not is_count_list(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise _build_header_error(path, f"gives {name!r:.100} the shape {shape!r:.80} at {offsets!r:.80}.")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPE_BITS[entry["dtype"]] // 8:
        raise _build_header_error(
            path,
            f"gives {name!r:.100} {offsets[1] - offsets[0]} bytes for the shape {shape!r:.80} of {entry['dtype']}.",
        )
    return tuple(shape), offsets[0], offsets[1]
