"""
What is played, before any sound: metre, sections, chords, melody, hook and drum pattern of one song.

What comes in is a [`SongSpec`]; what leaves is a [`Composition`]: notes with times in seconds and pitches as MIDI
numbers. Each part draws from a stream of its own and draws as many numbers whatever the factors are, so that moving
one factor moves its own cues and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from datasets_scripts.synthetic.factors import Factors
from datasets_scripts.synthetic.prompts import Prompt
from datasets_scripts.synthetic.random_streams import build_generator
from datasets_scripts.synthetic.systems import System, get_system

BEATS_PER_BAR = 4
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 2, 3, 4))
FORM = "ABABCB"
# How much of the band plays in a verse (A), a chorus (B) and a bridge (C) when the structure is clear.
SECTION_ENERGY = {"A": 0.35, "B": 1.0, "C": 0.6}


@dataclass(frozen=True)
class SongSpec:
    """
    Say everything that rendering a song needs; equal specs give equal songs.

    Args:
        song_id (`str`): Names the song's random streams.
        seed (`int`): Seed of the world.
        system (`str`): Name of the system that makes it.
        factors (`Factors`): What the song is like.
        prompt (`Prompt`): What was asked for.
        seconds (`float`): Length of the song.
        sampling_rate (`int`): In hertz, at least 16,000.
        num_channels (`int`): 1 or 2.

    Raises:
        `ValueError`: If the length, rate or number of channels cannot be rendered, or the system is unknown.
    """

    song_id: str
    seed: int
    system: str
    factors: Factors
    prompt: Prompt
    seconds: float = 24.0
    sampling_rate: int = 24000
    num_channels: int = 1

    def __post_init__(self) -> None:
        if not 2.0 <= self.seconds <= 1200.0:
            raise ValueError(f"`seconds` is {self.seconds!r}, but a synthetic song lasts between 2 and 1200 seconds.")
        if not 16000 <= self.sampling_rate <= 96000:
            raise ValueError(f"`sampling_rate` is {self.sampling_rate!r}; choose one between 16000 and 96000 hertz.")
        if self.num_channels not in (1, 2):
            raise ValueError(f"`num_channels` is {self.num_channels!r}; choose 1 (mono) or 2 (stereo).")
        get_system(self.system)

    def build_generator(self, part: str) -> np.random.Generator:
        """Build the random stream of one part of this song."""
        return build_generator(self.seed, "song", self.song_id, part)

    @property
    def system_habits(self) -> System:
        """The habits of the system that makes this song."""
        return get_system(self.system)


class Note(NamedTuple):
    """A note: start and end in seconds, pitch as a MIDI number, loudness in 0 to 1."""

    start: float
    end: float
    pitch: float
    velocity: float


class Hit(NamedTuple):
    """A drum stroke: time in seconds, name of the drum, loudness in 0 to 1."""

    time: float
    drum: str
    velocity: float


@dataclass
class Composition:
    """
    Hold everything that is played in one song.

    Args:
        half_bar_times (`np.ndarray` of shape `(num_half_bars + 1,)`): Where half bars begin, in seconds.
        sections (`list[str]`): Letter of each bar's section.
        section_starts (`list[float]`): Where sections begin, in seconds.
        lead (`list[list[Note]]`): Phrases of the sung or played lead.
        hook (`list[Note]`): The figure that a listener should remember.
        bass (`list[Note]`): The bass line.
        pad (`list[Note]`): The chords, one note a voice.
        hits (`list[Hit]`): Drum strokes.
    """

    half_bar_times: np.ndarray
    sections: list[str]
    section_starts: list[float]
    lead: list[list[Note]] = field(default_factory=list)
    hook: list[Note] = field(default_factory=list)
    bass: list[Note] = field(default_factory=list)
    pad: list[Note] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)


def compose(spec: SongSpec) -> Composition:
    """Write a song: who plays what, and when; no note or stroke starts after the song's end."""
    return _Composer(spec).compose()


