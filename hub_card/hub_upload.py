"""
Upload a folder to the Hub as one commit, and believe it only after reading it back.

What comes in is a checked folder; what leaves is the id of a commit whose every file was downloaded again and has the
hash that it had here. Between reading the repository and committing, nobody else's change is overwritten: the commit
names its parent, and the Hub refuses it if that is no longer the newest.

The token is huggingface_hub's own: from `hf auth login` or `HF_TOKEN`. It is never an argument and never shown.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_card.markdown import format_bytes
from modeling_apex.checkpoints.hub_files import (
    HubFile,
    compute_file_hash,
    get_hub_errors,
    is_same_file,
    list_files,
    list_hub_files,
)
from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.storage.stop_signals import open_temporary_folder

MAIN_BRANCH = "main"
# The Hub keeps this file itself: it says which files are large.
HUBS_OWN_FILE = ".gitattributes"
CONFLICT_CODES = (409, 412)
REFUSAL_CODES = (401, 403)
NEW, CHANGED, SAME = "new", "changed", "same"


class PublishError(RuntimeError):
    """The Hub did not take the folder; the message says what to do."""

    exit_status = 1  # neither the user's fault nor this program's


class RepositoryChangedError(PublishError):
    """Somebody else changed the repository after it was read."""


class ReadBackError(PublishError):
    """The Hub has other bytes than those that were sent."""


@dataclass(frozen=True)
class UploadTarget:
    """
    Where a folder goes.

    Args:
        repo_id (`str`): `"owner/name"`; made if absent.
        repo_type (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.
        branch (`str`, defaults to `"main"`): Where the commit goes; made if absent.
        is_private (`bool`, defaults to `False`): Whether a new repository is private, and a public one refused.
        accepts_public (`bool`, defaults to `False`): Whether a public one is taken although `is_private`.
        removes_other_files (`bool`, defaults to `False`): Whether files that only the repository has are removed.
        owned (`tuple[str, ...]`, defaults to every path): Prefixes of the paths that are this upload's; files
            elsewhere, unless sent, are neither refused nor removed nor read back.
        space_sdk (`str`, *optional*): Of a new Space, such as `"gradio"`.
    """

    repo_id: str
    repo_type: str = "model"
    branch: str = MAIN_BRANCH
    is_private: bool = False
    accepts_public: bool = False
    removes_other_files: bool = False
    owned: tuple[str, ...] = ("",)
    space_sdk: str | None = None

    def find_other_files(self, paths: Iterable[str], sent: Iterable[str]) -> list[str]:
        """List those of a repository's `paths` that this upload owns and does not send."""
        return sorted(path for path in set(paths) - set(sent) - {HUBS_OWN_FILE} if path.startswith(self.owned))


@dataclass(frozen=True)
class RepositoryState:
    """
    A repository as it was read, before anything was sent.

    Args:
        commit (`str`): The newest commit of the branch.
        is_private (`bool`): Whether strangers cannot see it.
        has_branch (`bool`): Whether the wanted branch exists; if not, `commit` is that of `main`.
        files (`tuple[HubFile, ...]`): Its files.
    """

    commit: str
    is_private: bool
    has_branch: bool
    files: tuple[HubFile, ...]


@dataclass(frozen=True)
class PlannedFile:
    """A file that goes up: path, size, SHA-256, and whether the repository has it already."""

    path: str
    num_bytes: int
    sha256: str
    status: str


@dataclass(frozen=True)
class UploadPlan:
    """
    Everything that an upload would change.

    Args:
        folder (`Path`): What is sent.
        target (`UploadTarget`): Where it goes.
        state (`RepositoryState`, *optional*): The repository now; `None` if it must be made.
        files (`tuple[PlannedFile, ...]`): Every file of the folder.
        removed (`tuple[str, ...]`): Files of the repository that the folder does not have, where the target owns them.
        is_state_known (`bool`, defaults to `True`): False if the Hub could not be read, in a dry run.
    """

    folder: Path
    target: UploadTarget
    state: RepositoryState | None
    files: tuple[PlannedFile, ...]
    removed: tuple[str, ...]
    is_state_known: bool = True

    @property
    def has_changes(self) -> bool:
        """Whether the repository would be another one afterwards."""
        return self.state is None or bool(self.removed) or any(file.status != SAME for file in self.files)

    def format(self) -> str:
        """Return the plan as text: where it goes, every file with size and hash, and what is removed."""
        target = self.target
        if not self.is_state_known:
            where = f"a {target.repo_type} repository that could not be read"
        elif self.state is None:
            where = f"a new {'private' if target.is_private else 'public'} {target.repo_type} repository"
        else:
            kind = "private" if self.state.is_private else "public"
            where = f"the {kind} {target.repo_type} repository, now at commit {self.state.commit[:12]}"
        lines = [f"{target.repo_id}, branch {target.branch}: {where}"]
        lines += [f"  {f.status:<8}{f.num_bytes:>15,}  {f.sha256}  {f.path}" for f in self.files]
        lines += [f"  {'removed':<8}{'':>15}  {'':64}  {path}" for path in self.removed]
        sent = [file for file in self.files if file.status != SAME]
        total = format_bytes(sum(file.num_bytes for file in sent))
        lines.append(f"  {len(sent)} of {len(self.files)} files to send, {total}; {len(self.removed)} to remove")
        return "\n".join(lines)


def check_account(api: Any) -> str:
    """
    Make sure that there is a token and that it may write, and return the account's name.

    Raises:
        [`PublishError`]: If there is no token, the Hub does not accept it, or it may only read.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        account = api.whoami()
    except LocalTokenNotFoundError as error:
        raise PublishError("no Hub token was found; run `hf auth login`, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        if _get_status(error) in REFUSAL_CODES:
            raise PublishError(
                "the Hub does not accept the token; make one with write access at huggingface.co/settings/tokens and "
                "run `hf auth login`, or set HF_TOKEN."
            ) from error
        raise PublishError(f"the Hub does not answer: {describe_error(error)}") from error
    except get_hub_errors() as error:
        raise PublishError(f"the Hub cannot be reached: {describe_error(error)}") from error
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise PublishError(
            f"the token of {account['name']} is read-only; make one with write access at "
            "huggingface.co/settings/tokens and run `hf auth login`, or set HF_TOKEN."
        )
    return str(account["name"])


def read_repository(
    api: Any, repo_id: str, *, repo_type: str = "model", branch: str = MAIN_BRANCH
) -> RepositoryState | None:
    """
    Read what a repository holds now.

    Args:
        api (`huggingface_hub.HfApi`), repo_id (`str`):
            The client, and `"owner/name"`.
        repo_type (`str`, defaults to `"model"`):
            `"model"`, `"dataset"` or `"space"`.
        branch (`str`, defaults to `"main"`):
            Where the commit will go.

    Returns:
        [`RepositoryState`] or `None`: `None` if there is no such repository, or this account may not see it.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    has_branch = True
    try:
        info = api.repo_info(repo_id, repo_type=repo_type, revision=branch)
    except RevisionNotFoundError:
        has_branch = False
        info = api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return None
    # Read by commit, not by branch: the list and the commit are then of one moment.
    files = list_hub_files(api, repo_id, repo_type=repo_type, revision=info.sha)
    return RepositoryState(info.sha, bool(info.private), has_branch, tuple(files))


def build_upload_plan(
    folder: str | os.PathLike, target: UploadTarget, state: RepositoryState | None, *, is_state_known: bool = True
) -> UploadPlan:
    """
    Compare a folder with a repository.

    Args:
        folder (`str` or `os.PathLike`), target ([`UploadTarget`]):
            What is sent, checked before, and where it goes.
        state ([`RepositoryState`], *optional*):
            The repository now, or `None` if it must be made.
        is_state_known (`bool`, defaults to `True`):
            Whether `state` was read at all; false in a dry run without the Hub.

    Raises:
        [`PublishError`]: If the repository is public and private was asked for, or it holds other files that are not
            to be removed.
    """
    root = Path(folder)
    if state is not None and target.is_private and not (state.is_private or target.accepts_public):
        raise PublishError(
            f"{target.repo_id} is public, but a private repository was asked for. Make it private in its settings "
            "first, publish for everyone, or choose another repository."
        )
    there = {file.path: file for file in state.files} if state is not None else {}
    files = []
    for name in list_files(root):
        path = root / name
        status = NEW if name not in there else SAME if is_same_file(path, there[name]) else CHANGED
        files.append(PlannedFile(name, path.stat().st_size, compute_file_hash(path), status))
    removed = tuple(target.find_other_files(there, (file.path for file in files)))
    if removed and not target.removes_other_files:
        raise PublishError(
            f"{target.repo_id} holds files that this folder does not have: {', '.join(removed)}. The "
            "result would be a mixture of two models. Pass --remove-other-files to remove them in the same commit, or "
            "choose another repository."
        )
    return UploadPlan(root, target, state, tuple(files), removed, is_state_known)


def upload(api: Any, plan: UploadPlan, message: str) -> str:
    """
    Send what [`build_upload_plan`] planned as one commit, read it back, and return the commit.

    Raises:
        [`RepositoryChangedError`]: If the repository was made or changed by somebody else since it was read.
        [`PublishError`]: If the Hub could not be reached or refused; nothing is then committed, and what was already
            sent is not sent again by the next attempt.
        [`ReadBackError`]: If what the Hub has afterwards is not what was sent.
    """
    try:
        parent = _prepare_repository(api, plan)
        commit = _commit(api, plan, parent, message) if plan.has_changes else parent
        _read_back(api, plan, commit)
    except get_hub_errors() as error:
        raise PublishError(
            f"{plan.target.repo_id} could not be sent and read back completely: {describe_error(error)} Run the same "
            "command again: it reads the repository again."
        ) from error
    return commit


def _prepare_repository(api: Any, plan: UploadPlan) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    target, repo_id, kind = plan.target, plan.target.repo_id, plan.target.repo_type
    if plan.state is not None:
        if not plan.state.has_branch:
            api.create_branch(repo_id, repo_type=kind, branch=target.branch, revision=plan.state.commit)
        return plan.state.commit
    sdk = {"space_sdk": target.space_sdk} if target.space_sdk else {}
    try:
        api.create_repo(repo_id, repo_type=kind, private=target.is_private, exist_ok=False, **sdk)
    except HfHubHTTPError as error:
        status = _get_status(error)
        if status == 409:
            raise RepositoryChangedError(
                f"{repo_id} was created by somebody else in the meantime, or exists and this account cannot see it. "
                "Check it, then run this again."
            ) from error
        if status in REFUSAL_CODES:
            raise PublishError(f"this account cannot create {repo_id}: {describe_error(error)}") from error
        raise PublishError(f"{repo_id} could not be created: {describe_error(error)}") from error
    if target.branch != MAIN_BRANCH:
        api.create_branch(repo_id, repo_type=kind, branch=target.branch)
    return str(api.repo_info(repo_id, repo_type=kind, revision=target.branch).sha)


def _commit(api: Any, plan: UploadPlan, parent: str, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [
        *(
            CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=plan.folder / file.path)
            for file in plan.files
            if file.status != SAME
        ),
        *(CommitOperationDelete(path_in_repo=path) for path in plan.removed),
    ]
    # A large file that did not arrive is reported as a `RuntimeError`.
    interruptions: tuple[type[BaseException], ...] = (*get_hub_errors(), RuntimeError)
    try:
        info = api.create_commit(
            plan.target.repo_id,
            operations,
            commit_message=message,
            repo_type=plan.target.repo_type,
            revision=plan.target.branch,
            parent_commit=parent,
        )
    except interruptions as error:
        if _get_status(error) in CONFLICT_CODES:
            raise RepositoryChangedError(
                f"{plan.target.repo_id} changed after it was read (it was at {parent[:12]}), so nothing was "
                "committed. Check the change, then run this again."
            ) from error
        if _get_status(error) in REFUSAL_CODES:
            raise PublishError(
                f"this account cannot write to {plan.target.repo_id}: {describe_error(error)} Run `hf auth login` "
                "with a token that can."
            ) from error
        raise PublishError(
            f"the upload to {plan.target.repo_id} was interrupted: {describe_error(error)} Run the same command "
            f"again: it reads the repository again, and large files that arrived whole are not sent twice."
        ) from error
    except ValueError as error:  # what the Hub says about the front matter, before anything is sent
        raise PublishError(f"the Hub refuses the card: {describe_error(error)} Nothing was committed.") from error
    return str(info.oid)


def _read_back(api: Any, plan: UploadPlan, commit: str) -> None:
    """Download every file of a commit; one that is missing, other, or should not be there is a [`ReadBackError`]."""
    repo_id, kind = plan.target.repo_id, plan.target.repo_type
    listed = {file.path for file in list_hub_files(api, repo_id, repo_type=kind, revision=commit)}
    expected = {file.path for file in plan.files}
    problems = [f"{path} is not there" for path in sorted(expected - listed)]
    problems += [f"{path} should not be there" for path in plan.target.find_other_files(listed, expected)]
    for file in plan.files:
        if file.path not in listed:
            continue
        # A new folder for each: no cache can answer in the Hub's place, and one file at a time is on this disk.
        with open_temporary_folder("apex-read-back-") as folder:
            try:
                path = api.hf_hub_download(repo_id, file.path, repo_type=kind, revision=commit, local_dir=folder)
            except get_hub_errors() as error:
                problems.append(f"{file.path} could not be read: {describe_error(error)}")
                continue
            found = compute_file_hash(path)
        if found != file.sha256:
            problems.append(f"{file.path} has SHA-256 {found}, but {file.sha256} was sent")
    if problems:
        raise ReadBackError(
            f"{repo_id} at commit {commit[:12]} is not what was sent: {'; '.join(problems)}. Do not announce it; "
            "run this again."
        )


def _get_status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def describe_error(error: BaseException) -> str:
    """Return an error and its cause in one line, without a token that a message might hold."""
    from huggingface_hub import get_token

    text = str(error).strip() or type(error).__name__
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text = f"{text} ({error.__cause__})"
    token = get_token()
    text = escape_controls(" ".join(text.split()))
    return text.replace(token, "***") if token else text
