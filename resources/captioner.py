"""Captions from any endpoint that speaks OpenAI's chat completions with pictures: a hosted model, vLLM, Ollama.

Only frames of de-identified video are sent, as JPEG inside the request, and only to the address that the settings name.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import random
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ego_assets import __version__
from ego_assets.labels.captions import one_line, read_answer
from ego_assets.labels.prompts import DEFAULT_PROMPTS, Prompt, parse_prompts
from ego_assets.labels.scene_facts import describe
from ego_assets.media.contact_sheet import encode_jpeg
from ego_assets.media.resize import shrink
from ego_assets.schema.captions import CaptionAnswer, Captioner, CaptionRequest, CaptionSource
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.errors import ConfigurationError, TransientError
from ego_assets.schema.ladder import MAX_FURTHER_ATTEMPTS, Rung
from resources.endpoint import AnswerSpool, SharedState, post, shared_state

#: Name of the backend in records.
BACKEND = "openai_compatible"

#: Waits between tries of one request double from the first to the second value, each shortened by chance by up to half.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
#: An endpoint that asks for more patience than this counts as out of reach for now.
LONGEST_RETRY_AFTER_S = 120.0
#: Answers that may be another one next time, besides all from 500 on.
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
#: Of these, no picture is the cause.
_OVERLOADED_STATUS = frozenset({429, 503})
#: How the reason begins where the endpoint fails on one picture and answers others.
_NO_ANSWER = "no answer"
#: Error codes by which endpoints say that they will not look at a picture.
_REFUSAL_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
#: What is asked for besides: no chance in the answer, and an end to it. The bound is more than a sentence needs:
#: models that think before they answer count their thoughts.
_EXTRAS: Mapping[str, int] = {"temperature": 0, "max_tokens": 2048}
_MAX_ANSWER_BYTES = 4_000_000
#: Longer side of the pictures sent, in pixels: what hosted models look at without cutting a picture into tiles.
LONGEST_SIDE_PX = 768
_JPEG_QUALITY = 85
#: A shorter key is a placeholder such as ``none``, which words may contain.
_SHORTEST_SECRET = 8


class CaptionEndpointUnavailable(TransientError):
    """The endpoint could not be reached, or was overloaded, after all retries."""


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """How an endpoint is talked to.

    Attributes:
        base_url: Its address, up to and without ``/chat/completions``.
        api_key: Its key; empty where it needs none. Never logged or recorded.
        concurrency: Most requests at the same time.
        requests_per_minute: Most requests a minute, over all clips of this process; 0 for no limit.
        timeout_s: How long one request may take, in seconds, from the connection to the last byte received.
        max_retries: Further tries of one request after 408, 409, 425, 429, 5xx, a timeout or a lost connection.

    Raises:
        ConfigurationError: The address is not one that requests can be sent to.
    """

    base_url: str
    api_key: str = field(default="", repr=False)
    concurrency: int = 4
    requests_per_minute: float = 0.0
    timeout_s: float = 60.0
    max_retries: int = 4

    def __post_init__(self) -> None:
        usable = extra = False
        with contextlib.suppress(ValueError):
            parts = urlsplit(self.base_url)
            extra = any((parts.username, parts.password, parts.query, parts.fragment))
            # Fails on what no name server can be asked for.
            named = bool(parts.hostname) and bool(str(parts.hostname).encode("idna"))
            written = self.base_url.isascii() and self.base_url.isprintable() and " " not in self.base_url
            usable = parts.scheme in ("http", "https") and named and written and parts.port != 0
        if not usable:
            raise ConfigurationError(
                "EGO_CAPTION_BASE_URL: expected an address that begins with http:// or https://, such as "
                "http://localhost:8000/v1."
            )
        if extra:
            raise ConfigurationError(
                "EGO_CAPTION_BASE_URL: expected an address without user name, password, ? and #. The key belongs into "
                "EGO_CAPTION_API_KEY."
            )
        if not self.api_key.isascii() or not self.api_key.isprintable():
            raise ConfigurationError("EGO_CAPTION_API_KEY: expected printable ASCII characters only.")

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def shared(self) -> SharedState:
        """What all requests of this process to the endpoint share."""
        return shared_state(self.url, self.requests_per_minute)


class EndpointCaptioner:
    """Asks one model with one prompt.

    Args:
        options: How the endpoint is talked to.
        model: Model, as the endpoint names it.
        prompt: What it is asked.
        shared: What all requests to the endpoint share; by default that of this process.
        answers: Answers that are there already, and where new ones are kept.
        sleep: Waits; by default in a way that ends when another request has failed for good.
        seed: Of the chance in waits; by default the system's.
    """

    def __init__(
        self,
        options: EndpointOptions,
        *,
        model: str,
        prompt: Prompt,
        shared: SharedState | None = None,
        answers: AnswerSpool | None = None,
        sleep: Callable[[float], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self._options = options
        self._model = model
        self._prompt = prompt
        self._shared = shared or options.shared
        self._answers = answers or AnswerSpool()
        self._sleep = sleep
        self._random = random.Random(seed)

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(task="captions", backend=BACKEND, model=self._model)

    @property
    def source(self) -> CaptionSource:
        """A model that looks at the pictures."""
        return "model"

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionAnswer]:
        """One answer per request, in order.

        A picture on which alone the endpoint fails is refused, and so is one that it will not look at.

        Raises:
            CaptionEndpointUnavailable: The endpoint gave no answer after all retries, or is left alone because it gave
                none a while ago.
            ConfigurationError: It refuses to talk to us: key, model or address are wrong.
        """
        if not requests:
            return []
        require_reachable(self._options, self._shared)
        stopped = threading.Event()
        executor = ThreadPoolExecutor(
            min(self._options.concurrency, len(requests)), thread_name_prefix="captions"
        )
        try:
            futures = [executor.submit(self._one, request, stopped) for request in requests]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for future in futures if future in done and (error := future.exception())]
            if failed:
                raise failed[0]
            answers = [future.result() for future in futures]
        finally:
            stopped.set()
            executor.shutdown(cancel_futures=True)
        unanswered = [answer.refused for answer in answers if answer.refused.startswith(_NO_ANSWER)]
        if unanswered and self._shared.breaker.is_in_doubt:
            # Nothing was answered before or after it: that is not about one picture.
            problem = unanswered[-1].removeprefix(f"{_NO_ANSWER}: ")
            self._shared.breaker.give_up(problem)
            raise _unavailable(self._options, problem)
        return answers

    def _one(self, request: CaptionRequest, stopped: threading.Event) -> CaptionAnswer:
        """The answer about one picture, from an earlier attempt where there is one."""
        picture = _jpeg(request.frame.image)
        body = self._body(request, picture)
        # Pictures that are alike are asked about one by one, and counted as such.
        moment = hashlib.sha256(b"%d " % request.frame.frame_index + picture).digest()
        question = hashlib.sha256(moment + json.dumps([self._options.url, body]).encode()).digest()
        answer = self._answers.answer(question)
        if answer is None:
            answer = self._ask(body, question, moment, stopped)
            answer = replace(answer, requests=self._answers.requests(question))
            if not answer.refused.startswith(_NO_ANSWER):
                self._answers.keep(question, answer)
        return answer

    def _ask(
        self, body: dict[str, Any], question: bytes, moment: bytes, stopped: threading.Event
    ) -> CaptionAnswer:
        """Ask about one picture until there is an answer."""
        breaker, extras = self._shared.breaker, self._shared.extras.get(self._model, _EXTRAS)
        since = breaker.now()
        tries = 1 if breaker.is_in_doubt else self._options.max_retries + 1
        problem = ""
        may_be_the_picture = True
        attempt = 0
        while True:
            self._wait_for_turn(stopped)
            self._answers.sent(question)
            try:
                status, headers, content = self._post(json.dumps({**body, **extras}).encode())
            except ssl.SSLCertVerificationError as error:
                raise ConfigurationError(
                    f"The caption endpoint {self._options.base_url} has a certificate that this machine does not trust "
                    f"({error.verify_message}). Name the file of its authority in SSL_CERT_FILE."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                problem, delay = _short(error), self._backoff_s(attempt)
                may_be_the_picture = not isinstance(error, (ConnectionRefusedError, socket.gaierror))
            else:
                content = self._masked(content)
                if 200 <= status < 300:
                    breaker.answered()
                    return _answer(content, headers.get("content-type", ""), model=self._model)
                problem = f"status {status}: {_told(content)}"
                if status == 400 and (fewer := _without_unsupported(extras, problem)) is not None:
                    # Other requests need not find out by themselves.
                    self._shared.extras[self._model] = extras = fewer
                    continue
                if status < 500 and status not in _RETRIED_STATUS:
                    breaker.answered()
                    return self._refusal_or_raise(status, content, problem)
                may_be_the_picture = status not in _OVERLOADED_STATUS
                delay = max(self._backoff_s(attempt), _retry_after_s(headers.get("retry-after", "")))
                if delay > LONGEST_RETRY_AFTER_S:
                    problem += f", and asks to wait {delay:.0f} s"
                    may_be_the_picture = False
                    break
                if status == 429:
                    # Too many requests: all of them wait, this one included.
                    self._shared.limiter.hold(delay)
                    delay = 0.0
            attempt += 1
            if attempt >= tries:
                break
            self._wait(delay, stopped)
        outage = breaker.failed(problem, moment=moment, since=since, may_be_the_picture=may_be_the_picture)
        if outage or not may_be_the_picture:
            raise _unavailable(self._options, problem)
        return CaptionAnswer(text="", refused=f"{_NO_ANSWER}: {problem}", model=self._model)

    def _body(self, request: CaptionRequest, picture: bytes) -> dict[str, Any]:
        facts = describe(request.facts) if self._prompt.wants_facts else ""
        return {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": self._prompt.fill(facts)},
                        {"type": "image_url", "image_url": {"url": _data_uri(picture)}},
                    ],
                }
            ],
        }

    def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": "application/json", "User-Agent": f"ego-assets/{__version__}"}
        if self._options.api_key:
            headers["Authorization"] = f"Bearer {self._options.api_key}"
        return post(
            self._options.url,
            body,
            headers=headers,
            timeout_s=self._options.timeout_s,
            max_bytes=_MAX_ANSWER_BYTES,
        )

    def _refusal_or_raise(self, status: int, content: bytes, problem: str) -> CaptionAnswer:
        """A picture that the endpoint will not look at is refused; everything else is wrong for all pictures."""
        if _error_code(content) in _REFUSAL_CODES:
            return CaptionAnswer(text="", refused=f"content filter: {problem}", model=self._model)
        if 300 <= status < 400:
            problem += ", which is a redirection: give the address that it leads to"
        raise ConfigurationError(
            f"The caption endpoint {self._options.base_url} refuses model {self._model!r} ({problem}). Check "
            "EGO_CAPTION_BASE_URL, EGO_CAPTION_API_KEY and EGO_CAPTION_MODELS, then use `ego-assets run` with the same "
            "profile."
        )

    def _masked(self, content: bytes) -> bytes:
        """A response without the key, should the endpoint repeat it."""
        key = self._options.api_key
        if len(key) >= _SHORTEST_SECRET:
            escaped = json.dumps(key)[1:-1]
            for form in (key, escaped, escaped.replace("/", "\\/")):
                content = content.replace(form.encode(), b"(key)")
        return content

    def _backoff_s(self, attempt: int) -> float:
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0**attempt) * self._random.uniform(0.5, 1.0)

    def _wait_for_turn(self, stopped: threading.Event) -> None:
        while not stopped.is_set() and (delay := self._shared.limiter.take()) > 0:
            self._wait(delay, stopped)
        if stopped.is_set():
            raise CaptionEndpointUnavailable("The request was not sent: another one failed.")
        require_reachable(self._options, self._shared)

    def _wait(self, seconds: float, stopped: threading.Event) -> None:
        if seconds <= 0:
            return
        if self._sleep is None:
            stopped.wait(seconds)
        else:
            self._sleep(seconds)


def require_reachable(options: EndpointOptions, shared: SharedState | None = None) -> None:
    """Stop before any work is done while the endpoint is left alone.

    Raises:
        CaptionEndpointUnavailable: It gave no answer a while ago.
    """
    breaker = (shared or options.shared).breaker
    if (left_s := breaker.pause_left_s) > 0:
        raise _unavailable(options, f"{breaker.problem}; it is left alone for another {left_s:.0f} s")


def _unavailable(options: EndpointOptions, problem: str) -> CaptionEndpointUnavailable:
    return CaptionEndpointUnavailable(
        f"The caption endpoint {options.base_url} gives no answer ({problem}). Nothing is lost: the next run "
        "with the same profile asks again."
    )


def endpoint_ladder(
    options: EndpointOptions,
    *,
    models: Sequence[str],
    prompts: Sequence[Prompt] = DEFAULT_PROMPTS,
    answers: AnswerSpool | None = None,
) -> tuple[Rung[Captioner], ...]:
    """The attempts with an endpoint: another prompt first, then another model where there is one, with the next prompt.

    Args:
        options: How the endpoint is talked to.
        models: Its models in order of preference.
        prompts: Prompts in order of preference.
        answers: Answers that are there already, and where new ones are kept.

    Raises:
        ConfigurationError: No model is named.
    """
    if not models:
        raise ConfigurationError(
            "EGO_CAPTION_BASE_URL names an endpoint, but EGO_CAPTION_MODELS no model. Name one, such as gpt-4o."
        )
    # Without a third prompt the second model is asked with the first one again.
    last = prompts[2] if len(prompts) > 2 else prompts[0]
    pairs = [(models[0], prompt) for prompt in prompts[:2]]
    pairs.append((models[min(1, len(models) - 1)], last))
    host = urlsplit(options.base_url).netloc
    return tuple(
        Rung(
            name=f"{model}, prompt {prompt.name}",
            open=partial(EndpointCaptioner, options, model=model, prompt=prompt, answers=answers),
            config={
                "backend": BACKEND,
                "endpoint": host,
                "model": model,
                "prompt": prompt.name,
                "longest_side_px": LONGEST_SIDE_PX,
            },
        )
        for model, prompt in list(dict.fromkeys(pairs))[: MAX_FURTHER_ATTEMPTS + 1]
    )


def read_prompts(path: Path | None) -> tuple[Prompt, ...]:
    """The prompts of a YAML file; those that come with the package where none is given.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    if path is None:
        return DEFAULT_PROMPTS
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"EGO_CAPTION_PROMPTS_FILE: {path} cannot be read: {error}") from error
    return parse_prompts(content, source=f"EGO_CAPTION_PROMPTS_FILE ({path.name})")


