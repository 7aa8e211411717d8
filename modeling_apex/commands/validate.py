"""`apex-music validate`: what a shortcut (engine, precision, compile) changes, measured; only then does it run."""

import argparse

from modeling_apex.commands.options import add_song_arguments, positive_number
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.process_exit import print_lines

HELP = "measure what an engine or precision changes in scores, and allow it to run"
DESCRIPTION = (
    "Score songs by the exact path and by a shortcut; print the largest change of every score and the speedup. The "
    "record is kept beside the export, or in the cache, for this model, library version and kind of processor; "
    "without one, no precision below float32 runs. The exit status is 1 if scores change by more than is "
    "tolerated."
)
EXAMPLES = (
    "songs/ --engine openvino --precision bf16",
    "songs/ --model apex-ov --engine openvino --precision int8 --tolerance 0.005",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_song_arguments(parser)
    parser.add_argument(
        "--tolerance",
        type=positive_number,
        default=0.01,
        metavar="T",
        help="largest change of a score that is accepted, as a share of its range (default: 0.01, 1 point of 100)",
    )


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.checkpoints.validate_shortcut import validate_shortcut
    from modeling_apex.inference.report_apex import format_table

    names = ("engine", "precision", "compile", "resampler", "tolerance", "revision", "device")
    options = {name: getattr(arguments, name) for name in names}
    record, path = validate_shortcut(find_songs(arguments.songs), arguments.model, **options)
    rows = [
        [head, f"{change:.2g}", f"{change / record['ranges'][head]:.3%}"]
        for head, change in record["largest_change"].items()
    ]
    print_lines(format_table(["score", "largest change", "of its range"], rows))
    key = record["key"]
    name = f"{key['engine']} {key['precision']}{' compiled' if key['is_compiled'] else ''}"
    print_lines(
        f"{name} against {record['reference']}: "
        f"{record['speed_ratio']:.2f} times the speed, {record['num_songs']} songs, {record['num_segments']} segments"
    )
    print_lines(f"{key['library']} on {key['hardware']}; kept in {path}")
    if not record["is_within_tolerance"]:
        print_lines(f"not accepted: more than {record['tolerance']:.2%} of a range")
    return 0 if record["is_within_tolerance"] else 1
