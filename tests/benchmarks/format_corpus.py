"""
What this package makes of every audio format that FFmpeg can write, as JSON: codec by container, channels and rates.

    python tests/benchmarks/format_corpus.py --output tests/benchmarks/results/formats.json

Each encoder of the `ffmpeg` on this machine is tried in each container; a pair that FFmpeg writes, and reads back, is
made with 1, 2, 6, 8 and 12 channels at 48 kHz and in stereo (or mono) at eleven rates from 8 to 192 kHz, as far as
FFmpeg goes. Every file is then read as a song is (`open_audio`, in a worker process whose death costs one file), and
must come out as FFmpeg's own decoder gives it: the same rate, the same length within one frame, the same mean over
channels, no warning. A refusal is listed with its sentence. It needs `ffmpeg` and `ffprobe` (5.1 or later).
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker_process import WorkerProcess

SECONDS = 2.0
CHANNELS = (1, 2, 6, 8, 12)
RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
FIRST_TRIES = ((2, 48_000), (1, 8_000), (1, 16_000), (2, 32_000), (6, 96_000))
"""Channels and rate of an encoder's first file: speech codecs know neither stereo nor 48 kHz."""
MAX_FRAME_SAMPLES = 2_048
"""The longest frame of the codecs here: what encoders add or decoders drop at an end. None for what loses nothing."""
MAX_LOSSY_DIFFERENCE = 0.02
"""Two decoders of one lossy stream round differently; relative root mean square."""
MAX_EXACT_DIFFERENCE = 1e-4
LOSSLESS = re.compile(r"pcm_(?!alaw|mulaw)|flac|alac|wavpack|tta|truehd|mlp|s302m")
TIMEOUT_SECONDS = 120

# Muxer of FFmpeg, ending of the file, further options. Muxers that write no file of sound are left out (hashes,
# streams cut into many files, devices, subtitles); so are `dvd`, `svcd` and `vcd`: `mpeg` with other padding.
CONTAINERS = (
    *(("wav", "wav", ()), ("wav", "rf64.wav", ("-rf64", "always")), ("w64", "w64", ()), ("aiff", "aiff", ())),
    *(("au", "au", ()), ("caf", "caf", ()), ("ircam", "sf", ()), ("sox", "sox", ()), ("voc", "voc", ())),
    *(("flac", "flac", ()), ("ogg", "ogg", ()), ("opus", "opus", ()), ("spx", "spx", ()), ("oga", "oga", ())),
    *(("mp3", "mp3", ()), ("mp2", "mp2", ()), ("adts", "aac", ()), ("latm", "latm", ()), ("ipod", "m4a", ())),
    *(("mp4", "mp4", ()), ("mov", "mov", ()), ("3gp", "3gp", ()), ("f4v", "f4v", ()), ("ismv", "ismv", ())),
    *(("matroska", "mka", ()), ("webm", "webm", ()), ("asf", "wma", ()), ("avi", "avi", ()), ("flv", "flv", ())),
    *(("mpegts", "ts", ()), ("mpeg", "mpg", ()), ("vob", "vob", ()), ("swf", "swf", ()), ("nut", "nut", ())),
    *(("mxf", "mxf", ()), ("wtv", "wtv", ()), ("rm", "rm", ()), ("amr", "amr", ()), ("ac3", "ac3", ())),
    *(("eac3", "eac3", ()), ("dts", "dts", ()), ("truehd", "thd", ()), ("mlp", "mlp", ()), ("wv", "wv", ())),
    *(("tta", "tta", ()), ("oma", "oma", ()), ("mmf", "mmf", ()), ("adx", "adx", ()), ("ast", "ast", ())),
    *(("rso", "rso", ()), ("wsaud", "aud", ()), ("apm", "apm", ()), ("alp", "tun", ()), ("kvag", "vag", ())),
    *(("argo_asf", "asf", ()), ("argo_cvg", "cvg", ()), ("gsm", "gsm", ()), ("g722", "g722", ())),
    *(("g723_1", "tco", ()), ("g726", "g726", ()), ("g726le", "g726le", ()), ("sbc", "sbc", ()), ("aptx", "aptx", ())),
    *(("aptx_hd", "aptxhd", ()), ("dfpwm", "dfpwm", ()), ("codec2", "c2", ()), ("daud", "302", ())),
    *(("s16le", "s16le", ()), ("f32le", "f32le", ()), ("u8", "u8", ()), ("alaw", "al", ()), ("mulaw", "ul", ())),
)
# Muxers that write the packets of any codec as they come, without a header: of these, the codec that they are for.
OWN_CODECS = {
    **{"mp2": r"mp2|libtwolame", "latm": "aac", "ac3": "ac3", "eac3": "eac3", "dts": "dca", "truehd": "truehd"},
    **{"mlp": "mlp", "gsm": "libgsm$", "g722": "g722", "g723_1": "g723", "g726": "g726$", "g726le": "g726le"},
    **{"sbc": "sbc", "aptx": "aptx$", "aptx_hd": "aptx_hd", "dfpwm": "dfpwm", "codec2": "libcodec2"},
    **{"adx": "adpcm_adx", "daud": "pcm_s24daud", "s16le": "pcm_s16le$", "f32le": "pcm_f32le", "u8": "pcm_u8"},
    **{"alaw": "pcm_alaw", "mulaw": "pcm_mulaw"},
}


