"""
`python -m hub_card.publish`: a model or a dataset to the Hub.

Exports the model, renders its card, checks the folder, says what it will send, sends it as one commit, and reads it
back. `--dry-run` stops before anything is sent. The token comes from `hf auth login` or `HF_TOKEN`, never from here.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hub_card.build_card import add_card_arguments, write_card
from hub_card.dataset_card import find_changed_shards
from hub_card.hub_upload import (
    MAIN_BRANCH,
    PublishError,
    UploadPlan,
    build_upload_plan,
    check_account,
    describe_error,
    read_repository,
    upload,
)
from hub_card.model_facts import ARENA_NAME, RESULTS_NAME, find_arena
from hub_card.upload_checks import DEFAULT_MAX_FILE_BYTES, FolderRefusedError, check_folder
from modeling_apex.hub_files import get_hub_errors, save_checksums

ARENA_FILES = ("results.json", "report.md")
USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m hub_card.publish",
        description="Publish a model or a dataset on the Hub: checked, as one commit, and read back afterwards.",
        epilog="examples:\n"
        "  python -m hub_card.publish --model runs/best --arena runs/arena --repo you/apex --dry-run\n"
        "  python -m hub_card.publish --dataset data/songeval --repo you/songeval --private\n\n"
        "The token comes from `hf auth login` or the variable HF_TOKEN.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_card_arguments(parser)
    parser.add_argument("--repo", required=True, metavar="ID", help="the Hub repository: owner/name")
    parser.add_argument("--private", action="store_true", help="make it private; refuse a public one")
    parser.add_argument("--revision", default=MAIN_BRANCH, metavar="B", help="branch, made if absent (default: main)")
    parser.add_argument("--message", metavar="TEXT", help="commit message")
    parser.add_argument("--dry-run", action="store_true", help="do everything but send")
    parser.add_argument(
        "--remove-other-files", action="store_true", help="remove files of the repository that are not sent"
    )
    parser.add_argument(
        "--max-file-bytes",
        type=int,
        default=DEFAULT_MAX_FILE_BYTES,
        metavar="N",
        help=f"refuse larger files (default: {DEFAULT_MAX_FILE_BYTES:,})",
    )
    return parser


def publish(arguments: argparse.Namespace, *, api: Any = None, say: Callable[[str], None] = print) -> str | None:
    """
    Publish what the arguments name.

    Args:
        arguments (`argparse.Namespace`):
            What [`build_parser`] declares.
        api (`huggingface_hub.HfApi`, *optional*):
            The client; defaults to one with huggingface_hub's own token and endpoint.
        say (`Callable[[str], None]`, defaults to `print`):
            Takes the lines for people.

    Returns:
        `str` or `None`: the commit, or `None` after a dry run.

    Raises:
        [`FolderRefusedError`]: If the folder may not go out.
        [`PublishError`]: If the Hub does not take it.
        `ValueError`: If the card lacks a fact.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    repo_type = "dataset" if arguments.dataset else "model"
    # The repository is read first: whatever changes while the folder is made ready is then noticed.
    if not arguments.dry_run:
        say(f"account: {check_account(api)}")
    state, is_state_known = None, True
    try:
        state = read_repository(api, arguments.repo, repo_type=repo_type, branch=arguments.revision)
    except get_hub_errors() as error:
        if not arguments.dry_run:
            raise PublishError(f"{arguments.repo} could not be read: {describe_error(error)}") from error
        is_state_known = False
        say(f"the Hub could not be read, so this compares with nothing: {describe_error(error)}")
    with tempfile.TemporaryDirectory(prefix="apex-publish-") as temporary:
        staged = Path(temporary) / "folder"
        stage = stage_dataset if arguments.dataset else stage_model
        stage(arguments, staged)
        check_folder(
            staged,
            repo_type=repo_type,
            max_file_bytes=arguments.max_file_bytes,
            secrets=list_secrets(api),
            private_paths=list_private_paths(arguments.model or arguments.dataset, temporary),
        )
        plan = build_upload_plan(
            staged,
            arguments.repo,
            state,
            repo_type=repo_type,
            branch=arguments.revision,
            is_private=arguments.private,
            removes_other_files=arguments.remove_other_files,
            is_state_known=is_state_known,
        )
        say(plan.format())
        if arguments.dry_run:
            say("dry run: nothing was sent")
            return None
        return _send(api, plan, arguments, say)


