"""
The `apex-music` command line.

Each sub-command is one file of `modeling_apex.commands`. What an exit status means: `process_exit`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from modeling_apex import __version__
from modeling_apex.process_exit import CommandParser, run_command

COMMANDS = (
    "score",
    "rank",
    "select",
    "embed",
    "label",
    "train",
    "evaluate",
    "calibrate",
    "robustness",
    "conditions",
    "arena",
    "anchors",
    "convert",
    "export",
    "verify",
    "validate",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all sub-commands."""
    parser = CommandParser(
        prog="apex-music",
        description="Tell how popular and how good an AI-generated song is likely to be, from its audio alone.",
    )
    parser.add_argument("--version", action="version", version=f"apex-music {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the full traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"modeling_apex.commands.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog="\n".join(["examples:", *(f"  apex-music {name} {words}" for words in module.EXAMPLES)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        when_interrupted = getattr(module, "WHEN_INTERRUPTED", "give the same command again")
        command.set_defaults(run=module.run, prog=command.prog, when_interrupted=when_interrupted)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        words (`Sequence[str]`, *optional*):
            The words after `apex-music`; defaults to those of the process.

    Returns:
        `int`: exit status.
    """
    # The bars of loading weights: the work has its own. transformers, if it is needed at all, reads this once.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def run(arguments: argparse.Namespace) -> int:
        build_parser().parse_args(words, arguments)
        status: int = arguments.run(arguments)
        return status

    return run_command("apex-music", run, words=words, when_interrupted="nothing was done")


if __name__ == "__main__":
    sys.exit(main())
