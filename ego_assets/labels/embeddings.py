"""Clip embeddings: five frames, their vectors, and the normalised mean, as a Parquet table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.schema.arrays import read_only
from ego_assets.schema.embeddings import EMBEDDED_FRAMES, EMBEDDING_DIMENSIONS, Embedder, Embedding
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.timeline import Timeline

#: Values of ``kind`` in the table.
CLIP, FRAME = "clip", "frame"

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64()),
        pa.field("timestamp_ns", pa.int64()),
        pa.field("space", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), EMBEDDING_DIMENSIONS), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipEmbedding:
    """The vector of a clip and those of the frames it was made from.

    Whether the values can be used is for the gate to say: here they may be anything, so that it can be judged.

    Attributes:
        space: Name of the space.
        frame_index: ``int64 [N]``, the frames.
        timestamps_ns: ``int64 [N]``, their presentation times.
        frame_vectors: ``float32 [N, 768]``.
        vector: ``float32 [768]``, their normalised mean; zeros where there is none.
    """

    space: str
    frame_index: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    frame_vectors: npt.NDArray[np.float32]
    vector: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.frame_index)
        shapes = {
            "frame_index": (count,),
            "timestamps_ns": (count,),
            "frame_vectors": (count, EMBEDDING_DIMENSIONS),
            "vector": (EMBEDDING_DIMENSIONS,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            dtype = np.float32 if name.endswith(("vector", "vectors")) else np.int64
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name}: expected {np.dtype(dtype)} {list(shape)}, got {array.dtype} {list(array.shape)}"
                )
            object.__setattr__(self, name, read_only(array))

    @property
    def embedding(self) -> Embedding:
        """The clip's vector with its space.

        Raises:
            ValueError: The vector is no unit vector.
        """
        return Embedding(self.space, self.vector)


def uniform_frames(timeline: Timeline, *, count: int = EMBEDDED_FRAMES) -> npt.NDArray[np.int64]:
    """The frames in the middle of ``count`` equal stretches of time: ``int64``, ascending.

    The middles lie away from both ends, which are often black, or the camera being switched on; and a clip that is cut
    at an end moves them least. A clip of fewer frames gives those it has.
    """
    if timeline.frame_count == 0:
        return np.zeros(0, dtype=np.int64)
    first, last = int(timeline.timestamps_ns[0]), int(timeline.timestamps_ns[-1])
    middles = [first + (last - first) * (2 * part + 1) // (2 * count) for part in range(count)]
    return timeline.nearest_frames(np.array(middles, dtype=np.int64))


def embed_frames(embedder: Embedder, frames: Sequence[ClipFrame]) -> ClipEmbedding:
    """The vectors of some frames and their normalised mean.

    Args:
        embedder: The backend.
        frames: The frames, in order; none gives a clip vector of zeros.

    Raises:
        ValueError: The backend gave something else than one vector of 768 numbers for each frame.
    """
    vectors = embedder.embed_images([frame.image for frame in frames])
    return ClipEmbedding(
        space=embedder.space,
        frame_index=np.array([frame.frame_index for frame in frames], dtype=np.int64),
        timestamps_ns=np.array([frame.timestamp_ns for frame in frames], dtype=np.int64),
        frame_vectors=vectors,
        vector=normalised_mean(vectors),
    )


def normalised_mean(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of ``float32 [N, 768]`` scaled to unit length; zeros where it is no direction."""
    if not len(vectors):
        return np.zeros(vectors.shape[1], dtype=np.float32)
    mean = vectors.mean(axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(mean))
    return np.asarray(mean / norm if norm > 0 else mean, dtype=np.float32)


def embedding_table(clip_id: str, embedding: ClipEmbedding) -> bytes:
    """Parquet: one row of kind ``clip`` without frame, then one of kind ``frame`` for each frame."""
    vectors = np.concatenate([embedding.vector[None], embedding.frame_vectors]).reshape(-1)
    rows = len(embedding.frame_index) + 1
    table = pa.table(
        {
            "clip_id": [clip_id] * rows,
            "kind": [CLIP] + [FRAME] * (rows - 1),
            "frame_index": [None, *embedding.frame_index.tolist()],
            "timestamp_ns": [None, *embedding.timestamps_ns.tolist()],
            "space": [embedding.space] * rows,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), EMBEDDING_DIMENSIONS),
        },
        schema=SCHEMA,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_embedding(data: bytes) -> ClipEmbedding:
    """What :func:`embedding_table` wrote.

    Raises:
        ArtifactCorrupted: It is something else.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        if not table.schema.equals(SCHEMA):
            raise ValueError(f"expected columns {SCHEMA.names}, got {table.schema.names} or other types")
        if table.num_rows == 0 or table["kind"].to_pylist() != [CLIP] + [FRAME] * (table.num_rows - 1):
            raise ValueError("expected one row of kind clip, then those of the frames")
        vectors = np.asarray(table["vector"].combine_chunks().flatten().to_numpy(), dtype=np.float32)
        vectors = vectors.reshape(-1, EMBEDDING_DIMENSIONS)
        frames = table.slice(1)
        return ClipEmbedding(
            space=table["space"][0].as_py(),
            frame_index=frames["frame_index"].to_numpy(),
            timestamps_ns=frames["timestamp_ns"].to_numpy(),
            frame_vectors=vectors[1:],
            vector=vectors[0],
        )
    # Arrow's errors are subclasses of these.
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ArtifactCorrupted(
            f"embedding.parquet cannot be read ({error}): make the layer again with `ego-assets run --layer "
            "embeddings --again`."
        ) from error
