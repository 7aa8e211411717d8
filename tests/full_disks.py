"""A disk that is full but for so many bytes."""

import shutil
from pathlib import Path


def fill_disk(place: Path, leave_bytes: int) -> Path:
    """Fill a file system up to `leave_bytes`; return the file to remove when there shall be space again."""
    ballast = place / "ballast"
    ballast.write_bytes(bytes(max(shutil.disk_usage(place).free - leave_bytes, 0)))
    return ballast
