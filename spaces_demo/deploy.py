"""
`python -m spaces_demo.deploy`: put the page on Hugging Face Spaces.

What comes in is this repository; what leaves is a Space whose root holds `app.py`, `README.md` with its front matter
and `requirements.txt`, and beside them the two packages as source, so that it runs what was tested here. The token
comes from `hf auth login` or `HF_TOKEN`, never from the command line.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modeling_apex

FOLDER = Path(__file__).parent
APP = '"""The Space starts here; the page lives in `spaces_demo`."""\n\nfrom spaces_demo.app import main\n\nmain()\n'
SENT_SUFFIXES = frozenset({".py", ".typed", ".css", ".js", ".json", ".ogg", ".md", ".safetensors"})
# The README and requirements go to the root; pictures are for readers of the repository.
LEFT_OUT = frozenset({"__pycache__", "screenshots", "deploy.py", "requirements.txt", "README.md"})
SPACE_ID = re.compile(r"[\w.-]+/[\w.-]+")


def collect_files(folder: Path = FOLDER) -> dict[str, bytes]:
    """
    Collect what the files of the Space hold, by path, from the folder of this package and that of `modeling_apex`.

    Raises:
        `FileNotFoundError`: If the package is not complete.
    """
    files = {"app.py": APP.encode()}
    for name in ("README.md", "requirements.txt"):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Deploy from a clone of the repository.")
        files[name] = path.read_bytes()
    for package in (Path(modeling_apex.__file__).parent, folder):
        for path in sorted(package.rglob("*")):
            relative = path.relative_to(package)
            is_left_out = "__pycache__" in relative.parts or (package == folder and relative.parts[0] in LEFT_OUT)
            if path.is_file() and path.suffix in SENT_SUFFIXES and not is_left_out:
                files[f"{package.name}/{relative.as_posix()}"] = path.read_bytes()
    return files


def deploy(space: str, *, is_private: bool = False, model: str | None = None, api: Any = None) -> str:
    """
    Send the page to a Space as one commit, making the Space if need be.

    Args:
        space (`str`): Id of the Space, `owner/name`.
        is_private (`bool`, defaults to `False`): Whether a new Space is private.
        model (`str`, *optional*): Value of `APEX_MODEL` on the Space.
        api (`huggingface_hub.HfApi`, *optional*): The client; defaults to one with huggingface_hub's own token.

    Returns:
        `str`: address of the commit.

    Raises:
        `ValueError`: If `space` is not an id.
        `RuntimeError`: If the Hub does not take it.
    """
    check_space_id(space)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = api or HfApi()
    files = collect_files()
    try:
        api.create_repo(space, repo_type="space", space_sdk="gradio", private=is_private, exist_ok=True)
        if model:
            api.add_space_variable(space, "APEX_MODEL", model)
        old = [
            path
            for path in api.list_repo_files(space, repo_type="space")
            if path.startswith(("modeling_apex/", "spaces_demo/")) and path not in files
        ]
        commit = api.create_commit(
            space,
            repo_type="space",
            operations=[
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(CommitOperationDelete(path) for path in old),
            ],
            commit_message=f"Deploy apex-music {modeling_apex.__version__}",
        )
    except HfHubHTTPError.__bases__ as error:  # what it descends from: a line that breaks, and local errors
        raise RuntimeError(
            f"the Hub did not take the Space {space}: {error} Run `hf auth login` with a token that may write to it."
        ) from error
    return str(commit.commit_url)


def check_space_id(space: str) -> None:
    """Raise `ValueError` unless `space` looks like `owner/name`."""
    if not SPACE_ID.fullmatch(space):
        raise ValueError(f"a Space is named owner/name, got {space!r}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m spaces_demo.deploy", description="Put the page on a Space.")
    parser.add_argument("--space", required=True, metavar="ID", help="the Space: owner/name; made if absent")
    parser.add_argument("--model", metavar="M", help="APEX_MODEL of the Space, e.g. amaai-lab/apex")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    options = parser.parse_args(arguments)
    try:
        check_space_id(options.space)
        if options.dry_run:
            files = collect_files()
            for path, content in files.items():
                print(f"{len(content):>10,}  {path}")
            total = sum(map(len, files.values()))
            print(f"{len(files)} files, {total:,} bytes would go to {options.space}; nothing was sent")
            if options.model:
                print(f"APEX_MODEL would be set to {options.model}")
            return 0
        print(deploy(options.space, is_private=options.private, model=options.model))
    except KeyboardInterrupt:
        print("\ninterrupted; a commit is all or nothing: give the command again", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
