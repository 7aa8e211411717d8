"""
Publishing what was built: a finished folder and a Hub id come in, a dataset repository leaves.
"""

import json
from pathlib import Path
from typing import Any

from datasets_scripts.parquet_folder import MANIFEST_NAME, WORKING_FOLDER
from modeling_apex.checkpoints.hub_files import get_hub_errors


def push_folder_to_hub(folder: str | Path, hub_id: str, *, is_private: bool = True, api: Any = None) -> str:
    """
    Upload a finished dataset folder to the Hub.

    Args:
        folder (`str` or `Path`):
            A folder that `write_parquet_folder` finished.
        hub_id (`str`):
            The dataset repository, `"owner/name"`; made when it is not there.
        is_private (`bool`, defaults to `True`):
            Whether a repository that is made is private. Licences of sources often forbid to publish their audio.
        api (`huggingface_hub.HfApi`, *optional*):
            The client to use.

    Returns:
        `str`: the repository's address.

    Raises:
        `FileNotFoundError`: If the folder is not a finished dataset.
        `ValueError`: If its rows hold paths of this machine in place of audio.
    """
    folder = Path(folder).expanduser()
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        raise FileNotFoundError(f"No {MANIFEST_NAME} in {folder}: finish the build before publishing it.")
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    options = manifest["options"]
    if options.get("needs_audio", True) and not options.get("embeds_audio", True):
        raise ValueError(
            f"The rows of {folder} hold paths of this machine in place of audio: build it without --no-embed-audio "
            f"before publishing it."
        )
    return _upload(folder, hub_id, f"Upload the {manifest['builder']} dataset", is_private, api)


WORLD_CARD = """\
---
license: apache-2.0
pretty_name: Synthetic song world
tags:
- synthetic
- music
- audio
viewer: false
---

# Synthetic song world

Songs that a program composed and rendered, with simulated listeners, raters and votes. Nothing here was recorded,
played or judged by people, and no song is by a model of the named platforms' kind. The folders have the layouts of the
published sources, so that the same builders read them; `truth.jsonl` holds the factors that drove each rendering.

Made by `python -m datasets_scripts.build synthetic` of apex-music with these options:

```json
{options}
```
"""


def push_world_to_hub(folder: str | Path, hub_id: str, *, is_private: bool = True, api: Any = None) -> str:
    """
    Upload a synthetic world, in the raw layouts that it was written in, with a card that calls it synthetic.

    Args:
        folder (`str` or `Path`):
            What `python -m datasets_scripts.build synthetic` wrote: one layout, or a folder of several.
        hub_id (`str`):
            The dataset repository, `"owner/name"`; made when it is not there.
        is_private (`bool`, defaults to `True`):
            Whether a repository that is made is private.
        api (`huggingface_hub.HfApi`, *optional*):
            The client to use.

    Returns:
        `str`: the repository's address.

    Raises:
        `FileNotFoundError`: If the folder holds no synthetic world.
    """
    folder = Path(folder).expanduser()
    options = {
        str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted([*folder.glob("world.json"), *folder.glob("*/world.json")])
    }
    if not options:
        raise FileNotFoundError(f"No world.json in {folder} or its folders: this is not a synthetic world.")
    card = WORLD_CARD.replace("{options}", json.dumps(options, indent=2))
    (folder / "README.md").write_text(card, encoding="utf-8")
    return _upload(folder, hub_id, "Upload a synthetic song world", is_private, api)


def _upload(folder: Path, hub_id: str, message: str, is_private: bool, api: Any) -> str:
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    try:
        address = api.create_repo(hub_id, repo_type="dataset", private=is_private, exist_ok=True)
        api.upload_folder(
            repo_id=hub_id,
            repo_type="dataset",
            folder_path=folder,
            ignore_patterns=[f"{WORKING_FOLDER}/*"],
            commit_message=message,
        )
    except get_hub_errors() as error:
        raise OSError(
            f"{hub_id}: publishing failed: {error} Check the connection and `hf auth whoami`, then give the same "
            "command again; the dataset itself is finished."
        ) from error
    return str(address)
