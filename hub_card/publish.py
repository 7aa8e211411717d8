"""
`apex-music publish`, or `python -m hub_card.publish`: a model or a dataset to the Hub.

Exports the model, renders its card, checks the folder, says what it will send, sends it as one commit, and reads it
back. `--dry-run` stops before anything is sent. The token comes from `hf auth login` or `HF_TOKEN`, never from here.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_card.build_card import add_card_arguments, write_card
from hub_card.dataset_card import find_changed_shards
from hub_card.hub_upload import (
    MAIN_BRANCH,
    PublishError,
    RepositoryState,
    UploadTarget,
    build_upload_plan,
    check_account,
    describe_error,
    read_repository,
    upload,
)
from hub_card.model_facts import (
    ARENA_NAME,
    FACTS_NAME,
    RESULTS_NAME,
    ROBUSTNESS_FOLDER,
    UNCERTAINTY_NAME,
    build_model_facts,
    find_arena,
    find_robustness,
    load_facts,
)
from hub_card.open_questions import ask_open_questions
from hub_card.result_files import ROBUSTNESS_NAME, load_result_file
from hub_card.upload_checks import DEFAULT_MAX_FILE_BYTES, FolderRefusedError, check_folder
from modeling_apex.checkpoints.hub_files import get_hub_errors, save_checksums
from modeling_apex.process_exit import CommandParser, print_lines, run_command
from modeling_apex.storage.stop_signals import open_temporary_folder

ARENA_FILES = ("results.json", "report.md")
ROBUSTNESS_FILES = (ROBUSTNESS_NAME, "report.md")
# Where `datasets_scripts` notes the places of a dataset's sources.
LEDGER_NAME = ".sources.jsonl"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `python -m hub_card.publish`."""
    parser = CommandParser(prog="python -m hub_card.publish")
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and declare its arguments."""
    parser.description = (
        "Publish a model or a dataset on the Hub: checked, as one commit, and read back afterwards. A model without "
        "results is evaluated, and what only you know of it is asked for in its facts.json; answer there, and run the "
        "same command again."
    )
    parser.epilog = (
        "examples:\n"
        "  %(prog)s --model runs/first/best --repo you/first --dry-run\n"
        "  %(prog)s --dataset data/songeval --repo you/songeval --private\n\n"
        "The token comes from `hf auth login` or the variable HF_TOKEN."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_card_arguments(parser)
    parser.add_argument("--repo", required=True, metavar="ID", help="the Hub repository: owner/name")
    parser.add_argument(
        "--embeddings",
        metavar="DIR",
        help="what to evaluate a model on that has no results (default: the embeddings that it was trained on)",
    )
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


def run(arguments: argparse.Namespace) -> int:
    """Publish what the arguments name; return the exit status."""
    publish(arguments)
    return 0


def publish(arguments: argparse.Namespace, *, api: Any = None, say: Callable[[str], None] = print_lines) -> str | None:
    """
    Publish the model or the dataset that the arguments name.

    Args:
        arguments (`argparse.Namespace`):
            What [`build_parser`] declares.
        api (`huggingface_hub.HfApi`, *optional*):
            The client; defaults to one with huggingface_hub's own token and endpoint.
        say (`Callable[[str], None]`, defaults to [`print_lines`]):
            Takes the lines for people.

    Returns:
        `str` or `None`: the commit, or `None` after a dry run.

    Raises:
        [`FolderRefusedError`]: If the folder may not go out.
        [`PublishError`]: If the Hub does not take it.
        [`MissingFactError`]: If the card lacks a fact; the model's `facts.json` then asks for it.
    """
    source = Path(arguments.model or arguments.dataset)
    stage: Callable[[argparse.Namespace, Path], None] = _stage_dataset
    if arguments.model:
        _complete_model(arguments, source, say)
        stage = _stage_model
    target = UploadTarget(
        arguments.repo,
        repo_type="dataset" if arguments.dataset else "model",
        branch=arguments.revision,
        is_private=arguments.private,
        removes_other_files=arguments.remove_other_files,
    )
    return publish_staged(
        lambda folder: stage(arguments, folder),
        target,
        message=arguments.message or f"Publish {source.resolve().name}",
        is_dry_run=arguments.dry_run,
        max_file_bytes=arguments.max_file_bytes,
        private_paths=[str(source.resolve())],
        api=api,
        say=say,
    )


def publish_staged(
    stage: Callable[[Path], object],
    target: UploadTarget,
    *,
    message: str,
    is_dry_run: bool = False,
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
    private_paths: Sequence[str] = (),
    needs_card: bool = True,
    api: Any = None,
    say: Callable[[str], None] = print_lines,
) -> str | None:
    """
    Make a folder ready, check it, say what will be sent, send it as one commit, and read it back.

    Args:
        stage (`Callable[[Path], object]`):
            Writes the folder, at a path that does not exist yet.
        target ([`UploadTarget`]), message (`str`): Where it goes, and what the commit says.
        is_dry_run (`bool`, defaults to `False`):
            Whether to stop before anything is sent.
        max_file_bytes (`int`), private_paths (`Sequence[str]`), needs_card (`bool`):
            As for [`check_folder`]; the home and the current folder are private anyway.
        api (`huggingface_hub.HfApi`, *optional*), say (`Callable[[str], None]`, defaults to [`print_lines`]):
            The client, with huggingface_hub's own token and endpoint by default, and what takes the lines for people.

    Returns:
        `str` or `None`: the commit, or `None` after a dry run.

    Raises:
        [`FolderRefusedError`]: If the folder may not go out.
        [`PublishError`]: If the Hub does not take it.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    # The repository is read first: whatever changes while the folder is made ready is then noticed.
    state, is_state_known = _read_state(api, target, is_dry_run=is_dry_run, say=say)
    with open_temporary_folder("apex-publish-") as temporary:
        folder = temporary / "folder"
        stage(folder)
        check_folder(
            folder,
            repo_type=target.repo_type,
            max_file_bytes=max_file_bytes,
            secrets=_list_secrets(api),
            private_paths=[*private_paths, *_list_private_paths(), str(temporary)],
            needs_card=needs_card,
        )
        plan = build_upload_plan(folder, target, state, is_state_known=is_state_known)
        say(plan.format())
        if is_dry_run:
            say("dry run: nothing was sent")
            return None
        if not plan.has_changes:
            say("the repository has all of this already; reading it back")
        commit = upload(api, plan, message)
    say(f"commit {commit}: {len(plan.files)} files read back, every hash is that of the file sent")
    return commit


