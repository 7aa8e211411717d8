"""
Check a model that somebody else made before believing it: files, weights, outputs, licence, identity.

What comes in is a folder or a Hub id; what leaves is a list of [`Check`]s, each with what was found, and the names of
the published checkpoints whose numbers the model has. No code that lies beside the weights is run.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_apex.checkpoints.component_licenses import LICENSES, find_component, is_permissive
from modeling_apex.checkpoints.folder_checks import (
    PICKLE_SUFFIXES,
    find_extractor_differences,
    find_foreign_code,
    find_strange_files,
    find_unread_weights,
    is_published_layout,
    list_read_weights,
)
from modeling_apex.checkpoints.hub_files import (
    CHECKSUMS_NAME,
    find_changed_files,
    get_hub_errors,
    is_same_file,
    list_hub_files,
    load_checksums,
)
from modeling_apex.checkpoints.references import list_config_differences, read_reference
from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.loading import find_model_class, load_model, load_pipeline
from modeling_apex.model_names import explain_missing_model, find_model
from modeling_apex.registration import EMBEDDED_MODEL

OK, FAILED, NOT_CHECKED = "ok", "failed", "not checked"
PUBLISHED_HEADS = "amaai-lab/apex"
PUBLISHED_ENCODERS = ("m-a-p/MERT-v1-95M", "m-a-p/MERT-v1-330M")
PARTS = ("encoder", "heads")
EMBEDDED_TITLE = "apex-tiny (in this package)"
CONVERT_AGAIN = (
    "There was nothing to compare it with: convert the published files (`apex-music convert --muq MUQ --songeval HEAD "
    "--output FOLDER`) and compare with `--against FOLDER`."
)
MAX_CARD_BYTES = 10_000_000
MAX_DETAIL = 2000  # characters of one finding
PROBE_SEED = 0
# More than one segment, so that padding and the mean over segments are probed too.
PROBE_SEGMENTS = 1.25
PROBE_SECONDS = 3.0  # of a model that hears songs whole


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `"ok"`, `"failed"` or `"not checked"`, and what was found."""

    name: str
    status: str
    detail: str

    def __post_init__(self) -> None:
        # All of it may be a stranger's words, and control codes in them could write lines of their own.
        for name in ("name", "detail"):
            object.__setattr__(self, name, escape_controls(getattr(self, name)[:MAX_DETAIL]))


@dataclass
class Verification:
    """What is known about a model after it was looked at."""

    model: str  # its folder or Hub id
    checks: list[Check] = field(default_factory=list)  # in the order in which they were made
    identity: str = ""  # which published checkpoint it equals, in words

    @property
    def is_ok(self) -> bool:
        """Whether no check failed."""
        return all(check.status != FAILED for check in self.checks)

    def add(self, name: str, status: str, detail: str) -> None:
        """Note a check."""
        self.checks.append(Check(name, status, detail))

    def format(self) -> str:
        """Return it as text: a line a check, then what the model is."""
        width = max(len(check.name) for check in self.checks)
        lines = [f"{check.name:<{width}}  {check.status:<11}  {check.detail}" for check in self.checks]
        return "\n".join([*lines, "", escape_controls(self.identity[:MAX_DETAIL])])


def verify_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    against: Sequence[str] = (),
    api: Any = None,
    **hub_options: Any,
) -> Verification:
    """
    Check a model.

    Args:
        model (`str` or `os.PathLike`):
            A folder or a Hub id.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub model.
        against (`Sequence[str]`):
            Folders or Hub ids of checkpoints that it must equal in the parts that they hold. Without any, it is
            compared with the published checkpoints that this machine has already.
        api (`huggingface_hub.HfApi`, *optional*):
            The client; defaults to one with huggingface_hub's own token and endpoint.
        hub_options:
            `cache_dir` and the like, for what is read from the Hub.

    Returns:
        [`Verification`]

    Raises:
        `FileNotFoundError`: If there is no such folder and no such model on the Hub.
    """
    name = find_model(model)
    result = Verification(name)
    folder, hub_files = _fetch(name, revision, api, hub_options)
    _check_hashes(result, folder, hub_files)
    _check_files(result, folder)
    _check_code(result, folder)
    _check_license(result, folder)
    loaded = _check_weights(result, folder, hub_options)
    if loaded is None:
        result.identity = "It does not load, so it was not compared."
        return result
    _check_extractor(result, folder, loaded.config)
    _check_probe(result, loaded)
    _compare(result, loaded, against, hub_options)
    return result


