"""
Room 1's rules: what a song may be and cost, and the error that says so when it is not.

What comes in are facts about a song (its bytes, length, rate, channels); what leaves is nothing, or an [`AudioError`]
that names the song, the limit and the setting that moves it. Numpy only.
"""

import importlib
import math
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np

# The code beside a checkpoint does the plain work; the rest is in the package, which is on no index.
INSTALL_PACKAGE = "install it with `pip install .` in a clone of its repository."
MAX_SEGMENT_SAMPLES = 2**25
"""Longest segment, in samples: 23 minutes at 24 kHz."""
GRACE_SAMPLES = 2**24
"""Samples that are decoded before an unlikely compression counts: 6 minutes at 44.1 kHz."""


class AudioError(ValueError):
    """A song that cannot be scored. The message names the song, what is wrong with it and what to do."""

    is_fatal = False  # whether what decoded before it counts for nothing either


@dataclass(frozen=True)
class AudioLimits:
    """
    Bound what one song may cost before it is refused, and where it may be fetched from.

    Raises:
        `TypeError`: If a limit is not a number, or `allow_private_addresses` is not true or false.
        `ValueError`: If a limit is not positive.
    """

    max_seconds: float = 6 * 3600
    max_bytes: int = 2 * 1024**3  # of a file, download or buffer
    max_channels: int = 2  # up to this many are mixed to mono by their mean
    max_sampling_rate: int = 384_000  # hertz, as the next
    min_sampling_rate: int = 4_000
    # Samples (per channel) that a byte of an encoded song may unpack to, once more than `GRACE_SAMPLES` were decoded.
    # Speech at 6 kbit/s comes to 64; hours of silence packed into a few kilobytes, to thousands.
    max_samples_per_byte: float = 128
    max_download_seconds: float = 600  # from the first request to the last byte
    allow_private_addresses: bool = False  # whether a URL may lead here or into this network; strangers choose URLs

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.name == "allow_private_addresses":
                if not isinstance(value, bool):
                    raise TypeError(f"`AudioLimits.{limit.name}` must be true or false, got {value!r}.")
            elif isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                raise TypeError(f"`AudioLimits.{limit.name}` must be a number, got {value!r}.")
            elif not value > 0:
                raise ValueError(f"`AudioLimits.{limit.name}` must be positive, got {value!r}.")

    def refuse_size(self, name: str, num_bytes: int) -> None:
        """Raise `AudioError` if a song has more bytes than allowed."""
        if num_bytes > self.max_bytes:
            raise AudioError(
                f"{name}: {num_bytes} bytes or more, but the limit is {self.max_bytes}. "
                f"Raise it with AudioLimits(max_bytes=...) or --max-megabytes."
            )

    def refuse_duration(self, name: str, num_samples: int, sampling_rate: int) -> None:
        """Raise `AudioError` if a song lasts longer than allowed."""
        if num_samples > self.max_seconds * sampling_rate:
            raise AudioError(
                f"{name}: lasts {num_samples / sampling_rate:.1f} s or more, but the limit is {self.max_seconds} s. "
                f"Cut the song, or raise the limit with AudioLimits(max_seconds=...) or --max-seconds."
            )

    def refuse_expansion(self, name: str, num_samples: int, num_bytes: int) -> None:
        """Raise `AudioError` if a long song unpacks to far more than its bytes can say."""
        if num_samples > GRACE_SAMPLES and num_samples > self.max_samples_per_byte * num_bytes:
            raise AudioError(
                f"{name}: its {num_bytes} bytes unpack to {num_samples} samples or more, but the limit is "
                f"{self.max_samples_per_byte:g} samples a byte: nearly all of it is silence, or it was made to keep "
                "this program busy. Cut the silence, or raise the limit with AudioLimits(max_samples_per_byte=...)."
            )

    def refuse_format(self, name: str, sampling_rate: int, num_channels: int) -> None:
        """Raise `AudioError` if a song's sampling rate or number of channels is out of bounds."""
        if not self.min_sampling_rate <= sampling_rate <= self.max_sampling_rate:
            raise AudioError(
                f"{name}: the sampling rate is {sampling_rate} Hz, but must lie between {self.min_sampling_rate} and "
                f"{self.max_sampling_rate} Hz. Check the value, or change the bounds with "
                f"AudioLimits(min_sampling_rate=..., max_sampling_rate=...) or --max-sampling-rate."
            )
        if not 1 <= num_channels <= self.max_channels:
            raise AudioError(
                f"{name}: has {num_channels} channels, but 1 to {self.max_channels} are accepted. Mix it down first "
                f"(`ffmpeg -i in.wav -ac 2 out.wav`, or `array.mean(axis=0)` for an array of shape (channels, "
                f"samples)), or let the plain mean over channels do it with AudioLimits(max_channels=...) or "
                f"--max-channels {num_channels}."
            )


def import_optional(module: str, package: str, *, reason: str = "To read songs") -> ModuleType:
    """Import what decoding needs, or say how to install it."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        # OSError: the Python package is there and the shared library behind it is not.
        raise ImportError(f'{reason}, {module} is needed: pip install "{package}" ({error})') from error


def check_rate(rate: Any, label: str) -> int:
    """Return a sampling rate as a positive integer."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise TypeError(f"{label} must be a number of hertz, got {type(rate).__name__}.")
    # The first comparison spares what follows an integer that no float can hold.
    if rate > 2**63 or not math.isfinite(rate) or rate <= 0 or rate != int(rate):
        shown = "more than 2**63" if rate > 2**63 else rate
        raise AudioError(f"{label} must be a positive whole number of hertz, got {shown}.")
    return int(rate)
