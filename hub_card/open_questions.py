"""
Ask for what no program knows: `facts.json` with the questions that a model's card leaves open.

What comes in is a model with its results and what was answered so far; what leaves is either nothing, because the card
has every fact, or the file, in which each open question stands where its answer belongs.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hub_card.result_files import OPEN_QUESTION, MissingFactError, load_result_file
from modeling_apex.storage.output_folder import save_json

SONGS_QUESTION = f"{OPEN_QUESTION}which songs trained it? A Hub id, or words."


def is_open(value: Any) -> bool:
    """Tell whether a question stands in a value where an answer belongs."""
    return OPEN_QUESTION in json.dumps(value)


def drop_open_questions(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that are answered; of lists, the entries."""
    kept = {
        name: [entry for entry in value if not is_open(entry)] if isinstance(value, list) else value
        for name, value in content.items()
    }
    return {name: value for name, value in kept.items() if not is_open(value) and (value or not content[name])}


def ask_open_questions(path: Path, build: Callable[[Mapping[str, Any]], object]) -> None:
    """
    Write the questions that a card leaves open into a file of facts, beside what is answered there.

    Args:
        path (`Path`): The file, which need not exist.
        build (`Callable[[Mapping], object]`): Builds the card's facts from those of the file.

    Raises:
        [`MissingFactError`]: If a question is open; the message says which, and that the file asks them.
    """
    content = load_result_file(path) if path.is_file() else {}
    answered = drop_open_questions(content)
    asked, reasons = dict(answered), []
    while True:
        try:
            build(asked)
            break
        except MissingFactError as error:
            if not error.question or any(is_open(asked.get(name)) and name != "components" for name in error.question):
                raise
            reasons.append(re.split(r"[;:]|\. Write", str(error))[0])
            for name, value in error.question.items():
                asked[name] = [*asked.get(name, ()), *_keep_begun(value, content)] if name == "components" else value
    if reasons:
        save_json(path, asked)
        raise MissingFactError(
            f"{path}: only you know what the card still needs, and this file asks for it: {'; '.join(reasons)}. Write "
            f"your answers over everything that begins with {OPEN_QUESTION!r}, then run the same command again."
        )


def _keep_begun(asked: list[dict[str, Any]], content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the components that are asked for, or in the place of each the one that was begun for it."""
    begun = [entry for entry in content.get("components", ()) if isinstance(entry, Mapping) and is_open(entry)]

    def is_for(entry: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        return entry.get("role") == wanted["role"] and wanted["name"] in (entry.get("name"), SONGS_QUESTION)

    return [next((dict(entry) for entry in begun if is_for(entry, wanted)), wanted) for wanted in asked]
