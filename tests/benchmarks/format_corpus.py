"""
What this package makes of every audio format that FFmpeg can write, as JSON: codec by container, channels and rates.

    python tests/benchmarks/format_corpus.py --output tests/benchmarks/results/formats.json

Each encoder of the `ffmpeg` on this machine is tried in each container; a pair that FFmpeg writes, and reads back, is
made with 1, 2, 6, 8 and 12 channels at 48 kHz and in stereo (or mono) at eleven rates from 8 to 192 kHz, as far as
FFmpeg goes. Every file is then read as a song is (`open_audio`, in a worker process whose death costs one file), and
must come out as FFmpeg's own decoder gives it: the same rate, the same length within one frame, the same mean over
channels, no warning. Where the two differ, both are held against the song that went in; a difference or a refusal is
listed with its reason, and one that has none is a failure. It needs `ffmpeg` (5.1 or later).
"""

import argparse
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker_process import WorkerProcess

SECONDS = 2.0
CHANNELS = (1, 2, 6, 8, 12)
RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
FIRST_TRIES = ((2, 48_000), (1, 8_000), (1, 16_000), (2, 22_050), (1, 22_050), (2, 32_000), (6, 96_000))
"""Channels and rate of an encoder's first file: not all know stereo and 48 kHz."""
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
MAX_FRAME_SAMPLES = 2_048
"""The longest frame of the codecs here: what encoders add or decoders drop at an end. None for what loses nothing."""
MAX_LOSSY_DIFFERENCE = 0.02
"""Two decoders of one lossy stream round differently; relative root mean square."""
MAX_EXACT_DIFFERENCE = 1e-4
MAX_READABLE_ERROR = 0.5
"""A file that FFmpeg itself decodes to something farther from the song that went in than this holds no song."""
UNREADABLE = "FFmpeg does not read back the song that it wrote here"
NEARER = "what this program reads is nearer to the song that went in"
# Encoders of FFmpeg 5.1, how what they wrote is read, and why rightly so: looked into one by one.
REASONS: tuple[tuple[str, str, str], ...] = (
    (r"adpcm_ima_wav", "differs", "FFmpeg 5.1 rounds IMA ADPCM in WAV otherwise than libsndfile and FFmpeg 8"),
    (r"vorbis", "differs", "of its own Vorbis encoder, FFmpeg 5.1 reads otherwise than libvorbis and FFmpeg 8"),
    (r"g726le", "differs", "libsndfile and FFmpeg differ on G.721 in AU, and each reads back what it wrote"),
    (r"adpcm_ima_wav", "refused", "NUT states no size of blocks, without which FFmpeg 8 decodes no IMA ADPCM"),
    (r"wavpack", "refused", "FFmpeg 8 decodes no packet of the twelve channels that FFmpeg 5.1 writes"),
    (r"truehd", "refused", "what FFmpeg 5.1 writes of more than two channels, FFmpeg 8 does not decode and 7 did"),
)
REFUSALS = (
    (r"has no header that says what it is", "no header: cannot be told from noise"),
    (r"is not one that FFmpeg decodes", "FFmpeg, as PyAV brings it, does not decode this codec"),
)
LOSSLESS = re.compile(r"pcm_(?!alaw|mulaw)|flac|alac|wavpack|tta|truehd|mlp|s302m")
TIMEOUT_SECONDS = 600
NEEDING = ("differs", "refused")
"""Outcomes that need a reason."""
MAX_NAMES = 12
"""Files that the result lists by name for one outcome."""

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
# Muxers that write the packets of any codec as they come, without a header: of these, the codec that they are for. And
# muxers that hold few rates.
OWN_CODECS = {
    **{"mp2": r"mp2|libtwolame", "latm": "aac", "ac3": "ac3", "eac3": "eac3", "dts": "dca", "truehd": "truehd"},
    **{"mlp": "mlp", "gsm": "libgsm$", "g722": "g722", "g723_1": "g723", "g726": "g726$", "g726le": "g726le"},
    **{"sbc": "sbc", "aptx": "aptx$", "aptx_hd": "aptx_hd", "dfpwm": "dfpwm", "codec2": "libcodec2"},
    **{"adx": "adpcm_adx", "daud": "pcm_s24daud", "s16le": "pcm_s16le$", "f32le": "pcm_f32le", "u8": "pcm_u8"},
    **{"alaw": "pcm_alaw", "mulaw": "pcm_mulaw", "swf": "libmp3lame|libshine|adpcm_swf", "mmf": "adpcm_yamaha"},
    **{"argo_cvg": "adpcm_argo", "rm": "ac3|real_144"},
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
    lines = _read_output("ffmpeg", "-hide_banner", "-encoders").splitlines()
    names = [line.split()[1] for line in lines if re.match(r" A[.A-Z]{5} ", line)]
    return [name for name in names if name not in ("=", "comfortnoise")]


def _read_output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=TIMEOUT_SECONDS).stdout


