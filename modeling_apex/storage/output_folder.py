"""What a command writes: a folder that is new or empty, so that nothing old is mixed in; a file that is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modeling_apex.storage.output_lock import LOCK_NAME, OutputLock
from modeling_apex.storage.stop_signals import remove_afterwards

PART_NAME = ".writing"


def check_new_folder(output: str | os.PathLike) -> Path:
    """
    Make sure that a folder can be written without touching anything.

    Args:
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty but for what a killed run left.

    Returns:
        `Path`: the folder; it is not made here.

    Raises:
        `FileExistsError`: If it holds anything, or is a file.
    """
    folder = Path(output).expanduser()
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {LOCK_NAME, PART_NAME}):
        raise FileExistsError(f"{folder}: exists and is not an empty folder; name a new one.")
    return folder


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the new one, whole."""
    part = path.with_name(f"{path.name}{PART_NAME}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def write_new_folder(output: str | os.PathLike) -> Iterator[Path]:
    """
    Write a model folder so that nothing takes half of it for a model: aside first, `config.json` in its place last.

    Args:
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.

    Returns:
        `Iterator[Path]`: the folder to write into, for a `with` block; what it holds moves when the block ends well.

    Raises:
        `FileExistsError`: If the folder holds anything, or is a file.
        [`OutputInUseError`]: If another run is writing it.
    """
    folder = check_new_folder(output)
    with OutputLock(folder):
        part = check_new_folder(output) / PART_NAME
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir()
        with remove_afterwards(part):
            yield part
            for path in sorted(part.iterdir(), key=lambda path: path.name == "config.json"):
                path.rename(folder / path.name)
