"""A Hub on loopback for tests: repositories in memory behind the HTTP interface of `huggingface_hub`.

It supports publishing and reading models, datasets and Spaces: creating repositories and branches, LFS uploads checked
by sha256, commits, some of the checks of cards, listings, and downloads with byte ranges. Ids are unique over
the three kinds, and a repository is found only at addresses of its kind. It logs requests and counts the bytes served;
`uploads_before_hanging` makes it hang, so that a test can kill a client. There is one token; a repository can be
private, or refuse to be written to. Xet and rate limits are not supported.
The interface: https://huggingface.co/docs/hub/api and https://github.com/git-lfs/git-lfs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_test"
USER = "tester"
LFS_SUFFIXES = (".parquet", ".safetensors", ".bin")

Tree = dict[str, str]  # path -> sha256 of its content


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


#: Kind of repository -> prefix of its addresses.
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def card_errors(kind: str, card: str) -> list[str]:
    """Errors that the Hub would report for the YAML of a card; a few of its rules."""
    found = re.match(r"\s*---[\r\n]+([\S\s]*?)[\r\n]+---([\r\n]|$)", card)
    if found is None:
        return ["the card has no YAML"]
    data = yaml.safe_load(found[1])
    if not isinstance(data, dict):
        return ["the YAML is not a mapping"]
    errors = []
    if "license" in data and not re.fullmatch(r"[a-z0-9.-]+", str(data["license"])):
        errors.append('"license" is unknown')
    if not all(isinstance(tag, str) and tag for tag in data.get("tags", [])):
        errors.append('"tags" must be strings')
    if kind == "space" and data.get("sdk") not in ("gradio", "docker", "static"):
        errors.append('"sdk" must be one of gradio, docker, static')
    if kind == "dataset" and not all("config_name" in config for config in data.get("configs", [])):
        errors.append('"configs" must have names')
    for model in data.get("model-index", []):
        if not model.get("name") or not model.get("results"):
            errors.append('"model-index" must have a name and results')
        for result in model.get("results", []):
            if not {"task", "dataset", "metrics"} <= set(result):
                errors.append('"model-index[].results[]" must have task, dataset and metrics')
            elif not {"type", "name"} <= set(result["dataset"]) or "type" not in result["task"]:
                errors.append('"model-index[].results[].dataset" must have type and name')
            elif not all(isinstance(one["value"], int | float) and one["type"] for one in result["metrics"]):
                errors.append('"model-index[].results[].metrics[].value" must be a number')
    return errors


@dataclass
class Repo:
    kind: str = "dataset"
    private: bool = False  # only for those who have the token
    read_only: bool = False  # refuses commits of everybody
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def tree(self, revision: str) -> tuple[str, Tree] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def commit(self, branch: str, tree: Tree) -> str:
        commit = hashlib.sha1(f"{branch} {len(self.commits)} {sorted(tree.items())}".encode()).hexdigest()
        self.commits[commit] = dict(tree)
        self.branches[branch] = commit
        return commit


@dataclass
class Hub:
    """State of the server. `log` holds (method, path); `served` maps repo/path to the bytes sent."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    uploads: int = 0
    uploads_before_hanging: int | None = None
    hanging: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Content of every file at a revision of a repository."""
        found = self.repos[repo].tree(revision)
        assert found is not None, f"{repo} has no revision {revision}"
        return {path: self.blobs[digest] for path, digest in found[1].items()}

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> None:
        """Commits files as another client would."""
        old = self.repos[repo].tree(branch)
        new = {path: self.keep(content) for path, content in files.items()}
        self.repos[repo].commit(branch, {**(old[1] if old else {}), **new})

    def keep(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """Environment of a process that uses this Hub, with the cache `home`."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
    }


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # caused by killed clients
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[Hub]:
    """Runs a Hub in threads of this process."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.hub.lock:
            self.hub.log.append((self.command, unquote(url.path)))
        if self.command not in ("GET", "HEAD") and TOKEN not in (self.headers.get("Authorization") or "") + url.path:
            return self.refuse(401, "", "Invalid credentials")
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, url.path):
                parts = [unquote(part or "") for part in match.groups()]
                return cast(Any, method)(self, *parts, body=body, query=parse_qs(url.query))
        return self.refuse(404, "", f"no route {self.path}")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # ---- answers

    def answer(self, content: Any, code: int = 200, **headers: str) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def refuse(self, code: int, kind: str, message: str) -> None:
        self.answer({"error": message}, code, X_Error_Code=kind, X_Error_Message=message)

    def found(self, repo: str, revision: str) -> tuple[str, Tree] | None:
        """Commit and tree of a revision; if it does not exist, sends the refusal and returns None."""
        if repo not in self.hub.repos or self.hub.repos[repo].kind != self.kind():
            self.refuse(404, "RepoNotFound", f"Repository {repo} not found")
            return None
        if self.hub.repos[repo].private and TOKEN not in (self.headers.get("Authorization") or ""):
            self.refuse(401, "RepoNotFound", "Invalid credentials")
            return None
        tree = self.hub.repos[repo].tree(revision)
        if tree is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return tree

    def kind(self) -> str:
        """Kind of repository that the address of the request is about."""
        steps = urlsplit(self.path).path.split("/")
        return next((kind for kind in ("dataset", "space") if f"{kind}s" in steps[1:4]), "model")

    def entry(self, path: str, digest: str) -> dict[str, Any]:
        content = self.hub.blobs[digest]
        about = {"type": "file", "oid": git_id(content), "size": len(content), "path": path}
        if path.endswith(LFS_SUFFIXES):
            about["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
        return about

    # ---- routes

    def who_am_i(self, body: bytes, query: Any) -> None:
        token = {"role": "write", "displayName": "test"}
        self.answer({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})

    def validate(self, body: bytes, query: Any) -> None:
        asked = json.loads(body)
        errors = card_errors(asked["repoType"], asked["content"])
        listed = [{"message": message} for message in errors]
        self.answer({"errors": listed, "warnings": []}, 400 if errors else 200)

    def create(self, body: bytes, query: Any) -> None:
        asked = json.loads(body)
        kind = asked.get("type") or "model"
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        new = repo not in self.hub.repos
        if new:
            self.hub.repos[repo] = Repo(kind)
            self.hub.add(repo, {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
        url = f"{self.hub.url}/{PREFIXES[kind]}{repo}"
        self.answer({"url": url, "name": repo, "id": "0"}, 200 if new else 409)

    def branch(self, repo: str, name: str, body: bytes, query: Any) -> None:
        branches = self.hub.repos[repo].branches
        if name in branches:
            return self.refuse(409, "", "exists")
        branches[name] = branches["main"]
        return self.answer({})

    def refs(self, repo: str, body: bytes, query: Any) -> None:
        branches = self.hub.repos[repo].branches.items()
        heads = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in branches]
        self.answer({"branches": heads, "tags": [], "converts": []})

    def info(self, repo: str, revision: str, body: bytes, query: Any) -> None:
        if found := self.found(repo, revision or "main"):
            siblings = [{"rfilename": path} for path in sorted(found[1])]
            fixed = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
            self.answer({"_id": "0", "id": repo, "author": USER, "sha": found[0], "siblings": siblings, **fixed})

    def list(self, repo: str, revision: str, folder: str, body: bytes, query: dict[str, list[str]]) -> None:
        if not (found := self.found(repo, revision)):
            return
        start = f"{folder.rstrip('/')}/" if folder else ""
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for path, digest in sorted(found[1].items()):
            if not path.startswith(start):
                continue
            steps = path[len(start) :].split("/")
            for depth in range(1, len(steps) if recursive else min(2, len(steps))):
                name = start + "/".join(steps[:depth])
                oid = hashlib.sha1(name.encode()).hexdigest()
                entries[name] = {"type": "directory", "oid": oid, "size": 0, "path": name}
            if recursive or len(steps) == 1:
                entries[path] = self.entry(path, digest)
        if folder and not entries:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
        return self.answer(list(entries.values()))

    def paths(self, repo: str, revision: str, body: bytes, query: Any) -> None:
        if not (found := self.found(repo, revision)):
            return
        asked = parse_qs(body.decode()).get("paths", []) if body[:1] != b"{" else json.loads(body)["paths"]
        entries = []
        for path in asked:
            if path in found[1]:
                entries.append(self.entry(path, found[1][path]))
            elif any(name.startswith(f"{path}/") for name in found[1]):
                oid = hashlib.sha1(path.encode()).hexdigest()
                entries.append({"type": "directory", "oid": oid, "size": 0, "path": path})
        self.answer(entries)

    def preupload(self, repo: str, revision: str, body: bytes, query: Any) -> None:
        if not (found := self.found(repo, revision)):
            return
        files = []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            old = git_id(self.hub.blobs[found[1][path]]) if path in found[1] else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old})
        self.answer({"files": files})

    def lfs_batch(self, repo: str, body: bytes, query: Any) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            about = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                actions = {
                    "upload": {"href": f"{self.hub.url}/_lfs/{TOKEN}/{asked['oid']}", "header": {}},
                    "verify": {"href": f"{self.hub.url}/_verify/{TOKEN}", "header": {}},
                }
                about["actions"] = actions
            objects.append(about)
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, digest: str, body: bytes, query: Any) -> None:
        with self.hub.lock:
            limit = self.hub.uploads_before_hanging
            hang = limit is not None and self.hub.uploads >= limit
            if not hang:
                self.hub.uploads += 1
        if hang:
            self.hub.hanging.set()
            self.rfile.read(1)  # until the client goes
            return None
        if hashlib.sha256(body).hexdigest() != digest:
            return self.refuse(400, "", "the content has another sha256")
        self.hub.blobs[digest] = body
        return self.answer(b"")

    def lfs_verify(self, body: bytes, query: Any) -> None:
        asked = json.loads(body)
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            return self.refuse(404, "", "no such object")
        return self.answer({})

    def commit(self, repo: str, branch: str, body: bytes, query: Any) -> None:
        if self.hub.repos[repo].read_only:
            return self.refuse(403, "", "You don't have the rights to push to this repository")
        with self.hub.lock:
            if not (found := self.found(repo, branch)):
                return None
            tree = dict(found[1])
            for line in filter(None, body.splitlines()):
                step = json.loads(line)
                kind, value = step["key"], step["value"]
                if kind == "file":
                    tree[value["path"]] = self.hub.keep(base64.b64decode(value["content"]))
                elif kind == "lfsFile":
                    if value["oid"] not in self.hub.blobs:
                        return self.refuse(400, "", "an LFS pointer without its object")
                    tree[value["path"]] = value["oid"]
                elif kind == "deletedFile":
                    del tree[value["path"]]
                else:
                    assert kind == "header", f"a commit step {kind!r} is not served here"
            commit = self.hub.repos[repo].commit(branch, tree)
        url = f"{self.hub.url}/{PREFIXES[self.kind()]}{repo}/commit/{commit}"
        return self.answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def download(self, repo: str, revision: str, path: str, body: bytes, query: Any) -> None:
        if not (found := self.found(repo, revision)):
            return None
        if path not in found[1]:
            return self.refuse(404, "EntryNotFound", f"{path} not found")
        digest = found[1][path]
        content = self.hub.blobs[digest]
        tag = f'"{digest if path.endswith(LFS_SUFFIXES) else git_id(content)}"'
        headers = {"X-Repo-Commit": found[0], "ETag": tag, "Accept-Ranges": "bytes"}
        code = 200
        if wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, code = content[first : last + 1], 206
        if self.command == "GET":
            with self.hub.lock:
                self.hub.served[f"{repo}/{path}"] = self.hub.served.get(f"{repo}/{path}", 0) + len(content)
        return self.answer(content, code, **headers)


REPO = r"([^/]+/[^/]+)"
KINDS = r"(?:models|datasets|spaces)"
PLACE = rf"(?:/datasets|/spaces)?/{REPO}"
API = rf"/api/{KINDS}/{REPO}"
ROUTES = [
    (r"/api/whoami-v2", Handler.who_am_i),
    (r"/api/validate-yaml", Handler.validate),
    (r"/api/repos/create", Handler.create),
    (rf"/_lfs/{TOKEN}/([0-9a-f]{{64}})", Handler.lfs_put),
    (rf"/_verify/{TOKEN}", Handler.lfs_verify),
    (rf"{PLACE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (rf"{PLACE}/resolve/([^/]+)/(.+)", Handler.download),
    (rf"/api/resolve-cache/{KINDS}/{REPO}/([^/]+)/(.+)", Handler.download),
    (rf"{API}/branch/(.+)", Handler.branch),
    (rf"{API}/refs", Handler.refs),
    (rf"{API}/preupload/(.+)", Handler.preupload),
    (rf"{API}/commit/(.+)", Handler.commit),
    (rf"{API}/paths-info/([^/]+)", Handler.paths),
    (rf"{API}/tree/([^/]+)(?:/(.*))?", Handler.list),
    (rf"{API}(?:/revision/([^/]+))?", Handler.info),
]
