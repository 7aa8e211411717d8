"""
A fuzz target: any bytes as a song, through decoding, resampling, splitting and the feature extractor.

Run by `make fuzz` (see `run_fuzz.py`), which gives it a folder of small valid songs to start from. Coverage is that of
this package's Python code. Whatever happens, the only way out but a result is an `AudioError`; a result is finite, has
the promised shapes, and is the same whether the song was read as a stream or as a whole.
"""

import sys

import atheris
import numpy as np

from modeling_apex.registration import RegisterAfterImport, hang_hooks

# The fuzzer instruments what Python's own loader loads, and this package's import hook loads in another way.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, RegisterAfterImport)]
with atheris.instrument_imports(include=["modeling_apex"]):
    from modeling_apex import download  # noqa: F401
    from modeling_apex.containers import opening  # noqa: F401
    from modeling_apex.inference import audio_apex, decoding_apex, libsndfile_apex, resampling_apex  # noqa: F401
    from modeling_apex.inference.audio_apex import load_audio, stream_segments
    from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
    from modeling_apex.inference.decoding_apex import MAX_AMPLITUDE
    from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor, normalize_segments
    from modeling_apex.inference.resampling_apex import RESAMPLERS

# What the package adds to decoding, which the import hook would have hung in.
hang_hooks(decoding_apex)

RATES = (24_000, 16_000, 44_100)
SEGMENT_SECONDS = 0.25
# A minute is enough to find a fault, and keeps the fuzzer from spending its time on silence.
LIMITS = AudioLimits(max_seconds=60)


def test_one_input(data: bytes) -> None:
    """Read bytes as a song; the last one chooses how."""
    choice = data[-1] if data else 0
    source, options = read_source(data[:-1], choice)
    options["resampler"] = RESAMPLERS[choice & 1]
    rate = RATES[(choice >> 1) % len(RATES)]
    try:
        with stream_segments(
            source, target_rate=rate, segment_seconds=SEGMENT_SECONDS, limits=LIMITS, **options
        ) as stream:
            segments = list(stream)
        whole = load_audio(source, target_rate=rate, limits=LIMITS, **options)
    except AudioError:
        return
    check_segments(segments, whole)
    if np.abs(whole).max() > MAX_AMPLITUDE:  # no song: just within the limit, and beyond it after resampling
        return
    extractor = ApexFeatureExtractor(rate, SEGMENT_SECONDS, minimum_num_samples=1)
    features = extractor(whole, sampling_rate=rate)
    assert features["input_values"].shape == (1, len(segments), extractor.segment_num_samples)
    assert np.isfinite(features["input_values"]).all()
    assert features["segment_mask"].all()


def read_source(content: bytes, choice: int) -> tuple[object, dict[str, object]]:
    """Return the song as a file's bytes, or one time in sixteen as an array of any numbers at any rate."""
    if choice >> 4 != 15:
        return content, {}
    rate = int.from_bytes(content[:3], "little")
    samples = np.frombuffer(content[3 : 3 + (len(content) - 3) // 4 * 4], np.float32) if len(content) > 3 else []
    return np.asarray(samples, np.float32), {"sampling_rate": rate}


def check_segments(segments: list, whole: np.ndarray) -> None:
    """Hold segments against the whole song that they were cut from."""
    joined = np.concatenate([segment.samples[: segment.num_real_samples] for segment in segments])
    assert len(joined) == len(whole), (len(joined), len(whole))
    assert [segment.is_last for segment in segments] == [False] * (len(segments) - 1) + [True]
    scale = max(1.0, float(np.abs(whole).max()))
    assert np.allclose(joined, whole, atol=1e-4 * scale), float(np.abs(joined - whole).max())
    assert np.isfinite(normalize_segments(np.stack([segment.samples for segment in segments]))).all()


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
