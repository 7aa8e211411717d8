"""
Export a checkpoint as a self-contained Hub folder: weights, configs, the inference code, and a card.

Such a folder runs where this package is not installed: `trust_remote_code=True` loads the flat `*_apex.py` files that
lie beside the weights. They come from the installed package, never from another checkpoint's folder, and are those
that scoring with this type of model needs, which transformers finds by looking at their imports.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import __version__ as transformers_version
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_apex import inference
from modeling_apex.checkpoints.component_licenses import (
    CODE,
    COMBINED_LICENSE_ID,
    COMBINED_LICENSE_NAME,
    LICENSES,
    SYNTHETIC_SONGS,
    Component,
    compute_combined_license,
    find_component,
)
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.report_apex import SCORE_MEANINGS, format_score
from modeling_apex.loading import load_model
from modeling_apex.model_names import find_model
from modeling_apex.registration import TASK
from modeling_apex.storage.markdown import build_table, escape_markdown
from modeling_apex.storage.output_folder import check_new_folder, write_new_folder

EXTRACTOR_CODE = "feature_extraction_apex.ApexFeatureExtractor"
# Which code of the folder makes a model of each type.
AUTO_MAPS = {
    "apex": {
        "AutoConfig": "configuration_apex.ApexConfig",
        "AutoFeatureExtractor": EXTRACTOR_CODE,
        "AutoModel": "modeling_apex.ApexModel",
    },
    "spectrogram-fusion": {
        "AutoConfig": "configuration_spectrogram_fusion_apex.SpectrogramFusionConfig",
        "AutoFeatureExtractor": EXTRACTOR_CODE,
        "AutoModel": "modeling_spectrogram_fusion_apex.SpectrogramFusionModel",
    },
    "songeval": {  # it hears songs whole: nothing cuts them
        "AutoConfig": "configuration_songeval_apex.SongEvalConfig",
        "AutoModel": "modeling_songeval_apex.SongEvalModel",
    },
}
SONGEVAL_SUMMARY = (
    "Aesthetic scores of a whole song from its audio, after *SongEval: A Benchmark Dataset for Song Aesthetics "
    "Evaluation*: the first layers of MuQ and an attention head. A song is neither cut nor normalised"
)
CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    TASK: {"impl": "pipeline_apex.ApexPopularityPipeline", "pt": ["AutoModel"], "type": "audio"},
}


def export_model(model: Any, output: str | os.PathLike[str]) -> Path:
    """
    Write the Hub folder of a model.

    Args:
        model (`str`, `os.PathLike`, [`ApexModel`], [`SpectrogramFusionModel`] or [`SongEvalModel`]):
            A folder, a Hub id, or a loaded model.
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.

    Returns:
        `Path`: the folder.

    Raises:
        `FileExistsError`: If the folder holds anything.
        [`OutputInUseError`]: If another run is writing it.
    """
    folder = check_new_folder(output)
    loaded: Any = load_model(model) if isinstance(model, (str, os.PathLike)) else model
    auto_map = AUTO_MAPS[loaded.config.model_type]
    with write_new_folder(folder) as part:
        loaded.save_pretrained(part)
        _update_json(part / "config.json", auto_map=auto_map, custom_pipelines=CUSTOM_PIPELINES)
        if "AutoFeatureExtractor" in auto_map:
            ApexFeatureExtractor.from_config(loaded.config).save_pretrained(part)
            _update_json(part / "preprocessor_config.json", auto_map={"AutoFeatureExtractor": EXTRACTOR_CODE})
        for path in list_code(loaded.config.model_type):
            shutil.copyfile(path, part / path.name)
        stated = None if loaded is model else _read_license(find_model(model))
        (part / "README.md").write_text(build_short_card(loaded.config, stated), encoding="utf-8")
    return folder


def list_code(model_type: str) -> list[Path]:
    """List the code that scores songs without this package: what the maps of a config name, and what that imports."""
    folder = Path(inference.__file__).parent
    entries = {*AUTO_MAPS[model_type].values(), *(task["impl"] for task in CUSTOM_PIPELINES.values())}
    paths = {folder / f"{entry.partition('.')[0]}.py" for entry in entries}
    return sorted(paths | {Path(found) for path in paths for found in get_relative_import_files(path)})


def build_short_card(config: Any, license_id: str | None = None) -> str:
    """
    Write the card that every exported folder carries, in Markdown: what the scores are and how to load them.

    It states only what the config knows, and the licence that the model's own card names. Results and limits come from
    result files, through `hub_card`.
    """
    rows = "\n".join(
        f"| `{head['name']}` | {format_score(head['minimum'], 100)[:-2]} to {format_score(head['maximum'], 100)[:-2]} "
        f"| {SCORE_MEANINGS.get(head['name'], head['group'])} |"
        for head in config.heads
    )
    notice = f"> {config.provenance['notice']}\n\n" if config.provenance.get("notice") else ""
    if config.model_type == "spectrogram-fusion":
        paper, title, summary = "2505.07280", "Spectrogram-fusion song scores", _describe_inputs(config)
    elif config.model_type == "songeval":
        paper, title, summary = "2505.10793", "SongEval song scores", SONGEVAL_SUMMARY
    else:
        paper, title, summary = "2605.03395", "APEX song scores", "Scores of a song from its audio alone, after *APEX*"
    title = config.provenance.get("name") or title
    front_matter, licences = _describe_licences(config.provenance, license_id)
    return f"""---
{front_matter}library_name: transformers
pipeline_tag: audio-classification
tags:
- music
- apex
- song-popularity
- song-aesthetics
- arxiv:{paper}
---

