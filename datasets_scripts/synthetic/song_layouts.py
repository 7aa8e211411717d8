"""
Songs as the builders of training songs and of SongEval read them.

- training: `metadata.jsonl` (the object that Suno uses for a song, plus `platform`), `audio/<id>.<format>` and
  `pseudo_labels.jsonl` (`id` and five columns; exact labels, called synthetic);
- factors: the same, with independent factors, for evaluation;
- songeval: `metadata.jsonl` with one `annotation` entry a rater, and `audio/`.

Beside each lies `truth.jsonl` with what no builder may read: latent factors and appeal.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.synthetic.audio_files import write_atomically
from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.engagement import (
    AUDIENCES,
    DEFAULT_AUDIENCE,
    compute_appeal,
    compute_expected_likes,
    compute_noise_ceilings,
    draw_engagement,
)
from datasets_scripts.synthetic.factors import FACTOR_NAMES, draw_ratings
from datasets_scripts.synthetic.prompts import build_title, draw_lyrics, draw_prompt
from datasets_scripts.synthetic.random_streams import build_generator, build_identifier
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS
from datasets_scripts.synthetic.world import (
    CEILINGS_FILE,
    REFERENCE_DATE,
    TRUTH_FILE,
    SongJob,
    WorldOptions,
    build_spec,
    claim_folder,
    encode_json,
    render_files,
    round_factors,
    save_json_lines,
)

SONGS_PER_PROMPT = 2
PROMPTS_PER_CREATOR = 4
NUM_RATERS = 16
RECENT_DAYS = 7
# Of 100 songs of a messy table, so many have each fault.
FAULT_SHARES = {"duplicate-id": 3, "duplicate-audio": 3, "corrupt": 3, "recent": 3}


@dataclass(frozen=True)
class PlannedSong:
    """
    Hold a song before it is rendered.

    Args:
        spec (`SongSpec`): The song.
        prompt_index (`int`): Which prompt yielded it.
        fault (`str`, *optional*): What is wrong with it, one of `FAULT_SHARES`.
    """

    spec: SongSpec
    prompt_index: int
    fault: str | None = None


def plan_songs(options: WorldOptions, layout: str, systems: Sequence[str], default_draw: str) -> list[PlannedSong]:
    """
    Plan the songs of a table: two of every prompt, systems taking turns.

    The first songs of a plan do not depend on how many follow.

    Args:
        options (`WorldOptions`):
            What to make; its systems and its draw of factors, where named, take the place of the next two.
        layout (`str`):
            Name of the layout; songs of two layouts are never the same.
        systems (`Sequence[str]`), default_draw (`str`):
            Systems to take turns, and how factors are drawn.

    Returns:
        `list[PlannedSong]`: `options.num_songs` songs.
    """
    names, plan = options.systems or tuple(systems), []
    for number in range(options.num_songs):
        prompt_index = number // SONGS_PER_PROMPT
        song_id = build_identifier(options.seed, layout, str(number))
        prompt = draw_prompt(build_generator(options.seed, layout, "prompt", str(prompt_index)))
        spec = build_spec(options, song_id, names[prompt_index % len(names)], prompt, default_draw)
        plan.append(PlannedSong(spec, prompt_index, _draw_fault(options, song_id)))
    return plan


def _draw_fault(options: WorldOptions, song_id: str) -> str | None:
    if not options.is_messy:
        return None
    draw = 100.0 * build_generator(options.seed, "fault", song_id).random()
    for fault, share in FAULT_SHARES.items():
        draw -= share
        if draw < 0:
            return fault
    return None


def save_training_layout(
    folder: Path, options: WorldOptions, num_processes: int | None = None, layout: str = "training"
) -> None:
    """
    Write songs in the layout of training songs.

    Args:
        folder (`Path`), options (`WorldOptions`):
            Where, and what to make.
        num_processes (`int`, *optional*):
            How many processes render; the number of cores by default.
        layout (`str`, defaults to `"training"`):
            `"training"`, or `"factors"` for a test set with independent factors and no unplayed songs.

    Raises:
        `ValueError`: If the folder holds a world made with other options.
    """
    claim_folder(folder, layout, options)
    default_draw = "independent" if layout == "factors" else "natural"
    plan = plan_songs(options, layout, [system.name for system in PLATFORMS], default_draw)
    audio = folder / "audio"
    paths = [audio / f"{song.spec.song_id}.{options.audio_format}" for song in plan]
    jobs = [SongJob(song.spec, path) for song, path in zip(plan, paths, strict=True) if song.fault != "corrupt"]
    render_files(jobs, num_processes, layout)
    rows, labels, truth = [], [], []
    for song in plan:
        row, secret = _build_training_row(song, layout)
        rows.append(row)
        labels.append({"id": row["id"], **{k: round(v, 4) for k, v in song.spec.factors.to_labels().items()}})
        truth.append(secret)
    if options.is_messy:
        rows += _add_faults(plan, paths, rows)
    save_json_lines(folder / "metadata.jsonl", rows)
    save_json_lines(folder / "pseudo_labels.jsonl", labels)
    save_json_lines(folder / TRUTH_FILE, truth)
    write_atomically(folder / CEILINGS_FILE, encode_json(compute_noise_ceilings(truth)))


def _build_training_row(song: PlannedSong, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a song's row of the metadata table, and its row of the truth file."""
    spec, prompt = song.spec, song.spec.prompt
    audience = AUDIENCES.get(spec.system, DEFAULT_AUDIENCE)
    generator = build_generator(spec.seed, "engagement", spec.song_id)
    plays, likes = draw_engagement(generator, spec.factors, audience, has_zero_plays=layout == "training")
    creator = f"{spec.system}-creator-{layout}-{song.prompt_index // PROMPTS_PER_CREATOR}"
    row = {
        "id": spec.song_id,
        "title": build_title(prompt),
        "created_at": _draw_date(spec, song.fault),
        "play_count": plays,
        "upvote_count": likes,
        "major_model_version": "v1",
        "model_name": spec.system,
        "is_public": True,
        "audio_url": f"https://synthetic.invalid/{spec.song_id}",
        "user_id": build_identifier(spec.seed, "creator", creator),
        "handle": creator,
        "metadata": {
            "tags": f"{prompt.genre}, {prompt.mood}",
            "prompt": draw_lyrics(build_generator(spec.seed, layout, "lyrics", str(song.prompt_index)), prompt),
            "gpt_description_prompt": prompt.text,
            "duration": spec.seconds,
            "type": "gen",
            "has_vocal": not prompt.is_instrumental,
        },
        "platform": spec.system,
    }
    truth = {
        "id": spec.song_id,
        "platform": spec.system,
        **round_factors(spec.factors),
        "play_appeal": round(compute_appeal(spec.factors), 6),
        "like_appeal": round(compute_expected_likes(spec.factors, audience), 6),
        "play_count": plays,
        "like_count": likes,
        "fault": song.fault,
    }
    return row, truth