class _Composer:
    """Carry the grid of one song (beat times, keys, chords) while its parts are written."""

    def __init__(self, spec: SongSpec) -> None:
        self.spec = spec
        self.factors = spec.factors
        self.beat_times = self._draw_beat_times()
        self.num_bars = (len(self.beat_times) - 1) // BEATS_PER_BAR
        self.section_bars = 2 if spec.seconds < 45 else 4
        self.sections = [FORM[(bar // self.section_bars) % len(FORM)] for bar in range(self.num_bars)]
        self.transpositions = self._draw_transpositions()
        generator = spec.build_generator("harmony")
        self.progressions = {name: PROGRESSIONS[generator.integers(len(PROGRESSIONS))] for name in "ABC"}
        self.scale = SCALES[spec.prompt.mode]

    def compose(self) -> Composition:
        section_starts = [
            self.time(bar * BEATS_PER_BAR)
            for bar in range(0, self.num_bars, self.section_bars)
            if self.time(bar * BEATS_PER_BAR) < self.spec.seconds
        ]
        composition = Composition(self.beat_times[::2], self.sections, section_starts)
        composition.pad, composition.bass = self._write_harmony()
        composition.lead = self._write_lead()
        composition.hook = self._write_hook()
        composition.hits = self._write_drums()
        return composition

    def _draw_beat_times(self) -> np.ndarray:
        """Return the time of every beat; an incoherent song jumps in tempo every half bar."""
        spec = self.spec
        beat = 60.0 / (spec.prompt.tempo * spec.system_habits.tempo_scale)
        num_half_bars = 2 * int(np.ceil(1.8 * spec.seconds / (BEATS_PER_BAR * beat)) + 1)
        jumps = spec.build_generator("tempo").standard_normal(num_half_bars)
        scale = np.exp(0.16 * (1.0 - self.factors.coherence) * np.clip(jumps, -2, 2))
        return np.concatenate([[0.0], np.cumsum(np.repeat(beat * scale, 2))])

    def _draw_transpositions(self) -> np.ndarray:
        """Return the key of every half bar in semitones; an incoherent song jumps between keys."""
        num_half_bars = (len(self.beat_times) - 1) // 2
        generator = self.spec.build_generator("keys")
        chance, jumps = generator.random(num_half_bars), generator.integers(1, 6, num_half_bars)
        signs = generator.choice([-1, 1], num_half_bars)
        return np.where(chance < 0.75 * (1.0 - self.factors.coherence), signs * jumps, 0)

    def time(self, beat: float) -> float:
        """Return the time of a position counted in beats."""
        return float(np.interp(beat, np.arange(len(self.beat_times)), self.beat_times))

    def pitch(self, degree: int, beat: float, base: int) -> float:
        """Return the MIDI number of a scale degree at a position, in the key that holds there."""
        octave, step = divmod(int(degree), len(self.scale))
        half_bar = min(int(beat // 2), len(self.transpositions) - 1)
        return base + self.spec.prompt.tonic + 12 * octave + self.scale[step] + int(self.transpositions[half_bar])

    def chord_root(self, bar: int) -> int:
        """Return the scale degree that a bar's chord stands on."""
        progression = self.progressions[self.sections[bar]]
        return progression[bar % len(progression)]

    def bars(self) -> Sequence[int]:
        """Return the bars that begin before the song's end."""
        return [bar for bar in range(self.num_bars) if self.time(bar * BEATS_PER_BAR) < self.spec.seconds]

    def _write_harmony(self) -> tuple[list[Note], list[Note]]:
        """Write chords (two strokes a bar) and bass; an unmusical song plays wrong and mistuned notes."""
        generator = self.spec.build_generator("chords")
        sourness = 1.0 - self.factors.musicality
        pad, bass = [], []
        for bar in self.bars():
            root = self.chord_root(bar)
            for half in range(2):
                beat = bar * BEATS_PER_BAR + 2 * half
                start, end = self.time(beat), self.time(beat + 2)
                chance, signs = generator.random(4), generator.choice([-1.0, 1.0], 4)
                cents = generator.standard_normal(4)
                for voice, degree in enumerate((root, root + 2, root + 4)):
                    pitch = self.pitch(degree, beat, 48)
                    pitch -= 12 * (pitch > 66)
                    pitch += signs[voice] * (chance[voice] < 0.75 * sourness) + 0.30 * sourness * cents[voice]
                    pad.append(Note(start, end, pitch, 0.8))
                pitch = self.pitch(root, beat, 36)
                pitch -= 12 * (pitch > 47)
                pitch += signs[3] * (chance[3] < 0.45 * sourness) + 0.15 * sourness * cents[3]
                middle = self.time(beat + 1)
                bass += [Note(start, middle, pitch, 1.0), Note(middle, end, pitch, 0.7)]
        return pad, bass

    def _write_lead(self) -> list[list[Note]]:
        """Write one phrase a bar; a memorable song repeats its motif, a natural one leaves room to breathe."""
        generator = self.spec.build_generator("melody")
        intonation = self.spec.build_generator("intonation")
        motifs = {name: _draw_motif(generator) for name in "ABC"}
        base = 57 + self.spec.system_habits.lead_transpose - 12 * int(generator.random() < 0.35)
        sourness, rest = 1.0 - self.factors.musicality, 0.9 * self.factors.naturalness
        phrases = []
        for bar in self.bars():
            fresh, chance = _draw_motif(generator), generator.random()
            motif = fresh if chance > self.factors.memorability + 0.1 else motifs[self.sections[bar]]
            root, phrase = self.chord_root(bar) % 7, []
            for offset, length, step in motif:
                beat = bar * BEATS_PER_BAR + offset
                wrong, sign, cents = intonation.random(), intonation.choice([-1, 1]), intonation.standard_normal()
                stop = min(beat + length, (bar + 1) * BEATS_PER_BAR - rest)
                pitch = self.pitch((root + step) % 7, beat, base)
                pitch += sign * (wrong < 0.45 * sourness) + 0.3 * sourness * cents
                if stop > beat + 0.1:
                    phrase.append(Note(self.time(beat), self.time(stop), pitch, 1.0))
            phrases.append(phrase)
        return phrases

    def _write_hook(self) -> list[Note]:
        """Write the hook: the same figure on the beat in every bar, or aimless notes at any moment."""
        generator = self.spec.build_generator("hook")
        memorability = self.factors.memorability
        theme = generator.integers(0, 7, 8)
        theme[4:] = theme[:4]
        lift = round(14 * memorability)
        notes = []
        for bar in self.bars():
            fresh, jitter = generator.integers(0, 7, 8), generator.uniform(-0.45, 0.45, 8)
            chance = generator.random(8)
            for position in range(8):
                degree = fresh[position] if chance[position] > memorability else theme[position]
                beat = bar * BEATS_PER_BAR + 0.5 * position + (1.0 - memorability) * jitter[position]
                start = self.time(max(beat, 0.0))
                # The register rises with memorability, from the middle of the band to well above it.
                pitch = self.pitch(int(degree) + lift, bar * BEATS_PER_BAR, 60)
                notes.append(Note(start, start + 0.35, pitch, 1.0 if position % 4 == 0 else 0.75))
        return notes

    def _write_drums(self) -> list[Hit]:
        """Write the drums: marked beats, fills and crashes where the structure is clear, an even shuffle where not."""
        generator = self.spec.build_generator("drums")
        clarity, hits = self.factors.clarity, []
        has_offbeat_kick = generator.random() < 0.5
        for bar in self.bars():
            beat = bar * BEATS_PER_BAR
            energy = SECTION_ENERGY[self.sections[bar]]
            level = 0.75 + clarity * (energy - 0.65)
            accents = generator.uniform(0.6, 1.0, 16)
            is_last = (bar + 1) % self.section_bars == 0
            if bar % self.section_bars == 0:
                hits.append(Hit(self.time(beat), "crash", clarity))
            for position in (0, 2, 2.5) if has_offbeat_kick else (0, 2):
                accent = 1.0 if position == 0 else 0.75
                hits.append(Hit(self.time(beat + position), "kick", level * (0.25 + 0.75 * clarity) * accent))
            for position in (1, 3):
                hits.append(Hit(self.time(beat + position), "snare", level * (0.15 + 0.85 * clarity)))
            for step in range(8):
                if energy > 0.5 or step % 2 == 0:
                    hits.append(Hit(self.time(beat + 0.5 * step), "hat", 0.5 * level))
            for step in range(16):
                velocity = (1.0 - clarity) * (0.55 + 0.1 * accents[step])
                hits.append(Hit(self.time(beat + 0.25 * step), "shaker", velocity))
            if is_last:
                for step in range(4):
                    velocity = clarity * (0.5 + 0.15 * step)
                    hits.append(Hit(self.time(beat + 3 + 0.25 * step), "tom", velocity))
        return [hit for hit in hits if hit.velocity > 0.02 and hit.time < self.spec.seconds]


def _draw_motif(generator: np.random.Generator) -> list[tuple[float, float, int]]:
    """Draw one bar of melody: position and length in beats, and the step above the chord's root."""
    rhythms = ((1, 0.5, 0.5, 1, 1), (0.5, 0.5, 1, 1.5, 0.5), (1.5, 0.5, 1, 1), (1, 1, 0.5, 0.5, 1), (2, 1, 1))
    rhythm = rhythms[generator.integers(len(rhythms))]
    steps = np.cumsum(np.concatenate([generator.choice([0, 2, 4], 1), generator.integers(-2, 3, 4)]))
    starts = np.concatenate([[0.0], np.cumsum(rhythm)[:-1]])
    return [(float(s), float(length), int(step)) for s, length, step in zip(starts, rhythm, steps, strict=False)]
