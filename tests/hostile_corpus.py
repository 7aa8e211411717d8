"""
A corpus of bad audio files, made from the repository's own sample songs: damaged, lying, absurd and misnamed ones.

What comes in is a clip in every format that this package reads; what leaves is a stream of cases, each a file or
something that stands where a file should. Everything follows from seeds, so a case that fails has a name by which it
is made again.
"""

import functools
import io
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile

SAMPLES = Path(__file__).parent.parent / "spaces_demo" / "samples"
CLIP_SECONDS = 4.0

# Name of a format to how libsndfile (format, subtype) or FFmpeg (container, codec, rate) writes it.
SOUNDFILE_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "u8.wav": ("WAV", "PCM_U8"),
    "s24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "ULAW"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
AV_FORMATS = {
    "m4a": ("mp4", "aac", 44_100),
    "alac.m4a": ("mp4", "alac", 44_100),
    "aac": ("adts", "aac", 44_100),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "ac3", 44_100),
    "ac3": ("ac3", "ac3", 44_100),
    "wma": ("asf", "wmav2", 44_100),
    "flv": ("flv", "aac", 44_100),
    "ts": ("mpegts", "aac", 44_100),
    "avi": ("avi", "mp2", 44_100),
    "wv": ("wv", "wavpack", 44_100),
    "tta": ("tta", "tta", 44_100),
    "eac3": ("eac3", "eac3", 44_100),
    "mp2.nut": ("nut", "mp2", 44_100),
    "voc": ("voc", "pcm_s16le", 44_100),
}
ID3_TAG = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
APE_TAG = b"APETAGEX" + struct.pack("<II", 2000, 9) + bytes(16 + 9)


@dataclass(frozen=True)
class HostileCase:
    """
    One bad input.

    Args:
        kind (`str`): What is wrong with it, such as `"truncated"`.
        name (`str`): Name of the file, unique in the corpus.
        place (`Callable[[Path], None]`): Puts the case at a path.
    """

    kind: str
    name: str
    place: Callable[[Path], None]


def build_clips(seconds: float = CLIP_SECONDS) -> dict[str, bytes]:
    """Encode some seconds of a sample song in every format; the keys are the endings of its files."""
    song, rate = soundfile.read(SAMPLES / "1-good-pop.ogg", dtype="float32", always_2d=True)
    clip = song[rate : rate + round(seconds * rate)]
    clips = {}
    for ending, (container, subtype) in SOUNDFILE_FORMATS.items():
        buffer, clip_rate = io.BytesIO(), 48_000 if ending == "opus" else rate
        # libsndfile resamples nothing; at 48 kHz the same samples are a slightly higher and shorter song.
        soundfile.write(buffer, clip, clip_rate, format=container, subtype=subtype)
        clips[ending] = buffer.getvalue()
    for ending, (container, codec, clip_rate) in AV_FORMATS.items():
        clips[ending] = encode_with_av(clip, container, codec, clip_rate)
    return clips


def encode_with_av(clip: np.ndarray, container: str, codec: str, sampling_rate: int) -> bytes:
    """Encode samples `(num_samples, num_channels)` with FFmpeg, as stereo."""
    buffer = io.BytesIO()
    stereo = np.repeat(clip[:, :1], 2, axis=1) if clip.shape[1] == 1 else clip[:, :2]
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=sampling_rate, layout="stereo")
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(stereo.T), "fltp", "stereo")
        frame.sample_rate = sampling_rate
        for item in (frame, None):
            for packet in stream.encode(item):
                output.mux(packet)
    return buffer.getvalue()


def iterate_cases(clips: dict[str, bytes]) -> Iterator[HostileCase]:
    """Yield the whole corpus, always in the same order."""
    for ending, clip in clips.items():
        yield from _truncate(ending, clip)
        yield from _flip_bits(ending, clip)
        yield from _lie_in_header(ending, clip)
        yield from _splice(ending, clip)
    yield from _build_wav_headers()
    yield from _build_bombs()
    yield from _build_odd_audio()
    yield from _build_files_that_are_not_audio(clips)
    yield from _build_places(clips["wav"])
    yield from _build_names(clips["flac"])


