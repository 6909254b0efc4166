"""Where PyTorch networks run and how their weights are read; PyTorch is imported at the first call."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ego_assets.schema.errors import BackendUnavailable
from resources.models import setting_checks

_log = logging.getLogger(__name__)


def torch_device(name: str) -> Any:
    """The ``torch.device`` of a profile's ``device`` setting.

    Args:
        name: ``auto`` takes a CUDA device that no other process of this platform has, where there is any, and the CPU
            otherwise, with a warning once a process; else a name such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        BackendUnavailable: That device is not there.
        ValueError: There is no such kind of device.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    setting_checks.device("device", name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", _own_gpu(torch.cuda))
        _warn_of_cpu(torch.__version__, torch.version.cuda)
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"device {name!r}: PyTorch sees {torch.cuda.device_count()} CUDA device(s). Set `device: auto` or `cpu`, "
            "or check the driver with nvidia-smi."
        )
    return device


def _own_gpu(cuda: Any) -> int:
    """Number of this process's GPU."""
    from resources.models.gpu_choice import take_gpu

    # Also where it is the only one, so that processes that see others besides leave it alone.
    return take_gpu([str(cuda.get_device_properties(number).uuid) for number in range(cuda.device_count())])


@cache
def _warn_of_cpu(release: str, cuda: str | None) -> None:
    """Say once that networks will be slow, and which of the two reasons it has."""
    why = (
        f"is built for CUDA {cuda} and finds no GPU (nvidia-smi says more)"
        if cuda
        else "is built without CUDA"
    )
    _log.warning(
        "device: auto takes the CPU, because PyTorch %s %s. `device: cuda` refuses to run without a GPU.",
        release,
        why,
    )


def load_weights(network: Any, path: Path, *, renamed: Callable[[str], str] | None = None) -> None:
    """Fill a network with the weights of a file; each of its parameters must be there, and no other.

    The file holds a ``state_dict``, plainly or as the only file of a zip archive, as ``torch.utils.model_zoo`` takes
    it. A prefix ``module.`` that training on several GPUs leaves is removed. Nothing in the file is executed.

    Args:
        network: The network.
        path: The file.
        renamed: What the network calls a parameter of the file, where the names differ.

    Raises:
        BackendUnavailable: The file is damaged or belongs to another network.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    try:
        with _opened(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        named = {name.removeprefix("module."): value for name, value in state.items()}
        network.load_state_dict({renamed(name) if renamed else name: value for name, value in named.items()})
    except (RuntimeError, OSError, EOFError, AttributeError, pickle.UnpicklingError, ValueError) as error:
        raise BackendUnavailable(
            f"{path} does not hold the weights of {type(network).__name__}: {str(error)[:300]}. Put the published "
            "file there."
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of ``transformers`` while it loads weights: they would go to the error stream of every run."""
    from transformers.utils import logging as talk  # type: ignore[import-not-found,unused-ignore]

    had_bars = talk.is_progress_bar_enabled()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            talk.enable_progress_bar()


def _opened(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            # PyTorch's own format is a zip archive as well, of many files.
            if len(names) == 1:
                return archive.open(names[0])
    return path.open("rb")
