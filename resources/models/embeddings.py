"""Embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ego_assets.labels.appearance import SPACE, describe
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import EMBEDDING_DIMENSIONS
from ego_assets.schema.errors import BackendUnavailable


class AppearanceEmbedder:
    """The appearance descriptor of :mod:`ego_assets.labels.appearance`: no weights, and no text side."""

    @property
    def info(self) -> BackendInfo:
        """What runs."""
        return BackendInfo(task="embeddings", backend="appearance", model=SPACE)

    @property
    def space(self) -> str:
        """Name of the space, with its version."""
        return SPACE

    @property
    def embeds_text(self) -> bool:
        """Never: the descriptor knows no words."""
        return False

    def embed_images(self, images: Sequence[BgrImage]) -> npt.NDArray[np.float32]:
        """``float32 [N, 768]``, one unit vector per picture.

        Raises:
            ValueError: A picture is not ``uint8 [height, width, 3]`` with at least one pixel.
        """
        vectors = np.empty((len(images), EMBEDDING_DIMENSIONS), dtype=np.float32)
        for position, image in enumerate(images):
            vectors[position] = describe(image)
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Not possible.

        Raises:
            BackendUnavailable: Always.
        """
        raise BackendUnavailable(
            "The appearance descriptor has no text side: name an embeddings backend that has one in the profile, such "
            "as a CLIP model."
        )
