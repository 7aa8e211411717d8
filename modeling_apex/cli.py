"""
The `apex-music` command line.

Each sub-command is one file of `modeling_apex.commands`. Exit status: 0 all went well, 1 some song or check failed,
2 the command line or its input is wrong, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from safetensors import SafetensorError

from modeling_apex import __version__
from modeling_apex.storage.failure_messages import describe_failure

COMMANDS = (
    "score",
    "rank",
    "embed",
    "train",
    "evaluate",
    "conditions",
    "arena",
    "convert",
    "export",
    "verify",
    "validate",
)
# What a user can mend by another command line: shown as one line, without a traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError, SafetensorError)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="apex-music",
        description="Tell how popular and how good an AI-generated song is likely to be, from its audio alone.",
    )
    parser.add_argument("--version", action="version", version=f"apex-music {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the full traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"modeling_apex.commands.{name}").add_parser(subparsers)
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
    arguments = argparse.Namespace(when_interrupted="nothing was done")
    try:
        arguments = build_parser().parse_args(words)
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {arguments.when_interrupted}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `apex-music score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except USER_ERRORS as error:
        if arguments.traceback:
            raise
        message = describe_failure(error, getattr(arguments, "output", None))
        print(f"apex-music {arguments.command}: {message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
