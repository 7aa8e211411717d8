"""
What the commands that score songs share: their options, and what they make of them: limits, a scorer, reports.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_apex.commands.progress import follow_reports
from modeling_apex.corpus.error_kinds import count_error_kinds
from modeling_apex.corpus.feature_table import FeatureTable
from modeling_apex.corpus.song_files import find_songs, is_dataset, is_table, read_song_list
from modeling_apex.corpus.song_shares import SongShare, find_own_card, find_share
from modeling_apex.engines import ENGINES, PRECISIONS
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.configuration_fields_apex import TAILS
from modeling_apex.inference.report_apex import escape_controls, format_count
from modeling_apex.process_exit import print_lines

if TYPE_CHECKING:
    from modeling_apex.corpus.embedded_songs import EmbeddedSongs
    from modeling_apex.corpus.score_journal import ScoreJournal
    from modeling_apex.corpus.song_input import SongFiles, SourceSongs
    from modeling_apex.inference.scoring_apex import SongScorer

DTYPES = ("float32", "bfloat16", "float16")
RESAMPLERS = ("sinc", "soxr")
MEGABYTE = 1024**2


def add_scoring_arguments(parser: argparse.ArgumentParser, *, has_list: bool = False) -> None:
    """Declare what every command that reports on songs takes; with a list, none need stand on the command line."""
    add_song_arguments(parser, "*" if has_list else "+")
    if has_list:
        add_list_argument(parser)
        add_shard_argument(parser)
    parser.add_argument(
        "--features",
        metavar="TABLE",
        help="track features for a spectrogram-fusion model (.csv, .jsonl, ...): a column `song` and one column per "
        "feature",
    )
    add_computing_arguments(parser)


def add_computing_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how songs are computed, and what is refused of them."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="precision of the encoder (default: float32)"
    )
    parser.add_argument(
        "--tail",
        choices=TAILS,
        help="how the padded last segment of a song counts: full, as much as any other; weighted, by its seconds; "
        "drop, not at all if it is short and not the only one (default: as the model says; the published weights: "
        "full)",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, metavar="N", help="segments per batch (default: chosen automatically)"
    )
    add_limit_arguments(parser)


def add_process_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the processes that score; `share_out` reads it."""
    parser.add_argument(
        "--num-processes",
        type=positive_int,
        metavar="N",
        help="processes that score, each with the model and its own card or share of the cores (default: 1)",
    )


def add_list_argument(parser: argparse.ArgumentParser) -> None:
    """Declare a list of songs beside those of the command line; `list_names` reads both."""
    parser.add_argument("--songs", dest="song_list", metavar="LIST", help="text file with more songs, one per line")
    parser.add_argument("--id-column", metavar="C", help="column of a table's ids (default: id, song_id or track_id)")
    parser.add_argument(
        "--audio-column",
        metavar="C",
        help="column of a table's paths or URIs, which count from its folder (default: uri, url, path, audio, ...)",
    )


def list_names(arguments: argparse.Namespace) -> list[str]:
    """
    Return the names of songs that a command line gives, and those of its list.

    Raises:
        `ValueError`: If it gives none.
    """
    names: list[str] = arguments.songs + (read_song_list(arguments.song_list) if arguments.song_list else [])
    if not names:
        raise ValueError("no songs were given. Pass files, folders, patterns or URLs, or a list of them with --songs.")
    return names


def find_input(names: list[str], arguments: argparse.Namespace) -> "SongFiles | SourceSongs":
    """Find the songs of a command line: those of one table or dataset, which have ids, or else files and URLs."""
    from modeling_apex.corpus.song_input import SongFiles, SourceSongs

    columns = {"id_column": arguments.id_column, "audio_column": arguments.audio_column}
    if any(columns.values()) or any(is_table(name) or is_dataset(name) for name in names):
        from modeling_apex.corpus.song_source import find_song_source  # needs pyarrow

        if source := find_song_source(names, **columns):
            return SourceSongs(source)
    return SongFiles(find_songs(names))


