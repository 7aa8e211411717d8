"""`apex-music calibrate`: tell a model how it scores songs that it did not learn from."""

import argparse
import sys
from typing import Any

from modeling_apex.commands.options import add_limit_arguments, build_limits
from modeling_apex.inference.report_apex import escape_controls, format_table
from modeling_apex.process_exit import print_lines

HELP = "add ranks, intervals and novelty to a model, from songs that it did not learn from"
DESCRIPTION = (
    "Score songs that the model did not learn from, and write into its config how the scores are spread (so that a "
    "percentile is a rank among these songs), how far they miss the labels (so that a score has an interval), and "
    "what the songs are like (so that a song that is unlike them is flagged). Labels are columns of the dataset with "
    "the names of the scores; a column `group` says which songs go together. Without labels there are no intervals."
)
EXAMPLES = ("runs/first/best data/suno --split validation", "amaai-lab/apex my-songs/ --output apex-calibrated")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of the model")
    parser.add_argument("songs", metavar="SONGS", help="dataset folder, folder of audio, or Hub dataset")
    parser.add_argument(
        "--output", metavar="DIR", help="new folder for the model (default: its own config.json is written)"
    )
    parser.add_argument("--name", metavar="N", help="what reports call these songs (default: the name of the folder)")
    parser.add_argument(
        "--split", action="append", metavar="S", help="split to use, repeatable (default: all but train)"
    )
    parser.add_argument(
        "--level",
        type=_share,
        default=0.9,
        metavar="P",
        help="share of new songs whose label the interval should contain (default: 0.9)",
    )
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)"
    )
    add_limit_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.loading import load_scorer
    from modeling_apex.storage.output_folder import check_new_folder
    from modeling_apex.training.calibration import calibrate, save_reference

    if arguments.output:
        check_new_folder(arguments.output)  # before an hour is spent
    calibration = calibrate(
        load_scorer(arguments.model, device=arguments.device),
        arguments.songs,
        name=arguments.name,
        splits=arguments.split,
        interval_level=arguments.level,
        limits=build_limits(arguments),
    )
    folder = save_reference(arguments.model, calibration.reference, arguments.output)
    for failure in calibration.failures:
        print_lines(
            f"not scored: {escape_controls(failure['id'])}: {escape_controls(failure['error'])}", file=sys.stderr
        )
    print_lines(f"{format_reference(calibration.reference)}\n\nwritten: {folder}")
    return 1 if calibration.failures else 0


def format_reference(reference: dict[str, Any]) -> str:
    """Return the median and the interval of each score as a table, and what they are of."""
    rows = [
        [head, f"{table[len(table) // 2]:.2f}", _format_width(reference["intervals"].get(head))]
        for head, table in reference["percentile_tables"].items()
    ]
    novelty = reference["novelty"]
    notes = [
        f"{reference['num_songs']} songs in {reference['num_groups']} groups: {escape_controls(reference['name'])}",
        f"novel above a distance of {novelty['threshold']:.2f}" if novelty else "too few songs to say what is novel",
    ]
    header = ["score", "median", f"{100 * reference['interval_level']:g} % interval"]
    return "\n".join([format_table(header, rows), *notes])


def _format_width(width: float | None) -> str:
    return "no labels" if width is None else f"+- {width:.2f}"


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value
