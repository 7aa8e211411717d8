"""
`apex-music`, stopped by itself (SIGSTOP) once its journal holds some songs, so that a signal finds it at its work.

A test that watches the journal and then sends a signal may be slower than the command on a busy machine, and find it
at its end. As a program, this file runs the command; [`wait_until_stopped`] waits until it stands still.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

NUM_SONGS = 2
PROGRAM = str(Path(__file__))


def take_interrupts() -> None:
    """Let Ctrl-C end a process that is about to start: one of a shell's background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until_stopped(process: subprocess.Popen) -> None:
    """Wait until a program of this file has stopped; a signal that is sent now arrives when it goes on (SIGCONT)."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "it ended before its journal held the songs"


def stop_amid_songs() -> None:
    """Have the journal of this process stop it."""
    from modeling_apex.corpus.score_journal import ScoreJournal

    add = ScoreJournal.add
    num_added = 0

    def add_and_stop(*arguments: object, **options: object) -> None:
        nonlocal num_added
        add(*arguments, **options)
        num_added += 1
        if num_added == NUM_SONGS:
            os.kill(os.getpid(), signal.SIGSTOP)

    ScoreJournal.add = add_and_stop


if __name__ == "__main__":
    from modeling_apex.cli import main

    stop_amid_songs()
    sys.exit(main())
