"""
Keep the reports of a long run safe: a journal that grows row by row, and a final file that appears whole.

While songs are scored, each report is one line of `OUTPUT.partial`, beside what the audio was. An interrupted run,
also one that was killed, is taken up by the same command: what the journal holds is not scored again, unless its audio
has changed since. At the end the journal becomes the output, in the format of its suffix, by one rename. Two runs
never share a journal: the second is refused.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from modeling_apex.corpus.audio_record import UNREADABLE, SongAudio, identify_song
from modeling_apex.corpus.identity import FileStamp, is_uri, list_differences
from modeling_apex.inference.report_apex import flatten_reports, format_json, format_rows
from modeling_apex.storage.links import open_new, open_to_append, refuse_link
from modeling_apex.storage.output_folder import (
    PART_NAME,
    TEXT_ERRORS,
    escape_surrogates,
    parse_json,
    refuse_existing_file,
)
from modeling_apex.storage.output_lock import OutputLock

JOURNAL_FORMAT = 2  # that of version 0.1 had no number, and no audio in its lines
OUTPUT_FORMATS = (".jsonl", ".json", ".csv", ".parquet")
# The last line of a journal that is about to become the output.
FINISHED = {"is_finished": True}


class ScoreJournal(AbstractContextManager):
    """
    The reports of one run. What a `with` block that ends early leaves in the journal stays for the next run.

    Args:
        output (`str` or `os.PathLike`):
            The final file; its suffix is one of .jsonl, .json, .csv, .parquet.
        settings (`dict`):
            What decides the numbers: the hash of the weights, dtype, engine, precision, resampler. A journal of
            other settings is refused.
        columns (`dict[str, str]`, *optional*):
            Columns and types of a .csv or .parquet output, from `list_score_columns`; the same whether or not songs
            failed. By default those that the reports have.
        lay_out (`Callable[[Mapping], dict]`, *optional*):
            Makes of a report the row of `columns` that every format of the output holds. By default .csv and .parquet
            have the flattened report, and the others the report as it is.
        overwrite (`bool`, defaults to `False`):
            Whether an existing output may be replaced.
        has_ids (`bool`, defaults to `False`):
            Whether songs have ids, which then stand in their reports and rows.
        get_audio (`Callable[[str], str]`, *optional*):
            Returns the file of what is called a song here, where several reports are of one file; by default the
            name is that of the file.

    Raises:
        `ValueError`: If the suffix is unknown, or the journal is damaged, or belongs to other settings or to version
            0.1.
        [`LinkRefusedError`]: If a link lies where the journal is to be.
        `FileExistsError`: If the output exists.
        [`OutputInUseError`]: If another run is writing it.
        `ImportError`: If the format needs a package that is not installed.
    """

    def __init__(
        self,
        output: str | os.PathLike,
        settings: Mapping[str, Any],
        *,
        columns: Mapping[str, str] | None = None,
        lay_out: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
        overwrite: bool = False,
        has_ids: bool = False,
        get_audio: Callable[[str], str] = str,
    ):
        self.output = Path(os.path.expanduser(output))
        if self.output.suffix not in OUTPUT_FORMATS:
            raise ValueError(f"{output}: unknown format; the suffix must be one of {', '.join(OUTPUT_FORMATS)}.")
        if self.output.suffix == ".parquet":
            _import_pyarrow()
        self.path = self.output.with_name(self.output.name + ".partial")
        self._unnamed_output = self.output.with_name(self.output.name + PART_NAME)
        self._columns, self._lay_out = dict(columns or {}), lay_out
        self._has_ids = has_ids
        self._get_audio = get_audio
        self.settings = json.loads(json.dumps(dict(settings)))
        # By id; without one by path, or for a URL by the SHA-256 of it: its report names it without what opens it.
        self._reports: dict[str, dict[str, Any]] = {}
        self._audio: dict[str, SongAudio] = {}
        self._stamps: dict[str, FileStamp | None] = {}
        with ExitStack() as stack:
            stack.enter_context(OutputLock(self.output, is_file=True))
            self._file = stack.enter_context(self._open(overwrite))
            self._held = stack.pop_all()

    def _open(self, overwrite: bool) -> Any:
        refuse_link(self.path)
        # A kill can leave half a line behind the last line break.
        whole = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        # A journal that says it is the output: the run was killed between its last two steps.
        is_finished = (
            bool(whole)
            and self._parse(whole, len(whole)) == FINISHED
            and self.output.exists()
            and not self._unnamed_output.exists()
        )
        if overwrite and is_finished:
            self.path.unlink()
            whole = []
        if not (overwrite or is_finished):
            refuse_existing_file(self.output)
        if whole:
            self._take_up([self._parse(whole, number) for number in range(1, len(whole) + 1)])
        file = open_to_append(self.path, encoding="utf-8", errors=TEXT_ERRORS)  # closed by `__exit__`
        file.truncate(sum(len(line) + 1 for line in whole))
        if not whole:
            file.write(json.dumps({"format": JOURNAL_FORMAT, "settings": self.settings}) + "\n")
            file.flush()
        return file

    def _parse(self, lines: Sequence[bytes], number: int) -> Any:
        remedy = "Delete the file, then give the same command again."
        line = parse_json(lines[number - 1], f"{self.path}, line {number}", remedy)
        if not isinstance(line, dict):
            raise ValueError(f"{self.path}, line {number}: damaged, for it is no JSON object. {remedy}")
        return line

    def _take_up(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if lines[0].get("format") != JOURNAL_FORMAT:
            raise ValueError(
                f"{self.path}: an unfinished run of apex-music 0.1 left this journal, which does not say what weights "
                "and audio its scores are of. Delete it, then give the same command again."
            )
        settings = lines[0].get("settings")
        settings = settings if isinstance(settings, dict) else {}
        if names := list_differences(settings, self.settings) or sorted({*settings} - {*self.settings}):
            raise ValueError(
                f"{self.path}: an unfinished run with other settings ({'; '.join(names)}) left this journal. Finish "
                "it with what it was started with, or delete it."
            )
        for number, line in enumerate(lines[1:], start=2):
            if line == FINISHED:
                continue
            try:
                song, audio = line["report"]["song"], SongAudio.from_json(line["audio"])
                key = line.get("id", audio.content if audio.is_address else song)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: damaged, for it is not the report of a song. Delete the file, then "
                    "give the same command again."
                ) from error
            self._reports[key], self._audio[key] = line["report"], audio

    def __len__(self) -> int:
        return len(self._reports)

    def holds(self, song_id: str, audio: SongAudio) -> bool:
        """Tell whether the journal has the report of just this audio of a song that is known by an id."""
        known = self._audio.get(song_id)
        return known is not None and known.content == audio.content

    def wants(self, song_id: str, audio: SongAudio, *, rereads: bool = False) -> bool:
        """Tell whether a song that is known by an id is still to be scored; arguments as for `list_remaining`."""
        return not self.holds(song_id, audio) or (rereads and audio.is_address)

    def count_done(self, songs: Iterable[str]) -> int:
        """Count the songs whose reports an interrupted run left."""
        return sum(song in self._reports or _get_key(song) in self._reports for song in songs)

    def find_audio(self, song_id: str) -> SongAudio | None:
        """Return what the audio of a song was that the journal holds by its id; `None` if it holds no such song."""
        return self._audio.get(song_id)

    def list_remaining(self, songs: Sequence[str], *, rereads: bool = False) -> list[str]:
        """
        List the songs that are still to be scored: those that the journal does not hold, or holds with other audio.

        Args:
            songs (`Sequence[str]`):
                Files and URLs; what lies behind a URL is taken for unchanged.
            rereads (`bool`, defaults to `False`):
                Whether to read files that look unchanged, and to score what lies behind URLs again.

        Returns:
            `list[str]`: in the given order.
        """
        for song in songs:
            if known := self._audio.get(key := _get_key(song)):
                found = identify_song(self._get_audio(song), known, rereads=rereads)
                if found.content != known.content or (rereads and found.is_address):
                    del self._reports[key], self._audio[key]
        remaining = [song for song in songs if _get_key(song) not in self._reports]
        self._stamps = {song: _stamp(self._get_audio(song)) for song in remaining}
        return remaining

    def add(self, song: str, report: Mapping[str, Any], audio: SongAudio | None = None) -> None:
        """
        Append the report of one song; it survives whatever happens to this process afterwards.

        Args:
            song (`str`):
                The file or URL as `list_remaining` had it; with `audio`, the id of the song.
            report (`Mapping`):
                Its report; `song` in it is the name.
            audio ([`SongAudio`], *optional*):
                What was scored, of a song that is known by an id.
        """
        line: dict[str, Any] = {"report": report}
        if audio is not None:
            key = line["id"] = song
        else:
            audio, key = identify_song(self._get_audio(song)), _get_key(song)
            # It changed after it was listed, perhaps after it was scored.
            if _stamp(self._get_audio(song)) != self._stamps.get(song):
                audio = SongAudio(UNREADABLE)
        self._file.write(json.dumps({**line, "audio": audio.to_json()}, ensure_ascii=False) + "\n")
        self._file.flush()
        self._reports[key], self._audio[key] = dict(report), audio

    def collect(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Return the reports of all songs, in the given order."""
        reports = [self._reports[song if song in self._reports else _get_key(song)] for song in order]
        if not self._has_ids:
            return reports
        return [{"id": song, **report} for song, report in zip(order, reports, strict=True)]

    def finish(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Write the output, with the songs in the given order, remove the journal, and return the reports."""
        reports = self.collect(order)
        with open_new(self._unnamed_output) as file:
            self._write(reports, file)
            file.flush()
            os.fsync(file.fileno())
        self._file.write(json.dumps(FINISHED) + "\n")
        self._file.close()
        os.replace(self._unnamed_output, self.output)
        self.path.unlink()
        return reports

    def _write(self, reports: Sequence[Mapping[str, Any]], file: BinaryIO) -> None:
        suffix = self.output.suffix
        entries = reports if self._lay_out is None else [self._lay_out(report) for report in reports]
        if suffix in (".json", ".jsonl"):
            text = format_json(entries) if suffix == ".json" else format_json_lines(entries)
            file.write(text.encode("utf-8", TEXT_ERRORS))
            return
        names, rows = flatten_reports(reports, self._columns) if self._lay_out is None else (self._columns, entries)
        if self._has_ids and self._lay_out is None:
            rows = [{**row, "id": report["id"]} for row, report in zip(rows, reports, strict=True)]
        if suffix == ".csv":
            file.write(format_rows(list(names), rows).encode("utf-8", TEXT_ERRORS))
            return
        pyarrow = _import_pyarrow()
        cells = {name: [escape_surrogates(row[name]) for row in rows] for name in names}
        kinds = {name: pyarrow.type_for_alias(kind) for name, kind in self._columns.items()}
        pyarrow.parquet.write_table(
            pyarrow.table({name: pyarrow.array(cells[name], kinds.get(name)) for name in names}), file
        )

    def __exit__(self, *_: object) -> None:
        self._held.close()


def _get_key(song: str) -> str:
    return identify_song(song).content if is_uri(song) else song


def _stamp(song: str) -> FileStamp | None:
    try:
        return FileStamp.from_status(os.stat(song))
    except (OSError, ValueError):  # a URL, a file that is not there
        return None


def format_json_lines(reports: Iterable[Mapping[str, Any]]) -> str:
    """Return reports as JSON Lines."""
    return "".join(json.dumps(report, ensure_ascii=False) + "\n" for report in reports)


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet output needs pyarrow: pip install "apex-music[data]".') from error
    return pyarrow
