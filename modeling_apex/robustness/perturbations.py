"""
What is done to a song before it is scored again: each perturbation is a name, a kind and parameters.

What comes in is a decoded [`Sound`]; what leaves is the file that somebody might have been given in its place. Nothing
here is drawn but noise, which has a seed, so the same song gives the same file.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

IDENTITY = "none"
MP3_RATES = (32_000, 44_100, 48_000)  # of MPEG 1, which alone has bitrates up to 320
OPUS_RATE = 48_000


class UnfitSongError(ValueError):
    """A perturbation has nothing to do with this song; the message says why. The song counts in the others."""


@dataclass(frozen=True)
class Sound:
    """
    A decoded song.

    Args:
        samples (`np.ndarray` of shape `(num_samples, num_channels)`): Float32.
        sampling_rate (`int`): In hertz.
    """

    samples: NDArray[np.float32]
    sampling_rate: int

    @property
    def num_channels(self) -> int:
        return int(self.samples.shape[1])


@dataclass(frozen=True)
class Perturbation:
    """
    One thing that is done to songs.

    Args:
        name (`str`): What tables call it.
        kind (`str`): One of `KINDS`.
        parameters (`dict`): Those of its kind.
    """

    name: str
    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def apply(self, sound: Sound) -> bytes:
        """
        Make the perturbed song.

        Args:
            sound ([`Sound`]): The song.

        Returns:
            `bytes`: An audio file: mp3, Opus, or WAV of float32 samples.

        Raises:
            [`UnfitSongError`]: If the song is too short for it, has one channel, or has the wanted rate already.
        """
        return _APPLY[self.kind](sound, **self.parameters)


def write_wav(sound: Sound) -> bytes:
    """Write a sound as a WAV file of float32 samples, which lose nothing, beyond full scale either."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound.samples, sound.sampling_rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _encode(sound: Sound, *, codec: str, container: str, sampling_rate: int, kilobits: int) -> bytes:
    import av

    sound = _resample(sound, sampling_rate)
    layout = "mono" if sound.num_channels == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=sampling_rate, layout=layout)
        stream.bit_rate = 1000 * kilobits
        for start in range(0, len(sound.samples), sampling_rate):
            block = np.ascontiguousarray(sound.samples[start : start + sampling_rate])
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), "flt", layout)
            frame.sample_rate, frame.pts = sampling_rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _encode_mp3(sound: Sound, *, kilobits: int) -> bytes:
    rate = sound.sampling_rate if sound.sampling_rate in MP3_RATES else 44_100
    return _encode(sound, codec="libmp3lame", container="mp3", sampling_rate=rate, kilobits=kilobits)


def _encode_opus(sound: Sound, *, kilobits: int) -> bytes:
    return _encode(sound, codec="libopus", container="ogg", sampling_rate=OPUS_RATE, kilobits=kilobits)


def _resample(sound: Sound, sampling_rate: int) -> Sound:
    if sound.sampling_rate == sampling_rate:
        return sound
    return Sound(soxr.resample(sound.samples, sound.sampling_rate, sampling_rate), sampling_rate)


def _keep(sound: Sound) -> bytes:
    return write_wav(sound)


def _change_gain(sound: Sound, *, decibels: float) -> bytes:
    return write_wav(Sound(sound.samples * np.float32(10 ** (decibels / 20)), sound.sampling_rate))


def _clip(sound: Sound, *, decibels: float) -> bytes:
    """Cut off what lies less than so many decibels below the song's own peak."""
    limit = np.float32(np.abs(sound.samples).max() * 10 ** (-decibels / 20))
    return write_wav(Sound(np.clip(sound.samples, -limit, limit), sound.sampling_rate))


def _trim(sound: Sound, *, seconds: float, at: str) -> bytes:
    num_cut = round(seconds * sound.sampling_rate)
    if len(sound.samples) < 2 * num_cut:
        raise UnfitSongError(f"the song lasts less than {2 * seconds:g} s")
    kept = sound.samples[num_cut:] if at == "start" else sound.samples[: len(sound.samples) - num_cut]
    return write_wav(Sound(kept, sound.sampling_rate))


def _add_silence(sound: Sound, *, seconds: float, at: str) -> bytes:
    num_added = round(seconds * sound.sampling_rate)
    padding = (num_added, 0) if at == "start" else (0, num_added)
    return write_wav(Sound(np.pad(sound.samples, (padding, (0, 0))), sound.sampling_rate))


def _change_rate(sound: Sound, *, sampling_rate: int) -> bytes:
    if sound.sampling_rate == sampling_rate:
        raise UnfitSongError(f"the song has {sampling_rate} Hz already")
    return write_wav(_resample(sound, sampling_rate))


