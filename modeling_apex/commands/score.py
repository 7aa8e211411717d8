"""`apex-music score`: songs to scores, as a table on the terminal or as a file."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modeling_apex.commands.options import (
    add_journal_arguments,
    add_process_argument,
    add_scoring_arguments,
    build_audio_options,
    build_limits,
    build_settings,
    find_input,
    list_journal_options,
    list_loading,
    list_names,
    load_scorer,
    name_options,
    open_embedded_songs,
    place_output,
    refuse_audio_options,
    say_how_many_are_done,
    say_what_came_of_it,
    share_out,
    take_share,
)
from modeling_apex.commands.progress import follow_reports
from modeling_apex.corpus.identity import identify_file
from modeling_apex.corpus.score_columns import list_score_columns
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.score_rows import OUTPUT_FORMATS
from modeling_apex.corpus.song_files import is_table
from modeling_apex.inference.report_apex import (
    describe_scales,
    escape_controls,
    format_duration,
    format_interval,
    format_report,
    format_score,
    format_table,
)
from modeling_apex.process_exit import print_lines

HELP = "score songs: popularity (0 to 100) and aesthetics (1 to 5)"
DESCRIPTION = (
    "Score songs from their audio: files, folders, URLs, and URIs such as s3://bucket/song.mp3; or the songs of one "
    "table or dataset, whose ids are kept. One broken song is reported and the others are scored; the exit status is "
    "then 1. With --output, an interrupted run is resumed by the same command, and a finished one by --append or "
    "--retry-failures. A folder of `apex-music embed` is scored from its embeddings, by a model whose encoder made "
    "them: other heads over a corpus in seconds."
)
EXAMPLES = (
    "song.mp3",
    "album/ --output scores.csv",
    "songs.csv --output scores.parquet --append",
    "'takes/*.wav' --model amaai-lab/apex --segments",
    "embeddings/suno --model runs/first/best --output scores.parquet",
    "songs.parquet --backend ray --address auto --output scores",
)
NOT_ON_A_CLUSTER = ("features", "segments", "embeddings", "overwrite", "append", "retry_failures", "recheck", "shard")
USUAL_LOADING = (None, False, "torch", "float32")
WHEN_INTERRUPTED = "with --output, run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scoring_arguments(parser, has_list=True)
    add_process_argument(parser)
    add_journal_arguments(parser, "write reports to a file instead", is_required=False)
    parser.add_argument(
        "--backend",
        choices=("ray",),
        help="score one table on a cluster of Ray, or all cores of this machine, to a folder of Parquet; "
        "--num-processes says how many workers at most (default: as many as there is room for)",
    )
    parser.add_argument(
        "--address",
        metavar="A",
        help="with --backend: the cluster, auto or HOST:PORT (default: RAY_ADDRESS, one that runs here, or a new one)",
    )
    parser.add_argument("--segments", action="store_true", help="score each segment too (the timeline of a song)")
    parser.add_argument("--embeddings", action="store_true", help="add the song embedding to .json and .jsonl reports")


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.corpus.embedding_manifest import find_embeddings

    if arguments.backend:
        return _score_on_cluster(arguments)
    if arguments.address is not None:
        raise ValueError("--address is that of a cluster: add --backend ray, or leave it out.")
    going_on = list_journal_options(arguments)
    names = list_names(arguments)
    folder = find_embeddings(names)
    share = place_output(arguments, "scores", folder)
    _refuse_without_place(arguments)
    if folder is not None:
        refuse_audio_options(arguments, folder)
    songs = find_input(names, arguments) if folder is None else None
    if arguments.output:
        return _score_to_file(take_share(songs, share, arguments), folder, arguments, going_on)
    reports = []
    for report in _score(songs, folder, arguments):
        reports.append(report)
        if arguments.segments and "error" not in report:
            print_lines(format_report(report) + "\n")
    scored = [report for report in reports if "error" not in report]
    if len(scored) == 1 and not arguments.segments:
        print_lines(format_report(scored[0]))
    elif scored and not arguments.segments:
        print_lines(format_score_table(scored))
    return 1 if len(scored) < len(reports) else 0


def _score_on_cluster(arguments: argparse.Namespace) -> int:
    """Hand a table to the runner of Ray, with what it takes, and refuse what it does not."""
    wrong = [name for name in NOT_ON_A_CLUSTER if getattr(arguments, name)]
    wrong += ["songs"] if arguments.song_list else []
    if wrong:
        raise ValueError(
            f"--backend ray does not take {name_options(wrong)}: leave it out, or score without --backend."
        )
    if len(arguments.songs) != 1 or not is_table(arguments.songs[0]):
        raise ValueError(
            f"--backend ray scores one table (.csv, .jsonl, .parquet) with an id and a path or URI of each song, got "
            f"{' '.join(arguments.songs) or 'none'}. Name a table, or score without --backend."
        )
    if not arguments.output or Path(arguments.output).suffix in OUTPUT_FORMATS:
        raise ValueError(
            f"--backend ray writes a folder of Parquet files, got --output {arguments.output}. Name a new folder."
        )
    from modeling_apex.corpus.ray_data import import_ray

    import_ray()  # first: it brings the other packages that are needed
    from modeling_apex.corpus.ray_job import read_errors, score_table

    # What is usual is not said, as it is not in a program that goes on with this output.
    loading = {name: value for name, value in list_loading(arguments).items() if value not in USUAL_LOADING}
    done = score_table(
        arguments.songs[0],
        arguments.output,
        arguments.model,
        address=arguments.address,
        num_actors=arguments.num_processes,
        id_column=arguments.id_column,
        audio_column=arguments.audio_column,
        resampler=arguments.resampler,
        tail=arguments.tail,
        limits=build_limits(arguments),
        **loading,
    )
    return say_what_came_of_it(str(done.output), read_errors(done.output), "scored")


def _refuse_without_place(arguments: argparse.Namespace) -> None:
    """Refuse an option whose result the output has no place for, before anything is scored."""
    suffix = Path(arguments.output).suffix if arguments.output else None
    for name, has_place in (
        ("segments", suffix not in (".csv", ".parquet")),
        ("embeddings", suffix in (".json", ".jsonl")),
    ):
        if getattr(arguments, name) and not has_place:
            raise ValueError(
                f"--{name} has no place in {f'a {suffix} file' if suffix else 'the table on the terminal'}. Choose an "
                f"--output that ends in .json or .jsonl, or leave --{name} out."
            )


def _score(songs: Any, folder: Path | None, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the reports of songs, or of those in a folder of embeddings."""
    scorer = load_scorer(arguments)
    songs = songs if folder is None else open_embedded_songs(folder, scorer)
    options = build_audio_options(arguments) if folder is None else {"tail": arguments.tail}
    scorer = share_out(scorer, arguments)
    yield from follow_reports(songs.score(scorer, return_timeline=arguments.segments, **options), len(songs.ids))


