"""
One door out of the process, for every command of this repository: its exit status and its last sentence.

What comes in is what a command does; what leaves is its exit status: 0 all went well, 1 some song or check failed,
2 the command line or its input is wrong, 3 a fault of this program, 128 and a signal's number (130 for Ctrl-C, 143 for
SIGTERM, 129 for SIGHUP) where it was stopped. No traceback is shown unless it was asked for.
"""

import argparse
import contextlib
import dis
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.storage.failure_messages import describe_failure
from modeling_apex.storage.source_names import hide_secrets
from modeling_apex.storage.stop_signals import StopSignals

# What a user can mend by another command line: shown as one line, without a traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError, MemoryError)
# What reads files: an error class of theirs speaks of what they were given, whatever it descends from.
READERS = frozenset(
    {"av", "datasets", "httpx", "huggingface_hub", "jinja2", "onnx", "onnxruntime", "pyarrow", "safetensors"}
    | {"safetensors_rust", "soundfile", "yaml", "zipfile", "zlib", "zstandard"}
)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors repeat what it was given in a form that a terminal does not obey."""

    def error(self, message: str) -> NoReturn:
        super().error(escape_controls(message))


def print_lines(text: object, *, file: TextIO | None = None) -> None:
    """Print a text of one or more lines, whose words may come from anywhere; to standard output by default."""
    print(escape_lines(str(text)), file=file)


def escape_lines(text: str) -> str:
    """Escape what would steer a terminal, and keep the lines."""
    return "\n".join(escape_controls(line) for line in text.split("\n"))


class _ShownRecord(logging.LogRecord):
    """A record of a log that a terminal shows."""

    def getMessage(self) -> str:  # noqa: N802 (the name is logging's)
        return escape_lines(super().getMessage())


def run_command(
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    words: Sequence[str] | None,
    when_interrupted: str,
) -> int:
    """
    Run a command and end it as every command here ends.

    Args:
        name (`str`): What an error begins with, unless `prog` of the namespace says more.
        run (`Callable[[argparse.Namespace], int]`):
            Reads the command line into the namespace that it is given and does the work; returns the exit status.
            `prog`, `output`, `traceback` and `when_interrupted` of the namespace are heeded as soon as they are
            there.
        words (`Sequence[str]`, *optional*):
            The command line. Where it is that of the process, by default, the process is there for this command alone,
            and its signals are handled here.
        when_interrupted (`str`): What to do after an interruption, in words.

    Returns:
        `int`: exit status.
    """
    # Else the Hub's client asks its makers which agents there are, even for a file that it is told to find here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    arguments = argparse.Namespace(prog=name, traceback=False, output=None, when_interrupted=when_interrupted)

    def describe_stop(number: int) -> str:
        verb = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        return f"{verb}; {arguments.when_interrupted}"

    signals = StopSignals(describe_stop) if words is None else None
    try:
        if signals is not None:
            signals.install()
            logging.setLogRecordFactory(_ShownRecord)
        refuse_empty_words(sys.argv[1:] if words is None else words)
        status = run(arguments)
        sys.stdout.flush()  # what cannot be written is to be said here
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        if signals is None or signals.claim_word():
            _say(f"\n{describe_stop(number)}")
        status = 128 + number
    except BrokenPipeError:  # `apex-music score ... | head`
        _close_output()
        status = 1
    except Exception as error:
        if arguments.traceback:
            raise
        _close_output()
        status, message = _judge(error, arguments.output)
        _say(f"{arguments.prog}: {escape_lines(hide_secrets(message))}")
    if signals is not None:
        signals.finish()
    return status


def refuse_empty_words(words: Sequence[str]) -> None:
    """
    Refuse a command line that has nothing where something is to be named.

    An empty word names the current folder where a path is meant, or counts as an option that was left out. It is
    seldom meant: a variable of the shell that holds nothing leaves it.

    Raises:
        `ValueError`: If a word is empty or white space alone, or an option is given as `--option=`.
    """
    for position, word in enumerate(words):
        option, separator, value = word.partition("=") if word.startswith("--") else ("", "=", word)
        if separator and not value.strip():
            before = words[position - 1] if position else ""
            place = option or (before if re.fullmatch(r"--?[A-Za-z][\w-]*", before) else f"word {position + 1}")
            raise ValueError(
                f"{place} of the command line is an empty string, {value!r}. Say what is meant, or leave it out; "
                "an unset variable of the shell expands to one."
            )


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


def _judge(error: Exception, output: str | os.PathLike | None) -> tuple[int, str]:
    """Return the exit status that an error means, and what to say of it; an error may have a status of its own."""
    is_of_reader = type(error).__module__.partition(".")[0] in READERS
    if not (isinstance(error, USER_ERRORS) or is_of_reader) or is_slip(error):
        return 3, (
            f"a fault of this program, not of its input: {type(error).__name__}: {error}. Please report it with what "
            "`apex-music --traceback ...` prints for the same command."
        )
    message = describe_failure(error, output).strip() or type(error).__name__
    if isinstance(error, MemoryError):
        message = f"there is not enough memory ({message}). Use smaller files, or a machine with more memory."
    return getattr(error, "exit_status", 2), message


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _close_output() -> None:
    """Write what is still held, or else let it go, so that the interpreter does not complain about it at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
