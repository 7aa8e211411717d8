"""
`python -m spaces_demo.deploy`: put the page on Hugging Face Spaces.

What comes in is this repository; what leaves is a Space, read back, whose root holds `app.py`, `README.md` with its
front matter and `requirements.txt`, and beside them the two packages as source, so that it runs what was tested here.
The token comes from `hf auth login` or `HF_TOKEN`, never from the command line.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import modeling_apex

FOLDER = Path(__file__).parent
APP = '"""The Space starts here; the page lives in `spaces_demo`."""\n\nfrom spaces_demo.app import main\n\nmain()\n'
SENT_SUFFIXES = frozenset({".py", ".typed", ".css", ".js", ".html", ".json", ".ogg", ".md", ".safetensors"})
# The README and requirements go to the root; pictures are for readers of the repository.
LEFT_OUT = frozenset({"__pycache__", "screenshots", "deploy.py", "requirements.txt", "README.md"})
# What is removed from the Space once it is gone here; its owner's own files lie elsewhere.
OWNED = ("modeling_apex/", "spaces_demo/")
SPACE_ID = re.compile(r"[\w.-]+/[\w.-]+")


def stage_space(staged: Path, folder: Path = FOLDER) -> None:
    """
    Write the files of the Space to a new folder, from that of this package and that of `modeling_apex`.

    Raises:
        `FileNotFoundError`: If the package is not complete.
    """
    sources = {name: folder / name for name in ("README.md", "requirements.txt")}
    for path in sources.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Deploy from a clone of the repository.")
    for package in (Path(modeling_apex.__file__).parent, folder):
        for path in package.rglob("*"):
            relative = path.relative_to(package)
            is_left_out = "__pycache__" in relative.parts or (package == folder and relative.parts[0] in LEFT_OUT)
            if path.is_file() and path.suffix in SENT_SUFFIXES and not is_left_out:
                sources[f"{package.name}/{relative.as_posix()}"] = path
    for name, path in sources.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staged / name)
    (staged / "app.py").write_text(APP)


def deploy(space: str, *, is_private: bool = False, model: str | None = None, **options: Any) -> str | None:
    """
    Send the page to a Space as one commit and read it back, making the Space if need be.

    Args:
        space (`str`): Id of the Space, `owner/name`.
        is_private (`bool`, defaults to `False`): Whether a new Space is private.
        model (`str`, *optional*): Value of `APEX_MODEL` on the Space, set once the files are there.
        options: As for `hub_card.publish.publish_staged`: `is_dry_run`, `api`, `say`.

    Returns:
        `str` or `None`: address of the commit, or `None` after a dry run.

    Raises:
        `ValueError`: If `space` is not an id, or a file may not go out.
        `RuntimeError`: If the Hub does not take it, or holds something else afterwards.
    """
    if not SPACE_ID.fullmatch(space):
        raise ValueError(f"a Space is named owner/name, got {space!r}.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Here, because a Space does not carry it.
    from hub_card.hub_upload import PublishError, UploadTarget, describe_error
    from hub_card.publish import publish_staged

    api = options.setdefault("api", HfApi())
    target = UploadTarget(
        space,
        repo_type="space",
        is_private=is_private,
        accepts_public=True,
        removes_other_files=True,
        owned=OWNED,
        space_sdk="gradio",
    )
    message = f"Deploy apex-music {modeling_apex.__version__}"
    commit = publish_staged(stage_space, target, message=message, **options)
    if commit and model:  # last: nothing changes on a Space that did not take the files
        try:
            api.add_space_variable(space, "APEX_MODEL", model)
        except HfHubHTTPError.__bases__ as error:  # what it descends from: a line that breaks, and local errors
            raise PublishError(
                f"{space} has the page, but APEX_MODEL could not be set to {model}: {describe_error(error)} Set it in "
                "the Space's settings, or run this again."
            ) from error
    return f"{api.endpoint}/spaces/{space}/commit/{commit}" if commit else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    from hub_card.publish import CommandParser, print_lines, run_upload  # here, because a Space does not carry it

    parser = CommandParser(prog="python -m spaces_demo.deploy", description="Put the page on a Space.")
    parser.add_argument("--space", required=True, metavar="ID", help="the Space: owner/name; made if absent")
    parser.add_argument("--model", metavar="M", help="APEX_MODEL of the Space, e.g. amaai-lab/apex")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")

    def run(words: argparse.Namespace) -> int:
        parser.parse_args(arguments, words)
        # Standard output has the list of a dry run, or the address alone.
        say = print_lines if words.dry_run else partial(print_lines, file=sys.stderr)
        address = deploy(words.space, is_private=words.private, model=words.model, is_dry_run=words.dry_run, say=say)
        if address:
            print_lines(address)
        elif words.model:
            print_lines(f"APEX_MODEL would be set to {words.model}")
        return 0

    return run_upload("error", run, words=arguments)


if __name__ == "__main__":
    sys.exit(main())
