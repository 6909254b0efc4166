"""What the GPU benchmark measures with: the calls of a network, their time on the device, how busy the device is."""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

_SAMPLE_INTERVAL_S = 0.05
#: The driver's own windows are a sixth of a second to a second long: the first samples tell of the time before.
SETTLING_S = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkCall:
    """One call of a network, to be repeated: its inputs lie in the device's memory.

    Attributes:
        held: The :class:`resources.models.torch_runtime.HeldNetwork`.
        method: Name of the method that was called; empty for the network itself.
        arguments: Positional arguments.
        options: Keyword arguments.
    """

    held: Any
    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def items(self) -> int:
        """Length of the batch: the first dimension of the first tensor."""
        return next((int(shape[0]) for shape in self.shapes if shape), 0)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the tensors it was given."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        given = [*self.arguments, *self.options.values()]
        return [tuple(value.shape) for value in given if isinstance(value, torch.Tensor)]

    def repeat(self) -> None:
        """Call the network again."""
        with self.held.in_use() as network:
            call = getattr(network, self.method) if self.method else network
            call(*self.arguments, **self.options)


class CallRecorder:
    """Keeps the call with the largest batch that any held network gets, with the inputs on the device."""

    def __init__(self) -> None:
        self.largest: NetworkCall | None = None

    def heard(self, call: NetworkCall) -> None:
        """Take note of a call."""
        if self.largest is None or call.items > self.largest.items:
            self.largest = call


class _HeardNetwork:
    """Passes everything on to a network and tells the recorder of calls."""

    def __init__(self, network: Any, held: Any, recorder: CallRecorder) -> None:
        self._network, self._held, self._recorder = network, held, recorder

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._called("", self._network, arguments, options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._network, name)
        if not callable(value) or name.startswith("_"):
            return value
        return lambda *arguments, **options: self._called(name, value, arguments, options)

    def _called(self, method: str, call: Callable[..., Any], arguments: Any, options: Any) -> Any:
        answer = call(*arguments, **options)
        # Only then, because a batch that does not fit is no batch.
        self._recorder.heard(
            NetworkCall(held=self._held, method=method, arguments=arguments, options=options)
        )
        return answer


@contextmanager
def recorded_calls() -> Iterator[CallRecorder]:
    """Listen to the networks that backends hold."""
    from resources.models.torch_runtime import HeldNetwork

    recorder, in_use = CallRecorder(), HeldNetwork.in_use

    @contextmanager
    def heard(held: Any) -> Iterator[Any]:
        with in_use(held) as network:
            yield _HeardNetwork(network, held, recorder)

    with mock.patch.object(HeldNetwork, "in_use", heard):
        yield recorder


def seconds_on(device: Any, work: Callable[[], object]) -> float:
    """Seconds that the device needs for ``work``, between two events of its stream; wall time on a CPU."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1000


def median_seconds(device: Any, work: Callable[[], object], *, runs: int, warm_up: int) -> float:
    """Median over runs of :func:`seconds_on`, after a few that do not count."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds_on(device, work) for _ in range(runs))


class _Utilisation(ctypes.Structure):
    """``nvmlUtilization_t``: share of the time in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class BusyShare:
    """Mean share of the time in which a GPU computes, as the driver counts it (NVML), while the context is open.

    It counts time in which any kernel of any process runs, however few of the GPU's units that fills.

    Args:
        uuid: Of the GPU.
        settling_s: Samples of so many first seconds are dropped.

    Attributes:
        share: 0-1; ``None`` where it could not be read.
        reason: Why it could not be read.
        driver: Version of the driver; empty where it could not be read.
    """

    def __init__(self, uuid: str, *, settling_s: float = SETTLING_S) -> None:
        self._settling_s = settling_s
        self.share: float | None = None
        self.reason = self.driver = ""
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._device = ctypes.c_void_p()
        try:
            self._library: Any = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            self._library, self.reason = None, f"NVML cannot be loaded: {error}"
            return
        text = ctypes.create_string_buffer(96)
        self._ask("nvmlInit_v2")
        self._ask("nvmlSystemGetDriverVersion", text, ctypes.c_uint(len(text)))
        self.driver = text.value.decode(errors="replace")
        name = f"GPU-{uuid}" if not uuid.startswith("GPU-") else uuid
        self._ask("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(self._device))

    def _ask(self, function: str, *arguments: Any) -> None:
        if self._library is None or self.reason:
            return
        answer = getattr(self._library, function)(*arguments)
        if answer:
            self.reason = f"{function} answered {answer}"

    def _sample(self) -> None:
        found = _Utilisation()
        begins = time.monotonic() + self._settling_s
        while not self._stop.wait(_SAMPLE_INTERVAL_S):
            self._ask("nvmlDeviceGetUtilizationRates", self._device, ctypes.byref(found))
            if self.reason:
                return
            if time.monotonic() >= begins:
                self._samples.append(found.gpu)

    def __enter__(self) -> BusyShare:
        self._thread = threading.Thread(target=self._sample, name="gpu-busy-share", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._samples and not self.reason:
            self.share = statistics.fmean(self._samples) / 100
        elif not self.reason:
            self.reason = "the layer ended before the first sample"