def _send(api: Any, plan: UploadPlan, arguments: argparse.Namespace, say: Callable[[str], None]) -> str:
    if not plan.has_changes:
        say("the repository has all of this already; reading it back")
    source = Path(arguments.model or arguments.dataset).resolve().name
    commit = upload(api, plan, arguments.message or f"Publish {source}")
    say(f"commit {commit}: {len(plan.files)} files read back, every hash is that of the file sent")
    return commit


def stage_model(arguments: argparse.Namespace, staged: Path) -> None:
    """
    Make the folder of a model as the Hub will show it: exported anew, with its card, results and checksums.

    Args:
        arguments (`argparse.Namespace`):
            What [`build_parser`] declares.
        staged (`Path`):
            A folder that does not exist yet.

    Raises:
        [`FolderRefusedError`]: If the model's folder holds what does not belong there.
        `ValueError`: If the card lacks a fact.
    """
    from modeling_apex.export import export_model

    source = Path(arguments.model)
    check_folder(source, max_file_bytes=arguments.max_file_bytes, needs_card=False)
    export_model(source, staged)
    results = Path(arguments.results) if arguments.results else source / RESULTS_NAME
    if not results.is_file():
        raise FileNotFoundError(f"{results}: no such result file; make one with `apex-music evaluate`.")
    shutil.copyfile(results, staged / RESULTS_NAME)
    for name in ("preference_head.json", "LICENSE"):
        if (source / name).is_file():
            shutil.copyfile(source / name, staged / name)
    arena = find_arena(source, arguments.arena)
    for name in ARENA_FILES:
        if arena is not None and (arena / name).is_file():
            (staged / ARENA_NAME).mkdir(exist_ok=True)
            shutil.copyfile(arena / name, staged / ARENA_NAME / name)
    write_card(arguments, staged, repo_id=arguments.repo)
    save_checksums(staged)


def stage_dataset(arguments: argparse.Namespace, staged: Path) -> None:
    """
    Make the folder of a dataset as the Hub will show it: its shards, manifest and card.

    Args:
        arguments (`argparse.Namespace`):
            What [`build_parser`] declares.
        staged (`Path`):
            A folder that does not exist yet.

    Raises:
        [`FolderRefusedError`]: If a shard is not what the manifest says, or the rows hold paths in place of audio.
        `FileNotFoundError`: If the dataset is not finished.
    """
    from hub_card.result_files import load_result_file

    source = Path(arguments.dataset)
    if not (source / "manifest.json").is_file():
        raise FileNotFoundError(
            f"{source}: no manifest.json, so this is no finished dataset; let the build end first."
        )
    options = load_result_file(source / "manifest.json").get("options", {})
    problems = find_changed_shards(source)
    if options.get("needs_audio", True) and not options.get("embeds_audio", True):
        problems.append("its rows hold paths of this machine in place of audio; build it without --no-embed-audio")
    if problems:
        raise FolderRefusedError(f"{source}: not published, because " + "; ".join(problems))
    # Hard links where the disk allows: shards are large, and nothing here writes to them.
    shutil.copytree(source, staged, symlinks=True, copy_function=_link_or_copy)
    (staged / "README.md").unlink(missing_ok=True)
    shutil.copyfile(source / "README.md", staged / "README.md")
    arguments = argparse.Namespace(**{**vars(arguments), "dataset": str(staged)})
    write_card(arguments, staged, repo_id=arguments.repo)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def list_secrets(api: Any) -> list[str]:
    """List the tokens that may be at work here, so that no file can hold one."""
    from huggingface_hub import get_token

    return [token for token in {get_token(), getattr(api, "token", None)} if isinstance(token, str) and token]


def list_private_paths(source: str, temporary: str) -> list[str]:
    """List folders of this machine that a published file has no reason to name."""
    home = Path.home()
    folders = {Path(source).resolve(), Path.cwd(), Path(temporary)}
    # A folder right below the root, such as /data, is too short a name to say anything.
    found = {str(folder) for folder in folders if len(folder.parts) > 2}
    return sorted(found | ({str(home)} if len(home.parts) > 1 else set()))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for what another command line, file or attempt can mend."""
    arguments = build_parser().parse_args(words)
    try:
        publish(arguments)
    except USER_ERRORS as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1 if isinstance(error, PublishError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
