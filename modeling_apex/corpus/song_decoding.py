"""
Decode songs in the background while the encoder works.

What comes in are songs; what leaves are their normalised segments, in the order of the songs, whatever the number of
threads. Queues are bounded, so memory depends on neither the number of songs nor their length. A song that cannot be
decoded leaves as a failure with its reason, in its place.
"""

import itertools
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from modeling_apex.corpus.song_source import Song
from modeling_apex.corpus.song_uris import open_song
from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor, normalize_segments
from modeling_apex.inference.read_ahead_apex import ReadAhead
from modeling_apex.inference.scoring_apex import SONG_ERRORS

SEGMENTS_AHEAD = 8  # of one thread; a 30 s segment at 24 kHz takes 2.9 MB


@dataclass(frozen=True)
class DecodedSegment:
    """One normalised segment `(T,)` of a song, or, with `error`, the reason why the song has no more."""

    song: Song
    samples: np.ndarray | None
    num_real_samples: int = 0
    is_last: bool = True
    error: str | None = None


def decode_song(
    song: Song, extractor: ApexFeatureExtractor, resampler: str = "sinc", limits: AudioLimits | None = None
) -> Iterator[DecodedSegment]:
    """
    Decode one song to its normalised segments; arguments as for `decode_songs`.

    Returns:
        `Iterator[DecodedSegment]`: one item a segment; the last has `is_last`, or `error` if the song is broken.
    """
    if song.audio is None:
        yield DecodedSegment(song, None, error="the dataset has no audio for this song")
        return
    try:
        with stream_segments(
            open_song(song.audio, limits=limits),
            target_rate=extractor.sampling_rate,
            segment_seconds=extractor.segment_seconds,
            resampler=resampler,
            limits=limits,
            minimum_num_samples=extractor.minimum_num_samples,
        ) as stream:
            for segment in stream:
                samples = normalize_segments(segment.samples[None], out=segment.samples[None])[0]  # (T,)
                yield DecodedSegment(song, samples, segment.num_real_samples, segment.is_last)
    except SONG_ERRORS as error:
        yield DecodedSegment(song, None, error=str(error))


def decode_songs(
    songs: Iterable[Song],
    extractor: ApexFeatureExtractor,
    *,
    resampler: str = "sinc",
    limits: AudioLimits | None = None,
    num_threads: int = 1,
) -> Generator[DecodedSegment, None, None]:
    """
    Decode songs in threads and hand out their segments in order. Close it to end the threads before the last song.

    Args:
        songs (`Iterable[Song]`):
            The songs; read by the threads, one at a time.
        extractor ([`ApexFeatureExtractor`]):
            Sampling rate, segment length and shortest song.
        resampler (`str`, defaults to `"sinc"`), limits ([`AudioLimits`], *optional*):
            As in the pipeline.
        num_threads (`int`, defaults to 1):
            Songs decoded at once. Decoders release Python's lock, so more threads use more cores.

    Returns:
        `Generator[DecodedSegment]`: as from `decode_song`, song after song.
    """
    shares = _Shares(songs, num_threads)

    def decode_share(number: int) -> Iterator[DecodedSegment]:
        for song in shares.take(number):
            yield from decode_song(song, extractor, resampler, limits)

    readers = [ReadAhead(decode_share(number), SEGMENTS_AHEAD) for number in range(num_threads)]
    try:
        for segments in itertools.cycle([iter(reader) for reader in readers]):
            segment = None
            for segment in segments:
                yield segment
                if segment.is_last:
                    break
            if segment is None:  # this thread has no more songs, and so the next ones have none
                return
    finally:
        for reader in readers:
            reader.close()


class _Shares:
    """Deal songs out to threads in turn, each to the one that it is for, whichever thread comes to fetch it."""

    def __init__(self, songs: Iterable[Song], num_shares: int):
        self._songs = iter(songs)
        self._waiting: list[deque[Song]] = [deque() for _ in range(num_shares)]
        self._turns = itertools.cycle(self._waiting)
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def take(self, number: int) -> Iterator[Song]:
        """Yield every song of a share."""
        while (song := self._find(self._waiting[number])) is not None:
            yield song

    def _find(self, waiting: deque[Song]) -> Song | None:
        with self._lock:
            while not waiting:
                if self._error is not None:  # the songs ended for every thread, also for those that did not see it
                    raise self._error
                try:
                    song = next(self._songs, None)
                except BaseException as error:
                    self._error = error
                    raise
                if song is None:
                    return None
                next(self._turns).append(song)
            return waiting.popleft()
