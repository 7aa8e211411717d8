"""`apex-music convert`: the published weights to one safetensors checkpoint."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="turn the published weights (MERT and APEX heads) into one safetensors checkpoint",
        description="Read MERT and the APEX heads, check that every tensor has its place, and write a folder that "
        "loads without fetching anything. Pickles are read as plain weights: nothing in them can run.",
        epilog="example:\n  apex-music convert --encoder m-a-p/MERT-v1-95M --heads amaai-lab/apex --output apex-95m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", required=True, metavar="MERT", help="folder or Hub id of MERT (95M or 330M)")
    parser.add_argument("--heads", required=True, metavar="APEX", help="best_model.pt, folder, or Hub id of the heads")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")
    parser.set_defaults(run=run, when_interrupted="give the same command again")


def run(arguments: argparse.Namespace) -> int:
    from transformers.utils import logging

    from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion

    logging.disable_progress_bar()
    conversion = convert_checkpoint(arguments.encoder, arguments.heads)
    folder = save_conversion(conversion, arguments.output)
    print(conversion.format_summary())
    print(f"\nwritten: {folder}")
    return 0
