"""
What a command says when the machine, not its input, made it fail: a full disk, a place that cannot be written.

Libraries report these in many ways, some of them without the path or the reason, so the border of each command looks
at the error and at the disk before it speaks.
"""

import errno
import os
import shutil
from pathlib import Path

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
# Writers that lose the reason (torch, safetensors, numpy) stop when less than this is left.
NEARLY_FULL_BYTES = 2**20
# From a module that an extra of this package brings to the extra that names it in pyproject.toml.
EXTRAS = {
    "av": "audio",
    **dict.fromkeys(("datasets", "pyarrow", "pandas", "zstandard", "scipy"), "data"),
    **dict.fromkeys(("accelerate", "tensorboard"), "train"),
    **dict.fromkeys(("evaluate", "sklearn", "matplotlib"), "eval"),
    "jinja2": "hub",
    **dict.fromkeys(("gradio", "PIL"), "demo"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx"),
    **dict.fromkeys(("openvino", "nncf"), "openvino"),
    "ray": "ray",
}


def describe_failure(error: BaseException, output: str | os.PathLike | None = None) -> str:
    """
    Describe an error for the person who gave the command.

    Args:
        error (`BaseException`):
            What stopped the command.
        output (`str` or `os.PathLike`, *optional*):
            What the command was writing.

    Returns:
        `str`: the error's own message, or, where the disk, its permissions or a package that is not installed are to
        blame, what to do about that.
    """
    if isinstance(error, ImportError) and error.name is not None:
        return _describe_missing(error, error.name.partition(".")[0])
    place = None if output is None else Path(os.path.expanduser(output))
    number, path = _find_number(error)
    if number in FULL or (place is not None and _is_nearly_full(place) and _is_about_writing(error)):
        where = path or place or "the output"
        return (
            f"{where}: the disk is full. Free some space, then run the same command again: what was finished is kept."
        )
    if number == errno.EFBIG:
        return f"{path or place or 'the output'}: larger than is allowed here (ulimit -f, or the file system)."
    if number in FORBIDDEN and place is not None and _is_within(path, place):
        return f"{path}: cannot be written ({os.strerror(number or 0)}). Choose an output that you may write to."
    return str(error)


def _describe_missing(error: ImportError, module: str) -> str:
    """Say what to install for an import that failed."""
    if module not in EXTRAS:
        return f"{module} cannot be imported ({error}). Reinstall apex-music: its dependencies are incomplete."
    install = f'pip install "apex-music[{EXTRAS[module]}]"'
    if isinstance(error, ModuleNotFoundError):
        return f"{module} is needed here and is not installed: {install}."
    return f"{module} is installed but does not work here ({error}). Install what this version needs: {install}."


def _find_number(error: BaseException | None) -> tuple[int | None, str | None]:
    """Return number and path of the first system error in a chain of errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno, None if error.filename is None else os.fsdecode(error.filename)
        if "No space left on device" in str(error):
            return errno.ENOSPC, None
        error = error.__cause__ or error.__context__
    return None, None


def _is_about_writing(error: BaseException) -> bool:
    return any(word in str(error) for word in ("writ", "serializ", "unexpected pos", "System error"))


def _is_nearly_full(place: Path) -> bool:
    try:
        existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        return shutil.disk_usage(existing).free < NEARLY_FULL_BYTES
    except (OSError, ValueError, StopIteration):  # a name that no file can have
        return False


def _is_within(path: str | None, place: Path) -> bool:
    """Tell whether a path is the output, lies in it, is a folder above it, or a file beside it that bears its name."""
    if path is None:
        return False
    found, wanted = Path(path).absolute(), place.absolute()
    is_beside = found.parent == wanted.parent and wanted.name in found.name
    return found.is_relative_to(wanted) or wanted.is_relative_to(found) or is_beside
