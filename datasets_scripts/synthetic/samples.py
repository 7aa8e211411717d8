"""
Six sample songs from good to poor, for people who want to hear and score something at once.
"""

from pathlib import Path

from datasets_scripts.synthetic.audio_files import write_atomically
from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.factors import Factors
from datasets_scripts.synthetic.prompts import Prompt
from datasets_scripts.synthetic.world import SongJob, encode_json, render_files, round_factors

SAMPLES_FILE = "samples.json"
SAMPLE_SEED = 2026
SAMPLE_SECONDS = 22.0
# Name, system, factors (coherence, musicality, memorability, clarity, naturalness), prompt.
SAMPLES = (
    ("1-good-pop", "synthwave-a", (0.97, 0.97, 0.95, 0.95, 0.97), ("pop", "hopeful", 112.0, 9, "major", False)),
    ("2-good-folk", "synthwave-b", (0.90, 0.88, 0.80, 0.85, 0.90), ("folk", "tender", 96.0, 7, "major", True)),
    ("3-fair-dance", "synthwave-a", (0.75, 0.65, 0.7, 0.6, 0.55), ("electronic", "dreamy", 124.0, 2, "minor", False)),
    ("4-fair-lo-fi", "synthwave-b", (0.50, 0.50, 0.40, 0.45, 0.45), ("lo-fi", "nocturnal", 84.0, 5, "minor", True)),
    ("5-poor-rock", "synthwave-a", (0.30, 0.25, 0.25, 0.30, 0.20), ("rock", "restless", 128.0, 4, "minor", False)),
    ("6-poor-ballad", "synthwave-b", (0.05, 0.03, 0.10, 0.05, 0.03), ("ballad", "wistful", 80.0, 0, "minor", False)),
)


def build_sample_specs() -> dict[str, SongSpec]:
    """Build the specs of the sample songs by file stem, best first."""
    specs = {}
    for name, system, factors, (genre, mood, tempo, tonic, mode, is_instrumental) in SAMPLES:
        prompt = Prompt(genre, mood, "a kite by the sea in late summer", tempo, tonic, mode, is_instrumental)
        specs[name] = SongSpec(name, SAMPLE_SEED, system, Factors(*factors), prompt, seconds=SAMPLE_SECONDS)
    return specs


def save_samples(folder: Path, num_processes: int | None = None) -> None:
    """Write the sample songs as Ogg Vorbis, and `samples.json`, which says how each was rendered."""
    specs = build_sample_specs()
    render_files([SongJob(spec, folder / f"{name}.ogg") for name, spec in specs.items()], num_processes, "samples")
    songs = [
        {
            "file": f"{name}.ogg",
            "system": spec.system,
            "prompt": spec.prompt.text,
            "factors": round_factors(spec.factors),
            "labels": {key: round(value, 2) for key, value in spec.factors.to_labels().items()},
            "seconds": spec.seconds,
            "sampling_rate": spec.sampling_rate,
        }
        for name, spec in specs.items()
    ]
    about = (
        "Procedural songs, made by no model. Remake: `python -m datasets_scripts.build synthetic --layout samples`."
    )
    write_atomically(folder / SAMPLES_FILE, encode_json({"about": about, "seed": SAMPLE_SEED, "songs": songs}))
