"""Processes that share the work of one: Ctrl-C is not theirs from their first moment, and they end with it."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection

import pytest
from patience import PATIENCE

from modeling_apex.storage.worker_processes import follow_parent, start_worker


def tell_and_wait(channel: Connection, end: Connection) -> None:
    channel.send(signal.pthread_sigmask(signal.SIG_BLOCK, ()))  # as it was before this function said anything
    follow_parent(end)
    channel.send(signal.getsignal(signal.SIGINT))
    os.kill(os.getpid(), signal.SIGINT)
    channel.recv()


@pytest.mark.skipif(sys.platform == "win32", reason="needs masks of signals")
def test_a_process_leaves_ctrl_c_alone_from_the_first_and_ends_when_it_is_told() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    ours, theirs = multiprocessing.Pipe()
    end, end_sender = multiprocessing.Pipe(duplex=False)
    process = start_worker(tell_and_wait, (theirs, end))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert signal.SIGINT in ours.recv()
    assert ours.recv() == signal.SIG_IGN
    assert process.is_alive()
    end_sender.close()
    process.join(PATIENCE)
    assert process.exitcode == 1
