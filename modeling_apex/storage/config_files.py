"""
The JSON files that stand beside weights: what comes in is a file that may be anything; what leaves are its fields, or
an error that names the file and says what to do. `registration` hangs both readers into the classes that transformers
reads such files for.
"""

import json
import os
from pathlib import Path
from typing import Any

MAX_CONFIG_BYTES = 32 * 2**20


def read_config_file(path: str | os.PathLike) -> dict[str, Any]:
    """
    Read the fields of a `config.json`.

    Raises:
        `ValueError`: If it is too large, is no JSON, or does not hold fields by name.
    """
    if (num_bytes := os.path.getsize(path)) > MAX_CONFIG_BYTES:
        raise ValueError(f"{path}: {num_bytes:,} bytes, but a config has at most {MAX_CONFIG_BYTES:,}.")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}). Download the model again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type", ""), str):
        raise ValueError(
            f"{path}: must hold the fields of a config by name, `model_type` a text, got {content!r:.80}."
        )
    return content


def read_extractor_fields(source: str | os.PathLike, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Read the fields of a `preprocessor_config.json`, as `FeatureExtractionMixin.get_feature_extractor_dict` does.

    Raises:
        `ValueError`: If the file is no JSON, or does not hold fields by name.
        `OSError`: If it is not available.
    """
    from transformers.feature_extraction_utils import FeatureExtractionMixin
    from transformers.utils import FEATURE_EXTRACTOR_NAME

    is_folder = os.path.isdir(source)
    file = Path(source, options.get("subfolder") or "", FEATURE_EXTRACTOR_NAME) if is_folder else source
    if isinstance(file, Path) and file.is_file():
        read_config_file(file)
    try:
        fields, rest = FeatureExtractionMixin.get_feature_extractor_dict(source, **options)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not JSON ({error}). Download the model again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file}: must hold the fields of a feature extractor by name, got {fields!r:.80}.")
    return fields, rest
