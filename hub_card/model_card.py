"""
Render a model card from its facts.

What comes in is one [`ModelFacts`]; what leaves is the text of a `README.md`, whose `model-index` holds the same
numbers as its tables. The template may not name a fact that is not there.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hub_card.markdown import demote_headings, format_estimate, format_number
from hub_card.model_facts import ModelFacts
from hub_card.result_files import Evaluation
from hub_card.uncertainty_section import describe_percentiles, describe_uncertainty
from modeling_apex.checkpoints.component_licenses import (
    COMBINED_LICENSE_ID,
    COMBINED_LICENSE_NAME,
    KNOWN_COMPONENTS,
    LICENSES,
    Component,
    is_permissive,
)
from modeling_apex.inference.report_apex import SCORE_MEANINGS
from modeling_apex.storage.markdown import build_table, escape_markdown

TEMPLATES = Path(__file__).parent / "templates"
EMBEDDED_PATH = "modeling_apex/pretrained/apex-tiny"
ROLE_TEXTS = {
    "code": "code",
    "encoder": "weights of the encoder",
    "heads": "weights of the heads",
    "labels": "source of aesthetic labels",
    "songs": "training songs",
}
PLOT_TITLES = {
    "roc": "ROC curves of the classifiers",
    "calibration": "Calibration of the preference head",
    "leaderboard": "Leaderboard by predicted votes against that by human votes",
    "aesthetics_effect": "AUC with minus without aesthetic scores, with intervals",
    "robustness": "Mean absolute change of each score, in standard deviations between songs",
}
# What the end of a song counts, by the config's `tail`.
TAIL_TEXTS = {
    "full": "Segments have equal weight, and the last one is padded with silence: where only a few seconds are left "
    "for it, they count as much as a whole segment.",
    "weighted": "A segment counts by the seconds of song in it, and the last one is padded with silence: where only a "
    "few seconds are left for it, the model hears mostly silence there, but that segment counts little.",
    "drop": "A last segment of less than {seconds:g} s is not heard, unless the song has no other; a longer one is "
    "padded with silence and counts as much as the others.",
}
TAGS = ("music", "apex-music", "song-popularity", "song-aesthetics", "arxiv:2605.03395")
# What the weights of the paper stand on (arXiv 2605.03395).
PUBLISHED_COMPONENTS = ("m-a-p/MERT-v1-95M", "ASLP-lab/SongEval", "sleeping-ai/suno-307K")
CITATION = """\
@misc{apex2026,
  title         = {{APEX}: Large-scale Multi-task Aesthetic-Informed Popularity Prediction for {AI}-Generated Music},
  author        = {Husain, Jaavid Aktar and Herremans, Dorien},
  year          = {2026},
  eprint        = {2605.03395},
  archivePrefix = {arXiv}
}"""


def render_model_card(facts: ModelFacts) -> str:
    """
    Render a model card as Markdown with YAML front matter.

    Raises:
        `ImportError`: If jinja2 is not installed.
        `jinja2.UndefinedError`: If the template names a fact that is not there.
    """
    environment = build_environment()
    head_names = [head["name"] for head in facts.heads]
    environment.filters["unlabelled_heads"] = partial(_list_unlabelled_heads, head_names)
    groups = {head["group"] for head in facts.heads}
    text: str = environment.get_template("model.md.jinja").render(
        facts=facts,
        metadata=_build_metadata(facts),
        heads_table=_build_heads_table(facts),
        has_ceiling=any(_has_ceiling(evaluation) for evaluation in facts.evaluations),
        has_popularity="popularity" in groups,
        has_aesthetics="aesthetics" in groups,
        model_option=f" --model {facts.repo_id}" if facts.repo_id else "",
        embedded_path=EMBEDDED_PATH,
        components_table=_build_components_table(facts.components),
        percentiles_text=describe_percentiles(facts.reference),
        uncertainty_text=describe_uncertainty(facts.reference, facts.uncertainty, facts.heads),
        robustness_text=_build_robustness_text(facts.robustness) if facts.robustness else "",
        tail_text=TAIL_TEXTS[facts.tail].format(seconds=facts.tail_seconds),
        arena_report=_build_arena_report(facts.arena) if facts.arena else "",
        licences_text=_build_licences_text(facts),
        provenance_json=json.dumps(facts.provenance, indent=2, ensure_ascii=False, allow_nan=False),
        citation=CITATION,
    )
    return text.rstrip() + "\n"


def build_environment() -> Any:
    """
    Build the Jinja environment of all card templates: undefined facts are errors.

    Raises:
        `ImportError`: If jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('Cards need jinja2: pip install "apex-music[hub]".') from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 (Markdown for the Hub, which sanitises what it renders, not HTML)
    )
    environment.filters |= {
        "number": format_number,
        "popularity_score": lambda percentile, exponent: 100 * (percentile / 100) ** exponent,
        "results_table": _build_results_table,
        "missed_sentences": _list_missed_targets,
        "undefined_sentences": _list_undefined,
        "plot_title": _get_plot_title,
    }
    return environment


