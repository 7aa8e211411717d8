"""`apex-music robustness`: how far scores move when a song is the same and its file is not."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_apex.commands.options import (
    add_computing_arguments,
    add_model_arguments,
    build_limits,
    load_scorer,
    positive_int,
)
from modeling_apex.corpus.identity import URL_PREFIXES
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.inference.report_apex import escape_controls, format_count
from modeling_apex.process_exit import print_lines

if TYPE_CHECKING:
    from modeling_apex.corpus.score_journal import ScoreJournal
    from modeling_apex.inference.scoring_apex import SongScorer
    from modeling_apex.robustness.perturbations import Perturbation

SCORES_NAME = "scores.jsonl"
HELP = "measure how far scores move with bitrate, level, silence, cuts, speed"
DESCRIPTION = (
    "Change songs in ways that leave them the same songs (other bitrates, gain, clipping, cuts, silence, resampling, "
    "one channel, speed, noise), score each version, and say how far that moves each score and how many pairs of "
    "songs change their order. Writes robustness.json, report.md, a plot, and scores.jsonl with the scores of every "
    "version."
)
EXAMPLES = (
    "runs/first/best songs/ --output runs/first/best/robustness",
    "amaai-lab/apex 'takes/*.wav' --only mp3 opus silence --output runs/robustness",
)
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of the model")
    parser.add_argument("songs", nargs="+", metavar="SONG", help="file, folder or pattern")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for results, report and plot")
    parser.add_argument("--overwrite", action="store_true", help=f"replace an existing {SCORES_NAME} and its results")
    parser.add_argument(
        "--only", nargs="+", metavar="KIND", help="what is done to songs, by kind (default: everything)"
    )
    parser.add_argument(
        "--num-draws", type=positive_int, default=1000, metavar="N", help="bootstrap draws (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap (default: 0)")
    add_model_arguments(parser)
    add_computing_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    import matplotlib as _  # noqa: F401  (what is missing is to be said before an hour is spent)

    from modeling_apex.corpus.identity import hash_json, identify_file
    from modeling_apex.corpus.score_journal import ScoreJournal
    from modeling_apex.engines.model_hashes import compute_scores_hash
    from modeling_apex.robustness.measuring import ORIGINAL, build_results, get_song, name_variant
    from modeling_apex.robustness.perturbations import choose_perturbations
    from modeling_apex.statistics.result_schema import build_opening

    songs = find_songs(arguments.songs)
    if addresses := [song for song in songs if song.startswith(URL_PREFIXES)]:
        raise ValueError(f"{addresses[0]}: is a URL, and a song is read many times here. Download it first.")
    perturbations, left_out = choose_perturbations(arguments.only)
    scorer = load_scorer(arguments)
    sha256 = compute_scores_hash(scorer.model)
    variants = [ORIGINAL, *(perturbation.name for perturbation in perturbations)]
    names = [name_variant(song, variant) for song in songs for variant in variants]
    settings = _list_settings(arguments, sha256, perturbations)
    output = Path(os.path.expanduser(arguments.output))
    with ScoreJournal(output / SCORES_NAME, settings, overwrite=arguments.overwrite, get_audio=get_song) as journal:
        _score_all(scorer, songs, variants, perturbations, journal, arguments)
        reports = journal.collect(names)
        options = {"num_draws": arguments.num_draws, "seed": arguments.seed}
        compared = build_results(reports, songs, perturbations, **options)
        contents = [identify_file(song).sha256 for song in songs if Path(song).is_file()]
        # Results may be published: a folder is named, and not where it lies.
        model = Path(scorer.model_id).name if Path(scorer.model_id).is_absolute() else scorer.model_id
        opening = build_opening("robustness", model=model, model_sha256=sha256, input_sha256=hash_json(contents))
        results = {**opening, "settings": settings, **compared, "left_out": left_out}
        saved = _save(results, output)
        journal.finish(names)
    _tell(results, [*saved, output / SCORES_NAME])
    return 1 if results["num_failed_songs"] or any("error" in report for report in reports) else 0


def _list_settings(arguments: argparse.Namespace, sha256: str, perturbations: "list[Perturbation]") -> dict[str, Any]:
    """List what decides the scores: a journal of other settings is refused."""
    from importlib.metadata import version

    names = ("dtype", "engine", "precision", "resampler", "tail")
    has_codecs = any(perturbation.kind in ("mp3", "opus") for perturbation in perturbations)
    return {
        "weights_sha256": sha256,
        **{name: getattr(arguments, name) for name in names},
        "perturbations": [perturbation.to_json() for perturbation in perturbations],
        "encoders": f"PyAV {version('av')}" if has_codecs else None,
    }


def _score_all(
    scorer: "SongScorer",
    songs: list[str],
    variants: list[str],
    perturbations: "list[Perturbation]",
    journal: "ScoreJournal",
    arguments: argparse.Namespace,
) -> None:
    """Score what the journal does not hold yet."""
    from modeling_apex.robustness.measuring import name_variant, score_variants

    names = [name_variant(song, variant) for song in songs for variant in variants]
    remaining = set(journal.list_remaining(names))
    if num_done := len(names) - len(remaining):
        message = f"resuming: {num_done} of {len(names)} versions of songs already in {journal.path}"
        print_lines(escape_controls(message), file=sys.stderr)
    wanted = {
        song: left
        for song in songs
        if (left := [variant for variant in variants if name_variant(song, variant) in remaining])
    }
    options = {"resampler": arguments.resampler, "tail": arguments.tail}
    reports = score_variants(scorer, wanted, perturbations, build_limits(arguments), **options)
    for report in _follow(reports, len(remaining)):
        journal.add(report["song"], report)


def _follow(reports: Iterator[dict[str, Any]], num_reports: int) -> Iterator[dict[str, Any]]:
    """Yield reports, with progress on a terminal; what fails goes to stderr too, each reason once."""
    from tqdm import tqdm

    told: set[str] = set()
    # `disable=None` shows the bar on a terminal only.
    with tqdm(total=num_reports, unit="version", disable=None) as progress:
        for report in reports:
            progress.update()
            error = report.get("error")
            if error and error not in told:
                told.add(error)
                with progress.external_write_mode(sys.stderr):
                    print_lines(f"not scored: {escape_controls(error)}", file=sys.stderr)
            yield report


def _save(results: dict[str, Any], output: Path) -> list[Path]:
    from modeling_apex.robustness.robustness_report import (
        PLOT_NAME,
        REPORT_NAME,
        RESULTS_NAME,
        build_report,
        save_plot,
    )
    from modeling_apex.storage.output_folder import replace_texts

    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    saved = replace_texts(output, {RESULTS_NAME: text, REPORT_NAME: build_report(results)})
    return [*saved, save_plot(results, output / PLOT_NAME)]


def _tell(results: dict[str, Any], saved: list[Path]) -> None:
    from modeling_apex.robustness.robustness_report import format_changes

    print_lines(format_changes(results))
    scored = format_count(results["num_songs"], "song")
    print_lines(escape_controls(f"{scored} compared, {results['num_failed_songs']} failed"), file=sys.stderr)
    for path in saved:
        print_lines(escape_controls(str(path)))
