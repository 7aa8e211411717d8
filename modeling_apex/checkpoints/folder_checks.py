"""
What lies in a model's folder beside the weights that are read: code, pointers to it, other weights, links.

What comes in is a folder from a stranger; what leaves are words about what somebody else's program might read or run
there. Nothing of it is run or loaded here.
"""

import json
import os
from pathlib import Path
from typing import Any

from modeling_apex.checkpoints.export import AUTO_MAPS, CUSTOM_PIPELINES, EXTRACTOR_CODE, list_code
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor

PICKLE_SUFFIXES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".th")
OTHER_WEIGHTS = (".gguf", ".h5", ".keras", ".msgpack", ".onnx", ".safetensors", ".tflite")
CODE_SUFFIXES = (".bat", ".dll", ".dylib", ".exe", ".ps1", ".py", ".pyc", ".pyd", ".sh", ".so", ".whl")
# What the authors' own repository carries: it is told apart from ours by name, and not run either.
PUBLISHED_CODE = {"configuration_apex.py", "modeling_apex.py"}
ADAPTERS = ("adapter_config.json", "adapter_model")
MAX_JSON_BYTES = 32 * 2**20


def list_all(folder: Path) -> list[Path]:
    """List what lies below a folder, without following a link to another one; not what the Hub's client notes."""
    found = []
    for place, folders, files in os.walk(folder):
        found += [Path(place) / name for name in (*folders, *files)]
    return sorted(path for path in found if ".cache" not in path.relative_to(folder).parts)


def find_strange_files(folder: Path) -> list[str]:
    """Describe links that lead out of a folder, and what is neither file nor folder."""
    # A snapshot in the Hub's cache consists of links to the blobs beside it.
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":
        homes.append(folder.parent.parent.resolve() / "blobs")
    problems = []
    for path in list_all(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes):
            problems.append(f"{name} is a link to {os.readlink(path)}")
        elif not path.is_file() and not path.is_dir():
            problems.append(f"{name} is not a file")
    return problems


def find_unread_weights(folder: Path, read: set[str]) -> list[str]:
    """List weights of any format and adapters beside those that are read: another program might take them instead."""
    suffixes = (*PICKLE_SUFFIXES, *OTHER_WEIGHTS)
    names = [path.relative_to(folder).as_posix() for path in list_all(folder)]
    return [
        name
        for name in names
        if name not in read
        and (name.lower().endswith((*suffixes, ".index.json")) or name.rpartition("/")[2].startswith(ADAPTERS))
    ]


def list_read_weights(folder: Path) -> set[str]:
    """List the names of the files of weights that loading takes, whether or not they are sound."""
    if (folder / "model.safetensors").is_file():
        return {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    content = read_fields(index)
    if content and isinstance(weight_map := content.get("weight_map"), dict):
        return {index.name, *map(str, weight_map.values())}
    return {"pytorch_model.bin"} if is_published_layout(folder) else set()


def is_published_layout(folder: Path) -> bool:
    """Tell whether a folder has the authors' layout: heads here, the encoder elsewhere."""
    return bool((read_fields(folder / "config.json") or {}).get("mert_model_name"))


def read_fields(path: Path) -> dict[str, Any] | None:
    """Read a file of JSON; `None` where it holds no fields, which loading says in its own words."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def find_foreign_code(folder: Path) -> tuple[list[str], list[str]]:
    """
    Compare code and pointers to code with what this release exports.

    Returns:
        `tuple[list[str], list[str]]`: what is foreign, and what is equal, or the authors' own in their own layout.
    """
    config = read_fields(folder / "config.json") or {}
    kind = str(config.get("model_type"))
    ours = {path.name: path.read_bytes() for path in list_code(kind)} if kind in AUTO_MAPS else {}
    is_published = is_published_layout(folder)
    foreign: list[str] = []
    known: list[str] = []
    for path in list_all(folder):
        name = path.relative_to(folder).as_posix()
        if not name.lower().endswith(CODE_SUFFIXES) or not path.is_file():
            continue
        is_known = name in PUBLISHED_CODE if is_published else name in ours and path.read_bytes() == ours[name]
        (known if is_known else foreign).append(name)
    present = {name for name in known if name in ours}
    if present and not is_published:
        foreign += [f"{name} is missing" for name in sorted(ours.keys() - present) if name not in foreign]
    for path in sorted(folder.glob("*.json")):
        if not is_published:
            foreign += _find_foreign_pointers(path, kind)
    return foreign, known


def _find_foreign_pointers(path: Path, kind: str) -> list[str]:
    expected: dict[str, Any] = {"auto_map": AUTO_MAPS.get(kind), "custom_pipelines": CUSTOM_PIPELINES}
    if path.name == "preprocessor_config.json":
        expected = {"auto_map": {"AutoFeatureExtractor": EXTRACTOR_CODE}}
    elif path.name != "config.json":
        expected = {}
    found = []
    unseen: list[tuple[str, Any]] = [("", read_fields(path) or {})]
    while unseen:
        place, fields = unseen.pop()
        for name, value in fields.items():
            if name in ("auto_map", "custom_pipelines"):
                if place or value != expected.get(name):
                    found.append(f"{path.name}: {place}{name} {json.dumps(value):.200}")
            elif isinstance(value, dict):
                unseen.append((f"{place}{name}.", value))
    return found


def find_extractor_differences(folder: Path, config: Any) -> list[str]:
    """Compare `preprocessor_config.json` with the config: what songs are cut into is not to be said twice."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return []
    stated = read_fields(path)
    if stated is None:
        return ["it is not JSON"]
    if getattr(config, "is_whole_song", False):
        return ["this model hears songs whole and has none; another program may cut songs by it"]
    expected = ApexFeatureExtractor.from_config(config)
    names = ("sampling_rate", "segment_seconds", "minimum_num_samples")
    return [
        f"{name} is {stated[name]!r:.40}, but the config implies {getattr(expected, name)}"
        for name in names
        if name in stated and stated[name] != getattr(expected, name)
    ]