def _select_channels(sound: Sound, *, channels: str) -> bytes:
    if sound.num_channels == 1:
        raise UnfitSongError("the song has one channel")
    # As the mean is taken in reading, in float32, so that it is the same to the last bit.
    mono = sound.samples.mean(axis=1) if channels == "mean" else sound.samples[:, 0]
    return write_wav(Sound(mono[:, None], sound.sampling_rate))


def _change_speed(sound: Sound, *, factor: float) -> bytes:
    """Play faster or slower, as a tape would: the pitch goes along."""
    return write_wav(Sound(soxr.resample(sound.samples, factor, 1.0), sound.sampling_rate))


def _add_noise(sound: Sound, *, decibels: float, seed: int) -> bytes:
    """Add white noise that lies so many decibels below the song, by root mean square."""
    level = np.sqrt(np.mean(np.square(sound.samples, dtype=np.float64))) * 10 ** (-decibels / 20)
    noise = np.random.default_rng(seed).standard_normal(sound.samples.shape, np.float32)
    return write_wav(Sound(sound.samples + np.float32(level) * noise, sound.sampling_rate))


_APPLY: dict[str, Callable[..., bytes]] = {
    IDENTITY: _keep,
    "mp3": _encode_mp3,
    "opus": _encode_opus,
    "gain": _change_gain,
    "clipping": _clip,
    "trimming": _trim,
    "silence": _add_silence,
    "resampling": _change_rate,
    "channels": _select_channels,
    "speed": _change_speed,
    "noise": _add_noise,
}
KINDS = tuple(kind for kind in _APPLY if kind != IDENTITY)
_CODECS = {"mp3": "libmp3lame", "opus": "libopus"}

PERTURBATIONS = (
    Perturbation(IDENTITY, IDENTITY),
    *(Perturbation(f"mp3, {rate} kbit/s", "mp3", {"kilobits": rate}) for rate in (320, 128, 64)),
    *(Perturbation(f"Opus, {rate} kbit/s", "opus", {"kilobits": rate}) for rate in (96, 32)),
    *(Perturbation(f"gain {level:+d} dB", "gain", {"decibels": level}) for level in (-12, -6, 6)),
    *(Perturbation(f"upper {level} dB clipped", "clipping", {"decibels": level}) for level in (6, 12)),
    *(
        Perturbation(f"{seconds} s cut off the {at}", "trimming", {"seconds": seconds, "at": at})
        for at in ("start", "end")
        for seconds in (1, 5)
    ),
    *(
        Perturbation(f"{seconds} s of silence at the {at}", "silence", {"seconds": seconds, "at": at})
        for at in ("start", "end")
        for seconds in (1, 5)
    ),
    *(
        Perturbation(f"resampled to {rate / 1000:g} kHz", "resampling", {"sampling_rate": rate})
        for rate in (16_000, 22_050, 48_000)
    ),
    Perturbation("mono", "channels", {"channels": "mean"}),
    Perturbation("left channel alone", "channels", {"channels": "left"}),
    *(Perturbation(f"speed {round(100 * factor - 100):+d} %", "speed", {"factor": factor}) for factor in (0.97, 1.03)),
    *(Perturbation(f"noise at -{level} dB", "noise", {"decibels": level, "seed": 0}) for level in (40, 30)),
)


def choose_perturbations(kinds: Sequence[str] | None = None) -> tuple[list[Perturbation], dict[str, str]]:
    """
    Choose what can be done to songs here.

    Args:
        kinds (`Sequence[str]`, *optional*): Some of `KINDS`; all by default. The control is always among them.

    Returns:
        `tuple[list[Perturbation], dict[str, str]]`: What is done, and by name what is left out, with the reason.

    Raises:
        `ValueError`: If there is no such kind.
    """
    if unknown := sorted(set(kinds or ()) - set(KINDS)):
        raise ValueError(f"no perturbation is of the kind {', '.join(unknown)}; choose from {', '.join(KINDS)}.")
    wanted = [item for item in PERTURBATIONS if item.kind == IDENTITY or not kinds or item.kind in kinds]
    reasons = {kind: _find_obstacle(codec) for kind, codec in _CODECS.items()}
    left_out = {item.name: reason for item in wanted if (reason := reasons.get(item.kind))}
    return [item for item in wanted if item.name not in left_out], left_out


def _find_obstacle(codec: str) -> str | None:
    """Say why a codec does not encode here; `None` where it does."""
    try:
        import av

        av.Codec(codec, "w")
    except ImportError as error:
        return f'PyAV does not work here ({error}): pip install "apex-music[audio]"'
    except av.codec.codec.UnknownCodecError:
        return f"the FFmpeg of this PyAV ({av.__version__}) has no encoder {codec}"
    return None
