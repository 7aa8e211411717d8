"""
Encode the songs of a block: segments come from decoding threads, batches go through the encoder, rows leave.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from modeling_apex.corpus.shards import SongRows
from modeling_apex.corpus.song_decoding import DecodedSegment, decode_songs
from modeling_apex.corpus.song_source import Song
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel

logger = logging.getLogger(__name__)


class SongEncoder:
    """
    Encode songs while the next ones are being decoded.

    Args:
        model ([`ApexModel`]):
            Its encoder, on its device and in its precision, makes the embeddings.
        resampler (`str`), limits ([`AudioLimits`], *optional*):
            As in the pipeline.
        batch_size (`int`):
            Segments encoded at once.
        num_decoders (`int`):
            Threads that decode.
    """

    def __init__(
        self, model: ApexModel, resampler: str, limits: AudioLimits | None, batch_size: int, num_decoders: int
    ):
        self._model = model
        self._extractor = ApexFeatureExtractor.from_config(model.config)
        self._options: dict[str, Any] = {"resampler": resampler, "limits": limits, "num_threads": num_decoders}
        self._batch_size = batch_size

    def encode(self, songs: Iterator[Song], progress: Any) -> list[SongRows]:
        """Return the rows of every song, in order."""
        done: list[SongRows] = []
        batch: list[tuple[SongRows, np.ndarray]] = []
        with closing(decode_songs(songs, self._extractor, **self._options)) as segments:
            current: SongRows | None = None
            for segment in segments:
                current = current or SongRows(segment.song)
                self._collect(current, segment, batch)
                if len(batch) == self._batch_size:
                    self._encode(batch)
                if segment.is_last:
                    done.append(current)
                    current = None
                    progress.update()
        self._encode(batch)
        for rows in done:
            if rows.error is not None:
                logger.warning("not embedded: %s: %s", rows.song.id, rows.error)
        return done

    def _collect(self, rows: SongRows, segment: DecodedSegment, batch: list[tuple[SongRows, np.ndarray]]) -> None:
        if segment.samples is None:
            rows.error = segment.error
        else:
            rows.num_real_samples.append(segment.num_real_samples)
            batch.append((rows, segment.samples))

    def _encode(self, batch: list[tuple[SongRows, np.ndarray]]) -> None:
        """Encode and empty the batch. A segment that the encoder cannot bear fails its song, not its neighbours."""
        if not batch:
            return
        try:
            embeddings = list(self._compute([samples for _, samples in batch]))
        except FloatingPointError:
            embeddings = [self._compute_or_fail(rows, samples) for rows, samples in batch]
        for (rows, _), embedding in zip(batch, embeddings, strict=True):
            rows.embeddings.append(embedding)
        batch.clear()

    def _compute(self, samples: list[np.ndarray]) -> np.ndarray:
        values = torch.from_numpy(np.stack(samples))  # (n, T)
        if self._model.device.type == "cuda":
            values = values.pin_memory()  # pinned memory is copied while the GPU works
        values = values.to(self._model.device, non_blocking=True)
        with torch.inference_mode():
            return self._model.compute_segment_embeddings(values).float().cpu().numpy()  # (n, D)

    def _compute_or_fail(self, rows: SongRows, samples: np.ndarray) -> np.ndarray:
        try:
            return self._compute([samples])[0]
        except FloatingPointError as error:
            rows.error = rows.error or str(error)
            return np.zeros(self._model.config.hidden_size, np.float32)  # never stored: the song has failed
