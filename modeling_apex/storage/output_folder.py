"""What a command writes: a folder that is new or empty, so that nothing old is mixed in; a file that is whole."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from modeling_apex.storage.links import open_new, refuse_irregular, refuse_link
from modeling_apex.storage.output_lock import LOCK_NAME, OutputLock
from modeling_apex.storage.stop_signals import remove_afterwards

PART_NAME = ".writing"
# A file name may hold bytes that are no text. Inside a JSON string, what this writes for them is JSON's own escape, so
# the name is read back as it was.
TEXT_ERRORS = "backslashreplace"


def check_new_folder(output: str | os.PathLike) -> Path:
    """
    Make sure that a folder can be written without touching anything.

    Args:
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty but for the lock of a killed run.

    Returns:
        `Path`: the folder; it is not made here.

    Raises:
        `FileExistsError`: If it holds anything, or is a file, a mount point or the current folder.
    """
    folder = Path(os.path.expanduser(output))
    if not os.path.lexists(folder):
        return folder
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {LOCK_NAME}:
        raise FileExistsError(f"{folder}: exists and is not an empty folder; choose a new one.")
    if os.path.ismount(os.path.realpath(folder)) or folder.samefile(os.curdir):
        raise FileExistsError(
            f"{folder}: is a mount point or the current folder, which a finished folder cannot replace in one step; "
            "choose a new folder in it."
        )
    return folder


@contextmanager
def replace_file(path: Path, *, is_shared: bool = False) -> Iterator[BinaryIO]:
    """
    Write a file so that it is either the old one or the new one, whole and on the disk.

    Args:
        path (`Path`):
            The file. A link of that name is replaced, and what it leads to is left alone.
        is_shared (`bool`, defaults to `False`):
            Whether several processes may write it at once; then the last one counts.

    Returns:
        `Iterator[BinaryIO]`: the file to write, for a `with` block; it gets its name when the block ends well.

    Raises:
        [`LinkRefusedError`]: If a device, a pipe or a folder bears its name: replaced, `/dev/null` would be a file.
    """
    if not path.is_symlink():
        refuse_irregular(path)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART_NAME}" if is_shared else f"{path.name}{PART_NAME}")
    try:
        with open_new(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)  # a full disk is not helped by half a file
        raise


def refuse_existing_file(output: Path) -> None:
    """Raise a `FileExistsError` if a file is there that a command would replace."""
    if output.exists():
        raise FileExistsError(f"{output}: exists. Choose another output, or pass --overwrite to replace it.")


def escape_surrogates(value: Any) -> Any:
    """Make text of a name that holds bytes which are none, for what takes nothing else; anything else stays."""
    return value.encode("utf-8", TEXT_ERRORS).decode("utf-8") if isinstance(value, str) else value


def replace_text(path: Path, text: str, *, is_shared: bool = False) -> None:
    """Write a text file by `replace_file`, in UTF-8 with `TEXT_ERRORS`."""
    with replace_file(path, is_shared=is_shared) as file:
        file.write(text.encode("utf-8", TEXT_ERRORS))


def replace_texts(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """
    Write text files that belong together, so that a kill leaves no mixture of two runs that is taken for one.

    Args:
        folder (`Path`):
            Their folder; it is made if it is missing.
        contents (`Mapping[str, str]`):
            The texts by name. The first is the one that others go by: it is removed first and comes last.

    Returns:
        `list[Path]`: the files.

    Raises:
        [`LinkRefusedError`]: As for `replace_file`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, *others = (folder / name for name in contents)
    if not first.is_symlink():
        refuse_irregular(first)
    first.unlink(missing_ok=True)
    for path in (*others, first):
        replace_text(path, contents[path.name])
    return [first, *others]


def save_json(path: Path, content: Any, *, is_shared: bool = False) -> None:
    """Write a JSON file by `replace_file`."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", is_shared=is_shared)


def load_json(path: Path, remedy: str) -> Any:
    """Read a JSON file; arguments and errors are those of `parse_json`."""
    return parse_json(path.read_bytes(), str(path), remedy)


def load_fields(path: Path, remedy: str) -> dict[str, Any]:
    """
    Read a JSON file that holds fields by name; arguments as for `parse_json`.

    Raises:
        `ValueError`: If it is no JSON, or holds something else.
    """
    content = load_json(path, remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold fields by name, got {content!r:.80}. {remedy}")
    return content


def parse_json(content: str | bytes, place: str, remedy: str) -> Any:
    """
    Read JSON that a command wrote.

    Args:
        content (`str` or `bytes`):
            The JSON.
        place (`str`):
            The file, and the line where it has several, for the message.
        remedy (`str`):
            What to do about a damaged one: a sentence.

    Returns:
        What it says.

    Raises:
        `ValueError`: If it is no JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: damaged: it is not JSON ({error}). {remedy}") from error


def share_files(folder: Path) -> None:
    """Give the files below a folder the mode that the umask left it: some libraries write for one user alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


@contextmanager
def write_new_folder(output: str | os.PathLike) -> Iterator[Path]:
    """
    Write a folder so that it is either not there or whole: next door under another name, moved by one rename.

    Args:
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.

    Returns:
        `Iterator[Path]`: the folder to write into, for a `with` block; it gets its name when the block ends well.

    Raises:
        `FileExistsError`: If the folder holds anything, also if that came while it was written, or is a file.
        [`OutputInUseError`]: If another run is writing it.
        [`LinkRefusedError`]: If a link lies where it is written.
    """
    folder = check_new_folder(output)
    with OutputLock(folder, is_file=True):
        with OutputLock(folder):  # what other commands hold: is one of them filling it?
            folder = Path(os.path.realpath(check_new_folder(output)))
        part = folder.with_name(f".{folder.name}{PART_NAME}")
        if part.is_symlink():
            refuse_link(part)
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir()
        with remove_afterwards(part):
            if folder.is_dir():
                shutil.copymode(folder, part)
            yield part
            share_files(part)
            try:
                part.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise FileExistsError(
                    f"{folder}: something else was put there in the meantime; choose a new folder."
                ) from error
