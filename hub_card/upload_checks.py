"""
Say what keeps a folder from being published.

What comes in is a folder; what leaves is a list of problems, all of them at once, each naming its file: files that do
not belong, pickles, files above the limit, secrets, paths of this machine, a card with gaps. An empty list means that
the folder may go out.
"""

import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from hub_card.card_checks import CARD_NAME, find_card_problems
from hub_card.stored_texts import UnsearchableError, iterate_pieces
from modeling_apex.checkpoints.hub_files import CHECKSUMS_NAME, list_files

# The Hub stores larger files, but shards of this size are what transformers writes and what people can resume.
DEFAULT_MAX_FILE_BYTES = 5_000_000_000
PICKLE_SUFFIXES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".t7")
LEFTOVER_SUFFIXES = (".lock", ".log", ".orig", ".partial", ".pyc", ".rej", ".swp", ".tmp", ".writing")
SECRET_PATTERNS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google key": rb"\bAIza[0-9A-Za-z_-]{35}\b",
    "an OpenAI or Anthropic key": rb"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}",
    "a Slack token": rb"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "a password in an address": rb"\bhttps?://[^\s/:@\"']{1,64}:[^\s/:@\"']{3,64}@",
}
# What a model folder may hold; anything else was left there by something else.
MODEL_FILES = re.compile(
    r"config\.json|preprocessor_config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|"
    r"README\.md|SHA256SUMS|LICENSE|(results|uncertainty|facts|preference_head)\.json|\w+_apex\.py|"
    r"(arena|robustness)/[\w./-]+\.(json|jsonl|md|png|svg)|\.gitattributes"
)
REQUIRED_MODEL_FILES = ("config.json", "preprocessor_config.json")
# What JSON may write in place of a character that a secret is made of.
_ESCAPE = re.compile(rb"\\+(?:u00([0-7][0-9a-fA-F])|/)")
_MAX_PLACES = 5


class FolderRefusedError(ValueError):
    """The folder may not be published; the message lists every reason."""


