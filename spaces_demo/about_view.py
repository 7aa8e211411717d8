"""
The About tab: which model runs, what it learned from, what its numbers are worth, and where they end.

Every number on it is read from the model's config or from a result file beside its weights. What has not been
measured is named as missing; nothing is filled in from memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modeling_apex import SongScorer
from spaces_demo.markup import build_notice, escape
from spaces_demo.model_files import PREFERENCE_FILE, RESULT_FILES
from spaces_demo.settings import SpaceSettings
from spaces_demo.wording import format_length, format_meaning, format_title

# Facts of `config.provenance` that mean something to a reader, in the order of the page.
PROVENANCE_TITLES = {
    "license": "Licence of the weights",
    "encoder_license": "Licence of the encoder",
    "sources": "Made from",
    "source": "Made from",
    "num_songs": "Songs heard in training",
    "labels": "Labels",
    "training_seconds": "Training time in seconds",
}
# Titles of the evaluations of `results.json`; another name is shown as it is.
EVALUATION_TITLES = {
    "test": "New songs of systems heard in training",
    "unseen": "Songs of systems that training never heard",
}
# Path of each number that the page shows within a score's results, with the head of its column.
RESULT_COLUMNS = {
    ("spearman",): "Rank correlation",
    ("spearman_ceiling",): "Best possible",
    ("mae",): "Mean error",
    ("baselines", "median", "mae"): "Mean error of always saying the median",
}


def collect_facts(scorer: SongScorer, head: Any, results: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    """
    Gather what is known of a loaded model with its preference head, if it has one, and what [`load_results`] found.

    Returns:
        `dict`: JSON-ready: `model`, `heads`, `segment_seconds`, `num_parameters`, `notice`, `provenance`,
        `preference_head` (its training facts), `results` and `missing`.
    """
    config = scorer.model.config
    provenance = dict(config.provenance)
    return {
        "model": {"id": scorer.model_id, "revision": scorer.model_revision},
        "heads": [dict(entry) for entry in config.heads],
        "segment_seconds": config.segment_seconds,
        "num_parameters": scorer.model.num_parameters(),
        "notice": provenance.pop("notice", None),
        "provenance": provenance,
        "preference_head": None if head is None else dict(head.training),
        "results": {name: content for name, content in results.items() if content is not None},
        "missing": [name for name, content in results.items() if content is None]
        + ([PREFERENCE_FILE] if head is None else []),
    }


def build_banner(facts: Mapping[str, Any]) -> str:
    """Build the sentence above the tabs that says that this is a demonstration model; empty for any other."""
    notice = facts["notice"]
    return build_notice(f"{notice[:1].upper()}{notice[1:]}".replace("`", ""), "warning") if notice else ""


def build_about(facts: Mapping[str, Any], settings: SpaceSettings) -> str:
    """Build the whole tab as HTML."""
    return (
        f'<div class="apex-about-columns"><div>{_build_model(facts)}{_build_scores(facts)}{_build_limits(settings)}'
        f"</div><div>{_build_worth(facts)}</div></div>"
    )


def _build_section(title: str, *parts: str) -> str:
    return f'<section class="apex-panel apex-about"><h3>{escape(title)}</h3>{"".join(parts)}</section>'


def _build_facts(rows: list[tuple[str, str]]) -> str:
    return (
        '<dl class="apex-facts">'
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
        + "</dl>"
    )


def _build_model(facts: Mapping[str, Any]) -> str:
    model = facts["model"]
    rows = [
        ("Name", model["id"]),
        ("Version", model["revision"] or "local files"),
        ("Size", f"{facts['num_parameters']:,} parameters"),
        ("Listens in segments of", format_length(facts["segment_seconds"])),
    ]
    known = {**facts["provenance"], **_select_mapping(facts["provenance"], "training")}
    known |= _select_mapping(facts["results"].get("results.json", {}), "training")
    for name, title in PROVENANCE_TITLES.items():
        if name in known and title not in dict(rows):
            rows.append((title, _format_value(known[name])))
    return _build_section("The model", _build_facts(rows))


def _select_mapping(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return dict(part) if isinstance(part, Mapping) else {}


def _format_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not stated"}[value]
    if isinstance(value, (int, float)):
        return f"{value:,.10g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_format_value(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_format_value(part) for part in value)
    return str(value)


def _build_scores(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<div class="apex-score"><dt>{escape(format_title(head["name"]))}</dt>'
        f'<dd class="apex-unit">{head["minimum"]:g} to {head["maximum"]:g}</dd>'
        f'<dd class="apex-meaning">{escape(format_meaning(head["name"]))}</dd></div>'
        for head in facts["heads"]
    )
    return _build_section(
        "What the scores mean",
        f'<dl class="apex-scores">{rows}</dl>',
        "<p>The five quality scores ask SongEval's questions (arXiv 2505.10793). The published APEX weights learned "
        "them from SongEval's model and not from people (arXiv 2605.03395), so agreement with such labels says how "
        "well that model is copied.</p>",
    )


def _build_worth(facts: Mapping[str, Any]) -> str:
    parts = []
    results = facts["results"].get("results.json", {})
    parts += [_build_evaluation(title, scores) for title, scores in _list_evaluations(results)]
    labels = results.get("label_sources") or _select_mapping(results, "training").get("labels")
    if parts and labels:
        parts.append(f"<p>Labels of these songs: {escape(_format_value(labels))}.</p>")
    arena = facts["results"].get("arena/results.json", {})
    if arena.get("conclusion"):
        parts.append(f"<h4>On battles between two songs</h4><p>{escape(str(arena['conclusion']))}</p>")
    head = facts["preference_head"]
    if head is not None:
        wanted = {
            "num_battles": "Battles learned from",
            "held_out_auc": "AUC on battles it had not seen (0.5 is a coin)",
            "expected_calibration_error": "Mean error of its probabilities",
        }
        rows = [(title, _format_rounded(head[name])) for name, title in wanted.items() if name in head]
        parts.append("<h4>The probability in Compare</h4>" + _build_facts(rows))
    for name in facts["missing"]:
        what = RESULT_FILES.get(name, "the part that gives Compare a probability")
        parts.append(build_notice(f"Not there for this model: {name}, {what}.", "note"))
    return _build_section("What its numbers are worth", *parts)


def _list_evaluations(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the tables of a result file: of named evaluations, or of the splits of a dataset and its platforms."""
    found = [
        (EVALUATION_TITLES.get(name, name.replace("_", " ").capitalize()), _select_mapping(evaluation, "scores"))
        for name, evaluation in _select_mapping(results, "evaluations").items()
        if isinstance(evaluation, Mapping)
    ]
    for split, platforms in _select_mapping(results, "splits").items():
        for platform in platforms if isinstance(platforms, Mapping) else ():
            title = f"Songs of the {split} split" + ("" if platform == "all" else f", {platform}")
            found.append((title, _select_mapping(platforms, platform)))
    return found


