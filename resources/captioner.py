"""Captions from any endpoint that speaks OpenAI's chat completions with pictures: a hosted model, vLLM, Ollama.

Only frames of de-identified video are sent, as JPEG inside the request, and only to the address that the settings name.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import requests
import urllib3
import yaml

from ego_assets import __version__
from ego_assets.labels.captions import clean_text, looks_like_refusal
from ego_assets.labels.prompts import DEFAULT_PROMPTS, Prompt, parse_prompts
from ego_assets.labels.scene_facts import describe
from ego_assets.media.contact_sheet import encode_jpeg
from ego_assets.schema.captions import CaptionAnswer, Captioner, CaptionRequest, CaptionSource
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.errors import ConfigurationError, TransientError
from ego_assets.schema.ladder import MAX_FURTHER_ATTEMPTS, Rung

#: Name of the backend in records.
BACKEND = "openai_compatible"

#: Waits between tries of one request double from the first to the second value, each shortened by chance by up to half.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
#: An endpoint that asks for more patience than this counts as out of reach for now.
LONGEST_RETRY_AFTER_S = 120.0
#: Answers that may be another one next time, besides all from 500 on.
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
#: Error codes by which endpoints say that they will not look at a picture.
_REFUSAL_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
#: What is asked for besides: no chance in the answer, and an end to it. The bound is more than a sentence needs:
#: models that think before they answer count their thoughts.
_EXTRAS: Mapping[str, int] = {"temperature": 0, "max_tokens": 2048}
_MAX_ANSWER_BYTES = 4_000_000
_READ_BYTES = 65_536
_JPEG_QUALITY = 85


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
        timeout_s: How long one request may take, in seconds, from the first byte sent to the last one received.
        max_retries: Further tries of one request after 408, 409, 425, 429, 5xx, a timeout or a lost connection.
        max_side: Longer side of the pictures sent, in pixels.

    Raises:
        ConfigurationError: The address is not one that requests can be sent to.
    """

    base_url: str
    api_key: str = field(default="", repr=False)
    concurrency: int = 4
    requests_per_minute: float = 0.0
    timeout_s: float = 60.0
    max_retries: int = 4
    max_side: int = 768

    def __post_init__(self) -> None:
        usable = extra = False
        with contextlib.suppress(ValueError):
            parts = urlsplit(self.base_url)
            extra = any((parts.username, parts.password, parts.query, parts.fragment))
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
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


