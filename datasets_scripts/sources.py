"""
What a dataset was built from: the files of a build come in, a hash of each source and a ledger of the files leave.

The hashes stand in the manifest: a finished dataset is valid for exactly these contents. The ledger lies beside it and
is about this machine: where each file lies and by which stamp it is known to be unchanged. So the same command says
"finished" without reading anything again, and a ledger that is gone costs time only.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from datasets_scripts.parquet_folder import LEDGER_NAME, MANIFEST_NAME, WORKING_FOLDER, OutputFolderError
from modeling_apex.corpus.identity import (
    ContentIdentity,
    FileStamp,
    hash_json,
    identify_file,
    refuse_differences,
)
from modeling_apex.corpus.song_files import AUDIO_SUFFIXES

AUDIO_SOURCE = "audio"
# Files whose identity is asked for at once; bounds what waits in memory.
FILES_PER_ROUND = 1024


class SourceFile(NamedTuple):
    """A file of a build: the source that it belongs to, where it lies, and its content."""

    source: str
    path: str
    identity: ContentIdentity


class SourcedBuilder(Protocol):
    """What this module needs of a builder."""

    config: Any

    def read_sources(
        self, working_folder: Path, known: Mapping[str, ContentIdentity]
    ) -> tuple[Any, dict[str, str]]: ...


def name_sources(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Give files the names that the manifest calls them by: their own, with a number where two have the same."""
    named: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        name, number = path.name, 1
        while name in named:
            number += 1
            name = f"{path.name} ({number})"
        named[name] = path
    return list(named.items())


def list_places(tables: Iterable[Path], audio_folders: Iterable[Path]) -> list[str]:
    """Name all that a build reads; an audio file that appears or vanishes changes it, as another place does."""
    folders = [f"{folder.resolve()}: {hash_json(_list_audio(folder))}" for folder in audio_folders]
    return [*(str(path.resolve()) for path in tables), *folders]


def compute_cache_key(tables: Iterable[Path], audio_folders: Iterable[Path]) -> str:
    """Hash what a build reads: tables by their content; audio, which may be a terabyte, by the stamps of its files."""
    contents = [identify_file(path).sha256 for path in tables if path.is_file()]
    stamps = [
        [name, *astuple(FileStamp.from_status(os.stat(folder / name)))]
        for folder in audio_folders
        for name in _list_audio(folder)
    ]
    return hash_json([contents, stamps])[:16]


def identify_files(
    files: Iterable[tuple[str, str | Path]], known: Mapping[str, ContentIdentity], *, num_threads: int = 1
) -> Iterator[SourceFile]:
    """
    Identify the files of a build.

    Args:
        files (`Iterable[tuple[str, str | Path]]`):
            The source and the place of each.
        known (`Mapping[str, ContentIdentity]`):
            What was found at these places the last time; unchanged files are not read again.
        num_threads (`int`, defaults to 1):
            How many are read at the same time.

    Returns:
        `Iterator[SourceFile]`: the files, in order.
    """

    def identify(file: tuple[str, str | Path]) -> SourceFile:
        source, path = file[0], str(file[1])
        return SourceFile(source, path, identify_file(path, known.get(path)))

    files = iter(files)
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        while waiting := list(islice(files, FILES_PER_ROUND)):
            yield from pool.map(identify, waiting)


def check_unchanged(files: Iterable[SourceFile]) -> None:
    """Make sure that files are what they were when they were identified; a `ValueError` names one that is not."""
    for file in files:
        if identify_file(file.path, file.identity).sha256 != file.identity.sha256:
            raise_changed(file.path)


def raise_changed(path: str | Path) -> NoReturn:
    """Raise the `ValueError` that stops a build whose input is replaced while it runs."""
    raise ValueError(f"{path} changed while the dataset was being built. Start the build again.")


def save_ledger(folder: Path, places: Sequence[str], files: Iterable[SourceFile]) -> dict[str, str]:
    """
    Write the ledger of a build, whole or not at all.

    Args:
        folder (`Path`):
            Where it goes.
        places (`Sequence[str]`):
            From [`list_places`].
        files (`Iterable[SourceFile]`):
            The files, the sources one after the other; may read the ledger that is replaced.

    Returns:
        `dict[str, str]`: a hash of each source: that of its only file, or one over the hashes of all.
    """
    hashes: dict[str, str] = {}
    partial = folder / f"{LEDGER_NAME}.partial"
    with open(partial, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(list(places)) + "\n")
        for source, path, identity in files:
            stream.write(json.dumps({"source": source, "path": path, **identity.to_json()}) + "\n")
            before = hashes.get(source)
            hashes[source] = (
                identity.sha256 if before is None else sha256((before + identity.sha256).encode()).hexdigest()
            )
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / LEDGER_NAME)
    return hashes


def load_ledger(folder: Path) -> tuple[list[str], Iterator[SourceFile]]:
    """Read a ledger: places and, one at a time, files; none of either where there is no ledger."""
    path = folder / LEDGER_NAME
    if not path.is_file():
        return [], iter(())
    with open(path, encoding="utf-8") as stream:
        return json.loads(stream.readline()), _iterate_ledger(path)


def load_identities(folder: Path) -> dict[str, ContentIdentity]:
    """Read what a ledger knows of each place."""
    return {file.path: file.identity for file in load_ledger(folder)[1]}


def refuse_changed_sources(builder: SourcedBuilder, output: Path, *, rereads: bool = False) -> None:
    """
    Refuse to call a dataset finished that was built from something else.

    Args:
        builder ([`SourcedBuilder`]):
            The builder that would build it now.
        output (`Path`):
            The finished dataset.
        rereads (`bool`, defaults to `False`):
            Whether every file is read, even those that are known to be unchanged.

    Raises:
        `ValueError`: If a source has other content; the message names each.
        [`OutputFolderError`]: If the dataset does not tell what it was built from, or its sources are gone.
    """
    remedy = "Rebuild it with --overwrite, or choose another folder."
    recorded = json.loads((output / MANIFEST_NAME).read_text(encoding="utf-8")).get("sources")
    if recorded is None:
        raise OutputFolderError(
            f"{output} holds a finished dataset of an earlier version, which did not record the content of its "
            f"sources, so it is not known whether they are the same. {remedy}"
        )
    known = {} if rereads else load_identities(output)
    places, files = load_ledger(output)
    working_folder = output / WORKING_FOLDER
    try:
        if places == builder.config.list_places():
            listed = ((file.source, file.path) for file in files)
            hashes = save_ledger(output, places, identify_files(listed, known))
        else:
            working_folder.mkdir(exist_ok=True)
            _, hashes = builder.read_sources(working_folder, known)
            (working_folder / LEDGER_NAME).replace(output / LEDGER_NAME)
    except FileNotFoundError as error:
        raise OutputFolderError(
            f"{output} holds a finished dataset, but its sources are gone, so it is not known whether they are the "
            f"same ({error}). Load it as it is, or pass the sources from where they are now."
        ) from error
    finally:
        shutil.rmtree(working_folder, ignore_errors=True)
    # A source that is no longer there differs, too.
    refuse_differences(output, "a dataset", recorded, dict.fromkeys(recorded) | hashes, remedy)


def _iterate_ledger(path: Path) -> Iterator[SourceFile]:
    with open(path, encoding="utf-8") as stream:
        stream.readline()
        for line in stream:
            fields = json.loads(line)
            yield SourceFile(fields["source"], fields["path"], ContentIdentity.from_json(fields))


def _list_audio(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return sorted(path.relative_to(folder).as_posix() for path in paths)
