"""`apex-music arena`: do predicted scores foretell which of two songs people prefer?"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modeling_apex.commands.options import positive_number
from modeling_apex.process_exit import print_lines

SCORES_FILE = "battle_scores.jsonl"
HELP = "measure how well scores predict which of two songs people prefer"
DESCRIPTION = (
    "Run the arena experiment on a table of battles with scores in it (CSV, JSONL, Parquet), or on a dataset of "
    "battles with audio and a model. Writes results.json, report.md, plots and a preference head."
)
EXAMPLES = (
    "battles.csv --output runs/arena",
    "music-arena/ --model amaai-lab/apex --output runs/arena",
    "battles.jsonl --score songeval:aesthetics=songeval_a,songeval_b --output runs/songeval",
    "runs/apex/battle_scores.jsonl --judge apex=runs/apex/battle_scores.jsonl --judge "
    "songeval=runs/songeval/battle_scores.jsonl --output runs/side-by-side",
)
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("battles", metavar="BATTLES", help="table of battles, or with --model a dataset with audio")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for results, report and plots")
    parser.add_argument("--model", metavar="M", help="folder or Hub id of the model that scores the songs")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub model")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, mps (default: an accelerator if there is one)")
    parser.add_argument(
        "--score",
        action="append",
        metavar="NAME[:GROUP][=COLUMN_A,COLUMN_B]",
        help="a score of the table, repeatable; GROUP: popularity, aesthetics or other (default: the seven heads)",
    )
    parser.add_argument(
        "--first-seconds",
        type=positive_number,
        metavar="S",
        help="with --model: score the beginning of each song alone (default: the whole song)",
    )
    parser.add_argument(
        "--judge",
        action="append",
        dest="judges",
        metavar="NAME[:RULE,...]=TABLE",
        help=f"scores of these battles by another model (the {SCORES_FILE} that --model writes), repeatable: judges "
        "are compared in pairs on the battles that all scored (default rules: musicality, aesthetics_mean)",
    )
    parser.add_argument("--truth", metavar="FILE", help="truth.jsonl of synthetic battles: shows the ceiling")
    parser.add_argument("--classifiers", nargs="+", metavar="C", help="which classifiers to train (default: all)")
    parser.add_argument("--protocols", nargs="+", metavar="P", help="which protocols to run (default: all five)")
    parser.add_argument(
        "--recipe",
        default="symmetric",
        help="symmetric (default), or published: the paper's, not symmetric in A and B",
    )
    _add_test_arguments(parser)
    parser.add_argument("--num-folds", type=int, default=10, metavar="N", help="folds (default: 10)")
    parser.add_argument("--num-draws", type=int, default=1000, metavar="N", help="bootstrap draws (default: 1000)")
    parser.add_argument("--num-jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of folds, classifiers and draws")
    parser.add_argument(
        "--drop-rare-systems", action="store_true", help="leave out systems with fewer decisive battles than folds"
    )
    parser.add_argument(
        "--resample",
        default="auto",
        help="what the bootstrap resamples: battle, prompt, user, or auto (default): prompts and users where they "
        "repeat",
    )
    parser.add_argument(
        "--recheck",
        action="store_true",
        help="with --model: read every audio file again, even where its size and times are unchanged",
    )
    parser.add_argument("--no-plots", action="store_true", help="draw no plots")
    parser.add_argument(
        "--save-head-to", metavar="DIR", help="save the preference head beside this model too, for `apex-music rank`"
    )


def _add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the test of aesthetics asks, and what protocols and leaderboards know of systems."""
    parser.add_argument(
        "--num-permutations",
        type=int,
        metavar="N",
        help="permutations of aesthetic scores, each refitted (default: as many as the tests need; 0: no test)",
    )
    parser.add_argument(
        "--permute",
        nargs="+",
        dest="permuted_classifiers",
        metavar="C",
        help="which classifiers to refit on permuted scores (default: logistic_regression; others take hours)",
    )
    parser.add_argument(
        "--claim",
        default="songs",
        help="what aesthetics must do to count as helping: distinguish songs of one system (songs, default), or "
        "anything (any)",
    )
    parser.add_argument(
        "--family",
        action="append",
        dest="families",
        metavar="SYSTEM=FAMILY",
        help="family of a system, repeatable (default: its name without numbers and words such as preview or large)",
    )
    parser.add_argument(
        "--singing", nargs="+", metavar="SYSTEM", help="systems that can sing (default: those in vocal battles)"
    )


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.arena.arena_plots import save_plots
    from modeling_apex.arena.arena_report import save_results
    from modeling_apex.arena.battle_files import join_truth
    from modeling_apex.arena.experiment import ArenaOptions, run_arena
    from modeling_apex.arena.judges import compare_judges, load_judge
    from modeling_apex.storage.output_lock import OutputLock

    names = ("num_folds", "num_draws", "num_permutations", "seed", "recipe", "claim", "resample", "drop_rare_systems")
    chosen = {name: getattr(arguments, name) for name in (*names, "num_jobs")}
    listed = ("classifiers", "protocols", "permuted_classifiers", "families", "singing")
    chosen |= {name: tuple(getattr(arguments, name)) for name in listed if getattr(arguments, name)}
    options = ArenaOptions(**chosen)
    with OutputLock(arguments.output):
        table, provenance = _load_battles(arguments)
        if arguments.truth:
            table = join_truth(table, arguments.truth)
        judges = [load_judge(declaration) for declaration in arguments.judges or ()]
        drawn = {name: getattr(options, name) for name in ("num_draws", "seed", "resample")}
        compared = compare_judges(table, judges, **drawn) if judges else None  # before an hour is spent on the rest
        results, head = run_arena(table, options, provenance=provenance)
        results |= {"judges": compared} if compared else {}
        saved = save_results(results, arguments.output)
        if not arguments.no_plots:
            saved += save_plots(results, arguments.output)
        if head is not None:
            saved += [head.save_pretrained(folder) for folder in (arguments.output, arguments.save_head_to) if folder]
    missing = results["missing_scores"]["num_battles"]
    if missing:
        print_lines(f"{missing} battles lack a score and were left out; results.json lists them", file=sys.stderr)
    print_lines(results["conclusion"])
    for path in saved:
        print_lines(path)
    return 0


