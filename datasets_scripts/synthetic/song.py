"""
One song, from its spec to its waveform: compose, play, mix. Pure: nothing is read or written.
"""

import numpy as np

from datasets_scripts.synthetic.composition import SongSpec, compose
from datasets_scripts.synthetic.instruments import render_bass, render_drums, render_hook, render_pad
from datasets_scripts.synthetic.mixing import mix
from datasets_scripts.synthetic.voice import render_lead


def render_song(spec: SongSpec) -> np.ndarray:
    """
    Render a song.

    Decisions (notes, factors, chances) are the same on every machine; samples are the same up to the rounding of the
    machine's floating-point functions, far below one step of a 16-bit file.

    Args:
        spec (`SongSpec`):
            The song.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, or `(num_samples, 2)` for stereo: float32 within -1 and 1, at
        `spec.sampling_rate`.
    """
    composition = compose(spec)
    num_samples, rate, system = round(spec.seconds * spec.sampling_rate), spec.sampling_rate, spec.system_habits
    factors = spec.factors
    stems = {
        "lead": render_lead(spec, composition.lead),
        "pad": render_pad(
            composition.pad, num_samples, rate, system, factors.musicality, spec.build_generator("pad-phases")
        ),
        "bass": render_bass(composition.bass, num_samples, rate, system, factors.musicality),
        "hook": render_hook(composition.hook, num_samples, rate, system, factors.memorability),
        "drums": render_drums(composition.hits, num_samples, rate, system, spec.build_generator("drum-kit")),
    }
    return mix(spec, composition, stems)
