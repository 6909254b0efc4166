"""How networks of PyTorch run: on which device, how exactly, in batches that fit, and in turn where memory is short.

PyTorch is imported when the first network is held. All backends of a process share the device: a network that needs
memory moves idle ones to the CPU before its batches shrink.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ego_assets.schema.errors import BackendUnavailable, DeviceMemoryExhausted
from resources.models import setting_checks
from resources.models.registry import ModelCard
from resources.models.setting_checks import Compile, Precision, whole
from resources.models.torch_device import torch_device

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
NetworkT = TypeVar("NetworkT")
#: Makes a :class:`HeldNetwork` of a ``torch.nn.Module``; keywords as there.
Hold = Callable[..., "HeldNetwork"]

#: Largest batch that is chosen by itself.
MAX_AUTO_BATCH = 64
#: Share of the free memory that such a batch may fill.
_MEMORY_SHARE = 0.8
#: What errors say that PyTorch raises as plain ones: of the driver, of the libraries beside its allocator, of a CPU.
_OUT_OF_MEMORY = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
    "cudnn_status_alloc_failed",
    # Of cuDNN 9: of the host and of the device; and where no engine's workspace fits.
    "allocation_failed",
    "was unable to find an engine",
    "defaultcpuallocator: not enough memory",
    "defaultcpuallocator: can't allocate memory",
)

#: How errors of a GPU begin: those of PyTorch, and those of what it compiled.
_SPEAKS_OF_GPU = ("cuda error", "cuda driver error", "triton error [cuda]")
#: After these the process can use the GPU no more, whatever it is asked for.
_GPU_IS_LOST = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "invalid program counter",
    "address space",
    "nvlink",
    "error: unknown error",
    "uncorrectable ecc error",
    "hardware stack error",
    "gpu is lost",
    "busy or unavailable",
)

#: How often PyTorch may compile one function: for every shape of a few networks of a kind, in a few kinds of
#: arithmetic. It counts those of a process together, and its own limit of 8 leaves what comes later uncompiled.
_MOST_COMPILATIONS = 64
#: From this compute capability on, GPUs calculate in bfloat16; earlier ones imitate it, slowly, and not everywhere.
_BFLOAT16_CAPABILITY = (8, 0)

_log = logging.getLogger(__name__)
_held: weakref.WeakSet[HeldNetwork] = weakref.WeakSet()
_moving = threading.RLock()
_shared: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
# One at a time: two networks that are read at once need the memory of both, and libraries turn global switches.
_loading = threading.RLock()


class HeldNetwork:
    """A network and the device that it runs on.

    Args:
        network: ``torch.nn.Module`` in evaluation mode, on the CPU.
        device: As of :func:`resources.models.torch_device.torch_device`.
        precision: Arithmetic; parameters are converted once.
        compile: Whether ``torch.compile`` prepares it. The first batch of every shape then takes longer.
        has_compiled_parts: Whether parts of it compile themselves.
        name: For messages.

    Raises:
        BackendUnavailable: The device is not there.
        ValueError: A setting has a wrong value.
    """

    def __init__(
        self,
        network: Any,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        compile: Compile = "auto",
        has_compiled_parts: bool = False,
        name: str = "",
    ) -> None:
        import torch  # type: ignore[import-not-found,unused-ignore]

        setting_checks.precision("precision", precision)
        setting_checks.switch("compile", compile)
        self.name = name or type(network).__name__
        self.device = torch_device(device)
        self.dtype = getattr(torch, resolved_precision(precision, self.device))
        self.network = network.to(dtype=self.dtype).eval()
        # One by one: scripted networks cannot be asked as a whole.
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        tensors = (*self.network.parameters(), *self.network.buffers())
        self._weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        is_compiled_whole = compiles(compile, self.device)
        self._call = torch.compile(self.network) if is_compiled_whole else self.network
        self._is_compiled = is_compiled_whole or has_compiled_parts
        self._users = 0
        self._is_on_device = False
        with _moving:
            _held.add(self)

    @property
    def is_compiled(self) -> bool:
        """Whether ``torch.compile`` prepares it, or parts of it."""
        return self._is_compiled

    @property
    def described(self) -> str:
        """Name, device, arithmetic and whether it is compiled, for the log."""
        precision = str(self.dtype).removeprefix("torch.")
        return f"{self.name} on {self.device}, {precision}, {'' if self._is_compiled else 'not '}compiled"

    @contextmanager
    def in_use(self) -> Iterator[Callable[..., Any]]:
        """The network on its device, for inference; while it is in use nothing moves it away.

        Raises:
            BackendUnavailable: As of :meth:`reporting_loss`.
            DeviceMemoryExhausted: The weights do not fit, however small the batches are.
        """
        with self.reporting_loss(), self._brought() as network:
            yield network

    @contextmanager
    def reporting_loss(self) -> Iterator[None]:
        """For whatever waits for the device: what it was given to do before fails there.

        Raises:
            BackendUnavailable: The GPU failed in a way that it does not recover from, or the network cannot be
                compiled. The clip is not to blame.
        """
        try:
            yield
        except RuntimeError as error:
            if self._is_compiled and _is_of_compiler(error):
                raise BackendUnavailable(
                    f"{self.name}: torch.compile failed ({_first_line(error)}). Set `compile: never` for the backend "
                    "in the profile (of sam2: `vos_optimized: never`)."
                ) from error
            if not is_gpu_lost(error):
                raise
            raise BackendUnavailable(
                f"{self.name}: {self.device} failed ({_first_line(error)}), and this process cannot use it any more. "
                "Begin the run again; if it happens again, look at nvidia-smi and the kernel's log (Xid)."
            ) from error

    @contextmanager
    def _brought(self) -> Iterator[Callable[..., Any]]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        if self._is_compiled:
            _permit_compilations()
        with _moving:
            self._users += 1
            try:
                self._bring()
            except BaseException:
                self._users -= 1
                raise
        # Threads begin with the first GPU as the current one, whichever the network is on.
        current = torch.cuda.device(self.device) if self.device.index else nullcontext()
        try:
            with torch.inference_mode(), current:
                yield self._call
        finally:
            with _moving:
                self._users -= 1

    def _bring(self) -> None:
        while not self._is_on_device:
            try:
                self.network.to(self.device)
                self._is_on_device = True
            except Exception as error:
                # What arrived before the rest did not fit would fill the memory for nobody.
                self.network.to("cpu")
                if not is_out_of_memory(error):
                    raise
                if not make_room():
                    raise DeviceMemoryExhausted(
                        f"{self.name}: its weights ({self._weights_bytes / 1e9:.2f} GB) do not fit into the memory of "
                        f"{self.device}. Free memory (nvidia-smi shows who holds it), or choose a smaller checkpoint "
                        "in the profile."
                    ) from error

    def set_aside(self) -> bool:
        """Move the network to the CPU where nobody uses it; whether that freed memory of a GPU."""
        with _moving:
            if self._users or not self._is_on_device or self.device.type == "cpu":
                return False
            try:
                self.network.to("cpu")
            except RuntimeError as error:
                if not is_gpu_lost(error):
                    raise
                # Its memory comes back with the end of the process.
                return False
            self._is_on_device = False
            return True


def compiles(setting: Compile, device: Any) -> bool:
    """Whether ``torch.compile`` prepares networks on a ``torch.device``."""
    return setting == "always" or (setting == "auto" and device.type == "cuda" and _can_compile())


@cache
def _can_compile() -> bool:
    """Whether there is what Triton builds its launcher with; says once what is missing."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    # Debian's Python names the folder of what is installed locally first.
    folders = [sysconfig.get_paths()["include"], sysconfig.get_config_var("INCLUDEPY") or ""]
    has_headers = any((Path(folder) / "Python.h").is_file() for folder in folders)
    lacking = [] if compiler else ["a C compiler (gcc, clang or CC)"]
    lacking += [] if has_headers else [f"the headers of Python ({folders[0]})"]
    if lacking:
        _log.warning(
            "compile: auto compiles nothing, because torch.compile needs %s; networks run slower.",
            " and ".join(lacking),
        )
    return not lacking