def _draw_date(spec: SongSpec, fault: str | None) -> str:
    """Return when a song was made, counted back from the world's reference date."""
    generator = build_generator(spec.seed, "date", spec.song_id)
    days = generator.uniform(0.1, RECENT_DAYS - 0.1) if fault == "recent" else generator.uniform(90, 450)
    made = datetime.datetime.fromisoformat(REFERENCE_DATE) - datetime.timedelta(days=float(days))
    return made.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _add_faults(
    plan: Sequence[PlannedSong], paths: Sequence[Path], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Damage what is to be corrupt, and return the rows that duplicates add."""
    added = []
    for song, path, row in zip(plan, paths, rows, strict=True):
        if song.fault == "duplicate-id":
            added.append(row)
        elif song.fault == "duplicate-audio":
            copy_id = build_identifier(song.spec.seed, "copy", song.spec.song_id)
            write_atomically(path.with_name(f"{copy_id}{path.suffix}"), path.read_bytes())
            added.append({**row, "id": copy_id, "title": f"{row['title']} (again)"})
        elif song.fault == "corrupt":
            noise = build_generator(song.spec.seed, "corrupt", song.spec.song_id).bytes(4096)
            write_atomically(path, noise)
    return added


def save_songeval_layout(folder: Path, options: WorldOptions, num_processes: int | None = None) -> None:
    """
    Write songs in the layout of SongEval: each heard by sixteen noisy raters.

    Arguments and errors are those of [`save_training_layout`].
    """
    claim_folder(folder, "songeval", options)
    systems = [system.name for system in (*PLATFORMS, *ARENA_SYSTEMS)]
    plan = plan_songs(options, "songeval", systems, "natural")
    names = [f"{song.spec.song_id}.{options.audio_format}" for song in plan]
    jobs = [SongJob(song.spec, folder / "audio" / name) for song, name in zip(plan, names, strict=True)]
    render_files(jobs, num_processes, "songeval")
    rows, truth = [], []
    for song, name in zip(plan, names, strict=True):
        spec = song.spec
        ratings = draw_ratings(build_generator(spec.seed, "ratings", spec.song_id), spec.factors, NUM_RATERS)
        gender = "instrumental" if spec.prompt.is_instrumental else "synthetic"
        annotation = [{name.capitalize(): value for name, value in rating.items()} for rating in ratings]
        rows.append({"file_name": f"audio/{name}", "gender": gender, "annotation": annotation})
        means = {f"{key}_rating": float(np.mean([rating[key] for rating in ratings])) for key in FACTOR_NAMES}
        truth.append({"file_name": f"audio/{name}", "system": spec.system, **round_factors(spec.factors), **means})
    save_json_lines(folder / "metadata.jsonl", rows)
    save_json_lines(folder / TRUTH_FILE, truth)
    write_atomically(folder / CEILINGS_FILE, encode_json(compute_noise_ceilings(truth)))
