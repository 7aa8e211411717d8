"""
What a config may say: a check of each kind of field, and of an encoder against the other fields.

What comes in are the values of a config and the fields that its class declares; what leaves are the values that it
keeps, or an error that names the field, what it is and what it may be. `registration` hangs [`check_fields`] and
[`validate_encoder`] into the configs. No torch and no transformers.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modeling_apex.checkpoints.field_values import (
    check_bool,
    check_choice,
    check_float,
    check_int,
    check_ints,
    check_text,
)
from modeling_apex.checkpoints.limits import check_sizes, check_spectrogram_size
from modeling_apex.checkpoints.reference_checks import NUM_QUANTILES, check_reference
from modeling_apex.checkpoints.stored_fields import check_encoder_fields, check_extent, check_stored_fields
from modeling_apex.inference.configuration_fields_apex import list_fields
from modeling_apex.inference.heads_apex import DEFAULT_HEADS, GROUP_SCALES, HEAD_SCALES
from modeling_apex.inference.track_features_apex import FEATURE_KINDS, FUSION_HEADS, TRANSFORMS
from modeling_apex.registration import EMBEDDED_MODEL

MAX_HEADS = 1000
MAX_FEATURES = 1000
MAX_NAME = 200
MAX_CATEGORIES = 100_000
FEATURE_FIELDS = {
    "numeric": {"name", "kind", "transform", "is_leaking", "mean", "std"},
    "categorical": {"name", "kind", "is_leaking", "categories"},
}


def check_fields(config_class: Any, values: dict[str, Any]) -> dict[str, Any]:
    """
    Check the values of a config.

    Plain configs keep any unknown field, so a typo would silently leave the default in force: it is refused.

    Args:
        config_class (`type`):
            The class of the config, which declares the fields.
        values (`dict`):
            A value for each field, and whatever else the config says, which is for transformers.

    Returns:
        `dict`: the same with the values that the config keeps.

    Raises:
        `TypeError`, `ValueError`: If a field has a wrong value, or a name is a near miss.
    """
    declared = list_fields(config_class)
    check_extent(values)
    others = values.keys() - declared.keys()
    for name in others:
        if close := difflib.get_close_matches(name, declared, n=1, cutoff=0.8):
            raise ValueError(f"unknown config field `{name}`; did you mean `{close[0]}`?")
    check_stored_fields(config_class, {name: values[name] for name in others})
    if isinstance(encoder := values.get("encoder_config"), Mapping):
        check_encoder_fields(config_class.sub_configs["encoder_config"], encoder)
    heads = check_heads("heads", values["heads"]) if "heads" in declared else FUSION_HEADS
    known = [head["name"] for head in heads]
    tables = values["percentile_tables"]
    for name in tables if isinstance(tables, Mapping) else ():
        if name not in known:
            raise ValueError(f"`percentile_tables` names {name!r:.80}, but the heads are {', '.join(known)}.")
    if "reference" in declared:
        values["reference"] = check_reference("reference", values["reference"], known)
    checked = {name: CHECKS[field.kind](name, values[name], **field.bounds) for name, field in declared.items()}
    if "spectrogram" in declared:
        check_spectrogram_size(checked)
    return values | checked


def validate_encoder(config: Any) -> None:
    """
    Check that an encoder can be, and that the other fields of an [`ApexConfig`] fit it.

    Raises:
        `TypeError`: If a size of the encoder is not a whole number.
        `ValueError`: If a layer is not there, the heads have another width, a segment is shorter than a frame, or
            a size is beyond what a model can have.
    """
    check_sizes(config)
    num_layers = config.encoder_config.num_hidden_layers
    for index in config.layer_indices:
        if not -num_layers - 1 <= index <= num_layers:
            raise ValueError(
                f"`layer_indices` holds {index}, but the encoder has {num_layers} layers, so indices run from "
                f"{-num_layers - 1} to {num_layers} (0 is the input of the first layer)."
            )
    if config.input_dim is not None and config.input_dim != config.hidden_size:
        raise ValueError(
            f"`input_dim` is {config.input_dim} but the encoder's hidden size is {config.hidden_size}. The heads "
            "belong to another encoder: pass the `encoder_config` that they were trained behind."
        )
    if config.segment_num_samples < config.minimum_num_samples:
        raise ValueError(
            f"`segment_seconds` {config.segment_seconds} is {config.segment_num_samples} samples, fewer than the "
            f"{config.minimum_num_samples} that one frame of the encoder needs."
        )


# Each check takes the name of a field and a value, and returns what the config keeps, or says what is wrong.
def check_provenance(name: str, value: Any) -> dict[str, Any]:
    """Check what is shown to people, and what says where the parts of a model come from; the rest may be anything."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must be a dict, got {value!r:.80}.")
    stated: dict[str, Any] = dict(value or {})
    for shown in ("name", "notice"):
        check_text(f"{name}.{shown}", stated.get(shown), is_optional=True)
    for part in ("encoder", "heads", "base"):
        facts = stated.get(part)
        if facts is not None and not isinstance(facts, Mapping):
            raise TypeError(f"`{name}.{part}` must be a dict, got {facts!r:.80}.")
        if not isinstance((facts or {}).get("source") or "", str):
            raise TypeError(f"`{name}.{part}.source` must be a string, got {facts!r:.80}.")
    training = stated.get("training")
    if stated.get("name") == EMBEDDED_MODEL.name and isinstance(training, Mapping) and "arguments" in training:
        # Trained by a release that let name and warning of the base model stand: it is another model.
        stated = {key: entry for key, entry in stated.items() if key not in ("name", "notice")}
        stated["encoder"] = {"source": EMBEDDED_MODEL.name}
    return stated