def _without_unsupported(extras: Mapping[str, int], problem: str) -> Mapping[str, int] | None:
    """The settings without those that a model says it does not take; ``None`` where it says nothing of the kind.

    Models of OpenAI that think before they answer know no ``temperature``, and ``max_tokens`` by another name.
    """
    if "unsupported" not in problem.lower():
        return None
    named = [name for name in extras if f"'{name}'" in problem]
    if not named:
        return None
    fewer = {name: value for name, value in extras.items() if name not in named}
    if "max_tokens" in named:
        fewer["max_completion_tokens"] = extras["max_tokens"]
    return fewer


def _answer(content: bytes, content_type: str, *, model: str) -> CaptionAnswer:
    """What a successful response says; whatever is wrong with it is a reason to ask again in another way."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        kind = one_line(content_type.partition(";")[0])[:60] or "no content type"
        return CaptionAnswer(text="", refused=f"malformed answer: no JSON ({kind})", model=model)
    if not isinstance(found, dict):
        return CaptionAnswer(text="", refused="malformed answer: not an object", model=model)
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    named = found.get("model")
    text, refused = _choice(found.get("choices"))
    return CaptionAnswer(
        text=text,
        refused=refused,
        prompt_tokens=_tokens(usage.get("prompt_tokens")),
        completion_tokens=_tokens(usage.get("completion_tokens")),
        model=(one_line(named) if isinstance(named, str) else "") or model,
    )


def _choice(choices: object) -> tuple[str, str]:
    """Text of the first choice, or the reason why there is none."""
    if not isinstance(choices, list) or not choices:
        return "", "empty answer: no choice"
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return "", "malformed answer: no message"
    if message.get("refusal"):
        return "", f"refusal: {one_line(str(message['refusal']))[:200]}"
    if choice.get("finish_reason") == "content_filter":
        return "", "content filter: the endpoint withheld the answer"
    if choice.get("finish_reason") == "length":
        return "", "truncated: the answer was cut off"
    return read_answer(_text_of(message.get("content")))


def _text_of(content: object) -> str:
    """The content of a message, a text or a list of parts."""
    if isinstance(content, list):
        return " ".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return content if isinstance(content, str) else ""


def _tokens(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _error_code(content: bytes) -> str:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    error = found.get("error") if isinstance(found, dict) else None
    return str(error.get("code", "")) if isinstance(error, dict) else ""


def _retry_after_s(header: str) -> float:
    """Seconds that a ``Retry-After`` asks for, given as seconds or as a date; 0 where it says nothing."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return 0.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _short(error: OSError | http.client.HTTPException) -> str:
    """What went wrong with a connection, in a few words."""
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, socket.gaierror):
        return "nobody knows the name of the host"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return f"the connection was lost: {type(error).__name__}"


def _told(content: bytes) -> str:
    """The message of an error answer, short."""
    text = content[:2000].decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
        found = found[0] if isinstance(found, list) and found else found
        error = found.get("error", found) if isinstance(found, dict) else found
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    return one_line(text)[:300] or "no reason given"


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _jpeg(image: BgrImage) -> bytes:
    return encode_jpeg(shrink(image, LONGEST_SIDE_PX), quality=_JPEG_QUALITY)
