"""What the settings of backends take, so that a profile is refused when it is read and not when a layer runs.

A check is given a setting's name and value, and raises ``ValueError`` where no backend could take it. Nothing here
imports a model library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, get_args

from resources.models.label_maps import load_label_map

#: Arithmetic of a network; ``auto`` is bfloat16 on a GPU that has it and float32 elsewhere.
Precision = Literal["auto", "float32", "bfloat16", "float16"]
#: Whether ``torch.compile`` prepares a network; ``auto`` does on a GPU.
Compile = Literal["auto", "always", "never"]

#: Raises ``ValueError`` where the setting of that name cannot have that value.
Check = Callable[[str, Any], None]


def whole(least: int, most: int | None = None, *, multiple_of: int = 1) -> Check:
    """A whole number from ``least`` to ``most``, both included."""
    limits = f"{least} or more" if most is None else f"{least} to {most}"

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name}: expected a whole number, got {value!r}")
        if value < least or (most is not None and value > most):
            raise ValueError(f"{name}: expected {limits}, got {value}")
        if value % multiple_of:
            nearest = max(least, round(value / multiple_of) * multiple_of)
            raise ValueError(f"{name}: expected a multiple of {multiple_of}, such as {nearest}, got {value}")

    return check


def number(
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Check:
    """A finite number within limits; ``above`` and ``below`` are themselves outside."""
    limits = [
        f"{words} {limit:g}"
        for words, limit in (("above", above), ("at least", least), ("below", below), ("at most", most))
        if limit is not None
    ]
    expected = f"a number {' and '.join(limits)}"

    def check(name: str, value: Any) -> None:
        is_right = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            # NaN is outside as well.
            and -math.inf < value < math.inf
            and (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
            and (most is None or value <= most)
        )
        if not is_right:
            raise ValueError(f"{name}: expected {expected}, got {value!r}")

    return check


def zero_or(check: Check) -> Check:
    """0, which leaves something out, or what another check takes."""

    def check_unless_zero(name: str, value: Any) -> None:
        if isinstance(value, bool) or value != 0:
            check(name, value)

    return check_unless_zero


def one_of(*choices: str | int) -> Check:
    """One of these values."""

    def check(name: str, value: Any) -> None:
        # 1 is equal to true.
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")

    return check


def switch(name: str, value: Any) -> None:
    """Whether something is done: ``auto``, ``always`` or ``never``."""
    try:
        one_of(*get_args(Compile))(name, value)
    except ValueError as error:
        if not isinstance(value, bool):
            raise
        # YAML reads on, off, yes and no as these.
        raise ValueError(
            f"{error} (YAML takes on and off for true and false: write always or never)"
        ) from None


def precision(name: str, value: Any) -> None:
    """Arithmetic of a network of PyTorch."""
    one_of(*get_args(Precision))(name, value)


def true_or_false(name: str, value: Any) -> None:
    """``true`` or ``false``; words that mean it, such as a quoted "yes", are none."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")


def words(name: str, value: Any) -> None:
    """Text of any kind, also none."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected words, got {value!r}; put it into quotation marks")


def some_words(name: str, value: Any) -> None:
    """Text that says something."""
    words(name, value)
    if not value.strip():
        raise ValueError(f"{name}: expected words, got none")


def device(name: str, value: Any) -> None:
    """Where a network of PyTorch runs.

    Other devices that PyTorch knows (mps, meta) were never tried, and some hold no numbers at all.
    """
    _device("cuda", name, value)


def paddle_device(name: str, value: Any) -> None:
    """Where a network of PaddlePaddle runs."""
    _device("gpu", name, value)


def label_map(name: str, value: Any) -> None:
    """Which classes make which activity: a map that ships, or a file that is there and can be read as one."""
    words(name, value)
    if value not in ("auto", "identity"):
        load_label_map(value)


def _device(gpu: str, name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(rf"auto|cpu|{gpu}(:\d{{1,2}})?", value):
        raise ValueError(f"{name}: expected auto, cpu, {gpu} or {gpu}:N, got {value!r}")
