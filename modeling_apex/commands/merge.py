"""`apex-music merge`: the parts that many machines scored, as the file that one would have written."""

import argparse
import os
from pathlib import Path

from modeling_apex.commands.options import say_what_came_of_it

HELP = "put the parts of `score --shard` or `label --shard` together"
DESCRIPTION = (
    "Put the files of `apex-music score --shard I/N`, or of `label`, together, songs in the order in which they were "
    "listed. One part is enough to name, or their folder: the others are looked for there. Missing "
    "parts and those of several models are refused."
)
EXAMPLES = ("scores-00001-of-00020.parquet --output scores.parquet",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="+", metavar="PART", help="one part, all of them, or their folder")
    parser.add_argument("--output", required=True, metavar="FILE", help="the whole, in the format of the parts")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.corpus.merged_scores import find_parts, merge_parts
    from modeling_apex.storage.output_folder import refuse_existing_file
    from modeling_apex.storage.output_lock import OutputLock

    output = Path(os.path.expanduser(arguments.output))
    parts = find_parts(arguments.parts)
    with OutputLock(output, is_file=True):
        if not arguments.overwrite:
            refuse_existing_file(output)
        errors = merge_parts(parts, output)
    return say_what_came_of_it(str(output), errors, "scored")
