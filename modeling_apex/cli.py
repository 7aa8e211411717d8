"""
The `apex-music` command line.

Each sub-command is one file of `modeling_apex.commands`. What an exit status means: `process_exit`.
"""

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from modeling_apex import __version__
from modeling_apex.lazy_parser import LazyParser
from modeling_apex.process_exit import CommandParser, run_command

# The commands by what people want to do.
GROUPS = {
    "score songs": ("score", "merge", "rank", "select", "demo"),
    "train and compare": ("embed", "label", "train", "evaluate", "conditions", "robustness"),
    "fit a model to your songs": ("calibrate", "personalise"),
    "judge on battles": ("arena", "anchors", "bench"),
    "make data": ("build",),
    "share a model": ("card", "publish", "export"),
    "convert and check a model": ("convert", "verify", "validate"),
    "report a problem": ("env",),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all sub-commands."""
    parser = CommandParser(
        prog="apex-music",
        usage="%(prog)s [-h] [--version] [--traceback] COMMAND ...",
        description="Estimate how popular and how good an AI-generated song is likely to be, from its audio alone.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"apex-music {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the full traceback of an error")
    modules = {name: import_module(f"modeling_apex.commands.{name}") for name in COMMANDS}
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        prog=parser.prog,
        parser_class=LazyParser,
        help=argparse.SUPPRESS,
    )
    for name, module in modules.items():
        commands.add_parser(name, declare=partial(_declare, module=module))
    width = max(map(len, COMMANDS))
    lists = (
        "\n".join([f"{group}:", *(f"  {name:<{width}}  {modules[name].HELP}" for name in names)])
        for group, names in GROUPS.items()
    )
    parser.epilog = "\n\n".join([*lists, "`apex-music COMMAND --help` shows the options of a command, with examples."])
    return parser


def _declare(command: LazyParser, module: Any) -> None:
    """Describe a command and add its arguments; the module of a program of its own does the first as well."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    if hasattr(module, "DESCRIPTION"):
        command.description = module.DESCRIPTION
        command.epilog = "\n".join(["examples:", *(f"  {command.prog} {words}".rstrip() for words in module.EXAMPLES)])
    module.add_arguments(command)
    if command.description and "\n" not in command.description:
        # The formatter leaves texts as they are, for the examples' sake.
        command.description = textwrap.fill(command.description, shutil.get_terminal_size().columns - 2)
    when_interrupted = getattr(module, "WHEN_INTERRUPTED", "run the same command again")
    command.set_defaults(run=module.run, prog=command.prog, when_interrupted=when_interrupted)


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
