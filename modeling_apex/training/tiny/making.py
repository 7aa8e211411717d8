"""From nothing to the folder of apex-tiny: render songs, train, evaluate, write."""

import json
import platform
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.training.reference import build_reference
from modeling_apex.training.tiny.evaluation import evaluate_model, score_songs
from modeling_apex.training.tiny.fitting import build_model, train_model
from modeling_apex.training.tiny.readme import build_readme
from modeling_apex.training.tiny.recipe import TinyRecipe
from modeling_apex.training.tiny.songs import render_song_set
from modeling_apex.training.trained_model import build_percentile_tables

COMMAND = "python -m modeling_apex.training.tiny"
NOTICE = "demonstration model, trained on synthetic songs; name `amaai-lab/apex` for the published weights."


def save_model(model: ApexModel, results: dict[str, Any], folder: Path) -> None:
    """Write the model folder: weights, configs, `results.json`, `README.md`; the encoder is frozen from here on."""
    facts = ("command", "num_songs", "song_seconds", "num_epochs", "seed", "labels")
    model.config.provenance = {
        "name": "apex-tiny",
        "notice": NOTICE,
        "training": {name: results["training"][name] for name in facts},
    }
    model.config.freeze_encoder = True
    model.apply_encoder_freeze()
    model.save_pretrained(folder)
    ApexFeatureExtractor.from_config(model.config).save_pretrained(folder)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(build_readme(results), encoding="utf-8")


def make_model(
    recipe: TinyRecipe, songs_folder: Path, output: Path, num_processes: int | None = None
) -> dict[str, Any]:
    """
    Render, train, evaluate and save.

    Args:
        recipe ([`TinyRecipe`]), output (`Path`):
            The choices, and the folder of the model.
        songs_folder (`Path`), num_processes (`int`, *optional*):
            As for [`render_song_set`].

    Returns:
        `dict[str, Any]`: content of `results.json`.
    """
    torch.use_deterministic_algorithms(True)
    tables = {
        name: render_song_set(song_set, songs_folder, num_processes)
        for name, song_set in recipe.build_song_sets().items()
    }
    rendered = time.perf_counter()
    model = build_model(recipe, tables["training"])
    losses = train_model(model, tables["training"], recipe)
    trained = time.perf_counter()
    head_names = model.config.head_names
    third = replace(tables["training"], waveforms=tables["training"].waveforms[::3])  # a thousand songs tell quantiles
    model.config.percentile_tables = build_percentile_tables(score_songs(model, third)[0], head_names)
    scores, embeddings = score_songs(model, tables["validation"])
    validation = recipe.build_song_sets()["validation"]
    model.config.reference = build_reference(
        scores.astype(np.float32),
        head_names,
        name=f"new songs of {' and '.join(validation.systems)} that apex-tiny did not learn from",
        song_ids=[spec.song_id for spec in validation.plan()],
        labels=tables["validation"].labels.astype(np.float32),
        embeddings=embeddings,
    )
    results = {
        "model": "apex-tiny",
        "evaluations": evaluate_model(model, recipe, tables),
        "training": {
            "command": COMMAND,
            "labels": "aesthetics: means of 16 simulated raters; popularity: percentiles of simulated plays and likes",
            "num_songs": recipe.num_training_songs,
            "song_seconds": recipe.song_seconds,
            "num_epochs": recipe.num_epochs,
            "seed": recipe.seed,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "losses": losses,
            "training_seconds": round(trained - rendered, 1),
            "num_threads": torch.get_num_threads(),
            "recipe": asdict(recipe),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "numpy", "scipy")},
            },
        },
    }
    save_model(model, results, output)
    return results
