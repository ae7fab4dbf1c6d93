"""A server that speaks as much of Hugging Face's protocol as huggingface_hub needs to fetch a repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from loopback_server import QuietHandler, running

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """A Hub with one repository.

    Attributes:
        name: OWNER/REPO.
        files: content by path; safetensors are kept as large files are, with their SHA-256.
        url: its address.
        revisions: names of the only commit.
        token: the token that a private repository asks for; None: it is public.
        gated: whether access must be granted.
        cut: path -> how many answers are cut in the middle.
        damage: paths whose last byte arrives changed.
        seen: (method, path, Range header) of all requests.
    """

    name: str
    files: dict[str, bytes]
    url: str = ""
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)
    token: str | None = None
    gated: bool = False
    cut: dict[str, int] = field(default_factory=dict)
    damage: set[str] = field(default_factory=set)
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    def contents_sent(self) -> list[tuple[str, str]]:
        """(path of the file, Range header) of the requests for contents."""
        found = [(path.partition("/resolve/")[2].partition("/")[2], asked) for _, path, asked in self.gets("/resolve/")]
        return sorted(found)

    def gets(self, part: str) -> list[tuple[str, str, str]]:
        return [request for request in self.seen if request[0] == "GET" and part in request[1]]


def _git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def _handler(hub: HubServer) -> type[QuietHandler]:
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked = self.headers.get("Range", "")
            with lock:
                hub.seen.append((self.command, path, asked))
            refused = self._refusal(path)
            if refused:
                return self._send(refused[0], {"X-Error-Code": refused[1], "X-Error-Message": refused[1]}, b"{}")
            if path.startswith(f"/api/models/{hub.name}/revision/"):
                return self._json({"id": hub.name, "modelId": hub.name, "sha": COMMIT, "siblings": [], "tags": []})
            if path.startswith(f"/api/models/{hub.name}/tree/"):
                return self._json([self._entry(path, content) for path, content in hub.files.items()])
            found = re.fullmatch(rf"/{re.escape(hub.name)}/resolve/([^/]+)/(.+)", path)
            if not found or found[2] not in hub.files:
                return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"{}")
            return self._content(found[2], asked)

        do_HEAD = do_GET

        def _refusal(self, path: str) -> tuple[int, str] | None:
            if hub.name not in path:
                return 401, "RepoNotFound"
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return (403, "GatedRepo") if hub.gated else (401, "RepoNotFound")
            revision = re.search(r"/(?:revision|tree|resolve)/([^/]+)", path)
            return (404, "RevisionNotFound") if revision and revision[1] not in hub.revisions else None

        def _entry(self, path: str, content: bytes) -> dict[str, object]:
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
            if _is_large(path):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            return entry

        def _content(self, path: str, asked: str) -> None:
            content = hub.files[path]
            etag = hashlib.sha256(content).hexdigest() if _is_large(path) else _git_id(content)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            if self.command == "GET" and path in hub.damage:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206 if start else 200, headers, content[start:], path)

        def _json(self, value: object) -> None:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

        def _send(self, status: int, headers: dict[str, str], content: bytes, path: str = "") -> None:
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            with lock:
                hub.cut[path] = hub.cut.get(path, 0) - 1
                is_cut = hub.cut[path] >= 0
            if is_cut:
                self.close_connection = True
                content = content[: len(content) // 2]
            with contextlib.suppress(OSError):
                self.wfile.write(content)

    return Handler


@contextlib.contextmanager
def hub_server(name: str, files: dict[str, bytes]) -> Iterator[HubServer]:
    hub = HubServer(name, files)
    with running(_handler(hub)) as hub.url:
        yield hub
