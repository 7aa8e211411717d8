"""
Music Arena: battles between two generated songs come in, one row per battle with both songs and the vote leaves.

The layout is that of `music-arena/music-arena-dataset`: `battle_data/<month>/*.json` with one battle a file, whose
`audio_a` and `audio_b` are paths below the dataset's root, empty for systems whose audio is withheld. Fields keep
their names. Nothing is guessed: a vote that is none of the four known ones stops the build and names the file.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from datasets_scripts.audio_files import AudioFolder
from datasets_scripts.dataset_card import render_battle_card
from datasets_scripts.field_values import read_count, read_duration, read_flag, read_number
from datasets_scripts.parquet_folder import EmptyDatasetError, PreparedDataset, PreparedSplit
from datasets_scripts.song_builder import BUILDER_VERSION, SourcedConfig
from datasets_scripts.sources import (
    AUDIO_SOURCE,
    check_unchanged,
    identify_files,
    raise_changed,
    save_ledger,
)
from modeling_apex.corpus.identity import ContentIdentity, hash_json
from modeling_apex.storage.cell_values import read_text
from modeling_apex.storage.table_reader import TableError, iterate_lines, load_json

PREFERENCES = ("A", "B", "TIE", "BOTH_BAD")
SIDES = ("a", "b")
BATTLE_SPLIT = "test"
DUPLICATE_RULES = ("refuse", "drop")
# Size of a row without its audio, for cutting shards.
BATTLE_BYTES = 4000
TABLE_AUDIO_BYTES = 32 * 1024**2

# MIREX 2026 tests music reward models on the battles of these months: first day, and the day after the last.
BENCHMARK = "the test of MIREX 2026 (Music Arena battles of July to December 2025)"
BENCHMARK_DAYS = ("2025-07", "2026-01")
BENCHMARK_MONTHS = ("2025JUL", "2025AUG", "2025SEP", "2025OCT", "2025NOV", "2025DEC")  # ends of their folders' names

logger = logging.getLogger(__name__)

TEXT, NUMBER, DURATION, COUNT, FLAG = "text", "number", "duration", "count", "flag"
FIELD_KINDS: Mapping[str, str] = {
    "battle_uuid": TEXT,
    "date": TEXT,
    "prompt": TEXT,
    "lyrics": TEXT,
    "is_instrumental": FLAG,
    "is_prebaked": FLAG,
    "user_pseudonym": TEXT,
    "system_a": TEXT,
    "system_b": TEXT,
    "preference": TEXT,
    "feedback": TEXT,
    "timestamp": TEXT,
    **{f"{name}_{side}": kind
       for name, kind in (("total_listening_time", NUMBER), ("duration", DURATION), ("sample_rate", COUNT),
                          ("listen_data", TEXT), ("hardware", TEXT), ("system_time", NUMBER),
                          ("gateway_time", NUMBER))
       for side in SIDES},
}  # fmt: skip
REQUIRED_FIELDS = ("battle_uuid", "preference", "system_a", "system_b", "audio_a", "audio_b")
_VALUES = {
    TEXT: datasets.Value("string"),
    NUMBER: datasets.Value("float64"),
    DURATION: datasets.Value("float64"),
    COUNT: datasets.Value("int64"),
    FLAG: datasets.Value("bool"),
}
_READERS: Mapping[str, Callable[..., Any]] = {
    NUMBER: read_number,
    DURATION: read_duration,
    COUNT: read_count,
    FLAG: read_flag,
}
BATTLE_COLUMNS: Mapping[str, tuple[datasets.Value | datasets.Audio, str]] = {
    "battle_uuid": (_VALUES[TEXT], "the battle's id"),
    "month": (_VALUES[TEXT], "the month's folder in the source"),
    "audio_a": (datasets.Audio(decode=False), "song A as `{bytes, path}`; null when its audio is withheld"),
    "audio_b": (datasets.Audio(decode=False), "song B, likewise"),
    **{name: (_VALUES[kind], "as in the source") for name, kind in FIELD_KINDS.items() if name != "battle_uuid"},
}


@dataclass
class MusicArenaConfig(SourcedConfig):
    """
    Which battles.

    Args:
        source (`str`):
            The dataset's root, with `battle_data/` and `audio_files/`.
        months (`Sequence[str]`, *optional*):
            Keep only these: names of month folders, or beginnings of dates such as `"2026-02"`.
        leave_out (`Sequence[str]`, *optional*):
            Ids of battles to leave out because a benchmark holds them.
        duplicates (`str`, defaults to `"refuse"`):
            What happens when a `battle_uuid` occurs twice: `"refuse"`, or `"drop"` all but the first.
        decisive_only (`bool`, defaults to `False`):
            Whether ties and battles where both were bad are left out.
        embeds_audio (`bool`, defaults to `True`):
            Whether the encoded audio is stored in the rows, or only the path to it.
        allows_outside_paths (`bool`, defaults to `False`):
            Whether links in the folder may lead out of it.
    """

    license_id: str = "cc-by-4.0"
    source: str = ""
    months: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    duplicates: str = "refuse"
    decisive_only: bool = False
    embeds_audio: bool = True
    allows_outside_paths: bool = False

    def list_source_files(self) -> list[Path]:
        """List the battles of all months."""
        return [path for month in _list_months(Path(self.source)) for path in sorted(month.glob("*.json"))]

    def list_audio_folders(self) -> list[Path]:
        """List the root: battles name paths below it."""
        return [Path(os.path.expanduser(self.source))]


@dataclass(frozen=True)
class _Battle:
    """A battle that is kept: its fields, its month's folder, its size, and its songs, once identified by a hash."""

    fields: dict[str, Any]
    month: str
    num_bytes: int
    audio: list[Path | None]
    sha256: tuple[str | None, ...] = (None, None)


