"""
Songs that a command scores, whichever way they were named: files by their paths, songs of a source by their ids.

What comes in are songs, a scorer and a journal; what leaves are the reports of those that the journal does not hold
yet, or holds with other audio. [`EmbeddedSongs`] does the same for what is stored. No more songs are open at once than
are read ahead.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

from modeling_apex.corpus.audio_record import UNREADABLE, SongAudio, identify_song
from modeling_apex.corpus.feature_table import FeatureTable
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.song_shares import SongShare
from modeling_apex.corpus.song_uris import open_song
from modeling_apex.inference.scoring_apex import ScoreOptions, SongScorer
from modeling_apex.storage.source_names import name_song_by_place

if TYPE_CHECKING:  # sources need pyarrow, and files do without
    from modeling_apex.corpus.song_source import SongSource


class SongFiles:
    """
    Files and URLs. What a journal knows them by is their name.

    Args:
        songs (`Sequence[str]`): As [`find_songs`] returns them.
    """

    has_ids = False

    def __init__(self, songs: Sequence[str]):
        self.ids = list(songs)

    def take(self, share: SongShare) -> Self:
        """Return those of a share."""
        return type(self)(share.take(self.ids))

    def score(
        self,
        scorer: SongScorer,
        journal: ScoreJournal | None = None,
        *,
        features: FeatureTable | None = None,
        rereads: bool = False,
        **options: Unpack[ScoreOptions],
    ) -> Iterator[dict[str, Any]]:
        """
        Score the songs; what a journal holds already is looked up at once, before the first report is asked for.

        Args:
            scorer ([`SongScorer`]), journal ([`ScoreJournal`], *optional*):
                What scores them, and what is given each report.
            features ([`FeatureTable`], *optional*):
                Track features by song.
            rereads (`bool`, defaults to `False`):
                Whether to read files that look unchanged, and to score what lies behind URLs again.
            options:
                Those of [`SongScorer.score`]; a song that fails has its reason in its report.

        Returns:
            `Iterator[dict]`: the reports.
        """
        songs = self.ids if journal is None else journal.list_remaining(self.ids, rereads=rereads)
        rows = _find_features(features, songs)
        inputs = (_build_input(song, song, rows.get(song), options) for song in songs)
        reports: Iterator[Any] = iter(())
        if songs:
            reports = scorer.score(inputs, **_settle(options))

        def note() -> Iterator[dict[str, Any]]:
            for song, report in zip(songs, reports, strict=True):
                if journal is not None:
                    journal.add(song, report)
                yield report

        return note()


class SourceSongs:
    """
    The songs of a table, a dataset or a folder. A journal knows them by their ids, and by the content of their audio.

    Args:
        source ([`SongSource`]):
            The songs, of all splits.
        ids (`Sequence[str]`, *optional*):
            Those that are meant; by default all.

    Raises:
        `ValueError`: If an id occurs twice.
    """

    has_ids = True

    def __init__(self, source: "SongSource", ids: Sequence[str] | None = None):
        self._source = source
        self.ids = _list_ids(source) if ids is None else list(ids)
        self._wanted = None if ids is None else frozenset(ids)

    def take(self, share: SongShare) -> Self:
        """Return those of a share."""
        return type(self)(self._source, share.take(self.ids))

    def score(
        self,
        scorer: SongScorer,
        journal: ScoreJournal | None = None,
        *,
        features: FeatureTable | None = None,
        rereads: bool = False,
        **options: Unpack[ScoreOptions],
    ) -> Iterator[dict[str, Any]]:
        """Yield the reports of the songs as `SongFiles.score` does; `song` in them is the place, or else the id."""
        waiting: deque[tuple[str, SongAudio]] = deque()
        rows = _find_features(features, self.ids)

        def choose() -> Iterator[dict[str, Any]]:
            for split, num_songs in self._source.splits.items():
                for song in self._source.iterate(split, 0, num_songs):
                    if self._wanted is not None and song.id not in self._wanted:
                        continue
                    audio = SongAudio(UNREADABLE)
                    if journal is not None:
                        audio = identify_song(song.audio, journal.find_audio(song.id), rereads=rereads)
                    if journal is None or journal.wants(song.id, audio, rereads=rereads):
                        waiting.append((song.id, audio))
                        name = name_song_by_place(song.id, song.audio)
                        yield _build_input(name, song.audio, rows.get(song.id), options)

        reports: Iterator[Any] = scorer.score(choose(), **_settle(options))
        for report in reports:
            song_id, audio = waiting.popleft()
            if audio.path is not None and identify_song(audio.path, audio).content != audio.content:
                audio = SongAudio(UNREADABLE, audio.path)  # it changed, perhaps before it was scored
            if journal is not None:
                journal.add(song_id, report, audio)
            yield report


def _list_ids(source: "SongSource") -> list[str]:
    from modeling_apex.corpus.song_source import compute_source_fingerprint

    compute_source_fingerprint(source)  # which refuses an id that occurs twice
    return [song_id for split in source.splits for song_id in source.read_columns(split)["id"].to_pylist()]


def _find_features(features: FeatureTable | None, ids: Sequence[str]) -> Mapping[str, Any]:
    return {} if features is None else dict(zip(ids, features.find_all(ids), strict=True))


def _build_input(name: str, audio: Any, features: Any, options: ScoreOptions) -> dict[str, Any]:
    song = {"id": name, "audio": open_song(audio, limits=options.get("limits"))}
    return song if features is None else {**song, "features": features}


def _settle(options: ScoreOptions) -> ScoreOptions:
    """Complete options by what holds for many songs: read ahead, and a report for one that fails."""
    return {"read_ahead": True, **options, "on_error": "report"}
