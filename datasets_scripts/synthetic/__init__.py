"""
A synthetic song world: procedural songs whose aesthetic factors are known, and simulated people who hear them.

It stands in for the real sources, in their own layouts, where these cannot be had; everything it makes is called
synthetic. [`render_song`] is pure; the command is `python -m datasets_scripts.build synthetic`.
"""

from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.engagement import compute_appeal, compute_battle_ceiling, compute_noise_ceilings
from datasets_scripts.synthetic.factors import FACTOR_NAMES, Factors
from datasets_scripts.synthetic.prompts import Prompt, draw_prompt
from datasets_scripts.synthetic.song import render_song
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS, SYSTEMS, System

__all__ = [
    "ARENA_SYSTEMS",
    "FACTOR_NAMES",
    "PLATFORMS",
    "SYSTEMS",
    "Factors",
    "Prompt",
    "SongSpec",
    "System",
    "compute_appeal",
    "compute_battle_ceiling",
    "compute_noise_ceilings",
    "draw_prompt",
    "render_song",
]
