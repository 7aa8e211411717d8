"""
Gather the facts of a model card from the files that know them.

What comes in is a model folder, its result files, and a file of facts that no program can measure (who may use the
weights, what songs trained them, what it cost); what leaves is one [`ModelFacts`]. Nothing is guessed: what a card
needs and no file says is a [`MissingFactError`] that tells where to write it.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_card.open_questions import SONGS_QUESTION, drop_open_questions, is_open
from hub_card.result_files import (
    OPEN_QUESTION,
    ROBUSTNESS_NAME,
    Evaluation,
    MissingFactError,
    Uncertainty,
    get_fact,
    load_result_file,
    read_arena,
    read_evaluations,
    read_robustness,
    read_uncertainty,
)
from modeling_apex.checkpoints.component_licenses import (
    CODE,
    SYNTHETIC_SONGS,
    Component,
    compute_combined_license,
    find_component,
)
from modeling_apex.corpus.label_teacher import PSEUDO_LABELS, find_teacher
from modeling_apex.storage.markdown import escape_markdown
from modeling_apex.storage.output_folder import load_fields

RESULTS_NAME = "results.json"
FACTS_NAME = "facts.json"
ARENA_NAME = "arena"
ROBUSTNESS_FOLDER = "robustness"
UNCERTAINTY_NAME = "uncertainty.json"
# Who gave the aesthetic labels, and what a reader must know about it.
LABEL_SOURCES = ("songeval-raters", "pseudo-labels", "synthetic")
FACT_FIELDS: dict[str, type] = {
    "title": str,
    "summary": str,
    "components": list,
    "aesthetic_labels": str,
    "training_summary": str,
    "battles": str,
    "no_arena_because": str,
    "energy": Mapping,
    "contact": str,
}
COMPONENT_FIELDS = {"name", "role", "license", "is_in_weights"}
ENERGY_FIELDS = {"hardware", "hours", "kwh"}
TINY_NAME = "apex-tiny"
# What a person is asked where no file has a fact.
_LICENSE_QUESTION = "under which licence? Such as cc-by-4.0, or null where none is stated."
_QUESTIONS = {
    "title": "what is the model called?",
    "summary": "what is the model, and what is it for, in a sentence or two?",
    "training_summary": "how was it trained, on what, in a sentence or two?",
    "battles": "which battles were those, and who voted?",
}
_TRAINED_PARTS = {True: "Encoder and heads were trained end to end", False: "Trunk and heads were trained"}
_BUFFER_SUFFIXES = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class ModelFacts:
    """
    Everything that a model card says, in the words and numbers of its sources.

    Args:
        title (`str`): Name for people.
        summary (`str`): What it is, in a sentence or two.
        notice (`str`, *optional*): A warning to every user, from the config.
        heads (`list[dict]`): `config.heads`.
        popularity_exponent (`float`): `config.popularity_exponent`.
        sampling_rate (`int`): Of the encoder, in hertz.
        segment_seconds (`float`): Length of a segment.
        encoder (`dict`): `hidden_size` and `num_hidden_layers`.
        num_parameters (`int`): Of encoder and heads.
        provenance (`dict`): `config.provenance`.
        components (`tuple[Component, ...]`): What it is made of and was trained with.
        aesthetic_labels (`str`): One of `LABEL_SOURCES`, or pseudo-labels of a teacher that is named.
        training_summary (`str`): How it was trained, on what.
        evaluations (`tuple[Evaluation, ...]`): Results on songs.
        arena (`dict`, *optional*): Results on battles.
        battles (`str`): Which battles those were, or why there are none.
        tail (`str`), tail_seconds (`float`): What the padded last segment counts, from the config.
        reference (`dict`): `config.reference`.
        uncertainty (`Uncertainty`, *optional*): How often intervals and warnings were right.
        robustness (`dict`, *optional*): What `apex-music robustness` found.
        plots (`tuple[str, ...]`): Paths of pictures of battles, relative to the card.
        robustness_plots (`tuple[str, ...]`): Likewise, of robustness.
        energy (`dict`, *optional*): `hardware`, `hours` and, where measured, `kwh`.
        contact (`str`, *optional*): Where to ask.
        repo_id (`str`, *optional*): The Hub repository that the card is for.
        results_files (`tuple[str, ...]`): Names of the files that the numbers come from.
    """

    title: str
    summary: str
    notice: str | None
    heads: list[dict[str, Any]]
    popularity_exponent: float
    sampling_rate: int
    segment_seconds: float
    encoder: dict[str, Any]
    num_parameters: int
    provenance: dict[str, Any]
    components: tuple[Component, ...]
    aesthetic_labels: str
    training_summary: str
    evaluations: tuple[Evaluation, ...]
    arena: dict[str, Any] | None
    battles: str
    tail: str
    tail_seconds: float
    reference: dict[str, Any]
    uncertainty: Uncertainty | None = None
    robustness: dict[str, Any] | None = None
    plots: tuple[str, ...] = ()
    robustness_plots: tuple[str, ...] = ()
    energy: dict[str, Any] | None = None
    contact: str | None = None
    repo_id: str | None = None
    results_files: tuple[str, ...] = field(default=(RESULTS_NAME,))

    @property
    def label_teacher(self) -> str | None:
        """Whose pseudo-labels the aesthetic labels are, as Markdown; `None` if they are none."""
        if not self.aesthetic_labels.startswith(PSEUDO_LABELS):
            return None
        return escape_markdown(find_teacher(self.aesthetic_labels) or "SongEval's model")

    @property
    def license_id(self) -> str:
        """The Hub's identifier of the licence that the components leave."""
        return compute_combined_license(self.components)


