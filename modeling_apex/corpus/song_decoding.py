"""
Decode songs in the background while the encoder works.

What comes in are songs; what leaves are their normalised segments, in the order of the songs, whatever the number of
threads. Queues are bounded, so memory depends on neither the number of songs nor their length. A song that cannot be
decoded leaves as a failure with its reason, in its place.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_apex.corpus.song_source import Song
from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor, normalize_segments
from modeling_apex.inference.scoring_apex import SONG_ERRORS

SEGMENTS_AHEAD = 8  # of one song; a 30 s segment at 24 kHz takes 2.9 MB
POLL_SECONDS = 0.1  # how often a waiting thread looks whether it should stop


@dataclass(frozen=True)
class DecodedSegment:
    """One normalised segment `(T,)` of a song, or, with `error`, the reason why the song has no more."""

    song: Song
    samples: np.ndarray | None
    num_real_samples: int = 0
    is_last: bool = True
    error: str | None = None


@dataclass(frozen=True)
class _Crash:
    """A fault of the program rather than of a song: raised again where the segments are consumed."""

    error: BaseException


def decode_song(
    song: Song, extractor: ApexFeatureExtractor, resampler: str = "sinc", limits: AudioLimits | None = None
) -> Iterator[DecodedSegment]:
    """
    Decode one song to its normalised segments.

    Args:
        song ([`Song`]):
            The song.
        extractor ([`ApexFeatureExtractor`]):
            Sampling rate, segment length and shortest song.
        resampler (`str`, defaults to `"sinc"`), limits ([`AudioLimits`], *optional*):
            As in the pipeline.

    Returns:
        `Iterator[DecodedSegment]`: one item a segment; the last has `is_last`, or `error` if the song is broken.
    """
    if song.audio is None:
        yield DecodedSegment(song, None, error="the dataset has no audio for this song")
        return
    try:
        with stream_segments(
            song.audio,
            target_rate=extractor.sampling_rate,
            segment_seconds=extractor.segment_seconds,
            resampler=resampler,
            limits=limits,
            minimum_num_samples=extractor.minimum_num_samples,
        ) as stream:
            for segment in stream:
                samples = normalize_segments(segment.samples[None])[0]  # (T,)
                yield DecodedSegment(song, samples, segment.num_real_samples, segment.is_last)
    except SONG_ERRORS as error:
        yield DecodedSegment(song, None, error=str(error))


class BackgroundDecoder:
    """
    Decode songs in threads and hand out their segments in order. Use it as a context manager.

    Args:
        songs (`Iterable[Song]`):
            The songs; read by the threads, one at a time.
        extractor ([`ApexFeatureExtractor`]):
            Sampling rate, segment length and shortest song.
        resampler (`str`, defaults to `"sinc"`), limits ([`AudioLimits`], *optional*):
            As in the pipeline.
        num_threads (`int`, defaults to 1):
            Songs decoded at once. Decoders release Python's lock, so more threads use more cores.
    """

    def __init__(
        self,
        songs: Iterable[Song],
        extractor: ApexFeatureExtractor,
        *,
        resampler: str = "sinc",
        limits: AudioLimits | None = None,
        num_threads: int = 1,
    ):
        self._songs = iter(songs)
        self._extractor = extractor
        self._resampler, self._limits = resampler, limits
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # One queue a song, registered in the order of the songs; the bound keeps threads from running far ahead.
        self._order: queue.Queue[queue.Queue[Any] | _Crash | None] = queue.Queue(maxsize=2 * num_threads)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_threads)]

    def __enter__(self) -> "BackgroundDecoder":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[DecodedSegment]:
        while (segments := self._take(self._order)) is not None:
            while (item := segments if isinstance(segments, _Crash) else self._take(segments)) is not None:
                if isinstance(item, _Crash):
                    raise item.error
                yield item

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                try:
                    song = next(self._songs, None)
                except BaseException as error:
                    self._put(self._order, _Crash(error))
                    return
                segments: queue.Queue[Any] | None = None if song is None else queue.Queue(maxsize=SEGMENTS_AHEAD)
                self._put(self._order, segments)
            if song is None or segments is None:
                return
            try:
                for segment in decode_song(song, self._extractor, self._resampler, self._limits):
                    self._put(segments, segment)
                self._put(segments, None)
            except BaseException as error:
                self._put(segments, _Crash(error))
                return

    def _put(self, target: Any, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return target.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def _take(self, source: Any) -> Any:
        while True:
            are_alive = any(thread.is_alive() for thread in self._threads)
            try:
                # What a thread put before it ended is there at once; only from living ones is there more to come.
                return source.get(timeout=POLL_SECONDS if are_alive else 0)
            except queue.Empty:
                if not are_alive:
                    raise RuntimeError(
                        "the threads that decode songs ended before the last song did. This is no fault of a song; "
                        "give the same command again, and report it if it comes back."
                    ) from None
