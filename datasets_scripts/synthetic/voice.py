"""
The lead: a singer made of a pulse source, breath and formants, or a wind instrument with the same lungs.

Its naturalness is what listeners of SongEval are asked about: breathing and phrasing. A natural lead breathes in
before a phrase, leaves room at its end, glides between notes, has vibrato on held ones, swells and is a little
breathy. An unnatural one holds a buzzing, metallic tone at one level and steps from pitch to pitch.
"""

from collections.abc import Sequence

import numpy as np

from datasets_scripts.synthetic.composition import Note, SongSpec
from datasets_scripts.synthetic.instruments import compute_frequency

CONTROL_RATE = 250
TABLE_LENGTH = 4096
# Centre, bandwidth (hertz) and gain of the resonances of three sung vowels and of a wind instrument's body.
VOWELS = (
    ((750, 90, 1.0), (1200, 110, 0.6), (2600, 160, 0.25), (3500, 220, 0.12)),
    ((420, 80, 1.0), (800, 100, 0.55), (2500, 160, 0.15), (3400, 220, 0.08)),
    ((320, 70, 1.0), (2100, 140, 0.4), (2900, 180, 0.3), (3600, 220, 0.15)),
)
WIND_BODY = ((480, 300, 1.0), (1150, 420, 0.6), (2400, 700, 0.25))


