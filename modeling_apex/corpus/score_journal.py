"""
Keep the reports of a long run safe: a journal that grows row by row, and a final file that appears whole.

While songs are scored, each report is one line of `OUTPUT.partial`, beside what the audio was. An interrupted run,
also one that was killed, is resumed by the same command: what the journal holds is not scored again, unless its audio
has changed since. At the end the journal becomes the output, in the format of its suffix, by one rename. Two runs
never share a journal: the second is refused.

A finished output can be gone on with: new songs are added to it, or those that failed are scored again, while the rows
of all others stay. What it was made from lies beside it then (`scored_songs`).
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.corpus.audio_record import UNREADABLE, SongAudio, identify_song
from modeling_apex.corpus.identity import FileStamp, is_uri, list_differences
from modeling_apex.corpus.score_rows import OUTPUT_FORMATS, ScoreRows, import_pyarrow
from modeling_apex.corpus.scored_songs import REMEDY, ScoredSongs
from modeling_apex.storage.links import open_new, open_to_append, refuse_link
from modeling_apex.storage.output_folder import PART_NAME, TEXT_ERRORS, parse_json, refuse_existing_file
from modeling_apex.storage.output_lock import OutputLock

JOURNAL_FORMAT = 2  # that of version 0.1 had no number, and no audio in its lines
# The last line of a journal that is about to become the output.
FINISHED = {"is_finished": True}
UNNAMED = ".new"  # behind the name of a record whose output has not got its name yet


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
        is_recorded (`bool`, defaults to `False`):
            Whether what the output was made from is kept beside it, so that one can go on with it.
        appends (`bool`, defaults to `False`):
            Whether songs that an existing output does not hold are added to it, and those whose audio changed are
            scored again.
        retries (`bool`, defaults to `False`):
            Whether songs of an existing output that failed are scored again.
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
        `FileNotFoundError`: If one is to retry what failed and there is no output, or no record of it.
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
        is_recorded: bool = False,
        appends: bool = False,
        retries: bool = False,
        get_audio: Callable[[str], str] = str,
    ):
        self.output = Path(os.path.expanduser(output))
        if self.output.suffix not in OUTPUT_FORMATS:
            raise ValueError(f"{output}: unknown format; the suffix must be one of {', '.join(OUTPUT_FORMATS)}.")
        if self.output.suffix == ".parquet":
            import_pyarrow()
        self.path = self.output.with_name(self.output.name + ".partial")
        self._unnamed_output = self.output.with_name(self.output.name + PART_NAME)
        self._columns, self._lay_out = dict(columns or {}), lay_out
        self._has_ids, self._is_recorded = has_ids, is_recorded
        self._appends, self._retries = appends, retries
        self._get_audio = get_audio
        self.settings = json.loads(json.dumps(dict(settings)))
        # By id; without one by path, or for a URL by the SHA-256 of it: its report names it without what opens it.
        self._reports: dict[str, dict[str, Any]] = {}
        self._audio: dict[str, SongAudio] = {}
        self._stamps: dict[str, FileStamp | None] = {}
        # The rows of a finished output that is gone on with, and the place of each song in them.
        self._old_rows: ScoreRows | None = None
        self._old_audio: dict[str, SongAudio] = {}
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
        record = ScoredSongs.locate(self.output)
        if is_finished and (unnamed := record.with_name(record.name + UNNAMED)).exists():
            os.replace(unnamed, record)
        goes_on = (self._appends or self._retries) and self.output.exists()
        if (overwrite or goes_on) and is_finished:
            self.path.unlink()
            whole = []
        if goes_on:
            self._go_on()
        elif self._retries:
            raise FileNotFoundError(
                f"{self.output}: there is no finished output of this name in which a song failed. Leave "
                "--retry-failures out."
            )
        elif not (overwrite or is_finished):
            refuse_existing_file(self.output)
        if whole:
            self._take_up([self._parse(whole, number) for number in range(1, len(whole) + 1)])
        file = open_to_append(self.path, encoding="utf-8", errors=TEXT_ERRORS)  # closed by `__exit__`
        file.truncate(sum(len(line) + 1 for line in whole))
        if not whole:
            file.write(json.dumps({"format": JOURNAL_FORMAT, "settings": self.settings}) + "\n")
            file.flush()
        return file

    def _go_on(self) -> None:
        """Take up a finished output: its rows stay, but for those of songs that are to be scored again."""
        record = ScoredSongs.load(self.output)
        record.refuse_other_settings(self.output, self.settings)
        self._old_rows = ScoreRows.read(self.output, REMEDY)
        self._old_audio = record.songs
        if self._old_rows.schema != ScoreRows.build(self.output.suffix, [], self._columns, self._lay_out).schema:
            raise ValueError(
                f"{self.output}: has other columns than this version writes, or its songs had no ids. {REMEDY}"
            )
        errors = self._old_rows.list_values("error")
        self._audio = {
            key: audio
            for (key, audio), error in zip(record.songs.items(), errors, strict=True)
            if not (error and self._retries)
        }

    def _parse(self, lines: Sequence[bytes], number: int) -> Any:
        remedy = "Delete the file, then run the same command again."
        line = parse_json(lines[number - 1], f"{self.path}, line {number}", remedy)
        if not isinstance(line, dict):
            raise ValueError(f"{self.path}, line {number}: damaged: it is not a JSON object. {remedy}")
        return line

    def _take_up(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if lines[0].get("format") != JOURNAL_FORMAT:
            raise ValueError(
                f"{self.path}: an unfinished run of apex-music 0.1 left this journal, which does not record the "
                "weights and audio of its scores. Delete it, then run the same command again."
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
                    f"{self.path}, line {number}: damaged: it is not the report of a song. Delete the file, then "
                    "run the same command again."
                ) from error
            self._reports[key], self._audio[key] = line["report"], audio

    def __len__(self) -> int:
        return len(self._reports)

    def wants(self, song_id: str, audio: SongAudio, *, rereads: bool = False) -> bool:
        """Tell whether a song that is known by an id is still to be scored; arguments as for `list_remaining`."""
        known = self._audio.get(song_id)
        is_done = known is not None and known.content == audio.content and not (rereads and audio.is_address)
        return not is_done and self._takes(song_id)

    def _takes(self, key: str) -> bool:
        """Tell whether a song has a place in the output: where failures alone are retried, no new one has."""
        return self._old_rows is None or self._appends or key in self._old_audio

    def count_left_out(self, songs: Iterable[str]) -> int:
        """Count the songs that have no place in the output."""
        return sum(not self._takes(self._find_key(song)) for song in songs)

    def count_done(self, songs: Iterable[str]) -> int:
        """Count the songs whose reports an interrupted run left."""
        return sum(self._find_key(song) in self._reports for song in songs)

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
                    del self._audio[key]
                    self._reports.pop(key, None)
        remaining = [song for song in songs if (key := _get_key(song)) not in self._audio and self._takes(key)]
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
        reports = [self._reports[self._find_key(song)] for song in order]
        if not self._has_ids:
            return reports
        return [{"id": song, **report} for song, report in zip(order, reports, strict=True)]

    def _find_key(self, song: str) -> str:
        return song if self._has_ids or song in self._reports else _get_key(song)

    def finish(self, order: Sequence[str]) -> list[str | None]:
        """
        Write the output, with the songs in the given order, those of before first, and remove the journal.

        Returns:
            `list`: what went wrong with each song of the output, or nothing.
        """
        keys, rows = self._collect_rows(order)
        record = ScoredSongs.locate(self.output)
        with open_new(self._unnamed_output) as file:
            rows.write(file)
            file.flush()
            os.fsync(file.fileno())
        if self._is_recorded:
            songs = {key: self._audio[key] if key in self._audio else self._old_audio[key] for key in keys}
            scored = ScoredSongs(self.settings, songs, compute_file_hash(self._unnamed_output))
            scored.save(record.with_name(record.name + UNNAMED))
        self._file.write(json.dumps(FINISHED) + "\n")
        self._file.close()
        os.replace(self._unnamed_output, self.output)
        if self._is_recorded:
            os.replace(record.with_name(record.name + UNNAMED), record)
        self.path.unlink()
        return rows.list_values("error")

    def _collect_rows(self, order: Sequence[str]) -> tuple[list[str], ScoreRows]:
        """Return the songs of the output by what they are known by, and their rows."""
        added = [key for key in map(self._find_key, order) if self._takes(key)]
        keys = list(dict.fromkeys([*self._old_audio, *added]))
        fresh = [key for key in keys if key in self._reports]
        rows = ScoreRows.build(self.output.suffix, self.collect(fresh), self._columns, self._lay_out)
        if self._old_rows is None:
            return keys, rows
        old = {key: place for place, key in enumerate(self._old_audio)}
        old |= {key: len(self._old_rows) + place for place, key in enumerate(fresh)}
        return keys, self._old_rows.put_behind([rows]).take([old[key] for key in keys])

    def __exit__(self, *_: object) -> None:
        self._held.close()


def _get_key(song: str) -> str:
    return identify_song(song).content if is_uri(song) else song


def _stamp(song: str) -> FileStamp | None:
    try:
        return FileStamp.from_status(os.stat(song))
    except (OSError, ValueError):  # a URL, a file that is not there
        return None
