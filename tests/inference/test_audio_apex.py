"""Rooms 1 to 3: what is read and how exactly, what is refused and with which words, and how much memory it takes."""

import importlib
import io
import math
import os
import re
import shutil
import signal
import struct
import tracemalloc
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_apex import cli
from modeling_apex.containers import byte_views, child, ffmpeg, links
from modeling_apex.inference import audio_apex, audio_limits_apex, libsndfile_apex, resampling_apex
from modeling_apex.inference.audio_apex import (
    AudioError,
    AudioLimits,
    StreamingResampler,
    load_audio,
    open_audio,
    split_segments,
    stream_segments,
)
from modeling_apex.loading import load_pipeline

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 44101)


def resample(waveform: np.ndarray, original_rate: int, target_rate: int, *, method: str = "sinc") -> np.ndarray:
    """Resample a song in one block, or by SoX's own function for whole songs."""
    resampler = StreamingResampler(original_rate, target_rate, method=method)
    if method == "soxr" and original_rate != target_rate:
        return soxr.resample(waveform, original_rate, target_rate, quality="HQ")
    return np.concatenate([resampler.push(waveform), resampler.finish()])


def build_song(seconds: float, sampling_rate: int = 8000, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """Build noise under a slow swell, of shape `(num_samples, num_channels)`, or `(num_samples,)` for mono."""
    num_samples = round(seconds * sampling_rate)
    noise = np.random.default_rng(seed).standard_normal((num_samples, num_channels))
    swell = 0.1 + 0.1 * np.sin(np.arange(num_samples)[:, None] / sampling_rate)
    song = (noise * swell).astype(np.float32)
    return song[:, 0] if num_channels == 1 else song


def encode(song: np.ndarray, sampling_rate: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, song, sampling_rate, **options)
    return buffer.getvalue()


def encode_with_av(
    container: str,
    codec: str | None,
    *,
    seconds: float = 2.0,
    sampling_rate: int = 48000,
    num_video_frames: int = 0,
    layout: str = "stereo",
) -> bytes:
    """Encode a 440 Hz tone in every channel, and grey pictures if asked."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        streams: list[tuple[Any, list]] = []
        if num_video_frames:
            video = output.add_stream("mpeg4", rate=25)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            pictures = [av.VideoFrame(32, 32, "yuv420p") for _ in range(num_video_frames)]
            streams.append((video, pictures))
        if codec is not None:
            audio: Any = output.add_stream(codec, rate=sampling_rate, layout=layout)
            audio.bit_rate = 128_000
            tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * sampling_rate)) / sampling_rate)
            # Packed: PyAV takes no more than seven planes from an array.
            packed = np.repeat(tone.astype(np.float32), av.AudioLayout(layout).nb_channels)[None]
            frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
            frame.sample_rate = sampling_rate
            streams.append((audio, [frame]))
        for stream, frames in streams:
            for item in [*frames, None]:
                for packet in stream.encode(item):
                    output.mux(packet)
    return buffer.getvalue()


def read_native(source: Any, **options: Any) -> tuple[np.ndarray, audio_apex.AudioStream]:
    with open_audio(source, **options) as stream:
        return np.concatenate(list(stream.blocks)), stream


def compute_relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def resample_with_convolution(waveform: np.ndarray, original_rate: int, target_rate: int) -> np.ndarray:
    """Restate the published filter as one strided convolution in plain torch, one output phase at a time."""
    if original_rate == target_rate:
        return waveform
    divisor = math.gcd(original_rate, target_rate)
    original, target = original_rate // divisor, target_rate // divisor
    base = min(original, target) * 0.99
    width = math.ceil(6 * original / base)
    padded = torch.nn.functional.pad(torch.from_numpy(waveform).double(), (width, width + original))
    taps = torch.arange(-width, width + original, dtype=torch.float64) / original
    num_outputs = -(-len(waveform) * target // original)
    output = torch.zeros(-(-num_outputs // target), target, dtype=torch.float64)
    for phase in range(min(target, num_outputs)):
        times = ((taps - phase / target) * base).clamp(-6, 6)
        kernel = torch.sinc(times) * torch.cos(times * math.pi / 12) ** 2 * base / original
        filtered = torch.nn.functional.conv1d(padded[None, None], kernel[None, None], stride=original)[0, 0]
        output[:, phase] = filtered[: len(output)]
    return output.reshape(-1)[:num_outputs].numpy()


class TestResampling:
    @pytest.mark.parametrize("rate", RATES)
    def test_equals_the_published_filter(self, rate: int) -> None:
        # The phases of 44101 Hz are 24,000 convolutions: a short song keeps them few.
        num_samples = 700 if rate == 44101 else rate // 2 + 7
        song = build_song(1, num_samples)
        actual = resample(song, rate, 24000)
        expected = resample_with_convolution(song, rate, 24000)
        assert actual.shape == expected.shape == (math.ceil(24000 * num_samples / rate),)
        assert actual.dtype == np.float32
        assert compute_relative_error(actual, expected) <= 1e-6

    def test_equals_the_published_filter_over_several_long_periods(self) -> None:
        song = build_song(1, 7000)
        actual = resample(song, 2003, 2001)
        assert compute_relative_error(actual, resample_with_convolution(song, 2003, 2001)) <= 1e-6

    @pytest.mark.parametrize("method", audio_apex.RESAMPLERS)
    def test_same_rate_returns_the_same_values(self, method: str) -> None:
        song = build_song(0.1)
        assert np.array_equal(resample(song, 24000, 24000, method=method), song)

    @settings(max_examples=25, deadline=None)
    @given(
        rate=st.sampled_from([8000, 22050, 24000, 44100, 48000, 9601]),
        method=st.sampled_from(audio_apex.RESAMPLERS),
        lengths=st.lists(st.integers(0, 9000), max_size=6),
    )
    def test_blocks_equal_the_whole(self, rate: int, method: str, lengths: list[int]) -> None:
        song = build_song(1, sum(lengths))
        whole = resample(song, rate, 24000, method=method)
        state = StreamingResampler(rate, 24000, method=method)
        pieces = [state.push(block) for block in np.split(song, np.cumsum(lengths))]
        streamed = np.concatenate([*pieces, state.finish()])
        assert streamed.shape == whole.shape
        np.testing.assert_allclose(streamed, whole, atol=2e-6)

    @pytest.mark.parametrize("method", audio_apex.RESAMPLERS)
    @pytest.mark.parametrize("rate", [8000, 44100, 48000, 44101])
    def test_a_tone_keeps_its_frequency_and_amplitude(self, rate: int, method: str) -> None:
        tone = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate)
        resampled = resample(tone, rate, 24000, method=method)
        expected = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(48000) / 24000)
        middle = slice(2000, -2000)
        np.testing.assert_allclose(resampled[:48000][middle], expected[middle], atol=2e-3)

    def test_awkward_rates_stay_small(self) -> None:
        song = build_song(1, 10_000)
        tracemalloc.start()
        resample(song, 44101, 24000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100e6

    def test_filters_of_awkward_rates_are_not_kept(self) -> None:
        resampling_apex._recall_sinc_kernel.cache_clear()
        for rate in (44101, 44099, 8001):
            assert len(resample(build_song(0.01, rate), rate, 24000)) == math.ceil(round(0.01 * rate) * 24000 / rate)
        assert resampling_apex._recall_sinc_kernel.cache_info().currsize == 0
        for rate in (8000, 11025, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000, 384000):
            assert len(resample(build_song(0.01, rate), rate, 24000))
            assert resampling_apex.get_sinc_kernel(rate, 24000) is resampling_apex.get_sinc_kernel(rate, 24000)

    def test_nothing_in_nothing_out(self) -> None:
        assert resample(np.zeros(0), 44100, 24000).shape == (0,)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match=r"Unknown resampler 'cubic'. Choose one of sinc, soxr"):
            resample(np.zeros(9), 8000, 24000, method="cubic")
        with pytest.raises(ValueError, match=r"A block must be one-dimensional mono audio, got the shape \(2, 9\)"):
            resample(np.zeros((2, 9)), 8000, 24000)
        with pytest.raises(ValueError, match=r"`original_rate` must be a positive whole number of hertz, got 0"):
            resample(np.zeros(9), 0, 24000)
        with pytest.raises(TypeError, match="`target_rate` must be a number of hertz, got str"):
            resample(np.zeros(9), 8000, "24000")  # type: ignore[arg-type]
        state = StreamingResampler(8000, 24000)
        with pytest.raises(ValueError, match=r"A block must be one-dimensional mono audio, got the shape \(1, 9\)"):
            state.push(np.zeros((1, 9)))
        state.finish()
        with pytest.raises(ValueError, match="This resampler is finished"):
            state.push(np.zeros(9))
        with pytest.raises(ValueError, match="This resampler is finished"):
            state.finish()


class TestDecoding:
    @pytest.mark.parametrize(
        "options",
        [
            {"format": "WAV"},
            {"format": "WAV", "subtype": "FLOAT"},
            {"format": "FLAC"},
            {"format": "AIFF"},
            {"format": "OGG", "subtype": "VORBIS"},
            {"format": "OGG", "subtype": "OPUS"},
            {"format": "MP3"},
            {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.9},
        ],
        ids=lambda options: "-".join(map(str, options.values())),
    )
    def test_blocks_equal_the_whole_file(self, tmp_path: Path, options: dict) -> None:
        song = build_song(5, 48000, 2)
        path = tmp_path / "song"
        path.write_bytes(encode(song, 48000, **options))
        whole, rate = soundfile.read(path, dtype="float32")
        assert len(whole) > 3 * libsndfile_apex.BLOCK_NUM_SAMPLES
        for source in (path, path.read_bytes()):
            read, stream = read_native(source)
            assert (stream.sampling_rate, stream.num_channels, stream.warnings) == (rate, 2, [])
            assert stream.name == (str(path) if source is path else "<bytes>")
            assert np.array_equal(read, whole.mean(axis=1))

    @pytest.mark.parametrize(
        ("container", "codec"),
        [
            ("mp4", "aac"),
            ("adts", "aac"),
            ("matroska", "aac"),
            ("webm", "libopus"),
            ("asf", "wmav2"),
            ("mpegts", "aac"),
        ],
    )
    def test_ffmpeg_reads_what_libsndfile_cannot(self, tmp_path: Path, container: str, codec: str) -> None:
        path = tmp_path / "song"
        path.write_bytes(encode_with_av(container, codec))
        for source in (path, path.read_bytes()):
            read, stream = read_native(source)
            assert (stream.sampling_rate, stream.num_channels, stream.warnings) == (48000, 2, [])
            assert len(read) == pytest.approx(2 * 48000, abs=5000)
            spectrum = np.abs(np.fft.rfft(read[20000:68000]))
            assert np.argmax(spectrum) == 440
            assert np.sqrt(2 * np.mean(read[20000:68000] ** 2)) == pytest.approx(0.5, rel=0.05)

    def test_sound_of_a_video(self) -> None:
        read, stream = read_native(encode_with_av("mp4", "aac", num_video_frames=10))
        assert len(read) == pytest.approx(2 * 48000, abs=5000)
        assert stream.warnings == []

    def test_video_without_sound(self) -> None:
        with pytest.raises(AudioError, match=r"<bytes>: this MP4/M4A/QuickTime file contains no audio"):
            open_audio(encode_with_av("mp4", None, num_video_frames=5))

    def test_mp3_whose_length_is_not_stated_is_read_to_its_end(self) -> None:
        # libsndfile estimates the length from the first frames and stops there; loud frames come first here.
        song = np.concatenate([build_song(5, 44100), np.zeros(5 * 44100, np.float32)])
        data = encode(song, 44100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
        assert libsndfile_apex._count_mp3_samples(io.BytesIO(data))[1]
        bare = data[data.find(b"\xff\xfb", 4) :]
        num_samples, has_length = libsndfile_apex._count_mp3_samples(io.BytesIO(bare))
        assert not has_length
        assert len(soundfile.read(io.BytesIO(bare))[0]) < num_samples / 2
        read, stream = read_native(bare)
        assert len(read) == pytest.approx(10 * 44100, abs=5000)
        assert stream.warnings == []

    def test_mp3_behind_a_large_tag(self) -> None:
        data = encode(build_song(1, 44100), 44100, format="MP3")
        tag = b"ID3\x03\x00\x00" + bytes([0, 3, 0, 0]) + bytes(3 * 16384)
        tagged = libsndfile_apex._count_mp3_samples(io.BytesIO(tag + data))
        assert tagged == libsndfile_apex._count_mp3_samples(io.BytesIO(data))
        assert 44100 <= tagged[0] <= 44100 + 4 * 1152
        assert np.array_equal(read_native(tag + data)[0], read_native(data)[0])

    @pytest.mark.parametrize("options", [{"format": "MP3"}, {"format": "WAV"}, {"format": "FLAC"}], ids=str)
    def test_truncated_song_is_scored_as_far_as_it_decodes(self, tmp_path: Path, options: dict) -> None:
        data = encode(build_song(6, 44100), 44100, **options)
        path = tmp_path / "song"
        path.write_bytes(data[: len(data) // 2])
        read, stream = read_native(path)
        assert 1 < len(read) / 44100 < 3.5
        seconds = f"{len(read) / 44100:.1f}"
        assert stream.warnings == [
            f"the file declares 6.0 s but only {seconds} s decode; scored what decodes",
        ]

    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000], ids=hex)
    def test_wav_written_to_a_pipe_is_complete(self, size: int) -> None:
        data = bytearray(encode(build_song(1), 8000, format="WAV"))
        offset = data.find(b"data") + 4
        data[4:8] = data[offset : offset + 4] = size.to_bytes(4, "little")
        read, stream = read_native(bytes(data))
        assert len(read) == 8000
        assert stream.warnings == []

    def test_damaged_aac_keeps_what_decoded(self) -> None:
        data = bytearray(encode_with_av("adts", "aac", seconds=4))
        half = len(data) // 2
        data[half:] = np.random.default_rng(0).bytes(len(data) - half)
        read, stream = read_native(bytes(data))
        assert 1 < len(read) / 48000 < 4
        assert stream.warnings == [] or "scored what decodes" in stream.warnings[0]

    def test_decoder_error_in_mid_song(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class FailingConverter:
            def __init__(self, **options: Any) -> None:
                self.converter, self.num_calls = AudioResampler(**options), 0

            def resample(self, frame: Any) -> list:
                self.num_calls += 1
                if self.num_calls > 20:
                    raise ValueError("Frame does not match AudioResampler setup.")
                return self.converter.resample(frame)

        AudioResampler = av.AudioResampler  # noqa: N806
        monkeypatch.setattr(av, "AudioResampler", FailingConverter)
        read, stream = read_native(encode_with_av("adts", "aac"))
        assert 0 < len(read) < 30 * 1024
        assert stream.warnings == [
            "decoding failed after 0.4 s (Frame does not match AudioResampler setup.); scored what decodes"
        ]

    def test_tags_that_are_not_text(self) -> None:
        data = encode_with_av("mp4", "aac")
        damaged = data.replace(b"isom", b"i\xff\xf0m")
        assert damaged != data
        np.testing.assert_array_equal(read_native(damaged)[0], read_native(data)[0])

    def test_a_header_that_points_outside_the_file(self) -> None:
        data = bytearray(encode_with_av("asf", "wmav2"))
        data[48:52] = b"\xff\xff\xff\xff"
        with pytest.raises(AudioError, match=r"<bytes>: this WMA/ASF file cannot be decoded \(.*Is it complete\?"):
            open_audio(bytes(data))

    def test_channels_that_change_in_mid_song(self) -> None:
        mono, stereo = (encode(build_song(1, 44100, count), 44100, format="MP3") for count in (1, 2))
        parts = [data[data.find(b"\xff\xfb", 4) :] for data in (mono, stereo)]  # without the length of one of them
        read, stream = read_native(b"".join(parts))
        assert len(read) / 44100 == pytest.approx(2, abs=0.15)
        assert stream.warnings == []

    def test_a_rate_that_changes_in_mid_song(self) -> None:
        slow, fast = (encode_with_av("adts", "aac", sampling_rate=rate) for rate in (24000, 48000))
        read, stream = read_native(slow + fast)
        assert stream.sampling_rate == 24000
        assert len(read) / 24000 == pytest.approx(4, abs=0.3)
        assert "the sampling rate changes in mid-song; resampled to the first" in stream.warnings

    def test_headers_of_nothing_end(self) -> None:
        tags = b"ID3\x03\0\0\0\0\0\0" * 100
        handle = io.BytesIO(tags + b"\xff\xfb\x90\x00" + bytes(413))
        assert libsndfile_apex._count_mp3_samples(handle) == (0, False)
        chunks = b"RIFF\0\0\0\0WAVE" + b"LIST\0\0\0\0" * (libsndfile_apex.MAX_CHUNKS + 1)
        assert libsndfile_apex.measure_shortfall(io.BytesIO(chunks + b"data\0\0\x01\0" + bytes(9))) == 1
        frames = io.BytesIO((b"\xff\xf3\x14\xc4" + bytes(20)) * 1000)
        assert libsndfile_apex._count_mp3_samples(frames, max_seconds=1)[0] <= 24_000 + 576

    def test_nothing_decodes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = bytearray(encode(build_song(3, 44100), 44100, format="FLAC"))
        start = len(data) // 50
        data[start:] = bytes(len(data) - start)
        stream = open_audio(bytes(data))
        with pytest.raises(AudioError, match=r"<bytes>: cannot be decoded \(.*\)\. Is the file complete\?"):
            list(stream.blocks)

    def test_an_incomplete_container(self) -> None:
        # The index of an MP4 file stands at its end.
        data = encode_with_av("mp4", "aac")
        with pytest.raises(AudioError, match=r"<bytes>: this MP4/M4A/QuickTime file cannot be decoded .*complete"):
            open_audio(data[: len(data) // 2])

    @pytest.mark.parametrize("ending", ["mp3", "wav", "raw", "vox", "gsm", "au", "m4a"])
    def test_text_is_not_audio_whatever_its_name(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"song.{ending}"
        path.write_text("This is a sentence about a song.\n" * 500)
        with pytest.raises(AudioError, match=r"song\.\w+: is not in a format that this program reads; its first"):
            open_audio(path)

    @pytest.mark.parametrize(
        "text",
        [
            "#EXTM3U\n#EXTINF:1\n{}\n",
            "\ufeff\n#extinf:1\n{}\n",
            "[playlist]\nFile1={}\n",
            "ffconcat version 1.0\nfile '{}'\n",
            '<?xml version="1.0"?>\n<!-- a list -->\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">{}</MPD>',
            '<asx version="3.0"><ref href="{}"/></asx>',
            "v=0\no=- 0 0 IN IP4 127.0.0.1\n{}",
        ],
    )
    def test_playlists_are_not_followed(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "secret.wav").write_bytes(encode(build_song(1), 8000, format="WAV"))
        path = tmp_path / "list.mp3"
        path.write_text(text.format("secret.wav"))
        with pytest.raises(
            AudioError, match=r"list\.mp3: is an? .*, not a song\. Playlists are not followed; pass the"
        ):
            open_audio(path)

    @pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
    def test_archives_are_not_unpacked(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / "songs").mkdir()
        (tmp_path / "songs" / "song.wav").write_bytes(encode(build_song(1), 8000, format="WAV"))
        kind = {"tar.gz": "gztar", "tar.bz2": "bztar", "tar.xz": "xztar"}.get(ending, ending)
        archive = shutil.make_archive(str(tmp_path / "album"), kind, tmp_path / "songs")
        with pytest.raises(
            AudioError, match=r"album\.\S+: is an? \w+ archive, not a song\. Unpack it and pass the songs"
        ):
            open_audio(archive)

    def test_a_recorder_that_was_stopped(self) -> None:
        data = bytearray(encode(build_song(1), 8000, format="WAV"))
        offset = data.find(b"data") + 4
        for riff_size in (0, 0xFFFFFFFF, 36):
            data[4:8], data[offset : offset + 4] = riff_size.to_bytes(4, "little"), bytes(4)
            read, stream = read_native(bytes(data))
            assert len(read) == 8000
            assert stream.warnings == [
                "the header states no length, as when a recorder is stopped; read to the end of the file"
            ]

    @pytest.mark.parametrize("size", [0, 2**64 - 1])
    def test_an_rf64_file_without_a_length(self, size: int) -> None:
        data = bytearray(encode(build_song(1), 8000, format="RF64"))
        assert data[12:16] == b"ds64"
        data[28:36] = size.to_bytes(8, "little")
        read, stream = read_native(bytes(data))
        assert len(read) == 8000
        assert ["the header states no length" in warning for warning in stream.warnings] == [True]

    @pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 0])
    def test_opus_is_decoded_at_48_khz_whatever_its_header_says(self, rate: int) -> None:
        data = encode(build_song(2, 48000), 48000, format="OGG", subtype="OPUS")
        start = data.find(b"OpusHead") + 12
        changed = bytearray(data)
        for offset, content in byte_views._patch_ogg_page(data[:512], start, rate.to_bytes(4, "little")).items():
            changed[offset : offset + 4] = content
        assert changed != data
        read, stream = read_native(bytes(changed))
        assert (stream.sampling_rate, stream.warnings) == (48000, [])
        np.testing.assert_array_equal(read, read_native(data)[0])

    @pytest.mark.parametrize(
        "options",
        [
            {"format": "AIFF"},
            {"format": "AU"},
            {"format": "CAF"},
            {"format": "W64"},
            {"format": "RF64"},
            {"format": "WAV", "endian": "BIG"},
        ],
        ids=lambda options: "-".join(options.values()),
    )
    def test_a_cut_file_says_so_whatever_holds_it(self, options: dict) -> None:
        data = encode(build_song(6), 8000, **options)
        assert read_native(data)[1].warnings == []
        read, stream = read_native(data[: len(data) * 6 // 10])
        assert len(read) / 8000 == pytest.approx(3.6, abs=0.3)
        # Where a decoder drops the packet that is cut, the whole is estimated from what is left.
        (warning,) = stream.warnings
        assert re.fullmatch(
            r"the file declares (5\.[789]|6\.0) s but only 3\.\d s decode; scored what decodes", warning
        )

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_an_ogg_file_that_breaks_off(self, subtype: str) -> None:
        data = encode(build_song(6, 48000), 48000, format="OGG", subtype=subtype)
        read, stream = read_native(data[: len(data) * 6 // 10])
        assert 2 < len(read) / 48000 < 4.5
        assert stream.warnings == ["the file breaks off: its last page does not end the song; scored what decodes"]

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_joined_ogg_files_are_scored_to_their_end(self, subtype: str) -> None:
        parts = [encode(build_song(2, 48000, seed=seed), 48000, format="OGG", subtype=subtype) for seed in (1, 2)]
        read, stream = read_native(b"".join(parts))
        assert stream.warnings == []
        np.testing.assert_array_equal(read, np.concatenate([read_native(part)[0] for part in parts]))

    def test_joined_ogg_files_of_two_rates_say_what_is_left_out(self) -> None:
        parts = [encode(build_song(2, rate), rate, format="OGG", subtype="VORBIS") for rate in (16000, 48000)]
        read, stream = read_native(b"".join(parts))
        assert len(read) == 2 * 16000
        assert stream.warnings == [
            "song 2 of the 2 in this file is left out: its sampling rate is 48000 Hz, not 16000 Hz"
        ]

    @pytest.mark.parametrize("kind", ["WAV", "AIFF", "mp4", "FLAC", "adts"])
    def test_joined_files_of_other_kinds_are_scored_to_their_end(self, kind: str) -> None:
        if kind in ("WAV", "AIFF", "FLAC"):
            parts = [encode(build_song(2, 8000, seed=seed), 8000, format=kind) for seed in (1, 2, 3)]
        else:
            parts = [encode_with_av(kind, "aac", seconds=seconds) for seconds in (1, 2, 1.5)]
        read, stream = read_native(b"".join(parts))
        assert stream.warnings == []
        expected = np.concatenate([read_native(part)[0] for part in parts])
        if kind == "adts":  # one stream for the decoder
            assert len(read) == pytest.approx(len(expected), abs=4096)
        else:
            np.testing.assert_array_equal(read, expected)

    def test_a_joined_file_that_is_damaged(self) -> None:
        data = encode(build_song(2, 48000), 48000, format="OGG", subtype="VORBIS")
        read, stream = read_native(data + data[:200])
        assert len(read) == 2 * 48000
        assert len(stream.warnings) >= 1
        assert all("scored what decodes" in warning or "song 2 of the 2" in warning for warning in stream.warnings)

    def test_a_view_is_a_part_of_a_file(self) -> None:
        view = byte_views.build_view(io.BytesIO(b"0123456789"), 2, 8, patches={1: b"ab"})
        assert view.read() == b"2ab567"
        assert (view.seek(-2, io.SEEK_END), view.read(9), view.tell()) == (4, b"67", 6)
        assert (view.seek(1), view.seek(1, io.SEEK_CUR), view.read(1)) == (1, 2, b"b")
        with pytest.raises(OSError, match=r"a place in a file is not negative, got -1\."):
            view.seek(-1)

    def test_links_have_a_bound(self) -> None:
        data = encode(build_song(0.01), 8000, format="WAV")
        assert len(links.find_links(io.BytesIO(data * 1100), data)) == links.MAX_LINKS
        box = b"\0\0\0\x08ftyp" + b"\0\0\0\x08moov"
        assert links.find_links(io.BytesIO(box * 3 + bytes(8)), box) == [16, 32]
        assert links.find_links(io.BytesIO(data), data) == []

    def test_joined_mp3_files_are_scored_to_their_end(self) -> None:
        data = encode(build_song(4, 44100), 44100, format="MP3")
        tag = b"ID3\x03\0\0\0\0\x08\0" + bytes(1024)
        read, stream = read_native(tag + data + tag + data)
        assert len(read) / 44100 == pytest.approx(8, abs=0.1)
        assert all("scored what decodes" in warning for warning in stream.warnings)

    def test_a_flac_file_that_states_too_little(self) -> None:
        song = build_song(10, 44100)
        data = bytearray(encode(song, 44100, format="FLAC"))
        expected = read_native(bytes(data))[0]
        word = int.from_bytes(data[18:26], "big") >> 36 << 36 | 44100
        data[18:26] = word.to_bytes(8, "big")
        read, stream = read_native(bytes(data))
        assert stream.warnings == []
        np.testing.assert_array_equal(read, expected)

    def test_an_mp3_file_whose_tag_ends_it_is_complete(self) -> None:
        data = encode(build_song(2, 44100), 44100, format="MP3")
        ape = bytes(5000) + b"APETAGEX" + (2000).to_bytes(4, "little") + (5032).to_bytes(4, "little") + bytes(16)
        for tail in (b"TAG" + bytes(125), bytes(50_000), ape, ape + b"TAG" + bytes(125)):
            read, stream = read_native(data + tail)
            assert stream.warnings == []
            np.testing.assert_array_equal(read, read_native(data)[0])

    def test_an_mp3_file_without_a_count_is_complete(self) -> None:
        data = bytearray(encode(build_song(4, 44100), 44100, format="MP3"))
        start = max(data.find(b"Xing"), data.find(b"Info"))
        assert start > 0
        data[start + 7] &= 0xFE
        _, stream = read_native(bytes(data))
        assert stream.warnings == []
        assert not libsndfile_apex._count_mp3_samples(io.BytesIO(bytes(data)))[1]

    @pytest.mark.parametrize("share", [0.06, 0.5])
    def test_damaged_flac_keeps_what_decodes(self, share: float) -> None:
        data = bytearray(encode(build_song(6, 44100), 44100, format="FLAC"))
        start = round(len(data) * share)
        data[start : start + 300] = b"\x55" * 300
        read, stream = read_native(bytes(data))
        assert 5.5 < len(read) / 44100 < 6
        assert len(stream.warnings) == 1
        assert re.search(r"^(damaged near|\d+ damaged packets?).* s.*; scored what decodes$", stream.warnings[0])
        assert np.abs(read).max() < 1

    def test_damaged_aac_is_passed_over(self) -> None:
        data = bytearray(encode_with_av("mp4", "aac", seconds=6))
        start = data.find(b"mdat") + 4
        size = int.from_bytes(data[start - 8 : start - 4], "big")
        place = start + round(0.06 * size)
        data[place : place + 300] = b"\xff" * 300
        read, stream = read_native(bytes(data))
        assert len(read) / 48000 > 5.5
        assert stream.warnings == [] or "scored what decodes" in stream.warnings[0]

    def test_damage_has_a_bound(self) -> None:
        damage = ffmpeg.Damage(num_packets=10)
        packet = types.SimpleNamespace(duration=1024, time_base=1 / 48000)
        assert all(damage.note(packet) for _ in range(10 + ffmpeg.SPARE_BAD_PACKETS))
        assert not damage.note(packet)
        assert damage.describe() == ["61 damaged packets (1.3 s) passed over; scored what decodes"]
        assert ffmpeg.Damage(num_packets=10, num_bad=1, num_last=1).describe() == []

    def test_zeros_and_tags_before_a_song(self) -> None:
        mp3 = encode(build_song(1, 44100), 44100, format="MP3")
        expected = read_native(mp3)[0]
        id3 = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
        ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (100).to_bytes(4, "little") + bytes(16 + 100)
        for before in (bytes(700), id3 + id3, ape, id3 + bytes(300), bytes(5) + id3, bytes(9) + ape):
            np.testing.assert_array_equal(read_native(before + mp3)[0], expected)
        for container, codec in (("adts", "aac"), ("mp4", "aac"), ("asf", "wmav2")):
            song = encode_with_av(container, codec)
            np.testing.assert_array_equal(read_native(id3 + song)[0], read_native(song)[0])

    @pytest.mark.parametrize(("subtype", "code", "taken_for"), [("ALAW", 6, "PCM_U8"), ("FLOAT", 3, "PCM_32")])
    def test_what_is_no_pcm_in_wave64(self, subtype: str, code: int, taken_for: str) -> None:
        song = build_song(1, 8000, 2)
        expected = read_native(encode(song, 8000, format="WAV", subtype=subtype))[0]
        data = encode(song, 8000, format="W64", subtype=subtype)
        start = data.find(b"fmt ") + 24
        layout = struct.unpack("<HHIIHH", data[start : start + 16])
        # As FFmpeg writes it for many channels: the code of an extensible format, and the true one behind it.
        wide = (
            struct.pack("<HHIIHHHHIH", 0xFFFE, *layout[1:], 22, layout[5], 3, code)
            + b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
        )
        size = struct.unpack("<Q", data[start - 8 : start])[0]
        end = start - 24 + size + -size % 8
        data = data[: start - 8] + struct.pack("<Q", 24 + len(wide)) + wide + data[end:]
        assert soundfile.info(io.BytesIO(data)).subtype == taken_for
        np.testing.assert_allclose(read_native(data)[0], expected, atol=1e-6)

    def test_sizes_beyond_any_file(self, tmp_path: Path) -> None:
        path = tmp_path / "song"
        huge = (2**63 - 100).to_bytes(8, "little")
        path.write_bytes(b"riff\x2e\x91\xcf\x11" + bytes(32) + b"fmt " + bytes(12) + huge + bytes(900))
        with path.open("rb", buffering=0) as file:
            assert libsndfile_apex.measure_shortfall(file) == 1
            box = b"\0\0\0\x08ftyp\0\0\0\x01mdat" + (2**63 + 5).to_bytes(8, "big")
            path.write_bytes(box + bytes(900))
            assert links.find_links(file, box) == []

    def test_a_stream_that_begins_in_mid_file(self) -> None:
        class Container:
            """PyAV's demuxer fails on a packet of a stream that it has not met."""

            streams = types.SimpleNamespace(
                audio=[types.SimpleNamespace(codec_context=types.SimpleNamespace(name="aac"))]
            )
            turns = 0

            def demux(self, stream: Any) -> Any:
                self.turns += 1
                if self.turns == 1:
                    yield types.SimpleNamespace(decode=lambda: [frame])
                    raise IndexError("list index out of range")
                yield types.SimpleNamespace(decode=lambda: [frame, frame])

        frame = types.SimpleNamespace(samples=100, sample_rate=8000)
        damage = ffmpeg.Damage()
        assert list(ffmpeg._decode_frames(av, Container(), damage)) == [frame] * 3
        assert damage.num_bad == 1

    def test_mostly_damage_is_no_song(self) -> None:
        bad = types.SimpleNamespace(decode=lambda: [][0], duration=None)
        container = types.SimpleNamespace(
            streams=types.SimpleNamespace(
                audio=[types.SimpleNamespace(codec_context=types.SimpleNamespace(name="aac"))]
            ),
            demux=lambda stream: iter([bad] * 60),
        )
        with pytest.raises(ValueError, match=r"51 packets are damaged, the last with: list index out of range"):
            list(ffmpeg._decode_frames(av, container, ffmpeg.Damage()))

    @pytest.mark.parametrize("ending", ["g722", "GSM", "sbc", "aptxhd", "g726le", "s16le", "f64be", "u8", "aud"])
    def test_sound_without_a_header_is_refused_by_its_kind(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"song.{ending}"
        path.write_bytes(b"\xfa\xdb0\x96&\x93" * 100)
        with pytest.raises(
            AudioError,
            match=rf"not in a format that .* \(\.{ending}\) has no header .* `ffmpeg -i song\.{ending} song",
        ):
            open_audio(path)

    def test_zeros_without_end(self) -> None:
        with pytest.raises(AudioError, match="is not in a format that this program reads; its first bytes are"):
            open_audio(bytes(2 << 20))

    @pytest.mark.parametrize(
        ("container", "codec"),
        [
            ("wv", "wavpack"),
            ("tta", "tta"),
            ("ac3", "ac3"),
            ("eac3", "eac3"),
            ("nut", "mp2"),
            ("voc", "pcm_s16le"),
            ("ircam", "pcm_f64le"),
        ],
    )
    def test_rare_containers(self, container: str, codec: str) -> None:
        data = encode_with_av(container, codec)
        read, stream = read_native(data)
        assert (stream.sampling_rate, stream.num_channels, stream.warnings) == (48000, 2, [])
        assert np.argmax(np.abs(np.fft.rfft(read[20000:68000]))) == 440

    @pytest.mark.parametrize(
        ("container", "codec"),
        [
            *(("swf", "libmp3lame"), ("alp", "adpcm_ima_alp"), ("kvag", "adpcm_ima_ssi"), ("apm", "adpcm_ima_apm")),
            ("argo_asf", "adpcm_argo"),
        ],
    )
    def test_containers_of_games(self, container: str, codec: str) -> None:
        data = encode_with_av(container, codec, sampling_rate=22050)
        read, stream = read_native(data)
        assert (stream.sampling_rate, stream.num_channels, stream.warnings) == (22050, 2, [])
        assert np.argmax(np.abs(np.fft.rfft(read[10000:32050]))) == 440

    def test_a_compressed_wav_file_of_which_half_decodes_says_so(self) -> None:
        data = encode_with_av("wav", "mp2")
        place = data.index(b"fact") + 8
        assert read_native(data)[1].warnings == []
        lying = (
            data[:place] + struct.pack("<I", 2 * struct.unpack("<I", data[place : place + 4])[0]) + data[place + 4 :]
        )
        assert read_native(lying)[1].warnings[0].startswith("the file declares 4.0 s but only 2.0 s decode")

    def test_channels_in_an_order_of_their_own(self) -> None:
        # PyAV 18 freed their list twice, which ended the process.
        data = encode_with_av("caf", "adpcm_ima_qt")
        place = data.index(b"chan")
        (num_bytes,) = struct.unpack(">q", data[place + 4 : place + 12])
        right_left = b"".join(struct.pack(">II3f", label, 0, 0, 0, 0) for label in (2, 1))
        chunk = struct.pack(">4sqIII", b"chan", 12 + len(right_left), 0, 0, 2) + right_left
        read, stream = read_native(data[:place] + chunk + data[place + 12 + num_bytes :])
        assert (stream.num_channels, stream.warnings) == (2, [])
        assert np.argmax(np.abs(np.fft.rfft(read[20000:68000]))) == 440

    @pytest.mark.parametrize("layout", ["mono", "stereo"])
    def test_what_libsndfile_forgets_of_adpcm_in_aiff(self, layout: str) -> None:
        data = encode_with_av("aiff", "adpcm_ima_qt", layout=layout)
        read, _ = read_native(data)
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(read)) / 48000)
        assert len(read) == 96000
        assert np.sqrt(np.mean((read - tone) ** 2)) < 0.0022  # 0.0031 by libsndfile

    def test_nearly_silent(self) -> None:
        dither = (np.random.default_rng(0).integers(-1, 2, 8000) / 32768).astype(np.float32)
        assert read_native(dither, sampling_rate=8000)[1].warnings == [
            "the song is nearly silent: its peak is 90 dB below full scale"
        ]

    @pytest.mark.parametrize("offset", [0, -1])
    def test_channels_that_cancel(self, offset: int) -> None:
        left = np.random.default_rng(0).integers(-9000, 9000, 8000)
        song = (np.stack([left, offset - left], axis=1) / 32768).astype(np.float32)
        assert read_native(song, sampling_rate=8000)[1].warnings == [
            "the channels cancel each other: hardly anything is left of their mean"
        ]


