"""
Scores from stored embeddings: other heads over a corpus, without reading its audio again.

What comes in are a folder that `embed` made and a model with the same encoder; what leaves are the reports that the
model gives of the audio. What only decoding can tell, the warnings about a file, is not stored and not in them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa
import torch

from modeling_apex.corpus.audio_record import UNREADABLE, SongAudio
from modeling_apex.corpus.embedding_manifest import (
    build_expected_identity,
    load_finished_manifest,
    refuse_other_identity,
)
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.shards import list_all_shards, list_songs, read_shard, read_shard_facts
from modeling_apex.inference.scoring_apex import ScoreOptions, SongScorer, split_options
from modeling_apex.inference.song_report_apex import build_error_report


class EmbeddedSongs:
    """
    The songs of a folder of embeddings, for a model whose encoder made them.

    Args:
        folder (`str` or `os.PathLike`):
            What `embed_songs` or `apex-music embed` wrote.
        model ([`ApexModel`]):
            The model, in float32.

    Attributes:
        ids (`list[str]`): Of all songs, in order; those that could not be embedded among them.
        identity (`dict`): What the embeddings were made from.

    Raises:
        `FileNotFoundError`: If the folder has no manifest.
        `ValueError`: If the embedding is unfinished, a shard is missing or damaged, or another model, or one that
            has no embeddings, is given.
    """

    def __init__(self, folder: str | os.PathLike, model: Any):
        self.folder = Path(folder)
        if not hasattr(model.config, "layer_indices"):
            raise ValueError(
                f"{folder}: a {model.config.model_type} model does not score stored embeddings. Pass the songs "
                "themselves, or an APEX model."
            )
        manifest = load_finished_manifest(self.folder)
        self.identity: dict[str, Any] = manifest["identity"]
        expected = build_expected_identity(model, self.identity)
        refuse_other_identity(str(self.folder), self.identity, expected)
        self._shards = [path for paths in list_all_shards(self.folder, manifest).values() for path in paths]
        self.ids: list[str] = []
        for path in self._shards:
            facts = read_shard_facts(path)
            refuse_other_identity(str(path), facts["identity"], expected)
            self.ids += list_songs(path, facts)

    def score(
        self, scorer: SongScorer, journal: ScoreJournal | None = None, **options: Unpack[ScoreOptions]
    ) -> Iterator[dict[str, Any]]:
        """
        Yield one report a song, in order; a song that could not be embedded has its reason in its report.

        Args:
            scorer ([`SongScorer`]):
                Holds the model.
            journal ([`ScoreJournal`], *optional*):
                Is given each report. What it holds of the same audio is passed over.
            options:
                Those of [`SongScorer.score`] that concern reports.
        """
        width, report_options = self.identity["hidden_size"], split_options(**options)[2]
        for path in self._shards:
            facts = read_shard_facts(path)
            contents = list_songs(path, facts)
            audio = {song_id: SongAudio(content or UNREADABLE) for song_id, content in contents.items()}
            if journal is not None:
                audio = {song_id: found for song_id, found in audio.items() if journal.wants(song_id, found)}
            if not audio:
                continue
            segments = _group_segments(read_shard(path, width), scorer.model.config)
            errors = {failure["id"]: failure["error"] for failure in facts["failures"]}
            report: Any
            for song_id, found in audio.items():
                if song_id in errors:
                    report = build_error_report(
                        song_id, errors[song_id], model_id=scorer.model_id, model_revision=scorer.model_revision
                    )
                else:
                    report = scorer.report(segments[song_id], **{**report_options, "on_error": "report"})
                if journal is not None:
                    journal.add(song_id, report, found)
                yield report


def _group_segments(table: pa.Table, config: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the segments of each song of a shard as the scorer encodes them."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    values = torch.from_numpy(flat.copy()).view(-1, config.hidden_size)  # (N, D)
    songs: dict[str, list[dict[str, Any]]] = {}
    columns = [table[name].to_pylist() for name in ("id", "segment_index", "num_real_samples")]
    for row, (song_id, index, num_real_samples) in enumerate(zip(*columns, strict=True)):
        start = index * config.segment_num_samples
        facts = {
            "song": song_id,
            "start": start / config.sampling_rate,
            "end": (start + num_real_samples) / config.sampling_rate,
            "num_real_samples": num_real_samples,
            "warnings": [],
            "features": None,
            "error": None,
        }
        songs.setdefault(song_id, []).append({"embedding": values[row : row + 1], "facts": facts})
    return songs
