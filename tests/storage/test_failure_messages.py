"""What is said when the machine is to blame."""

import errno
import os
from pathlib import Path

import pytest

from modeling_apex.storage import failure_messages
from modeling_apex.storage.failure_messages import describe_failure


def system_error(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def test_a_full_disk_names_the_place_and_the_remedy(tmp_path: Path) -> None:
    expected = "the disk is full. Free some space, then run the same command again: what was finished is kept."
    shard = tmp_path / "shard"
    assert describe_failure(system_error(errno.ENOSPC, shard), tmp_path) == f"{shard}: {expected}"
    assert describe_failure(system_error(errno.ENOSPC), tmp_path) == f"{tmp_path}: {expected}"
    assert describe_failure(system_error(errno.EDQUOT)) == f"the output: {expected}"
    # The reason may be the cause of what is raised, or only a part of its text.
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = system_error(errno.ENOSPC)
    assert expected in describe_failure(wrapped, tmp_path)
    assert expected in describe_failure(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)


def test_writers_that_lose_the_reason_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    short = OSError("100 requested and 0 written")
    assert describe_failure(torn, tmp_path / "new" / "run") == str(torn)
    monkeypatch.setattr(failure_messages, "NEARLY_FULL_BYTES", 2**70)
    assert "new/run: the disk is full" in describe_failure(torn, tmp_path / "new" / "run")
    assert "the disk is full" in describe_failure(short, tmp_path)
    assert describe_failure(ValueError("`dtype` is wrong"), tmp_path) == "`dtype` is wrong"


def test_other_limits_and_permissions(tmp_path: Path) -> None:
    assert "larger than is allowed here (ulimit -f" in describe_failure(system_error(errno.EFBIG), tmp_path)
    for number in (errno.EROFS, errno.EACCES):
        message = describe_failure(system_error(number, tmp_path / "run" / ".lock"), tmp_path / "run")
        assert message.startswith(
            f"{tmp_path / 'run' / '.lock'}: cannot be written ({os.strerror(number)}). Choose an"
        )
    claim = system_error(errno.EACCES, tmp_path / ".scores.csv.lock")
    assert "cannot be written" in describe_failure(claim, tmp_path / "scores.csv")
    # An input that cannot be read is not the output's fault.
    for path in (Path("/elsewhere/song.wav"), tmp_path / "song.wav"):
        unreadable = system_error(errno.EACCES, path)
        assert describe_failure(unreadable, tmp_path / "run") == str(unreadable)
    assert describe_failure(system_error(errno.EACCES), tmp_path) == str(system_error(errno.EACCES))


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    error = ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet")
    assert describe_failure(error) == 'pyarrow is needed here and is not installed: pip install "apex-music[data]".'


def test_a_package_that_is_too_old_is_named_with_its_extra() -> None:
    error = ImportError("cannot import name 'Graph' from 'onnx'", name="onnx")
    assert describe_failure(error) == (
        "onnx is installed but does not work here (cannot import name 'Graph' from 'onnx'). Install what this version "
        'needs: pip install "apex-music[onnx]".'
    )


def test_a_package_that_every_installation_has_is_named_too() -> None:
    error = ModuleNotFoundError("No module named 'soxr'", name="soxr")
    assert describe_failure(error).startswith("soxr cannot be imported (No module named 'soxr'). Reinstall apex-music")
