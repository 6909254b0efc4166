"""What the backends that run MediaPipe graphs share."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What MediaPipe's native code writes to standard error whenever a graph starts.
_START_MESSAGES = (
    b"XNNPACK delegate",
    b"absl::InitializeLog",
    b"inference_feedback_manager",
    b"landmark_projection_calculator",
)
# Standard error belongs to the whole process: one graph at a time may start.
_starting = threading.Lock()


@contextmanager
def without_start_messages() -> Iterator[None]:
    """Keep what MediaPipe's native code says at every start out of standard error; anything else is passed on."""
    with _starting, tempfile.TemporaryFile() as heard:
        sys.stderr.flush()
        real = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            heard.seek(0)
            for line in heard.read().splitlines(keepends=True):
                if not any(message in line for message in _START_MESSAGES):
                    os.write(real, line)
            os.close(real)
