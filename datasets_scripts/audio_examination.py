"""
The look inside every audio file of a corpus: scanned songs come in, arrays of what was found leave.

Decoding a corpus is the expensive part of a build, so it runs in as many processes as asked for, and every result
goes to a journal at once: a build that is killed looks at no content twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from datasets_scripts.audio_files import AudioFacts, examine_audio_file
from datasets_scripts.audio_fingerprint import FINGERPRINT_BYTES
from datasets_scripts.song_scan import ScannedSongs, compute_audio_key
from datasets_scripts.sources import raise_changed
from datasets_scripts.worker_pool import open_worker_pool
from datasets_scripts.working_files import CUT, AudioJournal

# How many files are handed to the processes at a time; bounds what waits in memory.
FILES_PER_ROUND = 64


@dataclass
class ExaminedAudio:
    """
    What was found, one entry per row of the working table; all zero for rows that were not looked at.

    Args:
        has_file, is_sound, is_cut, has_fingerprint (`np.ndarray` of shape `(num_rows,)`):
            Whether there is a file, whether all of it decodes or only a part, whether it has a fingerprint.
        sha256 (`np.ndarray` of shape `(num_rows,)`):
            First 64 bits of the hash of the file's bytes.
        fingerprint (`np.ndarray` of shape `(num_rows, 30)`):
            See `audio_fingerprint`.
        num_bytes (`np.ndarray` of shape `(num_rows,)`):
            Size of the file.
        duration (`np.ndarray` of shape `(num_rows,)`):
            Seconds of sound.
        errors (`dict[int, str]`):
            Why a row's file cannot be used.
    """

    has_file: NDArray[np.bool_]
    is_sound: NDArray[np.bool_]
    is_cut: NDArray[np.bool_]
    has_fingerprint: NDArray[np.bool_]
    sha256: NDArray[np.uint64]
    fingerprint: NDArray[np.uint8]
    num_bytes: NDArray[np.int64]
    duration: NDArray[np.float64]
    errors: dict[int, str]


def examine_songs(scanned: ScannedSongs, folder: Path) -> ExaminedAudio:
    """
    Look inside the audio files of the songs that are still in, except those that an earlier run has looked at.

    Args:
        scanned ([`ScannedSongs`]):
            The songs, with their audio identified.
        folder (`Path`):
            Where the journal lies.

    Returns:
        [`ExaminedAudio`]: for every row of the table.

    Raises:
        `ValueError`: If a file changed after it was identified.
    """
    # Without audio there is nothing to keep per row.
    file_keys = scanned.audio_keys
    size = len(file_keys)
    found = ExaminedAudio(
        has_file=file_keys != 0,
        is_sound=np.zeros(size, dtype=bool),
        is_cut=np.zeros(size, dtype=bool),
        has_fingerprint=np.zeros(size, dtype=bool),
        sha256=np.zeros(size, dtype=np.uint64),
        fingerprint=np.zeros((size, FINGERPRINT_BYTES), dtype=np.uint8),
        num_bytes=np.zeros(size, dtype=np.int64),
        duration=np.zeros(size, dtype=np.float64),
        errors={},
    )
    if not scanned.options.needs_audio:
        return found
    journal = AudioJournal(folder)
    _take_over(found, journal.load(), file_keys)
    open_rows = np.flatnonzero(found.has_file & (found.sha256 == 0))
    with tqdm(total=int(found.has_file.sum()), desc="Examining audio", unit="song", smoothing=0.05) as progress:
        progress.update(int(np.sum(found.sha256 != 0)))
        for row, path, facts in _examine_all(scanned, open_rows):
            if compute_audio_key(path, facts.sha256.hex()) != file_keys[row]:
                raise_changed(path)
            journal.append(row, int(file_keys[row]), facts)
            progress.update()
    _take_over(found, journal.load(), file_keys)
    found.errors = journal.load_errors()
    return found


def _take_over(found: ExaminedAudio, records: NDArray, file_keys: NDArray[np.uint64]) -> None:
    """Copy journal records into the arrays, unless they are about other content or about another table."""
    records = records[records["row"] < len(file_keys)]
    records = records[records["file_key"] == file_keys[records["row"]]]
    rows = records["row"]
    found.sha256[rows] = records["sha256"][:, :8].copy().view("<u8").ravel() | np.uint64(1)
    found.fingerprint[rows] = records["fingerprint"]
    found.has_fingerprint[rows] = records["has_fingerprint"] == 1
    found.is_sound[rows] = records["is_sound"] == 1
    found.is_cut[rows] = records["is_sound"] == CUT
    found.num_bytes[rows] = records["num_bytes"]
    found.duration[rows] = records["duration"]


def _examine_all(scanned: ScannedSongs, rows: NDArray[np.int64]) -> Iterator[tuple[int, Path, AudioFacts]]:
    num_workers = scanned.options.num_workers
    if num_workers <= 1 or len(rows) < 2:
        for row, path in scanned.table.iterate_paths(rows):
            yield row, path, examine_audio_file(path)
        return
    # Spawned, not forked: forking a process with running threads can hang.
    with open_worker_pool(num_workers, start_method="spawn", work="examined audio files") as pool:
        for start in range(0, len(rows), FILES_PER_ROUND):
            songs, paths = zip(*scanned.table.iterate_paths(rows[start : start + FILES_PER_ROUND]), strict=True)
            yield from zip(songs, paths, pool.map(examine_audio_file, paths), strict=True)
