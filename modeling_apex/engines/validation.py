"""
Records of what a shortcut does to scores, without which it does not run.

A shortcut is an engine that computes in something coarser than float32. `measure_shortcut` scores songs by it and by
the exact path and writes a record: the largest change of every score, the ratio of speeds, and what all of that holds
for: these weights, this engine, these library versions, this kind of processor. `require_record` finds the record or
refuses. Float32 graphs keep their records here too: the probe that they passed.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from modeling_apex.engines.encoder_engine import describe_record, is_number, is_number_table, read_json
from modeling_apex.storage.output_folder import save_json

VALIDATION_FILE = "validation.json"
MEASURE_AGAIN = "Delete the file, and measure again: apex-music validate SONG..."
# The largest change of a score that a shortcut may make, as a share of the score's range: 1 point of 100.
DEFAULT_TOLERANCE = 0.01
LIBRARIES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
# Instructions that decide in what order, and with how many bits, a processor adds up.
PROCESSOR_FLAGS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)


class NotValidatedError(RuntimeError):
    """A shortcut was asked for that was never measured here; the message names the command that does."""


def describe_hardware(device: torch.device) -> str:
    """Name the kind of processor that numbers hold for, such as `"x86_64 AVX512 avx512_bf16"` or a GPU's name."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return str(device.type)
    line = ""
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    found = [flag for flag in PROCESSOR_FLAGS if flag in line.partition(":")[2].split()]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *found])


def build_record_key(
    fingerprint: str, engine: str, precision: str, device: torch.device, *, is_compiled: bool = False
) -> dict[str, Any]:
    """Build what a record must agree on with the run that relies on it; see `compute_fingerprint` for the first."""
    library = LIBRARIES[engine]
    return {
        "fingerprint": fingerprint,
        "engine": engine,
        "precision": precision,
        "is_compiled": is_compiled,
        "library": f"{library} {version(library)}",
        "hardware": describe_hardware(device),
    }


def load_records(folder: Path) -> list[dict[str, Any]]:
    """
    Read all records of an engine folder; none if it has no file of them.

    Raises:
        `ValueError`: If the file is not one that `save_record` writes.
    """
    path = folder / VALIDATION_FILE
    if not path.is_file():
        return []
    content = read_json(path)
    records = content.get("records") if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and isinstance(record.get("key"), dict) for record in records
    ):
        raise ValueError(f"{path}: does not hold records of validations. {MEASURE_AGAIN}")
    return list(records)


def _is_shortcut_record(record: dict[str, Any]) -> bool:
    """Tell whether a record has all that is said of a shortcut."""
    changes, ranges = record.get("largest_change"), record.get("ranges")
    if not is_number_table(changes) or not is_number_table(ranges) or set(changes) != set(ranges):
        return False
    return (
        all(value > 0 for value in ranges.values())
        and all(is_number(record.get(name)) for name in ("speed_ratio", "tolerance", "num_songs"))
        and isinstance(record.get("is_within_tolerance"), bool)
        and isinstance(record.get("reference"), str)
    )


def find_record(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record that agrees with a key, or `None`."""
    return next((record for record in load_records(folder) if record["key"] == key), None)


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Store a record in the place of an older one with the same key."""
    records = [other for other in load_records(folder) if other["key"] != record["key"]]
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / VALIDATION_FILE, {"records": [*records, record]}, is_shared=True)


def require_record(folder: Path, key: Mapping[str, Any], model_name: str) -> dict[str, Any]:
    """
    Return the record of a shortcut; messages call the model by `model_name`, as its user does.

    Raises:
        [`NotValidatedError`]: If there is none, or the shortcut changed scores by more than was tolerated.
    """
    command = (
        f"apex-music validate SONG... --model {model_name} --engine {key['engine']} --precision {key['precision']}"
        + (" --compile" if key["is_compiled"] else "")
    )
    title = f"the engine {key['engine']} in {key['precision']}{' (compiled)' if key['is_compiled'] else ''}"
    record = find_record(folder, key)
    if record is not None and not _is_shortcut_record(record):
        raise ValueError(f"{folder / VALIDATION_FILE}: the record of {title} is damaged. {MEASURE_AGAIN}")
    if record is None:
        raise NotValidatedError(
            f"{title} was never validated for this model with {key['library']} on {key['hardware']}. Measure on songs "
            f"of yours what it changes: {command}"
        )
    if not record["is_within_tolerance"]:
        raise NotValidatedError(
            f"{title} failed its validation: {describe_record(record)}; {record['tolerance']:.2%} was tolerated. Use "
            f"another precision, or accept it by validating with a higher tolerance: {command} --tolerance T"
        )
    return record


def measure_shortcut(
    exact: Callable[[Any], Sequence[Mapping[str, Any]]],
    shortcut: Callable[[Any], Sequence[Mapping[str, Any]]],
    songs: Sequence[Any],
    key: Mapping[str, Any],
    *,
    reference: str,
    tolerance: float = DEFAULT_TOLERANCE,
) -> dict[str, Any]:
    """
    Score songs by the exact path and by a shortcut, and say what changed.

    Args:
        exact, shortcut (`Callable`): From songs to reports, by either path.
        songs (`Sequence`): What both understand.
        key (`dict`): What the record holds for, by `build_record_key`.
        reference (`str`): Name of the exact path, such as `"torch float32"`.
        tolerance (`float`, defaults to 0.01):
            The largest change of a score that is accepted, as a share of the score's range.

    Returns:
        `dict`: the record. `speed_ratio` is of CPU seconds on a CPU and of wall seconds elsewhere, reading songs
        included, after one song to warm up.

    Raises:
        `ValueError`: If there is no song, or the tolerance is not positive.
    """
    if not songs:
        raise ValueError("a shortcut is validated on songs, and none was given.")
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive, got {tolerance}.")
    clock = time.process_time if not str(key["hardware"]).startswith("cuda") else time.perf_counter
    seconds, reports = {}, {}
    for name, score in (("exact", exact), ("shortcut", shortcut)):
        score(songs[:1])
        started = clock()
        reports[name] = list(score(songs))
        seconds[name] = clock() - started
    ranges = {head: high - low for head, (low, high) in reports["exact"][0]["ranges"].items()}
    largest = {
        head: max(
            abs(after["scores"][head] - before["scores"][head])
            for before, after in zip(reports["exact"], reports["shortcut"], strict=True)
        )
        for head in ranges
    }
    return {
        "key": dict(key),
        "largest_change": largest,
        "ranges": ranges,
        "reference": reference,
        "speed_ratio": seconds["exact"] / seconds["shortcut"],
        "num_songs": len(songs),
        "num_segments": sum(report["num_segments"] for report in reports["exact"]),
        "tolerance": tolerance,
        "is_within_tolerance": all(largest[head] <= tolerance * ranges[head] for head in ranges),
    }
