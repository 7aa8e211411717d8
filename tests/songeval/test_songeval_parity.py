"""Every stage of SongEval beside an independent float64 restatement, and beside transformers' own conformer."""

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from modeling_apex.inference.modeling_songeval_apex import SongEvalModel, compute_angles
from modeling_apex.inference.songeval_mel_apex import compute_log_mel

import reference_songeval as reference
from waveforms import make_waveform

NUM_HEADS = 4  # of the small conformer
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def song() -> np.ndarray:
    """Twelve seconds that begin with silence, so that a floor relative to the loudest band would show."""
    waveform = make_waveform(12.347)
    waveform[:30_000] = 0
    return waveform


@pytest.fixture(scope="module")
def states(song: np.ndarray, published) -> list[torch.Tensor]:
    return reference.hidden_states(song, reference.widen(published.weights), NUM_HEADS)


def compute_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs).norm() / theirs.norm())


@torch.no_grad()
def encode(model: SongEvalModel, song: np.ndarray) -> torch.Tensor:
    return model.encoder(compute_log_mel(torch.from_numpy(song)[None], model.config))


@torch.no_grad()
def test_every_stage_is_the_restated_one(model: SongEvalModel, song: np.ndarray, states, published) -> None:
    weights = reference.widen(published.weights)
    mel = compute_log_mel(torch.from_numpy(song)[None], model.config)
    assert compute_difference(mel, reference.log_mel(song)) <= TOLERANCE
    tokens = model.encoder.subsampling(mel)
    assert compute_difference(tokens, states[0]) <= TOLERANCE
    angles = compute_angles(tokens, NUM_HEADS, model.config.rotary_embedding_base)
    for layer, state in zip(model.encoder.layers, states[1:], strict=True):
        tokens = layer(tokens, angles)
        assert compute_difference(tokens, state) <= TOLERANCE
    pooled = reference.pool(states[-1], weights)
    embedding = model.head.embed_song(tokens)
    assert compute_difference(embedding, pooled) <= TOLERANCE
    scores = reference.score(pooled, weights)
    torch.testing.assert_close(model.head.score_song(embedding).double(), scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(model(torch.from_numpy(song)[None]).scores.double(), scores, rtol=0, atol=1e-4)
    assert scores.min() > 1.1  # far enough from the ends that a difference would show
    assert scores.max() < 4.9


@pytest.mark.parametrize("wrong", reference.WRONG_TURNS)
def test_a_wrong_turn_would_be_seen(wrong: str, model: SongEvalModel, song: np.ndarray, published) -> None:
    turned = reference.hidden_states(song, reference.widen(published.weights), NUM_HEADS, wrong)[-1]
    margin = 10 if wrong in reference.FAINT_TURNS else 100
    assert compute_difference(encode(model, song), turned) > margin * TOLERANCE


@pytest.mark.parametrize("wrong", reference.HEAD_WRONG_TURNS)
@torch.no_grad()
def test_a_wrong_turn_of_the_head_would_be_seen(wrong: str, model: SongEvalModel, states, published) -> None:
    weights = reference.widen(published.weights)
    right, turned = (reference.score(reference.pool(states[-1], weights, turn), weights) for turn in ("", wrong))
    scores = model.head.score_song(model.head.embed_song(states[-1].float())).double()
    torch.testing.assert_close(scores, right, rtol=0, atol=1e-4)
    assert (scores - turned).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_transformers_conformer_agrees(attention: str, model: SongEvalModel, song: np.ndarray, published) -> None:
    config = Wav2Vec2ConformerConfig(
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=NUM_HEADS,
        intermediate_size=48,
        hidden_act="swish",
        conv_depthwise_kernel_size=7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        position_embeddings_type="rotary",
        layerdrop=0.0,
        attn_implementation=attention,
    )
    encoder = Wav2Vec2ConformerEncoder(config).eval()
    encoder.layer_norm = torch.nn.Identity()
    prefix = "model.conformer.layers."
    layers = {
        name.removeprefix(prefix): weight for name, weight in published.weights.items() if name.startswith(prefix)
    }
    encoder.layers.load_state_dict({name: weight for name, weight in layers.items() if int(name.split(".")[0]) < 6})
    tokens = model.encoder.subsampling(compute_log_mel(torch.from_numpy(song)[None], model.config))
    theirs = encoder(tokens.clone()).last_hidden_state
    assert compute_difference(encode(model, song), theirs.double()) <= TOLERANCE


@pytest.mark.parametrize("num_samples", [1025, 1199, 1200, 2401, 24_000])
def test_short_songs_too(num_samples: int, model: SongEvalModel, published) -> None:
    song = make_waveform(1.0)[:num_samples]
    weights = reference.widen(published.weights)
    scores = reference.score(reference.pool(reference.hidden_states(song, weights, NUM_HEADS)[-1], weights), weights)
    torch.testing.assert_close(model(torch.from_numpy(song)[None]).scores.double(), scores, rtol=0, atol=1e-4)
