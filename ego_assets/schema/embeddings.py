"""Embeddings and the protocol of the backends that compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ego_assets.schema.arrays import read_only
from ego_assets.schema.detections import BackendInfo, BgrImage

#: Name of the layer that holds a clip's embedding.
EMBEDDINGS_LAYER = "embeddings"

#: Length of every embedding (collection guide, step 4: CLIP ViT-L/14).
EMBEDDING_DIMENSIONS = 768

#: Frames, evenly spread over a clip, whose vectors are averaged (collection guide, step 4).
EMBEDDED_FRAMES = 5

#: How far the length of a unit vector may be from 1: rounding of 768 single-precision numbers stays far below.
UNIT_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One unit vector and the space that it can be compared in.

    Attributes:
        space: Name of the space, with its version.
        vector: ``float32 [768]``, finite, of unit length.
    """

    space: str
    vector: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("space: expected a name, got none")
        vector = self.vector
        if vector.dtype != np.float32 or vector.shape != (EMBEDDING_DIMENSIONS,):
            raise ValueError(
                f"vector: expected float32 [{EMBEDDING_DIMENSIONS}], got {vector.dtype} {list(vector.shape)}"
            )
        norm = float(np.linalg.norm(vector))
        # Not a number fails the comparison as well.
        if not abs(norm - 1) <= UNIT_NORM_TOLERANCE:
            raise ValueError(f"vector: expected finite values and length 1, got length {norm:.4g}")
        object.__setattr__(self, "vector", read_only(vector))


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
