"""
The columns of a table of scores: what a model says of every song, so that they are there also where songs failed.

What comes in is the config of a model; what leaves are the names and types of the columns, in the order of
`flatten_report`. Tables of one model have one schema and can be joined.
"""

from typing import Any


def list_score_columns(config: Any) -> dict[str, str]:
    """
    List the columns of a table of scores.

    Args:
        config ([`ApexConfig`], [`SongEvalConfig`] or [`SpectrogramFusionConfig`]):
            The config of the model.

    Returns:
        `dict[str, str]`: name and type, `"string"`, `"double"`, `"int64"` or `"bool"`, of each column: `song`, the
        scores, `<score>_percentile`, `<score>_training_percentile`, `<score>_reference_percentile`,
        `<score>_target_percentile` and `percentile_basis` where the model has them, `<score>_low` and `<score>_high`
        of its intervals, `distance` and `is_novel`, `duration_seconds`, `num_segments`, `model_id`, `model_revision`,
        `warnings`, the track features where the model takes them, and `error`. Every column but `song`, `model_id`
        and `warnings` may be null.
    """
    has_percentiles = config.popularity_exponent is not None
    percentiles = [head["name"] for head in config.heads if has_percentiles and head["scale"] == "percentile"]
    reference = getattr(config, "reference", None) or {}
    intervals = [head["name"] for head in config.heads if head["name"] in reference.get("intervals", {})]
    has_basis = bool(percentiles or reference)
    features = ("given", "missing", "leaking") if getattr(config, "feature_names", None) else ()
    return (
        {"song": "string"}
        | {head["name"]: "double" for head in config.heads}
        | {f"{name}_percentile": "double" for name in percentiles}
        | {f"{name}_training_percentile": "double" for name in config.percentile_tables or {}}
        | {f"{name}_reference_percentile": "double" for name in reference.get("percentile_tables", {})}
        | {f"{name}_target_percentile": "double" for name in percentiles}
        | ({"percentile_basis": "string"} if has_basis else {})
        | {f"{name}_{end}": "double" for name in intervals for end in ("low", "high")}
        | ({"distance": "double", "is_novel": "bool"} if reference.get("novelty") else {})
        | {"duration_seconds": "double", "num_segments": "int64"}
        | dict.fromkeys(("model_id", "model_revision", "warnings"), "string")
        | {f"{name}_features": "string" for name in features}
        | {"error": "string"}
    )
