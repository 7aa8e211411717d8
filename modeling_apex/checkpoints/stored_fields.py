"""
What a config may say beside the fields that our classes declare: those of transformers, and those of the encoder.

What comes in is what a `config.json` says, before transformers makes a config of it; what leaves is nothing, or an
error that names the field. transformers takes any field of any kind: some allocate what they say (`num_labels`), some
stand in the place of a method, and most fail much later and far away. No torch and no transformers.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from modeling_apex.checkpoints.field_values import check_bool, check_choice, check_float, check_int, check_text
from modeling_apex.checkpoints.limits import ENCODER_BOUNDS, ENCODER_LIST_BOUNDS, check_size, check_size_list

MAX_LABELS = 10_000
MAX_DEPTH = 32
MAX_ENTRIES = 4_000_000
MAX_INTEGER = 2**31 - 1
NORMS = ("group", "layer")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "hardswish"),
    *("laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish"),
    "tanh",
)
DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "auto")


def check_stored_fields(config_class: Any, fields: Mapping[str, Any], place: str = "") -> None:
    """
    Check the fields that transformers reads of a config, and that no other one stands where the class has its own.

    Args:
        config_class (`type`):
            The class of the config.
        fields (`Mapping[str, Any]`):
            Fields that it does not declare itself.
        place (`str`, defaults to `""`):
            What stands before a field's name in messages, such as `"encoder_config."`.

    Raises:
        `TypeError`, `ValueError`: If a field has a wrong value, or a name that is no field's.
    """
    for name, value in fields.items():
        label = f"{place}{name}"
        if name in TRANSFORMERS_FIELDS:
            if value is not None or name in NEVER_NULL:
                TRANSFORMERS_FIELDS[name](label, value)
        elif hasattr(config_class, name) or name == "self":
            raise ValueError(f"`{label:.80}` is not a config field, and would shadow a method. Remove it.")


def check_encoder_fields(encoder_class: Any, fields: Mapping[str, Any]) -> None:
    """
    Check the fields of an encoder's config, before one is made of them.

    Raises:
        `TypeError`, `ValueError`: If a field has a wrong value.
    """
    place = "encoder_config."
    for name, maximum in ENCODER_BOUNDS.items():
        if name in fields:
            check_size(f"{place}{name}", fields[name], maximum)
    for name, maximum in ENCODER_LIST_BOUNDS.items():
        if name in fields:
            check_size_list(f"{place}{name}", fields[name], maximum)
    for name, check in ENCODER_CHECKS.items():
        if name in fields:
            check(f"{place}{name}", fields[name])
    checked = {*ENCODER_BOUNDS, *ENCODER_LIST_BOUNDS, *ENCODER_CHECKS}
    check_stored_fields(encoder_class, {name: fields[name] for name in fields.keys() - checked}, place)
    named = {
        name: value for name, value in fields.items() if name not in ("auto_map", "custom_pipelines", "model_type")
    }
    try:
        encoder_class(**named)
    except Exception as error:  # what else transformers checks, by errors of its own kinds
        raise ValueError(f"`encoder_config` cannot be: {' '.join(str(error).split()):.300}") from error


def check_extent(fields: Mapping[str, Any]) -> None:
    """
    Refuse fields that are nested too deep or have too many entries, whatever they mean.

    Raises:
        `ValueError`: If they are.
    """
    unseen: list[tuple[Any, int]] = [(fields, 0)]
    num_entries = 0
    while unseen:
        value, depth = unseen.pop()
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        num_entries += len(inner)
        if depth > MAX_DEPTH or num_entries > MAX_ENTRIES:
            raise ValueError(
                f"the config is nested deeper than {MAX_DEPTH} levels, or has more than {MAX_ENTRIES:,} entries."
            )
        unseen += [(entry, depth + 1) for entry in inner if isinstance(entry, (Mapping, list, tuple))]


def _check_integers(label: str, value: Any) -> None:
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        check_int(label, entry, maximum=MAX_INTEGER, is_optional=True)


def _check_share(label: str, value: Any) -> None:
    check_float(label, value, minimum=0.0)
    if value > 1:
        raise ValueError(f"`{label}` must be at most 1, got {value!r:.40}.")


def _check_texts(label: str, value: Any) -> None:
    for entry in value if isinstance(value, list) else [value]:
        check_text(label, entry)


def _check_implementation(label: str, value: Any) -> None:
    # In Python it may be a dict, with one for each part of a model.
    for entry in value.values() if isinstance(value, Mapping) else [value]:
        check_text(label, entry, is_optional=True)


def _check_path(label: str, value: Any) -> None:
    if not isinstance(value, (str, os.PathLike)):  # any name that a folder has
        raise TypeError(f"`{label}` must be a string, got {value!r:.80}.")


def _check_dtype(label: str, value: Any) -> None:
    # In Python it may be torch's own object, which no JSON can hold.
    if isinstance(value, str) or not type(value).__module__.startswith("torch"):
        check_choice(label, value.removeprefix("torch.") if isinstance(value, str) else value, DTYPES)


def _check_dict(label: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"`{label}` must be a dict, got {value!r:.80}.")


def _check_labels(label: str, value: Any) -> None:
    _check_dict(label, value)
    if len(value) > MAX_LABELS:
        raise ValueError(f"`{label}` has {len(value):,} entries, but at most {MAX_LABELS:,} are accepted.")
    numbers = value if label.endswith("id2label") else value.values()
    if not all(re.fullmatch(r"-?\d{1,9}", str(number)) for number in numbers):
        raise ValueError(f"`{label}` must number its labels, got {value!r:.80}.")


def _accept(label: str, value: Any) -> None:
    """Accept what is dropped unread."""


NEVER_NULL = ("chunk_size_feed_forward", "is_encoder_decoder", "num_labels", "model_type")
check_count = partial(check_int, minimum=0, maximum=MAX_INTEGER)
TRANSFORMERS_FIELDS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("auto_map", "custom_pipelines"), _accept),
    **dict.fromkeys(("output_hidden_states", "output_attentions", "return_dict"), check_bool),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "tie_word_embeddings", "torchscript"), check_bool),
    **dict.fromkeys(("name_or_path", "_name_or_path"), _check_path),
    **dict.fromkeys(("model_type", "_commit_hash", "transformers_version", "tokenizer_class"), check_text),
    **dict.fromkeys(("attn_implementation", "_attn_implementation", "experts_implementation"), _check_implementation),
    **dict.fromkeys(("dtype", "torch_dtype"), _check_dtype),
    **dict.fromkeys(("id2label", "label2id"), _check_labels),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), _check_integers),
    "architectures": _check_texts,
    "chunk_size_feed_forward": check_count,
    "num_labels": partial(check_int, minimum=0, maximum=MAX_LABELS),
    "problem_type": partial(check_choice, choices=PROBLEM_TYPES),
    "quantization_config": _check_dict,
}
# Sizes apart, which `limits` has: what HuBERT's config says, and of what kind it is.
ENCODER_CHECKS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("conv_bias", "conv_pos_batch_norm", "do_stable_layer_norm", "feat_proj_layer_norm"), check_bool),
    **dict.fromkeys(("apply_spec_augment", "ctc_zero_infinity", "use_weighted_layer_sum"), check_bool),
    **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"), _check_share),
    **dict.fromkeys(("final_dropout", "layerdrop", "mask_time_prob", "mask_feature_prob"), _check_share),
    **dict.fromkeys(("initializer_range", "layer_norm_eps"), _check_share),
    **dict.fromkeys(
        ("mask_time_length", "mask_time_min_masks", "mask_feature_length"),
        check_count,
    ),
    **dict.fromkeys(
        ("mask_feature_min_masks", "vocab_size", "classifier_proj_size"),
        check_count,
    ),
    **dict.fromkeys(("num_feat_extract_layers",), check_count),
    **dict.fromkeys(("hidden_act", "feat_extract_activation"), partial(check_choice, choices=ACTIVATIONS)),
    "feat_extract_norm": partial(check_choice, choices=NORMS),
    "ctc_loss_reduction": check_text,
}
