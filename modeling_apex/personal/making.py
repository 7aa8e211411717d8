"""
`apex-music personalise`: from what a listener said of some songs to a model that scores as they would.

What comes in are judgements, a model and the stored embeddings of the songs; what leaves is a folder with the model
and its new head, and beside it how well the head tells judgements that it has not seen, and how well the model's own
scores tell the same ones.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.arena.preference import PreferenceHead, load_preference_head
from modeling_apex.corpus.embedded_songs import EmbeddedSongs
from modeling_apex.corpus.identity import identify_file
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.loading import load_apex_model
from modeling_apex.model_names import find_model
from modeling_apex.personal.comparison import compare_tastes
from modeling_apex.personal.fitting import (
    NUM_FOLDS,
    PENALTIES,
    TasteData,
    choose_penalty,
    fit_taste,
    predict_held_out,
)
from modeling_apex.personal.head import (
    PERSONAL,
    build_personal_model,
    check_base,
    compute_slope,
    describe_head,
)
from modeling_apex.personal.judgements import Judgements, match_songs, read_judgements
from modeling_apex.statistics.logistic import compute_logistic
from modeling_apex.statistics.result_schema import build_opening
from modeling_apex.storage.output_folder import check_new_folder, save_json, write_new_folder
from modeling_apex.training.reference import build_reference

RESULTS_NAME = "personal.json"


def personalise(
    judgements: str | os.PathLike,
    embeddings: str | os.PathLike,
    output: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    head_name: str = PERSONAL,
    score_range: tuple[float, float] | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Fit a personal head and write the model that has it.

    Args:
        judgements (`str` or `os.PathLike`), embeddings (`str` or `os.PathLike`), output (`str` or `os.PathLike`):
            As [`read_judgements`] takes them; what `apex-music embed` wrote; new folder for the model.
        model (`str` or `os.PathLike`, *optional*), head_name (`str`, defaults to `"personal"`):
            Folder or Hub id, by default the embedded demonstration model; what the new score is called.
        score_range (`tuple[float, float]`, *optional*):
            Lowest and highest rating that there is; by default those that were given. Votes give chances, 0 to 1.
        num_draws (`int`, defaults to 1000), seed (`int`, defaults to 0):
            Bootstrap draws of the intervals; seed of folds and draws.

    Returns:
        `dict`: what `personal.json` in the folder holds; see [`compare_tastes`].

    Raises:
        `FileExistsError`: If the output holds anything.
        `FileNotFoundError`: If there is no such table, model or folder of embeddings.
        `ValueError`: If judgements are too few, alike, doubled or of other songs, or the model cannot carry the head.
    """
    check_new_folder(output)
    stated = read_judgements(judgements)
    base = load_apex_model(find_model(model))
    check_base(base.config, head_name)
    judged = _gather(stated, EmbeddedSongs(embeddings, base), base)
    kept, data = judged.kept, judged.data
    held_out = predict_held_out(data, PENALTIES, NUM_FOLDS, seed, chooses=True)[0]
    penalty = choose_penalty(data, PENALTIES, NUM_FOLDS, seed)
    weights, offsets = fit_taste(data, np.array([penalty]))
    head = describe_head(head_name, *_choose_range(kept, score_range), is_of_pairs=kept.is_of_pairs)
    preference = load_preference_head(model)
    results = {
        **_open_results(base, judged),
        "penalty": penalty,
        "head": head,
        "seed": seed,
        "num_draws": num_draws,
        **compare_tastes(data, held_out, judged.list_rivals(preference), judged.unit, num_draws=num_draws, seed=seed),
    }
    reference = _build_reference(base, head, data.features @ weights[0] + offsets[0], held_out, judged)
    results["reference"] = {"name": reference["name"], "replaces": base.config.reference.get("name")}
    provenance = _describe_origin(base, Path(output).name, results)
    personal = build_personal_model(
        base, head, weights[0], float(offsets[0]), reference=reference, provenance=provenance
    )
    _save(personal, preference, results, output)
    return results


@dataclass(frozen=True)
class JudgedSongs:
    """
    Hold judgements and what the model says of their songs.

    Args:
        kept ([`Judgements`]): Those all of whose songs are embedded.
        reports (`list[dict | None]`): Of each song of the table, its report with embedding, where there is one.
        data ([`TasteData`]), unit (`str`): The same as arrays, and what repeats.
        num_failed (`int`): Songs that could not be embedded.
    """

    kept: Judgements
    reports: list[dict[str, Any] | None]
    data: TasteData
    unit: str
    num_failed: int

    def list_rivals(self, preference: PreferenceHead | None) -> dict[str, NDArray[np.float64]]:
        """Give the strength of each song by each score that the model has, and by its preference head."""
        found = [report for report in self.reports if report is not None]
        strengths = {name: np.array([report["scores"][name] for report in found]) for name in found[0]["scores"]}
        if preference is not None and set(preference.weights) <= set(strengths):
            strengths["preference"] = np.array([preference.compute_strength(report) for report in found])
        return {name: _spread(values, self.reports) for name, values in strengths.items()}


