"""A server of files and hub repositories on loopback, with the failures of real ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "1234"


@dataclass
class Request:
    """One request that was answered: ``sent`` counts the bytes of the body."""

    path: str
    headers: dict[str, str]
    status: int = 0
    begin: int = 0
    sent: int = 0


@dataclass
class ModelServer:
    """What is served and what goes wrong; paths begin with a slash.

    Attributes:
        url: Its address.
        files: Path -> content.
        etags: Path -> ETag, where it is not the digest of the content; an empty one is left out.
        states_size: Say how long files are; otherwise answers are HTTP/1.0 and end with the connection.
        encodes: Send files with gzip, whatever was asked.
        ignores_range: Answer every request with the whole file.
        ignores_if_range: Continue a file although it changed.
        becomes: Path -> content it has after the next request.
        most_bytes: A continued answer holds so many at most.
        drops: Bodies are cut after so many bytes, one entry a request.
        statuses: Answered instead, one entry a request.
        redirects: Path -> address.
        hold_after: Bodies stop after so many bytes until ``release`` is set.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    states_size: bool = True
    encodes: bool = False
    ignores_range: bool = False
    ignores_if_range: bool = False
    becomes: dict[str, bytes] = field(default_factory=dict)
    most_bytes: int | None = None
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    hold_after: int | None = None
    release: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)

    def etag(self, path: str) -> str:
        return self.etags.get(path, f'"{hashlib.sha256(self.files[path]).hexdigest()}"')

    def of(self, path: str) -> list[Request]:
        """Requests of a path, in order."""
        return [request for request in self.requests if request.path == path]

    def add_repository(
        self, hub: str, files: dict[str, bytes], *, revision: str = "main", commit: str = COMMIT
    ) -> None:
        """Serve a repository as a hub does: weights with the digest of their content, other files with git's."""
        siblings = []
        for name, content in files.items():
            row: dict[str, object] = {"rfilename": name, "size": len(content)}
            if name.endswith((".safetensors", ".bin", ".pdiparams")):
                sha256 = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            else:
                row["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(row)
            self.files[f"/{hub}/resolve/{commit}/{name}"] = content
        listing = json.dumps({"id": hub, "sha": commit, "siblings": siblings}).encode()
        for name in {revision, commit}:
            self.files[f"/api/models/{hub}/revision/{name}"] = listing


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model_server: ModelServer

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        server = self.model_server
        path = self.path.partition("?")[0]
        request = Request(path=path, headers={name.lower(): value for name, value in self.headers.items()})
        server.requests.append(request)
        status = server.statuses.pop(0) if server.statuses else 0
        if path in server.redirects and not status:
            self._end(request, 302, {"Location": server.redirects[path]})
            return
        if status or path not in server.files:
            self._end(request, status or 404, {})
            return
        content, tag = server.files[path], server.etag(path)
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        may_continue = server.ignores_if_range or request.headers.get("if-range", tag) == tag
        server.files[path] = server.becomes.pop(path, content)
        headers = {"ETag": tag} if tag else {}
        if asked and may_continue and not server.ignores_range:
            request.begin = int(asked[1])
            if request.begin >= len(content):
                self._end(
                    request, 416, {"Content-Range": f"bytes */{len(content)}"} if server.states_size else {}
                )
                return
            end = min(len(content), request.begin + (server.most_bytes or len(content)))
            total = len(content) if server.states_size else "*"
            headers["Content-Range"] = f"bytes {request.begin}-{end - 1}/{total}"
            content = content[:end]
        body = content[request.begin :]
        if server.encodes and not path.startswith("/api/"):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)
        self._end(request, 206 if request.begin else 200, headers, body)

    def _end(self, request: Request, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        server = self.model_server
        request.status = status
        if not server.states_size:
            self.protocol_version, self.close_connection = "HTTP/1.0", True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if server.states_size:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not body:
            return
        limit = len(body)
        if request.path.startswith("/api/"):
            pass
        elif server.drops:
            limit = min(limit, server.drops.pop(0))
        elif server.hold_after is not None and limit > server.hold_after:
            self._send(request, body[: server.hold_after])
            server.held.set()
            server.release.wait(30)
            body = body[server.hold_after :]
            limit = len(body)
        self._send(request, body[:limit])
        if limit < len(body):
            self.close_connection = True

    def _send(self, request: Request, body: bytes) -> None:
        try:
            self.wfile.write(body)
            self.wfile.flush()
            request.sent += len(body)
        except OSError:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that are killed or give up are what the tests are about."""


@contextmanager
def serve_models() -> Iterator[ModelServer]:
    """A server for the time of the block."""
    server = ModelServer()
    handler = type("Handler", (_Handler,), {"model_server": server})
    with _Server(("127.0.0.1", 0), handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            http.shutdown()
            thread.join()
