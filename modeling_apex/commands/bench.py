"""`apex-music bench`: models of this package on other people's benchmarks of judges."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_apex.commands.options import positive_number, say_how_many_are_done
from modeling_apex.commands.progress import follow_reports
from modeling_apex.inference.report_apex import escape_controls, format_count, format_table
from modeling_apex.process_exit import print_lines

HELP = "measure how well scores predict what people prefer, on CMI-RewardBench"
DESCRIPTION = (
    "Score the songs of CMI-RewardBench (PAM, MusicEval, Music Arena, CMI-Pref) and compute its metrics of "
    "musicality, with intervals, beside the figures that its authors publish. Writes results.json, and the reports of "
    "each model. Missing songs are named and their rows left out."
)
EXAMPLES = (
    "cmi --rows data/all_test.jsonl --audio data --model amaai-lab/apex --output runs/cmi",
    "cmi --rows data/all_test.jsonl --audio data --model apex-95m --model songeval --whole-songs --output runs/cmi",
)
WHEN_INTERRUPTED = "run the same command again to resume"
RESULTS_NAME = "results.json"
PREFERENCE = "preference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", choices=("cmi",), help="cmi: CMI-RewardBench")
    parser.add_argument("--rows", required=True, metavar="FILE", help="the benchmark's all_test.jsonl")
    parser.add_argument("--audio", required=True, metavar="DIR", help="folder that its paths are relative to")
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="M",
        help="folder or Hub id, repeatable: models are compared on the same rows (default: the embedded model)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help=f"folder for {RESULTS_NAME} and reports")
    parser.add_argument(
        "--score", default="musicality", metavar="S", help="the score that judges, or preference (default: musicality)"
    )
    heard = parser.add_mutually_exclusive_group()
    heard.add_argument(
        "--max-seconds",
        type=positive_number,
        default=30.0,
        metavar="S",
        help="seconds of each song to listen to (default: 30)",
    )
    heard.add_argument("--whole-songs", action="store_true", help="listen to whole songs, unlike the benchmark")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, mps (default: an accelerator if there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace the reports of a finished run")
    parser.add_argument("--num-draws", type=int, default=1000, metavar="N", help="bootstrap draws (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.arena.cmi_bench import list_bench_songs, measure_bench, read_bench_rows
    from modeling_apex.corpus.identity import identify_file
    from modeling_apex.registration import EMBEDDED_MODEL
    from modeling_apex.statistics.result_schema import build_opening
    from modeling_apex.storage.output_folder import save_json
    from modeling_apex.storage.output_lock import OutputLock

    models = list(dict.fromkeys(arguments.models or [EMBEDDED_MODEL.name]))
    files = name_reports(models)
    rows, others = read_bench_rows(arguments.rows, arguments.audio)
    songs, absent = list_bench_songs(rows, arguments.audio)
    for reason in absent.values():
        print_lines(f"not scored: {escape_controls(reason)}", file=sys.stderr)
    if not songs:
        raise ValueError(f"{arguments.audio}: holds none of the songs that {arguments.rows} names. Name their folder.")
    seconds = None if arguments.whole_songs else arguments.max_seconds
    with OutputLock(arguments.output), ExitStack() as stack:
        described, scores, journals = [], {}, []
        for model, file in zip(models, files, strict=True):
            judge = load_judge(model, arguments)
            path = Path(os.path.expanduser(arguments.output)) / file
            journal = stack.enter_context(_score_all(judge, songs, path, seconds, arguments))
            journals.append(journal)
            reports = journal.collect(songs)
            scores[model] = {
                song: judge.read(report) for song, report in zip(songs, reports, strict=True) if "error" not in report
            }
            failed = len(songs) - len(scores[model])
            described.append({"name": model, "sha256": judge.sha256, "num_failed_songs": failed, "reports": file})
        results = {
            **build_opening("bench", input_sha256=identify_file(Path(os.path.expanduser(arguments.rows))).sha256),
            **{"benchmark": arguments.benchmark, "score": arguments.score, "max_seconds": seconds},
            "models": described,
            "num_missing_songs": len(absent),
            "num_rows_left_out": others,
            **{"num_draws": arguments.num_draws, "seed": arguments.seed},
            **measure_bench(rows, scores, absent, num_draws=arguments.num_draws, seed=arguments.seed),
        }
        save_json(Path(os.path.expanduser(arguments.output)) / RESULTS_NAME, results)
        for journal in journals:  # after the results: until then a killed run goes on
            journal.finish(songs)
    print_lines(format_results(results))
    return 1 if absent or any(model["num_failed_songs"] for model in described) else 0


def name_reports(models: Sequence[str]) -> list[str]:
    """
    Name the file of each model's reports.

    Raises:
        `ValueError`: If two would share one.
    """
    files = [f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model.strip('/')).strip('-.') or 'model'}.jsonl" for model in models]
    if len(set(files)) < len(files):
        raise ValueError(
            f"the models {', '.join(models)} would share a file of reports ({', '.join(files)}). Rename one."
        )
    return files


@dataclass(frozen=True)
class BenchJudge:
    """A model that judges: what scores songs, the hash of what scores depend on, and what is read of a report."""

    scorer: Any
    sha256: str
    read: Callable[[Mapping[str, Any]], float]


def load_judge(model: str, arguments: argparse.Namespace) -> BenchJudge:
    """
    Load a model.

    Raises:
        `ValueError`: If it has no such score.
    """
    from modeling_apex.arena.preference import load_preference_head
    from modeling_apex.engines.model_hashes import compute_scores_hash
    from modeling_apex.loading import load_scorer

    scorer = load_scorer(model, device=arguments.device)
    names = [head["name"] for head in scorer.model.config.heads]
    head = load_preference_head(model) if arguments.score == PREFERENCE else None
    if head is None and arguments.score not in names:
        raise ValueError(f"{model}: has no score {arguments.score!r} to judge by; it has {', '.join(names)}.")
    read = head.compute_strength if head is not None else (lambda report: float(report["scores"][arguments.score]))
    return BenchJudge(scorer, compute_scores_hash(scorer.model), read)


def _score_all(
    judge: BenchJudge, songs: Sequence[str], path: Path, seconds: float | None, arguments: argparse.Namespace
) -> Any:
    """Score the songs that the journal of an interrupted run does not hold; return the journal, which stays open."""
    from modeling_apex.arena.battle_scores import score_beginning
    from modeling_apex.corpus.score_journal import ScoreJournal

    def score_song(song: Any) -> Mapping[str, Any]:
        report: Mapping[str, Any] = next(judge.scorer.score([song], on_error="report", return_percentiles=False))
        return report

    score = score_song if seconds is None else functools.partial(score_beginning, score_song, seconds)
    settings = {"weights_sha256": judge.sha256, "max_seconds": seconds}
    journal = ScoreJournal(path, settings, overwrite=arguments.overwrite)
    try:
        remaining = journal.list_remaining(songs)
        say_how_many_are_done(journal, songs)
        reports = ({**score(song), "song": song} for song in remaining)
        for song, report in zip(remaining, follow_reports(reports, len(remaining)), strict=True):
            journal.add(song, report)
    except BaseException:
        journal.__exit__()
        raise
    return journal


def format_results(results: Mapping[str, Any]) -> str:
    """Return what each model reaches as a table, beside what others report, and what was left out."""
    from modeling_apex.statistics.bootstrap import format_summary

    models = [model["name"] for model in results["models"]]
    judges = sorted({judge for found in results["datasets"].values() for judge in found["published"]})
    rows = [
        [
            dataset,
            found["metric"],
            str(found["num_rows"]),
            *(format_summary(found["results"].get(model)) for model in models),
            *(f"{found['published'][judge]:.3f}" if judge in found["published"] else "" for judge in judges),
        ]
        for dataset, found in results["datasets"].items()
    ]
    lines = [format_table(["dataset", "metric", "rows", *models, *(f"{judge} *" for judge in judges)], rows)]
    for dataset, found in results["datasets"].items():
        lines += [
            f"{dataset}: {pair['first']} minus {pair['second']}: {format_summary(pair)}"
            for pair in found["differences"]
        ]
        lines += [
            f"{dataset}: {model}: {kind} {format_summary(measured)}"
            for model, kinds in found["other_correlations"].items()
            for kind, measured in kinds.items()
        ]
        left_out = [
            f"{format_count(count, 'row')} whose {reason}" for reason, count in found["num_left_out"].items() if count
        ]
        ties = [f"{count} ties of {model}" for model, count in found["num_predicted_ties"].items() if count]
        if left_out or ties:
            lines.append(f"{dataset}: left out {', '.join(left_out) or 'nothing'}; {', '.join(ties) or 'no ties'}")
    if others := results["num_rows_left_out"]:
        lines.append("rows left out: " + ", ".join(f"{count} {reason}" for reason, count in others.items()))
    heard = "whole songs" if results["max_seconds"] is None else f"the first {results['max_seconds']:g} s of each song"
    lines.append(f"judged by {results['score']} of {heard}; a tie of two scores counts as B, as in the benchmark")
    return "\n".join([*lines, f"* {results['published_source']}"])