def build_model_facts(
    model: str | os.PathLike,
    *,
    results: str | os.PathLike | None = None,
    facts: str | os.PathLike | Mapping[str, Any] | None = None,
    arena: str | os.PathLike | None = None,
    no_arena_because: str | None = None,
    robustness: str | os.PathLike | None = None,
    plots: Sequence[str] = (),
    robustness_plots: Sequence[str] = (),
    repo_id: str | None = None,
) -> ModelFacts:
    """
    Gather the facts of a model.

    Args:
        model (`str` or `os.PathLike`):
            Folder of the model.
        results, facts, arena, robustness (`str` or `os.PathLike`, *optional*):
            Its result file, facts that no program measured, and what `apex-music arena` and `robustness` wrote; by
            default `results.json`, which must be there, and `facts.json`, `arena` and `robustness` beside it.
        no_arena_because (`str`, *optional*):
            Why there are no battles; needed where there are none, here or in the facts.
        plots (`Sequence[str]`), robustness_plots (`Sequence[str]`), repo_id (`str`, *optional*):
            Paths of pictures, relative to the card, and the Hub repository that the card is for.

    Returns:
        [`ModelFacts`]

    Raises:
        `FileNotFoundError`: If the model or a named file is not there.
        [`MissingFactError`]: If a fact is nowhere.
        `ValueError`: If a file of facts has a field that no card uses, or what was measured is of other weights.
    """
    folder = Path(model)
    config = _load_config(folder)
    results_path = Path(results) if results is not None else folder / RESULTS_NAME
    content = load_result_file(results_path)
    stated = load_facts(facts if facts is not None else folder / FACTS_NAME, must_exist=facts is not None)
    arena = find_arena(folder, arena)
    arena_results = read_arena(arena) if arena is not None else None
    return ModelFacts(
        **_describe_in_words(stated, content, config.provenance, str(results_path)),
        **_describe_config(config),
        num_parameters=count_parameters(folder),
        components=_build_components(config.provenance, stated),
        evaluations=tuple(read_evaluations(content, config.head_names, source=str(results_path))),
        arena=arena_results,
        battles=_describe_battles(arena_results, stated, no_arena_because or stated.get("no_arena_because")),
        uncertainty=_load_uncertainty(folder, config.reference),
        robustness=_load_robustness(folder, find_robustness(folder, robustness)),
        plots=tuple(plots),
        robustness_plots=tuple(robustness_plots),
        energy=stated.get("energy"),
        contact=stated.get("contact"),
        repo_id=repo_id,
    )


def _load_config(folder: Path) -> Any:
    from modeling_apex.inference.configuration_apex import ApexConfig

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json in this folder, so it is not a model.")
    kind = load_fields(folder / "config.json", "Download the model again.").get("model_type")
    if kind != ApexConfig.model_type:
        raise ValueError(
            f"{folder}: cards with results are made for APEX models only, but this one's `model_type` is {kind!r}. "
            f"`apex-music export --model {folder} --output DIR` writes its card, with the licence of each part, "
            "beside its weights and code."
        )
    return ApexConfig.from_pretrained(folder)


def find_arena(folder: str | os.PathLike, arena: str | os.PathLike | None) -> Path | None:
    """Return the folder of arena results that belongs to a model: the given one, else `arena` beside it, else none."""
    return _find_beside(folder, arena, ARENA_NAME, RESULTS_NAME)


def find_robustness(folder: str | os.PathLike, robustness: str | os.PathLike | None) -> Path | None:
    """Return the folder of a model's robustness results: the given one, else `robustness` beside it, else none."""
    return _find_beside(folder, robustness, ROBUSTNESS_FOLDER, ROBUSTNESS_NAME)


def _find_beside(folder: str | os.PathLike, given: str | os.PathLike | None, name: str, file: str) -> Path | None:
    if given is not None:
        return Path(given)
    beside = Path(folder) / name
    return beside if (beside / file).is_file() else None


