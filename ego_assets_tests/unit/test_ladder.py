"""The ladder of attempts: what is tried, what stands, and what is recorded."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

import pytest

from ego_assets.ladder import AllAttemptsFailed, blocking_refusal, climb
from ego_assets.schema.errors import (
    BackendUnavailable,
    ClipRefused,
    DeviceMemoryExhausted,
    InsufficientDisk,
    TransientError,
)
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


@pytest.mark.parametrize("error", [DeviceMemoryExhausted("too large"), ValueError("bad")])
def test_a_refused_attempt_holds_nothing_while_the_next_one_runs(error: Exception) -> None:
    class Tensor:
        """Stands for memory of a GPU."""

    held: list[weakref.ref[Tensor]] = []

    def fail() -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise error

    def make(rung: Rung[str]) -> str:
        if rung.name == "a":
            try:
                fail()
            except Exception as cause:
                of_wrapper = Tensor()
                held.append(weakref.ref(of_wrapper))
                raise type(error)(*error.args) from cause
        assert [reference() for reference in held] == [None, None]
        return rung.open()

    assert climb(rungs("a", "b"), make, refusal=refuse(), log=LOG).result == "b"


def test_after_two_further_attempts_the_last_one_stands_where_none_can_be_used() -> None:
    climbed = climb(rungs("a", "b", "c", "d"), lambda rung: rung.open(), refusal=refuse(*"abcd"), log=LOG)
    assert (climbed.result, climbed.accepted) == ("c", False)
    assert [attempt["attempt"] for attempt in climbed.attempts] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("worth", "stands", "made"),
    [
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "a", "abca"),
        ({"a": 1.0, "b": 2.0, "c": 0.0}, "b", "abcb"),
        ({"a": 1.0, "b": 0.0, "c": 2.0}, "c", "abc"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, "c", "abc"),
    ],
)
def test_the_most_usable_refused_result_stands_with_its_own_files(
    worth: dict[str, float], stands: str, made: str
) -> None:
    """The files of the last call stand, so what was overwritten is made again; the first among equals is taken."""
    made_by: list[str] = []

    def make(rung: Rung[str]) -> str:
        made_by.append(rung.name)
        return rung.open()

    climbed = climb(rungs(*"abc"), make, refusal=refuse(*"abc"), usable=worth.__getitem__, log=LOG)
    assert (climbed.result, climbed.rung.name, climbed.accepted) == (stands, stands, False)
    assert "".join(made_by) == made
    assert [attempt["attempt"] for attempt in climbed.attempts] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "error", [RuntimeError("frame 7"), BackendUnavailable("install it"), OSError("unreadable weights")]
)
def test_a_usable_result_outlives_a_later_attempt_that_fails(error: Exception) -> None:
    made_by: list[str] = []

    def make(rung: Rung[str]) -> str:
        made_by.append(rung.name)
        if rung.name == "b":
            raise error
        return rung.open()

    climbed = climb(rungs("a", "b"), make, refusal=refuse("a"), usable=lambda result: True, log=LOG)
    assert (climbed.result, climbed.accepted) == ("a", False)
    assert made_by == ["a", "b", "a"]
    assert climbed.attempts[1]["refused"] == f"{type(error).__name__}: {error}"


def test_a_later_backend_that_is_not_there_is_passed_over() -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name == "b":
            raise BackendUnavailable("install it")
        return rung.open()

    climbed = climb(rungs("a", "b", "c"), make, refusal=refuse("a"), log=LOG)
    assert (climbed.result, climbed.accepted) == ("c", True)
    with pytest.raises(BackendUnavailable, match="install it"):
        climb(rungs("a", "b", "c"), make, refusal=refuse("a", "c"), log=LOG)


def test_an_exception_of_a_model_refuses_the_attempt() -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name == "a":
            raise RuntimeError("frame 7")
        return rung.open()

    climbed = climb(rungs("a", "b"), make, refusal=refuse(), log=LOG)
    assert climbed.result == "b"
    assert climbed.attempts[0]["refused"] == "RuntimeError: frame 7"


def test_an_unusable_result_does_not_stand_when_a_later_attempt_fails() -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name == "b":
            raise RuntimeError("frame 7")
        return rung.open()

    said = r"2 attempt.*a: a is bad; b: RuntimeError: frame 7.*--retry-failed` with the same profile\.$"
    with pytest.raises(AllAttemptsFailed, match=said):
        climb(rungs("a", "b"), make, refusal=refuse("a"), log=LOG)


@pytest.mark.parametrize(
    "error", [TransientError("later"), BackendUnavailable("install it"), OSError("full")]
)
def test_failures_of_the_surroundings_are_no_verdict_on_the_first_attempt(error: Exception) -> None:
    tried: list[str] = []

    def make(rung: Rung[str]) -> str:
        tried.append(rung.name)
        raise error

    with pytest.raises(type(error)):
        climb(rungs("a", "b"), make, refusal=refuse(), log=LOG)
    assert tried == ["a"]


@pytest.mark.parametrize(
    "error", [TransientError("later"), ClipRefused("withdrawn"), InsufficientDisk("full")]
)
def test_what_is_worth_retrying_or_forbids_the_work_is_raised_on_every_rung(error: Exception) -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name == "b":
            raise error
        return rung.open()

    with pytest.raises(type(error)):
        climb(rungs("a", "b", "c"), make, refusal=refuse("a"), usable=lambda result: True, log=LOG)


def test_a_device_without_memory_is_tried_with_less_and_says_nothing_about_the_clip() -> None:
    def make(rung: Rung[str]) -> str:
        if rung.name in full:
            raise DeviceMemoryExhausted("One picture does not fit.")
        return rung.open()

    full = {"a"}
    climbed = climb(rungs("a", "b"), make, refusal=refuse(), log=LOG)
    assert climbed.result == "b"
    assert climbed.attempts[0]["refused"] == "DeviceMemoryExhausted: One picture does not fit."
    full = {"a", "b"}
    with pytest.raises(DeviceMemoryExhausted) as raised:
        climb(rungs("a", "b"), make, refusal=refuse(), log=LOG)
    assert not raised.value.about_clip


def test_only_blocking_failures_refuse() -> None:
    blocking = GateSpec(name="a", description="", blocking=True)
    other = GateSpec(name="b", description="")
    assert blocking_refusal([blocking.failed("Empty."), other.failed("Odd.")]) == "Empty."
    assert blocking_refusal([blocking.not_evaluated("?"), other.failed("Odd.")]) == ""
