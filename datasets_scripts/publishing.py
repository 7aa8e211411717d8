"""
Publishing what was built: a finished folder and a target come in, one commit that was read back leaves.
"""

import json
import os
from pathlib import Path
from typing import Any

from datasets_scripts.parquet_folder import MANIFEST_NAME
from hub_card.hub_upload import UploadTarget
from hub_card.publish import link_folder, publish_staged
from modeling_apex.storage.output_folder import replace_text

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


def push_folder_to_hub(folder: str | Path, target: UploadTarget, **options: Any) -> str | None:
    """
    Upload a finished dataset folder to the Hub.

    Args:
        folder (`str` or `Path`):
            A folder that `write_parquet_folder` finished.
        target ([`UploadTarget`]):
            The dataset repository.
        options:
            As for [`publish_staged`]: `api`, `say`.

    Returns:
        `str`: the commit.

    Raises:
        `FileNotFoundError`: If the folder is not a finished dataset.
        `ValueError`: If its rows hold paths of this machine in place of audio.
        [`PublishError`]: If the Hub does not take it.
    """
    folder = Path(os.path.expanduser(folder))
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        raise FileNotFoundError(f"No {MANIFEST_NAME} in {folder}: finish the build before publishing it.")
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    described = manifest["options"]
    if described.get("needs_audio", True) and not described.get("embeds_audio", True):
        raise ValueError(
            f"The rows of {folder} hold paths of this machine in place of audio: build it without --no-embed-audio "
            f"before publishing it."
        )
    return _push(folder, target, f"Upload the {manifest['builder']} dataset", options)


def push_world_to_hub(folder: str | Path, target: UploadTarget, **options: Any) -> str | None:
    """
    Upload a synthetic world, in the raw layouts that it was written in, with a card that calls it synthetic.

    Arguments, return value and errors of the Hub are those of [`push_folder_to_hub`].

    Raises:
        `FileNotFoundError`: If the folder holds no synthetic world.
    """
    folder = Path(os.path.expanduser(folder))
    worlds = {
        str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted([*folder.glob("world.json"), *folder.glob("*/world.json")])
    }
    if not worlds:
        raise FileNotFoundError(f"No world.json in {folder} or its folders: this is not a synthetic world.")
    card = WORLD_CARD.replace("{options}", json.dumps(worlds, indent=2))
    replace_text(folder / "README.md", card)
    return _push(folder, target, "Upload a synthetic song world", options)


def _push(folder: Path, target: UploadTarget, message: str, options: dict[str, Any]) -> str | None:
    # The builder's own card may leave the licence open; `hub_card.publish` writes one that does not.
    return publish_staged(
        lambda staged: link_folder(folder, staged), target, message=message, needs_card=False, **options
    )