def _load_uncertainty(folder: Path, reference: Mapping[str, Any]) -> Uncertainty | None:
    path = folder / UNCERTAINTY_NAME
    return read_uncertainty(path, reference) if path.is_file() else None


def _load_robustness(folder: Path, path: Path | None) -> dict[str, Any] | None:
    """Read what robustness found, and refuse what it found of other weights."""
    if path is None:
        return None
    from modeling_apex.engines.model_hashes import compute_scores_hash
    from modeling_apex.loading import load_model

    found = read_robustness(path)
    if found["model_sha256"] != compute_scores_hash(load_model(folder)):
        raise ValueError(
            f"{path}: these results of `apex-music robustness` are for other weights or settings of the model "
            f"than {folder} has now. Run it again with --overwrite, or delete it."
        )
    return found


def load_facts(path: str | os.PathLike | Mapping[str, Any], *, must_exist: bool = True) -> dict[str, Any]:
    """Read and check facts that no program measured, of a JSON file or as they are; of none, where that may be."""
    if isinstance(path, Mapping):
        return _check_facts(path, FACTS_NAME)
    if not must_exist and not Path(path).is_file():
        return {}
    return _check_facts(drop_open_questions(load_result_file(path)), str(path))


def _check_facts(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Refuse facts that no card uses, or of the wrong kind."""
    for name, value in content.items():
        if name not in FACT_FIELDS:
            raise ValueError(f"{path}: no card uses the field {name!r}; expected some of {', '.join(FACT_FIELDS)}.")
        if not isinstance(value, FACT_FIELDS[name]) or not value:
            raise ValueError(f"{path}: {name!r} must be a non-empty {FACT_FIELDS[name].__name__}, got {value!r}.")
    for position, component in enumerate(content.get("components", ())):
        is_complete = isinstance(component, Mapping) and {"name", "role", "license"} <= set(component)
        if not is_complete or set(component) - COMPONENT_FIELDS:
            raise ValueError(
                f"{path}: component {position} must have name, role, license (null where none is stated) and may have "
                f"is_in_weights, got {component!r}."
            )
    energy = content.get("energy")
    if energy is not None and (not {"hardware", "hours"} <= set(energy) or set(energy) - ENERGY_FIELDS):
        raise ValueError(f"{path}: `energy` must have hardware and hours and may have kwh, got {energy!r}.")
    return dict(content)


def _build_components(provenance: Mapping[str, Any], stated: Mapping[str, Any]) -> tuple[Component, ...]:
    """List what a model is made of and was trained with, this code first, by its provenance and the stated facts."""
    components = {CODE.name: CODE}
    for entry in stated.get("components", ()):
        component = Component(entry["name"], entry["role"], entry["license"], bool(entry.get("is_in_weights")))
        components[component.name] = component
    if provenance.get("name") == TINY_NAME:
        components.setdefault(SYNTHETIC_SONGS.name, SYNTHETIC_SONGS)
    for part in ("encoder", "heads"):
        source = (provenance.get(part) or {}).get("source")
        if source is None or source in components:
            continue
        known = find_component(source)
        if known is None:
            raise MissingFactError(
                f"the model's {part} comes from {source!r}, and nothing says under which licence. Write it into the "
                f'facts file: {{"components": [{{"name": "{source}", "role": "{part}", "license": "..."}}]}}.',
                {"components": [{"name": source, "role": part, "license": f"{OPEN_QUESTION}{_LICENSE_QUESTION}"}]},
            )
        components.setdefault(known.name, known)
    if not any(component.role == "songs" for component in components.values()):
        raise MissingFactError(
            "nothing says on which songs the model was trained. Write them into the facts file: "
            '{"components": [{"name": "...", "role": "songs", "license": "..."}]}.',
            {
                "components": [
                    {
                        "name": SONGS_QUESTION,
                        "role": "songs",
                        "license": f"{OPEN_QUESTION}{_LICENSE_QUESTION}",
                    }
                ]
            },
        )
    return tuple(components.values())


def count_parameters(folder: str | os.PathLike) -> int:
    """
    Count the parameters of a saved model from its headers alone; running statistics are none.

    Raises:
        `FileNotFoundError`: If there are no safetensors in the folder.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder}: no safetensors in this folder.")
    total = 0
    for path in files:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__" and not name.endswith(_BUFFER_SUFFIXES):
                total += math.prod(entry["shape"])
    return total


def _describe_config(config: Any) -> dict[str, Any]:
    return {
        "notice": config.provenance.get("notice"),
        "heads": [dict(head) for head in config.heads],
        "popularity_exponent": config.popularity_exponent,
        "sampling_rate": config.sampling_rate,
        "segment_seconds": config.segment_seconds,
        "tail": config.tail,
        "tail_seconds": config.tail_seconds,
        "reference": dict(config.reference),
        "encoder": {name: getattr(config.encoder_config, name) for name in ("hidden_size", "num_hidden_layers")},
        "provenance": dict(config.provenance),
    }