def find_first_shape(encoder: str) -> tuple[int, int] | None:
    """Find channels and rate that an encoder takes as they are, whatever the container."""
    with tempfile.TemporaryDirectory(prefix="apex-formats-") as folder:
        for shape in FIRST_TRIES:
            written = write_files([Format(encoder, "framecrc", "crc", (), *shape)], Path(folder))
            head = "".join(path.read_text("utf-8") for path in written.values())
            # FFmpeg changes channels and rate to what the encoder knows, and tells to what.
            if f"#sample_rate 0: {shape[1]}\n" in head and f"#channel_layout_name 0: {LAYOUTS[shape[0]]}" in head:
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


def write_files(songs: list[Format], folder: Path) -> dict[Format, Path]:
    """Let FFmpeg write files; those are missing from the answer that it does not write."""
    command, paths = ["ffmpeg", "-hide_banner", "-v", "error", "-nostdin", "-y"], {}
    for song in songs:
        source = folder / f"{song.num_channels}-{song.sampling_rate}.f32"
        if not source.exists():
            source.write_bytes(make_song(song.num_channels, song.sampling_rate).tobytes())
        rate, num_channels = str(song.sampling_rate), str(song.num_channels)
        command += ["-f", "f32le", "-ar", rate, "-ac", num_channels, "-i", str(source)]
    for number, song in enumerate(songs):
        paths[song] = folder / song.file_name
        target = ("-c:a", song.encoder, "-strict", "-2", *song.options, "-f", song.muxer, str(paths[song]))
        command += ["-map", f"{number}:a:0", *target]
    is_written = _run(*command) and all(path.exists() and path.stat().st_size for path in paths.values())
    if is_written:
        return paths
    for path in paths.values():
        path.unlink(missing_ok=True)
    # One that it refuses costs all: try each half.
    half = len(songs) // 2
    return write_files(songs[:half], folder) | write_files(songs[half:], folder) if half else {}


def read_by_ffmpeg(paths: list[Path]) -> dict[Path, tuple[int, np.ndarray]]:
    """Read the rate in hertz and the channels `(num_samples, num_channels)` of files as FFmpeg decodes them."""
    command = ["ffmpeg", "-hide_banner", "-v", "error", "-nostdin", "-y"]
    for path in paths:
        command += ["-i", str(path)]
    # As WAV, whose header tells the rate and the channels that came out.
    targets = {path: path.with_name(f"{path.name}.decoded") for path in paths}
    for number, target in enumerate(targets.values()):
        command += ["-map", f"{number}:a:0", "-c:a", "pcm_f32le", "-f", "wav", str(target)]
    if not _run(*command) and len(paths) > 1:
        return {path: found for one in paths for path, found in read_by_ffmpeg([one]).items()}
    decoded = {}
    for path, target in targets.items():
        content = target.read_bytes() if target.exists() else b""
        target.unlink(missing_ok=True)
        start = content.find(b"data") + 8
        if len(content) > start >= 44:
            num_channels, rate = struct.unpack("<HI", content[22:28])
            stop = start + (len(content) - start) // (4 * num_channels) * 4 * num_channels
            samples = np.frombuffer(content[start:stop], np.float32).reshape(-1, num_channels)
            decoded.update({path: (rate, samples)} if len(samples) else {})
    return decoded


