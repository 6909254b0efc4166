"""The client of caption endpoints against a real HTTP server that misbehaves on request."""

from __future__ import annotations

import base64
import contextlib
import http.client
import logging
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.prompts import DEFAULT_PROMPTS, Prompt
from ego_assets.schema.captions import CaptionRequest, SceneFacts
from ego_assets.schema.errors import ConfigurationError, TransientError
from ego_assets.schema.frames import ClipFrame
from ego_assets_tests.caption_server import (
    SENTENCE,
    CaptionServer,
    Reply,
    caption_server,
    completion,
    failure,
)
from resources import endpoint as endpoint_module
from resources.captioner import (
    CaptionEndpointUnavailable,
    EndpointCaptioner,
    EndpointOptions,
    endpoint_ladder,
    read_prompts,
)
from resources.endpoint import AnswerSpool, CircuitBreaker, RateLimiter, SharedState, post, shared_state

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def forget_endpoints() -> Iterator[None]:
    yield
    shared_state.cache_clear()


@pytest.fixture
def server() -> Iterator[CaptionServer]:
    with caption_server() as running:
        yield running


class FakeTime:
    """A clock that goes on where somebody waits, and notes the waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def shared(self, *, requests_per_minute: float = 0) -> SharedState:
        return SharedState(
            limiter=RateLimiter(requests_per_minute, clock=self), breaker=CircuitBreaker(clock=self)
        )


def request(number: int = 0, *, width: int = 64, height: int = 48) -> CaptionRequest:
    image = np.full((height, width, 3), (number * 40) % 256, np.uint8)
    facts = SceneFacts(location="kitchen", camera="still")
    return CaptionRequest(frame=ClipFrame(number, number * 2_000_000_000, image), facts=facts)


def level_of(body: dict[str, Any]) -> int:
    """The number of the request that a picture belongs to."""
    data = body["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]
    level = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE).mean()
    return round(level / 40)


def client(
    server: CaptionServer,
    *,
    time: FakeTime | None = None,
    shared: SharedState | None = None,
    answers: AnswerSpool | None = None,
    prompt: int = 0,
    **options: Any,
) -> EndpointCaptioner:
    """A client that notes its waits instead of waiting."""
    settings = {"base_url": server.base_url, "api_key": KEY, "max_retries": 2, "timeout_s": 20.0, **options}
    time = time or FakeTime()
    return EndpointCaptioner(
        EndpointOptions(**settings),
        model="asked-model",
        prompt=DEFAULT_PROMPTS[prompt],
        shared=shared or time.shared(),
        answers=answers,
        sleep=time.sleep,
    )


def test_asks_as_the_protocol_wants_it(server: CaptionServer) -> None:
    [answer] = client(server).caption([request(1, width=1600, height=900)])
    assert (answer.text, answer.refused, answer.model) == (SENTENCE, "", "served-model")
    assert (answer.prompt_tokens, answer.completion_tokens) == (1000, 25)
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.requests[0]["model"] == "asked-model"
    assert server.prompts() == [DEFAULT_PROMPTS[0].text]
    head, _, data = server.pictures()[0].partition(",")
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (432, 768, 3) and abs(int(picture.mean()) - 40) <= 1


def test_small_pictures_are_not_enlarged_and_no_key_sends_no_header(server: CaptionServer) -> None:
    client(server, api_key="").caption([request(width=33, height=17)])
    picture = base64.b64decode(server.pictures()[0].partition(",")[2])
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == (17, 33, 3)
    assert "Authorization" not in server.headers[0]


def test_no_key_is_taken_from_netrc(
    server: CaptionServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client(server, api_key="").caption([request()])
    assert "Authorization" not in server.headers[0]


def test_nothing_asked_is_nothing_sent(server: CaptionServer) -> None:
    assert client(server).caption([]) == [] and server.requests == []


def test_answers_keep_the_order_of_the_requests_and_concurrency_is_bounded(server: CaptionServer) -> None:
    server.respond = lambda body, number: completion(f"level {level_of(body)}")
    answers = client(server, concurrency=3).caption([request(number) for number in range(6)])
    assert [answer.text for answer in answers] == [f"level {number}" for number in range(6)]
    assert 1 <= server.most_at_once <= 3


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503])
def test_what_passes_is_tried_again_with_growing_waits(server: CaptionServer, status: int) -> None:
    time = FakeTime()
    server.script(failure(status), failure(status), completion())
    [answer] = client(server, time=time).caption([request()])
    assert answer.text == SENTENCE and len(server.requests) == answer.requests == 3
    first, second = time.waits
    assert 0.5 <= first <= 1.0 <= second <= 2.0


def test_retry_after_in_seconds_and_as_a_date_is_honoured(server: CaptionServer) -> None:
    time = FakeTime()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.script(failure(429, Retry_After="17"), failure(503, Retry_After=date), completion())
    client(server, time=time).caption([request()])
    assert time.waits[0] == 17 and 40 < time.waits[1] <= 60


def test_unreadable_retry_after_falls_back_to_the_usual_wait(server: CaptionServer) -> None:
    time = FakeTime()
    server.script(failure(429, Retry_After="soon"), completion())
    client(server, time=time).caption([request()])
    assert 0.5 <= time.waits[0] <= 1.0


def test_an_endpoint_that_asks_for_an_hour_counts_as_down(server: CaptionServer) -> None:
    time = FakeTime()
    server.script(failure(429, Retry_After="3600"))
    with pytest.raises(
        CaptionEndpointUnavailable, match=r"asks to wait 3600 s.*next run with the same profile"
    ):
        client(server, time=time).caption([request()])
    assert len(server.requests) == 1 and time.waits == []


def test_patience_asked_of_one_request_holds_for_all(server: CaptionServer) -> None:
    time = FakeTime()
    shared = time.shared()
    server.script(failure(429, Retry_After="9"))
    with pytest.raises(CaptionEndpointUnavailable):
        client(server, shared=shared, max_retries=0).caption([request()])
    assert shared.limiter.take() == 9.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_stays_down_is_a_transient_error(server: CaptionServer, status: int) -> None:
    server.script(failure(status, "overloaded"))
    with pytest.raises(TransientError, match=f"status {status}: overloaded") as caught:
        client(server, concurrency=2).caption([request(number) for number in range(8)])
    assert isinstance(caught.value, CaptionEndpointUnavailable)
    # Three tries each of what was asked at the same time, and nothing after that.
    assert 3 <= len(server.requests) <= 3 * 4


def test_a_dead_endpoint_is_asked_once_for_many_clips(server: CaptionServer) -> None:
    time = FakeTime()
    shared = time.shared()
    server.script(failure(500))
    for _ in range(9):
        with pytest.raises(CaptionEndpointUnavailable):
            client(server, time=time, shared=shared).caption([request()])
    assert len(server.requests) == 3
    with pytest.raises(CaptionEndpointUnavailable, match="left alone for another"):
        client(server, time=time, shared=shared).caption([request()])


def test_after_the_pause_one_try_is_enough_to_see(server: CaptionServer) -> None:
    time = FakeTime()
    shared = time.shared()
    server.script(failure(500))
    for asked in (3, 4, 5):
        with pytest.raises(CaptionEndpointUnavailable):
            client(server, time=time, shared=shared).caption([request()])
        assert len(server.requests) == asked
        time.now += 301
    server.script(completion())
    assert client(server, time=time, shared=shared).caption([request()])[0].text == SENTENCE
    server.script(failure(500), completion())
    assert client(server, time=time, shared=shared).caption([request()])[0].text == SENTENCE


def test_pictures_that_are_alike_are_counted_one_by_one(server: CaptionServer) -> None:
    alike = [
        CaptionRequest(frame=replace(request().frame, frame_index=n), facts=SceneFacts()) for n in (0, 9)
    ]
    answers = client(server).caption(alike)
    assert len(server.requests) == sum(answer.requests for answer in answers) == 2
    server.script(failure(500))
    with pytest.raises(CaptionEndpointUnavailable):
        client(server, concurrency=1, max_retries=0).caption(alike)
    assert len(server.requests) == 4


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_picture_on_which_alone_the_endpoint_fails_is_refused(
    server: CaptionServer, concurrency: int
) -> None:
    def respond(body: dict[str, Any], number: int) -> Reply:
        return failure(500, "cannot look") if level_of(body) == 2 else completion()

    server.respond = respond
    time = FakeTime()
    asking = client(server, time=time, shared=time.shared(), concurrency=concurrency)
    answers = asking.caption([request(number) for number in range(5)])
    assert [bool(answer.text) for answer in answers] == [True, True, False, True, True]
    assert answers[2].refused == "no answer: status 500: cannot look" and answers[2].requests == 3
    # Asked for again in the next ways it is alone, and the endpoint still does not count as down.
    for _ in range(2):
        assert asking.caption([request(2)])[0].refused.startswith("no answer")
    assert asking.caption([request(3)])[0].text == SENTENCE


def test_what_was_answered_before_a_failure_is_not_asked_again(server: CaptionServer) -> None:
    answers = AnswerSpool()
    server.script(*[completion()] * 5, failure(429, Retry_After="600"))
    moments = [request(number) for number in range(6)]
    with pytest.raises(CaptionEndpointUnavailable):
        client(server, answers=answers, concurrency=1).caption(moments)
    server.script(completion())
    found = client(server, answers=answers).caption(moments)
    assert len(server.requests) == 7 and [answer.text for answer in found] == [SENTENCE] * 6
    # What the failed attempt cost counts as well.
    assert sum(answer.prompt_tokens for answer in found) == 6000
    assert [answer.requests for answer in found] == [1] * 5 + [2]
    # Another prompt is another question.
    client(server, answers=answers, prompt=1).caption(moments[:1])
    assert len(server.requests) == 8


def test_a_body_that_comes_too_slowly_is_tried_again(server: CaptionServer) -> None:
    slow = Reply(body=completion().body, stall_s=60.0)
    server.script(slow, completion())
    [answer] = client(server, timeout_s=0.3).caption([request()])
    assert answer.text == SENTENCE and len(server.requests) == 2


def test_a_server_that_never_answers_in_time_is_transient(server: CaptionServer) -> None:
    server.script(Reply(body=completion().body, stall_s=60.0))
    with pytest.raises(CaptionEndpointUnavailable, match="too long"):
        client(server, timeout_s=0.2, max_retries=1).caption([request()])
    assert len(server.requests) == 2


def test_a_connection_cut_in_the_middle_is_tried_again(server: CaptionServer) -> None:
    cut = Reply(body=completion().body[:40], withheld=500)
    server.script(cut, completion())
    [answer] = client(server).caption([request()])
    assert answer.text == SENTENCE and len(server.requests) == 2


def drips(connection: socket.socket, stopped: threading.Event, head: bytes, drop: bytes) -> None:
    """A server that is always about to go on."""
    connection.recv(65536)
    with contextlib.suppress(OSError):
        connection.sendall(head)
        while not stopped.wait(0.05):
            connection.sendall(drop)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"", b""),
    ],
)
def test_an_answer_that_drips_in_ends_with_the_time_limit(head: bytes, drop: bytes) -> None:
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        serving = threading.Thread(
            target=lambda: drips(listening.accept()[0], stopped, head, drop), daemon=True
        )
        serving.start()
        try:
            with pytest.raises(TimeoutError):
                post(f"http://127.0.0.1:{port}/v1", b"{}", headers={}, timeout_s=0.3, max_bytes=10_000)
        finally:
            stopped.set()
        serving.join()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Certificate and key of 127.0.0.1, signed by itself, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-keyout",
        str(tmp_path / "key.pem"),
        "-out",
        str(path),
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "key.pem").read_text())
    return path


def test_encrypted_endpoints_are_trusted_by_certificate(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caption_server(certificate=certificate) as server:
        assert server.base_url.startswith("https://")
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
            client(server).caption([request()])
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        endpoint_module._tls.cache_clear()
        try:
            assert client(server).caption([request()])[0].text == SENTENCE
        finally:
            endpoint_module._tls.cache_clear()


def test_a_host_that_nobody_knows_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(CaptionEndpointUnavailable, match="nobody knows the name"):
        client(CaptionServer(base_url="http://host.invalid/v1")).caption([request()])


def test_an_answer_without_end_is_cut_off(server: CaptionServer) -> None:
    server.script(Reply(body=b" " * 20_000))
    with pytest.raises(http.client.HTTPException, match="larger than 10000 bytes"):
        post(f"{server.base_url}/x", b"{}", headers={}, timeout_s=20, max_bytes=10_000)


def test_no_proxy_of_the_environment_sees_key_or_picture(
    server: CaptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caption_server() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base_url)
        assert client(server).caption([request()])[0].text == SENTENCE
        assert proxy.requests == []


def test_a_refused_connection_is_transient() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    time = FakeTime()
    asking = EndpointCaptioner(
        EndpointOptions(base_url=f"http://127.0.0.1:{port}/v1", max_retries=3),
        model="m",
        prompt=DEFAULT_PROMPTS[0],
        shared=time.shared(),
        sleep=time.sleep,
    )
    with pytest.raises(CaptionEndpointUnavailable, match="the connection was refused"):
        asking.caption([request()])
    assert len(time.waits) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(body=b'{"choices": [{"mess'), "malformed answer: no JSON (application/json)"),
        (
            Reply(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"}),
            "malformed answer: no JSON (text/html)",
        ),
        (Reply(body=b"[1, 2]"), "malformed answer: not an object"),
        (Reply(body=b'{"choices": []}'), "empty answer: no choice"),
        (Reply(body=b'{"choices": [{"text": "old protocol"}]}'), "malformed answer: no message"),
        (Reply(body=b'{"choices": [7]}'), "malformed answer: no message"),
        (completion(""), "empty answer: no text"),
        (completion(None), "empty answer: no text"),
        (completion("  \n "), "empty answer: no text"),
        (completion(None, refusal="I will not describe this."), "refusal: I will not describe this."),
        (
            completion("Half a", finish_reason="content_filter"),
            "content filter: the endpoint withheld the answer",
        ),
        (completion("The person cuts a", finish_reason="length"), "truncated: the answer was cut off"),
        (completion("I'm sorry, I can't help with that."), "refusal: I'm sorry, I can't help with that."),
    ],
)
def test_answers_without_a_caption_are_refused_with_the_reason(
    server: CaptionServer, reply: Reply, reason: str
) -> None:
    server.script(reply)
    [answer] = client(server).caption([request()])
    assert (answer.text, answer.refused) == ("", reason)
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", [f"{SENTENCE} \ud83d", f"no end\u0000</think> {SENTENCE}"])
def test_texts_that_no_file_takes_are_cleaned(server: CaptionServer, text: str) -> None:
    server.script(completion(text, model="m\ud83d\u0000"))
    [answer] = client(server).caption([request()])
    assert (answer.text, answer.model) == (SENTENCE, "m")


@pytest.mark.parametrize("key", [KEY, 'sk-"with/marks\\'])
def test_no_answer_repeats_the_key(server: CaptionServer, key: str) -> None:
    server.script(completion(None, refusal=f"Bearer {key} may not see this."))
    [answer] = client(server, api_key=key).caption([request()])
    assert answer.refused == "refusal: Bearer (key) may not see this."
    server.script(completion(f"{SENTENCE} {key}", model=key))
    [answer] = client(server, api_key=key).caption([request(1)])
    assert (answer.text, answer.model) == (f"{SENTENCE} (key)", "(key)")


def test_a_placeholder_for_a_key_does_not_spoil_answers(server: CaptionServer) -> None:
    assert client(server, api_key="e").caption([request()])[0].text == SENTENCE


def test_json_too_deep_to_read_is_malformed(server: CaptionServer) -> None:
    server.script(Reply(body=b"[" * 200_000))
    assert client(server).caption([request()])[0].refused.startswith("malformed answer")


def test_json_under_a_wrong_content_type_is_read(server: CaptionServer) -> None:
    server.script(Reply(body=completion().body, headers={"Content-Type": "text/plain"}))
    assert client(server).caption([request()])[0].text == SENTENCE


def test_tokens_count_even_where_the_answer_is_refused(server: CaptionServer) -> None:
    server.script(completion(None, refusal="No."))
    assert client(server).caption([request()])[0].prompt_tokens == 1000


def test_content_in_parts_thoughts_and_quotes_are_cleaned(server: CaptionServer) -> None:
    parts: Any = [
        {"type": "text", "text": '<think>a hand?</think>\n"A hand holds'},
        {"type": "text", "text": 'a cup."'},
    ]
    server.script(completion(parts))
    assert client(server).caption([request()])[0].text == "A hand holds a cup."


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": "many"}, {"prompt_tokens": -4}, {"prompt_tokens": True}]
)
def test_strange_usage_counts_nothing(server: CaptionServer, usage: object) -> None:
    import json

    content = json.loads(completion().body) | {"usage": usage}
    server.script(Reply(body=json.dumps(content).encode()))
    [answer] = client(server).caption([request()])
    assert (answer.text, answer.prompt_tokens) == (SENTENCE, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_stays_wrong_is_a_configuration_error_without_the_key(
    server: CaptionServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(failure(status, f"Incorrect API key provided: {KEY}"))
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as caught:
        client(server).caption([request()])
    assert f"status {status}: Incorrect API key provided: (key)" in str(caught.value)
    assert KEY not in caplog.text and len(server.requests) == 1


def test_settings_that_a_model_does_not_take_are_left_out(server: CaptionServer) -> None:
    def respond(body: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in body:
            return failure(
                400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'."
            )
        if "temperature" in body:
            return failure(400, "Unsupported value: 'temperature' does not support 0 with this model.")
        return completion()

    server.respond = respond
    asking = client(server, max_retries=0, concurrency=1)
    assert [answer.text for answer in asking.caption([request(0), request(1)])] == [SENTENCE] * 2
    # The second request knows what the first one has found out, and so does the next client.
    assert len(server.requests) == 4
    client(server, shared=asking._shared).caption([request(2)])
    assert len(server.requests) == 5
    assert server.requests[0]["temperature"] == 0 and server.requests[0]["max_tokens"] == 2048
    assert server.requests[-1]["max_completion_tokens"] == 2048


def test_an_endpoint_that_supports_nothing_is_not_asked_for_ever(server: CaptionServer) -> None:
    server.script(failure(400, "Unsupported: 'temperature', 'max_tokens', 'max_completion_tokens'"))
    with pytest.raises(ConfigurationError, match="Unsupported"):
        client(server).caption([request()])
    assert len(server.requests) == 3


def test_a_picture_that_the_endpoint_will_not_look_at_is_a_refusal(server: CaptionServer) -> None:
    server.script(failure(400, "The prompt was filtered", code="content_filter"))
    [answer] = client(server).caption([request()])
    assert answer.refused.startswith("content filter: status 400")


def test_pictures_do_not_follow_a_redirection(server: CaptionServer) -> None:
    with caption_server() as other:
        server.script(Reply(status=307, headers={"Location": f"{other.base_url}/chat/completions"}))
        with pytest.raises(ConfigurationError, match="redirection"):
            client(server).caption([request()])
        assert other.requests == []


def test_the_key_is_in_no_record_of_the_client(server: CaptionServer) -> None:
    options = EndpointOptions(base_url=server.base_url, api_key=KEY)
    rungs = endpoint_ladder(options, models=["a", "b"])
    assert KEY not in repr((options, rungs, [rung.config for rung in rungs], rungs[0].open().info))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "file:///etc/passwd",
        "http://",
        "http://[bad",
        "http://host:port/v1",
        "http://two words/v1",
        "http://host/a path",
        "http://host..name/v1",
        "http://h\u00f6st/v1",
    ],
)
def test_addresses_that_nothing_can_be_sent_to(address: str) -> None:
    with pytest.raises(
        ConfigurationError, match="EGO_CAPTION_BASE_URL: expected an address that begins with http"
    ):
        EndpointOptions(base_url=address)


@pytest.mark.parametrize(
    "address", ["http://me:secret@host/v1", "https://host/v1?key=secret", "https://host/#x"]
)
def test_addresses_that_carry_secrets_are_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EndpointOptions(base_url=address)
    assert "secret" not in str(caught.value)


def test_a_key_that_no_header_can_hold() -> None:
    with pytest.raises(ConfigurationError, match="EGO_CAPTION_API_KEY"):
        EndpointOptions(base_url="http://host/v1", api_key="two\nlines")


@given(rate=st.floats(1, 6000), pauses=st.lists(st.floats(0, 120), max_size=40))
def test_the_limiter_never_gives_more_than_its_rate(rate: float, pauses: list[float]) -> None:
    time = FakeTime()
    limiter = RateLimiter(rate, clock=time)
    sent = []
    for pause in pauses:
        time.now += pause
        while (delay := limiter.take()) > 0:
            time.sleep(delay)
        sent.append(time.now)
    assert all(later - earlier >= 60 / rate * (1 - 1e-9) - 1e-6 for earlier, later in pairwise(sent))


def test_without_a_limit_nothing_waits() -> None:
    limiter = RateLimiter(0, clock=lambda: 5.0)
    assert [limiter.take() for _ in range(3)] == [0.0, 0.0, 0.0]


def test_patience_holds_for_those_who_wait_by_then() -> None:
    time = FakeTime()
    limiter = RateLimiter(60, clock=time)
    assert (limiter.take(), limiter.take()) == (0.0, 1.0)
    limiter.hold(10)
    time.now += 1
    assert limiter.take() == 9.0


def test_after_a_hold_requests_do_not_come_all_at_once() -> None:
    time = FakeTime()
    limiter = RateLimiter(0, clock=time)
    limiter.hold(10)
    time.now += 10
    assert (limiter.take(), limiter.take()) == (0.0, 0.5)
    time.now += 20
    assert (limiter.take(), limiter.take(), limiter.take()) == (0.0, 0.0, 0.0)


def test_two_processes_do_not_wait_alike(server: CaptionServer) -> None:
    times = [FakeTime(), FakeTime()]
    for time in times:
        server.script(failure(500), failure(500), completion())
        client(server, time=time).caption([request()])
    assert times[0].waits != times[1].waits


def test_requests_wait_for_the_limiter(server: CaptionServer) -> None:
    time = FakeTime()
    asking = client(server, time=time, shared=time.shared(requests_per_minute=30), concurrency=1)
    asking.caption([request(number) for number in range(3)])
    assert time.waits == [2.0, 2.0]


def test_all_attempts_share_pace_and_outages() -> None:
    options = EndpointOptions(base_url="http://host/v1", requests_per_minute=7)
    first, second = (rung.open() for rung in endpoint_ladder(options, models=["a"])[:2])
    assert first._shared is second._shared


@pytest.mark.parametrize(
    ("models", "prompts", "expected"),
    [
        (["a"], 3, [("a", "p0"), ("a", "p1"), ("a", "p2")]),
        (["a", "b", "c"], 3, [("a", "p0"), ("a", "p1"), ("b", "p2")]),
        (["a", "b"], 1, [("a", "p0"), ("b", "p0")]),
        (["a", "b"], 2, [("a", "p0"), ("a", "p1"), ("b", "p0")]),
        (["a"], 1, [("a", "p0")]),
    ],
)
def test_the_ladder_changes_the_prompt_first_and_then_the_model(
    models: list[str], prompts: int, expected: list[tuple[str, str]]
) -> None:
    asked = [Prompt(name=f"p{number}", text=f"Prompt {number}") for number in range(prompts)]
    rungs = endpoint_ladder(EndpointOptions(base_url="http://host:8000/v1"), models=models, prompts=asked)
    assert [(rung.config["model"], rung.config["prompt"]) for rung in rungs] == expected
    assert [rung.open().info.model for rung in rungs] == [model for model, _ in expected]
    assert rungs[0].config["endpoint"] == "host:8000"


def test_a_ladder_needs_a_model() -> None:
    with pytest.raises(ConfigurationError, match="EGO_CAPTION_MODELS"):
        endpoint_ladder(EndpointOptions(base_url="http://host/v1"), models=[])


def test_a_prompt_can_tell_what_other_layers_found(server: CaptionServer) -> None:
    asking = EndpointCaptioner(
        EndpointOptions(base_url=server.base_url),
        model="m",
        prompt=DEFAULT_PROMPTS[2],
    )
    asking.caption([request()])
    assert "in a kitchen" in server.prompts()[0] and "{facts}" not in server.prompts()[0]


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text("- name: short\n  text: What happens here?\n- Describe the hands.\n")
    first, second = read_prompts(path)
    assert first == Prompt(name="short", text="What happens here?")
    assert second.text == "Describe the hands." and len(second.name) == 8
    assert read_prompts(None) == DEFAULT_PROMPTS


@pytest.mark.parametrize("content", ["", "name: x", "- 7", "- name: only", "- ''", "[broken", "- a\n- a\n"])
def test_prompt_files_that_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="EGO_CAPTION_PROMPTS_FILE"):
        read_prompts(path)


def test_a_prompt_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_prompts(tmp_path / "missing.yaml")
