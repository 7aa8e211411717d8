"""
Battles as the builder of Music Arena reads them: one JSON a battle by month, MP3 by month, and notes by month.

Two of eleven systems that no training song comes from answer one prompt; a simulated user votes. Two systems withhold
their audio: their side has an empty path. `truth.jsonl` beside the layout keeps factors and appeal of both sides.
"""

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.synthetic.audio_files import write_atomically
from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.engagement import compute_appeal, compute_battle_ceiling, draw_preference
from datasets_scripts.synthetic.prompts import draw_lyrics, draw_prompt
from datasets_scripts.synthetic.random_streams import build_generator, build_identifier
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, WITHHELD_SYSTEMS, get_system
from datasets_scripts.synthetic.world import (
    CEILINGS_FILE,
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

# Folder names and first days of the months in which battles take place.
MONTHS = (("01-2025JUL", "2025-07-01"), ("02-2025AUG", "2025-08-01"), ("03-2025SEP", "2025-09-01"))
NUM_USERS = 40


@dataclass(frozen=True)
class PlannedBattle:
    """
    Hold a battle before it is rendered.

    Args:
        battle_uuid (`str`): Its id.
        month (`str`): Name of its month's folder.
        specs (`dict[str, SongSpec]`): The songs of sides `"a"` and `"b"`.
        record (`dict[str, Any]`): The published JSON.
    """

    battle_uuid: str
    month: str
    specs: dict[str, SongSpec]
    record: dict[str, Any]

    def get_audio_path(self, side: str) -> str:
        """Return a side's path relative to the root of the layout, empty when its system withholds audio."""
        return str(self.record[f"audio_{side}"])


def plan_battle(options: WorldOptions, number: int) -> PlannedBattle:
    """Plan one battle (systems, prompt, songs, vote and what the user did); it does not depend on the others."""
    battle_uuid = build_identifier(options.seed, "battle", str(number))
    generator = build_generator(options.seed, "battle", battle_uuid)
    names = options.systems or tuple(system.name for system in ARENA_SYSTEMS)
    pair = [names[index] for index in generator.permutation(len(names))[:2]]
    # A system without a singer only answers prompts for instrumental songs.
    can_sing = all(get_system(name).vocal_share > 0 for name in pair)
    prompt = draw_prompt(generator, 0.6 if can_sing else 0.0)
    month, first_day = MONTHS[number % len(MONTHS)]
    specs = {
        side: build_spec(
            options, f"{battle_uuid}-{side}", name, prompt, "natural", default_rate=get_system(name).sampling_rate
        )
        for side, name in zip("ab", pair, strict=True)
    }
    date = datetime.datetime.fromisoformat(first_day + "T00:00:00+00:00") + datetime.timedelta(
        seconds=int(generator.integers(28 * 86400))
    )
    record: dict[str, Any] = {
        "battle_uuid": battle_uuid,
        "date": date.isoformat(),
        "prompt": prompt.text,
        "is_instrumental": _write_flag(prompt.is_instrumental, generator),
        "is_prebaked": bool(generator.random() < 0.2),
        "user_pseudonym": f"synthetic-user-{generator.integers(NUM_USERS):03d}",
    }
    for side in "ab":
        spec = specs[side]
        withheld = spec.system in WITHHELD_SYSTEMS
        record[f"audio_{side}"] = "" if withheld else f"audio_files/{month}/{battle_uuid}_{side}.mp3"
        record[f"system_{side}"] = spec.system
    appeals = [compute_appeal(specs[side].factors) for side in "ab"]
    record["preference"] = draw_preference(generator, *appeals)
    record |= _draw_session(generator, specs, date.timestamp())
    record["lyrics"] = draw_lyrics(generator, prompt) or None
    return PlannedBattle(battle_uuid, month, specs, record)


def _write_flag(value: bool, generator: np.random.Generator) -> bool | str | None:
    """Return a flag as the arena's records hold it: mostly a bool, at times text, at times missing."""
    draw = generator.random()
    if draw < 0.06:
        return None
    return str(value).lower() if draw < 0.16 else value


def _draw_session(generator: np.random.Generator, specs: dict[str, SongSpec], timestamp: float) -> dict[str, Any]:
    """Return listening times and technical fields of a battle."""
    fields: dict[str, Any] = {"feedback": None, "timestamp": timestamp}
    clock = 0.0
    for side in "ab":
        spec = specs[side]
        heard = round(float(generator.uniform(0.2, 1.0)) * spec.seconds, 2)
        events = [["PLAY", round(clock, 2)], ["PAUSE", round(clock + heard, 2)]]
        clock += heard + float(generator.uniform(0.3, 3.0))
        fields |= {
            f"total_listening_time_{side}": heard,
            f"listen_data_{side}": json.dumps(events),
            f"hardware_{side}": "synthetic",
            f"system_time_{side}": round(float(generator.uniform(5, 40)), 3),
            f"gateway_time_{side}": round(float(generator.uniform(5, 42)), 3),
            f"duration_{side}": spec.seconds,
            f"sample_rate_{side}": spec.sampling_rate,
        }
    return fields


def save_music_arena_layout(folder: Path, options: WorldOptions, num_processes: int | None = None) -> None:
    """
    Write battles, half as many as songs, in the layout of Music Arena; arguments as for [`save_training_layout`].

    Raises:
        `ValueError`: If the folder holds a world made with other options, or only one system is named.
    """
    if len(options.systems) == 1:
        raise ValueError(f"A battle needs two systems, but only {options.systems[0]!r} is named. Name another one.")
    claim_folder(folder, "music-arena", options)
    battles = [plan_battle(options, number) for number in range(options.num_songs // 2)]
    jobs = [
        SongJob(battle.specs[side], folder / battle.get_audio_path(side))
        for battle in battles
        for side in "ab"
        if battle.get_audio_path(side)
    ]
    render_files(jobs, num_processes, "music-arena")
    for battle in battles:
        path = folder / "battle_data" / battle.month / f"{battle.battle_uuid}.json"
        write_atomically(path, encode_json(battle.record))
    for month, _ in MONTHS:
        count = sum(battle.month == month for battle in battles)
        note = f"# {month}\n\n{count} synthetic battles: made-up systems, procedural songs, simulated votes.\n"
        write_atomically(folder / "metadata" / f"{month}.md", note.encode())
    truth = [_build_truth(battle) for battle in battles]
    save_json_lines(folder / TRUTH_FILE, truth)
    write_atomically(folder / CEILINGS_FILE, encode_json(compute_battle_ceiling(truth)))


def _build_truth(battle: PlannedBattle) -> dict[str, Any]:
    row: dict[str, Any] = {"battle_uuid": battle.battle_uuid, "preference": battle.record["preference"]}
    for side in "ab":
        factors = battle.specs[side].factors
        row[f"system_{side}"] = battle.specs[side].system
        row[f"factors_{side}"] = round_factors(factors)
        row[f"appeal_{side}"] = round(compute_appeal(factors), 6)
    return row
