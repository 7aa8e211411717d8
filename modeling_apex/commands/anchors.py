"""`apex-music anchors`: what a few battles of a new generator add to scores that have never heard it."""

import argparse
import os
from pathlib import Path

from modeling_apex.process_exit import print_lines

RESULTS_NAME = "anchors.json"
HELP = "measure how much a few battles of a new system help (anchor calibration)"
DESCRIPTION = (
    "Leave each system of a table of battles out of training, give back a few of its battles as anchors, and measure "
    "how well the others are predicted, per number of anchors. Writes anchors.json."
)
EXAMPLES = (
    "battles.csv --output runs/anchors",
    "runs/arena/battle_scores.jsonl --counts 0 10 30 --output runs/anchors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("battles", metavar="BATTLES", help="table of battles with scores (CSV, JSONL, Parquet)")
    parser.add_argument("--output", required=True, metavar="DIR", help=f"folder for {RESULTS_NAME}")
    parser.add_argument(
        "--score",
        action="append",
        metavar="NAME[:GROUP][=COLUMN_A,COLUMN_B]",
        help="a score of the table, repeatable (default: the seven heads)",
    )
    parser.add_argument(
        "--counts", nargs="+", type=int, metavar="N", help="numbers of anchors, 0 among them (default: 0 5 10 20 40)"
    )
    parser.add_argument(
        "--num-repeats", type=int, default=50, metavar="N", help="random choices of anchors (default: 50)"
    )
    parser.add_argument("--num-draws", type=int, default=1000, metavar="N", help="bootstrap draws (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of anchors and draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.arena.anchors import DEFAULT_ANCHOR_COUNTS, compute_anchor_gains
    from modeling_apex.arena.arena_report import build_anchors
    from modeling_apex.arena.battle_files import load_battle_table
    from modeling_apex.arena.battle_table import drop_missing_scores
    from modeling_apex.corpus.identity import identify_file
    from modeling_apex.statistics.result_schema import build_opening
    from modeling_apex.storage.output_folder import save_json
    from modeling_apex.storage.output_lock import OutputLock

    path = Path(os.path.expanduser(arguments.battles))
    with OutputLock(arguments.output):
        table, missing = drop_missing_scores(load_battle_table(path, scores=arguments.score))
        counts = tuple(arguments.counts or DEFAULT_ANCHOR_COUNTS)
        options = {"num_repeats": arguments.num_repeats, "num_draws": arguments.num_draws, "seed": arguments.seed}
        gains = compute_anchor_gains(table, counts=counts, **options)
        opening = build_opening("anchors", input_sha256=identify_file(path).sha256)
        output = Path(arguments.output) / RESULTS_NAME
        save_json(output, {**opening, "counts": list(counts), **options, **gains, "missing_scores": missing})
    print_lines(build_anchors(gains))
    print_lines(output)
    return 0