def _run(*command: str) -> bool:
    """Run one of FFmpeg's own command lines on files that this program made; tell whether it succeeded."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


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


def measure(song: Format, expected: tuple[int, np.ndarray], read: Any) -> dict[str, Any]:
    """Measure what was read, and what FFmpeg decodes, against each other and, where they differ, the song itself."""
    if isinstance(read, str):
        return {"refusal": re.sub(r"^.*?: ", "", read)}
    if isinstance(read, Exception):
        return {"failure": str(read)}
    (rate, wanted), (own_rate, samples, warnings) = expected, read
    allowed = 0 if LOSSLESS.match(song.encoder) else MAX_FRAME_SAMPLES
    row: dict[str, Any] = {"rates": [own_rate, rate], "lengths": [len(samples), len(wanted)], "warnings": warnings}
    row["difference"] = _measure_difference(wanted, samples, allowed)
    if find_difference({"encoder": song.encoder, **row}):
        for name, own, mono in (("own_error", own_rate, samples), ("ffmpeg_error", rate, wanted)):
            source = make_song(song.num_channels, own).mean(axis=1)
            missing = max(0, len(source) - len(mono))
            row[name] = _measure_difference(source, np.pad(mono, (0, missing)), 2 * MAX_FRAME_SAMPLES)
    return row


def _measure_difference(wanted: np.ndarray, samples: np.ndarray, max_shift: int) -> float:
    """Return the relative root mean square difference where the two fit best within `max_shift` samples."""
    size = 2 ** int(np.ceil(np.log2(2 * (max(len(wanted), len(samples)) + max_shift))))
    shift = 0
    if max_shift:
        products = np.fft.irfft(np.fft.rfft(wanted, size) * np.conj(np.fft.rfft(samples, size)), size)
        shifts = np.arange(-max_shift, max_shift + 1)
        shift = int(shifts[np.argmax(products[shifts])])
    first, second = wanted[max(shift, 0) :], samples[max(-shift, 0) :]
    length = min(len(first), len(second))
    if not length:
        return 1.0
    scale = float(np.sqrt(np.mean(np.square(first[:length], dtype=np.float64)))) or 1.0
    return float(np.sqrt(np.mean(np.square(first[:length] - second[:length], dtype=np.float64)))) / scale


def find_difference(row: dict[str, Any]) -> str:
    """Say how what was read differs from what FFmpeg decodes; nothing where it does not."""
    is_lossless = LOSSLESS.match(row["encoder"]) is not None
    (own_rate, rate), (length, wanted) = row["rates"], row["lengths"]
    if own_rate != rate:
        return f"{own_rate} Hz instead of {rate}"
    if abs(length - wanted) > (0 if is_lossless else MAX_FRAME_SAMPLES):
        return f"{length} samples instead of {wanted}"
    if not row["difference"] <= (MAX_EXACT_DIFFERENCE if is_lossless else MAX_LOSSY_DIFFERENCE):
        return f"relative difference {row['difference']:.2g}"
    return ""


def find_reason(row: dict[str, Any], outcome: str, detail: str) -> str:
    """Name the reason of a difference or refusal; nothing where there is none that excuses it."""
    if outcome == "differs" and not row["ffmpeg_error"] <= MAX_READABLE_ERROR:
        return UNREADABLE
    known = [reason for encoder, of, reason in REASONS if of == outcome and re.fullmatch(encoder, row["encoder"])]
    known += [reason for sentence, reason in REFUSALS if outcome == "refused" and re.search(sentence, detail)]
    if not known and outcome == "differs" and row["own_error"] < row["ffmpeg_error"]:
        return NEARER
    return known[0] if known else ""


def judge(row: dict[str, Any]) -> dict[str, Any]:
    """Judge what was measured of one file: its outcome, how it differs or why it is refused, and the reason."""
    if "failure" in row:
        return {"outcome": "failed", "detail": row["failure"]}
    outcome, detail = "refused", row.get("refusal", "")
    if not detail:
        outcome, detail = "differs", find_difference(row)
    if detail:
        return {"outcome": outcome, "detail": detail, "reason": find_reason(row, outcome, detail)}
    if row["warnings"]:
        return {"outcome": "warned", "detail": "; ".join(row["warnings"])}
    return {"outcome": "equal"}


def try_formats(songs: list[Format], folder: Path, reader: SongReader) -> dict[Format, dict[str, Any] | None]:
    """Write, read and measure files; those are missing that FFmpeg does not write, and None is what it changes."""
    paths = write_files(songs, folder)
    expected = read_by_ffmpeg(list(paths.values())) if paths else {}
    rows: dict[Format, dict[str, Any] | None] = {}
    for song, path in paths.items():
        if path in expected:
            rate, samples = expected[path]
            mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
            # Of other channels than were asked for, it is the same as another file.
            is_own = samples.shape[1] == song.num_channels
            rows[song] = measure(song, (rate, mono), reader.read(path)) if is_own else None
        path.unlink()
    return rows


def run_container(
    container: tuple[str, str, tuple[str, ...]], encoders: dict[str, tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """Yield one row for each file that FFmpeg writes in a container and reads back."""
    muxer, ending, options = container
    with tempfile.TemporaryDirectory(prefix="apex-formats-") as folder, SongReader() as reader:
        for encoder, first in encoders.items():
            if not re.match(OWN_CODECS.get(muxer, ""), encoder):
                continue
            shapes = [*((count, 48_000) for count in CHANNELS), *((first[0], rate) for rate in RATES)]
            songs = [Format(encoder, muxer, ending, options, *shape) for shape in dict.fromkeys([first, *shapes])]
            # A container of any codec that does not hold the first file holds none of it.
            num_tried = len(songs) if muxer in OWN_CODECS else 1
            rows = try_formats(songs[:num_tried], Path(folder), reader)
            rows |= try_formats(songs[num_tried:], Path(folder), reader) if rows and num_tried < len(songs) else {}
            for song, row in rows.items():
                if row is not None:
                    names = {"encoder": encoder, "container": ending}
                    yield {**names, "channels": song.num_channels, "rate": song.sampling_rate, **row}


def main(arguments: list[str] | None = None) -> int:
    """Run the corpus and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the result file to write (JSON)")
    parser.add_argument("--containers", nargs="*", help="only these endings")
    parser.add_argument("--encoders", nargs="*", help="only these encoders of FFmpeg")
    parser.add_argument("--jobs", type=int, default=2, help="containers at a time (default: 2)")
    parser.add_argument("--journal", type=Path, help="keep what was measured here (JSONL), and take up what is there")
    options = parser.parse_args(arguments)
    if shutil.which("ffmpeg") is None:
        parser.error("`ffmpeg` is not on the path. Install FFmpeg 5.1 or later.")
    done = read_journal(options.journal)
    containers = [entry for entry in CONTAINERS if not options.containers or entry[1] in options.containers]
    if missing := [entry for entry in containers if entry[1] not in done]:
        shapes = {encoder: find_first_shape(encoder) for encoder in options.encoders or list_encoders()}
        encoders = {encoder: shape for encoder, shape in shapes.items() if shape is not None}
        with ThreadPoolExecutor(options.jobs) as pool:
            runs = {pool.submit(lambda entry: list(run_container(entry, encoders)), entry): entry for entry in missing}
            for run in as_completed(runs):
                ending, rows = runs[run][1], run.result()
                done[ending] = rows
                if options.journal is not None:
                    with options.journal.open("a", encoding="utf-8") as journal:
                        journal.write(json.dumps({"container": ending, "rows": rows}) + "\n")
                print(f"{ending}: {dict(Counter(judge(row)['outcome'] for row in rows))}", file=sys.stderr, flush=True)
    summary = summarise([row for _, ending, _ in containers for row in done[ending]], find_version())
    options.output.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if summary["outcomes"].get("failed") or summary["num_unexplained"] else 0