class RateLimiter:
    """Spreads requests of any number of threads evenly: a bucket that holds one token.

    Args:
        requests_per_minute: Rate at which tokens come; 0 for no limit.
        clock: Seconds that only go forward.
    """

    def __init__(self, requests_per_minute: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._next = float("-inf")
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next token; returns the seconds until it is there."""
        with self._lock:
            now = self._clock()
            at = max(now, self._next)
            self._next = at + self._interval_s
            return at - now

    def hold(self, seconds: float) -> None:
        """Give out no token for so long, because the endpoint asked for patience."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


@lru_cache(maxsize=64)
def shared_limiter(url: str, requests_per_minute: float) -> RateLimiter:
    """The limiter of an endpoint, one for all clips and attempts of this process."""
    return RateLimiter(requests_per_minute)


class EndpointCaptioner:
    """Asks one model with one prompt.

    Args:
        options: How the endpoint is talked to.
        model: Model, as the endpoint names it.
        prompt: What it is asked.
        limiter: Limits the rate; by default the one that all clips share.
        sleep: Waits; by default in a way that ends when another request has failed for good.
        seed: Of the chance in waits.
    """

    def __init__(
        self,
        options: EndpointOptions,
        *,
        model: str,
        prompt: Prompt,
        limiter: RateLimiter | None = None,
        sleep: Callable[[float], None] | None = None,
        seed: int = 0,
    ) -> None:
        self._options = options
        self._model = model
        self._prompt = prompt
        self._limiter = limiter or shared_limiter(options.url, options.requests_per_minute)
        self._sleep = sleep
        self._random = random.Random(seed)
        self._extras: Mapping[str, int] = _EXTRAS

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

        Raises:
            CaptionEndpointUnavailable: The endpoint could not be reached after all retries.
            ConfigurationError: It refuses to talk to us: key, model or address are wrong.
        """
        if not requests:
            return []
        stopped = threading.Event()
        sessions = _Sessions(self._options.api_key)
        executor = ThreadPoolExecutor(
            min(self._options.concurrency, len(requests)), thread_name_prefix="captions"
        )
        try:
            futures = [executor.submit(self._one, request, sessions, stopped) for request in requests]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for future in futures if future in done and (error := future.exception())]
            if failed:
                raise failed[0]
            return [future.result() for future in futures]
        finally:
            stopped.set()
            executor.shutdown(cancel_futures=True)
            sessions.close()

    def _one(self, request: CaptionRequest, sessions: _Sessions, stopped: threading.Event) -> CaptionAnswer:
        """Ask about one picture until there is an answer."""
        body, extras = self._body(request), self._extras
        problem = ""
        attempt = 0
        while attempt <= self._options.max_retries:
            self._wait(self._limiter.reserve(), stopped)
            if stopped.is_set():
                raise CaptionEndpointUnavailable("The request was not sent: another one failed.")
            try:
                status, headers, content = self._post(
                    sessions.mine(), json.dumps({**body, **extras}).encode()
                )
            except (OSError, urllib3.exceptions.HTTPError) as error:
                problem, delay = _short(error), self._backoff_s(attempt)
            else:
                if 200 <= status < 300:
                    return _answer(content, str(headers.get("Content-Type", "")), model=self._model)
                problem = f"status {status}: {self._told(content)}"
                if status == 400 and (fewer := _without_unsupported(extras, problem)) is not None:
                    # Other requests need not find out by themselves.
                    self._extras = extras = fewer
                    continue
                if status < 500 and status not in _RETRIED_STATUS:
                    return self._refusal_or_raise(status, content, problem)
                delay = max(self._backoff_s(attempt), _retry_after_s(headers.get("Retry-After", "")))
                if delay > LONGEST_RETRY_AFTER_S:
                    problem += f", and asks to wait {delay:.0f} s"
                    break
                if status == 429:
                    # Too many requests: all of them wait, this one included.
                    self._limiter.hold(delay)
                    delay = 0.0
            attempt += 1
            if attempt <= self._options.max_retries:
                self._wait(delay, stopped)
        raise CaptionEndpointUnavailable(
            f"The caption endpoint {self._options.base_url} gives no answer ({problem}). Nothing is lost: the next "
            "`ego-assets run` asks again."
        )

    def _body(self, request: CaptionRequest) -> dict[str, Any]:
        picture = base64.b64encode(self._jpeg(request.frame.image)).decode()
        facts = describe(request.facts) if self._prompt.wants_facts else ""
        return {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": self._prompt.fill(facts)},
                        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}},
                    ],
                }
            ],
        }

    def _jpeg(self, image: BgrImage) -> bytes:
        height, width = image.shape[:2]
        scale = self._options.max_side / max(height, width)
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return encode_jpeg(image, quality=_JPEG_QUALITY)

    def _post(self, session: requests.Session, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Send and receive within the time limit, however slowly the answer drips in."""
        deadline = time.monotonic() + self._options.timeout_s
        response = session.post(
            self._options.url,
            data=body,
            headers={"Content-Type": "application/json", "User-Agent": f"ego-assets/{__version__}"},
            timeout=self._options.timeout_s,
            # Pictures and the key go to the address in the settings and to no other.
            allow_redirects=False,
            stream=True,
        )
        with contextlib.closing(response):
            content = bytearray()
            while piece := response.raw.read1(_READ_BYTES, decode_content=True):
                content += piece
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"no complete answer within {self._options.timeout_s:g} s")
                if len(content) > _MAX_ANSWER_BYTES:
                    raise requests.ConnectionError(f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")
            return response.status_code, response.headers, bytes(content)

    def _refusal_or_raise(self, status: int, content: bytes, problem: str) -> CaptionAnswer:
        """A picture that the endpoint will not look at is refused; everything else is wrong for all pictures."""
        if _error_code(content) in _REFUSAL_CODES:
            return CaptionAnswer(text="", refused=f"content filter: {problem}", model=self._model)
        if 300 <= status < 400:
            problem += ", which is a redirection: give the address that it leads to"
        raise ConfigurationError(
            f"The caption endpoint {self._options.base_url} refuses model {self._model!r} ({problem}). Check "
            "EGO_CAPTION_BASE_URL, EGO_CAPTION_API_KEY and EGO_CAPTION_MODELS, then use `ego-assets run "
            "--retry-failed`."
        )

    def _told(self, content: bytes) -> str:
        """The message of an error answer, short and without the key, should the endpoint repeat it."""
        text = content[:2000].decode(errors="replace")
        with contextlib.suppress(ValueError):
            found = json.loads(content)
            found = found[0] if isinstance(found, list) and found else found
            error = found.get("error", found) if isinstance(found, dict) else found
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        if self._options.api_key:
            text = text.replace(self._options.api_key, "(key)")
        return " ".join(text.split())[:300] or "no reason given"

    def _backoff_s(self, attempt: int) -> float:
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0**attempt) * self._random.uniform(0.5, 1.0)

    def _wait(self, seconds: float, stopped: threading.Event) -> None:
        if seconds <= 0:
            return
        if self._sleep is None:
            stopped.wait(seconds)
        else:
            self._sleep(seconds)


