"""The weights of a HuBERT encoder by name and shape, from its config alone: no torch, nothing allocated."""

from typing import Any


def list_encoder_shapes(encoder: Any) -> dict[str, tuple[int, ...]]:
    """
    List the weights of a HuBERT encoder.

    Args:
        encoder (`HubertConfig` or any object with its attributes):
            The encoder's config.

    Returns:
        `dict[str, tuple[int, ...]]`: name and shape of each entry of `HubertModel`'s state dict.
    """
    size, wide = encoder.hidden_size, encoder.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    if encoder.mask_time_prob > 0 or encoder.mask_feature_prob > 0:
        shapes["masked_spec_embed"] = (size,)
    num_inputs = 1
    for index, (num_outputs, kernel) in enumerate(zip(encoder.conv_dim, encoder.conv_kernel, strict=True)):
        name = f"feature_extractor.conv_layers.{index}"
        add(f"{name}.conv", num_outputs, num_inputs, kernel, bias=encoder.conv_bias)
        if encoder.feat_extract_norm == "layer" or index == 0:
            add(f"{name}.layer_norm", num_outputs)
        num_inputs = num_outputs
    if encoder.feat_proj_layer_norm:
        add("feature_projection.layer_norm", num_inputs)
    add("feature_projection.projection", size, num_inputs)
    position, width = "encoder.pos_conv_embed.conv", encoder.num_conv_pos_embeddings
    kernel_shape = (size, size // encoder.num_conv_pos_embedding_groups, width)
    if getattr(encoder, "conv_pos_batch_norm", False):
        add(position, *kernel_shape)
        norm = "encoder.pos_conv_embed.batch_norm"
        add(norm, size)
        shapes |= {f"{norm}.running_mean": (size,), f"{norm}.running_var": (size,), f"{norm}.num_batches_tracked": ()}
    else:
        shapes[f"{position}.bias"] = (size,)
        shapes[f"{position}.parametrizations.weight.original0"] = (1, 1, width)
        shapes[f"{position}.parametrizations.weight.original1"] = kernel_shape
    add("encoder.layer_norm", size)
    adapter = getattr(encoder, "adapter_attn_dim", None) if encoder.do_stable_layer_norm else None
    for index in range(encoder.num_hidden_layers):
        name = f"encoder.layers.{index}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add(f"{name}.attention.{part}", size, size)
        add(f"{name}.layer_norm", size)
        add(f"{name}.feed_forward.intermediate_dense", wide, size)
        add(f"{name}.feed_forward.output_dense", size, wide)
        add(f"{name}.final_layer_norm", size)
        if adapter is not None:
            add(f"{name}.adapter_layer.norm", size)
            add(f"{name}.adapter_layer.linear_1", adapter, size)
            add(f"{name}.adapter_layer.linear_2", size, adapter)
    return shapes
