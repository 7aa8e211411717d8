"""
Read result files into one shape, whoever wrote them.

What comes in is `results.json` of `apex-music evaluate`, `results.json` and `uncertainty.json` beside apex-tiny, and
what `apex-music arena` and `robustness` wrote; what leaves are [`Evaluation`]s, an [`Uncertainty`], and the
dictionaries of the last two. Every number of a card passes through here, and a number that is not there is a
[`MissingFactError`] that names the file and the field.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Songs drawn for the test of apex-tiny; the words of other splits follow from their names.
SPLIT_TITLES = {
    "test": "New songs of the two training platforms",
    "unseen": "Songs of systems that training never saw",
}
ROBUSTNESS_NAME = "robustness.json"
ROBUSTNESS_PARTS = ("model_sha256", "num_songs", "scores", "perturbations", "left_out")
ARENA_PARTS = ("battles", "options", "protocols", "direct_rules", "aesthetics_effect", "conclusion")


OPEN_QUESTION = "OPEN QUESTION: "


class MissingFactError(ValueError):
    """
    A card needs a fact that no result file has; the message says which, and where it was looked for.

    Args:
        message (`str`): What to tell.
        question (`dict`, *optional*): What to ask for it, by fields of a file of facts, where a person may know.
    """

    def __init__(self, message: str, question: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.question = dict(question or {})


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95 % interval; what is `None` is not defined, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ScoreResult:
    """
    How well one score follows its label.

    Args:
        name (`str`): Name of the score.
        num_songs (`int`): Songs with a label.
        spearman (`Estimate`): Rank correlation.
        pearson (`Estimate`): Correlation.
        mse (`Estimate`): Mean squared error, in squared native units.
        mae (`Estimate`): Mean absolute error, in native units.
        mse_of_mean (`float`): That of always saying the mean of the training labels.
        mae_of_median (`float`): That of always saying their median.
        ceiling (`float`, *optional*): Rank correlation of a listener who knows the truth of a simulation.
        target (`float`, *optional*): Rank correlation that was asked for.
    """

    name: str
    num_songs: int
    spearman: Estimate
    pearson: Estimate
    mse: Estimate
    mae: Estimate
    mse_of_mean: float
    mae_of_median: float
    ceiling: float | None = None
    target: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether a rank correlation was asked for and not reached."""
        reached = self.spearman.value
        return self.target is not None and reached is not None and reached < self.target


@dataclass(frozen=True)
class Evaluation:
    """
    One set of songs, and how well each score does on it.

    Args:
        name (`str`): Split, with the platform where it is one of several.
        title (`str`): Heading for people.
        scores (`tuple[ScoreResult, ...]`): In the order of the model's heads; those without labels are left out.
        num_songs (`int`): Songs in the set.
    """

    name: str
    title: str
    scores: tuple[ScoreResult, ...]
    num_songs: int


@dataclass(frozen=True)
class Uncertainty:
    """
    What was measured of intervals and of warnings, on songs with known labels and on sounds that are no songs.

    Args:
        coverage (`dict[str, dict[str, tuple[float, int]]]`):
            By set of songs and score, the share of labels within the interval, and how many songs have a label.
        novel (`dict[str, tuple[float, int]]`): By what was heard, the share that was called novel, and of how many.
    """

    coverage: dict[str, dict[str, tuple[float, int]]]
    novel: dict[str, tuple[float, int]]