def _describe_in_words(
    stated: Mapping[str, Any], content: Mapping[str, Any], provenance: Mapping[str, Any], source: str
) -> dict[str, Any]:
    name = provenance.get("name")
    is_tiny = name == TINY_NAME
    described = {"title": TINY_NAME, "summary": _describe_tiny()} if is_tiny else {"title": name}
    words = {name: stated.get(name) or described.get(name) or _demand(stated, name) for name in ("title", "summary")}
    words["aesthetic_labels"] = _get_label_source(stated, content, is_tiny)
    known = _describe_tiny_training(content, source) if is_tiny else _describe_run(provenance.get("training") or {})
    training = stated.get("training_summary") or known
    return words | {"training_summary": training or _demand(stated, "training_summary")}


def _describe_run(training: Mapping[str, Any]) -> str | None:
    """Say how a model was trained, by what `apex-music train` noted; nothing where it noted too little."""
    arguments, songs = training.get("arguments") or {}, (training.get("data") or {}).get("songs") or {}
    names = ("train_encoder", "mode", "loss", "learning_rate", "num_epochs")
    if not {"train", "validation"} <= set(songs) or not set(names) <= set(arguments):
        return None
    return (
        f"{_TRAINED_PARTS[bool(arguments['train_encoder'])]} by `apex-music train` on {songs['train']:,} songs; "
        f"{songs['validation']:,} others chose the best of at most {arguments['num_epochs']} epochs. Scored was each "
        f"{arguments['mode']}; the loss was `{arguments['loss']}`, the learning rate at most "
        f"{arguments['learning_rate']:g}."
    )


def _demand(stated: Mapping[str, Any], name: str) -> Any:
    if name not in stated:
        raise MissingFactError(
            f"nothing says the model's {name}; write `{name}` into the facts file.",
            {name: f"{OPEN_QUESTION}{_QUESTIONS[name]}"},
        )
    return stated[name]


def _get_label_source(stated: Mapping[str, Any], content: Mapping[str, Any], is_tiny: bool) -> str:
    found: list[str] = list(content.get("label_sources") or ())
    source = stated.get("aesthetic_labels") or ("synthetic" if is_tiny else None)
    # The results name the teacher of pseudo-labels.
    if source in (None, PSEUDO_LABELS) and len(found) == 1 and (source is None or find_teacher(found[0])):
        source = found[0]
    if source is None:
        raise MissingFactError(
            "nothing says who gave the aesthetic labels; write `aesthetic_labels` into the facts file, one of "
            f"{', '.join(LABEL_SOURCES)}.",
            {"aesthetic_labels": f"{OPEN_QUESTION}who gave them? One of {', '.join(LABEL_SOURCES)}."},
        )
    if source not in LABEL_SOURCES and not find_teacher(source) and not is_open(source):
        raise ValueError(f"`aesthetic_labels` must be one of {', '.join(LABEL_SOURCES)}, got {source!r}.")
    return str(source)


def _describe_tiny() -> str:
    return (
        "A demonstration model: it lets the program run anywhere, offline and at once. It has only ever heard songs "
        "that a program rendered, so its scores say nothing about real music."
    )


def _describe_tiny_training(content: Mapping[str, Any], source: str) -> str:
    num_songs, seconds, command = (
        get_fact(content, "training", name, source=source) for name in ("num_songs", "song_seconds", "command")
    )
    recorded = content["training"].get("training_seconds")
    duration = f" Training took {recorded / 60:.0f} minutes." if isinstance(recorded, (int, float)) else ""
    return (
        f"Encoder and heads were trained end to end, from waveforms, on {num_songs:,} synthetic songs of "
        f"{seconds:g} s by `{command}`. Aesthetic labels are means of simulated raters, popularity labels percentiles "
        f"of simulated plays and likes.{duration}"
    )


def _describe_battles(arena: Mapping[str, Any] | None, stated: Mapping[str, Any], reason: str | None) -> str:
    if arena is None:
        if not reason:
            raise MissingFactError(
                "nothing says how the model does on battles: pass what `apex-music arena` wrote (--arena DIR), or say "
                "why there is nothing (--no-arena-because TEXT, or `no_arena_because` in the facts file).",
                {"no_arena_because": f"{OPEN_QUESTION}why are there no results on battles? Or pass --arena DIR."},
            )
        return reason
    if reason:
        raise ValueError("there are arena results, and a reason why there are none: pass one of the two.")
    if any(score.get("group") == "truth" for score in arena.get("scores", ())):
        return stated.get("battles", "Synthetic battles, whose outcome a simulation drew: not human votes.")
    return str(_demand(stated, "battles"))
