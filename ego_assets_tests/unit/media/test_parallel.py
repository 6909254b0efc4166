"""Streams worked on in threads: the order, the bound, errors in their place, no threads left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from ego_assets.media.parallel import available_cores, ordered_map, run_ahead

CLIP: ContextVar[str] = ContextVar("clip", default="none")


def threads_named(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


def counted(taken: list[int], count: int, *, fails_at: int | None = None) -> Iterator[int]:
    for number in range(count):
        if number == fails_at:
            raise OSError(f"item {number}")
        taken.append(number)
        yield number


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    assert list(ordered_map(slow_first, range(40), workers=4)) == [number * number for number in range(40)]
    assert list(ordered_map(slow_first, [], workers=4)) == []
    assert list(ordered_map(slow_first, range(3))) == [0, 1, 4]


def test_items_are_worked_on_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)
    assert sorted(ordered_map(lambda _: meeting.wait(), range(3), workers=3)) == [0, 1, 2]


def test_no_more_items_are_held_than_allowed() -> None:
    taken: list[int] = []
    blocked = threading.Event()

    def wait(number: int) -> int:
        assert blocked.wait(10)
        return number

    results = ordered_map(wait, counted(taken, 20), workers=2, ahead=3)
    assert taken == [], "nothing is taken before a result is asked for"
    blocked.set()
    for position, result in enumerate(results):
        assert result == position and len(taken) <= position + 3


def test_an_error_of_the_function_is_raised_in_its_place() -> None:
    def invert(number: int) -> float:
        return 1 / (3 - number)

    found = []
    with pytest.raises(ZeroDivisionError):
        for value in ordered_map(invert, range(10), workers=2, name="inverts"):
            found.append(value)
    assert len(found) == 3 and threads_named("inverts") == 0


def test_an_error_of_the_items_comes_after_the_results_before_it() -> None:
    found = []
    with pytest.raises(OSError, match="item 5"):
        for value in ordered_map(str, counted([], 10, fails_at=5), workers=4, ahead=9):
            found.append(value)
    assert found == ["0", "1", "2", "3", "4"]


def test_an_abandoned_iteration_leaves_no_threads() -> None:
    results = ordered_map(str, iter(range(1000)), workers=2, name="left")
    assert next(results) == "0"
    results.close()
    assert threads_named("left") == 0


@pytest.mark.parametrize("options", [{"workers": -1}, {"ahead": -1}])
def test_negative_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        ordered_map(str, [], **options)
    assert available_cores() >= 1


def test_items_are_made_ahead_in_another_thread_and_not_too_far() -> None:
    taken: list[int] = []
    made = run_ahead(counted(taken, 30), ahead=2)
    assert next(made) == 0
    deadline = time.monotonic() + 10
    while len(taken) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert taken == [0, 1, 2], "one in hand, two ahead"
    assert list(made) == list(range(1, 30))
    assert list(run_ahead([])) == []


def test_an_error_of_the_thread_is_raised_after_what_it_made() -> None:
    found = []
    with pytest.raises(OSError, match="item 3"):
        for item in run_ahead(counted([], 10, fails_at=3), ahead=8, name="fails"):
            found.append(item)
    assert found == [0, 1, 2] and threads_named("fails") == 0


def test_an_abandoned_source_is_closed_in_its_own_thread() -> None:
    closed_in: list[str] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    made = run_ahead(source(), name="closes")
    assert next(made) == 1
    made.close()
    assert closed_in == ["closes"] and threads_named("closes") == 0


def test_at_least_one_item_may_wait() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        run_ahead([], ahead=0)


def test_threads_see_the_context_of_whoever_iterates() -> None:
    token = CLIP.set("this clip")
    try:
        assert list(ordered_map(lambda _: CLIP.get(), range(5), workers=2)) == ["this clip"] * 5
        assert list(run_ahead(CLIP.get() for _ in range(3))) == ["this clip"] * 3
    finally:
        CLIP.reset(token)