def _load_battles(arguments: argparse.Namespace) -> tuple[Any, dict[str, str | None]]:
    """Load the battles, and say which file or model their scores are of."""
    from modeling_apex.arena.battle_files import load_battle_table
    from modeling_apex.arena.battle_scores import compute_battle_scores
    from modeling_apex.corpus.identity import identify_file
    from modeling_apex.storage.table_reader import FORMATS_TEXT, get_table_suffix

    if arguments.model is None:
        if arguments.recheck:
            raise ValueError("--recheck reads audio again, and without --model there is none: leave it out.")
        if arguments.first_seconds:
            raise ValueError("--first-seconds cuts audio, and without --model there is none: leave it out.")
        if not get_table_suffix(arguments.battles):
            raise ValueError(
                f"{arguments.battles} is not a table ({FORMATS_TEXT}). To score a dataset with audio, pass --model."
            )
        table = load_battle_table(arguments.battles, scores=arguments.score)
        return table, {"input_sha256": identify_file(Path(os.path.expanduser(arguments.battles))).sha256}
    if arguments.score:
        raise ValueError("--score names columns of a table, and --model computes the scores: pass one of the two.")
    from tqdm import tqdm

    from modeling_apex.engines.model_hashes import compute_scores_hash
    from modeling_apex.loading import load_scorer

    keywords = {name: getattr(arguments, name) for name in ("revision", "device") if getattr(arguments, name)}
    scorer = load_scorer(arguments.model, **keywords)
    sha256, scores = compute_scores_hash(scorer.model), Path(arguments.output) / SCORES_FILE
    table = compute_battle_scores(
        tqdm(_iterate_battles(arguments.battles), unit="battle", desc="scoring", disable=None),
        lambda song: next(scorer.score([song], on_error="report")),
        scores,
        model_id=f"{arguments.model}@{arguments.revision or 'main'}",
        weights_sha256=sha256,
        rereads=arguments.recheck,
        first_seconds=arguments.first_seconds,
    )
    # The journal names every song by the hash of its audio, so its hash stands for the dataset.
    model = f"{arguments.model}@{arguments.revision or 'main'}"
    return table, {"model": model, "model_sha256": sha256, "input_sha256": identify_file(scores).sha256}


def _iterate_battles(name: str) -> Iterator[dict[str, Any]]:
    import datasets
    import pyarrow.parquet as pq

    from modeling_apex.corpus.song_source import list_caches, locate_audio, name_shard

    # A folder is read as it is: the copy that datasets keeps of one is known by names and times of its files.
    folder = Path(os.path.expanduser(name))
    folders = [folder] if folder.is_dir() else list_caches()
    for shard in sorted(folder.rglob("*.parquet")) if folder.is_dir() else ():
        with name_shard(shard):
            pq.read_metadata(shard)
    for split in datasets.load_dataset(str(folder) if folder.is_dir() else name, streaming=folder.is_dir()).values():
        for column in ("audio_a", "audio_b"):
            if isinstance((split.features or {}).get(column), datasets.Audio):
                split = split.cast_column(column, datasets.Audio(decode=False))
        for battle in split:
            where = f"{name}, battle {battle.get('battle_uuid')!r}"
            sides = [side for side in ("audio_a", "audio_b") if battle.get(side)]
            yield {**battle, **{side: locate_audio(battle[side], folders, where) for side in sides}}
