"""
Room 2: bring a waveform to the model's sampling rate, whole or as a stream.

What comes in is float32 mono audio at one rate, at once or block by block; what leaves is the same sound at another.
The default filter is the one that the published weights were trained behind, torchaudio's default, restated in numpy.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .audio_limits_apex import check_rate, import_optional
from .libsndfile_apex import BLOCK_NUM_SAMPLES

RESAMPLERS = ("sinc", "soxr")
ORDINARY_PERIOD = 1000
"""Longest period, in samples, of rates whose filter is kept: 44,100 and 48,000 Hz need 147 and 2."""


PIECE_NUM_OUT = 16
"""Columns of a matrix product: few, so that hardly a zero is multiplied, and enough to fill the registers."""


@dataclass(frozen=True)
class _SincKernel:
    """
    The filter for two rates. A period is the shortest stretch over which their sampling grids meet again, or several.

    A row of input is a period with its margins, a row of output what leaves for it; the matrix between them is a band,
    of which `pieces` hold the columns of a few outputs and the rows that are not zero there.
    """

    num_in: int  # samples of a period that come in
    num_out: int  # and that go out
    margin: int  # zeros that must precede the input
    pieces: list[tuple[int, int, np.ndarray]]  # first input, first output, (num_inputs, num_outputs)

    def apply(self, padded: np.ndarray, num_periods: int) -> np.ndarray:
        """Filter `num_periods` periods that start at the beginning of `padded`."""
        outputs = np.empty((num_periods, self.num_out), np.float32)
        size = padded.itemsize
        for first, column, piece in self.pieces:
            # Rows overlap in memory, which a view says without a copy; its bounds are checked here.
            inputs: np.ndarray = np.ndarray(
                (num_periods, len(piece)), np.float32, padded, first * size, (self.num_in * size, size)
            )
            np.matmul(inputs, piece, out=outputs[:, column : column + piece.shape[1]])
        return outputs.reshape(-1)


def get_sinc_kernel(original_rate: int, target_rate: int) -> _SincKernel:
    """Return the filter for two rates, from memory if they are ordinary ones."""
    period = max(original_rate, target_rate) // math.gcd(original_rate, target_rate)
    # The filter for 383,999 Hz takes 56 MB; a few songs at such rates would fill the memory for good.
    return (_recall_sinc_kernel if period <= ORDINARY_PERIOD else _build_sinc_kernel)(original_rate, target_rate)


def _build_sinc_kernel(original_rate: int, target_rate: int) -> _SincKernel:
    """
    Build the windowed-sinc filter that torchaudio uses by default.

    The published weights were trained behind `torchaudio` with `lowpass_filter_width=6`, `rolloff=0.99` and a Hann
    window. Times are computed from integers in float64, so that long periods lose no precision.
    """
    lowpass_filter_width, rolloff = 6, 0.99
    divisor = math.gcd(original_rate, target_rate)
    original, target = original_rate // divisor, target_rate // divisor
    cutoff = min(original, target) * rolloff
    margin = math.ceil(lowpass_filter_width * original / cutoff)

    phases = np.arange(target)[:, None]  # (target, 1)
    indices = phases * original // target + np.arange(-margin, margin + 1)  # (target, num_taps)
    times = (indices * target - phases * original) / (original * target) * cutoff
    times = times.clip(-lowpass_filter_width, lowpass_filter_width)
    window = np.cos(times * math.pi / lowpass_filter_width / 2) ** 2
    bands = (np.sinc(times) * window * cutoff / original).astype(np.float32)
    indices = indices + margin

    # Several short periods to a row, so that outputs come in whole pieces.
    whole = PIECE_NUM_OUT // math.gcd(PIECE_NUM_OUT, target)
    repeats = -(-256 // (max(original, target) * whole)) * whole if max(original, target) < 256 else 1
    first = (np.arange(repeats)[:, None] * original + indices[:, 0]).reshape(-1)  # of each output
    num_out, num_taps = repeats * target, bands.shape[1]
    pieces = []
    for column in range(0, num_out, PIECE_NUM_OUT):
        starts = first[column : column + PIECE_NUM_OUT]
        piece = np.zeros((starts[-1] - starts[0] + num_taps, len(starts)), np.float32)
        rows = starts - starts[0] + np.arange(num_taps)[:, None]  # (num_taps, num_outputs)
        taps = bands[np.arange(column, column + len(starts)) % target].T
        np.put_along_axis(piece, rows, taps, axis=0)
        pieces.append((int(starts[0]), column, piece))
    return _SincKernel(repeats * original, num_out, margin, pieces)


_recall_sinc_kernel = functools.lru_cache(maxsize=16)(_build_sinc_kernel)


class StreamingResampler:
    """
    Resample a song block by block.

    What `push` returns over all blocks, with `finish` at the end, does not depend on how a song is cut into blocks, up
    to float32 rounding.

    Args:
        original_rate (`int`), target_rate (`int`): Rates of what comes in and of what leaves, in hertz.
        method (`str`, defaults to `"sinc"`):
            `"sinc"` is torchaudio's default filter, which the published weights were trained behind; `"soxr"` is
            SoX's high-quality resampler.

    Raises:
        `ValueError`: If a rate is not a positive whole number or the method is unknown.
    """

    def __init__(self, original_rate: int, target_rate: int, *, method: str = "sinc") -> None:
        if method not in RESAMPLERS:
            raise ValueError(f"Unknown resampler {method!r}. Choose one of {', '.join(RESAMPLERS)}.")
        self.original_rate = check_rate(original_rate, "`original_rate`")
        self.target_rate = check_rate(target_rate, "`target_rate`")
        self.method = method
        self._soxr: Any = None
        self._kernel: _SincKernel | None = None
        self._pending: list[np.ndarray] = []
        self._num_pending = 0
        self._num_received = 0
        self._num_returned = 0
        self._is_finished = False
        if self.original_rate == self.target_rate:
            return
        if method == "soxr":
            soxr = import_optional("soxr", "soxr", reason='To resample with method "soxr"')
            self._soxr = soxr.ResampleStream(self.original_rate, self.target_rate, 1, dtype="float32", quality="HQ")
        else:
            self._kernel = get_sinc_kernel(self.original_rate, self.target_rate)
            self._append(np.zeros(self._kernel.margin, np.float32))

    def push(self, block: np.ndarray) -> np.ndarray:
        """
        Take the next block `(num_samples,)` of a song, mono float32; return what is complete, perhaps nothing.

        Raises:
            `ValueError`: If the block is not one-dimensional or the resampler was finished.
        """
        if self._is_finished:
            raise ValueError("This resampler is finished. Build a new one for the next song.")
        block = np.asarray(block, np.float32)
        if block.ndim != 1:
            raise ValueError(f"A block must be one-dimensional mono audio, got the shape {block.shape}.")
        if self._soxr is not None:
            return self._soxr.resample_chunk(block) if len(block) else block
        if self._kernel is None:
            return block
        self._num_received += len(block)
        pieces = [self._filter(block[i : i + BLOCK_NUM_SAMPLES]) for i in range(0, len(block), BLOCK_NUM_SAMPLES)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """Return what is left once the last block was pushed."""
        if self._is_finished:
            raise ValueError("This resampler is finished. Build a new one for the next song.")
        rest: np.ndarray
        if self._soxr is not None:
            rest = self._soxr.resample_chunk(np.zeros(0, np.float32), last=True)
        elif self._kernel is None:
            rest = np.zeros(0, np.float32)
        else:
            num_total = -(-self._num_received * self.target_rate // self.original_rate)
            num_missing = num_total - self._num_returned
            # Zeros after the end: the filter's right margin, and what completes the last period.
            rest = self._filter(np.zeros(2 * self._kernel.margin + self._kernel.num_in, np.float32))[:num_missing]
        self._is_finished = True
        self._pending = []
        return rest

    def _append(self, block: np.ndarray) -> None:
        self._pending.append(block)
        self._num_pending += len(block)

    def _filter(self, block: np.ndarray) -> np.ndarray:
        """Return the output of all periods whose input, margins included, has arrived."""
        kernel = self._kernel
        assert kernel is not None  # `push` and `finish` return before they come here
        self._append(block)
        num_periods = (self._num_pending - 2 * kernel.margin) // kernel.num_in
        if num_periods < 1:
            return np.zeros(0, np.float32)
        padded = np.concatenate(self._pending)
        resampled = kernel.apply(padded, num_periods)
        self._pending = [padded[num_periods * kernel.num_in :].copy()]
        self._num_pending = len(self._pending[0])
        self._num_returned += len(resampled)
        return resampled
