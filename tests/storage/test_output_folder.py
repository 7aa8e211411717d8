"""A folder that a command writes: killed between any two steps it is whole or not there, and is taken up again."""

import os
import signal
import stat
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from modeling_apex.storage.links import LinkRefusedError
from modeling_apex.storage.output_folder import check_new_folder, replace_texts, write_new_folder
from modeling_apex.storage.output_lock import OutputInUseError, OutputLock

CONTENTS = {"config.json": "{}", "model-00001.safetensors": "weights", "arena/results.json": "[]", "z.py": "code"}
# The events of Python's audit hooks at which a folder can be left half-done.
STEPS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree", "shutil.copymode")


def fill(folder: Path) -> None:
    with write_new_folder(folder) as part:
        (part / "arena").mkdir()
        for name, content in CONTENTS.items():
            (part / name).write_text(content)


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def is_killed_at(step: int, run: Callable[[], object]) -> bool:
    """Run in a child that is gone, as by SIGKILL, before its nth step; tell whether it came to that step."""
    child = os.fork()
    if child == 0:
        left = iter(range(step))

        def die(event: str, _: object) -> None:
            if event in STEPS and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        try:
            run()
        finally:
            os._exit(0)  # at once, whatever handles signals here: a second copy of the tests must not go on
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("is_there", [False, True])
def test_killed_between_any_two_steps_a_folder_is_whole_or_not_there(tmp_path: Path, is_there: bool) -> None:
    halves = 0
    for step in count():
        folder = tmp_path / str(step) / "model"
        folder.parent.mkdir()
        if is_there:
            folder.mkdir()
        if not is_killed_at(step, lambda folder=folder: fill(folder)):
            break
        found = read(folder)
        found.pop(".lock", None)  # an empty claim
        assert found in ({}, CONTENTS), step
        halves += not found and (folder.parent / ".model.writing" / "config.json").exists()
        if not found:
            fill(folder)
        assert read(folder) == CONTENTS, step
        assert not (folder.parent / ".model.writing").exists() or found
    assert step > 20, "the hook counts steps"
    assert halves > 5, "it was killed while the folder was being written"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_killed_between_files_that_belong_together_none_goes_by_another_runs(tmp_path: Path) -> None:
    runs = [{"results.json": f"{run}", "report.md": f"report {run}", "z.txt": f"z {run}"} for run in range(2)]
    for step in count():
        folder = tmp_path / str(step)
        assert replace_texts(folder, runs[0]) == [folder / name for name in runs[0]]
        if not is_killed_at(step, lambda folder=folder: replace_texts(folder, runs[1])):
            break
        found = {name: text for name, text in read(folder).items() if not name.endswith(".writing")}
        assert "results.json" not in found or found in runs, step
        replace_texts(folder, runs[1])
        assert read(folder) == runs[1]
    assert step > 6, "the hook counts steps"
    assert read(folder) == runs[1]
    (folder / "results.json").unlink()
    os.mkfifo(folder / "results.json")
    with pytest.raises(LinkRefusedError, match=r"results\.json: is not a regular file"):
        replace_texts(folder, runs[1])


def test_an_error_leaves_nothing_and_a_second_run_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def stop_half_way() -> None:
        with write_new_folder(folder) as part:
            (part / "config.json").touch()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        stop_half_way()
    assert not list(tmp_path.iterdir())
    with write_new_folder(folder):
        for again in (folder, f"{folder}/"):
            with pytest.raises(OutputInUseError, match=f"process {os.getpid()} on"), write_new_folder(again):
                pass
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"), write_new_folder(tmp_path):
        pass
    with (
        OutputLock(folder),  # as another command holds what it fills
        pytest.raises(OutputInUseError, match="is writing this output"),
        write_new_folder(folder),
    ):
        pass


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def test_a_folder_whose_place_cannot_be_taken_is_refused_before_the_work(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for output in (".", elsewhere, "../empty"):
        with pytest.raises(FileExistsError, match=r"is a mount point or the current .* a new folder in it"):
            check_new_folder(output)
    monkeypatch.chdir(elsewhere.parent)
    assert check_new_folder(elsewhere) == elsewhere
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == elsewhere)
    with pytest.raises(FileExistsError, match="is a mount point or the current folder"):
        check_new_folder(elsewhere)


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_was_put_there_meanwhile_is_left_alone(tmp_path: Path, is_folder: bool) -> None:
    folder = tmp_path / "model"

    def interfere() -> None:
        with write_new_folder(folder) as part:
            (part / "config.json").touch()
            if is_folder:
                folder.mkdir()
            (folder / "diary" if is_folder else folder).write_text("dear diary")

    with pytest.raises(
        FileExistsError, match="model: something else was put there in the meantime; choose a new folder"
    ):
        interfere()
    assert (folder / "diary" if is_folder else folder).read_text() == "dear diary"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "diary").write_text("dear diary")
    (tmp_path / ".model.writing").symlink_to(tmp_path / "album")
    with pytest.raises(LinkRefusedError, match=r"\.model\.writing: is a link"), write_new_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "album" / "diary").read_text() == "dear diary"
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="dangling: exists and is not an empty folder"):
        check_new_folder(tmp_path / "dangling")
    # An output that is named by a link to an empty folder is that folder.
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "empty") == CONTENTS


def test_a_folder_that_was_made_for_one_user_stays_so(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir(mode=0o700)
    fill(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
