"""The ladder of attempts: what is tried, what stands, and what is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from ego_assets.ladder import AllAttemptsFailed, blocking_refusal, climb
from ego_assets.schema.errors import BackendUnavailable, TransientError
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.ladder import Rung

LOG = logging.getLogger(__name__)


def rungs(*names: str) -> list[Rung[str]]:
    def opener(name: str) -> Callable[[], str]:
        return lambda: name

    return [Rung(name=name, open=opener(name), config={"setting": name}) for name in names]


def refuse(*names: str) -> Callable[[str], str]:
    return lambda result: f"{result} is bad" if result in names else ""


def test_the_first_accepted_result_stands() -> None:
    tried: list[str] = []

    def make(rung: Rung[str]) -> str:
        tried.append(rung.name)
        return rung.open()

    climbed = climb(rungs("a", "b", "c"), make, refusal=refuse("a"), log=LOG)
    assert (climbed.result, climbed.rung.name, climbed.accepted) == ("b", "b", True)
    assert climbed.attempts == ({"attempt": "a", "config": {"setting": "a"}, "refused": "a is bad"},)
    assert tried == ["a", "b"]


def test_after_two_further_attempts_the_last_one_stands() -> None:
    climbed = climb(rungs("a", "b", "c", "d"), lambda rung: rung.open(), refusal=refuse(*"abcd"), log=LOG)
    assert (climbed.result, climbed.accepted) == ("c", False)
    assert [attempt["attempt"] for attempt in climbed.attempts] == ["a", "b", "c"]


def test_an_exception_of_a_model_refuses_the_attempt() -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name == "a":
            raise RuntimeError("frame 7")
        return rung.open()

    climbed = climb(rungs("a", "b"), make, refusal=refuse(), log=LOG)
    assert climbed.result == "b"
    assert climbed.attempts[0]["refused"] == "RuntimeError: frame 7"


def test_a_refused_result_does_not_stand_when_a_later_attempt_overwrote_its_files() -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name == "b":
            raise RuntimeError("frame 7")
        return rung.open()

    with pytest.raises(AllAttemptsFailed, match=r"2 attempt.*a: a is bad; b: RuntimeError: frame 7"):
        climb(rungs("a", "b"), make, refusal=refuse("a"), log=LOG)


@pytest.mark.parametrize(
    "error", [TransientError("later"), BackendUnavailable("install it"), OSError("full")]
)
def test_failures_of_the_surroundings_are_no_verdict_on_the_attempt(error: Exception) -> None:
    tried: list[str] = []

    def make(rung: Rung[str]) -> str:
        tried.append(rung.name)
        raise error

    with pytest.raises(type(error)):
        climb(rungs("a", "b"), make, refusal=refuse(), log=LOG)
    assert tried == ["a"]


def test_only_blocking_failures_refuse() -> None:
    blocking = GateSpec(name="a", description="", blocking=True)
    other = GateSpec(name="b", description="")
    assert blocking_refusal([blocking.failed("Empty."), other.failed("Odd.")]) == "Empty."
    assert blocking_refusal([blocking.not_evaluated("?"), other.failed("Odd.")]) == ""