def build_probe(sampling_rate: int, seconds: float) -> np.ndarray:
    """Build what a model is probed with, `(num_samples,)`: three tones that swell and a little noise, always equal."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 0.5 * time)
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in (220.0, 277.18, 329.63))
    noise = np.random.default_rng(PROBE_SEED).standard_normal(len(time))
    return (0.2 * swell * tones + 0.01 * noise).astype(np.float32)


def _fetch(name: str, revision: str | None, api: Any, hub_options: dict[str, Any]) -> tuple[Path, list[Any] | None]:
    """Return the folder of a model, and for a Hub id the Hub's own list of its files."""
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "config.json")):
            raise FileNotFoundError(f"{name}: no config.json in this folder, so it is not a model.")
        return Path(name), None
    from huggingface_hub import HfApi

    api = api or HfApi()
    try:
        # By commit, so that the list and the files are of one moment.
        commit = api.model_info(name, revision=revision).sha
        files = list_hub_files(api, name, revision=commit)
        return Path(api.snapshot_download(name, revision=commit, **hub_options)), files
    except get_hub_errors() as error:
        raise FileNotFoundError(explain_missing_model(name, error)) from error


def _check_hashes(result: Verification, folder: Path, hub_files: list[Any] | None) -> None:
    if hub_files is not None:
        changed = [
            f.path for f in hub_files if not (folder / f.path).is_file() or not is_same_file(folder / f.path, f)
        ]
        if changed:
            result.add("hashes on the Hub", FAILED, f"different from what the Hub lists: {', '.join(changed)}")
        else:
            result.add("hashes on the Hub", OK, f"{len(hub_files)} files match those that the Hub lists")
    try:
        sums = load_checksums(folder)
    except FileNotFoundError:
        result.add(CHECKSUMS_NAME, NOT_CHECKED, "the folder has none")
        return
    except ValueError as error:
        result.add(CHECKSUMS_NAME, FAILED, str(error))
        return
    problems = find_changed_files(folder, sums)
    found = f"{len(sums)} files have the hashes that were published with them"
    result.add(CHECKSUMS_NAME, FAILED if problems else OK, "; ".join(problems) or found)


def _check_files(result: Verification, folder: Path) -> None:
    if strange := find_strange_files(folder):
        result.add("files", FAILED, f"files outside the folder can change at any time: {'; '.join(strange)}")
    read = list_read_weights(folder)
    if unread := find_unread_weights(folder, read):
        detail = f"nothing here reads them, but another program may take them for the model: {', '.join(unread)}"
        result.add("format", FAILED, detail)
        return
    pickles = sorted(name for name in read if name.endswith(PICKLE_SUFFIXES))
    opened = f"{', '.join(pickles)}: a pickle, opened so that nothing in it can run"
    result.add("format", OK, opened if pickles else "safetensors, which hold numbers only")


def _check_code(result: Verification, folder: Path) -> None:
    """Compare the code beside the weights, which nothing here runs, with what this package would put there."""
    foreign, known = find_foreign_code(folder)
    if foreign:
        detail = (
            "foreign, or of another release: not what this release of apex-music exports. This package never runs it; "
            f"others do with trust_remote_code, so read it before you trust it: {', '.join(foreign)}"
        )
        result.add("code", FAILED, detail)
    elif known and is_published_layout(folder):
        detail = f"the published layout's own, which this package never runs and has no hash of: {', '.join(known)}"
        result.add("code", NOT_CHECKED, detail)
    elif known:
        result.add("code", OK, f"{len(known)} files, as this release of apex-music exports them")


def _check_extractor(result: Verification, folder: Path, config: Any) -> None:
    if problems := find_extractor_differences(folder, config):
        result.add("preprocessor_config.json", FAILED, "; ".join(problems))


