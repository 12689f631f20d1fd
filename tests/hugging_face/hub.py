"""A stand-in for the Hugging Face hub: what its API says of a few repositories made by tests.

It counts the bytes of each file that it sent, and can move a branch, hang up or fall silent in the
middle of a file, and refuse as the hub refuses.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE = 2**16


@dataclass(kw_only=True)
class Repo:
    branches: dict[str, str]
    """The commit of each."""
    commits: dict[str, Path]
    """The folder of each."""
    needs_token: str = ""
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        revision = self.branches.get(revision, revision)
        return revision if revision in self.commits else None


@dataclass(kw_only=True)
class Hub:
    repos: dict[str, Repo] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of each file's content, by name."""
    requests: list[str] = field(default_factory=list)
    hang_up_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a file after which the connection is closed: once."""
    silent_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a file after which nothing comes any more, ever."""
    status: int = 0
    """Of every answer, if set."""
    ignores_ranges: bool = False
    """Sends whole files, as some mirrors do."""
    mute: bool = False
    """Takes questions, and never answers."""
    url: str = ""
    counting: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)
    """Ends silences, with the test."""

    def publish(self, name: str, folder: Path, branch: str = "main") -> str:
        """A new commit of its files, to which the branch moves."""
        digest = hashlib.sha1(name.encode())
        for path in _files(folder):
            digest.update(path.name.encode() + path.read_bytes())
        commit = digest.hexdigest()
        repo = self.repos.setdefault(name, Repo(branches={}, commits={}))
        repo.commits[commit] = folder
        repo.branches[branch] = commit
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        """For processes that are to use this hub, and a cache of their own."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *more: _Answer(hub, *more))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: Hub, *more: Any) -> None:
        self._hub = hub
        super().__init__(*more)

    def log_message(self, *_more: Any) -> None:
        """Tests look at `Hub.requests`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._hub.requests.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        found = api or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = self._hub.repos.get(found[1]) if found else None
        commit = repo.commit((found[3] if api else found[2]) or "main") if found and repo else None
        if self._hub.mute:
            self._hub.released.wait(60)
        elif self._hub.status:
            self._refuse(self._hub.status, "", "")
        elif found is None or repo is None or not self._may_read(repo):
            # As the hub does: who may not read a repository is not told that it is there.
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif repo.gated:
            self._refuse(403, "GatedRepo", "Access to model is restricted")
        elif commit is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        elif api:
            self._describe(found[1], found[2], commit, repo.commits[commit])
        else:
            self._file(commit, repo.commits[commit], found[3])

    def _describe(self, name: str, what: str, commit: str, folder: Path) -> None:
        tree = [_entry(path, folder) for path in _files(folder)]
        siblings = [{"rfilename": each["path"]} for each in tree]
        self._json(tree if what == "tree" else {"id": name, "sha": commit, "siblings": siblings})

    def _may_read(self, repo: Repo) -> bool:
        return repo.needs_token in self.headers.get("authorization", "")

    def _file(self, commit: str, folder: Path, name: str) -> None:
        path = folder / name
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if self._hub.ignores_ranges:
            asked = None
        start, total = (int(asked[1]) if asked else 0), len(content)
        content = content[: int(asked[2]) + 1] if asked and asked[2] else content
        more = {"Content-Range": f"bytes {start}-{len(content) - 1}/{total}"} if asked else {}
        self._head(
            206 if asked else 200,
            len(content) - start,
            {"X-Repo-Commit": commit, "ETag": f'"{_sha(path)}"', "Accept-Ranges": "bytes", **more},
        )
        if self.command == "GET":
            self._send(name, content, start)
        return None

    def _send(self, name: str, content: bytes, start: int) -> None:
        hub = self._hub
        stop = hub.hang_up_after.pop(name, None) or hub.silent_after.get(name)
        end = len(content) if stop is None else min(stop, len(content))
        for at in range(start, end, PIECE):
            piece = content[at : min(at + PIECE, end)]
            with hub.counting:  # before the client has it and looks
                hub.sent[name] += len(piece)
            try:
                self.wfile.write(piece)
            except ConnectionError:  # the client has what it wanted
                self.close_connection = True
                return
        if name in hub.silent_after:
            hub.released.wait(60)
        if end < len(content):
            self.close_connection = True

    def _json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self._head(200, len(body), {"Content-Type": "application/json"})
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(
        self, status: int, code: str, message: str, more: Mapping[str, str] | None = None
    ) -> None:
        self._head(status, 0, {"X-Error-Code": code, "X-Error-Message": message, **(more or {})})

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    name, size_bytes = path.relative_to(folder).as_posix(), path.stat().st_size
    return {"type": "file", "path": name, "size": size_bytes, "oid": _sha(path)}


def _sha(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
