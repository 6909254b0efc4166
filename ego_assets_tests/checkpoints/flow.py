"""RAFT of its true size with random weights, under the names of the published files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.models import registry

#: Few, so that random weights do not lead the flow anywhere far.
ITERATIONS = 2


def make_raft(models_dir: Path, *, size: str = "small") -> Mapping[str, Any]:
    """A checkpoint as torchvision saves them: the bare ``state_dict``.

    Args:
        models_dir: Folder of the weights.
        size: ``small`` or ``large``.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    from resources.models.raft_network import Raft

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = Raft(size).raft
    card = registry.RAFT_SMALL if size == "small" else registry.RAFT_LARGE
    path = models_dir / card.file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return {"checkpoint": size, "iterations": ITERATIONS}


MAKERS = {"raft": make_raft}