def read_journal(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Read what an earlier run measured, by container."""
    lines = path.read_text("utf-8").splitlines() if path is not None and path.exists() else []
    return {entry["container"]: entry["rows"] for entry in map(json.loads, lines)}


def find_version() -> str:
    """Return the version of FFmpeg on this machine."""
    return _read_output("ffmpeg", "-version").split()[2]


def summarise(rows: list[dict[str, Any]], version: str) -> dict[str, Any]:
    """Count outcomes by container, and list what is not equal once for each sentence and reason."""
    containers: dict[str, Any] = {}
    others: dict[tuple[str, ...], dict[str, Any]] = {}
    differences = [0.0]
    for row in rows:
        verdict = judge(row)
        outcome, reason = verdict["outcome"], verdict.get("reason", "")
        entry = containers.setdefault(row["container"], {"files": 0, "encoders": [], "outcomes": Counter()})
        entry["files"] += 1
        entry["outcomes"][outcome] += 1
        if row["encoder"] not in entry["encoders"]:
            entry["encoders"].append(row["encoder"])
        if outcome in ("equal", "warned"):
            differences.append(row["difference"])
        if outcome == "equal":
            continue
        key = (outcome, row["container"], reason, re.sub(r"b'.*?'|b\".*?\"|[\d.]+(e-?\d+)?", "N", verdict["detail"]))
        listed = others.setdefault(
            key,
            {"outcome": outcome, "container": row["container"], "example": verdict["detail"], "reason": reason}
            | {"files": 0, "names": []},
        )
        listed["files"] += 1
        if len(listed["names"]) < MAX_NAMES:
            listed["names"].append(f"{row['encoder']}-{row['channels']}ch-{row['rate']}")
    outcomes = Counter(outcome for entry in containers.values() for outcome in entry["outcomes"].elements())
    unexplained = [entry for (outcome, _, reason, _), entry in others.items() if outcome in NEEDING and not reason]
    return {
        "command": "tests/benchmarks/format_corpus.py",
        "ffmpeg": version,
        "num_files": len(rows),
        "outcomes": dict(outcomes),
        "num_unexplained": sum(entry["files"] for entry in unexplained),
        "largest_difference": max(differences),
        "containers": containers,
        "others": sorted(others.values(), key=lambda entry: (entry["outcome"], entry["container"])),
    }


if __name__ == "__main__":
    sys.exit(main())