def _build_metadata(facts: ModelFacts) -> str:
    """Build the YAML of the front matter without its dashes, `model-index` among it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="audio-classification",
            task_name="Song scores from audio",
            dataset_type="synthetic" if facts.aesthetic_labels == "synthetic" else "songs",
            dataset_name=evaluation.title,
            dataset_split=evaluation.name,
            metric_type=metric,
            metric_name=f"{name}, {score.name}",
            # A plain float: YAML would give a NumPy number a tag that no reader knows.
            metric_value=float(round(estimate.value, 6)),
        )
        for evaluation in facts.evaluations
        for score in evaluation.scores
        for metric, name, estimate in (
            ("spearmanr", "Spearman", score.spearman),
            ("mae", "MAE", score.mae),
            ("mse", "MSE", score.mse),
        )
        if estimate.value is not None
    ]
    licence: dict[str, Any] = {"license": facts.license_id}
    if facts.license_id == COMBINED_LICENSE_ID:
        licence |= {"license_name": COMBINED_LICENSE_NAME, "license_link": "README.md#licences"}
    datasets = [component.name for component in facts.components if component.role in ("songs", "labels")]
    encoders = [component.name for component in facts.components if component.role == "encoder"]
    data = ModelCardData(
        **licence,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=[*TAGS, *(["synthetic-data"] if facts.aesthetic_labels == "synthetic" else [])],
        datasets=[name for name in datasets if "/" in name] or None,
        base_model=[name for name in encoders if "/" in name] or None,
        metrics=["spearmanr", "mae", "mse"],
        model_name=facts.title,
        eval_results=results,
    )
    text: str = data.to_yaml(line_break="\n")
    return text.rstrip()


def _build_licences_text(facts: ModelFacts) -> str:
    """Say under which licences a model stands, and what they mean for whoever wants to earn money with it."""
    rows = []
    for component in facts.components:
        license = LICENSES.get(component.license_id or "")
        if license is not None:
            stated, commercial = f"[{license.name}]({license.url})", "yes" if license.allows_commercial_use else "no"
        else:
            stated, commercial = escape_markdown(component.license_id or "none stated by its owner"), "ask its owner"
        role = ROLE_TEXTS.get(component.role) or escape_markdown(component.role)
        rows.append([escape_markdown(component.name), role, stated, commercial])
    table = build_table(["component", "role", "licence", "commercial use"], rows)
    return f"{table}\n\n{_explain_commercial_use(facts)}"


def _explain_commercial_use(facts: ModelFacts) -> str:
    restricting = [component for component in facts.components if not _is_free(component)]
    if not restricting:
        bound = [
            f"{component.name} ({LICENSES[component.license_id].name})"
            for component in KNOWN_COMPONENTS
            if component.name in PUBLISHED_COMPONENTS and component.license_id
        ]
        return (
            "Every part may be used commercially; keep the notices that the licences ask for. "
            f"The published APEX weights are another matter: they contain {', '.join(bound)}, so a product cannot "
            "use those without an agreement with their owners."
        )
    stored = [escape_markdown(component.name) for component in restricting if component.is_in_weights]
    learnt = [escape_markdown(component.name) for component in restricting if not component.is_in_weights]
    sentences = ["**If you earn money with it: you may use the code, and not these weights as they are.**"]
    if stored:
        sentences.append(
            f"The weights contain those of {', '.join(stored)}, so their licence binds every user of them."
        )
    if learnt:
        sentences.append(
            f"The heads were trained with {', '.join(learnt)}. Whether weights inherit the licence of what they were "
            "trained on is not settled; their owners did not permit commercial use or adaptations, or did not say."
        )
    sentences.append(
        "For a product, train with this code on an encoder and songs that you may use, or ask the owners. This is a "
        "summary by engineers, not legal advice."
    )
    return " ".join(sentences)


def _is_free(component: Component) -> bool:
    license = LICENSES.get(component.license_id or "")
    return license is not None and is_permissive(license)


def _build_heads_table(facts: ModelFacts) -> str:
    rows = [
        [
            f"`{head['name']}`",
            f"{head['minimum']:g} to {head['maximum']:g}",
            head["group"],
            SCORE_MEANINGS.get(head["name"], head["group"]),
        ]
        for head in facts.heads
    ]
    return build_table(["score", "range", "group", "meaning"], rows)


def _build_components_table(components: Sequence[Component]) -> str:
    rows = [
        [escape_markdown(item.name), ROLE_TEXTS.get(item.role) or escape_markdown(item.role)]
        for item in components
        if item.role != "code"
    ]
    return build_table(["source", "role"], rows)


def _build_results_table(evaluation: Evaluation) -> str:
    has_ceiling = _has_ceiling(evaluation)
    header = ["score", "songs", "Spearman", *(["ceiling"] if has_ceiling else []), "Pearson"]
    header += ["MAE", "MAE of the median", "MSE", "MSE of the mean"]
    rows = [
        [
            f"`{score.name}`",
            format_number(score.num_songs, 0),
            format_estimate(score.spearman),
            *([format_number(score.ceiling)] if score.ceiling is not None else []),
            format_estimate(score.pearson),
            format_estimate(score.mae),
            format_number(score.mae_of_median),
            format_estimate(score.mse),
            format_number(score.mse_of_mean),
        ]
        for score in evaluation.scores
    ]
    return build_table(header, rows)


def _has_ceiling(evaluation: Evaluation) -> bool:
    return any(score.ceiling is not None for score in evaluation.scores)


def _list_missed_targets(evaluation: Evaluation) -> list[str]:
    sentences = [
        f"`{score.name}` misses its target: the rank correlation is {format_number(score.spearman.value)}, "
        f"the target {format_number(score.target)}."
        for score in evaluation.scores
        if score.is_missed and score.target is not None and score.spearman.value is not None
    ]
    sentences += [
        f"`{score.name}` has a larger MSE than the trivial baselines: {format_number(score.mse.value)} against "
        f"{format_number(score.mse_of_mean)}."
        for score in evaluation.scores
        if score.mse.value is not None and score.mse.value > score.mse_of_mean
    ]
    return sentences


def _list_undefined(evaluation: Evaluation) -> list[str]:
    """Say which numbers or intervals of an evaluation are not defined, a sentence for each reason."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for score in evaluation.scores:
        for estimate in (score.spearman, score.pearson, score.mae, score.mse):
            if estimate.reason:
                kind = "number" if estimate.value is None else "interval"
                found.setdefault((kind, estimate.reason), {})[f"`{score.name}`"] = None
    return [f"No {kind} for {', '.join(names)}: {reason}." for (kind, reason), names in found.items()]


def _get_plot_title(path: str) -> str:
    name = Path(path).stem
    return PLOT_TITLES.get(name, name.replace("_", " ").capitalize())


def _list_unlabelled_heads(head_names: Sequence[str], evaluation: Evaluation) -> list[str]:
    measured = {score.name for score in evaluation.scores}
    return [f"`{name}`" for name in head_names if name not in measured]


def _build_robustness_text(robustness: dict[str, Any]) -> str:
    from modeling_apex.robustness.robustness_report import build_changes_table, describe_largest, list_left_out

    notes = "\n".join(list_left_out(robustness))
    legend = (
        "The table has the mean absolute change of each score, in brackets the largest one, and the share of pairs of "
        "songs that changed their order, on average over the scores; `none` is the control, which decodes a song and "
        "writes it again. Intervals, and which way scores move, are in `robustness/report.md`."
    )
    parts = [describe_largest(robustness), build_changes_table(robustness), legend, notes]
    return "\n\n".join(part for part in parts if part)


def _build_arena_report(arena: dict[str, Any]) -> str:
    from modeling_apex.arena.arena_report import build_report

    report: str = build_report(arena)
    _, _, body = report.partition("\n")  # its own title: the card has one
    return demote_headings(body.strip())
