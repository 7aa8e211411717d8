"""SongEvalConfig: the published shape by default, heads as data, refusals by name."""

import pytest

from modeling_apex.inference.configuration_songeval_apex import SongEvalConfig


def test_the_default_is_the_published_model() -> None:
    config = SongEvalConfig()
    assert config.head_names == ["coherence", "musicality", "memorability", "clarity", "naturalness"]
    assert {(head["minimum"], head["maximum"], head["group"]) for head in config.heads} == {(1.0, 5.0, "aesthetics")}
    assert (config.hidden_size, config.minimum_num_samples, config.max_num_samples) == (2048, 1025, 28_800_001)
    assert config.popularity_exponent is None
    assert config.is_whole_song


def test_a_config_survives_json() -> None:
    config = SongEvalConfig(max_song_seconds=90.0, provenance={"encoder": {"license": "cc-by-nc-4.0"}})
    assert SongEvalConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_pointers_to_code_are_dropped() -> None:
    config = SongEvalConfig(auto_map={"AutoModel": "x.Y"}, custom_pipelines={})
    assert not {"auto_map", "custom_pipelines"} & set(config.to_dict())


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"encoder_sise": 3}, ValueError, "unknown config field `encoder_sise`; did you mean `encoder_size`"),
        ({"encoder_size": 10**9}, ValueError, "`encoder_size` must be at most 16384"),
        ({"num_hidden_layers": 0}, ValueError, "`num_hidden_layers` must be at least 1"),
        ({"hop_size": 2.5}, TypeError, "`hop_size` must be an integer"),
        ({"mel_std": 0.0}, ValueError, "`mel_std` must be above 0"),
        ({"max_song_seconds": 90_000.0}, ValueError, "`max_song_seconds` must be below 21600"),
        ({"max_song_seconds": 0.01}, ValueError, "`max_song_seconds` 0.01 is 241 samples, fewer than the 1025"),
        ({"encoder_size": 1000}, ValueError, "`encoder_size` 1000 must be a multiple of 2 x `num_attention_heads` 16"),
        ({"num_head_attention_heads": 3}, ValueError, "multiple of 1 x `num_head_attention_heads` 3"),
        ({"conv_depthwise_kernel_size": 30}, ValueError, "`conv_depthwise_kernel_size` must be odd, got 30"),
        ({"hop_size": 4096}, ValueError, "`hop_size` 4096 is above `fft_size` 2048"),
        ({"heads": []}, ValueError, "`heads` is empty"),
        ({"percentile_tables": {"charm": [0.0] * 101}}, ValueError, "names 'charm', but the heads are coherence"),
    ],
)
def test_fields_are_refused_by_name(fields: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        SongEvalConfig(**fields)
