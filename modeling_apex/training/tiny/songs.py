"""
The songs that apex-tiny learns from and is tested on: rendered from the synthetic world, kept as one array.

What comes in is a [`SongSet`] (how many songs, which systems, how their factors are drawn, which seed); what leaves is
a folder with the waveforms of all songs as 16-bit integers and their labels, as a training corpus would have them:
means of noisy raters for the aesthetics, and popularity targets computed from simulated play and like counts. What no
model may learn from (the true factors and appeal) lies beside them, for the noise ceiling.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.engagement import (
    AUDIENCES,
    DEFAULT_AUDIENCE,
    compute_appeal,
    compute_expected_likes,
    draw_engagement,
)
from datasets_scripts.synthetic.factors import FACTOR_NAMES, draw_ratings
from datasets_scripts.synthetic.random_streams import build_generator
from datasets_scripts.synthetic.song import render_song
from datasets_scripts.synthetic.song_layouts import NUM_RATERS, plan_songs
from datasets_scripts.synthetic.world import WorldOptions
from datasets_scripts.targets import compute_popularity_targets
from datasets_scripts.worker_pool import open_worker_pool

logger = logging.getLogger(__name__)

SAMPLING_RATE = 24_000
FULL_SCALE = 32_767


@dataclass(frozen=True)
class SongSet:
    """
    Say which songs to render.

    Args:
        name (`str`): Name of the set and of its folder; songs of two sets are never the same.
        num_songs (`int`): How many songs.
        seed (`int`): Seed of the world that they come from.
        systems (`tuple[str, ...]`): Systems that take turns.
        factor_draws (`tuple[str, ...]`): `"independent"`, `"natural"`, or both for equal shares of the songs.
        seconds (`float`): Length of each song.
    """

    name: str
    num_songs: int
    seed: int
    systems: tuple[str, ...]
    factor_draws: tuple[str, ...]
    seconds: float

    def plan(self) -> list[SongSpec]:
        """Plan the songs without rendering them."""
        specs: list[SongSpec] = []
        for part, draw in enumerate(self.factor_draws):
            share = self.num_songs * (part + 1) // len(self.factor_draws) - len(specs)
            options = WorldOptions(num_songs=share, seed=self.seed, seconds=self.seconds)
            specs += [song.spec for song in plan_songs(options, f"tiny-{self.name}-{draw}", self.systems, draw)]
        return specs


@dataclass(frozen=True)
class SongTable:
    """
    Hold rendered songs and what is known about them.

    Args:
        waveforms (`np.ndarray` of shape `(num_songs, num_samples)`): 16-bit integers, mapped from disk.
        labels (`np.ndarray` of shape `(num_songs, 7)`):
            In the order of the model's heads, in native units; NaN where a label is missing (an unplayed song has no
            popularity).
        truth (`np.ndarray` of shape `(num_songs, 7)`):
            What the simulation knows behind each label: appeal for the popularity scores, factors for the others.
        systems (`np.ndarray` of shape `(num_songs,)`): Name of the system that made each song.
    """

    waveforms: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    systems: np.ndarray


def compute_labels(specs: list[SongSpec]) -> tuple[np.ndarray, np.ndarray]:
    """
    Simulate raters and listeners of songs.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: labels and truth, both of shape `(num_songs, 7)`, as in [`SongTable`].
    """
    counts, ratings, truth = [], [], []
    for spec in specs:
        audience = AUDIENCES.get(spec.system, DEFAULT_AUDIENCE)
        generator = build_generator(spec.seed, "engagement", spec.song_id)
        counts.append(draw_engagement(generator, spec.factors, audience))
        judgements = draw_ratings(build_generator(spec.seed, "ratings", spec.song_id), spec.factors, NUM_RATERS)
        ratings.append([np.mean([judgement[name] for judgement in judgements]) for name in FACTOR_NAMES])
        appeal = (compute_appeal(spec.factors), compute_expected_likes(spec.factors, audience))
        truth.append([*appeal, *spec.factors.to_dict().values()])
    plays_and_likes, platforms = np.array(counts), np.array([spec.system for spec in specs])
    is_played = plays_and_likes[:, 0] > 0  # unplayed songs are dropped before counts are ranked
    popularity = np.full(plays_and_likes.shape, np.nan)
    for column in range(2):
        popularity[is_played, column] = compute_popularity_targets(
            plays_and_likes[is_played, column], platforms[is_played]
        )
    return np.concatenate([popularity, np.array(ratings)], axis=1), np.array(truth)


def _render(spec: SongSpec) -> np.ndarray:
    return np.round(render_song(spec) * FULL_SCALE).astype(np.int16)


def render_song_set(song_set: SongSet, folder: Path, num_processes: int | None = None) -> SongTable:
    """
    Render a set of songs into a folder, or read it where it was rendered before.

    Args:
        song_set ([`SongSet`]):
            The songs.
        folder (`Path`):
            Where sets of songs lie; this one gets a folder of its own.
        num_processes (`int`, *optional*):
            How many processes render; the number of cores by default.

    Returns:
        [`SongTable`]

    Raises:
        `ValueError`: If the folder holds a set of this name that was made with other options.
    """
    place = folder / song_set.name
    done, content = place / "song_set.json", json.dumps(asdict(song_set), indent=2) + "\n"
    specs = song_set.plan()
    labels, truth = compute_labels(specs)
    systems = np.array([spec.system for spec in specs])
    if done.exists():
        if done.read_text(encoding="utf-8") != content:
            raise ValueError(
                f"{place} holds songs made with other options. Choose another folder, or remove that one."
            )
        return SongTable(np.load(place / "waveforms.npy", mmap_mode="r"), labels, truth, systems)
    place.mkdir(parents=True, exist_ok=True)
    shape = (len(specs), round(song_set.seconds * SAMPLING_RATE))
    waveforms = np.lib.format.open_memmap(place / "waveforms.npy", mode="w+", dtype=np.int16, shape=shape)
    num_processes = min(num_processes or os.cpu_count() or 1, len(specs))
    with ExitStack() as stack:
        rendered: Iterator[np.ndarray] = map(_render, specs)
        if num_processes > 1:
            pool = stack.enter_context(open_worker_pool(num_processes, work="rendered songs"))
            rendered = pool.map(_render, specs, chunksize=4)
        for row, waveform in enumerate(tqdm(rendered, total=len(specs), desc=song_set.name, unit="song")):
            waveforms[row] = waveform
    waveforms.flush()
    done.write_text(content, encoding="utf-8")  # last, so that a killed run is not taken for a whole one
    logger.info("Rendered %d songs into %s.", len(specs), place)
    return SongTable(np.load(place / "waveforms.npy", mmap_mode="r"), labels, truth, systems)
