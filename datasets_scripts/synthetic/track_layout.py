"""
Songs with the structured features of a Spotify-like table, popularity between 0 and 100, and the truth behind it.

- tracks: `tracks.csv` (one row a track, Spotify's column names), `audio/<track_id>.<format>`.

Popularity is a sum of four parts whose shares of the variance are fixed: what one hears (the aesthetic factors), how
the track was released (genre, countries, single or album, month), the artist's fame, and luck. The table's acoustic
attributes are noisy readings of the factors, so they know a part of what the audio knows; the release is in no sound.
Plays, likes and the artist's popularity are computed *from* popularity: they leak it. `truth.jsonl` holds the parts,
and `truth_ceilings.json` what a predictor reaches that knows them exactly.
"""

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.synthetic.audio_files import write_atomically
from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.engagement import compute_appeal
from datasets_scripts.synthetic.prompts import build_title
from datasets_scripts.synthetic.random_streams import build_generator, build_identifier
from datasets_scripts.synthetic.song_layouts import PlannedSong, plan_songs
from datasets_scripts.synthetic.systems import PLATFORMS
from datasets_scripts.synthetic.world import (
    CEILINGS_FILE,
    REFERENCE_DATE,
    TRUTH_FILE,
    SongJob,
    WorldOptions,
    claim_folder,
    encode_json,
    render_files,
    round_factors,
    save_json_lines,
)

LAYOUT = "tracks"
TABLE_FILE = "tracks.csv"
PROMPTS_PER_ARTIST = 2

# Shares of the variance of popularity; they sum to one.
SHARES = {"audio": 0.35, "release": 0.25, "fame": 0.20, "luck": 0.20}
MEAN_POPULARITY, POPULARITY_SPREAD = 42.0, 18.0
# Mean and spread of appeal over songs of the training platforms, whose factors hang together.
APPEAL_MEAN, APPEAL_SPREAD = 0.17, 1.49

# What a release is made of: the demand for a genre, reach, form and season. Each part has about unit variance.
GENRE_DEMAND = {"pop": 1.5, "electronic": 0.8, "rock": 0.1, "lo-fi": -0.1, "ballad": -0.8, "folk": -1.5}
ALBUM_TYPES = {"single": 0.9, "album": -0.4, "compilation": -1.7}
ALBUM_SHARES = (0.5, 0.4, 0.1)
RELEASE_WEIGHTS = {"genre": 0.6, "reach": 0.7, "form": 0.3, "season": 0.25}
LARGEST_NUM_MARKETS = 184

GENRE_ENERGY = {"pop": 0.62, "electronic": 0.78, "rock": 0.74, "lo-fi": 0.36, "ballad": 0.3, "folk": 0.42}
GENRE_ACOUSTICNESS = {"pop": 0.25, "electronic": 0.08, "rock": 0.15, "lo-fi": 0.5, "ballad": 0.62, "folk": 0.8}
MISSING_SHARE = 0.04
# What a source may not know; an id, a popularity or a date is always there.
OPTIONAL_COLUMNS = (
    *("track_genre", "album_type", "num_markets", "danceability", "energy", "valence", "loudness", "tempo"),
    *("artist_popularity", "artist_followers", "play_count"),
)


def save_tracks_layout(folder: Path, options: WorldOptions, num_processes: int | None = None) -> None:
    """Write songs in the layout of a Spotify-like table; arguments and errors as for [`save_training_layout`]."""
    claim_folder(folder, LAYOUT, options)
    plan = plan_songs(options, LAYOUT, [system.name for system in PLATFORMS], "natural")
    jobs = [SongJob(song.spec, folder / "audio" / f"{song.spec.song_id}.{options.audio_format}") for song in plan]
    render_files(jobs, num_processes, LAYOUT)
    rows, truth = build_tracks(plan)
    write_atomically(folder / TABLE_FILE, _encode_csv(rows))
    save_json_lines(folder / TRUTH_FILE, truth)
    write_atomically(folder / CEILINGS_FILE, encode_json(compute_track_ceilings(truth)))


