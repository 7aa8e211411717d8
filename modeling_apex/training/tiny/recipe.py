"""
The recipe of apex-tiny, the embedded default model, from nothing to a folder that `from_pretrained` loads.

What comes in is a [`TinyRecipe`]; what leaves is `modeling_apex/pretrained/apex-tiny/`: weights, configs, the measured
results and a README made from them. Songs are rendered by the synthetic world; a HuBERT-shaped encoder that starts as
a filterbank and the usual heads are trained together, end to end, from 24 kHz waveforms; songs that training never saw
are scored by the same classes that score anything else. Run it with `make tiny` or
`python -m modeling_apex.training.tiny`; equal options on an equal machine give equal weights.
"""

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor, normalize_segments
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.training.tiny.evaluation import (
    TARGETS,
    build_readme,
    compute_spearman_by_system,
    evaluate_scores,
    find_missed_targets,
)
from modeling_apex.training.tiny.filterbank import equalize_bands, initialize_front_end
from modeling_apex.training.tiny.songs import FULL_SCALE, SAMPLING_RATE, SongSet, SongTable, render_song_set
from modeling_apex.training.train import build_percentile_tables

logger = logging.getLogger(__name__)

COMMAND = "python -m modeling_apex.training.tiny"
NOTICE = "demonstration model, trained on synthetic songs; name `amaai-lab/apex` for the published weights."

# 48 bands from a filterbank of 512 samples every 10 ms, then 25 frames a second into three small layers.
TINY_ENCODER: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "feat_extract_norm": "group",
    "feat_proj_layer_norm": True,
    "conv_dim": [2, 144, 96, 160],
    "conv_kernel": [1, 512, 4, 3],
    "conv_stride": [1, 240, 2, 2],
    "conv_bias": True,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "do_stable_layer_norm": True,
    "hidden_dropout": 0.05,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
}


@dataclass(frozen=True)
class TinyRecipe:
    """
    Hold every choice of the recipe.

    Args:
        num_training_songs (`int`): Songs to learn from: half with independent factors, half as generators make them.
        num_test_songs (`int`): Unseen songs of the training platforms, with independent factors.
        num_unseen_songs (`int`): Songs of the systems that training never hears, with independent factors.
        song_seconds (`float`): Length of every song.
        segment_seconds (`float`): Length of a segment, in training and in use.
        num_epochs (`int`): How often a segment of every song is heard.
        batch_size (`int`): Segments a step.
        learning_rate (`float`): Peak learning rate of AdamW.
        weight_decay (`float`): Of AdamW.
        warmup_share (`float`): Share of the steps in which the learning rate rises.
        clip_norm (`float`): Largest norm of the gradient.
        padded_share (`float`): Share of segments that end early in silence, as the last one of a song does.
        seed (`int`): Seed of weights, order and training songs; test songs have seeds of their own.
        encoder (`dict`): Fields of the encoder's `HubertConfig`.
        shared_dims (`tuple[int, ...]`): Widths of the trunk.
        branch_dims (`tuple[int, ...]`): Widths of each head's branch.
    """

    num_training_songs: int = 3000
    num_test_songs: int = 400
    num_unseen_songs: int = 440
    song_seconds: float = 20.0
    segment_seconds: float = 10.0
    num_epochs: int = 4
    batch_size: int = 24
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    padded_share: float = 0.25
    seed: int = 0
    encoder: dict[str, Any] = field(default_factory=lambda: dict(TINY_ENCODER))
    shared_dims: tuple[int, ...] = (192, 96)
    branch_dims: tuple[int, ...] = (48, 24)

    def build_song_sets(self) -> dict[str, SongSet]:
        """Build the three sets of songs; no two share a seed, so none shares a song."""
        known, unknown = ([system.name for system in group] for group in (PLATFORMS, ARENA_SYSTEMS))

        def build(name: str, num_songs: int, seed: int, systems: list[str], *draws: str) -> SongSet:
            return SongSet(name, num_songs, seed, tuple(systems), draws, self.song_seconds)

        return {
            "training": build("training", self.num_training_songs, self.seed, known, "independent", "natural"),
            "test": build("test", self.num_test_songs, self.seed + 1_000_001, known, "independent"),
            "unseen": build("unseen", self.num_unseen_songs, self.seed + 2_000_002, unknown, "independent"),
        }

    def build_config(self) -> ApexConfig:
        """Build the config of the model to train; the encoder learns."""
        return ApexConfig(
            encoder_config=self.encoder,
            layer_indices=list(range(self.encoder["num_hidden_layers"] + 1)),
            sampling_rate=SAMPLING_RATE,
            segment_seconds=self.segment_seconds,
            shared_dims=self.shared_dims,
            branch_dims=self.branch_dims,
            dropout_shared=0.1,
            dropout_branch=0.05,
            freeze_encoder=False,
        )


