"""Small checkpoints of the real architectures, made by the tests: the real loading code reads them.

Each module of this package (besides ``egoblur`` and ``egoblur_script``, which faces and plates use) is named after a
task and offers ``MAKERS``: name of a backend -> function that writes the backend's files below a folder of weights,
under their published names, and returns the settings a profile needs to run it quickly on a CPU. The weights are random
or constructed: shapes, units and failures can be tested with them, not whether a model sees well.
"""

from __future__ import annotations

import importlib
import importlib.util
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks._gpu_checkpoints import any_digest
from ego_assets.schema.errors import BackendUnavailable
from resources.models.backends import BACKENDS, BackendSpec
from resources.models.packages import is_installed
from resources.profiles import BackendConfig, Profile, build_backend

#: Writes a backend's files below a folder of weights and returns its settings.
Maker = Callable[[Path], Mapping[str, Any]]

#: What serves the tasks that another backend uses, where a test names nothing else: no weights.
_USED = {"flow": BackendConfig(backend="dis"), "embeddings": BackendConfig(backend="appearance")}


def maker_of(task: str, backend: str) -> Maker | None:
    """The function that makes a backend's checkpoint; ``None`` for backends that need none."""
    name = f"{__name__}.{task}"
    if importlib.util.find_spec(name) is None:
        return None
    makers: Mapping[str, Maker] = importlib.import_module(name).MAKERS
    return makers.get(backend)


@contextmanager
def nothing_loaded() -> Iterator[None]:
    """Load every network anew, as in a process that has none yet."""
    with mock.patch("resources.models.torch_runtime._shared", weakref.WeakValueDictionary()):
        yield


def small_backend(
    task: str, backend: str, models_dir: Path, *, settings: Mapping[str, Any] | None = None
) -> Any:
    """A backend of the registry on a small checkpoint; skips the test where it cannot run here, and says why.

    Args:
        task: Task of the profile.
        backend: Name used in profiles.
        models_dir: Folder for the weights; may hold those of other backends.
        settings: Settings besides those that the checkpoint needs.
    """
    spec: BackendSpec = BACKENDS[task][backend]
    missing = [package for package in spec.requires if not is_installed(package)]
    if missing:
        pytest.skip(f"{task} backend {backend} needs {', '.join(missing)}: {spec.hint}")
    make = maker_of(task, backend)
    if make is None and spec.from_models_dir:
        raise AssertionError(f"ego_assets_tests/checkpoints/{task}.py makes no checkpoint for {backend}")
    chosen = dict(make(models_dir)) if make is not None else {}
    config = BackendConfig(backend=backend, settings={**chosen, **(settings or {})})
    used = {name: _USED[name] for name in spec.uses}
    profile = Profile(name="small", backends={task: config, **used})
    try:
        with any_digest():
            return build_backend(profile, task, models_dir=models_dir)
    except BackendUnavailable as error:
        if spec.from_models_dir:
            raise
        pytest.skip(str(error))