@dataclass(frozen=True)
class Format:
    """One file of the corpus."""

    encoder: str
    muxer: str
    ending: str
    options: tuple[str, ...]
    num_channels: int
    sampling_rate: int

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.encoder}-{self.num_channels}ch-{self.sampling_rate}.{self.ending}"


def list_encoders() -> list[str]:
    """List the audio encoders of FFmpeg on this machine."""
    lines = _run("ffmpeg", "-hide_banner", "-encoders").stdout.decode().splitlines()
    names = [line.split()[1] for line in lines if re.match(r" A[.A-Z]{5} ", line)]
    return [name for name in names if name not in ("=", "comfortnoise")]


def find_first_shape(encoder: str) -> tuple[int, int] | None:
    """Find channels and rate that an encoder takes, whatever the container."""
    for shape in FIRST_TRIES:
        with tempfile.TemporaryDirectory(prefix="apex-formats-") as folder:
            if write_file(Format(encoder, "framecrc", "crc", (), *shape), Path(folder)) is not None:
                return shape
    return None


def make_song(num_channels: int, sampling_rate: int) -> np.ndarray:
    """Make a song whose channels differ in notes and level, of shape `(num_samples, num_channels)`."""
    times = np.arange(round(SECONDS * sampling_rate)) / sampling_rate
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 1.3 * times)
    channels = [
        (0.25 / (1 + channel % 3)) * swell * np.sin(2 * np.pi * 110 * (1 + channel / 4) * times + channel)
        + 0.02 * np.sin(2 * np.pi * (900 + 37 * channel) * times)
        for channel in range(num_channels)
    ]
    return np.stack(channels, axis=1).astype(np.float32)


def write_file(song: Format, folder: Path) -> Path | None:
    """Let FFmpeg write one file; None where it does not."""
    path = folder / song.file_name
    source = make_song(song.num_channels, song.sampling_rate).tobytes()
    raw = ("-f", "f32le", "-ar", str(song.sampling_rate), "-ac", str(song.num_channels), "-i", "pipe:0")
    target = ("-c:a", song.encoder, "-strict", "-2", *song.options, "-f", song.muxer, str(path))
    try:
        result = _run("ffmpeg", "-hide_banner", "-v", "error", "-nostdin", "-y", *raw, *target, stdin=source)
    except subprocess.TimeoutExpired:
        return None
    is_written = result.returncode == 0 and path.exists() and path.stat().st_size > 0
    if not is_written:
        path.unlink(missing_ok=True)
    return path if is_written else None