def draw_segments(
    table: SongTable, rows: NDArray, num_samples: int, padded_share: float, generator: np.random.Generator
) -> torch.Tensor:
    """
    Draw one segment of each song, prepared as the feature extractor prepares segments.

    Args:
        table ([`SongTable`]):
            The songs.
        rows (`np.ndarray` of shape `(batch_size,)`):
            Which songs.
        num_samples (`int`):
            Length of a segment, in samples.
        padded_share (`float`):
            Share of segments whose end is silence.
        generator (`np.random.Generator`):
            Source of places and lengths.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_samples)`: normalised segments.
    """
    segments = np.empty((len(rows), num_samples), np.float32)
    latest = table.waveforms.shape[1] - num_samples
    for place, row in enumerate(rows):
        start, length = generator.integers(0, latest + 1), num_samples
        if generator.random() < padded_share:
            length = int(num_samples * generator.uniform(0.2, 1.0))
        segments[place] = table.waveforms[row, start : start + num_samples] / np.float32(FULL_SCALE)
        segments[place, length:] = 0.0
    return torch.from_numpy(normalize_segments(segments))


def compute_loss(scores: torch.Tensor, labels: torch.Tensor, spreads: torch.Tensor) -> torch.Tensor:
    """
    Compute the mean over heads of the squared error in units of each label's spread; missing labels are left out.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_heads)`):
            In native units.
        labels (`torch.FloatTensor` of shape `(batch_size, num_heads)`):
            In native units; NaN where a label is missing.
        spreads (`torch.FloatTensor` of shape `(num_heads,)`):
            Standard deviation of each label over the training songs.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    is_present = ~labels.isnan()
    errors = ((scores - labels.nan_to_num()) / spreads).square() * is_present
    return (errors.sum(0) / is_present.sum(0).clamp(min=1)).mean()


@torch.no_grad()
def build_model(recipe: TinyRecipe, table: SongTable) -> ApexModel:
    """
    Build the untrained model: a filterbank front end made for these songs, heads that start at the mean label.

    Args:
        recipe ([`TinyRecipe`]):
            The choices.
        table ([`SongTable`]):
            The training songs.

    Returns:
        [`ApexModel`]
    """
    torch.manual_seed(recipe.seed)
    model = ApexModel(recipe.build_config())
    initialize_front_end(model.encoder, SAMPLING_RATE)
    # The first layer only splits the waveform into two signs; gradients through it would double the cost of a step.
    model.encoder.feature_extractor.conv_layers[0].requires_grad_(False)
    rows = np.arange(min(64, len(table.waveforms)))
    generator = np.random.default_rng(recipe.seed)
    equalize_bands(model.encoder, draw_segments(table, rows, model.config.segment_num_samples, 0.0, generator))
    for head, mean in zip(model.config.heads, np.nanmean(table.labels, axis=0), strict=True):
        share = (mean - head["minimum"]) / (head["maximum"] - head["minimum"])
        model.get_submodule(f"branch_{head['name']}").branch[-1].bias.fill_(float(np.log(share / (1.0 - share))))
    return model


def train_model(model: ApexModel, table: SongTable, recipe: TinyRecipe) -> list[float]:
    """
    Train encoder and heads together.

    Args:
        model ([`ApexModel`]):
            Changed in place; leaves in evaluation mode.
        table ([`SongTable`]):
            The training songs.
        recipe ([`TinyRecipe`]):
            The choices.

    Returns:
        `list[float]`: mean loss of each epoch.

    Raises:
        `FloatingPointError`: If the loss is not finite.
    """
    generator = np.random.default_rng(recipe.seed + 1)
    torch.manual_seed(recipe.seed + 1)
    labels = torch.from_numpy(table.labels).float()
    spreads = torch.from_numpy(np.nanstd(table.labels, axis=0)).float()
    steps_per_epoch = max(len(labels) // recipe.batch_size, 1)
    num_steps = recipe.num_epochs * steps_per_epoch
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup_share * num_steps), num_steps)
    model.segments_per_pass = recipe.batch_size
    losses = []
    for epoch in range(recipe.num_epochs):
        model.train()
        batches = np.array_split(
            generator.permutation(len(labels))[: steps_per_epoch * recipe.batch_size], steps_per_epoch
        )
        epoch_losses: list[float] = []
        for rows in tqdm(batches, desc=f"epoch {epoch + 1} of {recipe.num_epochs}", unit="step"):
            segments = draw_segments(table, rows, model.config.segment_num_samples, recipe.padded_share, generator)
            scores = model.compute_scores(model.compute_segment_embeddings(segments))
            loss = compute_loss(scores, labels[rows], spreads)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} in epoch {epoch + 1}, step {len(epoch_losses) + 1}. Lower the "
                    f"learning rate ({recipe.learning_rate}) and train again."
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            schedule.step()
            epoch_losses.append(loss.item())
        losses.append(float(np.mean(epoch_losses)))
        logger.info("Epoch %d of %d: loss %.4f.", epoch + 1, recipe.num_epochs, losses[-1])
    model.eval()
    return losses


@torch.no_grad()
def score_songs(model: ApexModel, table: SongTable, batch_size: int = 8) -> NDArray:
    """
    Score whole songs, through the same feature extractor and model as any other song.

    Args:
        model ([`ApexModel`]):
            The model.
        table ([`SongTable`]):
            The songs.
        batch_size (`int`, defaults to 8):
            Songs at once.

    Returns:
        `np.ndarray` of shape `(num_songs, num_heads)`: scores in native units.
    """
    extractor = ApexFeatureExtractor.from_config(model.config)
    model.eval()
    scores = []
    for first in range(0, len(table.waveforms), batch_size):
        songs = table.waveforms[first : first + batch_size] / np.float32(FULL_SCALE)
        features = extractor(list(songs), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        scores.append(model(features["input_values"], features["segment_mask"]).scores.numpy())
    return np.concatenate(scores)


def evaluate_model(model: ApexModel, recipe: TinyRecipe, tables: dict[str, SongTable]) -> dict[str, Any]:
    """
    Evaluate the model on the test songs and on the songs of unseen systems.

    Args:
        model ([`ApexModel`]):
            The trained model.
        recipe ([`TinyRecipe`]):
            The choices.
        tables (`dict[str, SongTable]`):
            `training` (for the baselines), `test` and `unseen`.

    Returns:
        `dict[str, Any]`: the evaluations of `results.json`, by name.
    """
    evaluations: dict[str, Any] = {}
    for name, song_set in recipe.build_song_sets().items():
        if name not in TARGETS:
            continue
        scores = score_songs(model, tables[name])
        heads, labels = model.config.heads, tables["training"].labels
        evaluations[name] = {
            "num_songs": song_set.num_songs,
            "seed": song_set.seed,
            "systems": list(song_set.systems),
            "factors": "independent",
            "scores": evaluate_scores(scores, tables[name], heads, labels, TARGETS[name], recipe.seed),
            "spearman_by_system": compute_spearman_by_system(scores, tables[name], heads),
        }
    return evaluations


def save_model(model: ApexModel, results: dict[str, Any], folder: Path) -> None:
    """
    Write the model folder: weights, configs, `results.json`, `README.md`.

    Args:
        model ([`ApexModel`]):
            The trained model; its encoder is marked as frozen from here on.
        results (`dict[str, Any]`):
            What is known about it.
        folder (`Path`):
            Where.
    """
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
        recipe ([`TinyRecipe`]):
            The choices.
        songs_folder (`Path`):
            Where rendered songs are kept; sets that are there already are not rendered again.
        output (`Path`):
            Folder of the model.
        num_processes (`int`, *optional*):
            How many processes render; the number of cores by default.

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
    model.config.percentile_tables = build_percentile_tables(
        score_songs(model, tables["training"]), model.config.head_names
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


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `python -m modeling_apex.training.tiny`."""
    recipe = TinyRecipe()
    parser = argparse.ArgumentParser(prog=COMMAND, description="Make apex-tiny, the embedded demonstration model.")
    parser.add_argument("--output", type=Path, default=EMBEDDED_MODEL, help="folder of the model (%(default)s)")
    parser.add_argument(
        "--songs", type=Path, default=Path("runs/tiny-songs"), help="where rendered songs are kept (%(default)s)"
    )
    parser.add_argument("--num-training-songs", type=int, default=recipe.num_training_songs, help="(%(default)s)")
    parser.add_argument("--num-epochs", type=int, default=recipe.num_epochs, help="(%(default)s)")
    parser.add_argument("--num-processes", type=int, help="processes that render; the number of cores by default")
    parser.add_argument("--num-threads", type=int, default=1, help="threads that train (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the status is 1 if the model misses a target, as its README then says, 130 if interrupted."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(options.num_threads)
    recipe = TinyRecipe(num_training_songs=options.num_training_songs, num_epochs=options.num_epochs)
    try:
        with OutputLock(options.songs):
            results = make_model(recipe, options.songs, options.output, options.num_processes)
    except KeyboardInterrupt:
        logger.warning("interrupted; the same command uses the songs again that were rendered")
        return 130
    missed = find_missed_targets(results)
    for sentence in missed:
        logger.warning("Missed: %s", sentence)
    logger.info("Wrote %s.", options.output)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