class _KeyInHeader(requests.auth.AuthBase):
    """Sends the key; also keeps requests from taking another one from ``.netrc``."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._api_key:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class _Sessions:
    """A session per thread: sessions are not made to be shared."""

    def __init__(self, api_key: str) -> None:
        self._auth = _KeyInHeader(api_key)
        self._local = threading.local()
        self._all: list[requests.Session] = []

    def mine(self) -> requests.Session:
        """The session of the calling thread."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.auth = self._auth
            self._local.session = session
            self._all.append(session)
        return session

    def close(self) -> None:
        """Close all connections."""
        for session in self._all:
            session.close()


def endpoint_ladder(
    options: EndpointOptions, *, models: Sequence[str], prompts: Sequence[Prompt] = DEFAULT_PROMPTS
) -> tuple[Rung[Captioner], ...]:
    """The attempts with an endpoint: another prompt first, then another model where there is one, with the next prompt.

    Args:
        options: How the endpoint is talked to.
        models: Its models in order of preference.
        prompts: Prompts in order of preference.

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
            open=lambda model=model, prompt=prompt: EndpointCaptioner(options, model=model, prompt=prompt),  # type: ignore[misc]
            config={
                "backend": BACKEND,
                "endpoint": host,
                "model": model,
                "prompt": prompt.name,
                "max_side": options.max_side,
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
    except ValueError:
        kind = content_type.partition(";")[0].strip() or "no content type"
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
        model=named if isinstance(named, str) and named else model,
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
        return "", f"refusal: {' '.join(str(message['refusal']).split())[:200]}"
    if choice.get("finish_reason") == "content_filter":
        return "", "content filter: the endpoint withheld the answer"
    if choice.get("finish_reason") == "length":
        return "", "truncated: the answer was cut off"
    text = clean_text(_text_of(message.get("content")))
    if not text:
        return "", "empty answer: no text"
    if looks_like_refusal(text):
        return "", f"refusal: {text[:200]}"
    return text, ""


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
    except ValueError:
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


def _short(error: BaseException) -> str:
    """What went wrong with a connection, in a few words."""
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused"
    timeouts = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
    if any(isinstance(cause, timeouts) for cause in causes):
        return "it took too long"
    return f"the connection was lost: {type(error).__name__}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it wraps and what led to it."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        waiting += [item for item in inner if isinstance(item, BaseException)]