def _score_to_file(songs: Any, folder: Path | None, arguments: argparse.Namespace, going_on: dict[str, Any]) -> int:
    scorer = load_scorer(arguments)
    embedded = None if folder is None else open_embedded_songs(folder, scorer)
    settings = build_settings(arguments, scorer, embedded)
    settings["features"] = identify_file(arguments.features).sha256 if arguments.features else None
    settings |= {name: getattr(arguments, name) for name in ("segments", "embeddings")}
    options: dict[str, Any] = {"return_timeline": arguments.segments, "return_embedding": arguments.embeddings}
    if embedded is None:
        options |= {**build_audio_options(arguments), "rereads": arguments.recheck}
    else:
        songs, options["tail"] = embedded, arguments.tail
    has_ids = embedded is not None or songs.has_ids
    columns = ({"id": "string"} if has_ids else {}) | list_score_columns(scorer.model.config)
    if embedded is None and has_ids:  # said only where it is
        settings["has_ids"] = True
    with ScoreJournal(arguments.output, settings, columns=columns, has_ids=has_ids, **going_on) as journal:
        scorer = share_out(scorer, arguments)  # the one that is there is let go before others are loaded
        reports = songs.score(scorer, journal, **options)
        for _ in follow_reports(reports, len(songs.ids), num_done=say_how_many_are_done(journal, songs.ids)):
            pass  # each is in the journal
        errors = journal.finish(songs.ids)
    return say_what_came_of_it(arguments.output, errors, "scored")


def format_score_table(reports: list[dict[str, Any]]) -> str:
    """Return one line a song: its scores in native units with their intervals, popularity also as a percentile."""
    names = list(reports[0]["scores"])
    header = ["song", "length", *names]
    rows = []
    for report in reports:
        cells = []
        for name in names:
            maximum, notes = report["ranges"][name][1], []
            if name in report.get("percentiles", {}):
                notes.append(f"p{report['percentiles'][name]:.0f}")
            if name in report.get("intervals", {}):
                notes.append(format_interval(report["intervals"][name], maximum))
            cell = format_score(report["scores"][name], maximum)
            cells.append(f"{cell} ({', '.join(notes)})" if notes else cell)
        rows.append([str(report["song"]), format_duration(report["duration_seconds"]), *cells])
    notes = [
        escape_controls(f"warning: {report['song']}: {warning}")
        for report in reports
        for warning in report["warnings"]
    ]
    return "\n".join([format_table(header, rows), describe_scales(reports), *notes])