def _read_state(
    api: Any, target: UploadTarget, *, is_dry_run: bool, say: Callable[[str], None]
) -> tuple[RepositoryState | None, bool]:
    """Return what the repository holds, and whether that is known: a dry run goes on without account and Hub."""
    if not is_dry_run:
        say(f"account: {check_account(api)}")
    try:
        return read_repository(api, target.repo_id, repo_type=target.repo_type, branch=target.branch), True
    except get_hub_errors() as error:
        if not is_dry_run:
            raise PublishError(f"{target.repo_id} could not be read: {describe_error(error)}") from error
        say(f"the Hub could not be read, so this compares with nothing: {describe_error(error)}")
        return None, False


def _complete_model(arguments: argparse.Namespace, source: Path, say: Callable[[str], None]) -> None:
    """
    Evaluate a model that has no results, and ask for the facts that its card lacks.

    Raises:
        `FileNotFoundError`: If there are no results, and nothing says on which embeddings to make them.
        [`MissingFactError`]: If the card lacks a fact; its file of facts then asks for it.
    """
    check_folder(source, max_file_bytes=arguments.max_file_bytes, needs_card=False)
    results = _get_results_path(arguments)
    if not results.is_file():
        _evaluate(arguments, source, results, say)

    def build(facts: Mapping[str, Any]) -> object:
        return build_model_facts(
            source,
            results=results,
            facts=facts,
            arena=arguments.arena,
            no_arena_because=arguments.no_arena_because,
            robustness=arguments.robustness,
            repo_id=arguments.repo,
        )

    facts = Path(arguments.facts) if arguments.facts else source / FACTS_NAME
    if arguments.facts and not facts.is_file():
        raise FileNotFoundError(f"{facts}: no such file of facts; without --facts one is made beside the model.")
    load_facts(facts, must_exist=False)  # what is wrong in it is said with its place
    ask_open_questions(facts, build)


def _get_results_path(arguments: argparse.Namespace) -> Path:
    return Path(arguments.results) if arguments.results else Path(arguments.model) / RESULTS_NAME


def _evaluate(arguments: argparse.Namespace, source: Path, results: Path, say: Callable[[str], None]) -> None:
    """Make the results of a model as `apex-music evaluate` does."""
    from modeling_apex.storage.output_folder import save_json
    from modeling_apex.storage.output_lock import OutputLock
    from modeling_apex.training.evaluate import evaluate_model, format_findings
    from modeling_apex.training.run_folder import find_training_embeddings

    embeddings, songs = (arguments.embeddings, None) if arguments.embeddings else find_training_embeddings(source)
    if arguments.results or embeddings is None:
        raise FileNotFoundError(
            f"{results}: no such result file; make one with `apex-music evaluate EMBEDDINGS --model {source} --output "
            f"{results}`, or name the embeddings by --embeddings and leave out --results."
        )
    say(f"no {results}: evaluating on {embeddings}")
    with OutputLock(results, is_file=True):
        evaluation = evaluate_model(source, embeddings, songs=songs)
        save_json(results, evaluation)
    for line in [f"wrote {results}", *format_findings(evaluation)]:
        say(line)


