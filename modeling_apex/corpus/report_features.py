"""
The types of the reports in a `.jsonl` file, for `datasets`: JSON has none, and what is guessed from the first songs
does not fit the others where some failed. What comes in is the config of a model; what leaves are features.
"""

from typing import Any

from datasets import Features, List, Value


def build_report_features(
    config: Any, *, has_ids: bool = False, has_segments: bool = False, has_embedding: bool = False
) -> Features:
    """
    Build the features of the reports of a model.

    Args:
        config ([`ApexConfig`], [`SongEvalConfig`] or [`SpectrogramFusionConfig`]):
            The config of the model.
        has_ids (`bool`, defaults to `False`):
            Whether the songs were given with ids, in a table or a dataset.
        has_segments (`bool`, defaults to `False`), has_embedding (`bool`, defaults to `False`):
            Whether they were scored with `--segments` and `--embeddings`.

    Returns:
        `Features`: for `load_dataset("json", data_files=..., features=...)`.

    Example:

    ```python
    >>> from modeling_apex import load_scorer
    >>> from modeling_apex.corpus.report_features import build_report_features

    >>> features = build_report_features(load_scorer().model.config)
    ```
    """
    number, text = Value("float64"), Value("string")
    heads = [head["name"] for head in config.heads]
    reference = getattr(config, "reference", None) or {}
    has_percentiles = config.popularity_exponent is not None
    targets = [head["name"] for head in config.heads if has_percentiles and head["scale"] == "percentile"]
    scores = dict.fromkeys(heads, number)
    features: dict[str, Any] = {"id": text} if has_ids else {}
    features |= {"song": text, "scores": scores}
    features |= {name: dict.fromkeys(targets, number) for name in ("percentiles", "target_percentiles")}
    if ranks := reference.get("percentile_tables"):
        features["reference_percentiles"] = dict.fromkeys(ranks, number)
    if targets or ranks:
        features["percentile_basis"] = text
    if config.percentile_tables:
        features["training_percentiles"] = dict.fromkeys(config.percentile_tables, number)
    if intervals := reference.get("intervals"):
        features |= {"interval_level": number, "intervals": dict.fromkeys(intervals, List(number))}
    features |= {"ranges": dict.fromkeys(heads, List(number)), "groups": dict.fromkeys(heads, text)}
    features |= {"scales": dict.fromkeys(heads, text), "duration_seconds": number, "num_segments": Value("int64")}
    features |= {"model": {"id": text, "revision": text}, "warnings": List(text)}
    if getattr(config, "feature_names", None):
        features["features"] = dict.fromkeys(("given", "missing", "leaking"), List(text))
    if reference.get("novelty"):
        features["novelty"] = {"distance": number, "threshold": number, "is_novel": Value("bool")}
    if has_segments:
        features["segments"] = List({"start_seconds": number, "end_seconds": number, "scores": scores})
    if has_embedding:
        features["embedding"] = List(number)
    return Features({**features, "error": text})
