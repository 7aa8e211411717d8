"""Segments of songs for a quantizer to look at: what an encoder hears decides the scales that it is quantized with."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor, normalize_segments

MAX_SEGMENTS = 16


def read_calibration_segments(
    songs: Sequence[Any], config: ApexConfig, *, max_segments: int = MAX_SEGMENTS
) -> torch.Tensor:
    """
    Read segments of songs, in turn from each song.

    Args:
        songs (`Sequence`):
            Paths, or whatever else `stream_segments` reads.
        config ([`ApexConfig`]):
            Says how long segments are.
        max_segments (`int`, defaults to 16):
            How many segments are enough.

    Returns:
        `torch.FloatTensor` of shape `(num_segments, num_samples)`: normalised.
    """
    extractor = ApexFeatureExtractor.from_config(config)
    per_song: list[list[np.ndarray]] = []
    for song in songs[:max_segments]:
        segments: list[np.ndarray] = []
        with stream_segments(
            song,
            target_rate=extractor.sampling_rate,
            segment_seconds=extractor.segment_seconds,
            minimum_num_samples=extractor.minimum_num_samples,
        ) as stream:
            for segment in stream:
                segments.append(segment.samples)
                if len(segments) == max_segments:
                    break
        per_song.append(segments)
    in_turn = [segment for turn in zip_longest(*per_song) for segment in turn if segment is not None]
    return torch.from_numpy(normalize_segments(np.stack(in_turn[:max_segments])))
