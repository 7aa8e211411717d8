"""
What a reward takes for audio, and what the model gets of it.

What comes in are waveforms of another program: numpy or torch, mono or several channels, one, many or a padded batch.
What leaves are the same normalised segments that a file with these samples becomes, on the device of the input, by
operations that a gradient passes through.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_apex.inference.audio_limits_apex import AudioError, check_rate
from modeling_apex.inference.decoding_apex import MAX_AMPLITUDE
from modeling_apex.inference.normalization_apex import NORMALIZATION_EPSILON
from modeling_apex.inference.resampling_apex import get_sinc_kernel

MAX_CHANNELS = 8  # what is longer on both axes has no axis of channels


def list_waveforms(audio: Any, lengths: Any = None) -> list[torch.Tensor]:
    """
    Take a call's audio apart into songs: mono waveforms `(num_samples,)`, float32, each on its own device.

    Args:
        audio (`np.ndarray`, `torch.Tensor`, or a list of them):
            One song of shape `(num_samples,)`, `(num_channels, num_samples)` or `(num_samples, num_channels)`; several
            as a list of such, as `(batch_size, num_channels, num_samples)`, or padded, with `lengths`, as
            `(batch_size, num_samples)` as well. The short axis of a song holds its channels.
        lengths (`Sequence[int]` or `torch.LongTensor`, *optional*):
            Samples of each song of a padded batch.

    Raises:
        `TypeError`: If something is not audio.
        `ValueError`: If a shape cannot be audio, samples are not floats, or `lengths` do not fit.
    """
    if isinstance(audio, (list, tuple)):
        if lengths is not None:
            raise ValueError("`lengths` belong to a padded batch, got a list of songs: cut each to its length.")
        return [_mix_to_mono(_to_tensor(song, f"song {row}"), f"song {row}") for row, song in enumerate(audio)]
    batch = _to_tensor(audio, "`audio`")
    if lengths is None and batch.ndim < 3:
        return [_mix_to_mono(batch, "`audio`")]
    if batch.ndim not in (2, 3):
        raise ValueError(
            f"a batch must be (songs, samples) or (songs, channels, samples), got the shape {tuple(batch.shape)}."
        )
    songs = [_mix_to_mono(song, f"song {row}") for row, song in enumerate(batch)]
    if lengths is None:
        return songs
    counts = [int(length) for length in lengths]
    if len(counts) != len(songs) or any(not 0 <= n <= len(song) for n, song in zip(counts, songs, strict=False)):
        raise ValueError(
            f"`lengths` must say for each of {len(songs)} songs how many of its {batch.shape[-1]} samples are real, "
            f"got {counts}."
        )
    return [song[:count] for song, count in zip(songs, counts, strict=True)]


def _to_tensor(audio: Any, name: str) -> torch.Tensor:
    if isinstance(audio, np.ndarray):
        audio = torch.from_numpy(audio)
    if not torch.is_tensor(audio):
        raise TypeError(
            f"{name}: expected a numpy array or a torch tensor, got {type(audio).__name__}. Files, bytes and URLs go "
            'to `pipeline("apex-popularity")`, or through `modeling_apex.load_audio`.'
        )
    if not audio.is_floating_point():
        raise ValueError(
            f"{name}: samples are {audio.dtype}, but must be floats in [-1, 1]. Divide 16-bit samples by 32768."
        )
    return audio.float()


def _mix_to_mono(song: torch.Tensor, name: str) -> torch.Tensor:
    if song.ndim == 1:
        return song
    if song.ndim != 2 or min(song.shape) > MAX_CHANNELS:
        raise ValueError(
            f"{name}: the shape is {tuple(song.shape)}, but a song is (samples,), (channels, samples) or (samples, "
            f"channels) with at most {MAX_CHANNELS} channels; a padded batch needs `lengths`."
        )
    return song.mean(0 if song.shape[0] <= MAX_CHANNELS else 1)


def resample(waveform: torch.Tensor, original_rate: int, target_rate: int) -> torch.Tensor:
    """
    Resample `(num_samples,)` by the filter that the published weights were trained behind, on the device it lies on.

    Equal to [`StreamingResampler`] of the whole waveform up to rounding; a gradient passes through.
    """
    original_rate, target_rate = check_rate(original_rate, "`sampling_rate`"), check_rate(target_rate, "the model's")
    if original_rate == target_rate or not len(waveform):
        return waveform
    kernel = get_sinc_kernel(original_rate, target_rate)
    num_samples = -(-len(waveform) * target_rate // original_rate)
    num_periods = -(-num_samples // kernel.num_out)
    length = num_periods * kernel.num_in + 2 * kernel.margin + 1
    padded = torch.nn.functional.pad(waveform, (kernel.margin, length))
    outputs = []
    for first, _, piece in kernel.pieces:
        inputs = padded[first:].unfold(0, len(piece), kernel.num_in)[:num_periods]  # (num_periods, num_inputs)
        outputs.append(inputs @ torch.from_numpy(piece).to(waveform))
    return torch.cat(outputs, dim=1).reshape(-1)[:num_samples]


def check_samples(waveform: torch.Tensor) -> None:
    """
    Refuse what a file with these samples would be refused for.

    Raises:
        `AudioError`: If there is no sample, or one is NaN, infinite or absurdly large.
    """
    if not len(waveform):
        raise AudioError("holds no samples.")
    peak = float(waveform.detach().abs().max())
    if not np.isfinite(peak):
        raise AudioError("samples are NaN or infinite.")
    if peak > MAX_AMPLITUDE:
        raise AudioError(f"samples reach {peak:.3g}, but belong between -1 and 1.")


def cut_segments(waveform: torch.Tensor, segment_num_samples: int) -> tuple[torch.Tensor, list[int]]:
    """Cut into segments `(S, T)`, the last one padded, each normalised as padded; and the real samples of each."""
    num_segments = -(-len(waveform) // segment_num_samples)
    missing = num_segments * segment_num_samples - len(waveform)
    segments = torch.nn.functional.pad(waveform, (0, missing)).view(num_segments, segment_num_samples)
    lengths = [segment_num_samples] * (num_segments - 1) + [segment_num_samples - missing]
    # Apple's accelerator has no float64.
    wide = segments.float() if segments.device.type == "mps" else segments.double()
    centered = wide - wide.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    return (centered / (variance + NORMALIZATION_EPSILON).sqrt()).float(), lengths


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Put rows of different lengths into one `(B, S)`, zero where a row has ended."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
