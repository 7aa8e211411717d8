"""The folder that a command writes: new or empty, so that nothing is overwritten and nothing old is mixed in."""

import os
from pathlib import Path


def check_new_folder(output: str | os.PathLike) -> Path:
    """
    Make sure that a folder can be written without touching anything.

    Args:
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.

    Returns:
        `Path`: the folder; it is not made here.

    Raises:
        `FileExistsError`: If it holds anything, or is a file.
    """
    folder = Path(output).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists and is not an empty folder; name a new one.")
    return folder
