"""
The arguments of the build command: an argument list comes in, the builder that it describes leaves.

A new builder gets a function that adds its arguments, one that creates it, and a line in `BUILDERS`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets_scripts.field_values import read_time
from datasets_scripts.song_record import AESTHETIC_NAMES, GROUP_KEYS, LABEL_SOURCES, CorpusOptions
from datasets_scripts.splits import SPLIT_METHODS, parse_split_ratios
from datasets_scripts.training_sources import AUDIO_IN_TABLE, DEFAULT_COLUMNS, LABELS, NO_AUDIO, SongSource
from hub_card.card_checks import HUB_LICENSES
from modeling_apex.lazy_parser import LazyParser
from modeling_apex.process_exit import CommandParser
from modeling_apex.storage.table_reader import FORMATS_TEXT

SYNTHETIC = "synthetic"
MEBIBYTE = 1024**2
DEFAULT_MAX_SHARD_BYTES = 256 * MEBIBYTE

DESCRIPTION = """\
Build the datasets that training and evaluation read.

Every sub-command but `synthetic` writes a folder with Parquet shards, a dataset card and manifest.json (row counts,
hashes, options, versions). datasets.load_dataset(FOLDER) reads it, offline and as a stream. Run the same command again
to resume a build that was interrupted, in whatever way; it ends with the same bytes.

A finished dataset is valid for exactly the tables, labels and audio that made it. Run again, a command says that the
dataset is finished if they are the same; otherwise it refuses and says what changed, and --overwrite rebuilds. Files
whose size, times and inode are unchanged are not read again; --recheck reads them all.
"""
TRAINING_DESCRIPTION = f"""\
Songs with play and like counts: filter, turn counts into targets, split, join aesthetic labels.

