"""Pickles that leave a mark where they are opened as code, in every wrapping that weights come in."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Trap:
    """An object whose pickle makes a file when it is opened."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def build_pickle(marker: Path) -> bytes:
    return pickle.dumps({"model_state": Trap(marker)})


def build_torch_file(marker: Path) -> bytes:
    return _save(marker, _use_new_zipfile_serialization=True)


def build_old_torch_file(marker: Path) -> bytes:
    return _save(marker, _use_new_zipfile_serialization=False)


def build_numpy_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    array = np.empty(1, object)
    array[0] = Trap(marker)
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _save(marker: Path, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model_state": {"shared.0.block.0.weight": torch.zeros(2), "trap": Trap(marker)}}, buffer, **options)
    return buffer.getvalue()


TRAPS = {"pickle": build_pickle, "torch": build_torch_file, "old torch": build_old_torch_file}