def read_by_ffmpeg(path: Path) -> tuple[int, np.ndarray] | None:
    """Read a file's rate in hertz and its mean over channels as FFmpeg decodes it; None where it does not."""
    entries = ("-select_streams", "a:0", "-show_entries", "stream=sample_rate,channels", "-of", "csv=p=0")
    try:
        probed = _run("ffprobe", "-v", "error", *entries, str(path))
        fields = probed.stdout.decode().split("\n")[0].strip().strip(",").split(",")
        decoded = _run("ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0", "-f", "f32le", "pipe:1")
    except subprocess.TimeoutExpired:
        return None
    if len(fields) < 2 or not decoded.stdout:
        return None
    rate, num_channels = int(fields[0]), int(fields[1])
    samples = np.frombuffer(decoded.stdout[: len(decoded.stdout) // (4 * num_channels) * 4 * num_channels], np.float32)
    return rate, samples.reshape(-1, num_channels).mean(axis=1, dtype=np.float64).astype(np.float32)


def _run(*command: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    # ffmpeg's own command lines on files that this program made.
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=TIMEOUT_SECONDS)


def read_songs(connection: Any) -> None:
    """Read files as songs are read, in a process of its own."""
    from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
    from modeling_apex.inference.decoding_apex import open_audio
    from modeling_apex.registration import register

    register()
    limits = AudioLimits(max_channels=64)
    while (path := connection.recv()) is not None:
        try:
            with open_audio(path, limits=limits) as stream:
                samples = np.concatenate(list(stream.blocks))
            connection.send((stream.sampling_rate, samples, stream.warnings))
        except AudioError as error:
            connection.send(str(error))
        except Exception as error:
            connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


class SongReader(WorkerProcess):
    """A worker process that reads songs, and is replaced when it dies."""

    def __init__(self) -> None:
        super().__init__(read_songs)

    def read(self, path: Path) -> Any:
        """Return rate, samples and warnings; the sentence of a refusal; or an exception that nobody planned."""
        try:
            self._connection.send(str(path))
            if not self._connection.poll(TIMEOUT_SECONDS):
                raise EOFError(f"no answer within {TIMEOUT_SECONDS} s")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            status = self.end()
            self.start()
            return RuntimeError(f"the process ended with status {status} ({error})")


def compare(song: Format, expected: tuple[int, np.ndarray], read: Any) -> dict[str, Any]:
    """Judge what was read against FFmpeg's own decoding."""
    if isinstance(read, str):
        return {"outcome": "refused", "detail": re.sub(r"^.*?: ", "", read)}
    if isinstance(read, Exception):
        return {"outcome": "failed", "detail": str(read)}
    (rate, wanted), (own_rate, samples, warnings) = expected, read
    if own_rate != rate:
        return {"outcome": "differs", "detail": f"{own_rate} Hz instead of {rate}"}
    is_lossless = LOSSLESS.match(song.encoder) is not None
    allowed = 0 if is_lossless else MAX_FRAME_SAMPLES
    if abs(len(samples) - len(wanted)) > allowed:
        return {"outcome": "differs", "detail": f"{len(samples)} samples instead of {len(wanted)}"}
    difference = _measure_difference(wanted, samples, allowed)
    if not difference <= (MAX_EXACT_DIFFERENCE if is_lossless else MAX_LOSSY_DIFFERENCE):
        return {"outcome": "differs", "detail": f"relative difference {difference:.2g}"}
    if warnings:
        return {"outcome": "warned", "detail": "; ".join(warnings)}
    return {"outcome": "equal", "difference": difference}


def _measure_difference(wanted: np.ndarray, samples: np.ndarray, max_shift: int) -> float:
    """Return the relative root mean square difference where the two fit best within `max_shift` samples."""
    length = min(len(wanted), len(samples))
    size = 2 ** int(np.ceil(np.log2(2 * (max(len(wanted), len(samples)) + max_shift))))
    products = np.fft.irfft(np.fft.rfft(wanted, size) * np.conj(np.fft.rfft(samples, size)), size)
    shifts = np.arange(-max_shift, max_shift + 1)
    shift = int(shifts[np.argmax(products[shifts])]) if max_shift else 0
    first, second = wanted[max(shift, 0) :], samples[max(-shift, 0) :]
    length = min(len(first), len(second))
    scale = float(np.sqrt(np.mean(np.square(first[:length], dtype=np.float64)))) or 1.0
    return float(np.sqrt(np.mean(np.square(first[:length] - second[:length], dtype=np.float64)))) / scale


def try_format(song: Format, folder: Path, reader: SongReader) -> dict[str, Any] | None:
    """Write, read and compare one file; None where FFmpeg does not write or does not read it."""
    path = write_file(song, folder)
    if path is None:
        return None
    expected = read_by_ffmpeg(path)
    result = None if expected is None else compare(song, expected, reader.read(path))
    path.unlink()
    return result


def run_container(
    container: tuple[str, str, tuple[str, ...]], encoders: dict[str, tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """Yield one row for each file that FFmpeg writes in a container and reads back."""
    muxer, ending, options = container
    with tempfile.TemporaryDirectory(prefix="apex-formats-") as folder, SongReader() as reader:
        for encoder, first in encoders.items():
            if not re.match(OWN_CODECS.get(muxer, ""), encoder):
                continue
            grid = dict.fromkeys(
                [first, *((count, 48_000) for count in CHANNELS), *((first[0], rate) for rate in RATES)]
            )
            for shape in grid:
                result = try_format(Format(encoder, muxer, ending, options, *shape), Path(folder), reader)
                if result is not None:
                    yield {"encoder": encoder, "container": ending, "channels": shape[0], "rate": shape[1], **result}
                elif shape == first:
                    # This container does not hold this codec.
                    break


def main(arguments: list[str] | None = None) -> int:
    """Run the corpus and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the result file to write (JSON)")
    parser.add_argument("--containers", nargs="*", help="only these endings")
    parser.add_argument("--encoders", nargs="*", help="only these encoders of FFmpeg")
    parser.add_argument("--jobs", type=int, default=2, help="containers at a time (default: 2)")
    options = parser.parse_args(arguments)
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        parser.error("`ffmpeg` and `ffprobe` are not on the path. Install FFmpeg 5.1 or later.")
    containers = [entry for entry in CONTAINERS if not options.containers or entry[1] in options.containers]
    shapes = {encoder: find_first_shape(encoder) for encoder in options.encoders or list_encoders()}
    encoders = {encoder: shape for encoder, shape in shapes.items() if shape is not None}
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(lambda container: list(run_container(container, encoders)), containers):
            rows += found
            if found:
                counts = Counter(row["outcome"] for row in found)
                print(f"{found[0]['container']}: {dict(counts)}", file=sys.stderr, flush=True)
    version = _run("ffmpeg", "-version").stdout.decode().split()[2]
    options.output.write_text(json.dumps(summarise(rows, version), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if any(row["outcome"] in ("failed", "differs") for row in rows) else 0


def summarise(rows: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """Count outcomes by container, and list what is not equal once for each sentence."""
    containers: dict[str, Any] = {}
    for row in rows:
        entry = containers.setdefault(row["container"], {"files": 0, "encoders": [], "outcomes": Counter()})
        entry["files"] += 1
        entry["outcomes"][row["outcome"]] += 1
        if row["encoder"] not in entry["encoders"]:
            entry["encoders"].append(row["encoder"])
    others: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        if row["outcome"] == "equal":
            continue
        key = (row["outcome"], row["container"], re.sub(r"[\d.]+(e-?\d+)?", "N", row["detail"]))
        entry = others.setdefault(
            key, {"outcome": key[0], "container": key[1], "example": row["detail"], "files": 0, "encoders": []}
        )
        entry["files"] += 1
        name = f"{row['encoder']}-{row['channels']}ch-{row['rate']}"
        if len(entry["encoders"]) < 12:
            entry["encoders"].append(name)
    return {
        "command": "tests/benchmarks/format_corpus.py",
        "ffmpeg": version,
        "num_files": len(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "largest_difference": max((row.get("difference", 0.0) for row in rows), default=0.0),
        "containers": containers,
        "others": sorted(others.values(), key=lambda entry: (entry["outcome"], entry["container"])),
    }


if __name__ == "__main__":
    sys.exit(main())
