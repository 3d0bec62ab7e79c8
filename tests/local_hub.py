"""A Hugging Face Hub in this process: the few endpoints with which huggingface_hub reads a model and uploads one.

Repositories are kept in memory: revision -> name of a file -> its bytes. Nothing goes over the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

_REPO = r"/?(?:api/models/)?(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
_TOKEN = "hf_right"

Files = dict[str, bytes]


@dataclass
class LocalHub:
    """What the Hub holds and how it answers.

    Attributes:
        repos: the files of each branch of each repository.
        private: whether each repository that was created is private.
        failures: status, error code and message with which every request for a repository is refused.
        gated: repositories whose files are refused.
        requests: method and path of each request.
    """

    url: str = ""
    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    failures: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def add(self, repo: str, folder: Path, *, revision: str = "main", leave_out: tuple[str, ...] = ()) -> None:
        """Put the files of a folder into a branch."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self.repos.setdefault(repo, {})[revision] = {name: files[name] for name in files if name not in leave_out}

    def asked(self, kind: str) -> list[str]:
        """Return the requests that match a pattern."""
        return [request for request in self.requests if re.search(kind, request)]


def commit_of(files: Files) -> str:
    """Return the hash that stands for the commit of these files."""
    return hashlib.sha1(json.dumps({name: _oid(files[name]) for name in sorted(files)}).encode()).hexdigest()


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[LocalHub]:
    """Serve a Hub, let huggingface_hub ask it, and keep cache and token in `home`."""
    from huggingface_hub import constants

    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def log_in(home: Path, token: str = _TOKEN) -> None:
    """Keep a token where `hf auth login` keeps it."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "token").write_text(token)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def do_GET(self) -> None:
        self._do()

    def do_HEAD(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _do(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            self._created(json.loads(sent))
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        else:
            self._of_repo(path, sent)

    def _of_repo(self, path: str, sent: bytes) -> None:
        deeds = "revision|tree|resolve|refs|branch|preupload|commit"
        found = re.fullmatch(rf"{_REPO}(?:/(?P<deed>{deeds})(?:/(?P<rest>.*))?)?", path)
        repo = found["repo"] if found else ""
        if found is None or repo not in self.hub.repos:
            self._refuse(401 if self._token() is None else 404, "RepoNotFound", "Repository not found")
        elif repo in self.hub.failures:
            self._refuse(*self.hub.failures[repo])
        elif self.command == "POST" and self._token() != _TOKEN:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        else:
            self._of_revision(repo, found["deed"] or "revision", found["rest"] or "", sent)

    def _of_revision(self, repo: str, deed: str, rest: str, sent: bytes) -> None:
        branches = self.hub.repos[repo]
        if deed == "refs":
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": "0"} for name in branches]
            self._answer({"branches": refs, "tags": [], "converts": []})
        elif deed == "branch":
            branches.setdefault(rest, dict(branches["main"]))
            self._answer({})
        else:
            revision, _, name = rest.partition("/") if deed == "resolve" else (rest or "main", "", "")
            by_commit = {commit_of(files): files for files in branches.values()}
            files = branches.get(revision, by_commit.get(revision))
            if files is None:
                self._refuse(404, "RevisionNotFound", "Invalid rev id")
            else:
                getattr(self, f"_{deed}")(repo, files, name, sent)

    def _revision(self, repo: str, files: Files, name: str, sent: bytes) -> None:
        siblings = [{"rfilename": name} for name in files]
        self._answer(
            {"id": repo, "sha": commit_of(files), "siblings": siblings, "private": bool(self.hub.private.get(repo))}
        )

    def _tree(self, repo: str, files: Files, name: str, sent: bytes) -> None:
        self._answer([{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in files.items()])

    def _resolve(self, repo: str, files: Files, name: str, sent: bytes) -> None:
        if repo in self.hub.gated:
            self._refuse(403, "GatedRepo", "Access to this model is restricted")
        elif name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            headers = {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": commit_of(files)}
            self._answer(files[name], headers=headers)

    def _preupload(self, repo: str, files: Files, name: str, sent: bytes) -> None:
        asked = [one["path"] for one in json.loads(sent)["files"]]
        self._answer({"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in asked]})

    def _commit(self, repo: str, files: Files, name: str, sent: bytes) -> None:
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        commit = commit_of(files)
        self._answer({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _created(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if self._token() != _TOKEN:
            self._refuse(401, "", "Invalid username or password.")
        elif repo in self.hub.repos:
            url = f"{self.hub.url}/{repo}"
            self._answer({"error": "You already created this model repo", "url": url}, status=409)
        else:
            self.hub.repos[repo] = {"main": {".gitattributes": b""}}
            # the older versions of huggingface_hub send private, the newer ones visibility
            self.hub.private[repo] = asked.get("private") or asked.get("visibility") == "private"
            self._answer({"url": f"{self.hub.url}/{repo}"})

    def _token(self) -> str | None:
        given = self.headers.get("Authorization")
        return given.removeprefix("Bearer ") if given else None

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer({"error": message}, status=status, headers=headers)

    def _answer(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
