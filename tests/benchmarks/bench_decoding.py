"""
Measure the way from a file to normalised segments beside the bare decoder, in processor seconds of one run.

    python tests/benchmarks/bench_decoding.py --output tests/benchmarks/results/decoding.json

Processor seconds count every thread of the process; the decoder reads the same blocks into one buffer and drops them.
For a WAV file that is a copy, so the matrix products of the resampler, which nothing can leave out, are measured too.
The song is noise shaped like music, so that coders have work to do; the least of the repeats counts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from bench_scoring import describe_machine
from machine_load import add_output, measure_load, write_result
from threadpoolctl import threadpool_limits

from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.libsndfile_apex import BLOCK_NUM_SAMPLES
from modeling_apex.inference.normalization_apex import normalize_segments
from modeling_apex.inference.resampling_apex import get_sinc_kernel

FORMATS = {"mp3": "MPEG_LAYER_III", "flac": "PCM_16", "ogg": "VORBIS", "wav": "PCM_16"}
RATES = (44_100, 48_000)
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}


def make_song(seconds: float, rate: int, num_channels: int) -> np.ndarray:
    """Return `(num_samples, num_channels)`: noise whose power falls with frequency, as that of music does."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((round(seconds * rate), num_channels)), axis=0)
    spectrum /= np.maximum(1, np.arange(len(spectrum)) * 20_000 / len(spectrum) / 200)[:, None]
    song = np.fft.irfft(spectrum, axis=0)
    return (0.3 * song / np.abs(song).max()).astype(np.float32)


def decode(path: Path) -> None:
    """Decode a file as fast as libsndfile does."""
    with soundfile.SoundFile(path) as file:
        block = np.empty((BLOCK_NUM_SAMPLES, file.channels), np.float32)
        while len(file.read(dtype="float32", out=block)):
            pass


def multiply(path: Path) -> None:
    """Do the resampler's matrix products for a file and nothing else."""
    with soundfile.SoundFile(path) as file:
        kernel, num_samples = get_sinc_kernel(file.samplerate, 24_000), file.frames
    block = np.zeros(BLOCK_NUM_SAMPLES + 2 * kernel.margin, np.float32)
    for _ in range(0, num_samples, BLOCK_NUM_SAMPLES):
        kernel.apply(block, BLOCK_NUM_SAMPLES // kernel.num_in)


def read_segments(path: Path, resampler: str = "sinc") -> None:
    """Bring a file to normalised segments at 24,000 Hz."""
    limits = AudioLimits(max_channels=max(CHANNELS.values()))
    for segment in stream_segments(path, resampler=resampler, limits=limits):
        normalize_segments(segment.samples[None], out=segment.samples[None])


def measure(function: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    begun = time.process_time()
    function()
    return time.process_time() - begun


def compare_case(path: Path, num_rounds: int) -> dict[str, float]:
    """Measure the bare decoder and both resamplers in turn; return seconds and ratios."""
    ways = {
        "decode": lambda: decode(path),
        "products": lambda: multiply(path),
        "segments": lambda: read_segments(path),
        "soxr": lambda: read_segments(path, "soxr"),
    }
    for way in ways.values():
        way()  # the first call imports decoders and builds filters
    rounds = [{name: measure(way) for name, way in ways.items()} for _ in range(num_rounds)]
    least = {name: min(seconds[name] for seconds in rounds) for name in ways}
    return {
        "decode_seconds": least["decode"],
        "segments_over_decode": least["segments"] / least["decode"],
        "segments_over_decode_and_products": least["segments"] / (least["decode"] + least["products"]),
        "soxr_over_decode": least["soxr"] / least["decode"],
        "spread": max(seconds["segments"] for seconds in rounds) / least["segments"],
    }


def compare_threads(path: Path, num_rounds: int) -> float:
    """Read a song twice in one thread and in two; return how many times faster two are on the clock."""
    ratios = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(num_rounds):
            begun = time.perf_counter()
            list(map(read_segments, [path, path]))
            one = time.perf_counter()
            list(pool.map(read_segments, [path, path]))
            ratios.append((one - begun) / (time.perf_counter() - one))
    return max(ratios)


def compare_formats(folder: Path, seconds: float, num_rounds: int) -> dict[str, dict[str, float]]:
    """Write one song in every format, rate and layout, and measure each."""
    cases = {}
    for rate in RATES:
        for layout, num_channels in CHANNELS.items():
            song = make_song(seconds, rate, num_channels)
            for suffix, subtype in FORMATS.items():
                if suffix == "mp3" and num_channels > 2:
                    continue  # MP3 holds two channels at most
                path = folder / f"song.{suffix}"
                with soundfile.SoundFile(path, "w", rate, num_channels, subtype) as file:
                    for start in range(0, len(song), BLOCK_NUM_SAMPLES):  # libvorbis overflows its stack on more
                        file.write(song[start : start + BLOCK_NUM_SAMPLES])
                case = compare_case(path, num_rounds)
                if layout == "stereo":
                    case["two_threads"] = compare_threads(path, num_rounds)
                cases[f"{suffix}, {rate} Hz, {layout}"] = case
                print(
                    f"{suffix} {rate} {layout}: {json.dumps({key: round(case[key], 3) for key in case})}", flush=True
                )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=144.0, help="length of the song")
    parser.add_argument("--rounds", type=int, default=7)
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        cases = compare_formats(Path(folder), arguments.seconds, arguments.rounds)
    result = {
        "command": "python tests/benchmarks/bench_decoding.py",
        "song_seconds": arguments.seconds,
        "num_rounds": arguments.rounds,
        "machine": describe_machine(),
        "cases": cases,
    }
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