A source is METADATA AUDIO [PLATFORM], and --source can be given several times:
  METADATA  a table, a folder of tables, or a dataset id on the Hub; tables end in
            {FORMATS_TEXT}
  AUDIO     the folder with <id>.mp3, .flac ..., or `{AUDIO_IN_TABLE}` (a column of the table), or `{NO_AUDIO}`
  PLATFORM  where the songs were published; counts are ranked within a platform (default: the table's column)

Songs with zero plays, repeated ids, and duplicate, corrupt or truncated audio are dropped, and so are (with
--minimum-age-days) recent songs; the card counts each kind. A song's split is a hash of its creator, so songs added
later do not change the split of any other.
"""
TRAINING_EPILOG = f"""\
Columns are those of a Suno song object unless told otherwise; dots reach into objects, | separates alternatives. Those
of --labels are set by name, or with `{LABELS}:` in front: --column coherence=Coh --column {LABELS}:id=track.
{chr(10).join(f"  {name:<16}{column}" for name, column in DEFAULT_COLUMNS.items())}

Examples:
  %(prog)s --source suno.jsonl.zst audio/suno suno --output data/songs
  %(prog)s --source a.csv audio/a suno --source b.parquet audio/b udio \\
      --column udio:like_count=likes --labels pseudo_labels.csv --output data/songs
"""
SONGEVAL_DESCRIPTION = """\
Songs in SongEval's layout (metadata.jsonl with `annotation`, one entry per rater): mean and spread per dimension.

Examples:
  hf download ASLP-lab/SongEval --repo-type dataset --local-dir SongEval
  %(prog)s --source SongEval --output data/songeval
"""
MUSIC_ARENA_DESCRIPTION = """\
Battles in Music Arena's layout (battle_data/<month>/*.json, audio_files/<month>/*.mp3): one row per battle with both
songs and the vote. Songs of withheld systems stay as rows without audio.

Examples:
  hf download music-arena/music-arena-dataset --repo-type dataset --local-dir music-arena
  %(prog)s --source music-arena --months 2026-02 --output data/arena
"""
FMA_DESCRIPTION = """\
Songs of the Free Music Archive (tracks.csv and fma_*/): listens and favourites as targets, split by artist.

Example: %(prog)s --tracks fma_metadata/tracks.csv --audio fma_large --output data/fma
"""

SPOTIFY_DESCRIPTION = """\
Tracks of a Spotify-like table (popularity 0 to 100, acoustic attributes, genre, release, artist) joined to audio,
split by artist. Features that leak the target (artist_popularity, artist_followers, play_count, like_count) are marked
as such in the card; --leaking-features drop leaves them out.

Example: %(prog)s --tracks tracks.csv --audio audio --output data/tracks
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `python -m datasets_scripts.build`."""
    parser = CommandParser(prog="python -m datasets_scripts.build")
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command, and declare its datasets; each brings its own arguments when it is asked for."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET", parser_class=LazyParser)
    summary = "a synthetic song world, in the layouts below"
    datasets.add_parser(SYNTHETIC, help=summary, declare=_declare_synthetic)
    for name, (summary, *_) in BUILDERS.items():
        datasets.add_parser(name, help=summary, declare=partial(_declare_builder, name=name))


def _declare_synthetic(parser: argparse.ArgumentParser) -> None:
    from datasets_scripts.synthetic.command import add_arguments

    add_arguments(parser)
    add_hub_arguments(parser)


def _declare_builder(parser: argparse.ArgumentParser, name: str) -> None:
    _, parser.description, add_own_arguments, create_builder = BUILDERS[name]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_own_arguments(parser)
    _add_output_arguments(parser)
    parser.set_defaults(create_builder=create_builder)


def add_hub_arguments(parser: argparse._ActionsContainer) -> None:
    """Add where a finished dataset is published."""
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="publish the finished folder as a dataset")
    parser.add_argument("--public", action="store_true", help="make it public (default: private)")
    parser.add_argument(
        "--remove-other-files",
        action="store_true",
        help="remove files of the repository that the folder does not have",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write, or to resume")
    group.add_argument("--overwrite", action="store_true", help="rebuild a finished dataset")
    group.add_argument("--recheck", action="store_true", help="read every source again, even where it looks unchanged")
    group.add_argument(
        "--max-shard-size",
        type=float,
        default=DEFAULT_MAX_SHARD_BYTES / MEBIBYTE,
        metavar="MIB",
        help="cut Parquet shards at about this size (default: %(default)g)",
    )
    group.add_argument("--no-embed-audio", action="store_true", help="store paths to the audio, not the audio itself")
    group.add_argument(
        "--allow-outside-paths",
        action="store_true",
        help="allow paths and links that leave the folder of the audio or of the table",
    )
    group.add_argument("--license", metavar="ID", help="the Hub's identifier of the licence, for the dataset card")
    add_hub_arguments(group)


def _add_corpus_arguments(parser: argparse.ArgumentParser, *, group_by: Sequence[str]) -> None:
    group = parser.add_argument_group("splits and audio")
    group.add_argument(
        "--splits", default="85:10:5", metavar="T:V:T", help="train, validation, test (default: %(default)s)"
    )
    group.add_argument(
        "--split-method",
        choices=SPLIT_METHODS,
        default="hash",
        help="hash: songs added later move no other; quota: platforms and popularity divided evenly (default: hash)",
    )
    group.add_argument("--seed", type=int, default=42, help="seed of the splits (default: %(default)s)")
    group.add_argument(
        "--group-by",
        nargs="+",
        choices=GROUP_KEYS,
        default=list(group_by),
        help=f"keys that two splits must not share (default: {' '.join(group_by)})",
    )
    group.add_argument("--num-workers", type=int, default=1, help="processes that decode audio (default: %(default)s)")


def _add_popularity_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters")
    group.add_argument("--keep-zero-plays", action="store_true", help="keep songs with zero plays")
    group.add_argument(
        "--minimum-age-days", type=float, default=0.0, metavar="N", help="drop songs younger than N days"
    )
    group.add_argument(
        "--as-of", metavar="DATE", help="date that ages are counted from (default: that of the newest song)"
    )
    group.add_argument(
        "--duplicate-ids",
        choices=("drop", "refuse"),
        default="drop",
        help="what to do with repeated ids (default: drop)",
    )


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = TRAINING_EPILOG
    parser.add_argument(
        "--source",
        nargs="+",
        action="append",
        required=True,
        metavar=("METADATA", "AUDIO"),
        help="a table, its audio and, optionally, its platform; repeatable",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="[PLATFORM:]FIELD=NAME",
        help="column that a field is read from, also for --labels",
    )
    parser.add_argument("--hub-split", default="train", metavar="NAME", help="split of Hub sources (default: train)")
    parser.add_argument("--hub-revision", metavar="REV", help="revision of Hub sources")
    parser.add_argument("--labels", metavar="TABLE", help=f"table with id or song_id, {', '.join(AESTHETIC_NAMES)}")
    parser.add_argument(
        "--label-source",
        choices=LABEL_SOURCES,
        default="pseudo-labels",
        help="who made the labels (default: %(default)s)",
    )
    _add_popularity_arguments(parser)
    _add_corpus_arguments(parser, group_by=GROUP_KEYS)


def _add_songeval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, metavar="DIR", help="folder with metadata.jsonl and the audio")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column that a field is read from"
    )
    parser.add_argument(
        "--label-source",
        choices=LABEL_SOURCES,
        default="songeval-raters",
        help="who the raters were (default: %(default)s)",
    )
    _add_corpus_arguments(parser, group_by=("audio",))


def _add_music_arena_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, metavar="DIR", help="folder with battle_data/ and audio_files/")
    parser.add_argument(
        "--months", nargs="+", default=[], metavar="MONTH", help="month folders, or prefixes of dates such as 2026-02"
    )
    parser.add_argument(
        "--leave-out", metavar="FILE", help="file of battle ids to leave out, one per line (benchmark leakage)"
    )
    parser.add_argument(
        "--duplicates", choices=("refuse", "drop"), default="refuse", help="repeated battle_uuid (default: refuse)"
    )
    parser.add_argument("--decisive-only", action="store_true", help="leave out TIE and BOTH_BAD")


def _add_fma_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tracks", required=True, metavar="CSV", help="the file tracks.csv")
    parser.add_argument("--audio", metavar="DIR", help="the folder with 000/, 001/ ...; without it, no audio")
    _add_popularity_arguments(parser)
    _add_corpus_arguments(parser, group_by=("creator", "audio"))


def _add_spotify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tracks", required=True, metavar="TABLE", help="a table, a folder of tables, or a Hub id")
    parser.add_argument("--audio", metavar="DIR", help="the folder with <id>.mp3, .flac ...; without it, no audio")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column that a field is read from"
    )
    parser.add_argument(
        "--leaking-features",
        choices=("keep", "drop"),
        default="keep",
        help="keep or drop features that are computed from a track's success (default: keep)",
    )
    _add_corpus_arguments(parser, group_by=("creator", "audio"))


def _create_training(args: argparse.Namespace) -> Any:
    from datasets_scripts.training_songs import TrainingSongs

    for source in args.source:
        if not 2 <= len(source) <= 3:
            raise ValueError(f"--source takes METADATA AUDIO [PLATFORM], got {' '.join(source)!r}.")
    sources = [
        SongSource(metadata, audio, platform[0] if platform else None, args.hub_split, args.hub_revision)
        for metadata, audio, *platform in args.source
    ]
    without_audio = [source.audio == NO_AUDIO for source in sources]
    if any(without_audio) != all(without_audio):
        raise ValueError(f"Either all sources have audio or none: {NO_AUDIO!r} cannot be mixed with audio.")
    return TrainingSongs(
        sources=sources,
        columns=parse_columns(args.column),
        labels=args.labels,
        label_source=args.label_source,
        corpus=_build_corpus_options(args, needs_audio=not all(without_audio), **_read_popularity_options(args)),
        **_get_shared_options(args),
    )


def _create_songeval(args: argparse.Namespace) -> Any:
    from datasets_scripts.songeval import SongEval

    corpus = _build_corpus_options(args, needs_popularity=False, refuses_duplicate_ids=True)
    return SongEval(
        source=args.source,
        columns=parse_columns(args.column),
        label_source=args.label_source,
        corpus=corpus,
        **_get_shared_options(args),
    )


def _create_music_arena(args: argparse.Namespace) -> Any:
    from datasets_scripts.music_arena import MusicArena, load_battle_ids

    return MusicArena(
        source=args.source,
        months=tuple(args.months),
        leave_out=tuple(load_battle_ids(args.leave_out)) if args.leave_out else (),
        duplicates=args.duplicates,
        decisive_only=args.decisive_only,
        embeds_audio=not args.no_embed_audio,
        allows_outside_paths=args.allow_outside_paths,
        **_get_shared_options(args),
    )


def _create_fma(args: argparse.Namespace) -> Any:
    from datasets_scripts.fma import Fma

    corpus = _build_corpus_options(args, needs_audio=args.audio is not None, **_read_popularity_options(args))
    return Fma(tracks=args.tracks, audio=args.audio, corpus=corpus, **_get_shared_options(args))


def _create_spotify(args: argparse.Namespace) -> Any:
    from datasets_scripts.spotify import SpotifyTracks

    corpus = _build_corpus_options(args, needs_popularity=False, needs_audio=args.audio is not None)
    return SpotifyTracks(
        tracks=args.tracks,
        audio=args.audio,
        columns=parse_columns(args.column),
        leaking_features=args.leaking_features,
        corpus=corpus,
        **_get_shared_options(args),
    )


def parse_columns(choices: Sequence[str]) -> dict[str, str]:
    """
    Read `--column` choices, such as `"like_count=likes"` or `"udio:like_count=likes"`, into columns by field.

    Raises:
        `ValueError`: If a choice has no `=`.
    """
    columns = {}
    for choice in choices:
        name, separator, column = choice.partition("=")
        if not (separator and name and column):
            raise ValueError(f"--column takes [PLATFORM:]FIELD=NAME, got {choice!r}.")
        columns[name] = column
    return columns


def _build_corpus_options(args: argparse.Namespace, **own: Any) -> CorpusOptions:
    return CorpusOptions(
        seed=args.seed,
        split_ratios=parse_split_ratios(args.splits),
        split_method=args.split_method,
        group_by=tuple(args.group_by),
        embeds_audio=not args.no_embed_audio,
        allows_outside_paths=args.allow_outside_paths,
        num_workers=args.num_workers,
        **own,
    )


def _read_popularity_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "keeps_zero_plays": args.keep_zero_plays,
        "minimum_age_days": args.minimum_age_days,
        "as_of": read_time(args.as_of, "DATE", "--as-of"),
        "refuses_duplicate_ids": args.duplicate_ids == "refuse",
    }


def _get_shared_options(args: argparse.Namespace) -> dict[str, str]:
    if args.license and args.license not in HUB_LICENSES:
        raise ValueError(
            f"--license {args.license!r} is not one that the Hub knows; choose one of "
            f"{', '.join(sorted(HUB_LICENSES))}."
        )
    # This command has a folder of its own: nothing needs to be read to name one in the cache of `datasets`.
    return {"cache_key": "none"} | ({"license_id": args.license} if args.license else {})


# Builder to summary, description, and the functions that add its arguments and create it.
BUILDERS: Mapping[str, tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[..., Any]]] = {
    "training": ("songs with play and like counts", TRAINING_DESCRIPTION, _add_training_arguments, _create_training),
    "songeval": ("songs with ratings", SONGEVAL_DESCRIPTION, _add_songeval_arguments, _create_songeval),
    "music-arena": ("battles with votes", MUSIC_ARENA_DESCRIPTION, _add_music_arena_arguments, _create_music_arena),
    "fma": ("real-music popularity", FMA_DESCRIPTION, _add_fma_arguments, _create_fma),
    "spotify": ("tracks with features and popularity", SPOTIFY_DESCRIPTION, _add_spotify_arguments, _create_spotify),
}
