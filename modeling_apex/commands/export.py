"""`apex-music export`: a checkpoint to a self-contained Hub folder."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a self-contained Hub folder: weights, configs, code, card",
        description="Write a folder that loads with `trust_remote_code=True` where this package is not installed.",
        epilog="example:\n  apex-music export --model runs/best --output hub-folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="M", help="folder or Hub id of the model")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the export")
    parser.set_defaults(run=run, when_interrupted="give the same command again")


def run(arguments: argparse.Namespace) -> int:
    from transformers.utils import logging

    from modeling_apex.export import export_model

    logging.disable_progress_bar()
    folder = export_model(arguments.model, arguments.output)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")
    return 0