class TestChild:
    """Decoders in a process of their own."""

    limits = AudioLimits(max_channels=12)

    @pytest.fixture
    def song(self) -> bytes:
        return encode_with_av("matroska", "aac", layout="7.1", seconds=8)

    @pytest.mark.parametrize("layout", ["5.1", "7.1"])
    def test_many_channels(self, layout: str) -> None:
        data = encode_with_av("mp4", "aac", layout=layout)
        with pytest.raises(AudioError, match=r"has [68] channels, but 1 to 2 are accepted"):
            open_audio(data)
        read, stream = read_native(data, limits=self.limits)
        assert stream.num_channels == sum(map(int, layout.split(".")))
        assert np.argmax(np.abs(np.fft.rfft(read[20000:68000]))) == 440

    def test_a_decoder_that_dies_costs_one_song(self, song: bytes) -> None:
        stream = open_audio(song, limits=self.limits)
        next(stream.blocks)
        worker = child.POOL.lent[-1]
        worker.process.kill()
        with pytest.raises(
            AudioError, match=r"<bytes>: the decoder of this WebM/Matroska file died \(SIGKILL\)\. The file is dam"
        ):
            list(stream.blocks)
        assert worker.process.returncode is not None
        assert len(read_native(song, limits=self.limits)[0]) > 7 * 48000

    def test_a_decoder_that_dies_in_opening(self, song: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        child.POOL.close()
        monkeypatch.setattr(child, "_COMMAND", "import os; os.abort()")
        with pytest.raises(AudioError, match=r"the decoder of this WebM/Matroska file died \((SIGABRT|exit status)"):
            open_audio(song, limits=self.limits)

    @pytest.mark.parametrize("work", ["import time; time.sleep(10**6)", "while True: pass"])
    def test_a_decoder_that_hangs_in_opening(self, song: bytes, monkeypatch: pytest.MonkeyPatch, work: str) -> None:
        child.POOL.close()
        monkeypatch.setattr(child, "_COMMAND", work)
        monkeypatch.setattr(child, "MAX_SILENT_SECONDS", 0)
        with pytest.raises(
            AudioError,
            match=r"the decoder of this WebM/Matroska file returned nothing for 0 s and was stopped\. The file",
        ):
            open_audio(song, limits=self.limits)

    def test_a_decoder_that_hangs_costs_one_song(self, song: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = open_audio(song, limits=self.limits)
        next(stream.blocks)
        worker = child.POOL.lent[-1]
        worker.process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(child, "MAX_SILENT_SECONDS", 0)
        with pytest.raises(AudioError, match=r"<bytes>: .* returned nothing for 0 s and"):
            list(stream.blocks)
        monkeypatch.undo()
        assert worker.process.returncode is not None
        assert len(read_native(song, limits=self.limits)[0]) > 7 * 48000

    def test_no_process_can_be_started(self, song: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        child.POOL.close()
        monkeypatch.setattr(child.sys, "executable", "/absent/python")
        with pytest.raises(AudioError, match=r"<bytes>: no process can be started to decode this WebM/Matroska file"):
            open_audio(song, limits=self.limits)

    def test_a_child_is_kept_and_ended(self, song: bytes) -> None:
        child.POOL.close()
        with open_audio(song, limits=self.limits) as stream:
            next(stream.blocks)
            worker = child.POOL.lent[-1]
        with open_audio(song, limits=self.limits) as stream:
            assert child.POOL.lent[-1] is worker
            assert len(list(stream.blocks)) > 1
        child.POOL.close()
        assert worker.process.returncode is not None

    def test_limits_hold_there(self, song: bytes) -> None:
        with pytest.raises(AudioError, match=r"lasts \d\.\d s or more, but the limit is 1 s"):
            read_native(song, limits=AudioLimits(max_channels=8, max_seconds=1))

    def test_what_does_not_decode_there_is_refused_by_name(self) -> None:
        with pytest.raises(AudioError, match=r"<bytes>: this WavPack file cannot be decoded \(.*Is it complete\?"):
            open_audio(b"wvpk" + bytes(range(256)) * 8)

    def test_threads_have_children_of_their_own(self, song: bytes) -> None:
        expected = read_native(song, limits=self.limits)[0]
        with ThreadPoolExecutor(3) as threads:
            for read, _ in threads.map(lambda data: read_native(data, limits=self.limits), [song] * 6):
                np.testing.assert_array_equal(read, expected)


class TestMissingPackages:
    @pytest.fixture
    def hide(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        real = importlib.import_module
        monkeypatch.setattr(ffmpeg, "_shown", set())

        def hide(hidden: str) -> None:
            def import_module(name: str, package: str | None = None) -> types.ModuleType:
                if name == hidden:
                    raise ImportError(f"No module named {name!r}")
                return real(name, package)

            monkeypatch.setattr(audio_limits_apex.importlib, "import_module", import_module)

        return hide

    def test_without_av_a_known_container_names_the_extra(self, hide: Callable[[str], None]) -> None:
        data = encode_with_av("mp4", "aac")
        hide("av")
        with pytest.raises(ImportError, match=r'<bytes>: to decode this MP4.*av is needed: .*"apex-music\[audio\]"'):
            open_audio(data)

    def test_without_av_an_mp3_is_refused_rather_than_cut_short(self, hide: Callable[[str], None]) -> None:
        song = np.concatenate([build_song(5, 44100), np.zeros(5 * 44100, np.float32)])
        data = encode(song, 44100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
        hide("av")
        assert open_audio(data).sampling_rate == 44100
        with pytest.raises(ImportError, match=r'to decode this MP3 file, av is needed: .*"apex-music\[audio\]"'):
            open_audio(data[data.find(b"\xff\xfb", 4) :])

    @pytest.mark.parametrize("command", ["score", "score-to-file", "embed"])
    def test_without_av_other_songs_are_scored(
        self,
        hide: Callable[[str], None],
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        caplog: pytest.LogCaptureFixture,
        command: str,
    ) -> None:
        songs = self.build_folder(tmp_path)
        hide("av")
        output = {"score": [], "embed": ["--output", str(tmp_path / "out")]}
        words = [
            command.partition("-")[0],
            str(songs),
            *output.get(command, ["--output", str(tmp_path / "out.jsonl")]),
        ]
        assert cli.main(words) == 1
        said = "".join(capsys.readouterr()) + caplog.text
        for name in ("a.m4a", "b.m4a"):
            assert re.search(rf"{name}: to decode this MP4.* file, av is needed", said)
        assert said.count("apex-music[audio]") == 1
        assert ("3.mp3" in said) if command == "score" else ("3 songs" in said)

    def test_without_av_what_is_left_out_is_said(self, hide: Callable[[str], None]) -> None:
        mp3 = encode(build_song(4, 44100), 44100, format="MP3")
        hide("av")
        read, stream = read_native(mp3 + b"ID3\x03\0\0\0\0\x08\0" + bytes(1024) + mp3)
        np.testing.assert_array_equal(read, read_native(mp3)[0])
        (warning,) = stream.warnings
        assert re.match(r"5\d % of the file's bytes are after the end .* do not decode \(.* av is needed", warning)

    def test_without_av_the_pipeline_reports(self, hide: Callable[[str], None], tmp_path: Path) -> None:
        songs = self.build_folder(tmp_path)
        hide("av")
        reports = list(load_pipeline()(sorted(map(str, songs.iterdir())), on_error="report"))
        errors = [report["error"] for report in reports if "error" in report]
        assert (len(reports), len(errors)) == (5, 2)
        assert "".join(errors).count("apex-music[audio]") == 1
        assert issubclass(ffmpeg.MissingDecoderError, AudioError)

    def build_folder(self, folder: Path) -> Path:
        (folder / "songs").mkdir()
        mp3, m4a = encode(build_song(1, 44100), 44100, format="MP3"), encode_with_av("mp4", "aac", seconds=1)
        for name in ("1.mp3", "2.mp3", "3.mp3", "a.m4a", "b.m4a"):
            (folder / "songs" / name).write_bytes(mp3 if name.endswith("mp3") else m4a)
        return folder / "songs"

    def test_without_av_unknown_content_is_not_audio(self, hide: Callable[[str], None]) -> None:
        hide("av")
        with pytest.raises(
            AudioError, match=r"<bytes>: is not in a format that this program reads; its first bytes are b'not"
        ):
            open_audio(b"not a song" * 100)

    def test_without_soundfile(self, hide: Callable[[str], None]) -> None:
        hide("soundfile")
        with pytest.raises(ImportError, match='soundfile is needed: pip install "soundfile"'):
            open_audio(b"RIFF" * 100)

    def test_without_soxr(self, hide: Callable[[str], None]) -> None:
        hide("soxr")
        with pytest.raises(ImportError, match='soxr is needed: pip install "soxr"'):
            resample(np.zeros(9), 8000, 24000, method="soxr")


class TestSources:
    song = build_song(0.5)
    stereo = build_song(0.5, num_channels=2)

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            (song, song),
            (song.astype(np.float64), song),
            (song[None], song),
            (song[:, None], song),
            (stereo, stereo.mean(axis=1)),
            (stereo.T, stereo.mean(axis=1)),
            (stereo[:2], stereo[:2].mean(axis=0)),
            (torch.from_numpy(song), song),
            (torch.from_numpy(stereo.T).requires_grad_(), stereo.mean(axis=1)),
            (torch.from_numpy(song).bfloat16(), torch.from_numpy(song).bfloat16().float().numpy()),
        ],
    )
    def test_arrays(self, source: Any, expected: np.ndarray) -> None:
        read, stream = read_native(source, sampling_rate=8000)
        assert stream.name == "<array>"
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, expected, atol=1e-7)

    @pytest.mark.parametrize("rate", [8000, 8000.0, np.int64(8000)])
    def test_dicts(self, rate: Any) -> None:
        for source in (
            {"array": self.song, "sampling_rate": rate},
            {"raw": self.song, "sampling_rate": rate},
            {"array": self.song.tolist(), "sampling_rate": rate, "path": None},
            {"bytes": encode(self.song, 8000, format="WAV", subtype="FLOAT"), "path": None},
        ):
            read, stream = read_native(source)
            assert stream.sampling_rate == 8000
            np.testing.assert_array_equal(read, self.song)

    def test_dict_of_a_dataset_that_does_not_decode(self, tmp_path: Path) -> None:
        data = encode(self.song, 8000, format="WAV", subtype="FLOAT")
        path = tmp_path / "song.wav"
        path.write_bytes(data)
        for source in ({"path": "song.wav", "bytes": data}, {"path": str(path), "bytes": None}):
            read, stream = read_native(source)
            assert stream.name == source["path"]
            np.testing.assert_array_equal(read, self.song)

    def test_decoder_objects(self) -> None:
        samples = types.SimpleNamespace(data=torch.from_numpy(self.stereo.T.copy()), sample_rate=8000)
        decoder = types.SimpleNamespace(get_all_samples=lambda: samples)
        np.testing.assert_allclose(read_native(decoder)[0], self.stereo.mean(axis=1), atol=1e-7)
        with pytest.raises(AudioError, match="<audio decoder>: `sampling_rate` is 44100, but this audio states"):
            open_audio(decoder, sampling_rate=44100)

    def test_file_objects_are_read_from_their_beginning(self, tmp_path: Path) -> None:
        data = encode(self.song, 8000, format="WAV", subtype="FLOAT")
        path = tmp_path / "song.wav"
        path.write_bytes(data)
        at_its_end = io.BytesIO(data)
        at_its_end.seek(0, io.SEEK_END)
        pipe = types.SimpleNamespace(read=io.BytesIO(data).read)
        with path.open("rb") as file:
            for source, name in ((at_its_end, "<file object>"), (pipe, "<file object>"), (file, str(path))):
                read, stream = read_native(source)
                assert stream.name == name
                np.testing.assert_array_equal(read, self.song)
            assert not file.closed
        assert not at_its_end.closed

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes(self, kind: type) -> None:
        data = encode(self.song, 8000, format="WAV", subtype="FLOAT")
        np.testing.assert_array_equal(read_native(kind(data))[0], self.song)

    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "song.wav").write_bytes(encode(self.song, 8000, format="WAV"))
        monkeypatch.setenv("HOME", str(tmp_path))
        with open_audio("~/song.wav") as stream:
            assert stream.name == "~/song.wav"

    def test_load_audio(self) -> None:
        loaded = load_audio(self.stereo, sampling_rate=8000, target_rate=24000)
        np.testing.assert_allclose(loaded, resample(self.stereo.mean(axis=1), 8000, 24000), atol=1e-6)
        soxr = load_audio(self.song, sampling_rate=8000, resampler="soxr")
        assert soxr.shape == (12000,)


class TestRefusals:
    def test_paths(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"No such audio file: .*absent\.mp3"):
            open_audio(tmp_path / "absent.mp3")
        with pytest.raises(
            IsADirectoryError, match=r"is a folder, not a song. Pass the files in it, or use `apex-mus"
        ):
            open_audio(tmp_path)
        (tmp_path / "empty.wav").touch()
        with pytest.raises(AudioError, match=r"empty\.wav: the file is empty \(0 bytes\)"):
            open_audio(tmp_path / "empty.wav")
        with pytest.raises(AudioError, match=r"/dev/null: not a regular file. Pass it as an open file"):
            open_audio("/dev/null")
        with pytest.raises(
            AudioError, match=r"s3://songs/a\.mp3: only http and https URLs are read. Download the song"
        ):
            open_audio("s3://songs/a.mp3")

    @pytest.mark.parametrize("name", ["loop.wav", "null\0.wav", "x" * 300 + ".wav"])
    def test_names_that_cannot_be_opened(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "loop.wav").symlink_to("loop.wav")
        with pytest.raises(AudioError, match=r"\.wav: cannot be opened \(.*\)\. Check the name and what it leads to"):
            open_audio(tmp_path / name)

    def test_the_home_of_nobody_is_a_name(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"No such audio file: ~nobody-has-this-name/x\.wav"):
            open_audio("~nobody-has-this-name/x.wav")

    def test_a_pipe_is_refused_without_waiting_for_a_writer(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.wav")
        with pytest.raises(AudioError, match=r"pipe\.wav: not a regular file"):
            open_audio(tmp_path / "pipe.wav")

    def test_what_takes_the_place_of_a_file_is_looked_at_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "song.wav"
        path.touch()
        regular = path.stat()
        path.unlink()
        os.mkfifo(path)
        monkeypatch.setattr(Path, "stat", lambda self, **options: regular)
        with pytest.raises(AudioError, match=r"song\.wav: not a regular file"):
            open_audio(path)

    def test_a_file_that_cannot_be_read(self) -> None:
        with pytest.raises(
            AudioError, match=r"/proc/self/mem: cannot be read \(.*\)\. Check the disk, or copy the file"
        ):
            open_audio("/proc/self/mem")

    @pytest.mark.parametrize("source", [None, 3, [0.1, 0.2], object()], ids=lambda source: type(source).__name__)
    def test_kinds(self, source: Any) -> None:
        with pytest.raises(TypeError, match=r"Cannot read audio from \w+. Pass a path, an http"):
            open_audio(source)

    def test_dicts(self) -> None:
        with pytest.raises(TypeError, match=r"The dict holds \['sound'\] and no audio. Pass a path"):
            open_audio({"sound": 1})
        with pytest.raises(TypeError, match="<array>: expected a numpy array or a torch tensor, got str"):
            open_audio({"array": "song.wav", "sampling_rate": 8000})
        with pytest.raises(
            AudioError, match="<array>: `sampling_rate` is 44100, but this audio states its own rate, 8"
        ):
            open_audio({"array": np.zeros(9), "sampling_rate": 8000}, sampling_rate=44100)

    def test_text_mode(self) -> None:
        with pytest.raises(
            TypeError, match=r"<file object>: reading gives str, not bytes\. Open the file in 'rb' mode"
        ):
            open_audio(io.StringIO("song"))

    def test_arrays(self) -> None:
        with pytest.raises(
            AudioError, match=r"<array>: an array does not carry a sampling rate. Pass `sampling_rate="
        ):
            open_audio(np.zeros(9))
        for integers in (np.zeros(9, np.int16), torch.zeros(9, dtype=torch.int32)):
            with pytest.raises(AudioError, match=r"samples are int\d\d, but must be floats.*array / 32768"):
                open_audio(integers, sampling_rate=8000)
        with pytest.raises(AudioError, match=r"the shape is \(1, 2, 9\), but must be \(samples,\)"):
            open_audio(np.zeros((1, 2, 9)), sampling_rate=8000)
        for empty in (np.zeros(0), np.zeros((2, 0)), np.zeros((0, 2))):
            with pytest.raises(AudioError, match="<array>: holds no samples"):
                open_audio(empty, sampling_rate=8000)

    @pytest.mark.parametrize("rate", [0, -8000, 8000.5, math.nan, math.inf, pytest.param(10**400, id="huge")])
    def test_rates_that_are_none(self, rate: float) -> None:
        with pytest.raises(
            AudioError, match=r"<array>: `sampling_rate` must be a positive whole number of hertz, got"
        ):
            open_audio(np.zeros(9), sampling_rate=rate)  # type: ignore[arg-type]

    @pytest.mark.parametrize("rate", ["8000", True])
    def test_rates_of_a_wrong_kind(self, rate: Any) -> None:
        with pytest.raises(TypeError, match=r"<array>: `sampling_rate` must be a number of hertz, got (str|bool)"):
            open_audio(np.zeros(9), sampling_rate=rate)

    def test_a_file_knows_its_own_rate(self) -> None:
        data = encode(build_song(0.1), 8000, format="WAV")
        assert open_audio(data, sampling_rate=8000).sampling_rate == 8000
        with pytest.raises(
            AudioError, match="<bytes>: `sampling_rate` is 16000, but this audio states its own rate, 80"
        ):
            open_audio(data, sampling_rate=16000)

    def test_a_file_without_samples(self) -> None:
        stream = open_audio(encode(np.zeros(0), 8000, format="WAV"))
        with pytest.raises(AudioError, match="<bytes>: holds no samples"):
            list(stream.blocks)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_samples_that_are_not_finite(self, value: float) -> None:
        song = build_song(20)
        song[100_000] = value
        for source in (
            {"array": song, "sampling_rate": 8000},
            encode(song, 8000, format="WAV", subtype="FLOAT"),
        ):
            with pytest.raises(AudioError, match=r"samples are NaN or infinite near 8\.2 s"):
                load_audio(source)

    def test_samples_that_overflow_in_the_filter(self) -> None:
        song = np.full(9000, 0.1, np.float32)
        song[8500] = -3e38
        for source in (song, encode(song, 8000, format="WAV", subtype="FLOAT")):
            stream = open_audio(source, sampling_rate=8000)
            with pytest.raises(AudioError, match=r"samples reach 3e\+38 near 0\.0 s, but belong between -1 and 1"):
                list(stream.blocks)

    def test_silence_is_allowed_and_said(self) -> None:
        for source in (np.zeros(8000), np.zeros((2, 8000))):
            with stream_segments(source, sampling_rate=8000, segment_seconds=1) as segments:
                assert [segment.samples.any() for segment in segments] == [False]
                assert segments.warnings == ["the song is silent"]


class TestLimits:
    song = build_song(2, num_channels=2)

    @pytest.mark.parametrize("format", ["WAV", "FLAC", None])
    def test_each_limit(self, format: str | None) -> None:
        source = encode(self.song, 8000, format=format) if format else {"array": self.song, "sampling_rate": 8000}
        for limits, message in (
            (
                AudioLimits(max_seconds=1.5),
                r"lasts 2\.0 s or more, but the limit is 1\.5 s.*\(max_seconds.*--max-seconds",
            ),
            (
                AudioLimits(max_bytes=500),
                r"\d+ bytes or more, but the limit is 500\. Raise it with AudioLimits\(max_bytes=.*\) or --max-meg",
            ),
            (
                AudioLimits(max_channels=1),
                r"has 2 channels, but 1 to 1 are accepted\. Mix it down first.* or --max-channels 2\.",
            ),
            (AudioLimits(max_sampling_rate=7999), r"sampling rate is 8000 Hz, but must lie between 4000 and 7999 Hz"),
            (AudioLimits(min_sampling_rate=8001), r"sampling rate is 8000 Hz, but must lie between 8001 and 384000"),
        ):
            with pytest.raises(AudioError, match=message):
                open_audio(source, limits=limits)

    def test_duration_is_watched_while_reading(self) -> None:
        # ADTS states no length.
        stream = open_audio(encode_with_av("adts", "aac"), limits=AudioLimits(max_seconds=1))
        with pytest.raises(AudioError, match=r"lasts \d\.\d s or more, but the limit is 1 s"):
            list(stream.blocks)

    def test_files_and_file_objects_have_a_size(self, tmp_path: Path) -> None:
        (tmp_path / "song.wav").write_bytes(encode(self.song, 8000, format="WAV"))
        pipe = types.SimpleNamespace(read=io.BytesIO(bytes(5000)).read)
        for source in (tmp_path / "song.wav", io.BytesIO(bytes(5000)), pipe):
            with pytest.raises(AudioError, match=r"bytes or more, but the limit is 4000"):
                open_audio(source, limits=AudioLimits(max_bytes=4000))

    def test_more_channels_on_request(self) -> None:
        song = build_song(1, num_channels=6)
        with pytest.raises(AudioError, match=r"has 6 channels, but 1 to 2 are accepted.*`array.mean\(axis=0\)`"):
            open_audio(song.T, sampling_rate=8000)
        with pytest.raises(AudioError, match="has 6 channels"):
            open_audio(encode(song, 8000, format="WAV"))
        limits = AudioLimits(max_channels=6)
        for source in (song, song.T):
            read, _ = read_native(source, sampling_rate=8000, limits=limits)
            np.testing.assert_allclose(read, song.mean(axis=1), atol=1e-6)

    @pytest.mark.parametrize("is_stated", [True, False])
    def test_hours_packed_into_kilobytes(self, monkeypatch: pytest.MonkeyPatch, is_stated: bool) -> None:
        monkeypatch.setattr(audio_limits_apex, "GRACE_SAMPLES", 100_000)
        song = bytearray(encode(np.zeros(400_000), 8000, format="FLAC"))
        if not is_stated:
            song[21:26] = bytes([song[21] & 0xF0, 0, 0, 0, 0])
        with pytest.raises(
            AudioError, match=r"its \d+ bytes unpack to \d+ samples or more, but the limit is 128 samples a byte"
        ):
            list(open_audio(bytes(song)).blocks)
        patient = AudioLimits(max_samples_per_byte=1000)
        assert len(load_audio(bytes(song), target_rate=8000, limits=patient)) == 400_000
        array = {"array": np.zeros(400_000), "sampling_rate": 8000}
        assert len(load_audio(array, target_rate=8000, limits=AudioLimits(max_samples_per_byte=0.01))) == 400_000

    def test_limits_have_kinds(self) -> None:
        with pytest.raises(TypeError, match=r"`AudioLimits.max_bytes` must be a number, got '2 GB'"):
            AudioLimits(max_bytes="2 GB")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"`AudioLimits.allow_private_addresses` must be true or false, got 1"):
            AudioLimits(allow_private_addresses=1)  # type: ignore[arg-type]

    def test_limits_are_positive(self) -> None:
        with pytest.raises(ValueError, match=r"`AudioLimits.max_seconds` must be positive, got 0"):
            AudioLimits(max_seconds=0)


class TestSegments:
    @settings(max_examples=50, deadline=None)
    @given(num_samples=st.integers(1, 400), length=st.integers(1, 120), pad_value=st.sampled_from([0.0, -1.0]))
    def test_split(self, num_samples: int, length: int, pad_value: float) -> None:
        song = build_song(1, num_samples)
        segments, num_real_samples = split_segments(song, length, pad_value=pad_value)
        assert segments.shape == (math.ceil(num_samples / length), length)
        assert num_real_samples.sum() == num_samples
        assert (num_real_samples[:-1] == length).all()
        np.testing.assert_array_equal(segments.reshape(-1)[:num_samples], song)
        assert (segments.reshape(-1)[num_samples:] == pad_value).all()

    def test_split_refusals(self) -> None:
        for wrong in (np.zeros(0), np.zeros((2, 9))):
            with pytest.raises(ValueError, match="`waveform` must be one-dimensional and not empty, got the shape"):
                split_segments(wrong, 3)
        with pytest.raises(ValueError, match="`segment_num_samples` must be positive, got 0"):
            split_segments(np.zeros(9), 0)

    @settings(max_examples=25, deadline=None)
    @given(num_samples=st.integers(1, 30_000), rate=st.sampled_from([8000, 24000, 44100]))
    def test_stream_equals_split(self, num_samples: int, rate: int) -> None:
        song = build_song(1, num_samples)
        expected, num_real_samples = split_segments(resample(song, rate, 24000), 2400)
        with stream_segments(song, sampling_rate=rate, segment_seconds=0.1) as stream:
            segments = list(stream)
        assert [segment.num_real_samples for segment in segments] == num_real_samples.tolist()
        assert [segment.start_sample for segment in segments] == [2400 * i for i in range(len(expected))]
        assert [segment.is_last for segment in segments] == [False] * (len(expected) - 1) + [True]
        np.testing.assert_allclose([segment.samples for segment in segments], expected, atol=2e-6)
        assert stream.num_real_samples == num_real_samples.sum()
        assert (stream.name, stream.sampling_rate, stream.num_channels) == ("<array>", rate, 1)

    @pytest.mark.parametrize("num_samples", [1, 399])
    def test_too_short(self, num_samples: int) -> None:
        song = build_song(1, num_samples)
        segments = stream_segments(song, sampling_rate=24000, minimum_num_samples=400)
        with pytest.raises(
            AudioError, match=rf"<array>: lasts 0\.0\d+ s \({num_samples} samples at 24000 Hz\), but at"
        ):
            list(segments)
        assert len(list(stream_segments(song, sampling_rate=24000, minimum_num_samples=num_samples))) == 1

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="`segment_seconds` must be at least one sample long, got 0"):
            stream_segments(np.zeros(9), sampling_rate=24000, segment_seconds=0)
        with pytest.raises(ValueError, match="`target_rate` must be a positive whole number of hertz, got 0"):
            stream_segments(np.zeros(9), sampling_rate=24000, target_rate=0)
        with pytest.raises(ValueError, match="Unknown resampler 'cubic'"):
            stream_segments(np.zeros(9), sampling_rate=24000, resampler="cubic")

    @pytest.mark.parametrize("is_exhausted", [True, False])
    def test_sources_are_closed(self, tmp_path: Path, is_exhausted: bool) -> None:
        path = tmp_path / "song.wav"
        path.write_bytes(encode(build_song(5), 8000, format="WAV"))
        segments = stream_segments(path, segment_seconds=1)
        handles = [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(path)]
        assert len(handles) == 1
        assert not next(segments).is_last
        if is_exhausted:
            assert len(list(segments)) == 4
        else:
            segments.close()
            assert list(segments) == []
        assert not [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(path)]

    def test_memory_does_not_grow_with_the_song(self, tmp_path: Path) -> None:
        peaks = []
        for minutes in (2, 2, 10):  # the first run pays for imports and the filter
            path = tmp_path / f"{minutes}.flac"
            path.write_bytes(encode(build_song(minutes * 60), 8000, format="FLAC"))
            tracemalloc.start()
            with stream_segments(path) as segments:
                assert sum(segment.num_real_samples for segment in segments) == minutes * 60 * 24000
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[2] - peaks[1] < 1e6

    def test_segments_are_float32_whatever_comes_in(self) -> None:
        song = build_song(1, 24000).astype(np.float64)
        segments, _ = split_segments(song[:50], 20)
        assert segments.dtype == np.float32
        with stream_segments(song, sampling_rate=24000, segment_seconds=0.3) as stream:
            assert {segment.samples.dtype for segment in stream} == {np.dtype(np.float32)}

    def test_defaults(self) -> None:
        assert [part.num_real_samples for part in stream_segments(build_song(31), sampling_rate=8000)] == [
            720_000,
            24_000,
        ]
        (single,) = stream_segments(np.ones(1, np.float32), sampling_rate=24000)
        assert (single.num_real_samples, single.is_last) == (1, True)

    def test_a_segment_may_be_one_sample(self) -> None:
        song = np.arange(3, dtype=np.float32) / 4
        parts = list(stream_segments(song, sampling_rate=24000, segment_seconds=1 / 24000))
        assert [part.samples.tolist() for part in parts] == [[0.0], [0.25], [0.5]]

    def test_limits_reach_the_decoder(self) -> None:
        limits = AudioLimits(max_channels=1)
        song = build_song(1, num_channels=2)
        for read in (stream_segments, load_audio):
            with pytest.raises(AudioError, match="2 channels"):
                read(song, sampling_rate=8000, limits=limits)

    def test_too_short_says_what_is_needed(self) -> None:
        segments = stream_segments(build_song(1, 12), sampling_rate=24000, minimum_num_samples=24)
        with pytest.raises(
            AudioError, match=r"0\.0005 s \(12 samples at 24000 Hz\), but at least 0\.0010 s \(24 samp"
        ):
            list(segments)
