"""Small source trees in the published layouts, with songs that are made here."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import soundfile

SAMPLING_RATE = 8000
AESTHETIC_NAMES = ("coherence", "musicality", "memorability", "clarity", "naturalness")


def make_song(seed: int, seconds: float = 2.0, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Make a song whose bands move: a few notes of changing pitch and loudness over a little noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    num_notes = 12
    pitches = generator.uniform(150, 3000, (num_notes, 3))
    note = np.minimum((time / seconds * num_notes).astype(int), num_notes - 1)
    sound = sum(np.sin(2 * np.pi * pitches[note, voice] * time) for voice in range(3)) / 8
    loudness = generator.uniform(0.2, 1.0, num_notes)[note]
    return (sound * loudness + 0.002 * generator.standard_normal(time.size)).astype(np.float32)


def encode_song(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE, container: str = "FLAC") -> bytes:
    """Encode a waveform as the bytes of an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sampling_rate, format=container)
    return buffer.getvalue()


def save_json_lines(path: Path, rows) -> Path:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_suno_row(number: int, **changes) -> dict:
    """Make a song object in Suno's layout."""
    row = {
        "id": f"song-{number:03d}",
        "title": f"Title {number}",
        "created_at": "2025-03-01T12:00:00.000Z",
        "play_count": 10 * number + 1,
        "upvote_count": number,
        "major_model_version": "v4",
        "model_name": "chirp",
        "is_public": True,
        "audio_url": f"https://cdn.invalid/song-{number:03d}.mp3",
        "user_id": f"user-{number // 2}",
        "handle": f"handle-{number // 2}",
        "metadata": {
            "tags": "pop",
            "prompt": f"words of {number // 2}",
            "gpt_description_prompt": f"a song about {number // 2}",
            "duration": 2.0,
            "type": "gen",
            "has_vocal": number % 3 > 0,
        },
    }
    return row | changes


def make_songeval_row(number: int, **changes) -> dict:
    """Make a row of SongEval's metadata.jsonl with four raters."""
    ratings = [{name.capitalize(): min(5, 1 + (number + rater) % 4) for name in AESTHETIC_NAMES} for rater in range(4)]
    row = {"file_name": f"mp3/{number}.flac", "gender": "female" if number % 2 else "male", "annotation": ratings}
    return row | changes


def make_battle(number: int, month: str, **changes) -> dict:
    """Make a battle with all fields of Music Arena."""
    uuid = f"battle-{number}"
    battle = {
        "battle_uuid": uuid,
        "date": f"2026-0{2 + number % 2}-10T10:00:00+00:00",
        "prompt": f"a song about {number}",
        "is_instrumental": [True, "false", None][number % 3],
        "is_prebaked": False,
        "user_pseudonym": f"user-{number % 2}",
        "audio_a": f"audio_files/{month}/{uuid}_a.mp3",
        "system_a": "system-1",
        "audio_b": f"audio_files/{month}/{uuid}_b.mp3",
        "system_b": "system-2",
        "preference": ("A", "B", "TIE", "BOTH_BAD")[number % 4],
        "total_listening_time_a": 12.5,
        "total_listening_time_b": 8.0,
        "feedback": None,
        "timestamp": 1770000000.5,
        "lyrics": None,
    }
    for side in "ab":
        battle |= {
            f"hardware_{side}": "gpu",
            f"system_time_{side}": 5.0,
            f"gateway_time_{side}": 6.0,
            f"duration_{side}": 2.0,
            f"sample_rate_{side}": SAMPLING_RATE,
            f"listen_data_{side}": '[["PLAY", 0.0], ["PAUSE", 2.0]]',
        }
    return battle | changes


def save_arena_tree(root: Path, battles: dict[str, list[dict]]) -> Path:
    """Write battles by month with the audio that they name."""
    for month, of_month in battles.items():
        for battle in of_month:
            path = root / "battle_data" / month / f"{battle['battle_uuid']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(battle), encoding="utf-8")
            for seed, side in enumerate("ab"):
                audio = root / battle[f"audio_{side}"] if battle[f"audio_{side}"] else None
                if audio and root in audio.resolve().parents:
                    audio.parent.mkdir(parents=True, exist_ok=True)
                    audio.write_bytes(encode_song(make_song(seed), container="MP3"))
    (root / "metadata").mkdir(exist_ok=True)
    return root


FMA_HEADER = [
    ["", "album", "album", "artist", "artist", "track", "track", "track", "track", "track"],
    ["", "date_created", "id", "id", "name", "date_created", "duration", "favorites", "listens", "title"],
    ["track_id", "", "", "", "", "", "", "", "", ""],
]


def save_fma_tree(root: Path, num_songs: int = 12) -> Path:
    """Write a tracks.csv with its three header rows, and the audio of all but the last song."""
    rows = list(FMA_HEADER)
    for number in range(num_songs):
        track = 2 + 700 * number
        artist = number // 3
        rows.append(
            [
                track,
                "2008-11-26 01:44:45",
                1,
                artist,
                f"Artist {artist}",
                "2008-11-26 01:48:12",
                2,
                number,
                100 + number,
                f"Song, {number}",
            ]
        )
        name = f"{track:06d}"
        if number < num_songs - 1:
            path = root / "audio" / name[:3] / f"{name}.mp3"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_song(make_song(200 + number), container="MP3"))
    with open(root / "tracks.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return root
