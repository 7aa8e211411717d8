"""
Tables of songs to tables of scores, whatever program cuts the tables and carries them about.

What comes in is an Arrow table with an id and a place, or the audio, of each song; what leaves is one of a fixed
schema with one row per song, a failed one with its `error`. [`SongTableScorer`] is a callable that keeps its model
and can be sent to another process, so that `datasets.map`, Ray Data and Spark take it as it is.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from modeling_apex.corpus.score_columns import list_score_columns
from modeling_apex.corpus.song_ids import AUDIO_COLUMNS, find_column, read_id
from modeling_apex.corpus.song_table import MissingAudio
from modeling_apex.corpus.song_uris import open_song
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.report_apex import flatten_report
from modeling_apex.loading import load_scorer
from modeling_apex.storage.cell_values import is_unknown
from modeling_apex.storage.output_folder import escape_surrogates
from modeling_apex.storage.source_names import name_song_by_place


def build_score_schema(config: Any) -> pa.Schema:
    """Build the schema of scored tables: `id`, then the columns of `list_score_columns`."""
    columns = {"id": "string", **list_score_columns(config)}
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])


class SongTableScorer:
    """
    Score the songs of Arrow tables. The model is loaded once, when the object is made or arrives in another process.

    Args:
        model (`str`, `os.PathLike` or a loaded model, *optional*):
            A folder or Hub id that every process can reach, or a model; by default the embedded demonstration model.
        id_column (`str`, defaults to `"id"`):
            The column of the ids, which are text or whole numbers and are returned as text.
        audio_column (`str`, *optional*):
            The column of the songs: paths, URLs and other URIs, or structures of `bytes` and `path` as `datasets` has
            them. By default the first of `uri`, `url`, `path`, `audio`, `song`, `file`, `file_name`.
        resampler (`str`, defaults to `"sinc"`), tail (`str`, *optional*), limits ([`AudioLimits`], *optional*):
            As in [`SongScorer.score`].
        weights_sha256 (`str`, *optional*):
            What `compute_scores_hash` says of the model that is meant; another one is refused.
        loading:
            What `load_scorer` takes: `device`, `dtype`, `engine`, `batch_size`, `revision`, ...

    Attributes:
        schema (`pa.Schema`): Of the tables that leave.
        weights_sha256 (`str`): Of the model.
        arguments (`dict`): What makes the same scorer in another process.

    Raises:
        `ValueError`: If the model is not the one that is meant.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        id_column: str = "id",
        audio_column: str | None = None,
        resampler: str = "sinc",
        tail: str | None = None,
        limits: AudioLimits | None = None,
        weights_sha256: str | None = None,
        **loading: Any,
    ):
        self._scorer = load_scorer(model, **loading)
        self.schema = build_score_schema(self._scorer.model.config)
        self.weights_sha256 = compute_scores_hash(self._scorer.model)
        if weights_sha256 not in (None, self.weights_sha256):
            raise ValueError(
                f"{self._scorer.model_id}: is a different model here (SHA-256 {self.weights_sha256[:12]} instead of "
                f"{str(weights_sha256)[:12]}). Let every machine see the same folder, or name a revision of a Hub "
                "model."
            )
        self._id_column, self._audio_column = id_column, audio_column
        self._options: dict[str, Any] = {"resampler": resampler, "tail": tail, "limits": limits or AudioLimits()}
        # What travels to another process is what the model is loaded by; and its hash, as what was computed with other
        # weights of the same name is not to be taken for this.
        self.arguments = {
            "model": locate_model(model),
            "id_column": id_column,
            "audio_column": audio_column,
            "weights_sha256": self.weights_sha256,
            **self._options,
            **loading,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.arguments)

    def __call__(self, table: pa.Table) -> pa.Table:
        """
        Score a table; songs are opened one after the other, and none is held longer than it is scored.

        Args:
            table (`pa.Table`):
                A row a song.

        Returns:
            `pa.Table`: of `schema`, with the rows in the same order.

        Raises:
            `ValueError`: If a column is missing, or an id is neither text nor a whole number.
        """
        id_column = find_column(table.column_names, self._id_column, (), "the table of songs")
        audio_column = find_column(table.column_names, self._audio_column, AUDIO_COLUMNS, "the table of songs")
        ids = [read_id(value, id_column, f"row {row}") for row, value in enumerate(table[id_column].to_pylist(), 1)]
        songs = self._iterate_songs(ids, audio_column, table[audio_column])
        reports = self._scorer.score(songs, on_error="report", read_ahead=True, **self._options)
        rows = [self._lay_out(song_id, report) for song_id, report in zip(ids, reports, strict=True)]
        return pa.Table.from_pylist(rows, self.schema)

    def _iterate_songs(self, ids: list[str], name: str, column: pa.ChunkedArray) -> Iterator[dict[str, Any]]:
        for song_id, cell in zip(ids, column, strict=True):
            audio = cell.as_py()
            if isinstance(audio, Mapping):
                audio = audio if audio.get("bytes") is not None else audio.get("path")
            if is_unknown(audio):
                audio = MissingAudio(song_id, name, audio)
            yield {"id": name_song_by_place(song_id, audio), "audio": open_song(audio, limits=self._options["limits"])}

    def _lay_out(self, song_id: str, report: Mapping[str, Any]) -> dict[str, Any]:
        row = {"id": song_id, **flatten_report(report)}
        return {name: escape_surrogates(row.get(name)) for name in self.schema.names}

    def build_failed_rows(self, songs: Mapping[str, str | None], error: str) -> pa.Table:
        """Build the table of songs, places by id, that could not be scored at all."""
        from modeling_apex.inference.song_report_apex import build_error_report

        facts: dict[str, Any] = {"model_id": self._scorer.model_id, "model_revision": self._scorer.model_revision}
        rows = [
            self._lay_out(song_id, build_error_report(name_song_by_place(song_id, place), error, **facts))
            for song_id, place in songs.items()
        ]
        return pa.Table.from_pylist(rows, self.schema)


def locate_model(model: Any) -> Any:
    """Return the absolute path of a folder, since workers run in other ones; anything else as it is."""
    return os.path.abspath(model) if isinstance(model, (str, os.PathLike)) and os.path.isdir(model) else model


def _restore(scorer_class: type[SongTableScorer], arguments: Mapping[str, Any]) -> SongTableScorer:
    return scorer_class(**arguments)
