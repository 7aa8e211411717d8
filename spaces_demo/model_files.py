"""
What lies beside a model's weights: its preference head and the result files that tell what its numbers are worth.

What comes in is a scorer; what leaves is what was found. A file that a model lacks is `None`, never an error: most
models lack some. A file that is there but cannot be read is logged and counts as absent, so that one bad file does
not take the page down.
"""

import json
import logging
from pathlib import Path
from typing import Any

from modeling_apex import PreferenceHead, SongScorer, load_preference_head

logger = logging.getLogger(__name__)

PREFERENCE_FILE = "preference_head.json"
RESULT_FILES = {
    "results.json": "how well its scores agree with labels of songs it never heard",
    "arena/results.json": "how well it predicts which of two songs people prefer",
}
"""Result files that the About tab reads, and what each one tells."""


def get_source(scorer: SongScorer) -> str:
    """Return the folder or Hub id that a model was loaded from; empty for a model that was never saved."""
    return str(scorer.model.config._name_or_path or "")


def find_file(scorer: SongScorer, name: str) -> Path | None:
    """
    Find a file beside a model's weights, in its folder or its repository on the Hub, from where it is downloaded.

    Returns `None` if the model has no such file, or the Hub cannot be asked.
    """
    source = get_source(scorer)
    if not source:
        return None
    from transformers.utils import cached_file

    try:
        found = cached_file(source, name, revision=scorer.model_revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        logger.info("%s has no %s: %s", source, name, error)
        return None
    return None if found is None else Path(found)


def find_preference_head(scorer: SongScorer) -> PreferenceHead | None:
    """Load the preference head of a model; `None` if it has none that fits its scores."""
    source = get_source(scorer)
    try:
        head: PreferenceHead | None = load_preference_head(source, scorer.model_revision) if source else None
    except ValueError as error:
        logger.warning("the preference head is left out: %s", error)
        return None
    unknown = sorted(set(head.weights) - set(scorer.model.config.head_names)) if head is not None else []
    if unknown:
        logger.warning("the preference head of %s is left out: the model has no scores %s", source, unknown)
        return None
    return head


def load_results(scorer: SongScorer) -> dict[str, dict[str, Any] | None]:
    """Load the result files of a model, by name; `None` for each that it lacks."""
    results: dict[str, dict[str, Any] | None] = dict.fromkeys(RESULT_FILES)
    for name in RESULT_FILES:
        if (path := find_file(scorer, name)) is None:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no JSON object")
            results[name] = content
        except ValueError as error:
            logger.warning("%s is left out: %s", path, error)
    return results
