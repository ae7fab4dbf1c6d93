"""A small proxy in front of a Cloud Storage emulator that fails like networks and servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loopback_server import QuietHandler, running

TOKEN = "ya29.MARKER-that-nobody-may-print"


@dataclass
class Request:
    """A request: method, path with query, headers (names in lower case) and body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_upload(self) -> bool:
        return self.path.startswith(("/upload/", "/resumable/")) or "uploadType=" in self.path

    @property
    def has_content(self) -> bool:
        return self.is_upload and ("uploadType=multipart" in self.path or self.method == "PUT")


@dataclass
class FaultProxy:
    """Forwards requests to `target`, unless a fault applies.

    Attributes:
        target: URL of the emulator.
        url: URL of this proxy.
        answer: takes a request and returns None to forward it, a status to answer with instead, alone or with the
            server's sentence, "drop" to close the connection before forwarding, "drop after" to close it instead of
            answering, "cut" to close it in the middle of the answer, "damage" to change a byte of the answer, or
            "token" to answer like a sign-in server.
        change: takes a request with content and returns the body to forward.
        seen: all requests.
    """

    target: str
    url: str = ""
    answer: Callable[[Request], int | tuple[int, str] | str | None] = lambda request: None
    change: Callable[[Request], bytes] = lambda request: request.body
    seen: list[Request] = field(default_factory=list)

    def uploads(self) -> list[Request]:
        return [request for request in self.seen if request.has_content]


def _handler(proxy: FaultProxy) -> type[QuietHandler]:
    where = urlsplit(proxy.target)
    lock = threading.Lock()
    answers: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}

    class Handler(QuietHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            with lock:
                proxy.seen.append(request)
                fault = proxy.answer(request)
                body = proxy.change(request) if request.has_content else body
            if isinstance(fault, int):
                fault = fault, f"refused access {self.headers.get('Authorization', '')} {self.path}"
            if isinstance(fault, tuple):
                return self._send(fault[0], [], json.dumps({"error": {"message": fault[1]}}).encode())
            if self.path in answers:
                return self._send(*answers.pop(self.path))
            if fault == "token":
                content = f'{{"access_token": "{TOKEN}", "expires_in": 3600, "token_type": "Bearer"}}'.encode()
                return self._send(200, [("Content-Type", "application/json")], content)
            if fault == "drop":
                self.close_connection = True
                return None
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "drop after":
                # Cloud Storage remembers a finished upload and answers again; the emulator does not.
                if self.command == "PUT":
                    answers[self.path] = (answer.status, answer.getheaders(), content)
                self.close_connection = True
                return None
            if "json" in (answer.getheader("Content-Type") or ""):  # the objects' addresses lead through this proxy
                content = content.replace(proxy.target.encode(), proxy.url.encode())
            if fault == "damage":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault == "cut":
                self.close_connection = True
                return self._send(answer.status, answer.getheaders(), content, sent=len(content) // 2)
            # Requests of a resumable upload must also go through this proxy.
            answered = [(name, value.replace(proxy.target, proxy.url)) for name, value in answer.getheaders()]
            return self._send(answer.status, answered, content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _pass_on

        def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content[:sent])

    return Handler


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target)
    with running(_handler(proxy)) as proxy.url:
        yield proxy