def check_percentile_tables(name: str, tables: Any) -> dict[str, list[float]]:
    if tables is not None and not isinstance(tables, Mapping):
        raise TypeError(f"`{name}` must be a dict from score to quantiles, got {type(tables).__name__}.")
    checked = {}
    for head, table in (tables or {}).items():
        if isinstance(table, str) or not isinstance(table, Sequence) or len(table) != NUM_QUANTILES:
            raise ValueError(f"`{name}[{head!r}]` must be a list of {NUM_QUANTILES} quantiles.")
        values = [check_float(f"{name}[{head!r}]", value) for value in table]
        if values != sorted(values):
            raise ValueError(f"`{name}[{head!r}]` must not descend; quantiles run from lowest to highest.")
        checked[str(head)] = values
    return checked


def check_heads(name: str, heads: Any) -> list[dict[str, Any]]:
    heads = DEFAULT_HEADS if heads is None else heads
    if isinstance(heads, (str, Mapping)) or not isinstance(heads, Sequence):
        raise TypeError(
            f"`{name}` must be a list of dicts (a list, because its order is the order of the scores, and JSON does "
            f"not keep the order of a dict), got {type(heads).__name__}."
        )
    if not heads:
        raise ValueError(f"`{name}` is empty; a model needs at least one score.")
    if len(heads) > MAX_HEADS:
        raise ValueError(f"`{name}` has {len(heads)} entries, but at most {MAX_HEADS} are accepted.")
    checked = [_check_head(position, head) for position, head in enumerate(heads)]
    names = [head["name"] for head in checked]
    if len(set(names)) != len(names):
        raise ValueError(f"`{name}` names a score twice: {names}.")
    return checked


