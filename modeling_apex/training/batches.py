"""
Which songs a batch holds, and where its randomness comes from.

All of it is a function of seed, epoch and batch, and equal in all processes: so a resumed run repeats the
uninterrupted one, and several processes train as one does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def refuse_few_rows(num_rows: int, num_processes: int) -> None:
    """
    Refuse to train on fewer rows than batch norm and the processes need.

    Raises:
        `ValueError`: If there are fewer than two rows, or fewer than processes.
    """
    if num_rows < max(2, num_processes):
        raise ValueError(
            f"{num_rows} training rows for {num_processes} processes; at least {max(2, num_processes)} are needed."
        )


def plan_batches(num_rows: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """
    Shuffle rows into batches; the result depends on nothing but the arguments.

    The last batch is not cut short: batches differ by one row at most, so that batch norm never sees a single row.

    Returns:
        `list[np.ndarray]`: row numbers, in rising order within a batch, so that a disk reads forwards.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_rows)
    return [np.sort(batch) for batch in np.array_split(order, count_steps(num_rows, batch_size))]


def count_steps(num_rows: int, batch_size: int, num_accumulated: int = 1) -> int:
    """Count the steps of an epoch, of `num_accumulated` batches each."""
    num_batches = max(1, min(-(-num_rows // batch_size), num_rows // 2))
    return -(-num_batches // num_accumulated)


def compute_step_seed(seed: int, epoch: int, batch: int) -> int:
    """Derive the seed of one step from those of the run."""
    return int(np.random.SeedSequence([seed, epoch, batch]).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's generators seeded, and give them their state back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def draw_segments(
    offsets: NDArray[np.int64],
    songs: NDArray[np.int64],
    max_segments: int,
    generator: np.random.Generator,
    weights: NDArray[np.float32],
) -> list[NDArray[np.int64]]:
    """
    Choose at most `max_segments` of the segments of each song that count at all, by `weights`, as ascending row
    numbers; songs begin at `offsets`.
    """
    drawn = []
    for song in songs:
        rows = offsets[song] + np.flatnonzero(weights[offsets[song] : offsets[song + 1]])
        drawn.append(np.sort(generator.choice(rows, min(max_segments, len(rows)), replace=False)))
    return drawn


def average_segments(
    embeddings: torch.Tensor, row_of_segment: torch.Tensor, num_rows: int, weights: torch.Tensor
) -> torch.Tensor:
    """Return the mean of the segments of each row, `(num_rows, D)`, of embeddings `(N, D)` in any order by weights."""
    weighted = torch.cat([embeddings * weights.unsqueeze(1), weights.unsqueeze(1)], dim=1)  # (N, D + 1)
    sums = weighted.new_zeros(num_rows, weighted.shape[1]).index_add(0, row_of_segment, weighted)
    return sums[:, :-1] / sums[:, -1:]


def name_songs(ids: Any, songs: NDArray[np.int64], limit: int = 5) -> str:
    """Return the ids of a few songs, and how many more there are, for messages."""
    unique = np.unique(songs)
    names = ", ".join(repr(ids[int(song)].as_py()) for song in unique[:limit])
    return names + (f" and {len(unique) - limit} more" if len(unique) > limit else "")
