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
