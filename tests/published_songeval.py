"""Random checkpoints in the exact layouts that MuQ and SongEval's head were published in: names, shapes, configs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# MuQ-large-msd-iter's config.json; written by `write_muq_folder`, it is the published file byte for byte.
MUQ_LARGE: dict[str, Any] = {
    "label_rate": 25,
    "num_codebooks": 1,
    "codebook_dim": 16,
    "codebook_size": 8192,
    "features": ["melspec_2048"],
    "hop_length": 240,
    "n_mels": 128,
    "conv_dim": 512,
    "encoder_dim": 1024,
    "encoder_depth": 12,
    "mask_hop": 0.4,
    "mask_prob": 0.6,
    "is_flash": False,
    "stat": {
        "melspec_2048_cnt": 14282760192,
        "melspec_2048_mean": 6.768444971712967,
        "melspec_2048_std": 18.417922652295623,
    },
    "use_rvq_target": True,
    "use_vq_target": False,
    "use_encodec_target": False,
    "rvq_ckpt_path": None,
    "recon_loss_ratio": None,
    "resume_checkpoint": None,
    "rvq_n_codebooks": 8,
    "rvq_multi_layer_num": 1,
    "w2v2_config": {
        **{"activation_dropout": 0.1, "adapter_kernel_size": 3, "adapter_stride": 2, "add_adapter": False},
        **{"apply_spec_augment": True, "architectures": ["Wav2Vec2ConformerForCTC"], "attention_dropout": 0.1},
        **{"bos_token_id": 1, "classifier_proj_size": 256, "codevector_dim": 768, "conformer_conv_dropout": 0.1},
        **{"contrastive_logits_temperature": 0.1, "conv_bias": True, "conv_depthwise_kernel_size": 31},
        **{"conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]},
        **{"ctc_loss_reduction": "sum", "ctc_zero_infinity": False, "diversity_loss_weight": 0.1},
        **{"do_stable_layer_norm": True, "eos_token_id": 2, "feat_extract_activation": "gelu"},
        **{"feat_extract_dropout": 0.0, "feat_extract_norm": "layer", "feat_proj_dropout": 0.1},
        **{"feat_quantizer_dropout": 0.0, "final_dropout": 0.1, "gradient_checkpointing": False},
        **{"hidden_act": "swish", "hidden_dropout": 0.1, "hidden_dropout_prob": 0.1, "hidden_size": 1024},
        **{"initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05, "layerdrop": 0.0},
        **{"mask_feature_length": 10, "mask_feature_min_masks": 0, "mask_feature_prob": 0.0},
        **{"mask_time_length": 10, "mask_time_min_masks": 2, "mask_time_prob": 0.05, "max_source_positions": 5000},
        **{"model_type": "wav2vec2-conformer", "num_adapter_layers": 3, "num_attention_heads": 16},
        **{"num_codevector_groups": 2, "num_codevectors_per_group": 320, "num_conv_pos_embedding_groups": 16},
        **{"num_conv_pos_embeddings": 128, "num_feat_extract_layers": 7, "num_hidden_layers": 24},
        **{"num_negatives": 100, "output_hidden_size": 1024, "pad_token_id": 0},
        **{"position_embeddings_type": "rotary", "proj_codevector_dim": 768, "rotary_embedding_base": 10000},
        **{"tdnn_dilation": [1, 2, 3, 1, 1], "tdnn_dim": [512] * 4 + [1500], "tdnn_kernel": [5, 3, 3, 1, 1]},
        **{"torch_dtype": "float32", "transformers_version": "4.19.0.dev0", "use_weighted_layer_sum": False},
        **{"vocab_size": 32, "xvector_output_dim": 512},
    },
}
# The same layout with everything narrow: layers, names and the sizes that the mel front end fixes stay.
MUQ_SMALL: dict[str, Any] = {
    **MUQ_LARGE,
    "codebook_size": 64,
    "conv_dim": 4,
    "encoder_dim": 32,
    "w2v2_config": {
        **MUQ_LARGE["w2v2_config"],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "conv_depthwise_kernel_size": 7,
    },
}
SCORE_NAMES = ["coherence", "musicality", "memorability", "clarity", "naturalness"]


class _Weights(dict[str, torch.Tensor]):
    """Random tensors by name, scaled so that signals keep their size through the layers."""

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, *shape: int) -> torch.Tensor:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        return torch.randn(shape, generator=self.generator) / fan_in**0.5

    def add_map(self, name: str, *shape: int, gain: float = 1.0, has_bias: bool = True) -> None:
        self[f"{name}.weight"] = gain * self.draw(*shape)
        if has_bias:
            self[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=self.generator)

    def add_norm(self, name: str, width: int, *, has_statistics: bool = False) -> None:
        self[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=self.generator)
        self[f"{name}.bias"] = 0.1 * torch.randn(width, generator=self.generator)
        if has_statistics:
            self[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=self.generator)
            self[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.generator)
            self[f"{name}.num_batches_tracked"] = torch.tensor(75_000)


def build_muq_weights(config: dict[str, Any] = MUQ_SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random MuQ weights under the published names, with everything that SongEval does not need."""
    weights, shape = _Weights(seed), config["w2v2_config"]
    size, inner, channels = config["encoder_dim"], shape["intermediate_size"], config["conv_dim"]
    for block, inputs in enumerate((1, channels)):
        for conv, before in (("1", inputs), ("2", channels), ("3", inputs)):
            weights.add_map(f"model.conv.conv.{block}.conv{conv}", channels, before, 3, 3)
            weights.add_norm(f"model.conv.conv.{block}.bn{conv}", channels, has_statistics=True)
    weights.add_map("model.conv.linear", size, channels * config["n_mels"] // 4)
    for layer in range(config["encoder_depth"]):
        prefix = f"model.conformer.layers.{layer}"
        for part in ("1", "2"):
            weights.add_norm(f"{prefix}.ffn{part}_layer_norm", size)
            weights.add_map(f"{prefix}.ffn{part}.intermediate_dense", inner, size)
            weights.add_map(f"{prefix}.ffn{part}.output_dense", size, inner)
        weights.add_norm(f"{prefix}.self_attn_layer_norm", size)
        for part in ("q", "k", "v", "out"):
            weights.add_map(f"{prefix}.self_attn.linear_{part}", size, size)
        weights.add_norm(f"{prefix}.conv_module.layer_norm", size)
        weights.add_map(f"{prefix}.conv_module.pointwise_conv1", 2 * size, size, 1, has_bias=False)
        kernel = shape["conv_depthwise_kernel_size"]
        weights.add_map(f"{prefix}.conv_module.depthwise_conv", size, 1, kernel, has_bias=False)
        weights.add_norm(f"{prefix}.conv_module.batch_norm", size, has_statistics=True)
        weights.add_map(f"{prefix}.conv_module.pointwise_conv2", size, size, 1, has_bias=False)
        weights.add_norm(f"{prefix}.final_layer_norm", size)
    weights.add_norm("model.conformer.layer_norm", size)
    head_size = size // shape["num_attention_heads"]
    weights["model.conformer.embed_positions.inv_freq"] = 1 / 10_000 ** (torch.arange(0, head_size, 2) / head_size)
    groups, kernel = shape["num_conv_pos_embedding_groups"], shape["num_conv_pos_embeddings"]
    weights["model.conformer.pos_conv_embed.conv.bias"] = weights.draw(size)
    norm = "model.conformer.pos_conv_embed.conv.parametrizations.weight"
    weights[f"{norm}.original0"] = weights.draw(1, 1, kernel)
    weights[f"{norm}.original1"] = weights.draw(size, size // groups, kernel)
    weights.add_map("model.linear", config["codebook_size"], size)
    weights["model.cls_token"] = weights.draw(size)
    for book in range(config["rvq_n_codebooks"]):
        prefix = f"model.rvq.quantizers.{book}"
        for name, outputs, inputs in (("in_proj", 16, 512), ("out_proj", 512, 16)):
            weights[f"{prefix}.{name}.bias"] = weights.draw(outputs)
            weights[f"{prefix}.{name}.weight_g"] = weights.draw(outputs, 1, 1)
            weights[f"{prefix}.{name}.weight_v"] = weights.draw(outputs, inputs, 1)
        weights[f"{prefix}.codebook.weight"] = weights.draw(1024, 16)
        weights[f"{prefix}.stale_counter"] = torch.zeros(1024)
    return dict(weights)


def build_songeval_head(
    size: int = 32, inner: int = 48, num_outputs: int = 5, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Random weights of SongEval's head under the published names."""
    weights = _Weights(seed)
    for layer in range(4):
        weights[f"attn.{layer}.in_proj_weight"] = 1.5 * weights.draw(3 * size, size)
        weights[f"attn.{layer}.in_proj_bias"] = 0.1 * torch.randn(3 * size, generator=weights.generator)
        weights.add_map(f"attn.{layer}.out_proj", size, size, gain=1.5)
    weights.add_map("ffd.0", inner, size)
    weights.add_map("ffd.2", size, inner)
    weights.add_map("fc", num_outputs, 2 * size, gain=0.05)
    return dict(weights)


def write_muq_folder(
    folder: Path, config: dict[str, Any] = MUQ_SMALL, weights: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Write a folder as `OpenMuQ/MuQ-large-msd-iter` lies on the Hub, and return its weights."""
    folder.mkdir(parents=True)
    weights = build_muq_weights(config) if weights is None else weights
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, sort_keys=True, indent=2))
    return weights


def write_songeval_head(path: Path, weights: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Write `ckpt/model.safetensors` as it lies in SongEval's repository, and return its weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = build_songeval_head() if weights is None else weights
    save_file(weights, path)
    return weights
