"""The client of caption endpoints against a real HTTP server that misbehaves on request."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Iterator
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
from resources.captioner import (
    CaptionEndpointUnavailable,
    EndpointCaptioner,
    EndpointOptions,
    RateLimiter,
    endpoint_ladder,
    read_prompts,
)

KEY = "sk-very-secret"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CaptionServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with caption_server() as running:
        yield running


def request(number: int = 0, *, width: int = 64, height: int = 48) -> CaptionRequest:
    image = np.full((height, width, 3), (number * 40) % 256, np.uint8)
    facts = SceneFacts(location="kitchen", camera="still")
    return CaptionRequest(frame=ClipFrame(number, number * 2_000_000_000, image), facts=facts)


def client(server: CaptionServer, *, waits: list[float] | None = None, **options: Any) -> EndpointCaptioner:
    """A client that notes its waits instead of waiting."""
    settings = {"base_url": server.base_url, "api_key": KEY, "max_retries": 2, "timeout_s": 20.0, **options}
    noted = [] if waits is None else waits
    return EndpointCaptioner(
        EndpointOptions(**settings),
        model="asked-model",
        prompt=DEFAULT_PROMPTS[0],
        limiter=RateLimiter(0),
        sleep=noted.append,
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
    def by_picture(body: dict[str, Any], number: int) -> Reply:
        data = body["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]
        level = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE).mean()
        return completion(f"level {round(level / 40)}")

    server.respond = by_picture
    answers = client(server, concurrency=3).caption([request(number) for number in range(6)])
    assert [answer.text for answer in answers] == [f"level {number}" for number in range(6)]
    assert 1 <= server.most_at_once <= 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_passes_is_tried_again_with_growing_waits(server: CaptionServer, status: int) -> None:
    waits: list[float] = []
    server.script(failure(status), failure(status), completion())
    [answer] = client(server, waits=waits).caption([request()])
    assert answer.text == SENTENCE and len(server.requests) == 3
    assert 0 < waits[0] <= 1.0 and waits[0] < waits[1] <= 2.0


def test_retry_after_in_seconds_and_as_a_date_is_honoured(server: CaptionServer) -> None:
    waits: list[float] = []
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.script(failure(429, Retry_After="17"), failure(503, Retry_After=date), completion())
    client(server, waits=waits).caption([request()])
    assert waits[0] == pytest.approx(17, abs=5) and 40 < waits[1] <= 60


def test_unreadable_retry_after_falls_back_to_the_usual_wait(server: CaptionServer) -> None:
    waits: list[float] = []
    server.script(failure(429, Retry_After="soon"), completion())
    client(server, waits=waits).caption([request()])
    assert 0 < waits[0] <= 1.0


def test_an_endpoint_that_asks_for_an_hour_counts_as_down(server: CaptionServer) -> None:
    waits: list[float] = []
    server.script(failure(429, Retry_After="3600"))
    with pytest.raises(CaptionEndpointUnavailable, match="asks to wait 3600 s"):
        client(server, waits=waits).caption([request()])
    assert len(server.requests) == 1 and waits == []


def test_patience_asked_of_one_request_holds_for_all(server: CaptionServer) -> None:
    now = [100.0]
    limiter = RateLimiter(0, clock=lambda: now[0])
    options = EndpointOptions(base_url=server.base_url, max_retries=1)
    waits: list[float] = []
    asking = EndpointCaptioner(
        options, model="m", prompt=DEFAULT_PROMPTS[0], limiter=limiter, sleep=waits.append
    )
    server.script(failure(429, Retry_After="9"), completion())
    asking.caption([request()])
    assert limiter.reserve() == 9.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_stays_down_is_a_transient_error(server: CaptionServer, status: int) -> None:
    server.script(failure(status, "overloaded"))
    with pytest.raises(TransientError, match=f"status {status}: overloaded") as caught:
        client(server).caption([request(number) for number in range(8)])
    assert isinstance(caught.value, CaptionEndpointUnavailable)
    # Three tries of one request; those under way at the same time may have had theirs.
    assert 3 <= len(server.requests) <= 3 * 8


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


def test_a_refused_connection_is_transient() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    waits: list[float] = []
    options = EndpointOptions(base_url=f"http://127.0.0.1:{port}/v1", max_retries=3)
    asking = EndpointCaptioner(
        options, model="m", prompt=DEFAULT_PROMPTS[0], limiter=RateLimiter(0), sleep=waits.append
    )
    with pytest.raises(CaptionEndpointUnavailable, match="the connection was refused"):
        asking.caption([request()])
    assert len(waits) == 3


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
    # The second request knows what the first one has found out.
    assert len(server.requests) == 4
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
    now = [0.0]
    limiter = RateLimiter(rate, clock=lambda: now[0])
    sent = []
    for pause in pauses:
        now[0] += pause
        sent.append(now[0] + limiter.reserve())
    assert all(later - earlier >= 60 / rate * (1 - 1e-9) - 1e-6 for earlier, later in pairwise(sent))
    assert all(at >= 0 for at in sent)


def test_without_a_limit_nothing_waits() -> None:
    limiter = RateLimiter(0, clock=lambda: 5.0)
    assert [limiter.reserve() for _ in range(3)] == [0.0, 0.0, 0.0]


def test_requests_wait_for_the_limiter(server: CaptionServer) -> None:
    waits: list[float] = []
    asking = EndpointCaptioner(
        EndpointOptions(base_url=server.base_url, concurrency=1),
        model="m",
        prompt=DEFAULT_PROMPTS[0],
        limiter=RateLimiter(30, clock=lambda: 0.0),
        sleep=waits.append,
    )
    asking.caption([request(number) for number in range(3)])
    assert waits == [2.0, 4.0]


def test_all_attempts_share_one_limiter() -> None:
    options = EndpointOptions(base_url="http://host/v1", requests_per_minute=7)
    first, second = (rung.open() for rung in endpoint_ladder(options, models=["a"])[:2])
    assert first._limiter is second._limiter


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
        limiter=RateLimiter(0),
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
