"""
From the band's single voices to a finished song: balance, room, jumps between bars, master, and a system's artefacts.

What comes in is a waveform per instrument; what leaves is float32 between -1 and 1, mono or stereo.
"""

from collections.abc import Mapping

import numpy as np

from datasets_scripts.synthetic.composition import Composition, SongSpec
from datasets_scripts.synthetic.instruments import normalize_level

# Root mean square level and place in the stereo field (-1 left, 1 right) of each instrument.
LEVELS = {"lead": 0.105, "pad": 0.07, "bass": 0.06, "hook": 0.04, "drums": 0.07}
POSITIONS = {"lead": 0.0, "pad": -0.35, "bass": 0.0, "hook": 0.45, "drums": 0.1}
MASTER_LEVEL = 0.13
PEAK = 0.97


def _build_balance(spec: SongSpec) -> dict[str, float]:
    """Build the level of every instrument: a memorable hook is turned up, the rest varies a little."""
    generator = spec.build_generator("balance")
    levels = {name: level * float(np.exp(0.12 * generator.standard_normal())) for name, level in LEVELS.items()}
    levels["hook"] *= 0.2 + 1.7 * spec.factors.memorability
    return levels


def mix(spec: SongSpec, composition: Composition, stems: Mapping[str, np.ndarray]) -> np.ndarray:
    """
    Mix the instruments of a song and finish it.

    Args:
        spec (`SongSpec`):
            The song.
        composition (`Composition`):
            Where its bars and sections begin.
        stems (`Mapping[str, np.ndarray]`):
            One waveform of shape `(num_samples,)` per instrument; drums keep their own dynamics.

    Returns:
        `np.ndarray` of shape `(num_samples,)` or `(num_samples, 2)`: the song, float32, within -1 and 1.
    """
    levels = _build_balance(spec)
    leveled = {name: normalize_level(stem, levels[name]) for name, stem in stems.items()}
    channels = []
    for side in (-1.0, 1.0)[: spec.num_channels]:
        pan = side if spec.num_channels == 2 else 0.0
        dry = np.sum([leveled[name] * np.float32(1.0 + 0.5 * pan * POSITIONS[name]) for name in leveled], axis=0)
        wet = _add_room(spec, dry, "left" if side < 0 else "right")
        channels.append(_apply_bar_jumps(spec, composition, wet))
    song = _finish(spec, np.stack(channels, axis=-1))
    return song[:, 0] if spec.num_channels == 1 else song


def _add_room(spec: SongSpec, dry: np.ndarray, side: str) -> np.ndarray:
    """Add the system's room to a mix of shape `(num_samples,)`, and the wash that blurs an unclear structure."""
    from scipy import fft

    system, rate = spec.system_habits, spec.sampling_rate
    generator = spec.build_generator("room-" + side)
    wash_seconds = 1.6
    seconds = np.arange(round(wash_seconds * rate), dtype=np.float32) / np.float32(rate)
    noise = generator.standard_normal(len(seconds), dtype=np.float32)
    room = noise * np.exp(-seconds / np.float32(system.room_seconds / 4.0))
    wash = noise * np.exp(-seconds / np.float32(0.55)) * np.minimum(seconds / np.float32(0.05), 1.0)
    response = normalize_level(room, system.room_level / np.sqrt(len(room)))
    response = response + normalize_level(wash, 1.3 * (1.0 - spec.factors.clarity) / np.sqrt(len(wash)))
    response[0] += 1.0
    length = fft.next_fast_len(len(dry) + len(response), real=True)
    product = fft.rfft(dry, length) * fft.rfft(response.astype(np.float32), length)
    return fft.irfft(product, length)[: len(dry)].astype(np.float32)


def _apply_bar_jumps(spec: SongSpec, composition: Composition, waveform: np.ndarray) -> np.ndarray:
    """Let level and timbre jump from half bar to half bar, and cut short holes, where a song lacks coherence."""
    from scipy import signal

    rate, break_up = spec.sampling_rate, 1.0 - spec.factors.coherence
    generator = spec.build_generator("jumps")
    num_half_bars = len(composition.half_bar_times)
    starts = np.round(composition.half_bar_times * rate).astype(int)
    starts = starts[starts < len(waveform)]
    gains = 10 ** (7.0 * break_up * np.clip(generator.standard_normal(num_half_bars), -1.8, 1.8) / 20)
    tilts = break_up * np.clip(1.3 * generator.standard_normal(num_half_bars), -1, 1)
    # A one-pole split at about 900 Hz; its two halves add up to the mix.
    pole = float(np.exp(-2 * np.pi * 900 / rate))
    low = signal.lfilter([np.float32(1 - pole)], np.array([1, -pole], np.float32), waveform)
    lengths = np.diff(np.append(starts, len(waveform)))
    number = len(starts)
    low_gain = np.repeat((gains * (1 - np.maximum(tilts, 0)))[:number], lengths).astype(np.float32)
    high_gain = np.repeat((gains * (1 + np.minimum(tilts, 0)))[:number], lengths).astype(np.float32)
    jumped = (waveform - low) * high_gain + low * low_gain
    return _cut_holes(jumped, starts, lengths, break_up, rate, generator)


def _cut_holes(
    waveform: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    break_up: float,
    sampling_rate: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Silence up to two short stretches of every half bar, the more likely the less coherent the song is."""
    ramp = max(round(0.002 * sampling_rate), 1)
    for first, length in zip(starts, lengths, strict=True):
        chances, places, sizes = generator.random((3, 2))
        for chance, place, size in zip(chances, places, sizes, strict=True):
            begin = int(first + place * length)
            hole = waveform[begin : begin + int((0.04 + 0.07 * size) * sampling_rate)]
            if chance < 0.9 * break_up and len(hole) > 2 * ramp:
                hole[:ramp] *= np.linspace(1, 0, ramp, dtype=np.float32)
                hole[ramp:-ramp] = 0.0
                hole[-ramp:] *= np.linspace(0, 1, ramp, dtype=np.float32)
    return waveform


def _finish(spec: SongSpec, song: np.ndarray) -> np.ndarray:
    """Master a mix of shape `(num_samples, num_channels)`: bandwidth, drive, hiss, level, soft peaks, short fades."""
    from scipy import signal

    system, nyquist = spec.system_habits, spec.sampling_rate / 2
    low = signal.butter(2, 28.0 / nyquist, "highpass", output="sos")
    sections = [low]
    if system.cutoff_hertz < 0.97 * nyquist:
        sections.append(signal.butter(4, system.cutoff_hertz / nyquist, "lowpass", output="sos"))
    song = signal.sosfilt(np.concatenate(sections).astype(np.float32), song.astype(np.float32), axis=0)
    song = normalize_level(song, MASTER_LEVEL * system.drive)
    song = normalize_level(np.tanh(song), MASTER_LEVEL)
    hiss = spec.build_generator("hiss").standard_normal(song.shape, dtype=np.float32)
    song = song + np.float32(10 ** (system.hiss_decibels / 20)) * hiss
    peak = float(np.max(np.abs(song)))
    if peak > PEAK:
        song = song * np.float32(PEAK / peak)
    fade = min(round(0.02 * spec.sampling_rate), len(song) // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)[:, None]
    song[:fade] *= ramp
    song[-fade:] *= ramp[::-1]
    return song.astype(np.float32)
