"""Random checkpoints in the exact layouts that MERT and APEX were published in: old names, pickles, no safetensors."""

import itertools
import json
from pathlib import Path

import torch

SCORE_NAMES = [
    "score_streams",
    "score_likes",
    "coherence",
    "musicality",
    "memorability",
    "clarity",
    "naturalness",
]
# The shape of MERT-v1-95M, and a small one with as many layers, so that the published layer indices exist.
MERT_95M = {
    "model_type": "mert_model",
    "architectures": ["MERTModel"],
    "auto_map": {"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"},
    "_name_or_path": "MERT-v1-95M",
    "torch_dtype": "float32",
    "transformers_version": "4.27.1",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "conv_bias": False,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "layer_norm_eps": 1e-5,
    "mask_time_prob": 0.05,
    "layerdrop": 0.1,
    "sample_rate": 24000,
    "feature_extractor_cqt": False,
    "deepnorm": False,
    "attention_relax": -1.0,
}
MERT_SMALL = {
    **MERT_95M,
    "_name_or_path": "MERT-small",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def build_encoder_weights(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random encoder weights under the old names, scaled so that signals keep their size through the layers."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        fan_in = max(1, int(torch.tensor(shape[1:]).prod())) if len(shape) > 1 else 1
        return torch.randn(shape, generator=generator) / fan_in**0.5

    weights: dict[str, torch.Tensor] = {}

    def add_linear(name: str, outputs: int, inputs: int) -> None:
        weights[f"{name}.weight"] = normal(outputs, inputs)
        weights[f"{name}.bias"] = 0.1 * normal(outputs)

    def add_norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.1 * normal(width)
        weights[f"{name}.bias"] = 0.1 * normal(width)

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    weights["masked_spec_embed"] = normal(hidden)
    inputs = 1
    for index, (width, kernel) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        prefix = f"feature_extractor.conv_layers.{index}"
        weights[f"{prefix}.conv.weight"] = 1.4 * normal(width, inputs, kernel)
        if config["feat_extract_norm"] == "layer" or index == 0:
            add_norm(f"{prefix}.layer_norm", width)
        if config["conv_bias"]:
            weights[f"{prefix}.conv.bias"] = 0.1 * normal(width)
        inputs = width
    add_norm("feature_projection.layer_norm", inputs)
    add_linear("feature_projection.projection", hidden, inputs)
    groups, kernel = config["num_conv_pos_embedding_groups"], config["num_conv_pos_embeddings"]
    weights["encoder.pos_conv_embed.conv.bias"] = 0.1 * normal(hidden)
    weights["encoder.pos_conv_embed.conv.weight_g"] = 1 + torch.rand(1, 1, kernel, generator=generator)
    weights["encoder.pos_conv_embed.conv.weight_v"] = normal(hidden, hidden // groups, kernel)
    add_norm("encoder.layer_norm", hidden)
    for index in range(config["num_hidden_layers"]):
        prefix = f"encoder.layers.{index}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add_linear(f"{prefix}.attention.{name}", hidden, hidden)
        add_norm(f"{prefix}.layer_norm", hidden)
        add_linear(f"{prefix}.feed_forward.intermediate_dense", inner, hidden)
        add_linear(f"{prefix}.feed_forward.output_dense", hidden, inner)
        add_norm(f"{prefix}.final_layer_norm", hidden)
    return weights


def build_head_weights(
    input_dim: int, shared: tuple[int, ...] = (512, 256), names: list[str] = SCORE_NAMES, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Random heads under the published names, with batch norm statistics as training leaves them: not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}

    def add_block(prefix: str, outputs: int, inputs: int) -> None:
        weights[f"{prefix}.0.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        weights[f"{prefix}.0.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        weights[f"{prefix}.1.weight"] = 1 + 0.2 * torch.randn(outputs, generator=generator)
        weights[f"{prefix}.1.bias"] = 0.2 * torch.randn(outputs, generator=generator)
        weights[f"{prefix}.1.running_mean"] = 0.3 * torch.randn(outputs, generator=generator)
        weights[f"{prefix}.1.running_var"] = 0.5 + torch.rand(outputs, generator=generator)
        weights[f"{prefix}.1.num_batches_tracked"] = torch.tensor(20650)

    widths = (input_dim, *shared)
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        add_block(f"shared.{index}.block", outputs, inputs)
    for name in names:
        add_block(f"branch_{name}.branch.0.block", 128, widths[-1])
        add_block(f"branch_{name}.branch.1.block", 64, 128)
        weights[f"branch_{name}.branch.2.weight"] = torch.randn(1, 64, generator=generator) / 4
        weights[f"branch_{name}.branch.2.bias"] = 0.1 * torch.randn(1, generator=generator)
    return weights


def write_mert_folder(folder: Path, config: dict = MERT_SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write a folder as `m-a-p/MERT-v1-95M` lies on the Hub, and return its weights."""
    folder.mkdir(parents=True)
    weights = build_encoder_weights(config, seed)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "modeling_MERT.py").write_text("raise RuntimeError('remote code must not run')\n")
    return weights


def write_apex_folder(
    folder: Path,
    mert: str,
    input_dim: int,
    *,
    segment_sec: float = 30,
    with_aggregator: bool = False,
    **fields: object,
) -> dict[str, torch.Tensor]:
    """Write a folder as `amaai-lab/apex` lies on the Hub, and return its weights."""
    folder.mkdir(parents=True)
    weights = build_head_weights(input_dim)
    config = {
        "model_type": "apex",
        "mert_model_name": mert,
        "layer_indices": [2, 5, 8, -1],
        "segment_sec": segment_sec,
        "seed": 42,
        "input_dim": input_dim,
        "shared_dims": [512, 256],
        "branch_dims": [128, 64],
        "dropout_shared": 0.3,
        "dropout_branch": 0.1,
        "auto_map": {"AutoConfig": "configuration_apex.APEXConfig", "AutoModel": "modeling_apex.APEXModel"},
        "architectures": ["APEXModel"],
        "epoch": 50,
        "val_loss": 398.77835954938615,
        **fields,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_apex.py").write_text("raise RuntimeError('remote code must not run')\n")
    (folder / "configuration_apex.py").write_text("raise RuntimeError('remote code must not run')\n")
    stored = dict(weights)
    if with_aggregator:
        torch.manual_seed(42)
        published = torch.nn.Conv1d(4, 1, kernel_size=1)
        stored |= {f"aggregator.{name}": value.detach() for name, value in published.named_parameters()}
    torch.save(stored, folder / "pytorch_model.bin")
    return weights


def write_best_model(path: Path, input_dim: int, **facts: object) -> dict[str, torch.Tensor]:
    """Write `models/best_model.pt` as the authors' training script saves it, and return its weights."""
    weights = build_head_weights(input_dim)
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}
    checkpoint = {
        "model_state": weights,
        "optimizer_state": optimizer,
        "epoch": 50,
        "val_loss": 398.77835954938615,
        "mode": "song",
        "task": "full",
        "shared": 2,
        "loss": "uncertainty",
        **facts,
    }
    torch.save(checkpoint, path)
    return weights
