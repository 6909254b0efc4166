"""Tries a layer in one way after another until a result is good enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.gates import GateResult
from ego_assets.schema.ladder import MAX_FURTHER_ATTEMPTS, Rung

BackendT = TypeVar("BackendT")
ResultT = TypeVar("ResultT")


class AllAttemptsFailed(EgoAssetsError):
    """No attempt at a layer left a result: the last one ended with an exception."""

    def __init__(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        tried = "; ".join(f"{attempt['attempt']}: {attempt['refused']}" for attempt in attempts)
        super().__init__(
            f"{len(attempts)} attempt(s) failed. {tried}. Look at the clip, or name another backend in the profile, "
            "and use `ego-assets run --retry-failed`."
        )
        self.attempts = tuple(attempts)


@dataclass(frozen=True, kw_only=True)
class Climbed(Generic[BackendT, ResultT]):
    """Where the attempts ended.

    Attributes:
        rung: The attempt whose result counts: the first that was accepted, otherwise the last that gave one.
        result: What it made.
        attempts: What was refused before it, or all attempts where none was accepted, oldest first: name, configuration
            and reason. For ``artifact.json``.
        accepted: Whether the result was accepted.
    """

    rung: Rung[BackendT]
    result: ResultT
    attempts: tuple[Mapping[str, Any], ...]
    accepted: bool


def climb(
    rungs: Sequence[Rung[BackendT]],
    make: Callable[[Rung[BackendT]], ResultT],
    *,
    refusal: Callable[[ResultT], str],
    log: logging.Logger,
) -> Climbed[BackendT, ResultT]:
    """Try the rungs in order until a result is accepted; after two further attempts the last one stands.

    An exception of a model refuses an attempt as a bad result does. The platform's own errors, and those of the
    operating system, are raised at once: they say nothing about the attempt.

    Args:
        rungs: The attempts, at least one.
        make: Makes the layer in one way; the files of the last call stand.
        refusal: Why a result is not good enough; empty where it is.
        log: Where refusals are told.

    Raises:
        AllAttemptsFailed: None was accepted, and the last one ended with an exception.
    """
    attempts: list[Mapping[str, Any]] = []
    last: tuple[Rung[BackendT], ResultT] | None = None
    for rung in rungs[: MAX_FURTHER_ATTEMPTS + 1]:
        try:
            result = make(rung)
        except (EgoAssetsError, OSError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            last = None
        else:
            reason = refusal(result)
            if not reason:
                return Climbed(rung=rung, result=result, attempts=tuple(attempts), accepted=True)
            last = rung, result
        log.warning("%s refused: %s", rung.name, reason)
        attempts.append({"attempt": rung.name, "config": dict(rung.config), "refused": reason})
    if last is None:
        raise AllAttemptsFailed(attempts)
    return Climbed(rung=last[0], result=last[1], attempts=tuple(attempts), accepted=False)


def blocking_refusal(verdicts: Sequence[GateResult]) -> str:
    """The messages of the verdicts that make a layer unusable, as the reason to try another way."""
    return " ".join(verdict.message for verdict in verdicts if verdict.blocks)