def _check_head(position: int, head: Any) -> dict[str, Any]:
    if not isinstance(head, Mapping) or {*head, "scale"} != {"name", "minimum", "maximum", "group", "scale"}:
        raise ValueError(
            f"head {position} must have exactly name, minimum, maximum and group, and may have a scale, got "
            f"{head!r:.200}."
        )
    name, place = head["name"], f"heads[{position}]"
    if not isinstance(name, str) or not name.isidentifier() or len(name) > MAX_NAME:
        raise ValueError(f"head {position}: `name` must be a plain identifier, got {name!r:.80}.")
    minimum, maximum = (check_float(f"{place}.{bound}", head[bound]) for bound in ("minimum", "maximum"))
    if not minimum < maximum:
        raise ValueError(f"head {name!r}: `minimum` {minimum} must be below `maximum` {maximum}.")
    group = check_choice(f"{place}.group", head["group"], tuple(GROUP_SCALES))
    scale = check_choice(f"{place}.scale", head.get("scale", GROUP_SCALES[group]), HEAD_SCALES)
    return {"name": name, "minimum": minimum, "maximum": maximum, "group": group, "scale": scale}


def check_features(name: str, features: Any) -> list[dict[str, Any]]:
    features = () if features is None else features
    if isinstance(features, (str, Mapping)) or not isinstance(features, Sequence):
        raise TypeError(
            f"`{name}` must be a list of dicts (a list, because its order is the order of the input columns), got "
            f"{type(features).__name__}."
        )
    if len(features) > MAX_FEATURES:
        raise ValueError(f"`{name}` has {len(features):,} entries, but at most {MAX_FEATURES:,} are accepted.")
    validated = [check_feature(position, feature) for position, feature in enumerate(features)]
    names = [feature["name"] for feature in validated]
    if len(set(names)) != len(names):
        raise ValueError(f"`{name}` names a feature twice: {names}.")
    return validated


def check_feature(position: int, feature: Any) -> dict[str, Any]:
    place = f"features[{position}]"
    if not isinstance(feature, Mapping):
        raise TypeError(f"`{place}` must be a dict, got {feature!r:.200}.")
    kind = check_choice(f"{place}.kind", feature.get("kind"), FEATURE_KINDS)
    if set(feature) != FEATURE_FIELDS[kind]:
        fields = ", ".join(sorted(FEATURE_FIELDS[kind]))
        raise ValueError(
            f"`{place}` is {kind} and must have exactly {fields}, got {', '.join(map(str, feature)):.200}."
        )
    name = feature["name"]
    if not isinstance(name, str) or not name.isidentifier() or len(name) > MAX_NAME:
        raise ValueError(f"`{place}.name` must be a plain identifier, got {name!r:.80}.")
    if not isinstance(feature["is_leaking"], bool):
        raise TypeError(f"`{place}.is_leaking` must be true or false, got {feature['is_leaking']!r}.")
    described = {"name": name, "kind": kind, "is_leaking": feature["is_leaking"]}
    if kind == "numeric":
        return {
            **described,
            "transform": check_choice(f"{place}.transform", feature["transform"], TRANSFORMS),
            "mean": check_float(f"{place}.mean", feature["mean"]),
            "std": check_float(f"{place}.std", feature["std"], above=0.0),
        }
    categories = feature["categories"]
    if isinstance(categories, str) or not isinstance(categories, Sequence) or not categories:
        raise TypeError(f"`{place}.categories` must be a list with at least one string, got {categories!r:.80}.")
    if len(categories) > MAX_CATEGORIES:
        raise ValueError(f"`{place}.categories` has {len(categories):,}; at most {MAX_CATEGORIES:,} can be.")
    if len(set(map(str, categories))) != len(categories) or not all(isinstance(name, str) for name in categories):
        raise ValueError(f"`{place}.categories` must be distinct strings, got {categories!r:.80}.")
    return {**described, "categories": list(categories)}


CHECKS: dict[str, Callable[..., Any]] = {
    "reference": lambda name, value: value,  # is checked together with the heads
    "anything": lambda name, value: value,
    "bool": check_bool,
    "choice": check_choice,
    "features": check_features,
    "float": check_float,
    "heads": check_heads,
    "int": check_int,
    "ints": check_ints,
    "percentile tables": check_percentile_tables,
    "provenance": check_provenance,
    "text": check_text,
}
