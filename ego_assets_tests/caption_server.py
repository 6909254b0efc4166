"""A real HTTP server that speaks OpenAI's chat completions, and misbehaves on request."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SENTENCE = (
    "The wearer stands at a kitchen counter and cuts a red pepper with a knife while the left hand holds it."
)


@dataclass(frozen=True)
class Reply:
    """One response."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    #: Seconds between the first and the second half of the body; the server ends the wait when it stops.
    stall_s: float = 0.0
    #: Bytes promised and not sent.
    withheld: int = 0


def completion(text: str | None = SENTENCE, *, model: str = "served-model", **message: Any) -> Reply:
    """A well-formed answer; ``finish_reason`` and other fields of the message by keyword."""
    finish_reason = message.pop("finish_reason", "stop")
    content = {
        "id": "1",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 25, "total_tokens": 1025},
    }
    return Reply(body=json.dumps(content).encode())


def failure(status: int, message: str = "no", *, code: str = "", **headers: str) -> Reply:
    """An error answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Reply(status=status, body=body, headers={"Content-Type": "application/json", **named})


@dataclass
class CaptionServer:
    """What the server does, and what it was asked.

    ``respond`` gets the request's JSON and its number from 0, and returns the reply.
    """

    base_url: str = ""
    respond: Callable[[dict[str, Any], int], Reply] = lambda body, number: completion()
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, and whatever comes later with the last one."""
        start = len(self.requests)
        self.respond = lambda body, number: replies[min(number - start, len(replies) - 1)]

    def prompts(self) -> list[str]:
        """The texts that were asked."""
        return [body["messages"][0]["content"][0]["text"] for body in self.requests]

    def pictures(self) -> list[str]:
        """The data URIs that were sent."""
        return [body["messages"][0]["content"][1]["image_url"]["url"] for body in self.requests]


@contextmanager
def caption_server(*, certificate: Path | None = None) -> Iterator[CaptionServer]:
    """Run a server on a free port of this machine; encrypted where a certificate is given, with its key."""
    state = CaptionServer()
    lock = threading.Lock()
    over = threading.Event()
    inside = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal inside
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                inside += 1
                state.most_at_once = max(state.most_at_once, inside)
                number = len(state.requests)
                state.requests.append(body)
                state.headers.append(dict(self.headers))
                state.paths.append(self.path)
                reply = state.respond(body, number)
            try:
                self._send(reply)
            finally:
                with lock:
                    inside -= 1

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) + reply.withheld))
            if reply.withheld:
                self.close_connection = True
            self.end_headers()
            half = len(reply.body) // 2 if reply.stall_s else len(reply.body)
            try:
                self.wfile.write(reply.body[:half])
                self.wfile.flush()
                if reply.stall_s:
                    over.wait(reply.stall_s)
                    self.wfile.write(reply.body[half:])
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is written to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.base_url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