def load_result_file(path: str | os.PathLike) -> dict[str, Any]:
    """
    Read a JSON file that holds an object.

    Raises:
        `FileNotFoundError`: If it is not there.
        `ValueError`: If it is not a JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such result file.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}.")
    return content


def get_fact(content: Mapping[str, Any], *keys: str, source: str) -> Any:
    """
    Get a fact that must be there.

    Args:
        content (`Mapping`), source (`str`):
            A result file's content, and its name, for the message.
        keys (`str`):
            The way to the fact, outermost first.

    Raises:
        [`MissingFactError`]: If a key is not there, or the fact is `null` or not finite.
    """
    value: Any = content
    for depth, key in enumerate(keys):
        if not isinstance(value, Mapping) or key not in value:
            present = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
            where = ".".join(keys[:depth]) or "the top"
            raise MissingFactError(f"{source}: no `{'.'.join(keys)}`; at {where} there is {present or 'nothing'}.")
        value = value[key]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise MissingFactError(f"{source}: `{'.'.join(keys)}` is {value!r}; a card needs its value.")
    return value


def read_evaluations(content: Mapping[str, Any], head_names: list[str], *, source: str) -> list[Evaluation]:
    """
    Read the evaluations of a model, in the order of the file.

    Args:
        content (`Mapping`), source (`str`):
            What `apex-music evaluate` wrote, or the results beside apex-tiny, and the name of that file, for messages.
        head_names (`list[str]`):
            The model's scores; each evaluation must have them all, if only to say that no song was labelled.

    Raises:
        [`MissingFactError`]: If the file holds no evaluation, or one lacks a number.
    """
    if "evaluations" in content:
        found = _read_recipe_evaluations(content, head_names, source)
    elif "splits" in content:
        found = _read_split_evaluations(content, head_names, source)
    else:
        raise MissingFactError(
            f"{source}: neither `evaluations` nor `splits`, so it holds no evaluation; make one with "
            "`apex-music evaluate`."
        )
    if not found:
        raise MissingFactError(f"{source}: the list of evaluations is empty.")
    return found


def _read_recipe_evaluations(content: Mapping[str, Any], head_names: list[str], source: str) -> list[Evaluation]:
    evaluations = []
    for name in content["evaluations"]:
        path = ("evaluations", name)
        num_songs = get_fact(content, *path, "num_songs", source=source)
        scores = _read_scores(content, (*path, "scores"), head_names, source, is_simulated=True)
        evaluations.append(Evaluation(name, _build_title(name), scores, num_songs))
    return evaluations


def _read_split_evaluations(content: Mapping[str, Any], head_names: list[str], source: str) -> list[Evaluation]:
    evaluations = []
    for split, platforms in content["splits"].items():
        for platform in platforms:
            scores = _read_scores(content, ("splits", split, platform), head_names, source)
            if scores:
                name = split if platform == "all" else f"{split}, {platform}"
                num_songs = max(score.num_songs for score in scores)
                evaluations.append(Evaluation(name, _build_title(name), scores, num_songs))
    return evaluations


def _read_scores(
    content: Mapping[str, Any],
    path: tuple[str, ...],
    head_names: list[str],
    source: str,
    *,
    is_simulated: bool = False,
) -> tuple[ScoreResult, ...]:
    scores = []
    for head in head_names:
        at = (*path, head)
        num_songs = get_fact(content, *at, "num_songs", source=source)
        if num_songs == 0:
            continue  # nobody labelled these songs for this score: the card says so
        scores.append(
            ScoreResult(
                name=head,
                num_songs=num_songs,
                spearman=_read_estimate(content, (*at, "spearman"), source),
                pearson=_read_estimate(content, (*at, "pearson"), source),
                mse=_read_estimate(content, (*at, "mse"), source),
                mae=_read_estimate(content, (*at, "mae"), source),
                mse_of_mean=get_fact(content, *at, "baselines", "mean", "mse", source=source),
                mae_of_median=get_fact(content, *at, "baselines", "median", "mae", source=source),
                ceiling=get_fact(content, *at, "spearman_ceiling", source=source) if is_simulated else None,
                target=get_fact(content, *at, "target", source=source) if is_simulated else None,
            )
        )
    return tuple(scores)


def _read_estimate(content: Mapping[str, Any], path: tuple[str, ...], source: str) -> Estimate:
    stored = get_fact(content, *path[:-1], source=source).get(path[-1])
    reason = stored.get("reason") if isinstance(stored, Mapping) else None
    if not reason:
        return Estimate(*(get_fact(content, *path, field, source=source) for field in ("value", "low", "high")))
    # A number that is `null` for a stated reason is a result; without one it is missing.
    value, low, high = (stored.get(field) for field in ("value", "low", "high"))
    return Estimate(value, low, high, str(reason))


def _build_title(name: str) -> str:
    return SPLIT_TITLES.get(name, f"Split {name}")


def read_arena(path: str | os.PathLike) -> dict[str, Any]:
    """
    Read the results of the arena experiment from the folder that `apex-music arena` wrote, or from its `results.json`.

    Raises:
        `FileNotFoundError`: If there are none.
        [`MissingFactError`]: If a part of the experiment is missing.
    """
    return _read_parts(Path(path), "results.json", ARENA_PARTS)


def read_uncertainty(path: str | os.PathLike, reference: Mapping[str, Any]) -> Uncertainty:
    """
    Read what was measured of a model's intervals and warnings.

    Args:
        path (`str` or `os.PathLike`):
            What `tests/benchmarks/measure_uncertainty.py` wrote.
        reference (`Mapping`):
            The model's `config.reference`.

    Raises:
        [`MissingFactError`]: If a number is missing.
        `ValueError`: If it was measured with another reference set.
    """
    source, content = str(path), load_result_file(path)
    if get_fact(content, "reference", "sha256", source=source) != reference.get("sha256"):
        raise ValueError(
            f"{path}: was measured with another reference set than the model's own; measure it again, or delete it."
        )
    covered, novel = (
        get_fact(content, *place, source=source) for place in (("coverage",), ("novelty", "called_novel"))
    )

    def read(*place: str, count: str) -> tuple[float, int]:
        share, number = (get_fact(content, *place, name, source=source) for name in ("share", count))
        return share, number

    return Uncertainty(
        {
            songs: {head: read("coverage", songs, head, count="num_songs") for head in reference["intervals"]}
            for songs in covered
        },
        {name: read("novelty", "called_novel", name, count="num_sounds") for name in novel},
    )


def read_robustness(path: str | os.PathLike) -> dict[str, Any]:
    """
    Read what `apex-music robustness` wrote, from its folder or from its `robustness.json`.

    Raises:
        `FileNotFoundError`: If there is none.
        [`MissingFactError`]: If a part is missing.
    """
    return _read_parts(Path(path), ROBUSTNESS_NAME, ROBUSTNESS_PARTS)


def _read_parts(path: Path, name: str, parts: Sequence[str]) -> dict[str, Any]:
    """Read a result file, or the one of that name in a folder, and make sure that no part is missing."""
    file = path / name if path.is_dir() else path
    content = load_result_file(file)
    for part in parts:
        get_fact(content, part, source=str(file))
    return content