def _build_table(num_harmonics: int, tilt: float) -> np.ndarray:
    """Return one period of a pulse whose harmonics fall off with the power `tilt`, with unit power."""
    spectrum = np.zeros(TABLE_LENGTH // 2 + 1, np.complex128)
    orders = np.arange(1, num_harmonics + 1)
    spectrum[1 : num_harmonics + 1] = -1j * orders ** (-tilt)
    table = np.fft.irfft(spectrum, TABLE_LENGTH)
    return (table / np.sqrt(np.mean(table**2))).astype(np.float32)


def _build_resonances(formants: Sequence[tuple[float, float, float]], scale: float, sampling_rate: int) -> np.ndarray:
    """Return the impulse response of parallel resonances."""
    seconds = np.arange(round(0.016 * sampling_rate)) / sampling_rate
    response = np.zeros(len(seconds))
    for centre, bandwidth, gain in formants:
        decay = np.exp(-np.pi * bandwidth * seconds)
        response += gain * bandwidth * decay * np.sin(2 * np.pi * centre * scale * seconds)
    return (response / np.sqrt(np.sum(response**2))).astype(np.float32)


def _compute_controls(
    spec: SongSpec, phrases: Sequence[Sequence[Note]], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pitch (MIDI), loudness and inhaled breath of the lead at the control rate."""
    from scipy import ndimage

    natural = spec.factors.naturalness
    num_frames = int(spec.seconds * CONTROL_RATE) + 2
    notes = [note for phrase in phrases for note in phrase]
    pitch = np.full(num_frames, notes[0].pitch if notes else 60.0)
    arcs, breath, held = np.zeros(num_frames), np.zeros(num_frames), np.zeros(num_frames)
    for note in notes:
        first, last = int(note.start * CONTROL_RATE), min(int(note.end * CONTROL_RATE), num_frames)
        if last - first < 3:
            continue
        pitch[first:] = note.pitch
        position = np.linspace(0.0, 1.0, last - first)
        edges = np.minimum(position / 0.2, 1.0) * np.minimum((1.0 - position) / 0.12, 1.0)
        arcs[first:last] = edges * (1.0 - 0.55 * position**2)
        held[first:last] = np.minimum(np.arange(last - first) / (0.25 * CONTROL_RATE), 1.0)
    for phrase in phrases:
        if phrase:
            last = min(int(phrase[0].start * CONTROL_RATE), num_frames)
            first = max(last - int(0.36 * CONTROL_RATE), 0)
            if last - first > 4:
                breath[first:last] = np.sin(np.pi * np.linspace(0.0, 1.0, last - first) ** 1.4) ** 2
    glide = 1 + int(natural * 0.09 * CONTROL_RATE)
    pitch = ndimage.uniform_filter1d(pitch, glide)
    rate, drift = generator.uniform(5.0, 6.2), generator.standard_normal(num_frames)
    vibrato = np.sin(2 * np.pi * rate * np.arange(num_frames) / CONTROL_RATE)
    drift = ndimage.gaussian_filter1d(drift, 0.15 * CONTROL_RATE) * np.sqrt(0.15 * CONTROL_RATE)
    pitch = pitch + natural * (0.55 * vibrato * ndimage.uniform_filter1d(held, 9) + 0.12 * drift)
    loudness = natural * ndimage.uniform_filter1d(arcs, 5) + (1.0 - natural)
    return pitch, loudness, natural * breath


def _compute_source(
    spec: SongSpec, frames: np.ndarray, pitch: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the voiced source and the breath noise at the sampling rate."""
    natural, rate = spec.factors.naturalness, spec.sampling_rate
    frequency = compute_frequency(pitch)
    frame_axis = np.arange(len(pitch))
    phase = np.cumsum(np.interp(frames, frame_axis, np.asarray(frequency)) / rate)
    phase -= np.floor(phase)
    num_harmonics = int(np.clip(min(0.45 * rate, 10000.0) / np.max(frequency), 3, 60))
    table = natural * _build_table(num_harmonics, 1.5) + (1.0 - natural) * _build_table(num_harmonics, 0.35)
    voiced = np.take(table.astype(np.float32), (phase * TABLE_LENGTH).astype(np.int32), mode="clip")
    return voiced, generator.standard_normal(len(frames), dtype=np.float32)


def render_lead(spec: SongSpec, phrases: Sequence[Sequence[Note]]) -> np.ndarray:
    """Render the lead's phrases in shape `(num_samples,)`; `naturalness` decides how it breathes and phrases."""
    from scipy import signal

    generator, natural = spec.build_generator("lead"), spec.factors.naturalness
    num_samples = round(spec.seconds * spec.sampling_rate)
    pitch, loudness, inhaled = _compute_controls(spec, phrases, generator)
    frames = np.arange(num_samples) * (CONTROL_RATE / spec.sampling_rate)
    voiced, noise = _compute_source(spec, frames, pitch, generator)
    frame_axis = np.arange(len(pitch))
    loudness_samples = np.interp(frames, frame_axis, loudness).astype(np.float32)
    source = loudness_samples * (voiced + np.float32(0.45 * natural) * noise)
    bodies, weights = _choose_bodies(spec, phrases, len(pitch), generator)
    lead = np.zeros(num_samples, np.float32)
    for body, weight in zip(bodies, weights, strict=True):
        response = _build_resonances(body, spec.system_habits.formant_scale, spec.sampling_rate)
        filtered = signal.oaconvolve(source, response)[:num_samples]
        lead += np.interp(frames, frame_axis, weight).astype(np.float32) * filtered if len(bodies) > 1 else filtered
    if natural < 1.0:
        delay = round(0.0029 * spec.sampling_rate)
        lead[delay:] += np.float32(0.85 * (1.0 - natural)) * lead[:-delay]
    band = signal.butter(2, (2500, 6500), "bandpass", output="sos", fs=spec.sampling_rate)
    breath = signal.sosfilt(band, noise[::-1]).astype(np.float32)
    level = np.sqrt(np.mean(lead**2))
    return lead + np.float32(1.7 * level) * np.interp(frames, frame_axis, inhaled).astype(np.float32) * breath


def _choose_bodies(
    spec: SongSpec, phrases: Sequence[Sequence[Note]], num_frames: int, generator: np.random.Generator
) -> tuple[tuple[tuple[tuple[float, float, float], ...], ...], np.ndarray]:
    """Return the resonances in use and how much of each is heard at every control frame."""
    from scipy import ndimage

    if spec.prompt.is_instrumental:
        return (WIND_BODY,), np.ones((1, num_frames))
    weights = np.zeros((len(VOWELS), num_frames))
    vowel, first = int(generator.integers(len(VOWELS))), 0
    for note in (note for phrase in phrases for note in phrase):
        start = min(int(note.start * CONTROL_RATE), num_frames)
        weights[vowel, first:start] = 1.0
        first, vowel = start, int(generator.integers(len(VOWELS)))
    weights[vowel, first:] = 1.0
    return VOWELS, ndimage.uniform_filter1d(weights, 15, axis=1)
