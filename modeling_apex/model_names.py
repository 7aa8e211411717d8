"""
What a name of a model means: a folder, apex-tiny in this package, or a model on the Hub.

A name comes in; what leaves is a folder or a Hub id, and whether the Hub can be asked for it. What is neither is
refused at once, because the Hub's client tries for half a minute to reach what cannot be reached.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex.registration import EMBEDDED_MODEL

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
# Published heads, and the repository of the encoder that they need beside their own.
PUBLISHED_ENCODER_OF = {"amaai-lab/apex": "m-a-p/MERT-v1-95M"}


def find_model(model: str | os.PathLike | None) -> str:
    """
    Return the folder or the Hub id that a name means: `None` and `"apex-tiny"` are the embedded model.

    Raises:
        `FileNotFoundError`: If the name is a path at which there is no folder, or there is no embedded model.
    """
    name = EMBEDDED_MODEL.name if model is None else os.path.expanduser(os.fspath(model))
    if os.path.isdir(name) and model is not None:
        return name
    if name == EMBEDDED_MODEL.name:
        check_embedded_model()
        return str(EMBEDDED_MODEL)
    if os.path.lexists(name):
        raise FileNotFoundError(f"{name}: is not a folder. Pass the folder of a model, which holds its {CONFIG_FILE}.")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{name}: no such folder. Pass the folder of a model, a Hub id (owner/name), or {EMBEDDED_MODEL.name}."
        ) from error
    return name


def check_embedded_model() -> None:
    """Raise a `FileNotFoundError` if this installation came without the embedded demonstration model."""
    if not (EMBEDDED_MODEL / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            "no model was named, and this installation has no embedded one. Pass a model: a folder, or a Hub id such "
            "as amaai-lab/apex (`--model` on the command line, `model=` in Python)."
        )


def choose_hub_options(name: str, options: Mapping[str, Any], files: Sequence[str] = (CONFIG_FILE,)) -> dict[str, Any]:
    """
    Ask the Hub once, before its client asks for each file with patience, and turn to the cache if it does not answer.

    Args:
        name (`str`):
            A folder or a Hub id, from [`find_model`].
        options (`dict`):
            Those of `from_pretrained`: `revision`, `token`, `cache_dir`, `subfolder`, ...
        files (`Sequence[str]`):
            Files by one of which the model is known to be in the cache.

    Returns:
        `dict`: the options, with `local_files_only=True` where the Hub does not answer.

    Raises:
        `FileNotFoundError`: If the Hub does not answer, and the cache has none of the files.
    """
    if os.path.isdir(name) or options.get("local_files_only"):
        return dict(options)
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    # Its HTTP library, whose errors are no `OSError`, changes with its versions; this error descends from its base.
    failures: tuple[type[BaseException], ...] = HfHubHTTPError.__bases__
    where = {key: options[key] for key in ("revision", "subfolder") if options.get(key)}
    try:
        get_hf_file_metadata(hf_hub_url(name, files[0], **where), token=options.get("token"), timeout=10)
    except HfHubHTTPError:
        return dict(options)  # it answers; what it says of the model is told when the model is loaded
    except failures as error:
        if not any(_find_in_cache(name, file, options) for file in files):
            raise FileNotFoundError(explain_missing_model(name, error, options)) from error
        logger.info("%s: the Hub does not answer (%s); what was downloaded before is taken.", name, error)
        return {**options, "local_files_only": True}
    return dict(options)


def explain_missing_model(name: str, error: object, options: Mapping[str, Any] | None = None) -> str:
    """Say why a model of the Hub is not there and what to download, the encoder of published heads included."""
    encoder = PUBLISHED_ENCODER_OF.get(name)
    if config := _find_in_cache(name, CONFIG_FILE, options or {}):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            encoder = json.loads(Path(config).read_text(encoding="utf-8")).get("mert_model_name")
    downloads = " and ".join(f"`hf download {repository}`" for repository in (name, encoder) if repository)
    return (
        f"{name}: no such folder, and not available from the Hub: {error} To work offline, run {downloads} once while "
        "connected, or pass a folder."
    )


@contextlib.contextmanager
def explaining_missing_model(model: Any) -> Iterator[None]:
    """Say what to do where loading a name that is no folder finds nothing on the Hub."""
    try:
        yield
    except OSError as error:
        name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
        if not name or os.path.isdir(name):
            raise
        raise FileNotFoundError(explain_missing_model(name, error)) from error


def _find_in_cache(name: str, file: str, options: Mapping[str, Any]) -> str | None:
    """Return the path of a file that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    file = f"{options['subfolder']}/{file}" if options.get("subfolder") else file
    where = {key: options[key] for key in ("revision", "cache_dir") if options.get(key)}
    found = try_to_load_from_cache(name, file, **where)
    return found if isinstance(found, str) else None
