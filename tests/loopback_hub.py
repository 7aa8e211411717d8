"""
A Hub on the loopback, for tests that need the real client: accounts, repositories with commits and branches, large
files, and the faults that a publisher must survive.

It keeps everything in memory. Faults are set as attributes: how many uploads of large files break off, which file is
stored damaged or lost or stays although it was removed, whose commit slips in before ours, which address fails.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from patience import PATIENCE

LARGE_SUFFIXES = (".safetensors", ".parquet", ".png")
REPOSITORY = r"/api/(model|dataset|space)s/([^/]+/[^/]+)"


def compute_git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """One repository: what each commit holds, and where each branch stands."""

    is_private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    sdk: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def add_commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        seed = repr((len(self.commits), message, sorted((path, compute_git_id(data)) for path, data in files.items())))
        commit = hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class LoopbackHub:
    """The server and its content."""

    def __init__(self) -> None:
        self.accounts = {"hf_" + "w" * 34: ("tester", "write"), "hf_" + "r" * 34: ("reader", "read")}
        self.write_token, self.read_token = list(self.accounts)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.num_uploads_to_break = 0
        self.breaks_commit_answer = False
        self.damages: str | None = None
        self.loses: str | None = None
        self.stays: str | None = None
        self.fails: tuple[str, int] | None = None
        self.slips_in: tuple[str, bytes] | None = None
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def get_files(self, repo_id: str, repo_type: str = "model", branch: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo_type, repo_id]
        return repository.commits[repository.branches[branch]]

    def get_repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        return self.repositories[repo_type, repo_id]

    def add_repository(
        self, repo_id: str, files: dict[str, bytes], *, is_private: bool = False, repo_type: str = "model"
    ) -> Repository:
        repository = Repository(is_private)
        repository.add_commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **files}, "initial commit")
        self.repositories[repo_type, repo_id] = repository
        return repository

    def count(self, method: str, pattern: str) -> int:
        return sum(m == method and re.search(pattern, path) is not None for m, path in self.requests)


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Let a server answer in a thread of its own until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=PATIENCE)


@contextmanager
def run_loopback_hub() -> Iterator[LoopbackHub]:
    """Run a Hub until the block ends."""
    hub = LoopbackHub()
    with serving(hub.server):
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # without it, every answer waits for 40 ms
    hub: LoopbackHub

    def log_message(self, *words: Any) -> None:
        pass

    def handle_request(self) -> None:
        self.body = self._read_body()
        split = urlsplit(self.path)
        path, self.query = unquote(split.path), parse_qs(split.query)
        self.hub.requests.append((self.command, path))
        if self.hub.fails and re.search(self.hub.fails[0], path):
            return self._fail(self.hub.fails[1], "something is wrong with this Hub")
        for pattern, answer in ROUTES:
            if match := re.fullmatch(pattern, path):
                return answer(self, *match.groups())
        return self._fail(404, f"no such page: {path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815  (the server's names)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, message: str, code: str = "") -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self._send(status, {"error": message}, **headers)

    def _get_account(self) -> tuple[str, str] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.hub.accounts.get(token)

    def _may_write(self, repo_id: str) -> bool:
        account = self._get_account()
        if account is None:
            self._fail(401, "Invalid username or password.")
        elif account != (repo_id.partition("/")[0], "write"):
            self._fail(403, f"{account[0]} may not write to {repo_id}.")
        else:
            return True
        return False

    def _find(self, repo_type: str, repo_id: str) -> Repository | None:
        repository = self.hub.repositories.get((repo_type or "model", repo_id))
        account = self._get_account()
        is_owner = account is not None and account[0] == repo_id.partition("/")[0]
        if repository is None or (repository.is_private and not is_owner):
            self._fail(404 if account else 401, "Repository not found", "RepoNotFound")
            return None
        return repository

    def whoami(self) -> None:
        account = self._get_account()
        if account is None:
            return self._fail(401, "Invalid username or password.")
        name, role = account
        token = {"displayName": "test", "role": role}
        auth = {"type": "access_token", "accessToken": token}
        return self._send(200, {"type": "user", "name": name, "fullname": name, "orgs": [], "auth": auth})

    def create(self) -> None:
        request = json.loads(self.body)
        account = self._get_account()
        repo_type = request.get("type") or "model"
        repo_id = f"{request.get('organization') or (account[0] if account else '')}/{request['name']}"
        if not self._may_write(repo_id):
            return None
        url = f"{self.hub.url}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
        if (repo_type, repo_id) in self.hub.repositories:
            return self._send(409, {"error": "You already created this repo", "url": url})
        is_private = request.get("visibility") == "private" or bool(request.get("private"))
        repository = Repository(is_private, sdk=request.get("sdk"))
        repository.add_commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.hub.repositories[repo_type, repo_id] = repository
        return self._send(200, {"url": url})

    def validate_yaml(self) -> None:
        request = json.loads(self.body)
        content = request["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            return self._send(400, {"errors": [{"message": str(error)}], "warnings": []})
        needs_license = request["repoType"] != "space"
        if not isinstance(metadata, dict) or (needs_license and not isinstance(metadata.get("license"), str)):
            return self._send(400, {"errors": [{"message": '"license" must be a string'}], "warnings": []})
        return self._send(200, {"errors": [], "warnings": []})

    def info(self, repo_type: str, repo_id: str, revision: str = "main") -> None:
        repository = self._find(repo_type, repo_id)
        if repository is None:
            return None
        commit = repository.find(revision)
        if commit is None:
            return self._fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        facts = {"id": repo_id, "sha": commit, "private": repository.is_private, "siblings": siblings}
        return self._send(200, {**facts, "tags": [], "downloads": 0, "likes": 0})

    def branch(self, repo_type: str, repo_id: str, name: str) -> None:
        repository = self._find(repo_type, repo_id)
        if repository is None or not self._may_write(repo_id):
            return None
        if name in repository.branches:
            return self._fail(409, f"Reference {name} already exists")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.branches[name] = repository.find(start) or ""
        return self._send(200, {})

    def tree(self, repo_type: str, repo_id: str, revision: str, folder: str | None) -> None:
        repository = self._find(repo_type, repo_id)
        if repository is None:
            return None
        commit = repository.find(revision)
        if commit is None:
            return self._fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        prefix = f"{folder}/" if folder else ""
        is_recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        entries: list[dict[str, Any]] = []
        folders = set()
        for path, content in sorted(repository.commits[commit].items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            folders |= {prefix + "/".join(parts[:depth]) for depth in range(1, len(parts))}
            if is_recursive or len(parts) == 1:
                entries.append(self._describe_file(path, content))
        if folder and not entries and not folders:
            return self._fail(404, f"{folder} does not exist", "EntryNotFound")
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        return self._send(200, entries)

    @staticmethod
    def _describe_file(path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
        if not path.endswith(LARGE_SUFFIXES):
            return {**entry, "oid": compute_git_id(content)}
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        lfs = {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}
        return {**entry, "oid": compute_git_id(pointer), "lfs": lfs}

    def preupload(self, repo_type: str, repo_id: str, _revision: str) -> None:
        if self._find(repo_type, repo_id) is None or not self._may_write(repo_id):
            return None
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {name: "lfs" if name.endswith(LARGE_SUFFIXES) else "regular" for name in names}
        files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
        return self._send(200, {"files": files})

    def lfs_batch(self, _repo: str) -> None:
        objects = []
        for item in json.loads(self.body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-storage/{item['oid']}"}}
            objects.append(entry)
        return self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if self.hub.num_uploads_to_break:
            self.hub.num_uploads_to_break -= 1
            self.close_connection = True  # no answer at all: the line is dead
            return None
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._fail(400, "the content does not have the promised hash")
        self.hub.large[oid] = self.body
        return self._send(200, {})

    def commit(self, repo_type: str, repo_id: str, branch: str) -> None:
        repository = self._find(repo_type, repo_id)
        if repository is None or not self._may_write(repo_id):
            return None
        if branch not in repository.branches:
            return self._fail(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if self.hub.slips_in:
            path, content = self.hub.slips_in
            self.hub.slips_in = None
            repository.add_commit(branch, {**self.hub.get_files(repo_id, repo_type, branch), path: content}, "slip")
        lines = [json.loads(line) for line in self.body.decode().splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repository.branches[branch]):
            return self._fail(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile" and value["path"] != self.hub.stays:
                del files[value["path"]]
        if self.hub.damages in files:
            content = files[self.hub.damages]
            files[self.hub.damages] = content[:-1] + bytes([content[-1] ^ 0xFF])
        if self.hub.loses in files:
            files["something else"] = files.pop(self.hub.loses)
        commit = repository.add_commit(branch, files, header["summary"])
        if self.hub.breaks_commit_answer:
            self.hub.breaks_commit_answer = False
            return self._fail(403, "the answer was lost on its way")
        url = f"{self.hub.url}/{repo_id}/commit/{commit}"
        return self._send(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def set_variable(self, repo_id: str) -> None:
        repository = self._find("space", repo_id)
        if repository is None or not self._may_write(repo_id):
            return None
        request = json.loads(self.body)
        repository.variables[request["key"]] = request["value"]
        return self._send(200, {key: {"value": value} for key, value in repository.variables.items()})

    def paths_info(self, repo_type: str, repo_id: str, revision: str) -> None:
        repository = self._find(repo_type, repo_id)
        if repository is None:
            return None
        files = repository.commits[repository.find(revision) or ""]
        names = parse_qs(self.body.decode()).get("paths", [])
        return self._send(200, [self._describe_file(name, files[name]) for name in names if name in files])

    def resolve(self, repo_type: str | None, repo_id: str, revision: str, path: str) -> None:
        repository = self._find(repo_type or "model", repo_id)
        if repository is None:
            return None
        commit = repository.find(revision)
        if commit is None:
            return self._fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            headers = {"X_Error_Code": "EntryNotFound", "X_Error_Message": "Entry not found", "X_Repo_Commit": commit}
            return self._send(404, {"error": "Entry not found"}, **headers)
        described = self._describe_file(path, content)
        tag = described.get("lfs", described)["oid"]
        headers = {"ETag": f'"{tag}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(match[1]), int(match[2]) + 1 if match[2] else len(content)
            headers["Content_Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            return self._send(206, content[start:stop], **headers)
        return self._send(200, content, **headers)


ROUTES = (
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (rf"{REPOSITORY}", _Handler.info),
    (rf"{REPOSITORY}/revision/([^/]+)", _Handler.info),
    (rf"{REPOSITORY}/branch/([^/]+)", _Handler.branch),
    (rf"{REPOSITORY}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    (rf"{REPOSITORY}/preupload/([^/]+)", _Handler.preupload),
    (rf"{REPOSITORY}/commit/([^/]+)", _Handler.commit),
    (rf"{REPOSITORY}/paths-info/([^/]+)", _Handler.paths_info),
    (r"/api/spaces/([^/]+/[^/]+)/variables", _Handler.set_variable),
    (r"/((?:datasets/|spaces/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/lfs-storage/([0-9a-f]{64})", _Handler.lfs_put),
    (r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
)
