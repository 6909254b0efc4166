"""What all requests of this process to one endpoint share: their pace, its outages, and how long one may take."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from ego_assets.schema.captions import CaptionAnswer

#: How long an endpoint that gave no answer is left alone. Ours: long enough that a dead one does not hold up every
#: clip, short enough that a restart costs few of them.
PAUSE_S = 300.0
#: After an endpoint asked for patience, requests follow one another at this distance for a while, whatever the limit.
#: Ours: they would all come at once otherwise.
_CAREFUL_INTERVAL_S, _CAREFUL_FOR_S = 0.5, 10.0
#: Moments on which it fails, without an answer in between, that make an outage: one may be the picture's fault.
_FAILURES_OF_AN_OUTAGE = 2
#: Clips whose answers are kept while they wait for the next attempt.
_UNFINISHED_CLIPS = 16

Clock = Callable[[], float]


class RateLimiter:
    """Spreads requests of any number of threads evenly: a bucket that holds one token.

    Args:
        requests_per_minute: Rate at which tokens come; 0 for no limit.
        clock: Seconds that only go forward.
    """

    def __init__(self, requests_per_minute: float, *, clock: Clock = time.monotonic) -> None:
        self._interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._next = self._careful_until = float("-inf")
        self._lock = threading.Lock()

    def take(self) -> float:
        """Take a token: 0 where it was there, otherwise nothing is taken and the seconds say when to ask again."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return self._next - now
            careful = now < self._careful_until
            self._next = now + max(self._interval_s, _CAREFUL_INTERVAL_S if careful else 0.0)
            return 0.0

    def hold(self, seconds: float) -> None:
        """Give out no token for so long, because the endpoint asked for patience; also to those who wait by now."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)
            self._careful_until = max(self._careful_until, self._next + _CAREFUL_FOR_S)


class CircuitBreaker:
    """Leaves an endpoint alone for a while after it gave no answer, so that not every clip waits for it in vain.

    Args:
        pause_s: How long.
        clock: Seconds that only go forward.
    """

    def __init__(self, *, pause_s: float = PAUSE_S, clock: Clock = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._open_until = self._last_answer = float("-inf")
        #: Moments of the requests that failed since the last answer.
        self._failed: set[bytes] = set()
        self._problem = ""
        self._lock = threading.Lock()

    def now(self) -> float:
        """The time that :meth:`failed` counts from."""
        return self._clock()

    @property
    def pause_left_s(self) -> float:
        """How long the endpoint is still left alone; 0 where it may be asked."""
        return max(0.0, self._open_until - self._clock())

    @property
    def problem(self) -> str:
        """What made the last pause necessary."""
        return self._problem

    @property
    def is_in_doubt(self) -> bool:
        """Whether a request failed for good and nothing was answered lately: one try is enough to see."""
        return bool(self._failed) and self._clock() - self._last_answer >= self._pause_s

    def answered(self) -> None:
        """The endpoint answered."""
        with self._lock:
            self._last_answer = self._clock()
            self._failed.clear()
            self._open_until = float("-inf")

    def failed(self, problem: str, *, moment: bytes, since: float, may_be_the_picture: bool) -> bool:
        """A request failed for good; returns whether that is an outage, which begins a pause.

        Args:
            problem: How, in words.
            moment: What it was about, by its digest.
            since: When the request began; while it ran, others may have been answered.
            may_be_the_picture: Whether another picture may fare better.
        """
        with self._lock:
            if self._last_answer > since:
                return False
            self._failed.add(moment)
            if may_be_the_picture and len(self._failed) < _FAILURES_OF_AN_OUTAGE:
                return False
        self.give_up(problem)
        return True

    def give_up(self, problem: str) -> None:
        """Begin a pause."""
        with self._lock:
            self._problem = problem
            self._open_until = self._clock() + self._pause_s


@dataclass(frozen=True, eq=False, kw_only=True)
class SharedState:
    """What the requests to one endpoint share.

    Attributes:
        limiter: Their pace.
        breaker: Its outages.
        extras: Model to the settings that it takes, where they are not the usual ones.
    """

    limiter: RateLimiter
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    extras: dict[str, Mapping[str, int]] = field(default_factory=dict)


@lru_cache(maxsize=64)
def shared_state(url: str, requests_per_minute: float) -> SharedState:
    """The state of an endpoint, one for all clips and attempts of this process."""
    return SharedState(limiter=RateLimiter(requests_per_minute))


class AnswerSpool:
    """The answers to a clip's questions, kept until the clip is done: what was paid for is not asked again.

    It lives in memory: another process asks again.
    """

    def __init__(self) -> None:
        self._answers: dict[bytes, CaptionAnswer] = {}
        self._requests: dict[bytes, int] = {}

    def answer(self, question: bytes) -> CaptionAnswer | None:
        """The answer to a question, by its digest, where there is one."""
        return self._answers.get(question)

    def sent(self, question: bytes) -> None:
        """Count a request."""
        self._requests[question] = self._requests.get(question, 0) + 1

    def requests(self, question: bytes) -> int:
        """How many requests a question took so far, over all attempts at the clip."""
        return self._requests.get(question, 0)

    def keep(self, question: bytes, answer: CaptionAnswer) -> None:
        """Keep an answer."""
        self._answers[question] = answer


_unfinished: OrderedDict[str, AnswerSpool] = OrderedDict()
_unfinished_lock = threading.Lock()


def unfinished_answers(clip: str) -> AnswerSpool:
    """The answers of a clip from earlier attempts in this process; those of the oldest of many clips are dropped."""
    with _unfinished_lock:
        spool = _unfinished.pop(clip, None) or AnswerSpool()
        _unfinished[clip] = spool
        while len(_unfinished) > _UNFINISHED_CLIPS:
            _unfinished.popitem(last=False)
        return spool


def forget_answers(clip: str) -> None:
    """Drop the answers of a clip that is done, so that a new order asks anew."""
    with _unfinished_lock:
        _unfinished.pop(clip, None)


def post(
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    max_bytes: int,
) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request over a connection of its own and receive the answer, all of it within the time limit.

    Nothing outside the arguments decides where it goes: no proxy, no ``.netrc``, no redirection.

    Args:
        url: Address, ``http`` or ``https``.
        body: What to send.
        headers: Header fields to send.
        timeout_s: From the connection to the last byte, in seconds; the look-up of the name is not in it.
        max_bytes: Most bytes that the answer may have.

    Returns:
        Status, header fields under names in small letters, and body.

    Raises:
        OSError: The connection failed, or it took too long.
        http.client.HTTPException: The answer is none, or larger.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = str(parts.hostname), parts.port or (443 if secure else 80)
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    deadline = time.monotonic() + timeout_s
    stream = _connected([(family, address) for family, _, _, _, address in addresses], deadline)
    try:
        if secure:
            stream.settimeout(_left(deadline))
            stream = _tls().wrap_socket(stream, server_hostname=host)
        connection = http.client.HTTPConnection(host, parts.port)
        connection.sock = _LimitedSocket(stream, deadline)
        connection.request("POST", parts.path, body, {**headers, "Connection": "close"})
        with connection.getresponse() as response:
            content = response.read(max_bytes + 1)
            if len(content) > max_bytes:
                raise http.client.HTTPException(f"the answer is larger than {max_bytes} bytes")
            if response.length:
                raise http.client.IncompleteRead(content, response.length)
            return response.status, {name.lower(): value for name, value in response.headers.items()}, content
    finally:
        stream.close()


def _connected(addresses: list[tuple[socket.AddressFamily, object]], deadline: float) -> socket.socket:
    """A connection to the first address that takes it."""
    problem: OSError = OSError("the name has no address")
    for family, address in addresses:
        stream = socket.socket(family, socket.SOCK_STREAM)
        try:
            stream.settimeout(_left(deadline))
            stream.connect(address)  # type: ignore[arg-type]
        except OSError as error:
            stream.close()
            problem = error
        else:
            return stream
    raise problem


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Trusts the authorities of this machine."""
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _LimitedSocket:
    """A connection of which every single step ends at the deadline: what :mod:`http.client` needs of a socket."""

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._stream.settimeout(_left(self._deadline))
            rest = rest[self._stream.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_LimitedReader(self._stream, self._deadline))

    def close(self) -> None:
        """The connection is closed by who opened it."""


class _LimitedReader(io.RawIOBase):
    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._stream.settimeout(_left(self._deadline))
        return self._stream.recv_into(buffer)
