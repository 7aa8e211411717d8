"""`apex-music verify`: is this model what it says it is?"""

import argparse

from modeling_apex.process_exit import print_lines

HELP = "check a model: hashes, weights, outputs, licence, and which published checkpoint it equals"
DESCRIPTION = (
    "Check a folder or a Hub model without running any code that comes with its weights: hashes, a place for every "
    "weight, finite scores of a probe signal, the licence, and which published checkpoint it equals, number by "
    "number. The exit status is 1 if a check fails."
)
EXAMPLES = ("--model amaai-lab/apex", "--model runs/converted --against amaai-lab/apex --against m-a-p/MERT-v1-95M")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help="folder or Hub id of the model")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub model")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="M",
        help="checkpoint that it must equal in the parts that this holds; may be repeated (default: the published "
        "ones that this machine has)",
    )


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.checkpoints.verification import verify_model

    result = verify_model(arguments.model, revision=arguments.revision, against=arguments.against)
    print_lines(result.format())
    return 0 if result.is_ok else 1
