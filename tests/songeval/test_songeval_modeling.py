"""SongEvalModel: blocks and batches change nothing, loudness counts, checkpoints are strict, refusals by name."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_apex.inference import modeling_songeval_apex, songeval_mel_apex
from modeling_apex.inference.configuration_songeval_apex import SongEvalConfig
from modeling_apex.inference.modeling_songeval_apex import SongEvalModel, map_blocks
from modeling_apex.inference.songeval_mel_apex import build_htk_filters, compute_log_mel

from waveforms import make_waveform

SMALL = {
    "subsampling_channels": 2,
    "encoder_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "head_intermediate_size": 8,
    "num_head_layers": 1,
    "num_head_attention_heads": 2,
}


def make_song(seconds: float = 2.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(make_waveform(seconds, seed=seed))[None]


def test_filters_are_those_of_the_htk_scale() -> None:
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(1025, 128, 0.0, 12_000.0, 24_000, norm=None, mel_scale="htk")
    torch.testing.assert_close(
        build_htk_filters(128, 2048, 24_000).double(), torch.from_numpy(theirs), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("block", [1, 7, 200])
def test_spectrogram_in_blocks_is_the_whole(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    song, config = make_song(1.99), SongEvalConfig()
    monkeypatch.setattr(songeval_mel_apex, "FRAMES_PER_BLOCK", 10**6)
    whole = compute_log_mel(song, config)
    monkeypatch.setattr(songeval_mel_apex, "FRAMES_PER_BLOCK", block)
    torch.testing.assert_close(compute_log_mel(song, config), whole, rtol=0, atol=1e-6)
    assert whole.shape == (1, 128, song.shape[1] // 240)


@pytest.mark.parametrize("num_frames", [1, 5, 39, 40, 41, 43, 44, 81, 205])
@torch.no_grad()
def test_subsampling_in_blocks_is_the_whole(
    num_frames: int, model: SongEvalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_songeval_apex, "FRAMES_PER_BLOCK", 40)
    mel = torch.randn(2, 128, num_frames, generator=torch.Generator().manual_seed(0))
    tokens, whole = model.encoder.subsampling(mel), model.encoder.subsampling.compute_tokens(mel)
    assert tokens.shape[1] == math.ceil(num_frames / 4)
    torch.testing.assert_close(tokens, whole, rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_shorter_halo_would_be_seen(model: SongEvalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_songeval_apex, "FRAMES_PER_BLOCK", 40)
    monkeypatch.setattr(modeling_songeval_apex, "HALO_FRAMES", 8)
    mel = torch.randn(1, 128, 205, generator=torch.Generator().manual_seed(0))
    difference = model.encoder.subsampling(mel) - model.encoder.subsampling.compute_tokens(mel)
    assert difference.abs().max() > 1e-4


def test_blocks_of_tokens_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_songeval_apex, "TOKENS_PER_BLOCK", 3)
    tokens, sizes = torch.randn(2, 10, 4), []

    def double(some: torch.Tensor) -> torch.Tensor:
        sizes.append(some.shape[1])
        return some * 2

    assert torch.equal(map_blocks(double, tokens), tokens * 2)
    assert sizes == [3, 3, 3, 1]


@torch.no_grad()
def test_songs_of_equal_length_share_a_batch(model: SongEvalModel) -> None:
    songs = torch.cat([make_song(seed=seed) for seed in range(3)])
    together = model(songs).scores
    alone = torch.cat([model(song[None]).scores for song in songs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


@torch.no_grad()
def test_padding_would_be_heard(model: SongEvalModel) -> None:
    """Why songs of different lengths are never padded to one batch: a second of zeros changes what came before it."""
    song = make_song()
    padded = torch.nn.functional.pad(song, (0, 24_000))
    alone, beside = (model.encoder(compute_log_mel(some, model.config)) for some in (song, padded))
    assert (alone - beside[:, : alone.shape[1]]).abs().max() > 1e-2
    assert (model(song).scores - model(padded).scores).abs().max() > 1e-3


@torch.no_grad()
def test_the_mean_of_parts_is_not_the_whole(model: SongEvalModel) -> None:
    song = make_song(4.0)
    parts = torch.stack([model(part).scores for part in song.split(48_000, dim=1)]).mean(0)
    assert (model(song).scores - parts).abs().max() > 1e-3


@torch.no_grad()
def test_loudness_counts(model: SongEvalModel) -> None:
    song = make_song()
    shift = compute_log_mel(song / 2, model.config) - compute_log_mel(song, model.config)
    assert shift.mean() == pytest.approx(10 * math.log10(0.25) / model.config.mel_std, abs=1e-4)
    assert (model(song / 2).scores - model(song).scores).abs().max() > 1e-3


@torch.no_grad()
def test_silence_has_scores(model: SongEvalModel) -> None:
    silence = torch.zeros(1, 24_000)
    mel = compute_log_mel(silence, model.config)
    assert mel.unique().tolist() == pytest.approx([-5.797], abs=1e-3)
    assert torch.isfinite(model(silence).scores).all()


@torch.no_grad()
def test_stored_embeddings_score_like_the_song(model: SongEvalModel) -> None:
    song = make_song()
    output = model(song, output_segment_scores=True)
    embeddings = model.compute_segment_embeddings(song)
    assert embeddings.shape == (1, model.config.hidden_size) == (1, 64)
    again = model(segment_embeddings=embeddings[:, None], return_dict=False)
    assert torch.equal(again[0], output.scores)
    assert torch.equal(output.song_embedding, embeddings)
    assert torch.equal(output.segment_scores, output.scores[:, None])
    assert model(song).segment_scores is None


@torch.no_grad()
def test_heads_are_data() -> None:
    heads = [{"name": f"score_{index}", "minimum": 0.0, "maximum": 10.0, "group": "aesthetics"} for index in range(7)]
    torch.manual_seed(0)
    model = SongEvalModel(SongEvalConfig(heads=heads, **SMALL))
    embeddings = torch.randn(3, 32)
    scores = model(segment_embeddings=embeddings[:, None]).scores
    assert scores.shape == (3, 7)
    torch.testing.assert_close(scores, 5 * torch.tanh(model.head.output(embeddings)) + 5)


@torch.no_grad()
def test_published_range_is_two_tanh_and_three(model: SongEvalModel) -> None:
    embeddings = torch.randn(4, 64)
    assert torch.equal(model.head.score_song(embeddings), torch.tanh(model.head.output(embeddings)) * 2.0 + 3)


def test_published_shape_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        model = SongEvalModel(SongEvalConfig())
    assert len(model.state_dict()) == 270
    num_counters = 12  # of batch norms
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 196_503_557 + num_counters


def test_model_stays_in_evaluation_mode(model: SongEvalModel) -> None:
    assert not any(module.training for module in model.train().modules())


@torch.no_grad()
def test_save_and_load_changes_not_a_bit(model: SongEvalModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "again")
    again = SongEvalModel.from_pretrained(tmp_path / "again")
    song = make_song()
    assert torch.equal(again(song).scores, model(song).scores)
    assert {name for name in again.config.to_dict() if name != "transformers_version"} == {
        name for name in model.config.to_dict() if name != "transformers_version"
    }


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_loading_is_strict(change: str, model: SongEvalModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del weights["head.output.bias"]
    elif change == "unexpected":
        weights["head.more"] = torch.zeros(2)
    else:
        weights["head.output.bias"] = torch.zeros(6)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=f"does not match SongEvalModel: .*{change}_keys.*head"):
        SongEvalModel.from_pretrained(tmp_path)


def test_a_new_model_is_ready_to_run() -> None:
    torch.manual_seed(0)
    model = SongEvalModel(SongEvalConfig(**SMALL))
    scores = model(make_song(0.5)).scores
    assert torch.isfinite(scores).all()
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("song", "error", "message"),
    [
        (torch.zeros(24_000), ValueError, r"expected `\(batch_size, num_samples\)`, got the shape \(24000,\)"),
        (torch.zeros(1, 24_000, dtype=torch.int16), TypeError, "samples must be floats .* got torch.int16"),
        (torch.zeros(1, 1024), ValueError, "a song of 1024 samples is too short: .* at least 1025"),
        (torch.zeros(1, 24_000 * 3), ValueError, "a song of 3.0 s is too long: .* lasts 2 s"),
        (torch.tensor([[0.0] * 2000, [math.nan] * 2000]), ValueError, r"songs \[1\] of the batch hold samples"),
        (torch.tensor([[math.inf] + [0.0] * 2000]), ValueError, r"songs \[0\] of the batch hold samples"),
    ],
)
def test_songs_are_refused_by_name(song: torch.Tensor, error: type, message: str, model: SongEvalModel) -> None:
    model.config.max_song_seconds = 2.0
    with pytest.raises(error, match=message):
        model(song)


def test_inputs_are_refused_by_name(model: SongEvalModel) -> None:
    with pytest.raises(ValueError, match="give either `input_values` or `segment_embeddings`"):
        model()
    with pytest.raises(ValueError, match="give either `input_values` or `segment_embeddings`"):
        model(make_song(), segment_embeddings=torch.zeros(1, 1, 64))
    with pytest.raises(ValueError, match=r"`segment_embeddings` are \(1, 2, 64\), but this model's are .* 1, 64\)"):
        model(segment_embeddings=torch.zeros(1, 2, 64))


def test_damaged_weights_are_named(model: SongEvalModel) -> None:
    with torch.no_grad():
        model.head.reduction.bias[0] = math.nan
    with pytest.raises(FloatingPointError, match="the model yields NaN or infinity"):
        model(make_song())
