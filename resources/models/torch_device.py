"""Where PyTorch networks run; PyTorch is imported at the first call."""

from __future__ import annotations

import logging
from functools import cache
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