# {title}

{notice}{summary} (arXiv {paper}).

| score | range | meaning |
|---|---|---|
{rows}

{_describe_requirements(config.model_type)}

```python
from transformers import pipeline

scorer = pipeline("apex-popularity", model="THIS_REPOSITORY", trust_remote_code=True)
print(scorer("song.mp3")["scores"])
```

## Licences

{licences}

Where the weights come from:

```json
{json.dumps(config.provenance, indent=2)}
```
"""


def _describe_requirements(model_type: str) -> str:
    # SongEval hears what SoX's resampler makes of a song, and nothing else.
    readers = ["soundfile", "soxr"] if model_type == "songeval" else ["soundfile"]
    return (
        f"It runs where torch, transformers, numpy and {' and '.join(readers)} are installed (`pip install torch "
        f"transformers {' '.join(readers)}`; it was written with transformers {transformers_version}), and faster "
        "with the package apex-music."
    )


def _read_license(folder: str) -> str | None:
    """Return the licence that the card of a model's folder names, if it is one of which no more must be said."""
    from huggingface_hub import ModelCard

    try:
        stated = ModelCard.load(Path(folder) / "README.md", ignore_metadata_errors=True).data.license
    except Exception:  # no card, or none that can be read: it says nothing, as the export then shows
        return None
    return stated if str(stated) in LICENSES else None


def _describe_licences(provenance: Mapping[str, Any], license_id: str | None) -> tuple[str, str]:
    """Return what the front matter says of the licence, with its line break, and the section about it."""
    parts = [part for part in ("encoder", "heads") if (provenance.get(part) or {}).get("source")]
    sources = {part: str(provenance[part]["source"]) for part in parts}
    components = [
        Component(source, part, provenance[part].get("license"), is_in_weights=True)
        if provenance[part].get("license")
        else find_component(source) or Component(source, part, None, is_in_weights=True)
        for part, source in sources.items()
    ]
    if find_component(str(provenance.get("name", ""))):
        components.append(SYNTHETIC_SONGS)  # the embedded model itself
    elif provenance.get("training"):
        components.append(Component("what it was trained with", "songs and labels", None))
    if not components and license_id is None:
        return "", "No licence is stated for these weights. State it above, as `license:`."
    license_id = license_id or compute_combined_license([CODE, *components])
    rows, limits = [], []
    for part in (CODE, *components):
        license = LICENSES.get(part.license_id or "")
        shown = escape_markdown(part.license_id or "none stated")
        rows.append([part.role, escape_markdown(part.name), f"[{license.name}]({license.url})" if license else shown])
        if part.license_id and part.is_in_weights and not (license and license.allows_commercial_use):
            limits.append(part.role)
    note = f"\n\nThe licence of the {' and the '.join(limits)} excludes commercial use." if limits else ""
    front_matter = f"license: {license_id}\n"
    if license_id == COMBINED_LICENSE_ID:
        front_matter += f"license_name: {COMBINED_LICENSE_NAME}\nlicense_link: README.md#licences\n"
    return front_matter, build_table(["part", "from", "licence"], rows) + note


def _describe_inputs(config: Any) -> str:
    """Say what a spectrogram-fusion model listens to, and which of its features leak the target."""
    names = ", ".join(f"`{name}`" for name in config.feature_names)
    inputs = {
        "fused": f"its audio and its track features ({names or 'none'})",
        "audio": "its audio alone",
        "features": f"its track features alone ({names})",
    }[config.branches]
    leaking = ", ".join(f"`{name}`" for name in config.leaking_names)
    warning = f" Of these, {leaking} leak the target: they are computed from a track's success." if leaking else ""
    return (
        f"Popularity of a song from {inputs}, and the probability that it reaches {config.hit_threshold:g}, the "
        f"threshold of a hit.{warning} After *Predicting Music Track Popularity by Convolutional Neural Networks on "
        "Spotify Features and Spectrogram of Audio Waveform*"
    )


def _update_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **fields}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
