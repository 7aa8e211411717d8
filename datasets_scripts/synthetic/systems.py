"""
The generators of the synthetic world: two training platforms and eleven systems that only battles see.

A [`System`] is a set of habits: instruments, room, tempo, artefacts, and how good its songs are. What a song owes to
its factors is the same for all of them. Every name says that the system is made up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class System:
    """
    Describe the habits of one synthetic generator.

    Args:
        name (`str`): Its name.
        quality (`float`): Mean quality of its songs, in 0 to 1.
        offsets (`Mapping[str, float]`): What it is better or worse at, by factor name.
        tempo_scale (`float`): Factor on the tempo that a prompt asks for.
        brightness (`float`): Around 1; scales the overtones of its instruments.
        pad_ratio (`float`): Modulator ratio of its chord instrument.
        bass_ratio (`float`): Modulator ratio of its bass.
        formant_scale (`float`): Size of its singer's vocal tract; above 1 is a smaller singer.
        lead_transpose (`int`): Register of its lead, in semitones.
        kick_hertz (`float`): Pitch that its kick drum falls to, in hertz.
        snare_hertz (`float`): Pitch of its snare's skin, in hertz.
        room_seconds (`float`): Decay time of its room.
        room_level (`float`): Level of its room, relative to the dry sound.
        cutoff_hertz (`float`): Where its vocoder stops, in hertz.
        hiss_decibels (`float`): Level of its noise floor, relative to full scale.
        drive (`float`): Saturation of its master.
        vocal_share (`float`): Share of songs with a singer when the prompt leaves it open.
        sampling_rate (`int`): Rate of the files that it delivers, in hertz.
    """

    name: str
    quality: float = 0.5
    offsets: Mapping[str, float] = field(default_factory=dict)
    tempo_scale: float = 1.0
    brightness: float = 1.0
    pad_ratio: float = 1.0
    bass_ratio: float = 1.0
    formant_scale: float = 1.0
    lead_transpose: int = 0
    kick_hertz: float = 50.0
    snare_hertz: float = 185.0
    room_seconds: float = 0.5
    room_level: float = 0.2
    cutoff_hertz: float = 11500.0
    hiss_decibels: float = -72.0
    drive: float = 1.0
    vocal_share: float = 0.7
    sampling_rate: int = 44100


PLATFORMS = (
    System("synthwave-a", quality=0.55, offsets={"clarity": 0.05, "naturalness": -0.04}, hiss_decibels=-70.0),
    System(
        "synthwave-b",
        quality=0.5,
        offsets={"musicality": 0.05, "coherence": -0.04},
        tempo_scale=0.94,
        brightness=0.85,
        pad_ratio=2.0,
        formant_scale=1.06,
        lead_transpose=-2,
        kick_hertz=56.0,
        snare_hertz=200.0,
        room_seconds=0.7,
        room_level=0.26,
        cutoff_hertz=10500.0,
        hiss_decibels=-66.0,
    ),
)

ARENA_SYSTEMS = (
    System("mock-aurora", quality=0.72, brightness=1.1, room_seconds=0.6),
    System("mock-basalt", quality=0.30, kick_hertz=44.0, drive=1.5, hiss_decibels=-58.0, cutoff_hertz=9000.0),
    System("mock-cinder", quality=0.45, tempo_scale=1.1, pad_ratio=3.0, snare_hertz=230.0, offsets={"clarity": 0.1}),
    System("mock-delta", quality=0.62, formant_scale=1.14, lead_transpose=2, room_level=0.15, sampling_rate=48000),
    System("mock-ember", quality=0.38, brightness=0.7, tempo_scale=0.88, room_seconds=0.9, room_level=0.3),
    System("mock-fjord", quality=0.66, pad_ratio=2.0, bass_ratio=2.0, offsets={"naturalness": -0.12}),
    System("mock-garnet", quality=0.50, formant_scale=0.9, lead_transpose=-3, snare_hertz=165.0, cutoff_hertz=10000.0),
    System("mock-harbor", quality=0.56, tempo_scale=1.05, kick_hertz=62.0, drive=1.3, offsets={"memorability": 0.12}),
    System("mock-indigo", quality=0.25, brightness=1.3, hiss_decibels=-55.0, room_level=0.1, sampling_rate=32000),
    System("mock-withheld", quality=0.42, pad_ratio=3.0, room_seconds=0.3, vocal_share=0.0, cutoff_hertz=9500.0),
    System("mock-withheld-small", quality=0.20, pad_ratio=3.0, room_seconds=0.3, vocal_share=0.0, drive=1.6),
)

# As with some systems of the real arena, the votes are public and the audio is not.
WITHHELD_SYSTEMS = ("mock-withheld", "mock-withheld-small")

SYSTEMS = {system.name: system for system in (*PLATFORMS, *ARENA_SYSTEMS)}


def get_system(name: str) -> System:
    """
    Return a system by its name.

    Raises:
        `ValueError`: If there is no such system; the message lists those there are.
    """
    try:
        return SYSTEMS[name]
    except KeyError as error:
        raise ValueError(f"There is no system called {name!r}. Choose one of: {', '.join(SYSTEMS)}.") from error
