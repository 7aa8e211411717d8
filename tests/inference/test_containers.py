"""
Songs in every container that PyAV writes, against the sound that went in. It needs neither torch nor the fixtures, so
that it also runs, with the newest PyAV, on versions of Python for which torch would have to be fetched first:

    python -m pytest --noconftest tests/inference/test_containers.py
"""

import io

import av
import numpy as np
import pytest

from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
from modeling_apex.inference.decoding_apex import open_audio

LIMITS = AudioLimits(max_channels=8)
RATE = 48_000
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
MAX_FRAME_SAMPLES = 2_048
# Container, encoder, the channels that it takes; of more than six, PyAV before 19 is no sound encoder.
FORMATS = [
    ("ipod", "aac", (1, 2, 6)),
    ("adts", "aac", (1, 2, 6)),
    ("ipod", "alac", (1, 2, 6)),
    ("mov", "pcm_s16le", (1, 2, 6)),
    ("matroska", "pcm_s16le", (1, 2, 6)),
    ("matroska", "aac", (2,)),
    ("webm", "libopus", (1, 2, 6)),
    ("ogg", "libopus", (1, 2)),
    ("mp3", "libmp3lame", (1, 2)),
    ("mpegts", "mp2", (1, 2)),
    ("ac3", "ac3", (1, 2, 6)),
    ("eac3", "eac3", (2, 6)),
    ("asf", "wmav2", (1, 2)),
    ("flv", "aac", (2,)),
    ("avi", "pcm_s16le", (1, 2, 6)),
    ("wav", "pcm_s24le", (1, 2, 6)),
    ("aiff", "pcm_s16be", (1, 2, 6)),
    ("au", "pcm_s16be", (1, 2)),
    ("caf", "pcm_s16le", (1, 2, 6)),
    ("w64", "pcm_s16le", (1, 2, 6)),
    ("wv", "wavpack", (1, 2, 6)),
    ("tta", "tta", (1, 2, 6)),
    ("nut", "pcm_s16le", (2, 6)),
]
CASES = [
    pytest.param(container, encoder, count, id=f"{container}-{encoder}-{count}ch")
    for container, encoder, counts in FORMATS
    for count in counts
]


def make_song(num_channels: int, seconds: float = 0.7) -> np.ndarray:
    """Make float32 sound of shape `(num_samples, num_channels)` whose channels differ in notes and level."""
    times = np.arange(round(seconds * RATE)) / RATE
    # Rising tones fit in one place only.
    channels = [
        0.3 / (1 + channel % 3) * np.sin(2 * np.pi * (110 + 20 * channel + 500 * times) * times + channel)
        for channel in range(num_channels)
    ]
    song = np.stack(channels, axis=1).astype(np.float32)
    song[:, 3:4] = 0.0  # the channel of low tones, of which codecs keep no others
    return song


def encode(container: str, encoder: str, song: np.ndarray) -> bytes:
    """Encode a song as the muxer and the encoder of that name do."""
    file = io.BytesIO()
    layout = LAYOUTS[song.shape[1]]
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(encoder, rate=RATE, layout=layout, options={"strict": "-2"})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(song.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate = RATE
        # As the encoder wants its samples, in frames of the size that it wants.
        context = stream.codec_context
        context.bit_rate = 96_000 * song.shape[1]
        context.open()
        resampler = av.AudioResampler(format=context.format, layout=layout, rate=RATE, frame_size=context.frame_size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(("container", "encoder", "num_channels"), CASES)
def test_what_was_encoded_is_heard(container: str, encoder: str, num_channels: int) -> None:
    song = make_song(num_channels)
    with open_audio(encode(container, encoder, song), limits=LIMITS) as stream:
        heard = np.concatenate(list(stream.blocks))
    assert (stream.sampling_rate, stream.num_channels) == (RATE, num_channels)
    assert stream.warnings == []
    wanted = song.mean(axis=1)
    # What encoders put before and behind a song is at most a frame on either side.
    assert -MAX_FRAME_SAMPLES <= len(heard) - len(wanted) <= 2 * MAX_FRAME_SAMPLES
    products = np.correlate(heard, wanted[4_800:-4_800], mode="valid")
    start = int(np.argmax(products))
    part = heard[start : start + len(wanted) - 9_600]
    assert np.corrcoef(part, wanted[4_800:-4_800])[0, 1] > 0.99
    assert abs(start - 4_800) <= MAX_FRAME_SAMPLES


@pytest.mark.parametrize(("container", "encoder", "num_channels"), CASES)
def test_half_a_file_is_half_a_song_and_says_so(container: str, encoder: str, num_channels: int) -> None:
    data = encode(container, encoder, make_song(num_channels))
    try:
        with open_audio(data[: len(data) // 2], limits=LIMITS) as stream:
            heard = np.concatenate(list(stream.blocks))
    except AudioError:
        return  # a container that says at its end where its sound lies, or nothing that was whole
    assert 0 < len(heard) < 0.7 * RATE
    assert np.isfinite(heard).all()


BEGINNINGS = [
    *(pytest.param(encode(*case.values[:2], make_song(1, 0.05)), id=case.id) for case in CASES if case.values[2] == 1),
    pytest.param(b"OggS" + b"OpusHead".ljust(40, b"\1"), id="a name of Opus in the header of the page"),
    pytest.param(b"OggS".ljust(26, b"\0") + b"\1\x13OpusHead\1\2\0\0\x80\xbb\0\0\0\0\0", id="Opus"),
    pytest.param(b"RF64\xff\xff\xff\xffWAVEds64\0\0\0\0data\xff\xff\xff\xff" + bytes(40), id="RF64 without sizes"),
    pytest.param(b"RIFF\0\0\0\0WAVEdata\0\0\0\0" + bytes(40), id="WAV without a format"),
    pytest.param(b"ID3\4\0\x10\0\0\0\0" * 5 + b"APETAGEX" + bytes(24), id="tags"),
]


@pytest.mark.parametrize("data", BEGINNINGS)
def test_every_beginning_of_a_file_is_heard_or_refused(data: bytes) -> None:
    for length in (*range(1, min(len(data), 80)), *range(80, min(len(data), 600), 37)):
        try:
            with open_audio(data[:length], limits=LIMITS) as stream:
                assert all(np.isfinite(block).all() for block in stream.blocks)
        except AudioError as error:
            assert "<bytes>: " in str(error)  # noqa: PT017 (a file may also be heard)