def add_shard_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the share of a process; `take_share` reads it."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="with --output: score every N-th song only, from the I-th on, to its own file, such as "
        "scores-00001-of-00020.csv (default: as torchrun and SLURM say, where they started several processes)",
    )


def place_output(arguments: argparse.Namespace, stem: str, folder: Path | None = None) -> SongShare | None:
    """
    Give the output of this process its name: in a folder, that of a shard; for one of several processes, its own.

    Args:
        arguments (`argparse.Namespace`):
            The command line; its `output` becomes the file.
        stem (`str`):
            What the shards of a folder are called.
        folder (`Path`, *optional*):
            Stored embeddings that are scored, which are not shared out.

    Returns:
        [`SongShare`] or `None`: the share of this process, where it has one.

    Raises:
        `ValueError`: If a share has no place, or a folder holds shards of another number.
    """
    if not arguments.output:
        if arguments.shard is not None:
            raise ValueError("--shard writes to a file: add an --output, or leave it out.")
        return None
    share = None if folder is not None and arguments.shard is None else find_share(arguments.shard)
    if share is not None and folder is not None:
        raise ValueError(f"--shard is for songs that are decoded, and {folder} holds embeddings: leave it out.")
    if share is not None and arguments.append:
        raise ValueError(
            "--append has no place beside --shard: which share a song is in changes when songs are added. Merge the "
            "parts and append to the whole, or score the new songs to an output of their own."
        )
    place = Path(os.path.expanduser(arguments.output))
    if is_folder := arguments.output.endswith(("/", os.sep)) or place.is_dir():
        arguments.output = str(place / f"{stem}.parquet")
    if share is not None or is_folder:
        named = share or SongShare(1, 1)
        arguments.output = named.name(arguments.output)
        if is_folder:
            named.refuse_others(Path(arguments.output))
    return share


def take_share(songs: Any, share: SongShare | None, arguments: argparse.Namespace) -> Any:
    """Return the songs of this process alone, if it is one of several."""
    if share is None:
        return songs
    # Failures are retried where they failed, whichever share their songs would be in by now.
    own = songs if arguments.retry_failures else songs.take(share)
    words = f"share {share.number} of {share.count} ({share.source}): {len(own.ids)} of {len(songs.ids)} songs"
    print_lines(escape_controls(f"{words}, to {arguments.output}"), file=sys.stderr)
    return own


def add_song_arguments(parser: argparse.ArgumentParser, number: str = "+") -> None:
    """Declare the songs, the model and what runs it."""
    words = "" if number == "+" else "; or one table or dataset"
    parser.add_argument("songs", nargs=number, metavar="SONG", help=f"file, folder, pattern or URL{words}")
    parser.add_argument("--model", metavar="M", help="folder or Hub id (default: the embedded demonstration model)")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which version of the model, and what runs it."""
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub model")
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)"
    )
    add_engine_arguments(parser)
    parser.add_argument(
        "--resampler",
        choices=RESAMPLERS,
        default="sinc",
        help="sinc: the filter that the weights were trained with (default); soxr: faster, scores differ slightly",
    )


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is refused; `build_limits` reads it."""
    defaults = AudioLimits()
    limits = parser.add_argument_group("limits")
    megabytes = defaults.max_bytes / MEGABYTE
    for name, kind, default, unit, words in (
        ("seconds", positive_number, defaults.max_seconds, "S", "longest song"),
        ("megabytes", positive_number, megabytes, "N", "largest file or download, in MiB"),
        ("channels", positive_int, defaults.max_channels, "N", "most channels; more than one are mixed by their mean"),
        ("sampling-rate", positive_int, defaults.max_sampling_rate, "HZ", "highest sampling rate, in hertz"),
    ):
        option: dict[str, Any] = {"type": kind, "default": default, "metavar": unit}
        limits.add_argument(f"--max-{name}", **option, help=f"{words} ({default:g})")
    limits.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="allow URLs that lead to this machine or its own network (off, because a URL may come from a stranger)",
    )


