"""How far a long command is: a bar on a terminal, and lines, few however many songs there are, in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from modeling_apex.inference.report_apex import escape_controls, format_count, format_duration
from modeling_apex.process_exit import print_lines

# A line is due after this share of the songs, and after this many seconds and this share of the time that has passed:
# a run of a day has some dozens of lines, and so has one of a month.
SHARE_OF_SONGS = 0.05
SECONDS = 30.0
SHARE_OF_TIME = 0.05
MIN_SONGS = 200  # of fewer, the songs that fail are lines enough


class ProgressLines:
    """
    Progress as lines on stderr.

    Args:
        num_songs (`int`), num_done (`int`):
            How many songs there are, and how many were scored before.
    """

    def __init__(self, num_songs: int, num_done: int):
        self._num_songs, self._num_done, self._num_before, self._num_failed = num_songs, num_done, num_done, 0
        self._start = self._last_time = time.monotonic()
        self._last_number = num_done

    def update(self, *, has_failed: bool) -> None:
        """Count a song, and say so if a line is due."""
        self._num_done += 1
        self._num_failed += has_failed
        now = time.monotonic()
        is_time = now - self._last_time >= max(SECONDS, SHARE_OF_TIME * (now - self._start))
        num_new = self._num_done - self._last_number
        is_share = self._num_songs >= MIN_SONGS and num_new >= SHARE_OF_SONGS * self._num_songs
        if (is_time or is_share) and self._num_done < self._num_songs:
            self._last_time, self._last_number = now, self._num_done
            seconds = now - self._start
            left = seconds / (self._num_done - self._num_before) * (self._num_songs - self._num_done)
            words = f"{self._num_done} of {format_count(self._num_songs, 'song')}, {self._num_failed} failed"
            print_lines(f"{words}; {format_time(seconds)} so far, about {format_time(left)} left", file=sys.stderr)


def format_time(seconds: float) -> str:
    """Return a time as minutes and seconds, or in hours where it is long."""
    return format_duration(seconds) if seconds < 3600 else f"{seconds / 3600:.1f} h"


def follow_reports(
    reports: Iterable[dict[str, Any]], num_songs: int, *, num_done: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield reports as they come, with progress on stderr; what failed goes there too."""
    from tqdm import tqdm

    is_terminal = sys.stderr.isatty()
    lines = ProgressLines(num_songs, num_done)
    with tqdm(total=num_songs, initial=num_done, unit="song", disable=num_songs <= 1 or not is_terminal) as progress:
        for report in reports:
            progress.update()
            if "error" in report:
                name, reason = str(report["song"]), report["error"]  # which names the song where it is a file
                with progress.external_write_mode(sys.stderr):
                    words = reason if name in reason else f"{name}: {reason}"
                    print_lines(f"not scored: {escape_controls(words)}", file=sys.stderr)
            if not is_terminal:
                lines.update(has_failed="error" in report)
            yield report
