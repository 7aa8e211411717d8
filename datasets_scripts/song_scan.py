"""
The first look at a corpus: records of any source come in; the songs that their metadata lets in leave, and with each
what content its audio file has.

Every record goes to a working table on disk, so that memory does not grow with its text. What filtering, ranking and
splitting need of it are 50 bytes of counts and keys, in columns of numbers in memory: half a gigabyte for ten million
songs.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import tee
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from datasets_scripts.song_record import CorpusOptions, SongRecord, build_working_row
from datasets_scripts.sources import AUDIO_SOURCE, SourceFile, identify_files
from datasets_scripts.splits import NO_KEY, Links, compute_key
from datasets_scripts.working_files import WorkingTable, write_working_table
from modeling_apex.corpus.identity import ContentIdentity
from modeling_apex.corpus.song_ids import compute_exact_key
from modeling_apex.storage.table_reader import TableError

UNKNOWN_COUNT = -1
UNKNOWN_TIME = np.iinfo(np.int64).min
# What the code of a platform, an unsigned 16-bit number, can tell apart.
MAX_PLATFORMS = 2**16
COMPUTED_COLUMNS = ("audio", "group", "score_streams", "score_likes")
# What is kept of every record beside its working row: counts, seconds since 1970, a code, and hashes; as type codes.
NUMBERS = {"plays": "q", "likes": "q", "created": "q", "platform": "H", "id": "Q", "creator": "Q", "prompt": "Q"}


class ScannedSongs:
    """
    Scan the records of a corpus and filter them by what they say.

    Args:
        records (`Iterable[SongRecord]`):
            The songs, streamed once.
        options ([`CorpusOptions`]):
            What to keep.
        features (`datasets.Features`):
            The columns of the dataset.
        working_folder (`Path`):
            Where the working table goes.

    Raises:
        `ValueError`: If an id occurs twice and `refuses_duplicate_ids`.
    """

    def __init__(
        self, records: Iterable[SongRecord], options: CorpusOptions, features: datasets.Features, working_folder: Path
    ):
        self.options = options
        self.features = features
        self.num_dropped: dict[str, int] = {}
        self._folder = working_folder
        working_folder.mkdir(parents=True, exist_ok=True)
        self._scan(records, working_folder / "songs.arrow")
        self.is_kept = np.ones(self.num_records, dtype=bool)
        self._filter_by_metadata()
        # The place and the content of each song's audio file as one number, 0 where there is none.
        self.audio_keys = np.zeros(self.num_records if options.needs_audio else 0, dtype=np.uint64)

    def identify_audio(self, known: Mapping[str, ContentIdentity]) -> Iterator[SourceFile]:
        """
        Find out what audio the songs have that are still in.

        Args:
            known (`Mapping[str, ContentIdentity]`):
                What was found at these paths the last time.

        Returns:
            `Iterator[SourceFile]`: their files, except those whose content came inside a table.
        """
        if not self.options.needs_audio:
            return
        rows = np.flatnonzero(self.is_kept)
        songs, again = tee(self.table.iterate_paths(rows))
        files = ((AUDIO_SOURCE, path) for _, path in again)
        identified = identify_files(files, known, num_threads=self.options.num_workers)
        for (row, _), file in zip(songs, tqdm(identified, desc="Hashing audio", unit="song"), strict=True):
            self.audio_keys[row] = compute_audio_key(file.path, file.identity.sha256)
            if self._folder not in Path(file.path).parents:
                yield file

    def drop(self, reason: str, is_matched: NDArray[np.bool_]) -> None:
        """Leave out the songs that match; a song counts for the first filter that drops it."""
        self.num_dropped[reason] = int(np.sum(self.is_kept & is_matched))
        self.is_kept &= ~is_matched

    def find_repeated(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Find every kept song whose key an earlier kept song has, given the keys of all."""
        rows = np.flatnonzero(self.is_kept)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        is_repeated = np.zeros(self.num_records, dtype=bool)
        is_repeated[rows[1:][keys[rows[1:]] == keys[rows[:-1]]]] = True
        return is_repeated

    def name_song(self, row: int) -> str:
        """Return the id of a song, for messages."""
        return str(self.table.get_value(row, "id"))

    def _scan(self, records: Iterable[SongRecord], path: Path) -> None:
        shared = {name: feature for name, feature in self.features.items() if name not in COMPUTED_COLUMNS}
        schema = datasets.Features({**shared, "audio_path": datasets.Value("string")}).arrow_schema
        numbers = {name: array(code) for name, code in NUMBERS.items()}
        others, other_keys = array("q"), array("Q")
        platform_codes: dict[str, int] = {}

        def scan_record(record: SongRecord) -> dict[str, Any]:
            numbers["plays"].append(UNKNOWN_COUNT if record.play_count is None else record.play_count)
            numbers["likes"].append(UNKNOWN_COUNT if record.like_count is None else record.like_count)
            created = UNKNOWN_TIME if record.created_at is None else round(record.created_at.timestamp())
            numbers["created"].append(created)
            code = platform_codes.setdefault(record.platform, len(platform_codes))
            if code == MAX_PLATFORMS:
                raise TableError(
                    f"{record.location}: the platform {record.platform!r} is the {MAX_PLATFORMS + 1}th. A platform is "
                    "a place with many songs, such as suno: name its column with --column platform=NAME."
                )
            numbers["platform"].append(code)
            numbers["id"].append(compute_exact_key(record.id))
            # A creator's name means something on their platform; a prompt is the same text everywhere.
            for creator in record.other_creators:
                others.append(len(numbers["creator"]))
                other_keys.append(compute_key(record.platform, creator))
            numbers["creator"].append(compute_key(record.platform, record.creator))
            numbers["prompt"].append(compute_key(record.prompt))
            return build_working_row(record)

        write_working_table(path, schema, map(scan_record, records))
        self.table = WorkingTable(path)
        self.platforms = list(platform_codes)
        self.numbers = {name: np.asarray(values) for name, values in numbers.items()}
        self.num_records = len(self.numbers["id"])
        self._other_creators = (np.asarray(others, dtype=np.int64), np.asarray(other_keys, dtype=np.uint64))

    def link_creators(self, rows: NDArray[np.int64], creators: NDArray[np.uint64]) -> Links:
        """
        Pair songs with their creators, with all of them where a song has several.

        Args:
            rows (`np.ndarray` of shape `(num_songs,)`), creators (`np.ndarray` of shape `(num_songs,)`):
                The rows of the songs, ascending, and the first creator of each.

        Returns:
            `Links`: positions in `rows` and keys, or the keys alone where no song has several creators.
        """
        other_rows, keys = self._other_creators
        is_wanted = np.isin(other_rows, rows) & (keys != NO_KEY)
        if not is_wanted.any():
            return creators
        positions = np.searchsorted(rows, other_rows[is_wanted])
        return np.concatenate([np.arange(len(rows)), positions]), np.concatenate([creators, keys[is_wanted]])

    def _filter_by_metadata(self) -> None:
        options, numbers = self.options, self.numbers
        if options.needs_popularity:
            self.drop("without play or like count", (numbers["plays"] < 0) | (numbers["likes"] < 0))
            if not options.keeps_zero_plays:
                self.drop("zero plays", numbers["plays"] == 0)
        if options.minimum_age_days > 0:
            newest = options.as_of.timestamp() if options.as_of else float(numbers["created"].max(initial=0))
            latest = newest - timedelta(days=options.minimum_age_days).total_seconds()
            self.drop("without creation date", numbers["created"] == UNKNOWN_TIME)
            self.drop(f"younger than {options.minimum_age_days:g} days", numbers["created"] > latest)
        is_repeated = self.find_repeated(numbers["id"])
        if options.refuses_duplicate_ids and is_repeated.any():
            raise ValueError(
                f"The id {self.name_song(int(is_repeated.argmax()))} occurs twice. Remove one of the two, or, for "
                f"training songs, have later ones dropped (--duplicate-ids drop)."
            )
        self.drop("duplicate id", is_repeated)


def compute_audio_key(path: str | Path, sha256: str) -> int:
    """Hash the place and the content of an audio file."""
    return compute_exact_key(f"{path}\x1f{sha256}")
