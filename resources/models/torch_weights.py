"""How weights of PyTorch networks are read: all of them, and nothing in a file is executed.

PyTorch and transformers are imported at the first call.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ego_assets.schema.errors import BackendUnavailable
from resources.models.registry import OWN_LICENCE, ModelCard

#: Libraries tell whole tables; so much of it goes into our messages.
_LONGEST_SUMMARY = 300


def read_state(path: Path) -> Any:
    """What a file of PyTorch holds, on the CPU.

    The file is read as it is, or out of a zip archive that holds nothing else, as ``torch.utils.model_zoo`` takes it.

    Raises:
        BackendUnavailable: It is damaged, or holds more than tensors and plain values.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    try:
        with _opened(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What PyTorch says here is how to let the file run code.
        raise _unreadable(path, "it is damaged, or holds more than tensors and plain values") from error
    except Exception as error:  # Archives and PyTorch have errors of their own.
        raise _unreadable(path, error_summary(error)) from error


def load_weights(network: Any, path: Path, *, renamed: Callable[[str], str] | None = None) -> None:
    """Fill a network with the weights of a file; each of its parameters must be there, and no other.

    The file holds a ``state_dict``. A prefix ``module.`` that training on several GPUs leaves is removed.

    Args:
        network: The network.
        path: The file; see :func:`read_state`.
        renamed: What the network calls a parameter of the file, where the names differ.

    Raises:
        BackendUnavailable: The file is damaged or belongs to another network.
    """
    state = read_state(path)
    try:
        named = {name.removeprefix("module."): value for name, value in state.items()}
        network.load_state_dict({renamed(name) if renamed else name: value for name, value in named.items()})
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BackendUnavailable(
            f"{path} does not hold the weights of {type(network).__name__}: {error_summary(error)}. Put the published "
            "file there."
        ) from error


def load_pretrained(
    network_class: Any,
    card: ModelCard,
    folder: Path,
    *,
    dtype: Any,
    is_optional: Callable[[str], bool] = lambda name: False,
    own_advice: str = "",
) -> Any:
    """A network of ``transformers`` from a folder, on the CPU: nothing is fetched, and no weight is made up.

    Args:
        network_class: With ``from_pretrained``.
        card: The checkpoint.
        folder: Where its files lie.
        dtype: Of the parameters, or ``auto`` for the one in which they are stored.
        is_optional: Whether the network may lack the parameter of a name.
        own_advice: What else to say to who brought weights of their own.

    Raises:
        BackendUnavailable: The files are damaged, incomplete, or those of another network.
    """

    def refuse(problem: str) -> BackendUnavailable:
        advice = (
            " ".join(filter(None, ("Put all files there that save_pretrained writes.", own_advice)))
            if card.licence == OWN_LICENCE
            else f"Get it again with `ego-assets models pull {card.key}`."
        )
        return BackendUnavailable(
            f"{folder} does not hold {card.name} as a {network_class.__name__}: {problem}. {advice}"
        )

    try:
        with without_bars():
            network, report = network_class.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # Each format and library has errors of its own.
        raise refuse(error_summary(error)) from error
    absent = sorted(name for name in report["missing_keys"] if not is_optional(name))
    absent += sorted(map(str, report["mismatched_keys"]))
    if absent:
        raise refuse(f"weights are missing or of another shape ({len(absent)}): {', '.join(absent[:3])}")
    return network


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


def error_summary(error: Exception) -> str:
    """Kind and beginning of what a library says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_SUMMARY]}"


def _unreadable(path: Path, problem: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{path} does not hold weights that PyTorch can read: {problem}. Put the published file there."
    )


def _opened(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            # PyTorch's own format is a zip archive as well, of many files.
            if len(names) == 1:
                return archive.open(names[0])
    return path.open("rb")
