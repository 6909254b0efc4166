from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.labels.embeddings import (
    ClipEmbedding,
    embed_frames,
    embedding_table,
    normalised_mean,
    read_embedding,
    uniform_frames,
)
from ego_assets.schema.detections import BackendInfo, BgrImage
from ego_assets.schema.embeddings import Embedding
from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.frames import ClipFrame
from ego_assets.schema.timeline import Timeline

CLIP_ID = "3b241101-e2bb-4255-8caf-4136c566a962"
Vectors = npt.NDArray[np.float32]


class OneAxisPerBrightness:
    """Gives each picture the unit vector along the axis of its first pixel's value."""

    info = BackendInfo(task="embeddings", backend="test", model="test")
    space = "test-v1"
    embeds_text = False

    def embed_images(self, images: Sequence[BgrImage]) -> Vectors:
        vectors = np.zeros((len(images), 768), np.float32)
        for row, image in enumerate(images):
            vectors[row, int(image[0, 0, 0])] = 1
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise AssertionError("no text here")


def timeline(stamps_ns: Sequence[int]) -> Timeline:
    return Timeline(
        timestamps_ns=np.array(stamps_ns, dtype=np.int64),
        frame_rate=Fraction(30),
        time_base=Fraction(1, 15360),
    )


def frames(values: Sequence[int]) -> list[ClipFrame]:
    return [
        ClipFrame(10 * position, 1000 * position, np.full((4, 6, 3), value, np.uint8))
        for position, value in enumerate(values)
    ]


def test_frames_lie_in_the_middle_of_equal_stretches() -> None:
    ten_seconds = timeline([second * 1_000_000_000 for second in range(11)])
    assert uniform_frames(ten_seconds).tolist() == [1, 3, 5, 7, 9]


def test_time_counts_and_not_the_number_of_frames() -> None:
    # A hundred frames in the first second, then one every second.
    stamps = [*range(0, 1_000_000_000, 10_000_000), *(s * 1_000_000_000 for s in range(1, 11))]
    assert uniform_frames(timeline(stamps)).tolist() == [100, 102, 104, 106, 108]


@given(
    gaps=st.lists(st.integers(1, 10**9), max_size=40),
    start=st.integers(0, 10**12),
    count=st.integers(1, 7),
)
def test_any_clip_gives_its_own_frames(gaps: list[int], start: int, count: int) -> None:
    stamps = [start + int(offset) for offset in np.cumsum([0, *gaps])]
    chosen = uniform_frames(timeline(stamps), count=count)
    assert 1 <= len(chosen) <= min(count, len(stamps))
    assert chosen.tolist() == sorted(set(chosen.tolist())) and chosen[-1] < len(stamps)


def test_an_empty_timeline_gives_none() -> None:
    assert uniform_frames(timeline([])).tolist() == []


def test_the_clip_vector_is_the_normalised_mean() -> None:
    found = embed_frames(OneAxisPerBrightness(), frames([5, 5, 9]))
    assert found.space == "test-v1"
    assert found.frame_index.tolist() == [0, 10, 20] and found.timestamps_ns.tolist() == [0, 1000, 2000]
    expected = np.zeros(768)
    expected[[5, 9]] = np.array([2, 1]) / np.sqrt(5)
    assert np.allclose(found.vector, expected, atol=1e-6)
    assert found.embedding.space == "test-v1"


def test_vectors_that_cancel_out_and_no_vectors_give_zeros_that_are_no_embedding() -> None:
    opposite = np.zeros((2, 768), np.float32)
    opposite[:, 0] = 1, -1
    assert not normalised_mean(opposite).any()
    nothing = embed_frames(OneAxisPerBrightness(), [])
    assert nothing.frame_vectors.shape == (0, 768) and not nothing.vector.any()
    with pytest.raises(ValueError, match="length 0"):
        _ = nothing.embedding


@pytest.mark.parametrize("values", [[], [3], [1, 2, 3, 4, 5]])
def test_the_table_reads_back_bit_by_bit(values: list[int]) -> None:
    rng = np.random.default_rng(0)
    made = ClipEmbedding(
        space="test-v1",
        frame_index=np.array(values, dtype=np.int64),
        timestamps_ns=np.array(values, dtype=np.int64) * 7,
        frame_vectors=rng.normal(size=(len(values), 768)).astype(np.float32),
        vector=rng.normal(size=768).astype(np.float32),
    )
    read = read_embedding(embedding_table(CLIP_ID, made))
    assert read.space == made.space
    for name in ("frame_index", "timestamps_ns", "frame_vectors", "vector"):
        assert np.array_equal(getattr(read, name), getattr(made, name)), name


def test_the_table_is_what_the_delivery_promises() -> None:
    data = embedding_table(CLIP_ID, embed_frames(OneAxisPerBrightness(), frames([5, 9])))
    table = pq.read_table(io.BytesIO(data))
    assert table.column_names == ["clip_id", "kind", "frame_index", "timestamp_ns", "space", "vector"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 768)
    rows = table.to_pylist()
    assert [row["kind"] for row in rows] == ["clip", "frame", "frame"]
    assert [row["frame_index"] for row in rows] == [None, 0, 10]
    assert {(row["clip_id"], row["space"]) for row in rows} == {(CLIP_ID, "test-v1")}


def other_order() -> bytes:
    data = embedding_table(CLIP_ID, embed_frames(OneAxisPerBrightness(), frames([5, 9])))
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(data)).slice(1), sink)
    return sink.getvalue()


def other_columns() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"kind": ["clip"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("data", [b"", b"no parquet", other_order(), other_columns()])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactCorrupted, match=r"embedding\.parquet"):
        read_embedding(data)


def test_a_backend_that_gives_something_else_is_refused() -> None:
    class Short(OneAxisPerBrightness):
        def embed_images(self, images: Sequence[BgrImage]) -> Vectors:
            return np.ones((len(images), 512), np.float32)

    with pytest.raises(ValueError, match="expected float32"):
        embed_frames(Short(), frames([1]))


AXIS = np.eye(1, 768, dtype=np.float32)[0]


@pytest.mark.parametrize(
    ("space", "vector", "message"),
    [
        ("", AXIS, "space"),
        ("s", AXIS[:767], r"float32 \[768\]"),
        ("s", AXIS.astype(np.float64), "float64"),
        ("s", np.ones(768, np.float32), "length 27"),
        ("s", np.full(768, np.nan, np.float32), "length nan"),
        ("s", np.zeros(768, np.float32), "length 0"),
    ],
)
def test_an_embedding_is_a_named_unit_vector(space: str, vector: Vectors, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embedding(space, vector)
