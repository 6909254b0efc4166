"""Embeddings and the protocol of the backends that compute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.detections import BackendInfo, BgrImage

#: Length of every embedding (collection guide, step 4: CLIP ViT-L/14).
EMBEDDING_DIMENSIONS = 768


@runtime_checkable
class Embedder(Protocol):
    """Turns pictures, and where it can sentences, into unit vectors that can be compared."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        ...

    @property
    def space(self) -> str:
        """Name of the space, with its version: vectors of different spaces are never compared."""
        ...

    @property
    def embeds_text(self) -> bool:
        """Whether :meth:`embed_texts` works, in the same space."""
        ...

    def embed_images(self, images: Sequence[BgrImage]) -> npt.NDArray[np.float32]:
        """``float32 [N, 768]``, one unit vector per picture."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """``float32 [N, 768]``, one unit vector per text.

        Raises:
            BackendUnavailable: The backend has no text side.
        """
        ...