def _permit_compilations() -> None:
    """Raise PyTorch's limit of compilations, in this thread: recent releases keep the setting for every thread."""
    from torch._dynamo import config  # type: ignore[import-not-found,unused-ignore]

    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    if getattr(config, name) < _MOST_COMPILATIONS:
        setattr(config, name, _MOST_COMPILATIONS)


def resolved_precision(precision: Precision, device: Any) -> str:
    """The arithmetic that a setting comes to on a ``torch.device``.

    Raises:
        BackendUnavailable: The GPU has no bfloat16.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    if device.type != "cuda" or precision not in ("auto", "bfloat16"):
        return "float32" if precision == "auto" else precision
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16_CAPABILITY:
        return "bfloat16"
    if precision == "auto":
        return "float32"
    raise BackendUnavailable(
        f"precision bfloat16: {device} has none (compute capability {'.'.join(map(str, capability))}, expected "
        f"{'.'.join(map(str, _BFLOAT16_CAPABILITY))} or later). Set `precision: auto` or `float16` in the profile."
    )


def shared_network(
    card: ModelCard,
    location: Path,
    digest: str,
    load: Callable[[Hold], NetworkT],
    *,
    device: str,
    precision: Precision = "auto",
    compile: Compile = "auto",
) -> NetworkT:
    """A loaded network, once per process: backends whose settings come to the same arithmetic here share it.

    It stays as long as anybody holds what this function gave. Networks are loaded one after the other.

    Args:
        card: The checkpoint.
        location: Its file or folder.
        digest: Of what lies there.
        load: Loads it. Is given a function that makes a :class:`HeldNetwork` of a ``torch.nn.Module`` on the CPU with
            the settings below, other ones being keywords; gives that, or an object that holds it and can be referred
            to weakly.
        device: As of :func:`resources.models.torch_device.torch_device`.
        precision: Arithmetic.
        compile: Whether ``torch.compile`` prepares it.

    Raises:
        BackendUnavailable: The device is not there, or lacks the arithmetic.
    """
    place = torch_device(device)
    key = (
        (card.key, location, digest),
        (place.type, place.index or 0),
        (resolved_precision(precision, place), compiles(compile, place)),
    )

    def hold(network: Any, **others: Any) -> HeldNetwork:
        settings = {"device": device, "precision": precision, "compile": compile, "name": card.name}
        held = HeldNetwork(network, **{**settings, **others})
        _log.info(held.described)
        return held

    with _loading:
        network: NetworkT | None = _shared.get(key)
        if network is None:
            network = load(hold)
            _shared[key] = network
        return network


def shared_detector(
    card: ModelCard, path: Path, digest: str, load: Callable[[], Any], *, device: str
) -> HeldNetwork:
    """A network of the privacy pass, once per process: in single precision and never compiled, as it was measured.

    Args:
        card: The checkpoint.
        path: Its file.
        digest: Of that file.
        load: Gives the ``torch.nn.Module``, on the CPU.
        device: As of :func:`resources.models.torch_device.torch_device`.
    """
    return shared_network(
        card, path, digest, lambda hold: hold(load()), device=device, precision="float32", compile="never"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory for what was asked of it."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


def _is_of_compiler(error: BaseException) -> bool:
    """Whether compiling failed, for another reason than too little memory."""
    from torch._dynamo.exc import TorchDynamoException  # type: ignore[import-not-found,unused-ignore]

    return isinstance(error, TorchDynamoException) and not is_out_of_memory(error)


def is_gpu_lost(error: BaseException) -> bool:
    """Whether a GPU failed so that the process has to end before anything can use it again."""
    said = str(error).lower()
    return (
        isinstance(error, RuntimeError)
        and any(words in said for words in _SPEAKS_OF_GPU)
        and any(words in said for words in _GPU_IS_LOST)
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def make_room() -> bool:
    """Move idle networks to the CPU and give cached memory back; whether any network was moved."""
    with _moving:
        moved = [held.name for held in list(_held) if held.set_aside()]
    if moved:
        _log.info("moved to the CPU to make room: %s", ", ".join(moved))
    release_memory()
    return bool(moved)


def release_memory() -> None:
    """Give memory that no tensor uses back to the GPU; does nothing where PyTorch was never imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            # Of a lost GPU it comes back with the end of the process.
            if not is_gpu_lost(error):
                raise


