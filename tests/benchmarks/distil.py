"""
Distillation on the synthetic world: how well a small student repeats a larger teacher, and what that costs in truth.

    python tests/benchmarks/distil.py

A teacher of twice apex-tiny's width and depth learns the exact labels of one world. It labels the songs of a second
world (`apex-music label`), and a student of apex-tiny's size learns what it said; the same student learns the exact
labels beside it. Both encoders are untrained, start as filterbanks and stay as they are: heads are what learns, on
stored embeddings, as in docs/from-raw-songs.md. Songs of the second world that no student learnt from tell how well
each follows the teacher and the truth, beside always saying the mean. Everything goes through the commands of the
package. Result: results/distillation.json.
"""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modeling_apex import ApexModel
from modeling_apex.cli import main as run_command
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.statistics.metrics import compute_head_results
from modeling_apex.training.evaluate import build_resampled_groups, predict_split
from modeling_apex.training.tiny.filterbank import initialize_front_end
from modeling_apex.training.tiny.recipe import TINY_ENCODER, TinyRecipe

RESULT = Path(__file__).parent / "results" / "distillation.json"
AESTHETICS = [str(head["name"]) for head in DEFAULT_HEADS if head["group"] == "aesthetics"]
METRICS = ("spearman", "mae")
TEACHER_ENCODER = {
    **TINY_ENCODER,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 768,
    "conv_dim": [2, 288, 192, 320],
}
SPLITS = "50:15:35"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-teacher-songs", type=int, default=400)
    parser.add_argument("--num-student-songs", type=int, default=480)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--num-epochs", type=int, default=100)
    parser.add_argument("--num-draws", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    output = arguments.output.absolute()  # the work is done in a folder of its own
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        measured = distil(arguments)
    result = {
        "command": "python tests/benchmarks/distil.py",
        "song_seconds": arguments.seconds,
        "num_epochs": arguments.num_epochs,
        "num_draws": arguments.num_draws,
        **measured,
    }
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def distil(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do all of it in the folder that is open, and return what was found."""
    worlds = {"teacher": arguments.num_teacher_songs, "student": arguments.num_student_songs}
    for seed, (world, num_songs) in enumerate(worlds.items()):
        size = ["--num-songs", str(num_songs), "--seconds", f"{arguments.seconds:g}", "--seed", str(seed)]
        draw = ["--factor-draw", "independent", "--num-processes", "1"]
        run("build", "synthetic", "--layout", "training", *size, *draw, "--output", f"{world}-world")
    parameters = {
        "teacher": build_untrained("teacher-start", TEACHER_ENCODER, arguments.seconds),
        "student": build_untrained("student-start", TINY_ENCODER, arguments.seconds),
    }
    teach("teacher", "teacher-world", "teacher-world/pseudo_labels.jsonl", "synthetic", "teacher-start", arguments)
    teacher = "teacher/run/best"
    run("label", "student-world/audio", "--teacher", teacher, "--output", "labels.parquet")
    teach("distilled", "student-world", "labels.parquet", "pseudo-labels", "student-start", arguments)
    exact = "student-world/pseudo_labels.jsonl"
    teach("informed", "student-world", exact, "synthetic", "student-start", arguments)
    return {
        "num_songs": {
            world: count_songs(f"{name}/embeddings")
            for world, name in (("teacher", "teacher"), ("student", "distilled"))
        },
        "num_parameters": parameters,
        "scores": compare(arguments.num_draws),
    }


def run(*words: str) -> None:
    """Give a command of `apex-music`, which must succeed."""
    status = run_command([os.fspath(word) for word in words])
    if status:
        raise SystemExit(f"apex-music {' '.join(words)} ended with status {status}, expected 0: see above.")


def build_untrained(folder: str, encoder: Mapping[str, Any], seconds: float) -> int:
    """Write a model that starts as a filterbank and has learnt nothing; return how many weights its encoder has."""
    torch.manual_seed(0)
    recipe = TinyRecipe(encoder=dict(encoder), segment_seconds=seconds)
    config = recipe.build_config()
    config.freeze_encoder = True
    model = ApexModel(config)
    initialize_front_end(model.encoder, config.sampling_rate)
    model.save_pretrained(folder)
    ApexFeatureExtractor.from_config(config).save_pretrained(folder)
    return sum(weight.numel() for weight in model.encoder.parameters())


def teach(name: str, world: str, labels: str, source: str, start: str, arguments: argparse.Namespace) -> None:
    """Build a dataset with these labels, embed it, and train heads on it: `NAME/dataset`, `embeddings` and `run`."""
    songs = ["--source", f"{world}/metadata.jsonl", f"{world}/audio", "--labels", labels, "--label-source", source]
    splits = ["--split-method", "quota", "--splits", SPLITS, "--license", "cc0-1.0", "--num-workers", "1"]
    run("build", "training", *songs, *splits, "--output", f"{name}/dataset")
    run("embed", f"{name}/dataset", "--model", start, "--output", f"{name}/embeddings")
    size = ["--num-epochs", str(arguments.num_epochs), "--batch-size", "64", "--report-to", "none"]
    run("train", f"{name}/embeddings", "--preset", "improved", *size, "--output", f"{name}/run")


def count_songs(embeddings: str) -> dict[str, int]:
    """Return how many songs each split has."""
    return {name: split.num_songs for name, split in open_embedding_store(embeddings).splits.items()}


def compare(num_draws: int) -> dict[str, Any]:
    """Return, per score, how each judge of the songs held out follows the teacher and the truth."""
    stores = {
        "teacher": open_embedding_store("distilled/embeddings"),
        "truth": open_embedding_store("informed/embeddings"),
    }
    held_out = stores["truth"].get_split("test")
    for store in stores.values():
        assert store.get_split("test").list_values("id") == held_out.list_values("id")
    wanted = {name: store.get_split("test").build_labels(AESTHETICS) for name, store in stores.items()}
    learnt = {name: store.get_split("train").build_labels(AESTHETICS) for name, store in stores.items()}
    said = {"teacher": wanted["teacher"]}
    for name in ("distilled", "informed"):
        model = ApexModel.from_pretrained(f"{name}/run/best").eval()
        said[name] = predict_split(model, held_out)[:, [model.config.head_names.index(head) for head in AESTHETICS]]
    groups = build_resampled_groups(
        {"creator": held_out.list_values("creator"), "group": held_out.list_values("group")}
    )
    results: dict[str, Any] = {head: {} for head in AESTHETICS}
    for column, head in enumerate(AESTHETICS):
        for target in wanted:
            labels = (wanted[target][:, column], learnt[target][:, column])
            found = {
                judge: compute_head_results(scores[:, column], *labels, num_draws=num_draws, groups=groups)
                for judge, scores in said.items()
                if judge != target
            }
            kept = {judge: {metric: numbers[metric] for metric in METRICS} for judge, numbers in found.items()}
            mean = found["distilled"]["baselines"]["mean"]["mae"]
            results[head][f"following the {target}"] = {**kept, "mean": {"mae": mean}}
    return results


if __name__ == "__main__":
    main()
