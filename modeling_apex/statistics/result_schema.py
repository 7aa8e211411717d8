"""
The schema of result files: what `apex-music arena`, `anchors`, `bench`, `train`, `evaluate`, `conditions`,
`personalise` and `robustness` write, field by field.

What comes in is the kind of a result; what leaves is its JSON Schema (draft 2020-12, the part of it that plain
dictionaries say: types, required fields, choices), and the fields that every result file opens with: its kind, the
version of its schema and of this package. A new field may come within a version; a field that goes or changes its
meaning raises it.
"""

from typing import Any

from modeling_apex import __version__

RESULT_VERSION = 2  # 1 had no version field, and intervals of single songs and battles whatever repeated

_NUMBER, _TEXT, _COUNT = {"type": ["number", "null"]}, {"type": "string"}, {"type": "integer"}
_HASH = {"type": ["string", "null"], "description": "SHA-256 in hexadecimal; null where there is nothing to hash."}


def _describe_object(description: str, required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": list(required),
        "properties": {**required, **optional},
    }


def _describe_map(description: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": values}


ESTIMATE = _describe_object(
    "An estimate with its 95 % interval; null where undefined, and then `reason` says why.",
    {"estimate": _NUMBER, "low": _NUMBER, "high": _NUMBER},
    reason=_TEXT,
)
VALUE = _describe_object(
    "A metric of a score with its 95 % interval; null where undefined, and then `reason` says why.",
    {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER},
    reason=_TEXT,
)
RESAMPLED = _describe_object(
    "What the bootstrap drew as a whole, and how many of it there were.",
    {"unit": _TEXT, "num_units": _describe_map("Number of units by name; two where two cross.", _COUNT)},
)
_OPENING = {
    "result": {**_TEXT, "description": "Kind of the result."},
    "schema_version": {**_COUNT, "description": "Version of this schema."},
    "code_version": {**_TEXT, "description": "Version of apex-music that wrote the file."},
    "model": {"type": ["string", "null"], "description": "Folder or Hub id of the model, where one took part."},
    "model_sha256": _HASH,
    "input_sha256": {**_HASH, "description": "Hash of what was read: the table, dataset or songs."},
}
_WORSE_THAN = {
    "type": "array",
    "items": {"enum": ["mean", "median"]},
    "description": "Constants that do better: the training mean by MSE, the training median by MAE.",
}
_FINDINGS = {"type": "array", "items": _TEXT, "description": "What a reader must know, in sentences."}
_HEAD = _describe_object(
    "One score on one set of songs.",
    {
        "num_songs": {**_COUNT, "description": "Songs with a label."},
        **dict.fromkeys(("mse", "mae", "pearson", "spearman"), VALUE),
        "baselines": {"type": "object", "description": "Errors of always saying the training mean or median."},
        "resampled": RESAMPLED,
    },
    worse_than=_WORSE_THAN,
)
_SUBSETS = _describe_map("By subset (`all`, `instrumental`, `vocal`) and metric.", _describe_map("", ESTIMATE))
_EFFECT_ROW = _describe_object(
    "With minus without aesthetics, under one protocol and classifier.",
    {
        "protocol": _TEXT,
        "classifier": _TEXT,
        "estimate": {**_NUMBER, "description": "AUC with minus AUC without."},
        "low": {**_NUMBER, "description": "Paired bootstrap interval of the difference of these predictions."},
        "high": _NUMBER,
        "verdict": {"enum": ["helps", "hurts", "no evidence", "not testable"]},
        "p_value": {**_NUMBER, "description": "Two-sided, by permutations with refitting."},
    },
    null_mean={**_NUMBER, "description": "Mean difference with permuted aesthetics: what noise columns cost."},
    excess={**_NUMBER, "description": "Estimate minus null mean."},
    smallest_effect={**_NUMBER, "description": "Smallest excess that is found in four of five such tables."},
    num_permutations=_COUNT,
    reason=_TEXT,
)
_CHANGES = _describe_object(
    "What one perturbation does to one score, over the songs that it was done to.",
    {
        "mean": {**ESTIMATE, "description": "Mean change, in native units, with its interval over songs."},
        "mean_absolute": {**ESTIMATE, "description": "Mean absolute change, likewise."},
        "largest": {**_NUMBER, "description": "The change farthest from zero; it grows with the number of songs."},
        "largest_song": {**_TEXT, "description": "Name of the file that it happened to."},
        "flipped_pairs": {**ESTIMATE, "description": "Share of pairs of songs whose order turns round (Wilson)."},
    },
)
_PERTURBATION = _describe_object(
    "One thing that was done to songs.",
    {
        "name": _TEXT,
        "kind": {**_TEXT, "description": "`none` is the control: the song decoded and written again."},
        "parameters": {"type": "object"},
        "num_songs": {**_COUNT, "description": "Songs that it was done to and that could be scored."},
        "unfit": _describe_map("By reason, songs that it cannot be done to.", _COUNT),
        "num_failed_songs": _COUNT,
        "changes": _describe_map("By score; empty where it was done to no song.", _CHANGES),
    },
)

SCHEMAS: dict[str, dict[str, Any]] = {
    "evaluation": _describe_object(
        "What `apex-music evaluate` writes.",
        {
            **_OPENING,
            "num_draws": _COUNT,
            "splits": _describe_map(
                "By split; of an APEX model by platform and score, of a fusion model `popularity` and `hit`.",
                _describe_map("", {"type": "object"}),
            ),
        },
        findings=_FINDINGS,
    ),
    "training": _describe_object(
        "What `apex-music train` writes into the run folder.",
        {
            **_OPENING,
            "num_songs": _describe_map("By split.", _COUNT),
            "num_rows": {**_COUNT, "description": "What an epoch passes over: songs, or segments."},
            "batch_size": {**_COUNT, "description": "Rows of a batch, over all processes."},
            "steps_per_epoch": {**_COUNT, "description": "Steps of the optimizer."},
            "schedules": {
                "type": "array",
                "items": _describe_object(
                    "From which epoch on the learning rate falls over how many; more than one where the run was "
                    "extended.",
                    {"from_epoch": _COUNT, "num_epochs": _COUNT},
                ),
            },
            "num_epochs": {**_COUNT, "description": "Epochs that were trained."},
            "best_epoch": {**_COUNT, "description": "That of the model, counted from 0."},
            "ended_by": {"enum": ["epochs", "patience"]},
            "still_improving": {"type": "boolean", "description": "The best epoch is among the last tenth."},
            "validation": _describe_map(
                "By score, at the best epoch.",
                _describe_object(
                    "One score on the validation songs.",
                    {
                        "num_songs": _COUNT,
                        **dict.fromkeys(("mse", "mae", "pearson", "spearman"), _NUMBER),
                        "baselines": _HEAD["properties"]["baselines"],
                        "worse_than": _WORSE_THAN,
                    },
                ),
            ),
            "findings": _FINDINGS,
        },
    ),
    "conditions": _describe_object(
        "What `apex-music conditions` writes.",
        {
            **_OPENING,
            "chosen": {**_TEXT, "description": "The condition that did best on the split that chooses."},
            "chosen_on": {**_TEXT, "description": "That split, and the metric."},
            "conditions": _describe_map("Results of every condition on the split that chooses.", {"type": "object"}),
            "test": {"type": "object", "description": "Results of the chosen condition alone, on the test split."},
        },
        mean_spearman=_describe_map(
            "What chose: of each condition, over the scores that all have.", {"type": "number"}
        ),
    ),
    "arena": _describe_object(
        "What `apex-music arena` writes into results.json.",
        {
            **_OPENING,
            "options": {"type": "object", "description": "Every option of the run."},
            "resampled": RESAMPLED,
            "notes": {"type": "array", "items": _TEXT, "description": "Everything that was left out or differs."},
            "battles": {"type": "object", "description": "Counts of battles, votes and systems."},
            "missing_scores": {"type": "object", "description": "Battles that lack a score, and which."},
            "scores": {"type": "array", "items": {"type": "object"}},
            "share_won_by_a": _describe_map("By subset.", ESTIMATE),
            "direct_rules": _describe_map("By rule.", _SUBSETS),
            "protocols": _describe_map("By protocol; `unavailable` says why one could not run.", {"type": "object"}),
            "aesthetics_effect": _describe_object(
                "The question of the paper.", {"rows": {"type": "array", "items": _EFFECT_ROW}}
            ),
            "coin": _SUBSETS,
            "human_leaderboards": {"type": "object", "description": "Of every vote given."},
            "leaderboards": {"type": "object", "description": "Of the battles with scores, people and predictors."},
            "preference_head": {"type": "object"},
            "anchors": {"type": "object", "description": "What `apex-music anchors` writes, without its opening."},
            "conclusion": _TEXT,
        },
        judges=_describe_object(
            "Judges side by side, on the battles that all of them scored.",
            {
                "judges": {"type": "array", "items": {"type": "object"}},
                "num_battles": {**_COUNT, "description": "Battles with a winner that every judge scored."},
                "num_left_out": _COUNT,
                "resampled": RESAMPLED,
                "rules": _describe_map("By `judge: rule`.", _SUBSETS),
                "differences": {
                    "type": "array",
                    "items": _describe_object(
                        "Of a pair of rules, first minus second, with a paired interval.",
                        {"first": _TEXT, "second": _TEXT, "subsets": _SUBSETS},
                    ),
                },
            },
        ),
    ),
    "anchors": _describe_object(
        "What `apex-music anchors` writes.",
        {
            **_OPENING,
            "gains": {"type": "array", "items": {"type": "object"}},
            "per_system": {"type": "object"},
            "left_out": _describe_map("Battles of each system that has too few.", _COUNT),
        },
    ),
    "personal": _describe_object(
        "What `apex-music personalise` writes.",
        {
            **_OPENING,
            "kind": {"enum": ["ratings", "pairs"]},
            "num_judgements": _COUNT,
            "num_left_out": _describe_map("By reason, rows of the table that no head was fitted to.", _COUNT),
            "folds": {"type": "object", "description": "How many, and of what that repeats."},
            "penalty": {**_NUMBER, "description": "Of the fit to all judgements, for each and standardised features."},
            "head": {"type": "object", "description": "As `config.heads` has it."},
            "metric": {"enum": ["spearman", "accuracy"]},
            "resampled": RESAMPLED,
            "personal": {**ESTIMATE, "description": "Of judgements that the fit has not seen."},
            "generic": _describe_map("Of the same judgements, by score.", ESTIMATE),
            "differences": _describe_map("Personal minus generic, paired, by score.", ESTIMATE),
            "not_beaten": {"type": "array", "items": _TEXT},
            "conclusion": _TEXT,
        },
        reference={
            "type": "object",
            "description": "Among which songs the model ranks, what is novel to it, and those that this replaces.",
        },
    ),
    "bench": _describe_object(
        "What `apex-music bench` writes.",
        {
            **_OPENING,
            "benchmark": _TEXT,
            "score": {**_TEXT, "description": "Which score judges."},
            "max_seconds": {**_NUMBER, "description": "How much of each song is heard; null for all."},
            "models": {"type": "array", "items": {"type": "object"}, "description": "Name, hash, songs that failed."},
            "datasets": _describe_map(
                "By dataset, on the rows that all models scored.",
                _describe_object(
                    "Metric, rows that count and that do not, and why.",
                    {
                        "metric": _TEXT,
                        "num_rows": _COUNT,
                        "num_left_out": _describe_map("By reason.", _COUNT),
                        "results": _describe_map("By model.", ESTIMATE),
                        "num_predicted_ties": _describe_map("By model; of pairs, each counts as B.", _COUNT),
                        "other_correlations": _describe_map(
                            "By model, of ratings: `pearson` and `kendall`.", _describe_map("By name.", ESTIMATE)
                        ),
                        "differences": {
                            "type": "array",
                            "items": _describe_object("First minus second, paired.", ESTIMATE["properties"]),
                        },
                        "published": _describe_map("What others report, of all rows.", {"type": "number"}),
                    },
                ),
            ),
            "published_source": _TEXT,
            "num_rows_left_out": _describe_map("By reason, rows that belong to no dataset.", _COUNT),
        },
    ),
    "robustness": _describe_object(
        "What `apex-music robustness` writes.",
        {
            **_OPENING,
            "settings": {"type": "object", "description": "What decides the scores: weights, options, perturbations."},
            "num_songs": {**_COUNT, "description": "Songs that could be scored as they are."},
            "num_failed_songs": _COUNT,
            "num_draws": _COUNT,
            "seed": {**_COUNT, "description": "Of the bootstrap over songs."},
            "scores": _describe_map(
                "By score, over the songs as they are.",
                _describe_object("In native units.", {"mean": _NUMBER, "standard_deviation": _NUMBER}),
            ),
            "perturbations": {"type": "array", "items": _PERTURBATION},
            "left_out": _describe_map("By name, why a perturbation could not be made here.", _TEXT),
        },
    ),
}


def build_opening(
    result: str, *, model: str | None = None, model_sha256: str | None = None, input_sha256: str | None = None
) -> dict[str, Any]:
    """
    Build the fields that a result file opens with.

    Args:
        result (`str`): Kind of the result, one of `SCHEMAS`.
        model (`str`, *optional*): Folder or Hub id of the model.
        model_sha256 (`str`, *optional*): Its hash, as `compute_scores_hash` gives it.
        input_sha256 (`str`, *optional*): Hash of the table or dataset that was read.

    Returns:
        `dict`: The fields. Survives JSON.

    Raises:
        `ValueError`: If there is no such result.
    """
    if result not in SCHEMAS:
        raise ValueError(f"`result` is {result!r}. Choose one of {tuple(SCHEMAS)}.")
    return {
        "result": result,
        "schema_version": RESULT_VERSION,
        "code_version": __version__,
        "model": model,
        "model_sha256": model_sha256,
        "input_sha256": input_sha256,
    }
