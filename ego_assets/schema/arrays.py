"""Small helpers for the frozen dataclasses that hold arrays."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

ScalarT = TypeVar("ScalarT", bound=np.generic)


def read_only(array: npt.NDArray[ScalarT]) -> npt.NDArray[ScalarT]:
    """A read-only view of ``array``."""
    view = array.view()
    view.flags.writeable = False
    return view


def hold_arrays(holder: object, **shapes: tuple[int, ...]) -> None:
    """Check the shapes of a frozen dataclass's arrays, and make them read-only.

    Args:
        holder: The dataclass, in its ``__post_init__``.
        **shapes: Expected shape by name of the field.

    Raises:
        ValueError: An array has another shape.
    """
    for name, shape in shapes.items():
        array = getattr(holder, name)
        if array.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, got {list(array.shape)}")
        object.__setattr__(holder, name, read_only(array))
