"""
Open a pickle of weights from a stranger: nothing in it can run, and it takes no more memory than its file has bytes.

What comes in is a file of `torch.save`; what leaves is the dict that it holds, each tensor in memory of its own. The
archive and the names that its pickle calls are looked at before torch sees them: a member that unpacks to more than it
is, a call that allocates what it is told to, and a tensor that claims more than its storage has are refused. This file
is the only one that opens pickles.
"""

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

MAX_PICKLE_BYTES = 64 * 2**20  # names and shapes of weights and of an optimizer; numbers lie outside of the pickle
MAX_DEPTH = 16
MAX_ENTRIES = 1_000_000
# What plain weights consist of, beside storages and dtypes of torch. What else torch allows can take any amount of
# memory by one number: `bytearray(10**12)`, `torch.Tensor(10**6, 10**6)`.
PLAIN_NAMES = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}


def load_pickle(path: Path) -> dict[str, Any]:
    """
    Load a pickle of plain weights.

    Raises:
        `ValueError`: If it is no archive of `torch.save`, calls anything but plain weights do, claims more than the
            file holds, or is no dict.
    """
    try:
        _check_archive(path)
        # Mapped, so that a storage is cut where the file ends, whatever the pickle says of its size.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(content, dict):
            raise ValueError(f"expected a dict of weights, got {type(content).__name__}.")
        _check_tensors(content, path.stat().st_size)
    except Exception as error:  # the unpickler raises many kinds; all mean that this file is not plain weights
        raise ValueError(
            f"{path}: not readable as plain weights (a pickle that holds code is refused): {str(error)[:500]}"
        ) from error
    return _copy(content)  # type: ignore[no-any-return]


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is, and a pickle that calls for more than weights."""
    if not zipfile.is_zipfile(path):
        raise ValueError("expected an archive of torch.save (torch 1.6 or later). Save older files again.")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if packed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{packed[0]!r:.100} is compressed, which torch.save never does. Save it again.")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members claim more bytes than the file has.")
        pickles = [member for member in members if member.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"expected one data.pkl of at most {MAX_PICKLE_BYTES:,} bytes in it.")
        opcodes = pickletools.genops(archive.read(pickles[0]))
        called = {str(argument) for opcode, argument, _ in opcodes if opcode.name in ("GLOBAL", "INST")}
    for name in called - PLAIN_NAMES:
        module, _, attribute = name.partition(" ")
        is_plain = isinstance(getattr(torch, attribute, None), torch.dtype) or attribute.endswith("Storage")
        if module not in ("torch", "torch.storage") or not is_plain:
            raise ValueError(f"it calls {name!r:.100}, which plain weights do not need.")


def _check_tensors(content: Mapping[Any, Any], num_bytes: int) -> None:
    """Refuse tensors that are larger than what is stored for them: one number can be `expand`ed to any size."""
    claimed = 0
    for name, tensor in _list_tensors(content):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ValueError(f"{name!r:.100} is not a tensor of plain weights.")
        size = tensor.numel() * tensor.element_size()
        claimed += size
        if size > tensor.untyped_storage().nbytes() or claimed > num_bytes:
            raise ValueError(f"{name!r:.100} claims the shape {tuple(tensor.shape)}, more than the file holds.")


def _list_tensors(content: Mapping[Any, Any]) -> list[tuple[str, torch.Tensor]]:
    """List the tensors, each by the keys that lead to it; what holds a list many times counts it as often."""
    found: list[tuple[str, torch.Tensor]] = []
    unseen: list[tuple[str, Any, int]] = [("", content, 0)]
    num_entries = 0
    while unseen:
        name, value, depth = unseen.pop()
        num_entries += 1
        if depth > MAX_DEPTH or num_entries > MAX_ENTRIES:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels, or has more than {MAX_ENTRIES:,} entries.")
        if isinstance(value, torch.Tensor):
            found.append((name, value))
        elif isinstance(value, Mapping):
            unseen += [(f"{name}.{key}".removeprefix("."), entry, depth + 1) for key, entry in value.items()]
        elif isinstance(value, (list, tuple)):
            unseen += [(name, entry, depth + 1) for entry in value]
    return found


def _copy(value: Any) -> Any:
    """Copy tensors out of the mapped file, so that they stay what they are whatever becomes of it."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value