def build_limits(arguments: argparse.Namespace) -> AudioLimits:
    """Return the limits that the command line states."""
    return AudioLimits(
        max_seconds=arguments.max_seconds,
        max_bytes=round(arguments.max_megabytes * MEGABYTE),
        max_channels=arguments.max_channels,
        max_sampling_rate=arguments.max_sampling_rate,
        allow_private_addresses=arguments.allow_private_addresses,
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what runs the encoder; the defaults are the exact path."""
    parser.add_argument(
        "--engine", choices=tuple(ENGINES), default="torch", help="what runs the encoder (default: torch)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="precision that the encoder computes in; anything but float32 changes scores, and runs only where "
        "`apex-music validate` has measured by how much (default: float32)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the torch path first, which takes minutes; for long runs"
    )


def load_scorer(arguments: argparse.Namespace) -> "SongScorer":
    """Load what scores as the command line says."""
    from modeling_apex import loading

    scorer = loading.load_scorer(arguments.model, **list_loading(arguments))
    if arguments.precision != "float32":
        print_lines(scorer.model.encoder_engine.describe(), file=sys.stderr)
    return scorer


def list_loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say how a model is loaded, besides its name."""
    names = ("dtype", "engine", "precision", "compile", "batch_size", "revision", "device")
    options = {name: getattr(arguments, name) for name in names}
    if options["device"] is None and arguments.engine == "torch":
        options["device"] = find_own_card(os.environ)
    return options


def share_out(scorer: "SongScorer", arguments: argparse.Namespace) -> Any:
    """Return what scores in as many processes as the command line says; with one, the scorer that is there."""
    if arguments.num_processes in (None, 1):
        return scorer
    from modeling_apex.corpus.score_processes import ScorerProcesses, list_devices
    from modeling_apex.engines.model_hashes import compute_scores_hash

    loading = {**list_loading(arguments), "weights_sha256": compute_scores_hash(scorer.model)}
    device = loading.pop("device")
    devices = list_devices(device) if arguments.engine == "torch" else [device]
    return ScorerProcesses(arguments.model, num_processes=arguments.num_processes, devices=devices, **loading)


def score_songs(songs: list[str], arguments: argparse.Namespace, **options: Any) -> Iterator[dict[str, Any]]:
    """Yield one report a song, with progress on a terminal; what fails goes to stderr too."""
    from modeling_apex.corpus.song_input import SongFiles

    if songs:
        scorer = options.pop("scorer", None) or load_scorer(arguments)
        reports = SongFiles(songs).score(scorer, **build_audio_options(arguments), **options)
        yield from follow_reports(reports, len(songs))


def build_audio_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say how songs are read, besides the scorer."""
    features = getattr(arguments, "features", None)
    return {
        "features": FeatureTable(features) if features else None,
        "resampler": arguments.resampler,
        "limits": build_limits(arguments),
        "tail": arguments.tail,
    }


def add_journal_arguments(parser: argparse.ArgumentParser, words: str, *, is_required: bool) -> None:
    """Declare the file that a journal of scores becomes, and what becomes of one that is there."""
    from modeling_apex.corpus.score_rows import OUTPUT_FORMATS

    where = "" if is_required else "with --output: "
    parser.add_argument(
        "--output",
        required=is_required,
        metavar="FILE",
        help=f"{words} ({', '.join(OUTPUT_FORMATS)}), or a folder for a shard of Parquet",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    parser.add_argument(
        "--append",
        action="store_true",
        help=f"{where}add the songs that a finished output does not hold yet, and score those again whose audio has "
        "changed; the other rows stay as they are, and settings must be those of before",
    )
    parser.add_argument(
        "--retry-failures",
        action="store_true",
        help=f"{where}score the songs of a finished output that failed again; the other rows stay as they are",
    )
    parser.add_argument(
        "--recheck",
        action="store_true",
        help=f"{where}when resuming, read songs again to see whether they changed, even where size and times of the "
        "file have not, and score URLs again",
    )


def name_options(names: Sequence[str]) -> str:
    """Return options as a command line has them, by what its parser calls them."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def refuse_audio_options(arguments: argparse.Namespace, folder: Path) -> None:
    """Refuse what says how audio is read and encoded, where embeddings are stored and it would say nothing."""
    usual: dict[str, Any] = {"dtype": "float32", "engine": "torch", "precision": "float32", "resampler": "sinc"}
    usual |= dict.fromkeys(("compile", "recheck", "allow_private_addresses"), False)
    given = vars(arguments)
    wrong = [name for name, value in usual.items() if given.get(name, value) != value]
    wrong += [name for name in ("features", "batch_size", "num_processes") if given.get(name) is not None]
    if wrong or build_limits(arguments) != AudioLimits():
        options = name_options(wrong) or "--max-..."
        raise ValueError(
            f"{folder}: holds stored embeddings, for which {options} changes nothing: audio is not read again. Leave "
            "it out, or pass the songs themselves."
        )


def open_embedded_songs(folder: Path, scorer: "SongScorer") -> "EmbeddedSongs":
    """Open a folder of embeddings for what scores them."""
    from modeling_apex.corpus.embedded_songs import EmbeddedSongs

    return EmbeddedSongs(folder, scorer.model)


def build_settings(
    arguments: argparse.Namespace, scorer: "SongScorer", embedded: "EmbeddedSongs | None"
) -> dict[str, Any]:
    """Say what scores in a journal depend on, besides the songs."""
    from modeling_apex.engines.model_hashes import compute_scores_hash

    settings: dict[str, Any] = {"weights_sha256": compute_scores_hash(scorer.model)}
    settings |= {name: getattr(arguments, name) for name in ("dtype", "engine", "precision", "resampler")}
    if arguments.tail:  # said only where it is, as are the others below, so that journals of before go on
        settings["tail"] = arguments.tail
    if embedded is not None:
        settings["stored"] = embedded.identity
    return settings


def say_how_many_are_done(journal: "ScoreJournal", songs: Sequence[str]) -> int:
    """Tell the user what an interrupted run left, if it left something, and return how many songs that is."""
    if num_left_out := journal.count_left_out(songs):
        words = (
            f"left out: {format_count(num_left_out, 'song')} that {journal.output} does not hold; --append adds them"
        )
        print_lines(escape_controls(words), file=sys.stderr)
    num_done = journal.count_done(songs)
    if num_done:
        words = f"resuming: {num_done} of {format_count(len(songs), 'song')} already in {journal.path}"
        print_lines(escape_controls(words), file=sys.stderr)
    return num_done


def list_journal_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Say what becomes of an output that is there.

    Raises:
        `ValueError`: If it is to be replaced and gone on with at once, or there is no output.
    """
    for name in ("append", "retry_failures"):
        option = name_options([name])
        if getattr(arguments, name) and not arguments.output:
            raise ValueError(f"{option} goes on with a file: name its --output, or leave {option} out.")
        if getattr(arguments, name) and arguments.overwrite:
            raise ValueError(f"{option} keeps the rows of an output, and --overwrite none: leave one of them out.")
    return {
        "overwrite": arguments.overwrite,
        "is_recorded": True,
        "appends": arguments.append,
        "retries": arguments.retry_failures,
    }


def say_what_came_of_it(output: str, errors: Sequence[str | None], done: str) -> int:
    """Tell the user how many songs are in an output, how many failed and why; return the exit status."""
    num_failed = sum(map(bool, errors))
    words = f"{output}: {format_count(len(errors) - num_failed, 'song')} {done}, {num_failed} failed"
    if num_failed:
        words += f" ({', '.join(f'{kind}: {number}' for kind, number in count_error_kinds(errors).items())})"
    print_lines(escape_controls(words), file=sys.stderr)
    return 1 if num_failed else 0


def positive_int(text: str) -> int:
    """Read a whole number above zero, for `type=` of an option."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def positive_number(text: str) -> float:
    """Read a finite number above zero, for `type=` of an option."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value
