"""
Export a checkpoint as a self-contained Hub folder: weights, configs, the inference code, and a card.

Such a folder runs where this package is not installed: `trust_remote_code=True` loads the flat `*_apex.py` files that
lie beside the weights. They come from the installed package, never from another checkpoint's folder.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from modeling_apex.configuration_apex import ApexConfig
from modeling_apex.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.heads_apex import SCORE_MEANINGS
from modeling_apex.modeling_apex import ApexModel
from modeling_apex.output_folder import check_new_folder, write_new_folder
from modeling_apex.registration import FLAT_MODULES, TASK
from modeling_apex.report_apex import format_score

INFERENCE_FILES = tuple(f"{name.rpartition('.')[2]}.py" for name in FLAT_MODULES)
AUTO_MAP = {
    "AutoConfig": "configuration_apex.ApexConfig",
    "AutoFeatureExtractor": "feature_extraction_apex.ApexFeatureExtractor",
    "AutoModel": "modeling_apex.ApexModel",
}
CUSTOM_PIPELINES = {
    TASK: {"impl": "pipeline_apex.ApexPopularityPipeline", "pt": ["AutoModel"], "type": "audio"},
}


def export_model(model: str | os.PathLike | ApexModel, output: str | os.PathLike, **loading_options: Any) -> Path:
    """
    Write the Hub folder of a model.

    Args:
        model (`str`, `os.PathLike` or [`ApexModel`]):
            A folder, a Hub id, or a loaded model.
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.
        loading_options:
            Passed to `ApexModel.from_pretrained`.

    Returns:
        `Path`: the folder.

    Raises:
        `FileExistsError`: If the folder holds anything.
        [`OutputInUseError`]: If another run is writing it.
    """
    folder = check_new_folder(output)
    is_loaded = not isinstance(model, (str, os.PathLike))
    loaded: Any = model if is_loaded else ApexModel.from_pretrained(os.fspath(model), **loading_options)
    with write_new_folder(folder) as part:
        loaded.save_pretrained(part)
        ApexFeatureExtractor.from_config(loaded.config).save_pretrained(part)
        _update_json(part / "config.json", auto_map=AUTO_MAP, custom_pipelines=CUSTOM_PIPELINES)
        _update_json(
            part / "preprocessor_config.json", auto_map={"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]}
        )
        source = Path(__file__).parent
        for name in INFERENCE_FILES:
            shutil.copyfile(source / name, part / name)
        (part / "README.md").write_text(build_short_card(loaded.config), encoding="utf-8")
    return folder


def build_short_card(config: ApexConfig) -> str:
    """
    Write the card that every exported folder carries: what the scores are and how to load them.

    It states only what the config knows. Results, limits and licences come from result files, through `hub_card`.

    Args:
        config ([`ApexConfig`]):
            The exported model's config.

    Returns:
        `str`: Markdown with YAML front matter.
    """
    rows = "\n".join(
        f"| `{head['name']}` | {format_score(head['minimum'], 100)[:-2]} to {format_score(head['maximum'], 100)[:-2]} "
        f"| {SCORE_MEANINGS.get(head['name'], head['group'])} |"
        for head in config.heads
    )
    notice = f"> {config.provenance['notice']}\n\n" if config.provenance.get("notice") else ""
    return f"""---
library_name: transformers
pipeline_tag: audio-classification
tags:
- music
- apex
- song-popularity
- song-aesthetics
- arxiv:2605.03395
---

# APEX song scores

{notice}Scores of a song from its audio alone, after *APEX* (arXiv 2605.03395).

| score | range | meaning |
|---|---|---|
{rows}

```python
from transformers import pipeline

scorer = pipeline("apex-popularity", model="THIS_REPOSITORY", trust_remote_code=True)
print(scorer("song.mp3")["scores"])
```

Where the weights come from:

```json
{json.dumps(config.provenance, indent=2)}
```
"""


def _update_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **fields}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