def _gather(stated: Judgements, embedded: EmbeddedSongs, base: ApexModel) -> JudgedSongs:
    reports: list[Any] = list(embedded.score(SongScorer(base), return_embedding=True, return_percentiles=False))
    songs = [report for report in reports if "error" not in report]
    kept, places = match_songs(stated, [song["song"] for song in songs])
    judged = [None if place is None else songs[place] for place in places]
    groups, unit = kept.number_groups()
    features = _compute_trunk(base, np.array([song["embedding"] for song in judged if song is not None], np.float32))
    data = TasteData(_spread(features, judged), kept.rows, kept.values, groups)
    return JudgedSongs(kept, judged, data, unit, len(reports) - len(songs))


def _open_results(base: ApexModel, judged: JudgedSongs) -> dict[str, Any]:
    kept = judged.kept
    return {
        **build_opening(
            "personal",
            model=base.config.provenance.get("name"),
            model_sha256=compute_scores_hash(base),
            input_sha256=identify_file(Path(kept.source)).sha256,
        ),
        "kind": "pairs" if kept.is_of_pairs else "ratings",
        "num_judgements": len(kept),
        "num_left_out": kept.num_left_out,
        "num_songs": len(np.unique(kept.rows)),
        "num_songs_without_embedding": judged.num_failed,
        "folds": {"num_folds": NUM_FOLDS, "of": judged.unit},
    }


@torch.no_grad()
def _compute_trunk(base: ApexModel, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what all heads of a model are given: `(num_songs, trunk_width)`."""
    hidden: NDArray[np.float64] = base.shared(torch.from_numpy(embeddings).to(base.device)).cpu().double().numpy()
    return hidden


def _spread(values: NDArray[np.float64], judged: list[dict[str, Any] | None]) -> NDArray[np.float64]:
    """Give songs without an embedding, which no judgement names any more, a row of zeros."""
    spread = np.zeros((len(judged), *values.shape[1:]))
    spread[[song is not None for song in judged]] = values
    return spread


def _choose_range(judgements: Judgements, stated: tuple[float, float] | None) -> tuple[float, float]:
    if judgements.is_of_pairs:
        if stated is not None:
            raise ValueError(
                "--range is for ratings; a head fitted to votes gives probabilities, which run from 0 to 1."
            )
        return 0.0, 1.0
    found = float(judgements.values.min()), float(judgements.values.max())
    low, high = stated or found
    if not low <= found[0] < found[1] <= high:
        raise ValueError(
            f"--range {low:g} {high:g} must hold the ratings of {judgements.source}, which run from {found[0]:g} to "
            f"{found[1]:g}."
        )
    return low, high


def _build_reference(
    base: ApexModel,
    head: dict[str, Any],
    strengths: NDArray[np.float64],
    held_out: NDArray[np.float64],
    judged: JudgedSongs,
) -> dict[str, Any]:
    """
    Build what the model knows of the judged songs, so that ranks are among them.

    The place of a rated song is that by the fit that has not seen it, and there is an interval; votes give neither.
    """
    kept, data = judged.kept, judged.data
    songs = np.unique(kept.rows)
    reports: list[Any] = [judged.reports[song] for song in songs]
    labels = np.full((len(songs), len(base.config.heads) + 1), np.nan, np.float32)
    if not kept.is_of_pairs:
        strengths = strengths.copy()
        strengths[kept.rows[:, 0]] = held_out
        labels[:, -1] = kept.values[np.argsort(kept.rows[:, 0])]
    slope, shift = compute_slope(head)
    spread = head["maximum"] - head["minimum"]
    personal = head["minimum"] + spread * compute_logistic(strengths[songs] * slope + shift)
    scores = np.array([[*report["scores"].values()] for report in reports])
    groups = dict(zip(kept.rows.ravel().tolist(), data.groups.ravel().tolist(), strict=True))
    return build_reference(
        np.column_stack([scores, personal]).astype(np.float32),
        [*base.config.head_names, head["name"]],
        name=f"{len(songs)} songs that the listener judged",
        song_ids=[report["song"] for report in reports],
        labels=labels,
        groups=[groups[int(song)] for song in songs],
        embeddings=np.array([report["embedding"] for report in reports], np.float32),
    )


def _describe_origin(base: ApexModel, name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Build the `provenance` of a personal model: it has a name of its own."""
    origin = base.config.provenance
    told = {key: results[key] for key in ("kind", "num_judgements", "metric", "personal", "conclusion")}
    source = {"base": {"source": origin["name"]}} if origin.get("name") else {}
    return {**origin, "name": f"{name}-personal", **source, PERSONAL: {"head": results["head"]["name"], **told}}


def _save(
    model: ApexModel, preference: PreferenceHead | None, results: dict[str, Any], output: str | os.PathLike
) -> None:
    with write_new_folder(output) as part:
        model.save_pretrained(part)
        ApexFeatureExtractor.from_config(model.config).save_pretrained(part)
        if preference is not None:
            preference.save_pretrained(part)
        save_json(part / RESULTS_NAME, results)
