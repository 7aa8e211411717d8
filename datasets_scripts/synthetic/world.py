"""
The synthetic world as files: what every layout shares.

What comes in is [`WorldOptions`] and a folder; what leaves is planned songs and their audio files. Each file is
written whole or not at all, and none twice, so a run that was killed and is started again ends with the same bytes.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from datasets_scripts.synthetic.audio_files import AUDIO_FORMATS, PART_SUFFIX, save_audio, write_atomically
from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.factors import Factors, draw_independent_factors, draw_natural_factors
from datasets_scripts.synthetic.prompts import Prompt
from datasets_scripts.synthetic.random_streams import build_generator
from datasets_scripts.synthetic.song import render_song
from datasets_scripts.synthetic.systems import get_system
from datasets_scripts.worker_pool import open_worker_pool

logger = logging.getLogger(__name__)

WORLD_FILE = "world.json"
TRUTH_FILE = "truth.jsonl"
CEILINGS_FILE = "truth_ceilings.json"
DEFAULT_SAMPLING_RATE = 24000
FACTOR_DRAWS = ("natural", "independent")
# "Today" in the world: ages of songs count back from here, never from the clock.
REFERENCE_DATE = "2026-01-31T00:00:00Z"


@dataclass(frozen=True)
class WorldOptions:
    """
    Say what to make of a world.

    Args:
        num_songs (`int`): How many songs; for battles, two songs each.
        seed (`int`): Seed of the world.
        seconds (`float`): Length of every song.
        sampling_rate (`int`, *optional*): In hertz; by default 24,000, and for battles what each system delivers.
        num_channels (`int`): 1 or 2.
        audio_format (`str`): `"flac"`, `"ogg"` or `"mp3"`; battles are MP3 always.
        factor_draw (`str`, *optional*): `"natural"` or `"independent"`; by default what the layout is for.
        systems (`tuple[str, ...]`): Names of systems in place of the layout's own.
        is_messy (`bool`): Whether training songs come with duplicates, corrupt files and recent songs.

    Raises:
        `ValueError`: If a value cannot be used.
    """

    num_songs: int = 100
    seed: int = 0
    seconds: float = 24.0
    sampling_rate: int | None = None
    num_channels: int = 1
    audio_format: str = "flac"
    factor_draw: str | None = None
    systems: tuple[str, ...] = ()
    is_messy: bool = False

    def __post_init__(self) -> None:
        if self.num_songs < 2:
            raise ValueError(f"`num_songs` is {self.num_songs!r}, but a world needs at least 2 songs.")
        if self.audio_format not in AUDIO_FORMATS:
            raise ValueError(f"`audio_format` is {self.audio_format!r}; choose one of: {', '.join(AUDIO_FORMATS)}.")
        if self.factor_draw is not None and self.factor_draw not in FACTOR_DRAWS:
            raise ValueError(f"`factor_draw` is {self.factor_draw!r}; choose one of: {', '.join(FACTOR_DRAWS)}.")
        for name in self.systems:
            get_system(name)


@dataclass(frozen=True)
class SongJob:
    """One audio file to make: the song, and where it goes."""

    spec: SongSpec
    path: Path


def build_spec(
    options: WorldOptions,
    song_id: str,
    system: str,
    prompt: Prompt,
    default_draw: str,
    default_rate: int = DEFAULT_SAMPLING_RATE,
) -> SongSpec:
    """
    Build the spec of a song, drawing its factors as the options say.

    Args:
        options (`WorldOptions`), song_id, system (`str`), prompt (`Prompt`):
            What to make, the song's id, the name of its system, and what was asked for.
        default_draw (`str`), default_rate (`int`, defaults to 24000):
            How factors are drawn, and the sampling rate in hertz, unless the options say otherwise.
    """
    return SongSpec(
        song_id=song_id,
        seed=options.seed,
        system=system,
        factors=_draw_factors(options, song_id, system, default_draw),
        prompt=prompt,
        seconds=options.seconds,
        sampling_rate=options.sampling_rate or default_rate,
        num_channels=options.num_channels,
    )


def _draw_factors(options: WorldOptions, song_id: str, system: str, default_draw: str) -> Factors:
    generator = build_generator(options.seed, "factors", song_id)
    if (options.factor_draw or default_draw) == "independent":
        return draw_independent_factors(generator)
    habits = get_system(system)
    return draw_natural_factors(generator, habits.quality, offsets=habits.offsets)


def claim_folder(folder: Path, layout: str, options: WorldOptions) -> None:
    """
    Mark a folder as holding one layout made with these options, or make sure that it already is that.

    Raises:
        `ValueError`: If the folder holds a world made with other options.
    """
    content = encode_json({"layout": layout, "reference_date": REFERENCE_DATE, "options": asdict(options)})
    path = folder / WORLD_FILE
    if path.exists() and path.read_bytes() != content:
        raise ValueError(
            f"{path} says that this folder holds a world made with other options. Continue with the same options, "
            "or choose another output folder."
        )
    write_atomically(path, content)
    for part in folder.rglob(f"*{PART_SUFFIX}"):
        part.unlink()


def render_files(jobs: Sequence[SongJob], num_processes: int | None, description: str) -> None:
    """
    Render songs to files in parallel, leaving those that are there already.

    Args:
        jobs (`Sequence[SongJob]`), description (`str`):
            Songs and paths, and what the progress bar shows.
        num_processes (`int`, *optional*):
            How many processes; the number of cores by default. 1 renders in this process.
    """
    missing = [job for job in jobs if not job.path.exists()]
    if len(missing) < len(jobs):
        logger.info("%d of %d %s are there already.", len(jobs) - len(missing), len(jobs), description)
    num_processes = min(num_processes or os.cpu_count() or 1, max(len(missing), 1))
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc=description, unit="song") as progress:
        if num_processes == 1:
            for job in missing:
                _render_file(job)
                progress.update()
        else:
            with open_worker_pool(num_processes, work="rendered songs") as pool:
                for _ in pool.map(_render_file, missing, chunksize=4):
                    progress.update()


def _render_file(job: SongJob) -> None:
    save_audio(job.path, render_song(job.spec), job.spec.sampling_rate)


def encode_json(value: Any) -> bytes:
    """Encode a value as indented JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def save_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def round_factors(factors: Factors) -> dict[str, float]:
    """Return the factors as a truth file stores them."""
    return {name: float(np.round(value, 6)) for name, value in factors.to_dict().items()}
