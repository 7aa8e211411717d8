"""A build that kills its own process at a chosen moment: run in a process of its own by the tests of resuming."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets_scripts import build, parquet_folder, song_scan, working_files

# What is interrupted just before its n-th call.
MOMENTS: dict[str, tuple[Any, str]] = {
    "scanning": (song_scan, "build_working_row"),
    "examining": (working_files.AudioJournal, "append"),
    "writing a shard": (parquet_folder, "_write_shard"),
    "inside a shard": (parquet_folder.pq.ParquetWriter, "write_table"),
    "finishing a text": (parquet_folder, "write_atomically"),
    "cleaning up": (parquet_folder.shutil, "rmtree"),
}


def build_until_killed(arguments: Sequence[str], moment: str, call_number: int) -> None:
    """Run the build command, and kill this process without warning just before a call."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    owner, name = MOMENTS[moment]
    function = getattr(owner, name)
    num_calls = 0

    def call_or_die(*args: Any, **options: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == call_number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    setattr(owner, name, call_or_die)
    sys.exit(build.main(arguments))


def read_folder(
    folder: Path, is_read: Callable[[Path], bool] = lambda path: path.name != parquet_folder.LEDGER_NAME
) -> dict[str, bytes]:
    """Read all files of a folder by relative path, but for what a build notes of the places of its sources."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and is_read(path)
    }