def _case(kind: str, name: str, content: bytes) -> HostileCase:
    return HostileCase(kind, name, lambda path: _write(path, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _truncate(ending: str, clip: bytes) -> Iterator[HostileCase]:
    """Cut at every percent of the file."""
    for percent in range(100):
        yield _case("truncated", f"truncated-{percent:02}.{ending}", clip[: len(clip) * percent // 100])


def _flip_bits(ending: str, clip: bytes) -> Iterator[HostileCase]:
    """Flip 1 to 4,096 bits anywhere, or up to 64 in the first kilobyte, where headers are."""
    for seed in range(30):
        generator = np.random.default_rng([seed, zlib.crc32(ending.encode())])
        is_header = seed % 2 == 1
        num_flips = 2 ** int(generator.integers(0, 7 if is_header else 13))
        content = np.frombuffer(clip, np.uint8).copy()
        places = generator.integers(0, min(len(clip), 1024) if is_header else len(clip), num_flips)
        np.bitwise_xor.at(content, places, (1 << generator.integers(0, 8, num_flips)).astype(np.uint8))
        where = "header" if is_header else "anywhere"
        yield _case(f"bits flipped ({where})", f"flipped-{where}-{seed:02}.{ending}", content.tobytes())


def _lie_in_header(ending: str, clip: bytes) -> Iterator[HostileCase]:
    """Write extreme numbers over each of the first header words: lengths, rates, channels, sizes, versions."""
    for offset in range(4, 64, 4):
        for label, word in (("zero", b"\0\0\0\0"), ("ones", b"\xff\xff\xff\xff"), ("high", b"\x7f\xff\xff\x7f")):
            content = clip[:offset] + word + clip[offset + 4 :]
            yield _case("header lies", f"lying-{offset:02}-{label}.{ending}", content)


def _splice(ending: str, clip: bytes) -> Iterator[HostileCase]:
    """Repeat, drop and shuffle parts, as broken downloads and bad editors do."""
    third = len(clip) // 3
    noise = np.random.default_rng(len(clip)).bytes(third)
    parts = {
        "hole": clip[:third] + clip[2 * third :],
        "zeros": clip[:third] + bytes(third) + clip[2 * third :],
        "noise": clip[:third] + noise + clip[2 * third :],
        "twice": clip + clip,
        "backwards": clip[third:] + clip[:third],
        "tail-of-zeros": clip + bytes(1 << 16),
        "text-before": b"HTTP/1.1 200 OK\r\nContent-Type: audio/x\r\n\r\n" + clip,
        "head-of-noise": noise[:512] + clip[512:],
        "zeros-before": bytes(700) + clip,
        "tags-before": ID3_TAG + APE_TAG + clip,
        "noise-in-the-middle": clip[:third] + noise[:300] + clip[third + 300 :],
    }
    for label, content in parts.items():
        yield _case("spliced", f"{label}.{ending}", content)


def build_wav(
    samples: bytes,
    *,
    channels: int = 1,
    rate: int = 44_100,
    bits: int = 16,
    code: int = 1,
    data_size: int | None = None,
) -> bytes:
    """Write a WAV file whose header states what it is told, true or not."""
    align = channels * ((bits + 7) // 8)
    layout = struct.pack("<HHIIHH", code, channels & 0xFFFF, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    body = b"fmt " + struct.pack("<I", len(layout)) + layout
    body += b"data" + struct.pack("<I", len(samples) if data_size is None else data_size) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _build_wav_headers() -> Iterator[HostileCase]:
    noise = np.random.default_rng(0).integers(-3000, 3000, 88_200, dtype=np.int16).tobytes()
    for rate in (0, 1, 100, 3999, 4000, 8001, 44_099, 96_000, 192_000, 384_000, 384_001, 10**6, 2**31, 2**32 - 1):
        yield _case("odd rate", f"rate-{rate}.wav", build_wav(noise, rate=rate))
    for channels in (0, 2, 3, 5, 6, 8, 32, 33, 255, 1024, 1025, 65_535):
        yield _case("odd channels", f"channels-{channels}.wav", build_wav(noise, channels=channels))
    for bits in (0, 1, 3, 4, 7, 8, 12, 17, 20, 24, 31, 32, 33, 64, 255, 65_535):
        for code in (1, 3):
            yield _case("odd bit depth", f"bits-{bits}-code-{code}.wav", build_wav(noise, bits=bits, code=code))
    for code in (0, 2, 6, 7, 0x11, 0x31, 0x50, 0x55, 0x161, 0xFFFE, 0xFFFF):
        yield _case("odd codec", f"code-{code:04x}.wav", build_wav(noise, code=code))
    for size in (0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1):
        yield _case("header lies", f"data-{size}.wav", build_wav(noise, data_size=size))
    start, chunks = build_wav(noise)[:36], build_wav(noise)[36:]
    for label, filling in {
        "empty": b"LIST\0\0\0\0" * 100_000,
        "endless": b"LIST\xff\xff\xff\xff",
        "zeros": bytes(800_000),
        "format-twice": start[12:36] * 50,
        "data-first": chunks + start[12:36],
    }.items():
        yield _case("odd chunks", f"chunks-{label}.wav", start + filling + chunks)
    yield _case("odd chunks", "no-format.wav", b"RIFF\xff\xff\xff\xffWAVE" + chunks)
    yield _case("odd chunks", "empty-data.wav", build_wav(b""))
    for label, value in {"nan": np.nan, "infinity": np.inf, "huge": 3e38, "tiny": 1e-45, "loud": 1e6}.items():
        samples = np.full(48_000, value, np.float32)
        samples[:24_000:7] = 0.1
        yield _case("odd samples", f"{label}.wav", build_wav(samples.tobytes(), bits=32, code=3))
    huge = np.tile(np.array([1.7e308, -1.7e308]), 24_000)
    yield _case("odd samples", "huge-double.wav", build_wav(huge.tobytes(), bits=64, code=3))
    for num_samples in (1, 2, 10, 399, 400, 1000):
        yield _case("very short", f"samples-{num_samples}.wav", build_wav(noise[: 2 * num_samples], rate=24_000))


def _build_bombs() -> Iterator[HostileCase]:
    """Small files that unpack to hours."""
    for ending, container, subtype, rate, minutes in (
        ("flac", "FLAC", "PCM_16", 4_000, 359),
        ("flac", "FLAC", "PCM_16", 4_000, 361),
        ("flac", "FLAC", "PCM_16", 8_000, 700),
        ("ogg", "OGG", "VORBIS", 8_000, 120),
    ):
        build = functools.partial(_encode_silence, container, subtype, rate, minutes)
        yield HostileCase("bomb", f"silence-{rate}-{minutes}min.{ending}", functools.partial(_write_built, build))
        if container == "FLAC":
            for label, count in {"unknown": 0, "one": 1, "largest": 2**36 - 1}.items():
                lie = functools.partial(_write_built, functools.partial(_state_flac_length, build, count))
                yield HostileCase("bomb", f"silence-{rate}-{minutes}min-{label}.{ending}", lie)
    links = encode_silent_ogg()
    yield _case("bomb", "ogg-links-without-end.ogg", links * 2_000)
    tone = build_wav(bytes(2 * 384_000 * 10), rate=384_000)
    yield _case("bomb", "silence-384khz-10s.wav", tone)
    tags = b"".join(b"ID3\x03\0\0\0\0\0\0" for _ in range(200_000))
    yield _case("bomb", "tags-without-end.mp3", tags)
    yield _case("bomb", "tag-of-256-mb.mp3", b"ID3\x03\0\0\x7f\x7f\x7f\x7f" + bytes(10_000))
    frame = b"\xff\xf3\x14\xc4" + bytes(20)  # 8 kbit/s at 24 kHz: the shortest frame there is
    yield _case("bomb", "frames-without-end.mp3", frame * 300_000)
    picture = b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(50_000_000))
    yield _case("bomb", "picture-in-tag.mp3", b"ID3\x03\0\0\0\x0f\x7f\x7fAPIC" + picture)


def encode_silent_ogg() -> bytes:
    """Encode the shortest Ogg song: a link of a chain of thousands."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(64, np.float32), 8_000, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


def _write_built(build: Callable[[], bytes], path: Path) -> None:
    path.write_bytes(build())


def _state_flac_length(build: Callable[[], bytes], num_samples: int) -> bytes:
    """Write another length into a FLAC file; it stands in bits 108 to 143 of the stream's description."""
    content = bytearray(build())
    word = int.from_bytes(content[18:26], "big") >> 36 << 36 | num_samples
    content[18:26] = word.to_bytes(8, "big")
    return bytes(content)


@functools.lru_cache(maxsize=1)
def _encode_silence(container: str, subtype: str, rate: int, minutes: int) -> bytes:
    buffer, minute = io.BytesIO(), np.zeros(60 * rate, np.int16)
    with soundfile.SoundFile(buffer, "w", rate, 1, format=container, subtype=subtype) as file:
        for _ in range(minutes):
            file.write(minute)
    return buffer.getvalue()


def _build_odd_audio() -> Iterator[HostileCase]:
    generator = np.random.default_rng(1)
    for container, subtype, ending in (
        ("FLAC", "PCM_24", "flac"),
        ("FLAC", "PCM_S8", "flac"),
        ("WAV", "DOUBLE", "wav"),
    ):
        for channels in (1, 2, 3, 8):
            for rate in (4_000, 11_025, 48_000, 96_000, 192_000):
                buffer = io.BytesIO()
                clip = 0.1 * generator.standard_normal((rate // 2, channels))
                soundfile.write(buffer, clip, rate, format=container, subtype=subtype)
                name = f"{subtype.lower()}-{channels}x{rate}.{ending}"
                yield _case("odd but valid", name, buffer.getvalue())
    for channels in (16, 32, 64, 255):
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.1 * generator.standard_normal((4_000, channels)), 48_000, format="WAV")
        yield _case("odd channels", f"real-{channels}.wav", buffer.getvalue())


def _build_files_that_are_not_audio(clips: dict[str, bytes]) -> Iterator[HostileCase]:
    generator = np.random.default_rng(2)
    contents = {
        "empty": b"",
        "one-byte": b"R",
        "nothing-but-zeros": bytes(100_000),
        "ones": b"\xff" * 100_000,
        "text": b"This is a sentence about a song.\n" * 500,
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "json": json.dumps({"error": "not found"}).encode(),
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0),
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + generator.bytes(5_000),
        "gif": b"GIF89a\xff\xff\xff\xff" + generator.bytes(2_000),
        "pdf": b"%PDF-1.7\n" + generator.bytes(2_000),
        "elf": b"\x7fELF\x02\x01\x01" + generator.bytes(2_000),
        "shell": b"#!/bin/sh\ntouch /tmp/apex-ran\n",
        "pickle": b"\x80\x04\x95" + generator.bytes(200),
        "zip": b"PK\x03\x04" + generator.bytes(2_000),
        "gzip": b"\x1f\x8b\x08" + zlib.compress(bytes(10_000_000)),
        "m3u": b"#EXTM3U\n#EXTINF:1,x\n/etc/passwd\n",
        "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "pls": b"[playlist]\nFile1=http://127.0.0.1/x\n",
        "ffconcat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "cue": b'FILE "song.wav" WAVE\n  TRACK 01 AUDIO\n',
        "mpd": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "midi": b"MThd\0\0\0\x06\0\x01\0\x01\x01\xe0MTrk" + generator.bytes(300),
        "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
    }
    for label, content in contents.items():
        for ending in ("wav", "mp3", "m4a"):
            yield _case("not audio", f"{label}.{ending}", content)
    magics = {ending: clip[:16] for ending, clip in clips.items()}
    for ending, magic in magics.items():
        for seed in range(3):
            noise = np.random.default_rng([3, seed, zlib.crc32(ending.encode())]).bytes(20_000)
            yield _case("noise behind a magic number", f"magic-{seed}.{ending}", magic + noise)
    endings = list(clips)
    for own, other in zip(endings, endings[1:] + endings[:1], strict=True):
        yield _case("wrong ending", f"really-{own.replace('.', '-')}.{other}", clips[own])


def _build_places(clip: bytes) -> Iterator[HostileCase]:
    """Stand something at the path that is no file, or no longer one."""

    def loop(path: Path) -> None:
        other = path.with_name(path.name + ".other")
        path.symlink_to(other)
        other.symlink_to(path)

    def listen(path: Path) -> None:
        # The name of a socket may hold about a hundred bytes, so it is made from inside its folder.
        before = os.getcwd()
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(before)

    def link_to_song(path: Path) -> None:
        song = path.with_name("the-song-itself.wav")
        song.write_bytes(clip)
        path.symlink_to(song)

    def sparse(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(clip[:44])
            file.truncate(3 * 1024**3)

    yield HostileCase("not a file", "loop-of-links.wav", loop)
    yield HostileCase("not a file", "link-to-nothing.wav", lambda path: path.symlink_to("absent"))
    yield HostileCase("not a file", "link-to-itself.wav", lambda path: path.symlink_to(path.name))
    yield HostileCase("not a file", "link-to-zeros.wav", lambda path: path.symlink_to("/dev/zero"))
    yield HostileCase("not a file", "link-to-random.wav", lambda path: path.symlink_to("/dev/urandom"))
    yield HostileCase("not a file", "link-to-a-process.wav", lambda path: path.symlink_to("/proc/self/mem"))
    yield HostileCase("not a file", "link-to-status.wav", lambda path: path.symlink_to("/proc/self/status"))
    yield HostileCase("not a file", "pipe.wav", lambda path: os.mkfifo(path))
    yield HostileCase("not a file", "folder.wav", lambda path: path.mkdir())
    yield HostileCase("not a file", "socket.wav", listen)
    yield HostileCase("not a file", "absent.wav", lambda path: None)
    yield HostileCase("odd but valid", "link-to-a-song.wav", link_to_song)
    yield HostileCase("header lies", "sparse-3-gib.wav", sparse)


def _build_names(clip: bytes) -> Iterator[HostileCase]:
    names = {
        "line\nbreak.flac",
        "carriage\rreturn.flac",
        "tab\tand bell\a.flac",
        "\x1b[31mred\x1b[0m.flac",
        "emoji \N{MUSICAL NOTE}\N{SKULL}\ufe0f.flac",
        "right-to-left \u202egpj.flac",
        "zero\u200bwidth.flac",
        "-rf.flac",
        "--output=x.flac",
        "$(touch ran).flac",
        "'; DROP TABLE songs; --.flac",
        "%s%n{0}.flac",
        "a*b?[c].flac",
        "spaces   .flac",
        ".flac",
        "x" * 250 + ".flac",
        os.fsdecode(b"not utf-8 \xff\xfe.flac"),
        "combining e\u0301 \u00e9.flac",
    }
    for name in sorted(names):
        yield _case("odd name", name, clip)