def _build_evaluation(title: str, scores: Mapping[str, Any]) -> str:
    columns = [column for column in RESULT_COLUMNS if any(_find(numbers, column) for numbers in scores.values())]
    if not columns:
        return ""
    heads = "".join(f'<th scope="col" class="apex-number">{escape(RESULT_COLUMNS[column])}</th>' for column in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(format_title(score))}</th>'
        + "".join(f'<td class="apex-number">{_find(numbers, column) or "–"}</td>' for column in columns)
        + "</tr>"
        for score, numbers in scores.items()
    )
    counts = [numbers["num_songs"] for numbers in scores.values() if isinstance(numbers.get("num_songs"), int)]
    if counts:
        span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        title = f"{title}: {span} songs a score"
    return (
        f'<h4>{escape(title)}</h4><div class="apex-scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="apex-plain"><thead><tr><th scope="col">Score</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _find(numbers: Any, path: Sequence[str]) -> str:
    """Return a number of a score's results as HTML, with its interval if it has one; empty if it is not there."""
    for name in path:
        numbers = numbers.get(name) if isinstance(numbers, Mapping) else None
    if not isinstance(numbers, Mapping):
        return _format_rounded(numbers) if isinstance(numbers, (int, float)) else ""
    value, low, high = (numbers.get(name) for name in ("value", "low", "high"))
    if not isinstance(value, (int, float)):
        return ""
    text = _format_rounded(value)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        text += f' <span class="apex-interval">{_format_rounded(low)} to {_format_rounded(high)}</span>'
    return text


def _format_rounded(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "not stated"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _build_limits(settings: SpaceSettings) -> str:
    points = [
        f"Songs up to {format_length(settings.max_seconds)} and {settings.max_megabytes:g} MB; up to "
        f"{settings.max_songs} songs in a ranking; up to {settings.queue_size} requests waiting.",
        "A scored upload is deleted when its page is closed, every upload after "
        f"{format_length(60 * settings.keep_minutes)} at the latest. Nothing is stored, nothing is sent elsewhere.",
        "Scores describe sound alone. They know nothing of the lyrics' meaning, the artist, the promotion or the day.",
        "They are meant for songs made by AI systems, and for comparing songs more than for judging one.",
        "The weights that this page can be given have licences of their own: those of MERT and of SongEval's labels "
        "exclude commercial use. The program itself is under Apache-2.0.",
    ]
    return _build_section("Limits", "<ul>" + "".join(f"<li>{escape(point)}</li>" for point in points) + "</ul>")