class MusicArena(datasets.ArrowBasedBuilder):
    """Battles with both songs, both systems, the prompt and the vote; all in one split, `test`."""

    BUILDER_CONFIG_CLASS = MusicArenaConfig
    BUILDER_CONFIGS: ClassVar[list] = [MusicArenaConfig(name="battles", version=BUILDER_VERSION)]
    DEFAULT_CONFIG_NAME = "battles"

    def read_sources(
        self, working_folder: Path, known: Mapping[str, ContentIdentity]
    ) -> tuple[tuple[list[_Battle], dict[str, Any]], dict[str, str]]:
        """
        Read and check every battle and identify its songs; the ledger of it goes to the working folder.

        Args:
            working_folder (`Path`):
                Where the ledger goes.
            known (`Mapping[str, ContentIdentity]`):
                What earlier runs found at each path.

        Returns:
            `tuple[tuple[list, dict], dict[str, str]]`: the battles and what was counted, and the hash of each source.

        Raises:
            `ValueError`: If a battle's file changes meanwhile.
        """
        places = self.config.list_places()
        files = list(identify_files((("battles", path) for path in self.config.list_source_files()), known))
        battles, counts = self._select_battles()
        check_unchanged(files)
        songs = ((AUDIO_SOURCE, path) for battle in battles for path in battle.audio if path)
        audio = list(identify_files(songs, known))
        hashes = {file.path: file.identity.sha256 for file in audio}
        battles = [replace(battle, sha256=tuple(hashes.get(str(path)) for path in battle.audio)) for battle in battles]
        return (battles, counts), save_ledger(working_folder, places, [*files, *audio])

    def prepare(self, working_folder: Path, known: Mapping[str, ContentIdentity] | None = None) -> PreparedDataset:
        """
        Do everything but the writing; the audio is read when it is written.

        Args:
            working_folder (`Path`), known (`Mapping[str, ContentIdentity]`, *optional*):
                As for [`read_sources`].

        Returns:
            [`PreparedDataset`]: for `write_parquet_folder`.
        """
        config: MusicArenaConfig = self.config
        (battles, counts), sources = self.read_sources(working_folder, known or {})
        months = sorted({battle.month for battle in battles})
        by_month = {month: [battle for battle in battles if battle.month == month] for month in months}
        splits = {
            month: PreparedSplit(
                f"data/{month}/{BATTLE_SPLIT}",
                np.array([battle.num_bytes for battle in chosen], dtype=np.int64),
                partial(self._iterate_tables, chosen),
            )
            for month, chosen in by_month.items()
        }
        by_config = {"default": "data/*/test-*"} | {month: f"data/{month}/test-*" for month in months}
        return PreparedDataset(
            builder=str(self.dataset_name),
            features=self.info.features,
            configs={name: {BATTLE_SPLIT: glob} for name, glob in by_config.items()},
            splits=splits,
            options=self.describe_options(),
            facts=counts,
            card=partial(
                render_battle_card,
                license_id=config.license_id,
                columns={name: text for name, (_, text) in BATTLE_COLUMNS.items()},
            ),
            sources=sources,
            digest=hash_json([battle.fields["battle_uuid"] for battle in battles]),
        )

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest, without paths of this machine."""
        config: MusicArenaConfig = self.config
        return {
            "source": Path(config.source).resolve().name,
            "months": list(config.months),
            "leave_out": sorted(config.leave_out),
            "duplicates": config.duplicates,
            "decisive_only": config.decisive_only,
            "embeds_audio": config.embeds_audio,
            "license": config.license_id,
        }

    def _info(self) -> datasets.DatasetInfo:
        features = datasets.Features({name: feature for name, (feature, _) in BATTLE_COLUMNS.items()})
        return datasets.DatasetInfo(description=self.__doc__ or "", features=features, license=self.config.license_id)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        battles, _ = self._select_battles()
        return [datasets.SplitGenerator(name=BATTLE_SPLIT, gen_kwargs={"battles": battles})]

    def _generate_tables(self, battles: list[_Battle]) -> Iterator[tuple[int, pa.Table]]:
        yield from enumerate(self._iterate_tables(battles, 0, len(battles)))

    def _select_battles(self) -> tuple[list[_Battle], dict[str, Any]]:
        config: MusicArenaConfig = self.config
        if config.duplicates not in DUPLICATE_RULES:
            raise ValueError(f"`duplicates` is {config.duplicates!r}, expected one of {', '.join(DUPLICATE_RULES)}.")
        folder = AudioFolder(config.source, allows_outside=config.allows_outside_paths)
        month_folders = _list_months(folder.folder)
        if not month_folders:
            raise FileNotFoundError(f"No battles in {folder.folder}: expected battle_data/<month>/*.json.")
        left_out, is_known = set(config.leave_out), False
        first_paths: dict[str, Path] = {}
        chosen, months_found = [], set()
        dropped = {"other month": 0, "on the leave-out list": 0, "duplicate battle_uuid": 0, "not decisive": 0}
        preferences: Counter[str] = Counter()
        paths = [(path, month.name) for month in month_folders for path in sorted(month.glob("*.json"))]
        for path, month in tqdm(paths, desc="Reading battles", unit="battle"):
            battle = read_battle(path)
            matching = [name for name in config.months if name == month or str(battle["date"]).startswith(name)]
            months_found.update(matching)
            uuid = battle["battle_uuid"]
            is_known = is_known or uuid in left_out
            if config.months and not matching:
                dropped["other month"] += 1
            elif uuid in left_out:
                dropped["on the leave-out list"] += 1
            elif uuid in first_paths:
                if config.duplicates == "refuse":
                    raise ValueError(
                        f"The battle_uuid {uuid} occurs twice: {first_paths[uuid]} and {path}. "
                        f"Remove one, or drop all but the first with --duplicates drop."
                    )
                dropped["duplicate battle_uuid"] += 1
            elif config.decisive_only and battle["preference"] not in ("A", "B"):
                dropped["not decisive"] += 1
            else:
                first_paths[uuid] = path
                preferences[battle["preference"]] += 1
                audio = _find_battle_audio(battle, folder, path)
                sizes = [song.stat().st_size for song in audio if song and config.embeds_audio]
                chosen.append(_Battle(battle, month, BATTLE_BYTES + sum(sizes), audio))
        if left_out and not is_known:
            raise ValueError(
                f"None of the {len(left_out)} ids to leave out is that of a battle in {folder.folder}; the list "
                f"has, for example, {min(left_out)!r}, the battles {uuid!r}. Give the list of ids of this dataset."
            )
        _refuse_unknown_months(config.months, months_found, [month.name for month in month_folders])
        if not chosen:
            counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
            raise EmptyDatasetError(f"No battle is left of {len(paths)} ({counts or 'there are none'}).")
        facts = {
            "num_records": len(paths),
            "num_of_benchmark": _warn_of_benchmark(chosen),
            "num_dropped": dropped,
            "num_leave_out_ids_not_found": len(left_out) - dropped["on the leave-out list"],
            "preferences": {name: preferences[name] for name in PREFERENCES},
        }
        return chosen, facts

    def _iterate_tables(self, battles: list[_Battle], start: int, stop: int) -> Iterator[pa.Table]:
        schema = self.info.features.arrow_schema
        rows: list[dict[str, Any]] = []
        gathered = 0
        for battle in battles[start:stop]:
            songs = zip(SIDES, battle.audio, battle.sha256, strict=True)
            audio = {f"audio_{side}": self._read_audio(path, sha256) for side, path, sha256 in songs}
            rows.append({**battle.fields, **audio, "month": battle.month})
            gathered += battle.num_bytes
            if gathered >= TABLE_AUDIO_BYTES:
                yield pa.Table.from_pylist(rows, schema=schema)
                rows, gathered = [], 0
        if rows:
            yield pa.Table.from_pylist(rows, schema=schema)

    def _read_audio(self, path: Path | None, sha256: str | None) -> dict[str, Any] | None:
        if path is None:
            return None
        if not self.config.embeds_audio:
            return {"bytes": None, "path": str(path.resolve())}
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise_changed(path)
        return {"bytes": data, "path": path.name}


def _warn_of_benchmark(battles: Sequence[_Battle]) -> int:
    """Count the battles that a benchmark tests on, and warn of them: who trains on them cannot be tested by it."""
    first, end = BENCHMARK_DAYS
    found = [
        battle
        for battle in battles
        if first <= str(battle.fields["date"] or "") < end
        or (not battle.fields["date"] and battle.month.upper().endswith(BENCHMARK_MONTHS))
    ]
    if found:
        logger.warning(
            f"{len(found)} of {len(battles)} battles are in {BENCHMARK}, the first being "
            f"{found[0].fields['battle_uuid']}. Leave them out before training on this dataset: --leave-out FILE with "
            "the ids of that test, or --months with other months."
        )
    return len(found)


def read_battle(path: Path) -> dict[str, Any]:
    """
    Read and check the JSON file of one battle: the fields of `FIELD_KINDS`, and the two audio paths as text.

    Raises:
        `TableError`: If it is not JSON, lacks a field, or has a vote other than A, B, TIE and BOTH_BAD.
    """
    values = load_json(path)
    if not isinstance(values, dict):
        raise TableError(f"{path} holds a JSON {type(values).__name__}, expected an object with the battle's fields.")
    missing = [name for name in REQUIRED_FIELDS if name not in values]
    if missing:
        raise TableError(f"{path} lacks {', '.join(missing)}. Its fields: {', '.join(sorted(values))}.")
    if values["preference"] not in PREFERENCES:
        raise TableError(
            f"{path}: the preference is {values['preference']!r}, expected one of {', '.join(PREFERENCES)}."
        )
    battle = {name: _read_field(values.get(name), name, kind, path) for name, kind in FIELD_KINDS.items()}
    for name in ("battle_uuid", "system_a", "system_b"):
        if battle[name] is None:
            raise TableError(f"{path}: {name} is empty.")
    return {**battle, "audio_a": read_text(values["audio_a"]), "audio_b": read_text(values["audio_b"])}


def _find_battle_audio(battle: Mapping[str, Any], folder: AudioFolder, path: Path) -> list[Path | None]:
    """Find the audio files of both sides below the root; `None` is withheld audio, a missing file an error."""
    found: list[Path | None] = []
    for side in SIDES:
        relative = battle[f"audio_{side}"]
        audio = folder.find("", relative, location=str(path)) if relative else None
        if relative and audio is None:
            raise FileNotFoundError(
                f"{path} names the audio {relative}, which is not in {folder.folder}. Fetch the audio of that month, "
                f"or choose the months that are there."
            )
        found.append(audio)
    return found


def load_battle_ids(path: str | Path) -> list[str]:
    """
    Load a text file with battle ids, one a line; empty lines and what follows `#` do not count.

    Raises:
        `ValueError`: If there is none.
    """
    ids = [line.partition("#")[0].strip() for _, line in iterate_lines(Path(os.path.expanduser(path)))]
    ids = [battle_id for battle_id in ids if battle_id]
    if not ids:
        raise ValueError(f"{path} lists no battle ids: expected one per line.")
    return ids


def _read_field(value: Any, name: str, kind: str, path: Path) -> Any:
    if kind == TEXT:
        return json.dumps(value) if isinstance(value, (dict, list)) else read_text(value)
    return _READERS[kind](value, name, str(path))


def _refuse_unknown_months(months: Sequence[str], found: set[str], there: list[str]) -> None:
    unknown = [month for month in months if month not in found]
    if unknown:
        raise ValueError(
            f"No battle of {', '.join(unknown)}. Available months: {', '.join(there)}; prefixes of dates such as "
            f"2026-02 work as well."
        )


def _list_months(root: Path) -> list[Path]:
    folder = Path(os.path.expanduser(root)) / "battle_data"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
