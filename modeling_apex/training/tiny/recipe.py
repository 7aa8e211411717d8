"""
The recipe of apex-tiny, the embedded default model: every choice that makes it, and nothing that is done with them.

What the recipe makes is `modeling_apex/pretrained/apex-tiny/`: songs are rendered by the synthetic world (`songs`); a
HuBERT-shaped encoder that starts as a filterbank (`filterbank`) and the usual heads are trained together, end to end,
from 24 kHz waveforms (`fitting`); songs that training never saw are scored by the same classes that score anything
else (`evaluation`), and the folder is written (`making`, `readme`). Run it with `make tiny` or
`python -m modeling_apex.training.tiny`; equal options on an equal machine give equal weights.
"""

from dataclasses import dataclass, field
from typing import Any

from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.training.tiny.songs import SAMPLING_RATE, SongSet

# 48 bands from a filterbank of 512 samples every 10 ms, then 25 frames a second into three small layers.
TINY_ENCODER: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "feat_extract_norm": "group",
    "feat_proj_layer_norm": True,
    "conv_dim": [2, 144, 96, 160],
    "conv_kernel": [1, 512, 4, 3],
    "conv_stride": [1, 240, 2, 2],
    "conv_bias": True,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "do_stable_layer_norm": True,
    "hidden_dropout": 0.05,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
}


@dataclass(frozen=True)
class TinyRecipe:
    """
    Hold every choice of the recipe.

    Args:
        num_training_songs (`int`): Songs to learn from: half with independent factors, half as generators make them.
        num_validation_songs (`int`): New songs, drawn as those to learn from: what scores are calibrated on.
        num_test_songs (`int`): Unseen songs of the training platforms, with independent factors.
        num_unseen_songs (`int`): Songs of the systems that training never hears, with independent factors.
        song_seconds (`float`): Length of every song.
        segment_seconds (`float`): Length of a segment, in training and in use.
        num_epochs (`int`): How often a segment of every song is heard.
        batch_size (`int`): Segments a step.
        learning_rate (`float`): Peak learning rate of AdamW.
        weight_decay (`float`): Of AdamW.
        warmup_share (`float`): Share of the steps in which the learning rate rises.
        clip_norm (`float`): Largest norm of the gradient.
        padded_share (`float`): Share of segments that end early in silence, as the last one of a song does.
        tail_share (`float`): Share of songs that are heard with such a segment after the first.
        seed (`int`): Seed of weights, order and training songs; test songs have seeds of their own.
        encoder (`dict`): Fields of the encoder's `HubertConfig`.
        shared_dims (`tuple[int, ...]`): Widths of the trunk.
        branch_dims (`tuple[int, ...]`): Widths of each head's branch.
    """

    num_training_songs: int = 3000
    num_validation_songs: int = 600
    num_test_songs: int = 400
    num_unseen_songs: int = 440
    song_seconds: float = 20.0
    segment_seconds: float = 10.0
    num_epochs: int = 4
    batch_size: int = 24
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    padded_share: float = 0.25
    tail_share: float = 0.25
    seed: int = 0
    encoder: dict[str, Any] = field(default_factory=lambda: dict(TINY_ENCODER))
    shared_dims: tuple[int, ...] = (192, 96)
    branch_dims: tuple[int, ...] = (48, 24)

    def build_song_sets(self) -> dict[str, SongSet]:
        """Build the four sets of songs; no two share a seed, so none shares a song."""
        known, unknown = ([system.name for system in group] for group in (PLATFORMS, ARENA_SYSTEMS))

        def build(name: str, num_songs: int, seed: int, systems: list[str], *draws: str) -> SongSet:
            return SongSet(name, num_songs, seed, tuple(systems), draws, self.song_seconds)

        return {
            "training": build("training", self.num_training_songs, self.seed, known, "independent", "natural"),
            "validation": build(
                "validation", self.num_validation_songs, self.seed + 3_000_003, known, "independent", "natural"
            ),
            "test": build("test", self.num_test_songs, self.seed + 1_000_001, known, "independent"),
            "unseen": build("unseen", self.num_unseen_songs, self.seed + 2_000_002, unknown, "independent"),
        }

    def build_config(self) -> ApexConfig:
        """Build the config of the model to train; the encoder learns."""
        return ApexConfig(
            encoder_config=self.encoder,
            layer_indices=list(range(self.encoder["num_hidden_layers"] + 1)),
            sampling_rate=SAMPLING_RATE,
            segment_seconds=self.segment_seconds,
            tail="weighted",
            shared_dims=self.shared_dims,
            branch_dims=self.branch_dims,
            dropout_shared=0.1,
            dropout_branch=0.05,
            freeze_encoder=False,
        )
