"""Segments of songs for a quantizer to look at: what an encoder hears decides the scales that it is quantized with."""

from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import torch

from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.normalization_apex import normalize_segments

MAX_SEGMENTS = 16


def read_calibration_segments(
    songs: Sequence[Any], config: ApexConfig, *, max_segments: int = MAX_SEGMENTS
) -> torch.Tensor:
    """Read a few segments, in turn from each song: normalised, of shape `(num_segments, num_samples)`."""
    per_song: list[list[np.ndarray]] = []
    for song in songs[:max_segments]:
        with stream_segments(
            song,
            target_rate=config.sampling_rate,
            segment_seconds=config.segment_seconds,
            minimum_num_samples=config.minimum_num_samples,
        ) as stream:
            per_song.append([segment.samples for segment in islice(stream, max_segments)])
    in_turn = [segment for turn in zip_longest(*per_song) for segment in turn if segment is not None]
    return torch.from_numpy(normalize_segments(np.stack(in_turn[:max_segments])))