def check_folder(
    folder: str | os.PathLike,
    *,
    repo_type: str = "model",
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
    secrets: Sequence[str] = (),
    private_paths: Sequence[str] = (),
    needs_card: bool = True,
) -> None:
    """
    Refuse a folder that may not be published.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        repo_type (`str`, defaults to `"model"`):
            `"model"`, `"dataset"` or `"space"`.
        max_file_bytes (`int`, defaults to 5 GB):
            Size above which a file is refused, in bytes.
        secrets (`Sequence[str]`):
            Texts that must stand nowhere, such as the token of the upload.
        private_paths (`Sequence[str]`):
            Folders of this machine that no text file may name.
        needs_card (`bool`, defaults to `True`):
            Whether a complete card must be there.

    Raises:
        [`FolderRefusedError`]: If there is any problem.
        `FileNotFoundError`: If the folder is not there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder.")
    names = list_files(root)
    problems = [*_find_files_out_of_place(root, names, repo_type), *_find_missing_files(names, repo_type)]
    for name in names:
        path = root / name
        if path.is_symlink():
            problems.append(f"{name}: a symbolic link; put the file itself there")
        elif not path.is_file():
            problems.append(f"{name}: not a regular file")
        else:
            problems += _find_content_problems(path, name, max_file_bytes, secrets, private_paths)
    if needs_card and (root / CARD_NAME).is_file():
        card = (root / CARD_NAME).read_text(encoding="utf-8")
        problems += [f"{CARD_NAME}: {problem}" for problem in find_card_problems(card, root, repo_type=repo_type)]
    elif needs_card:
        problems.append(f"{CARD_NAME}: missing")
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise FolderRefusedError(f"{root}: not published, because\n{lines}")


def _find_files_out_of_place(root: Path, names: Iterable[str], repo_type: str) -> list[str]:
    problems = []
    for name in names:
        parts = PurePosixPath(name).parts
        if name == ".gitattributes":
            continue
        if any(part.startswith(".") or part == "__pycache__" for part in parts):
            problems.append(f"{name}: a hidden or cached file; remove it")
        elif name.lower().endswith(LEFTOVER_SUFFIXES):
            problems.append(f"{name}: left over from unfinished work; finish it or remove the file")
        elif name.lower().endswith(PICKLE_SUFFIXES) or is_pickle(root / name):
            problems.append(f"{name}: a pickle can run code when it is opened; weights are published as safetensors")
        elif repo_type == "model" and MODEL_FILES.fullmatch(name) is None:
            problems.append(f"{name}: does not belong in a model folder; remove it")
    return problems


def _find_missing_files(names: Iterable[str], repo_type: str) -> list[str]:
    if repo_type != "model":
        return []
    present = set(names)
    problems = [f"{name}: missing" for name in REQUIRED_MODEL_FILES if name not in present]
    if not any(name.endswith(".safetensors") for name in present):
        problems.append("model.safetensors: missing")
    return problems


def _find_content_problems(
    path: Path, name: str, max_file_bytes: int, secrets: Sequence[str], private_paths: Sequence[str]
) -> list[str]:
    num_bytes = path.stat().st_size
    if num_bytes > max_file_bytes:
        return [f"{name}: {num_bytes:,} bytes, above the limit of {max_file_bytes:,}; save it in shards"]
    if num_bytes == 0 and not name.endswith(("__init__.py", "py.typed")):
        return [f"{name}: empty"]
    try:
        found = find_secrets(path, secrets)
    except UnsearchableError as error:
        return [f"{name}: {error}; write the file again, or leave it out"]
    problems = [
        f"{name}: holds {kind}{_list_places(places)}; remove it, and revoke it if it was real"
        for kind, places in found.items()
    ]
    if path.suffix in (".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".py") or name == CHECKSUMS_NAME:
        text = path.read_text(encoding="utf-8", errors="replace")
        problems += [f"{name}: names {place}, a path on this machine" for place in private_paths if place in text]
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            problems.append(f"{name}: not JSON ({error})")
    return problems


def find_secrets(path: str | os.PathLike, secrets: Sequence[str] = ()) -> dict[str, list[str]]:
    """
    Search a file, of any kind and size, for what must never be published: the known patterns, and these texts.

    What is compressed is searched too: cells of Parquet, archives, .gz, .zst and the like.

    Returns:
        `dict[str, list[str]]`: the kinds that were found, never the secrets themselves, each with the places, such as
        `row 3, column prompt`.

    Raises:
        [`UnsearchableError`]: If the file is damaged.
        `ImportError`: If a library that reads the file is not installed.
    """
    patterns = {kind: re.compile(pattern) for kind, pattern in SECRET_PATTERNS.items()}
    exact = [re.escape(secret.encode()) for secret in secrets if secret]
    if exact:
        patterns["the token in use"] = re.compile(b"|".join(exact))
    found: dict[str, list[str]] = {}
    with open(path, "rb") as file:
        for place, piece in itertools.chain([("its name", os.fsencode(Path(path).name))], iterate_pieces(file)):
            text = _ESCAPE.sub(_unescape, piece) if b"\\" in piece else piece
            for kind, pattern in patterns.items():
                if pattern.search(text) or (text is not piece and pattern.search(piece)):
                    places = found.setdefault(kind, [])
                    if place and place not in places[-1:]:
                        places.append(place)
    return found


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else b"/"


def _list_places(places: Sequence[str]) -> str:
    more = [f"and {len(places) - _MAX_PLACES:,} more"] if len(places) > _MAX_PLACES else []
    return f" ({'; '.join([*places[:_MAX_PLACES], *more])})" if places else ""


def is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle, bare or in torch's zip archive, by its content."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80" and start[1:] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return True
    if start != b"PK" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith((".pkl", ".npy")) for name in archive.namelist())
