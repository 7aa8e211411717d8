"""
Songs as training reads them from disk: rows of numbers, which song owns which, and a small table of the songs.

What the rows are is up to who wrote them: segment embeddings (`embedding_store`) or decoded segments
(`waveform_store`). A batch is a plain slice or gather of rows, with no decoding and no copy of the whole.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from modeling_apex.inference.score_heads_apex import weigh_tail
from modeling_apex.storage.output_lock import OutputLock


class StoredRows:
    """
    The rows of a `.npy` file, read when they are asked for.

    Not memory-mapped: pages of a map count as memory of the process, after an epoch as much as the whole file, and for
    scattered rows the system maps far more than is read. Reading row by row is no slower.

    Args:
        path (`Path`):
            The file; it holds a matrix of float32.
    """

    def __init__(self, path: Path):
        array = np.load(path, mmap_mode="r")
        self.shape: tuple[int, int] = array.shape
        self.path = path
        self._offset = getattr(array, "offset", 0)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        width = self.shape[1]
        row_bytes = width * np.dtype(np.float32).itemsize
        with open(self.path, "rb", buffering=0) as file:
            if isinstance(rows, slice):
                start, stop, _ = rows.indices(len(self))
                file.seek(self._offset + start * row_bytes)
                return np.fromfile(file, np.float32, max(stop - start, 0) * width).reshape(-1, width)
            values = np.empty((len(rows), width), np.float32)
            for value, row in zip(values, rows.tolist(), strict=True):
                file.seek(self._offset + row * row_bytes)
                file.readinto(value.data)
        return values

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.float32]:
        return np.asarray(self[:], dtype)


Rows = StoredRows | NDArray[np.float32]


@dataclass(frozen=True)
class SongSplit:
    """
    The songs of one split.

    Args:
        name (`str`):
            Name of the split.
        segments ([`StoredRows`] of shape `(num_segments, hidden_size)`):
            Embeddings of all segments, song after song.
        offsets (`np.ndarray` of shape `(num_songs + 1,)`):
            Song `i` owns the segments `offsets[i]` to `offsets[i + 1]`.
        song_embeddings ([`StoredRows`] of shape `(num_songs, hidden_size)`):
            Mean of each song's segments.
        songs (`pa.Table`):
            One row a song: `id`, and its labels and groups as the dataset has them now.
        num_real_samples (`np.ndarray` of shape `(num_segments,)`, *optional*):
            Samples of each segment before its padding; read only where a model asks for them.
    """

    name: str
    segments: Rows
    offsets: NDArray[np.int64]
    song_embeddings: Rows
    songs: pa.Table
    num_real_samples: NDArray[np.int64] | None = None

    @property
    def num_songs(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_segments(self) -> int:
        return int(self.offsets[-1])

    def weigh_segments(self, config: Any) -> NDArray[np.float32]:
        """
        Say what each segment counts in the mean of its song, `(num_segments,)`, as `config.tail` has it.

        Raises:
            `ValueError`: If that depends on how much of a segment is real, and this is not known.
        """
        if config.tail == "full" or not self.num_segments:
            return np.ones(self.num_segments, np.float32)
        if self.num_real_samples is None:
            raise ValueError(
                f"the songs of {self.name!r} were opened without the lengths of their segments, which "
                f"tail={config.tail!r} needs. Open them with the config of the model."
            )
        counts = np.diff(self.offsets)
        longest = np.repeat(np.maximum.reduceat(self.num_real_samples, self.offsets[:-1]), counts)
        minimum = config.tail_seconds * config.sampling_rate
        weights: NDArray[np.float32] = weigh_tail(self.num_real_samples, longest, config.tail, minimum)
        return weights.astype(np.float32)

    def build_labels(self, head_names: Sequence[str]) -> NDArray[np.float32]:
        """
        Collect labels as one matrix.

        Returns:
            `np.ndarray` of shape `(num_songs, num_heads)`, float32: NaN where a song has no label, also where the
            dataset has no such column.
        """
        labels = np.full((self.num_songs, len(head_names)), np.nan, np.float32)
        for position, name in enumerate(head_names):
            if name in self.songs.column_names:
                labels[:, position] = self.songs[name].cast(pa.float32()).to_numpy()
        return labels

    def list_values(self, column: str) -> list[Any]:
        """Return a column of the songs as Python values; `None` for each song where there is no such column."""
        if column not in self.songs.column_names:
            return [None] * self.num_songs
        values: list[Any] = self.songs[column].to_pylist()
        return values


@dataclass(frozen=True)
class SongStore:
    """All splits of stored songs: what they were made from, its hash, and the hash of the dataset of their labels."""

    folder: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    dataset_sha256: str
    splits: dict[str, SongSplit]

    def get_split(self, name: str) -> SongSplit:
        """
        Return a split.

        Raises:
            `ValueError`: If there is no such split or it holds no song.
        """
        if name not in self.splits or not self.splits[name].num_songs:
            raise ValueError(
                f"{self.folder}: no split {name!r} with songs; there is {', '.join(self.splits) or 'none'}. Training "
                "needs `train` and `validation`: build the dataset with its splits (datasets_scripts) and embed it."
            )
        return self.splits[name]

    def refuse_shared_groups(self, first: str = "train", second: str = "validation") -> None:
        """
        Refuse splits that share a group, such as a creator whose songs sit on both sides.

        Raises:
            `ValueError`: If a group is in both splits, or a split has no groups.
        """
        groups = [set(self.get_split(name).list_values("group")) for name in (first, second)]
        if any(None in values for values in groups):
            raise ValueError(
                f"{self.folder}: songs without a `group`, so it is not known whether {first} and {second} share "
                "songs. Build the dataset with datasets_scripts, or train with require_grouped_splits=False."
            )
        shared = sorted(groups[0] & groups[1])
        if shared:
            raise ValueError(
                f"{self.folder}: {len(shared)} groups are both in {first} and in {second}, for example {shared[0]!r}. "
                "Split by group (datasets_scripts does), or train with require_grouped_splits=False."
            )


def make_store(folder: Path, build: Callable[[Path], None]) -> None:
    """
    Make a folder of stored songs, whole or not at all, unless it is there.

    Args:
        folder (`Path`):
            The folder; its name changes with what it is made from.
        build (`Callable[[Path], None]`):
            Writes the files into the folder that it is given.
    """
    if folder.is_dir():
        return
    with OutputLock(folder, is_file=True, waits=True):  # another run may be making the same one
        if folder.is_dir():
            return
        part = folder.with_name(f"{folder.name}.writing")
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir(parents=True)
        try:
            build(part)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
