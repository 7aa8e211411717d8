"""
The `apex-music` command line.

Each sub-command is one file of `modeling_apex.commands`. Exit status: 0 all went well, 1 some song or check failed,
2 the command line or its input is wrong, 3 a fault of this program, 130 interrupted.
"""

import argparse
import dis
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
    "calibrate",
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
        command.set_defaults(run=module.run, when_interrupted=when_interrupted)
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
    arguments = argparse.Namespace(when_interrupted="nothing was done", traceback=True)
    try:
        arguments = build_parser().parse_args(words)
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {arguments.when_interrupted}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `apex-music score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if arguments.traceback:
            raise
        if not isinstance(error, USER_ERRORS) or is_slip(error):
            print(f"apex-music {arguments.command}: {describe_fault(error)}", file=sys.stderr)
            return 3
        message = describe_failure(error, getattr(arguments, "output", None))
        print(f"apex-music {arguments.command}: {message}", file=sys.stderr)
        return 2


def is_slip(error: BaseException) -> bool:
    """
    Tell whether an error is a slip of some code rather than what a check of the input says.

    Both can be a `TypeError`: a check raises it by a statement, a slip comes out of an expression, such as a call with
    an argument too many.
    """
    trace = error.__traceback__
    if not isinstance(error, TypeError) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] != "RAISE_VARARGS"


def describe_fault(error: BaseException) -> str:
    """Say that the program is to blame, and what a report of it should hold."""
    return (
        f"a fault of this program, not of its input: {type(error).__name__}: {error}. Please report it with what "
        "`apex-music --traceback ...` prints for the same command."
    )


if __name__ == "__main__":
    sys.exit(main())