def build_tracks(plan: Sequence[PlannedSong]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Release planned songs and let an audience answer: rows of the table and of the truth file, in their order."""
    releases = [_draw_release(song) for song in plan]
    truth = [_draw_parts(song, release) for song, release in zip(plan, releases, strict=True)]
    by_artist: dict[str, list[float]] = {}
    for part in truth:
        by_artist.setdefault(part["artist_id"], []).append(part["popularity"])
    rows = [
        _build_row(song, release, part, float(np.mean(by_artist[part["artist_id"]])))
        for song, release, part in zip(plan, releases, truth, strict=True)
    ]
    return rows, truth


def compute_track_ceilings(truth: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """
    Compute what predictors reach that know some parts of popularity exactly, as Spearman correlations.

    Returns:
        `dict[str, float]`: `audio`, `release`, and `audio_and_release`, which is all that is known of a song before
        an audience hears it.
    """
    from scipy.stats import spearmanr

    popularity = [row["popularity"] for row in truth]
    audio, release = (np.array([row[f"{name}_part"] for row in truth]) for name in ("audio", "release"))
    return {
        name: float(spearmanr(known, popularity)[0])
        for name, known in (("audio", audio), ("release", release), ("audio_and_release", audio + release))
    }


def _draw_release(song: PlannedSong) -> dict[str, Any]:
    """Draw what the publisher decides: form, countries, date."""
    spec = song.spec
    generator = build_generator(spec.seed, LAYOUT, "release", spec.song_id)
    reach = float(generator.standard_normal())
    made = datetime.datetime.fromisoformat(REFERENCE_DATE) - datetime.timedelta(
        days=float(generator.uniform(60, 1800))
    )
    return {
        "album_type": str(generator.choice(list(ALBUM_TYPES), p=ALBUM_SHARES)),
        "reach": reach,
        "num_markets": int(np.clip(round(np.exp(3.2 + 0.8 * reach)), 1, LARGEST_NUM_MARKETS)),
        "date": made.date(),
        "explicit": bool(generator.random() < 0.15),
    }


def _draw_parts(song: PlannedSong, release: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the popularity of a track, and keep what it is made of."""
    spec = song.spec
    artist = song.prompt_index // PROMPTS_PER_ARTIST
    artist_id = build_identifier(spec.seed, LAYOUT, "artist", str(artist))
    standard = {
        "audio": (compute_appeal(spec.factors) - APPEAL_MEAN) / APPEAL_SPREAD,
        "release": _compute_release_value(spec, release),
        "fame": float(build_generator(spec.seed, LAYOUT, "fame", artist_id).standard_normal()),
        "luck": float(build_generator(spec.seed, LAYOUT, "luck", spec.song_id).standard_normal()),
    }
    parts = {name: float(np.sqrt(SHARES[name]) * value) for name, value in standard.items()}
    popularity = MEAN_POPULARITY + POPULARITY_SPREAD * sum(parts.values())
    return {
        "id": spec.song_id,
        "system": spec.system,
        "artist_id": artist_id,
        **round_factors(spec.factors),
        **{f"{name}_part": round(value, 6) for name, value in parts.items()},
        "popularity": float(np.clip(round(popularity), 0, 100)),
    }


def _compute_release_value(spec: SongSpec, release: Mapping[str, Any]) -> float:
    parts = {
        "genre": GENRE_DEMAND[spec.prompt.genre],
        "reach": release["reach"],
        "form": ALBUM_TYPES[release["album_type"]],
        "season": float(np.sqrt(2.0) * np.cos(2.0 * np.pi * (release["date"].month - 7) / 12)),
    }
    scale = np.sqrt(sum(weight**2 for weight in RELEASE_WEIGHTS.values()))
    return float(sum(RELEASE_WEIGHTS[name] * value for name, value in parts.items()) / scale)


def _build_row(
    song: PlannedSong, release: Mapping[str, Any], truth: Mapping[str, Any], mean_of_artist: float
) -> dict[str, Any]:
    """Return a track's row of the table; optional cells are empty now and then."""
    spec, prompt, popularity = song.spec, song.spec.prompt, truth["popularity"]
    generator = build_generator(spec.seed, LAYOUT, "table", spec.song_id)
    age_years = (datetime.datetime.fromisoformat(REFERENCE_DATE).date() - release["date"]).days / 365.25
    # Popularity is about now; plays add up over the years.
    plays = int(10 ** (3.0 + 0.045 * popularity + 0.5 * np.log10(age_years) + 0.04 * generator.standard_normal()))
    row = {
        "track_id": spec.song_id,
        "track_name": build_title(prompt),
        "artists": f"Artist {truth['artist_id'][:8]}",
        "artist_id": truth["artist_id"],
        "release_date": release["date"].isoformat(),
        "album_type": release["album_type"],
        "num_markets": release["num_markets"],
        "track_genre": prompt.genre,
        "popularity": int(popularity),
        "duration_ms": round(1000 * spec.seconds),
        "explicit": release["explicit"],
        **_read_acoustics(spec, generator),
        "artist_popularity": int(np.clip(round(mean_of_artist + 2.0 * generator.standard_normal()), 0, 100)),
        "artist_followers": int(np.exp(5.0 + 0.09 * mean_of_artist + 0.5 * generator.standard_normal())),
        "play_count": plays,
        "like_count": int(generator.binomial(plays, 0.03)),
    }
    is_empty = generator.random(len(OPTIONAL_COLUMNS)) < MISSING_SHARE
    return row | {name: "" for name, empty in zip(OPTIONAL_COLUMNS, is_empty, strict=True) if empty}


def _read_acoustics(spec: SongSpec, generator: np.random.Generator) -> dict[str, float | int]:
    """Draw the acoustic attributes: readings of what the song is like, with the error of a machine that reads."""
    prompt, factors = spec.prompt, spec.factors
    noise = dict(
        zip(
            ("dance", "energy", "valence", "speech", "acoustic", "live", "loud"),
            generator.standard_normal(7),
            strict=True,
        )
    )

    def share(value: float) -> float:
        return round(float(np.clip(value, 0.0, 1.0)), 4)

    return {
        "danceability": share(0.3 + 0.2 * factors.clarity + 0.2 * factors.coherence + 0.12 * noise["dance"]),
        "energy": share(GENRE_ENERGY[prompt.genre] + 0.2 * (factors.memorability - 0.5) + 0.1 * noise["energy"]),
        "key": prompt.tonic,
        "loudness": round(-9.0 + 2.0 * factors.clarity + 1.5 * noise["loud"], 3),
        "mode": int(prompt.mode == "major"),
        "speechiness": share(0.06 + 0.03 * noise["speech"]),
        "acousticness": share(GENRE_ACOUSTICNESS[prompt.genre] + 0.12 * noise["acoustic"]),
        "instrumentalness": share((0.85 if prompt.is_instrumental else 0.08) + 0.06 * generator.standard_normal()),
        "liveness": share(0.18 + 0.08 * noise["live"]),
        "valence": share(0.2 + 0.12 * (prompt.mode == "major") + 0.4 * factors.musicality + 0.15 * noise["valence"]),
        # Machines that read a tempo now and then take the half of it.
        "tempo": round(prompt.tempo * (0.5 if generator.random() < 0.05 else 1.0), 3),
        "time_signature": 4,
    }


def _encode_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
