"""
The band: chords, bass, hook and drums, each rendered note by note into a buffer of its own.

What comes in is a list of notes or strokes and the habits of a system; what leaves is a float32 waveform of the whole
song at a steady level, so that one instrument's cues do not change the loudness of another.
"""

from collections.abc import Sequence

import numpy as np

from datasets_scripts.synthetic.composition import Hit, Note
from datasets_scripts.synthetic.systems import System

TWO_PI = 2.0 * np.pi


def compute_frequency(pitch: float | np.ndarray) -> float | np.ndarray:
    """Return the frequency of a MIDI pitch, in hertz."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


def normalize_level(waveform: np.ndarray, level: float) -> np.ndarray:
    """Scale a waveform to a root mean square level, 1 being full scale; silence stays silence."""
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return waveform * np.float32(level / np.sqrt(power)) if power > 1e-12 else waveform


def _compute_sine(frequency: float, num_samples: int, sampling_rate: int, phase: float = 0.0) -> np.ndarray:
    """Return a sine in float32; the phase is reduced in float64, so long notes stay in tune."""
    cycles = np.arange(num_samples) * (frequency / sampling_rate) + phase
    return np.sin(np.float32(TWO_PI) * (cycles - np.floor(cycles)).astype(np.float32))


def _compute_modulated_tone(
    frequency: float, ratio: float, index: np.ndarray | float, num_samples: int, sampling_rate: int, phase: float
) -> np.ndarray:
    """Return a tone by frequency modulation; `ratio` off a whole number makes it inharmonic."""
    modulator = _compute_sine(frequency * ratio, num_samples, sampling_rate, phase)
    cycles = np.arange(num_samples) * (frequency / sampling_rate) + phase
    carrier = np.float32(TWO_PI) * (cycles - np.floor(cycles)).astype(np.float32)
    return np.sin(carrier + np.asarray(index, np.float32) * modulator)


def _add(buffer: np.ndarray, start: int, sound: np.ndarray) -> None:
    """Add a sound to a buffer; what reaches past its end is dropped."""
    end = min(start + len(sound), len(buffer))
    if 0 <= start < end:
        buffer[start:end] += sound[: end - start]


def _compute_fades(num_samples: int, attack: int, release: int) -> np.ndarray:
    envelope = np.ones(num_samples, np.float32)
    attack, release = min(attack, num_samples // 2), min(release, num_samples // 2)
    if attack:
        envelope[:attack] = np.linspace(0, 1, attack, dtype=np.float32)
    if release:
        envelope[-release:] = np.linspace(1, 0, release, dtype=np.float32)
    return envelope


def render_pad(
    notes: Sequence[Note],
    num_samples: int,
    sampling_rate: int,
    system: System,
    musicality: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """
    Render the chords: two players a voice, who beat against each other when they are out of tune.

    Args:
        notes (`Sequence[Note]`):
            What is played.
        num_samples, sampling_rate (`int`):
            Length of the song, and its rate in hertz.
        system (`System`):
            Timbre.
        musicality (`float`):
            At 1 the players agree; at 0 they are about half a semitone apart and their overtones go sour.
        generator (`np.random.Generator`):
            Source of phases.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: the chords.
    """
    buffer = np.zeros(num_samples, np.float32)
    sourness = 1.0 - musicality
    ratio = system.pad_ratio + 0.41 * sourness
    index = (0.8 + 1.6 * sourness) * system.brightness
    for note in notes:
        first = round(note.start * sampling_rate)
        length = min(round(note.end * sampling_rate), num_samples) - first
        if length <= 16:
            continue
        envelope = _compute_fades(length, sampling_rate // 50, sampling_rate // 40)
        cents = 4.0 + 56.0 * sourness
        phases = generator.random(2)
        for side, phase in zip((-0.5, 0.5), phases, strict=True):
            frequency = float(compute_frequency(note.pitch + side * cents / 100.0))
            tone = _compute_modulated_tone(frequency, ratio, index, length, sampling_rate, float(phase))
            _add(buffer, first, envelope * tone)
    return buffer


def render_bass(
    notes: Sequence[Note], num_samples: int, sampling_rate: int, system: System, musicality: float
) -> np.ndarray:
    """
    Render the bass line: two strings, which beat and growl when they are out of tune.

    The arguments are those of [`render_pad`]. At `musicality` 1 the strings agree; at 0 they are more than half a
    semitone apart, with sour overtones. Returns an array of shape `(num_samples,)`.
    """
    buffer = np.zeros(num_samples, np.float32)
    sourness = 1.0 - musicality
    ratio = system.bass_ratio + 0.37 * sourness
    for note in notes:
        first = round(note.start * sampling_rate)
        length = min(round(note.end * sampling_rate), num_samples) - first
        if length <= 16:
            continue
        decay = np.exp(-np.arange(length, dtype=np.float32) / np.float32(0.45 * sampling_rate))
        envelope = _compute_fades(length, sampling_rate // 200, sampling_rate // 50) * decay
        index = np.float32((1.2 + 1.5 * sourness) * system.brightness) * decay
        for side in (-0.5, 0.5):
            frequency = float(compute_frequency(note.pitch + side * 0.8 * sourness))
            tone = _compute_modulated_tone(frequency, ratio, index, length, sampling_rate, 0.0)
            _add(buffer, first, np.float32(note.velocity) * envelope * tone)
    return buffer


def render_hook(
    notes: Sequence[Note], num_samples: int, sampling_rate: int, system: System, memorability: float
) -> np.ndarray:
    """
    Render the hook: a bright, high bell when it should be remembered, a dull low pluck when not.

    The arguments are those of [`render_pad`], and `memorability` between 0 (dull) and 1 (bright). Returns an array of
    shape `(num_samples,)`.
    """
    buffer = np.zeros(num_samples, np.float32)
    length = round(0.35 * sampling_rate)
    seconds = np.arange(length, dtype=np.float32) / np.float32(sampling_rate)
    decay = np.exp(-seconds / np.float32(0.11)) * _compute_fades(length, sampling_rate // 400, sampling_rate // 50)
    index = np.float32(2.2 * memorability * system.brightness) * np.exp(-seconds / np.float32(0.06))
    tones: dict[float, np.ndarray] = {}
    for note in notes:
        if note.pitch not in tones:
            frequency = float(compute_frequency(note.pitch))
            tone = _compute_modulated_tone(frequency, 2.0, index, length, sampling_rate, 0.0)
            tones[note.pitch] = decay * tone
        _add(buffer, round(note.start * sampling_rate), np.float32(note.velocity) * tones[note.pitch])
    return buffer


def _build_drum_kit(system: System, sampling_rate: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Build one stroke of every drum, waveforms by name with peaks near 1."""

    from scipy import signal

    def axis(seconds: float) -> np.ndarray:
        return np.arange(round(seconds * sampling_rate)) / sampling_rate

    def noise(num_samples: int, low: float, high: float) -> np.ndarray:
        band = [low / (sampling_rate / 2), min(high / (sampling_rate / 2), 0.98)]
        sections = signal.butter(2, band, "bandpass", output="sos")
        sound = signal.sosfilt(sections, generator.standard_normal(num_samples))
        return sound / np.max(np.abs(sound))

    t = axis(0.28)
    sweep = system.kick_hertz * t + 90.0 * 0.035 * (1.0 - np.exp(-t / 0.035))
    kit = {"kick": np.sin(TWO_PI * sweep) * np.exp(-t / 0.09)}
    t = axis(0.22)
    skin = np.sin(TWO_PI * system.snare_hertz * t) * np.exp(-t / 0.05)
    kit["snare"] = 0.5 * skin + 0.7 * noise(len(t), 900, 5000) * np.exp(-t / 0.06)
    t = axis(0.09)
    kit["hat"] = noise(len(t), 7500, 11500) * np.exp(-t / 0.022)
    t = axis(0.11)
    kit["shaker"] = noise(len(t), 5500, 9000) * np.sin(np.pi * t / t[-1])
    t = axis(1.1)
    kit["crash"] = noise(len(t), 4500, 11500) * np.exp(-t / 0.35)
    t = axis(0.25)
    tom = 110.0 * t + 60.0 * 0.05 * (1.0 - np.exp(-t / 0.05))
    kit["tom"] = np.sin(TWO_PI * tom) * np.exp(-t / 0.08)
    return {name: sound.astype(np.float32) for name, sound in kit.items()}


# Loudness of one stroke in the mix, relative to the others.
DRUM_GAINS = {"kick": 0.95, "snare": 0.65, "hat": 0.16, "shaker": 0.32, "crash": 0.42, "tom": 0.8}


def render_drums(
    hits: Sequence[Hit], num_samples: int, sampling_rate: int, system: System, generator: np.random.Generator
) -> np.ndarray:
    """Render the drums in shape `(num_samples,)`; arguments as for [`render_pad`], the generator is for noise."""
    kit = _build_drum_kit(system, sampling_rate, generator)
    buffer = np.zeros(num_samples, np.float32)
    for hit in hits:
        gain = np.float32(hit.velocity * DRUM_GAINS[hit.drum])
        _add(buffer, round(hit.time * sampling_rate), gain * kit[hit.drum])
    return buffer
