"""S3 and SQS on loopback for tests: moto's server behind a proxy that fails on demand.

The proxy also does one thing that Amazon's service does and moto does not: it compares a request's checksum with its
body, and answers ``BadDigest`` where they differ.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import logging
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from ego_assets.schema.buckets import BucketAccess

Kind = Literal["status", "slow", "cut", "drop", "alter", "alter_answer"]

_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
}


_CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """What happens to the next ``count`` requests that match."""

    kind: Kind
    count: int
    status: int = 503
    delay_s: float = 0.0
    method: str = ""
    contains: str = ""

    def matches(self, method: str, path: str) -> bool:
        return self.count > 0 and self.method in ("", method) and self.contains in path


@dataclass(frozen=True)
class Request:
    """One request that reached the proxy."""

    method: str
    path: str
    range: str
    headers: dict[str, str]


@dataclass
class Faults:
    """What the proxy does to requests, and what it saw.

    ``method`` and ``contains`` (part of the path with its query) restrict a fault. ``down`` answers everything with
    503.
    """

    down: bool = False
    requests: list[Request] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    _pending: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, count: int = 1, *, status: int = 503, method: str = "", contains: str = "") -> None:
        """Answer with an error of the service."""
        self._add(Fault("status", count, status=status, method=method, contains=contains))

    def slow(self, count: int = 1, *, delay_s: float, method: str = "", contains: str = "") -> None:
        """Wait before the answer."""
        self._add(Fault("slow", count, delay_s=delay_s, method=method, contains=contains))

    def cut(self, count: int = 1, *, method: str = "GET", contains: str = "") -> None:
        """Close the connection in the middle of the answer's body."""
        self._add(Fault("cut", count, method=method, contains=contains))

    def drop(self, count: int = 1, *, method: str = "", contains: str = "") -> None:
        """Close the connection without an answer; the request was not carried out."""
        self._add(Fault("drop", count, method=method, contains=contains))

    def alter(self, count: int = 1, *, method: str = "PUT", contains: str = "") -> None:
        """Change one bit of the request's body on the way to the service."""
        self._add(Fault("alter", count, method=method, contains=contains))

    def alter_answer(self, count: int = 1, *, method: str = "GET", contains: str = "") -> None:
        """Change one bit of the answer's body."""
        self._add(Fault("alter_answer", count, method=method, contains=contains))

    def count(self, method: str = "", contains: str = "") -> int:
        """How many requests matched since the last :meth:`reset`."""
        with self._lock:
            return sum(
                request.method == method or not method
                for request in self.requests
                if contains in request.path
            )

    def reset(self) -> None:
        """No faults, and nothing seen."""
        with self._lock:
            self.down = False
            self.requests.clear()
            self.injected.clear()
            self._pending.clear()

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._pending.append(fault)

    def take(self, request: Request) -> Fault | None:
        """Note a request, and the fault it meets."""
        with self._lock:
            self.requests.append(request)
            if self.down:
                return Fault("status", 1)
            for fault in self._pending:
                if fault.matches(request.method, request.path):
                    fault.count -= 1
                    self.injected[fault.kind] += 1
                    return fault
            return None


class BucketServer:
    """A running service.

    Attributes:
        endpoint_url: Where tests connect: the proxy.
        direct_url: moto itself, without faults.
        faults: What the proxy does.
    """

    region = "us-east-1"
    access_key_id = "testing"
    secret_access_key = "testing-secret"

    def __init__(self, direct_url: str) -> None:
        self.direct_url = direct_url
        self.faults = Faults()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.faults, direct_url))
        self._proxy.daemon_threads = True
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.endpoint_url = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self._names = 0

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()

    def client(self, service: str) -> Any:
        """A boto3 client that meets no faults."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.direct_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )

    def make_bucket(self, name: str = "") -> str:
        """Make a bucket, by default under a name of its own; returns its name."""
        self._names += 1
        name = name or f"bucket-{self._names}"
        self.client("s3").create_bucket(Bucket=name)
        return name

    def make_queue(self, name: str) -> str:
        """Make an SQS queue; returns its address by way of the proxy."""
        url = str(self.client("sqs").create_queue(QueueName=name)["QueueUrl"])
        return self.endpoint_url + urlsplit(url).path

    def access(self, **changes: Any) -> BucketAccess:
        """How the proxy is reached: few and quick tries unless stated."""
        values: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "max_attempts": 3,
            "timeout_s": 5.0,
        }
        return BucketAccess(**{**values, **changes})


@contextlib.contextmanager
def serve_s3() -> Iterator[BucketServer]:
    """Start a service on a free port of the loopback."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto.start()
    host, port = moto.get_host_and_port()
    server = BucketServer(f"http://{host}:{port}")
    try:
        yield server
    finally:
        server.close()
        moto.stop()


def _handler(faults: Faults, direct_url: str) -> type[BaseHTTPRequestHandler]:
    address = urlsplit(direct_url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Small answers would otherwise wait for an acknowledgement.
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self._body()
            request = Request(
                self.command,
                self.path,
                self.headers.get("Range", ""),
                {name.lower(): value for name, value in self.headers.items()},
            )
            fault = faults.take(request)
            if fault is not None and fault.kind == "slow":
                time.sleep(fault.delay_s)
            if fault is not None and fault.kind == "drop":
                self.close_connection = True
                return
            if fault is not None and fault.kind == "status":
                self._refuse(fault.status, _CODES[fault.status])
                return
            if fault is not None and fault.kind == "alter" and body:
                body = _altered(body)
            if not _matches_checksum(request.headers, body):
                self._refuse(400, "BadDigest")
                return
            self._forward(body, fault)

        def __getattr__(self, name: str) -> Any:
            # The base class looks for a method by the name of the request.
            if name in ("do_GET", "do_PUT", "do_POST", "do_DELETE", "do_HEAD"):
                return self._serve
            raise AttributeError(name)

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                content = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _refuse(self, status: int, code: str) -> None:
            content = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _forward(self, body: bytes, fault: Fault | None) -> None:
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _HOP_BY_HOP | {"expect", "content-length"}
            }
            if body or self.command in ("PUT", "POST"):
                headers["Content-Length"] = str(len(body))
            try:
                connection.request(self.command, self.path, body=body or None, headers=headers)
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP | {"content-length", "date", "server"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault is not None and fault.kind == "alter_answer" and content:
                content = _altered(content)
            if fault is not None and fault.kind == "cut" and content:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _altered(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _matches_checksum(headers: dict[str, str], body: bytes) -> bool:
    """What S3 does with the checksums that come with a request."""
    crc32 = headers.get("x-amz-checksum-crc32")
    if crc32 and body and base64.b64decode(crc32) != zlib.crc32(body).to_bytes(4, "big"):
        return False
    md5 = headers.get("content-md5")
    return not md5 or base64.b64decode(md5) == hashlib.md5(body, usedforsecurity=False).digest()
