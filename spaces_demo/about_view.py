"""
The About tab: which model runs, what it learned from, what its numbers are worth, and where they end.

Every number on it is read from the model's config or from a result file beside its weights. What has not been
measured is named as missing; nothing is filled in from memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modeling_apex import SongScorer
from spaces_demo.markup import render
from spaces_demo.model_files import PREFERENCE_FILE, RESULT_FILES
from spaces_demo.settings import SpaceSettings
from spaces_demo.wording import format_length

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
# What is told of a preference head, by its name among the head's training facts.
PREFERENCE_TITLES = {
    "num_battles": "Battles learned from",
    "held_out_auc": "AUC on battles it had not seen (0.5 is chance)",
    "expected_calibration_error": "Mean error of its probabilities",
}
PREFERENCE_MEANING = "the part that gives Compare a probability"


def collect_facts(scorer: SongScorer, head: Any, results: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    """
    Gather what is known of a loaded model with its preference head, if it has one, and what [`load_results`] found.

    Returns:
        `dict`: JSON-ready: `model`, `heads`, `segment_seconds` (`None` where a song is heard whole), `num_parameters`,
        `notice`, `provenance`,
        `preference_head` (its training facts), `results` and `missing`.
    """
    config = scorer.model.config
    provenance = dict(config.provenance)
    return {
        "model": {"id": scorer.model_id, "revision": scorer.model_revision},
        "heads": [dict(entry) for entry in config.heads],
        "segment_seconds": None if scorer.is_whole_song else config.segment_seconds,
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
    text = f"{notice[:1].upper()}{notice[1:]}".replace("`", "") if notice else ""
    return render("notice.html", text=text, kind="warning") if text else ""


def build_about(facts: Mapping[str, Any], settings: SpaceSettings) -> str:
    """Build the whole tab as HTML."""
    results = facts["results"].get("results.json", {})
    labels = results.get("label_sources") or _select_mapping(results, "training").get("labels")
    arena, head = facts["results"].get("arena/results.json", {}), facts["preference_head"]
    tables = [_describe_evaluation(title, scores) for title, scores in _list_evaluations(results)]
    return render(
        "about.html",
        model=_list_model(facts),
        heads=facts["heads"],
        settings=settings,
        evaluations=[table for table in tables if table["columns"]],
        labels=_format_value(labels) if labels else "",
        conclusion=str(arena.get("conclusion") or ""),
        preference=None if head is None else _list_preference(head),
        missing=[(name, RESULT_FILES.get(name, PREFERENCE_MEANING)) for name in facts["missing"]],
    )


def _list_preference(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(title, _format_rounded(training[name])) for name, title in PREFERENCE_TITLES.items() if name in training]


def _list_model(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = facts["model"]
    rows = [
        ("Name", model["id"]),
        ("Version", model["revision"] or "local files"),
        ("Size", f"{facts['num_parameters']:,} parameters"),
        (
            "Listens in segments of",
            "the whole song" if facts["segment_seconds"] is None else format_length(facts["segment_seconds"]),
        ),
    ]
    known = {**facts["provenance"], **_select_mapping(facts["provenance"], "training")}
    known |= _select_mapping(facts["results"].get("results.json", {}), "training")
    for name, title in PROVENANCE_TITLES.items():
        if name in known and title not in dict(rows):
            rows.append((title, _format_value(known[name])))
    return rows


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


def _describe_evaluation(title: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a table: its `title`, the heads of its `columns`, and `rows` of a score with what is in each column."""
    columns = [column for column in RESULT_COLUMNS if any(_find(numbers, column)[0] for numbers in scores.values())]
    counts = [numbers["num_songs"] for numbers in scores.values() if isinstance(numbers.get("num_songs"), int)]
    if counts:
        span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        title = f"{title}: {span} songs per score"
    return {
        "title": title,
        "columns": [RESULT_COLUMNS[column] for column in columns],
        "rows": [(name, [_find(numbers, column) for column in columns]) for name, numbers in scores.items()],
    }


def _find(numbers: Any, path: Sequence[str]) -> tuple[str, str]:
    """Return a number of a score's results and its interval as text; each is empty if it is not there."""
    for name in path:
        numbers = numbers.get(name) if isinstance(numbers, Mapping) else None
    if not isinstance(numbers, Mapping):
        return (_format_rounded(numbers) if isinstance(numbers, (int, float)) else ""), ""
    value, low, high = (numbers.get(name) for name in ("value", "low", "high"))
    if not isinstance(value, (int, float)):
        return "", ""
    has_interval = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return _format_rounded(value), f"{_format_rounded(low)} to {_format_rounded(high)}" if has_interval else ""


def _format_rounded(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "not stated"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