class Batches:
    """Runs items in batches that fit into memory; what does not fit is run again in halves, and nothing is lost.

    Args:
        batch_size: Most items in a batch; 0 chooses by the memory that the first item took.
        device: ``torch.device`` the work runs on.
        is_compiled: Whether the first call compiles what it runs: tuning takes memory of its own, so that the memory of
            the second item is measured in its place.
    """

    def __init__(self, batch_size: int, *, device: Any, is_compiled: bool = False) -> None:
        whole(0)("batch_size", batch_size)
        self._device = device
        self._limit = batch_size
        self._has_to_compile = is_compiled
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Most items of the next batch; 1 until a size was chosen."""
        return self._limit or 1

    def stream(
        self,
        items: Iterable[ItemT],
        call: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        max_batch: int | None = None,
    ) -> Iterator[ResultT]:
        """One result per item, in order; items are taken a batch at a time.

        Args:
            items: What to work on.
            call: Works on a few items and gives one result each; may be called again with some of the same items.
            max_batch: Most of these items in a batch, however many fit; the size for others stays as it is.

        Raises:
            DeviceMemoryExhausted: A single item does not fit: other programs fill the memory, or it is too large.
        """
        if max_batch is not None:
            whole(1)("max_batch", max_batch)
        source = iter(items)
        while batch := list(islice(source, min(self.size, max_batch or self.size))):
            yield from self.run(batch, call)

    def run(
        self, items: Sequence[ItemT], call: Callable[[Sequence[ItemT]], Sequence[ResultT]]
    ) -> list[ResultT]:
        """One result per item, in order; see :meth:`stream`."""
        results: list[ResultT] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            found = self._attempt(batch, call)
            if found is not None:
                if len(found) != len(batch):
                    raise ValueError(f"expected {len(batch)} results of a batch, got {len(found)}")
                results.extend(found)
        return results

    def _attempt(
        self, batch: Sequence[ItemT], call: Callable[[Sequence[ItemT]], Sequence[ResultT]]
    ) -> Sequence[ResultT] | None:
        """The results of a batch; ``None`` where it did not fit and the next one will be smaller."""
        return self._fitted(batch, call) if self._limit else self._measured(batch[:1], call)

    def _fitted(
        self, batch: Sequence[ItemT], call: Callable[[Sequence[ItemT]], Sequence[ResultT]]
    ) -> Sequence[ResultT] | None:
        said = ""
        for is_retry in (False, True):
            try:
                return call(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                said = _first_line(error)
            # Outside of the except block, so that the traceback holds no tensors any more. A second time makes no
            # difference: the network that just ran is idle as well, and moving it away frees nothing for itself.
            if not make_room() or is_retry:
                break
        if len(batch) == 1:
            raise DeviceMemoryExhausted(
                f"One picture does not fit into the memory of {self._device} ({said}): other programs fill it, or the "
                "input is too large. Free memory (nvidia-smi shows who holds it), or set a smaller input in the "
                "profile."
            )
        with self._lock:
            self._limit = max(1, min(self._limit, len(batch) // 2))
        _log.warning("out of memory on %s: batches of %d from here on", self._device, self._limit)
        return None

    def _measured(
        self, item: Sequence[ItemT], call: Callable[[Sequence[ItemT]], Sequence[ResultT]]
    ) -> Sequence[ResultT] | None:
        """Run one item and choose the size of later batches by the memory it took."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        if self._device.type != "cuda":
            results = self._fitted(item, call)
            self._limit = 1
            return results
        if self._has_to_compile:
            results = self._fitted(item, call)
            self._has_to_compile = False
            return results
        # Nothing may have used a GPU yet; what follows does not begin by itself.
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(self._device)
        results = self._fitted(item, call)
        # What is still allocated is no matter of the item: weights that the first call brought to the device.
        kept = torch.cuda.memory_allocated(self._device)
        taken = max(1, torch.cuda.max_memory_allocated(self._device) - kept)
        free, _ = torch.cuda.mem_get_info(self._device)
        # What PyTorch keeps for later counts as taken there.
        free += torch.cuda.memory_reserved(self._device) - kept
        self._limit = int(min(max(1, _MEMORY_SHARE * free // taken), MAX_AUTO_BATCH))
        return results
