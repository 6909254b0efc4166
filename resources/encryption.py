"""Encrypted files: AES-256-GCM in chunks, readable at any place, with the data key kept apart from the content.

Format 1 of an encrypted file, numbers big-endian::

    offset  bytes  what
    0       8      magic, "EGOVAULT"
    8       2      format number, 1
    10      2      zero
    12      4      chunk size C in bytes of clear content
    16      16     id of this file, random
    32      7      nonce prefix, random
    39      1      zero
    40      ...    chunks: C bytes of content, encrypted, and a tag of 16 bytes; the last one has 0 to C bytes

Chunk ``i`` is sealed under the file's own data key with the nonce ``prefix | i (4 bytes) | last (1 byte)`` and the
whole header as associated data: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015). A chunk that was changed, dropped,
repeated, put in another place or taken from another file does not authenticate, nor does a file that was cut off or
continued, because only the last chunk carries the flag. Only an empty file has an empty last chunk.

The data key is not in the file. It lies beside it, wrapped by a key of the vault (:class:`Envelope`), so that
changing the vault's key rewrites a few hundred bytes and no content. Wrapping binds the data key to the name under
which the file lies: a file that takes the place of another one, envelope and all, is told from it.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from ego_assets.schema.errors import EgoAssetsError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAGIC = b"EGOVAULT"
FORMAT = 1
#: Content per chunk. Of 64 KiB to 1 MiB the larger ones decrypt little faster, and a seek decrypts a whole chunk.
CHUNK_BYTES = 256 * 1024
TAG_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 12

_HEADER = struct.Struct(">8sH2xI16s7sx")
HEADER_BYTES = _HEADER.size
_NONCE = struct.Struct(">7sIB")
_PREFIX_BYTES = 7
_MAX_CHUNKS = 1 << 32
#: Larger chunks than any writer makes: a damaged header must not ask for all memory.
_MAX_CHUNK_BYTES = 64 << 20
#: Decrypted chunks that a reader keeps: tracks of a video lie a few chunks apart and are read by turns.
_KEPT_CHUNKS = 8


class DamagedFile(EgoAssetsError):
    """An encrypted file does not authenticate; ``args[0]`` says where, without naming the file."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first bytes of an encrypted file.

    Attributes:
        chunk_bytes: Content per chunk, in bytes.
        file_id: Id of the file, 16 random bytes.
        nonce_prefix: 7 random bytes.
    """

    chunk_bytes: int
    file_id: bytes
    nonce_prefix: bytes

    def __post_init__(self) -> None:
        if not 0 < self.chunk_bytes <= _MAX_CHUNK_BYTES:
            raise ValueError(f"chunk_bytes: expected 1 to {_MAX_CHUNK_BYTES}, got {self.chunk_bytes}")
        if len(self.file_id) != 16 or len(self.nonce_prefix) != _PREFIX_BYTES:
            raise ValueError(
                f"file_id, nonce_prefix: expected 16 and {_PREFIX_BYTES} bytes, got {len(self.file_id)} and "
                f"{len(self.nonce_prefix)}"
            )

    @classmethod
    def new(cls, *, chunk_bytes: int = CHUNK_BYTES) -> Header:
        """The header of a file that is about to be written."""
        return cls(chunk_bytes=chunk_bytes, file_id=os.urandom(16), nonce_prefix=os.urandom(_PREFIX_BYTES))

    @classmethod
    def decode(cls, content: bytes) -> Header:
        """The header that begins ``content``.

        Raises:
            DamagedFile: It is none, or of a format that this version does not know.
        """
        if len(content) < HEADER_BYTES or not is_encrypted(content):
            raise DamagedFile("it has no complete header")
        _, number, chunk_bytes, file_id, nonce_prefix = _HEADER.unpack(content[:HEADER_BYTES])
        if number != FORMAT:
            raise DamagedFile(f"it has format {number}, and this version reads format {FORMAT}")
        try:
            header = cls(chunk_bytes=chunk_bytes, file_id=file_id, nonce_prefix=nonce_prefix)
        except ValueError as error:
            raise DamagedFile(f"its header is damaged ({error})") from None
        if header.encode() != content[:HEADER_BYTES]:
            raise DamagedFile("its header is damaged")
        return header

    def encode(self) -> bytes:
        """The bytes of the header."""
        return _HEADER.pack(MAGIC, FORMAT, self.chunk_bytes, self.file_id, self.nonce_prefix)


def is_encrypted(content: bytes) -> bool:
    """Whether a file that begins with ``content`` is an encrypted one."""
    return content.startswith(MAGIC)


def encrypted_bytes(clear_bytes: int, *, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Size of the encrypted file of ``clear_bytes`` bytes of content."""
    chunks = max(1, -(-clear_bytes // chunk_bytes))
    return HEADER_BYTES + clear_bytes + chunks * TAG_BYTES


class EncryptingWriter:
    """Encrypts what is written to it; nothing is complete before :meth:`finish`.

    Args:
        sink: Takes the encrypted file.
        data_key: 32 random bytes that no other file has.
        header: Header of the new file.
    """

    def __init__(self, sink: BinaryIO, *, data_key: bytes, header: Header) -> None:
        self._sink = sink
        self._sealer = _Sealer(data_key, header)
        self._chunk_bytes = header.chunk_bytes
        # One byte more than a chunk decides that it is not the last one.
        self._pending = bytearray()
        self._index = 0
        _write_all(sink, header.encode())

    def write(self, content: ReadableBuffer) -> None:
        """Take more content."""
        self._pending += content
        start = 0
        with memoryview(self._pending) as view:
            while len(view) - start > self._chunk_bytes:
                with view[start : start + self._chunk_bytes] as chunk:
                    self._seal(chunk, last=False)
                start += self._chunk_bytes
        del self._pending[:start]

    def finish(self) -> None:
        """Write the last chunk; the sink stays open."""
        self._seal(self._pending, last=True)
        self._pending = bytearray()

    def _seal(self, chunk: ReadableBuffer, *, last: bool) -> None:
        _write_all(self._sink, self._sealer.seal(self._index, chunk, last=last))
        self._index += 1


class DecryptingReader(io.RawIOBase):
    """The content of an encrypted file: seekable, decrypted chunk by chunk as it is read, never on disk.

    The last chunk is authenticated at once, and with it the size of the content. Closing closes the source.

    Args:
        source: The encrypted file, seekable.
        data_key: Its data key.
        header: Its header.

    Raises:
        DamagedFile: Now or at any read: the file was changed, cut off, or belongs to another data key.
    """

    def __init__(self, source: BinaryIO, *, data_key: bytes, header: Header) -> None:
        super().__init__()
        self._source = source
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._sealer = _Sealer(data_key, header)
        self._chunk_bytes = header.chunk_bytes
        self._position = 0
        self._payload = payload = source.seek(0, io.SEEK_END) - HEADER_BYTES
        sealed_bytes = header.chunk_bytes + TAG_BYTES
        self._chunks = -(-payload // sealed_bytes)
        last_bytes = payload - (self._chunks - 1) * sealed_bytes - TAG_BYTES
        if payload < TAG_BYTES or last_bytes < 0 or (last_bytes == 0 and self._chunks > 1):
            raise DamagedFile("it was cut off")
        self._size = (self._chunks - 1) * header.chunk_bytes + last_bytes
        self._load(self._chunks - 1, 1)

    @property
    def size(self) -> int:
        """Size of the content in bytes."""
        return self._size

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Place in the content."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place in the content."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in start:
            raise ValueError(f"whence: expected one of {sorted(start)}, got {whence}")
        if start[whence] + offset < 0:
            raise ValueError(f"expected a place from 0 on, got {start[whence] + offset}")
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` from the present place on; 0 at the end."""
        done = 0
        with memoryview(buffer).cast("B") as view:
            while done < len(view) and self._position < self._size:
                index, offset = divmod(self._position, self._chunk_bytes)
                if index not in self._kept:
                    wanted = -(-(offset + len(view) - done) // self._chunk_bytes)
                    self._load(index, min(wanted, _KEPT_CHUNKS, self._chunks - index))
                self._kept.move_to_end(index)
                piece = memoryview(self._kept[index])[offset : offset + len(view) - done]
                view[done : done + len(piece)] = piece
                done += len(piece)
                self._position += len(piece)
        return done

    def close(self) -> None:
        """Close this and the source, and forget what was decrypted."""
        if not self.closed:
            self._kept.clear()
            self._source.close()
        super().close()

    def _load(self, index: int, count: int) -> None:
        """Decrypt chunks that follow one another, read at once: a bucket answers request by request."""
        sealed_bytes = self._chunk_bytes + TAG_BYTES
        start = index * sealed_bytes
        self._source.seek(HEADER_BYTES + start)
        sealed = memoryview(_read_all(self._source, min(count * sealed_bytes, self._payload - start)))
        for number in range(count):
            chunk = sealed[number * sealed_bytes : (number + 1) * sealed_bytes]
            last = index + number == self._chunks - 1
            self._kept[index + number] = self._sealer.open(index + number, chunk, last=last)
        while len(self._kept) > _KEPT_CHUNKS:
            self._kept.popitem(last=False)


@dataclass(frozen=True, kw_only=True)
class WrappedKey:
    """A data key that only a key of the vault can unwrap.

    Attributes:
        file_id: Id in the header of the file that it decrypts, hexadecimal.
        key_id: Which key of the vault wrapped it.
        nonce: Nonce of the wrapping, hexadecimal.
        wrapped: The data key, encrypted, with its tag, hexadecimal.
    """

    file_id: str
    key_id: str
    nonce: str
    wrapped: str


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What lies beside an encrypted file: its wrapped data key.

    Attributes:
        keys: One entry; two while the file is being encrypted anew, because the one before stays readable until it
            is replaced.
        replaces_clear: The file is being encrypted: until that is done, a clear one in its place is expected.
    """

    keys: tuple[WrappedKey, ...] = field(default=())
    replaces_clear: bool = False

    @classmethod
    def decode(cls, content: bytes) -> Envelope:
        """The envelope that a file holds.

        Raises:
            DamagedFile: It holds none, or one of another format.
        """
        try:
            value: Mapping[str, Any] = json.loads(content)
            number = value["format"]
            if number == FORMAT:
                keys = tuple(
                    WrappedKey(**{name: str(text) for name, text in key.items()}) for key in value["keys"]
                )
                return cls(keys=keys, replaces_clear=value["replaces_clear"] is True)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedFile("its key envelope is damaged") from None
        raise DamagedFile(f"its key envelope has format {number}, and this version reads format {FORMAT}")

    def encode(self) -> bytes:
        """The envelope as it is stored."""
        value = {
            "format": FORMAT,
            "keys": [asdict(key) for key in self.keys],
            "replaces_clear": self.replaces_clear,
        }
        return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"

    def key_of(self, file_id: bytes) -> WrappedKey | None:
        """The entry of the file with this id."""
        return next((key for key in self.keys if key.file_id == file_id.hex()), None)


def wrap_key(vault_key: bytes, data_key: bytes, *, key_id: str, file_id: bytes, name: str) -> WrappedKey:
    """Wrap a data key.

    Args:
        vault_key: Key of the vault, 32 bytes.
        data_key: What is wrapped.
        key_id: Which key of the vault it is.
        file_id: Id in the header of the file.
        name: Name under which the file lies; the data key is bound to it.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE_BYTES)
    wrapped = AESGCM(vault_key).encrypt(nonce, data_key, _binding(key_id, file_id, name))
    return WrappedKey(file_id=file_id.hex(), key_id=key_id, nonce=nonce.hex(), wrapped=wrapped.hex())


def unwrap_key(vault_key: bytes, wrapped: WrappedKey, *, name: str) -> bytes:
    """The data key.

    Raises:
        DamagedFile: The entry was changed, or belongs to a file of another name.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        file_id, nonce, content = (
            bytes.fromhex(text) for text in (wrapped.file_id, wrapped.nonce, wrapped.wrapped)
        )
        return AESGCM(vault_key).decrypt(nonce, content, _binding(wrapped.key_id, file_id, name))
    except (InvalidTag, ValueError):
        raise DamagedFile("its key envelope was changed, or is that of another file") from None


def _binding(key_id: str, file_id: bytes, name: str) -> bytes:
    return b"\0".join((b"ego-assets data key", key_id.encode(), file_id.hex().encode(), name.encode()))


class _Sealer:
    """Encrypts and decrypts the chunks of one file."""

    def __init__(self, data_key: bytes, header: Header) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(data_key) != KEY_BYTES:
            raise ValueError(f"data_key: expected {KEY_BYTES} bytes, got {len(data_key)}")
        self._cipher = AESGCM(data_key)
        self._invalid_tag = InvalidTag
        self._prefix = header.nonce_prefix
        self._header = header.encode()

    def seal(self, index: int, chunk: ReadableBuffer, *, last: bool) -> bytes:
        if index >= _MAX_CHUNKS:
            raise ValueError(f"expected at most {_MAX_CHUNKS} chunks; a nonce must not be used twice")
        return self._cipher.encrypt(self._nonce(index, last), bytes(chunk), self._header)

    def open(self, index: int, sealed: ReadableBuffer, *, last: bool) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(index, last), bytes(sealed), self._header)
        except self._invalid_tag:
            raise DamagedFile(f"chunk {index} of its content does not authenticate") from None

    def _nonce(self, index: int, last: bool) -> bytes:
        return _NONCE.pack(self._prefix, index, last)


def _write_all(sink: BinaryIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[sink.write(view) :]


def _read_all(source: BinaryIO, wanted: int) -> bytes:
    """``wanted`` bytes, or fewer at the end of the file; what is missing does not authenticate."""
    content = source.read(wanted)
    while content and len(content) < wanted and (more := source.read(wanted - len(content))):
        content += more
    return content or b""