def _stage_model(arguments: argparse.Namespace, staged: Path) -> None:
    """Make the folder of a model as the Hub will show it: exported anew, with its card, results and checksums."""
    from modeling_apex.checkpoints.export import export_model
    from modeling_apex.engines.model_hashes import compute_scores_hash
    from modeling_apex.loading import load_model
    from modeling_apex.storage.output_folder import save_json

    source, results = Path(arguments.model), _get_results_path(arguments)
    loaded, content = load_model(source), load_result_file(results)
    measured = content.get("model_sha256")
    if measured is not None and measured != compute_scores_hash(loaded):
        raise FolderRefusedError(
            f"{results}: not published, because these are results of another model than {source} (or of its earlier "
            f"weights, percentiles or reference set). Remove the file, and it is made again."
        )
    export_model(loaded, staged)
    if "model" in content:  # where it lay on this machine is nobody's business
        content["model"] = arguments.repo
    save_json(staged / RESULTS_NAME, content)
    for name in ("preference_head.json", UNCERTAINTY_NAME, "LICENSE"):
        if (source / name).is_file():
            shutil.copyfile(source / name, staged / name)
    for found, folder, names in (
        (find_arena(source, arguments.arena), ARENA_NAME, ARENA_FILES),
        (find_robustness(source, arguments.robustness), ROBUSTNESS_FOLDER, ROBUSTNESS_FILES),
    ):
        for name in names:
            if found is not None and (found / name).is_file():
                (staged / folder).mkdir(exist_ok=True)
                shutil.copyfile(found / name, staged / folder / name)
    write_card(arguments, staged, repo_id=arguments.repo)
    save_checksums(staged)


def _stage_dataset(arguments: argparse.Namespace, staged: Path) -> None:
    """Make the folder of a dataset as the Hub will show it: its shards, manifest and card."""
    source = Path(arguments.dataset)
    if not (source / "manifest.json").is_file():
        raise FileNotFoundError(f"{source}: no manifest.json, so the dataset is not finished; finish the build first.")
    options = load_result_file(source / "manifest.json").get("options", {})
    problems = find_changed_shards(source)
    if options.get("needs_audio", True) and not options.get("embeds_audio", True):
        problems.append("its rows hold paths of this machine in place of audio; build it without --no-embed-audio")
    if problems:
        raise FolderRefusedError(f"{source}: not published, because " + "; ".join(problems))
    link_folder(source, staged)
    (staged / "README.md").unlink(missing_ok=True)
    shutil.copyfile(source / "README.md", staged / "README.md")
    arguments = argparse.Namespace(**{**vars(arguments), "dataset": str(staged)})
    write_card(arguments, staged, repo_id=arguments.repo)


def link_folder(source: Path, target: Path) -> None:
    """Copy a dataset, without what a build notes of this machine; by hard links where the disk allows: it is large."""
    left_out = shutil.ignore_patterns(LEDGER_NAME)
    shutil.copytree(source, target, symlinks=True, copy_function=_link_or_copy, ignore=left_out)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _list_secrets(api: Any) -> list[str]:
    """List the tokens that may be at work here, so that no file can hold one."""
    from huggingface_hub import get_token

    return [token for token in {get_token(), getattr(api, "token", None)} if isinstance(token, str) and token]


def _list_private_paths() -> list[str]:
    """List folders of this machine that a published file has no reason to name."""
    # A folder right below the root, such as /data, is too short a name to say anything; a home is not.
    is_telling = {str(Path.home()): len(Path.home().parts) > 1, str(Path.cwd()): len(Path.cwd().parts) > 2}
    return sorted(path for path, telling in is_telling.items() if telling)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if the Hub did not take it, 2 if folder or words are wrong."""
    return run_upload("publish", lambda arguments: run(build_parser().parse_args(words, arguments)), words=words)


def run_upload(name: str, run: Callable[[argparse.Namespace], int], *, words: Sequence[str] | None) -> int:
    """Run a command that sends something to the Hub; arguments as for [`run_command`]."""
    when_interrupted = "a commit is all or nothing: run the same command again"
    return run_command(name, run, words=words, when_interrupted=when_interrupted)


if __name__ == "__main__":
    sys.exit(main())