def _check_license(result: Verification, folder: Path) -> None:
    card = folder / "README.md"
    if not card.is_file():
        result.add("licence", FAILED, "no README.md, so no licence is stated")
        return
    from huggingface_hub import ModelCard

    try:
        if card.stat().st_size > MAX_CARD_BYTES:
            raise ValueError(f"it is larger than {MAX_CARD_BYTES:,} bytes")
        stated = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.license
        stated = None if stated is None else str(stated)
    except Exception as error:  # YAML errors of many kinds: all mean that the metadata cannot be read
        result.add("licence", FAILED, f"the front matter of README.md cannot be read: {error}")
        return
    if not stated:
        result.add("licence", FAILED, "README.md names no license")
        return
    try:
        provenance = find_model_class(folder).config_class.from_pretrained(folder).provenance
    except Exception as error:  # a broken config fails the check of the weights, in its own words
        result.add("licence", NOT_CHECKED, f"{stated}; the config cannot be read: {str(error).splitlines()[0]}")
        return
    license = LICENSES.get(stated)
    for part in PARTS if license and is_permissive(license) else ():
        known = find_component(str((provenance.get(part) or {}).get("source", "")))
        binding = LICENSES.get(known.license_id or "") if known else None
        if known and binding and not is_permissive(binding):
            detail = f"the card says {stated}, but the {part} is {known.name} under {known.license_id}"
            result.add("licence", FAILED, detail)
            return
    result.add("licence", OK, str(stated))


def _check_weights(result: Verification, folder: Path, hub_options: dict[str, Any]) -> Any:
    try:
        loaded = load_model(folder, **hub_options)
    except Exception as error:  # anything that keeps a model from loading is the finding
        result.add("weights", FAILED, " ".join(str(error).split()))
        return None
    tensors = loaded.state_dict()
    damaged = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if damaged:
        result.add("weights", FAILED, f"NaN or infinite: {', '.join(damaged[:5])}")
    else:
        result.add("weights", OK, f"{len(tensors)} tensors, each in its place, all finite")
    return loaded.eval()


def _check_probe(result: Verification, loaded: Any) -> None:
    config = loaded.config
    is_whole_song = getattr(config, "is_whole_song", False)
    seconds = min(PROBE_SECONDS, config.max_song_seconds) if is_whole_song else PROBE_SEGMENTS * config.segment_seconds
    probe = build_probe(config.sampling_rate, seconds)
    try:
        report = load_pipeline(loaded)(probe, sampling_rate=config.sampling_rate)
    except Exception as error:  # the model's own refusals, such as hidden states that are not finite
        result.add("probe signal", FAILED, " ".join(str(error).split()))
        return
    outside = [
        name
        for name, score in report["scores"].items()
        if not report["ranges"][name][0] <= score <= report["ranges"][name][1]
    ]
    scores = ", ".join(f"{name} {score:.2f}" for name, score in report["scores"].items())
    if outside:
        result.add("probe signal", FAILED, f"outside their ranges: {', '.join(outside)} ({scores})")
    else:
        result.add("probe signal", OK, f"finite and within range: {scores}")


def _find_here(reference: str, cache_dir: str | os.PathLike[str] | None) -> str:
    """Find the folder of a checkpoint on this machine; asked for it by its id, the Hub's client can ask its makers."""
    from huggingface_hub import try_to_load_from_cache

    if os.path.isdir(reference):
        return reference
    config = try_to_load_from_cache(reference, "config.json", cache_dir=cache_dir)
    if not isinstance(config, str):
        raise FileNotFoundError(f"{reference}: is not on this machine.")
    return os.path.dirname(config)


