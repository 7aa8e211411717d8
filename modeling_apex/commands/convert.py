"""`apex-music convert`: the published weights to one safetensors checkpoint."""

import argparse

HELP = "turn the published weights (MERT and APEX heads) into one safetensors checkpoint"
DESCRIPTION = (
    "Read MERT and the APEX heads, check that every tensor has its place, and write a folder that loads without "
    "fetching anything. Pickles are read as plain weights: nothing in them can run."
)
EXAMPLES = ("--encoder m-a-p/MERT-v1-95M --heads amaai-lab/apex --output apex-95m",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", required=True, metavar="MERT", help="folder or Hub id of MERT (95M or 330M)")
    parser.add_argument("--heads", required=True, metavar="APEX", help="best_model.pt, folder, or Hub id of the heads")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion

    conversion = convert_checkpoint(arguments.encoder, arguments.heads)
    folder = save_conversion(conversion, arguments.output)
    print(conversion.format_summary())
    print(f"\nwritten: {folder}")
    return 0
