"""`apex-music convert`: published weights to one safetensors checkpoint."""

import argparse

from modeling_apex.process_exit import print_lines

HELP = "turn published weights (MERT and APEX heads, or MuQ and SongEval's head) into one safetensors checkpoint"
DESCRIPTION = (
    "Read an encoder and its heads, check that every tensor has its place, and write a folder that loads without "
    "fetching anything. Pickles are read as plain weights: nothing in them can run. A SongEval model hears whole "
    "songs; the same commands score with it."
)
EXAMPLES = (
    "--encoder m-a-p/MERT-v1-95M --heads amaai-lab/apex --output apex-95m",
    "--muq OpenMuQ/MuQ-large-msd-iter --songeval SongEval/ckpt --output songeval",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", metavar="MERT", help="folder or Hub id of MERT (95M or 330M)")
    parser.add_argument("--heads", metavar="APEX", help="best_model.pt, folder, or Hub id of the heads of APEX")
    parser.add_argument("--muq", metavar="MUQ", help="folder or Hub id of MuQ, the encoder of SongEval")
    parser.add_argument("--songeval", metavar="HEAD", help="model.safetensors of SongEval's head, or its folder")
    parser.add_argument(
        "--scores",
        nargs="+",
        metavar="NAME",
        help="with --songeval: what the head's outputs are called, each from 1 to 5 (default: SongEval's five)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint")


def run(arguments: argparse.Namespace) -> int:
    given = {name for name in ("encoder", "heads", "muq", "songeval") if getattr(arguments, name)}
    if given == {"muq", "songeval"}:
        from modeling_apex.checkpoints.convert_songeval import convert_songeval, name_scores

        heads = name_scores(arguments.scores) if arguments.scores else None
        converted = convert_songeval(arguments.songeval, arguments.muq, arguments.output, heads=heads)
        summary, folder = converted.format_summary(), converted.folder
    elif given == {"encoder", "heads"} and not arguments.scores:
        from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion

        conversion = convert_checkpoint(arguments.encoder, arguments.heads)
        folder = save_conversion(conversion, arguments.output)
        summary = conversion.format_summary()
    else:
        named = " ".join(f"--{name}" for name in sorted(given)) or "none of them"
        named += " --scores" if arguments.scores else ""
        raise ValueError(f"got {named}. Pass --encoder and --heads for APEX, or --muq and --songeval for SongEval.")
    print_lines(f"{summary}\n\nwritten: {folder}")
    return 0
