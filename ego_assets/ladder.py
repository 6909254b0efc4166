"""Tries a layer in one way after another until a result is good enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ego_assets.schema.errors import EgoAssetsError
from ego_assets.schema.gates import GateResult
from ego_assets.schema.ladder import (
    MAX_FURTHER_ATTEMPTS,
    Rung,
    forget_locals,
    is_of_surroundings,
    refuses_attempt,
)

BackendT = TypeVar("BackendT")
ResultT = TypeVar("ResultT")


class AllAttemptsFailed(EgoAssetsError):
    """No attempt at a layer left a result that could be used, and the last one ended with an exception."""

    def __init__(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        tried = "; ".join(f"{attempt['attempt']}: {attempt['refused']}" for attempt in attempts)
        super().__init__(
            f"{len(attempts)} attempt(s) failed. {tried}. Look at the clip, or name another backend in the profile, "
            "and use `ego-assets run --retry-failed` with the same profile."
        )
        self.attempts = tuple(attempts)


@dataclass(frozen=True, kw_only=True)
class Climbed(Generic[BackendT, ResultT]):
    """Where the attempts ended.

    Attributes:
        rung: The attempt whose result counts: the first that was accepted, otherwise the most usable one, otherwise the
            last.
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
    usable: Callable[[ResultT], float] = lambda _: 0.0,
    log: logging.Logger,
) -> Climbed[BackendT, ResultT]:
    """Try the rungs in order until a result is accepted; after two further attempts the most usable one stands.

    An exception of a model refuses an attempt as a bad result does; :func:`~ego_assets.schema.ladder.refuses_attempt`
    says which other errors do, and which are raised at once. Where no result can be used, the first error of the
    surroundings that refused an attempt is raised in the end.

    Args:
        rungs: The attempts, at least one.
        make: Makes the layer in one way; the files of its last call stand. It is called once more for a result that an
            attempt after it overwrote.
        refusal: Why a result is not good enough; empty where it is.
        usable: How well a refused result can be used all the same, higher being better; 0 where it cannot.
        log: Where refusals are told.

    Raises:
        AllAttemptsFailed: No result can be used, and the last attempt ended with an exception.
    """
    attempts: list[Mapping[str, Any]] = []
    best: Rung[BackendT] | None = None
    best_worth = 0.0
    last: tuple[Rung[BackendT], ResultT] | None = None
    unavailable: Exception | None = None
    for rung in rungs[: MAX_FURTHER_ATTEMPTS + 1]:
        last = None
        try:
            result = make(rung)
        except Exception as error:
            if not refuses_attempt(error, is_first=not attempts):
                raise
            if is_of_surroundings(error):
                unavailable = unavailable or error
            forget_locals(error)
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = refusal(result)
            if not reason:
                return Climbed(rung=rung, result=result, attempts=tuple(attempts), accepted=True)
            last = rung, result
            worth = float(usable(result))
            if worth > best_worth:
                best, best_worth = rung, worth
        log.warning("%s refused: %s", rung.name, reason)
        attempts.append({"attempt": rung.name, "config": dict(rung.config), "refused": reason})
    if best is not None and (last is None or last[0] is not best):
        log.warning("making the layer with %s again: of what was refused its result is the best", best.name)
        last = best, make(best)
    if last is None or (best is None and unavailable is not None):
        raise unavailable or AllAttemptsFailed(attempts)
    return Climbed(rung=last[0], result=last[1], attempts=tuple(attempts), accepted=False)


def blocking_refusal(verdicts: Sequence[GateResult]) -> str:
    """The messages of the verdicts that make a layer unusable, as the reason to try another way."""
    return " ".join(verdict.message for verdict in verdicts if verdict.blocks)
