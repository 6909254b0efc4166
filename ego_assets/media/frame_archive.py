"""Per-frame files in one uncompressed tar with an index, so that a layer is one object in the store.

The archive is plain ustar, readable by ``tar`` and WebDataset. The index is a Parquet table beside it:
``frame_index``, ``timestamp_ns``, ``name``, ``offset`` and ``size`` of each member's data, so that a
member is one range read.
"""

from __future__ import annotations

import io
import os
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ego_assets.media.source import MediaSource, open_binary
from ego_assets.schema.arrays import read_only
from ego_assets.schema.errors import ArtifactCorrupted

#: Members of a tar begin at multiples of this many bytes, and a tar ends at one of this many.
TAR_BLOCK = 512
TAR_RECORD = 20 * TAR_BLOCK
_WRITE_BUFFER_BYTES = 1 << 20
#: Below what systems take in one call (IOV_MAX, 1024 on Linux).
_MAX_PIECES = 900
_MAX_MEMBER_BYTES = 8**11 - 1
_EXTENSION = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")

INDEX_SCHEMA = pa.schema(
    [
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp_ns", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)


def member_name(frame_index: int, extension: str) -> str:
    """Name of a frame's file: ``frame_000042.jpg``."""
    return f"frame_{frame_index:06d}.{extension}"


@dataclass(frozen=True, slots=True)
class FrameArchiveEntry:
    """Where one frame's file lies.

    Attributes:
        frame_index: Frame it belongs to.
        timestamp_ns: Presentation time of that frame.
        name: Member name.
        offset: First byte of the data in the archive.
        size: Number of bytes.
    """

    frame_index: int
    timestamp_ns: int
    name: str
    offset: int
    size: int


class FrameArchiveWriter:
    """Streams members into a tar and writes the index on leaving the ``with`` block.

    Headers are fixed (no time, owner or host), so equal input gives equal bytes. An exception inside the
    block removes both files.

    Args:
        path: Archive to create or replace.
        index_path: Parquet index to create or replace.
    """

    def __init__(self, path: str | os.PathLike[str], index_path: str | os.PathLike[str]) -> None:
        self._path, self._index_path = Path(path), Path(index_path)
        self._file = self._path.open("wb", buffering=0)
        #: What is written next, kept apart: gathering it in one buffer would copy every frame once more.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._position = 0
        self._frame_indices, self._timestamps_ns = array("q"), array("q")
        self._offsets, self._sizes = array("q"), array("q")
        self._names: list[str] = []

    def add(self, frame_index: int, timestamp_ns: int, data: bytes, *, extension: str) -> None:
        """Append the file of one frame.

        Args:
            frame_index: Frame it belongs to; higher than any before.
            timestamp_ns: Presentation time of that frame.
            data: Content, below 8 GiB.
            extension: Extension without the leading dot, such as ``jpg`` or ``depth.png``.

        Raises:
            ValueError: ``frame_index`` does not ascend, or ``extension`` or ``data`` cannot be stored.
        """
        last = self._frame_indices[-1] if self._frame_indices else -1
        if frame_index <= last:
            raise ValueError(f"frame_index: expected more than {last}, got {frame_index}")
        if not _EXTENSION.fullmatch(extension):
            raise ValueError(f"extension: expected lower-case letters and digits, got {extension!r}")
        size = len(data)
        if size > _MAX_MEMBER_BYTES:
            raise ValueError(f"data: expected at most {_MAX_MEMBER_BYTES} bytes, got {size}")
        name = member_name(frame_index, extension)
        padding = -size % TAR_BLOCK
        self._write(tar_header(name, size), data, bytes(padding))
        self._frame_indices.append(frame_index)
        self._timestamps_ns.append(timestamp_ns)
        self._names.append(name)
        self._offsets.append(self._position + TAR_BLOCK)
        self._sizes.append(size)
        self._position += TAR_BLOCK + size + padding

    def close(self) -> None:
        """Finish the archive and write the index."""
        end = self._position + 2 * TAR_BLOCK
        self._write(bytes(2 * TAR_BLOCK + -end % TAR_RECORD))
        self._flush()
        self._file.close()
        columns = [
            np.array(self._frame_indices, np.int64),
            np.array(self._timestamps_ns, np.int64),
            self._names,
            np.array(self._offsets, np.int64),
            np.array(self._sizes, np.int64),
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA), self._index_path)

    def _write(self, *pieces: bytes) -> None:
        self._pending += pieces
        self._pending_bytes += sum(map(len, pieces))
        if self._pending_bytes >= _WRITE_BUFFER_BYTES or len(self._pending) >= _MAX_PIECES:
            self._flush()

    def _flush(self) -> None:
        written = os.writev(self._file.fileno(), self._pending)
        if written < self._pending_bytes:
            # The system took a part of it only; what is left says why.
            left = memoryview(b"".join(self._pending))[written:]
            while left:
                left = left[self._file.write(left) :]
        self._pending.clear()
        self._pending_bytes = 0

    def discard(self) -> None:
        """Give both files up and remove them."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._index_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self.discard()
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise


@dataclass(frozen=True, eq=False)
class FrameArchiveIndex:
    """The members of a frame archive, by ascending frame index.

    Attributes:
        frame_indices: ``int64 [N]``.
        timestamps_ns: ``int64 [N]``.
        names: Member names.
        offsets: ``int64 [N]``, first byte of each member's data.
        sizes: ``int64 [N]``, bytes of each member's data.
    """

    frame_indices: npt.NDArray[np.int64]
    timestamps_ns: npt.NDArray[np.int64]
    names: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        for field in ("frame_indices", "timestamps_ns", "offsets", "sizes"):
            values = getattr(self, field)
            if values.shape != (len(self.names),) or values.dtype != np.int64:
                raise ValueError(
                    f"{field}: expected int64 [{len(self.names)}], got {values.dtype} {list(values.shape)}"
                )
            object.__setattr__(self, field, read_only(values))
        if np.any(np.diff(self.frame_indices) <= 0):
            raise ValueError("frame_indices: expected ascending indices, got a repetition or a step back")

    @classmethod
    def read(cls, source: MediaSource) -> FrameArchiveIndex:
        """Read an index from a local path or a seekable binary file object.

        Raises:
            ArtifactCorrupted: The file is not such an index.
        """
        try:
            with open_binary(source) as file:
                table = pq.read_table(file, schema=INDEX_SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowKeyError) as error:
            raise ArtifactCorrupted(
                f"The index of a frame archive cannot be read ({error}): make the layer again."
            ) from error
        column = {name: table[name] for name in INDEX_SCHEMA.names}
        return cls(
            frame_indices=column["frame_index"].to_numpy(),
            timestamps_ns=column["timestamp_ns"].to_numpy(),
            names=tuple(column["name"].to_pylist()),
            offsets=column["offset"].to_numpy(),
            sizes=column["size"].to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[FrameArchiveEntry]:
        columns = (self.frame_indices.tolist(), self.timestamps_ns.tolist(), self.names)
        return map(FrameArchiveEntry, *columns, self.offsets.tolist(), self.sizes.tolist())

    def entry(self, frame_index: int) -> FrameArchiveEntry:
        """The member of a frame; ``KeyError`` where the archive has none."""
        position = self.position(frame_index)
        if position is None:
            raise KeyError(f"the archive has no frame {frame_index}")
        return self._at(position)

    def position(self, frame_index: int) -> int | None:
        """Place of a frame among the members, or ``None`` where the archive has none."""
        position = int(np.searchsorted(self.frame_indices, frame_index))
        present = position < len(self) and self.frame_indices[position] == frame_index
        return position if present else None

    def _at(self, position: int) -> FrameArchiveEntry:
        return FrameArchiveEntry(
            frame_index=int(self.frame_indices[position]),
            timestamp_ns=int(self.timestamps_ns[position]),
            name=self.names[position],
            offset=int(self.offsets[position]),
            size=int(self.sizes[position]),
        )


def read_member(source: BinaryIO | Callable[[int, int], bytes], entry: FrameArchiveEntry) -> bytes:
    """Content of one member of an archive: an open file, or a function that reads a range of it.

    Raises:
        ArtifactCorrupted: The archive ends before the member does.
    """
    if callable(source):
        data = source(entry.offset, entry.size)
    elif isinstance(source, io.BufferedReader) and isinstance(source.raw, io.FileIO):
        # Without the buffer of the file, which every step to another member throws away.
        data = os.pread(source.fileno(), entry.size, entry.offset)
    else:
        source.seek(entry.offset)
        data = source.read(entry.size)
    if len(data) != entry.size:
        raise ArtifactCorrupted(
            f"{entry.name}: expected {entry.size} bytes in the frame archive, got {len(data)}. "
            "The archive was cut off: make the layer again."
        )
    return data


class FrameArchive:
    """Random access to an archive.

    Iterating yields the entries in frame order.

    Args:
        source: The open archive, which the caller closes; or a function of the first byte and the number of bytes, by
            which each member is one range read without opening anything.
        index: Its index.
    """

    def __init__(self, source: BinaryIO | Callable[[int, int], bytes], index: FrameArchiveIndex) -> None:
        self._source = source
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[FrameArchiveEntry]:
        return iter(self.index)

    def __contains__(self, frame_index: object) -> bool:
        return isinstance(frame_index, int) and self.index.position(frame_index) is not None

    def read(self, frame_index: int) -> bytes:
        """Content of a frame's file.

        Raises:
            KeyError: The archive has no such frame.
            ArtifactCorrupted: The archive is cut off.
        """
        return read_member(self._source, self.index.entry(frame_index))


def tar_header(name: str, size: int) -> bytes:
    """A ustar header of a regular file with mode 0644 (POSIX.1-1988), its checksum included."""
    encoded, octal = name.encode("ascii"), b"%011o" % size
    checksum = _HEADER_SUM + sum(encoded) + sum(octal)
    return (
        encoded.ljust(100, b"\0") + _HEADER_OWNER + octal + _HEADER_TIME + b"%06o\0 " % checksum + _HEADER_END
    )


_HEADER_OWNER = b"0000644\0" + b"0000000\0" * 2
_HEADER_TIME = b"\0" + b"0" * 11 + b"\0"
_HEADER_END = (b"0" + bytes(100) + b"ustar\x0000").ljust(TAR_BLOCK - 156, b"\0")
#: Of the fields that are the same in all headers; the checksum itself counts as spaces.
_HEADER_SUM = sum(_HEADER_OWNER) + sum(_HEADER_TIME) + sum(_HEADER_END) + 8 * ord(" ")