def _compare(result: Verification, loaded: Any, against: Sequence[str], hub_options: dict[str, Any]) -> None:
    """Say which published checkpoints have these numbers; only those that the caller named can fail the model."""
    own, config = loaded.state_dict(), loaded.config
    equal: dict[str, list[str]] = {part: [] for part in PARTS}
    unknown: list[str] = []
    compared: dict[str, dict[str, int]] = {}
    forged: dict[str, list[str]] = {}
    references = list(against) or [str(EMBEDDED_MODEL), PUBLISHED_HEADS, *PUBLISHED_ENCODERS]
    if config.model_type == "songeval" and not against:
        references = []  # its sources were published in another layout, which has to be converted first
    for reference in references:
        title = EMBEDDED_TITLE if reference == str(EMBEDDED_MODEL) else reference
        try:
            source = reference if against else _find_here(reference, hub_options.get("cache_dir"))
            theirs, fields = read_reference(source, hub_options if against else {})
        except (OSError, ValueError) as error:
            if against:
                result.add(f"equals {title}", FAILED, f"cannot be read: {' '.join(str(error).split())}")
            else:
                unknown.append(title)
            continue
        differing_parts = {part: _count_differences(own, theirs, part) for part in PARTS}
        held = {part: differing for part, differing in differing_parts.items() if differing is not None}
        compared[title] = held
        is_equal = not any(held.values())
        changed = list_config_differences(config, fields) if is_equal else []
        if changed:
            forged[title] = changed
        for part, differing in held.items():
            if differing == 0 and not changed:
                equal[part].append(title)
        if against:
            words = ", ".join(f"{part}: {_describe_difference(differing)}" for part, differing in held.items())
            result.add(f"equals {title}", OK if is_equal and not changed else FAILED, "; ".join([words, *changed]))
    if forged:
        sentences = [
            f"the weights are those of {title}, but not the config: {'; '.join(changed)}"
            for title, changed in forged.items()
        ]
        result.add("config", FAILED, " ".join(sentences))
        result.identity = f"It has the weights of {', '.join(forged)} under another config, so its scores differ."
    else:
        result.identity = _describe_identity(equal, unknown) if references else CONVERT_AGAIN
    _check_claims(result, config, equal, compared)


def _check_claims(
    result: Verification, config: Any, equal: dict[str, list[str]], compared: dict[str, dict[str, int]]
) -> None:
    """Hold what a config says of where its parts come from against what they equal."""
    for part in PARTS:
        facts = config.provenance.get(part) or {}
        source = None if facts.get("is_trained") else facts.get("source")  # what was trained on has changed
        if EMBEDDED_MODEL.name in (source, config.provenance.get("name")):
            source = EMBEDDED_TITLE
        if source in compared and part in compared[source] and source not in equal[part]:
            # Releases of this package may come with other weights of apex-tiny.
            status = NOT_CHECKED if source == EMBEDDED_TITLE else FAILED
            result.add("provenance", status, f"the config says that the {part} is that of {source}, but it is not")


def _count_differences(own: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], part: str) -> int | None:
    """Count the tensors of a part that differ in any number, shape or name; `None` where the reference has none."""

    def select(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.") == (part == "encoder")}

    first, second = select(own), select(theirs)
    if not second:
        return None
    return sum(
        name not in first
        or name not in second
        or not torch.equal(first[name].cpu(), second[name].to(first[name].dtype))
        for name in {*first, *second}
    )


def _describe_difference(differing: int) -> str:
    return f"{differing} tensors differ" if differing else "every number equal"


def _describe_identity(equal: dict[str, list[str]], unknown: Sequence[str]) -> str:
    both = [title for title in equal["encoder"] if title in equal["heads"]]
    if both:
        sentence = f"It is {both[0]}: every number is equal."
    elif equal["encoder"] and equal["heads"]:
        sentence = (
            f"It is a published model: its heads are those of {equal['heads'][0]}, its encoder is "
            f"{equal['encoder'][0]}; every number is equal."
        )
    elif equal["heads"]:
        sentence = f"Its heads are those of {equal['heads'][0]}; its encoder matches no checkpoint that was compared."
    elif equal["encoder"]:
        sentence = f"Its encoder is that of {equal['encoder'][0]}; its heads match no checkpoint that was compared."
    else:
        sentence = "It matches no checkpoint that was compared."
    if unknown:
        sentence += (
            f" Not compared, because they are not on this machine: {', '.join(unknown)} (`--against ID` fetches one)."
        )
    return sentence
