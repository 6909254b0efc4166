"""Encrypted files read as the content that was written, from any place, or they do not read at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.encryption import (
    CHUNK_BYTES,
    HEADER_BYTES,
    TAG_BYTES,
    DamagedFile,
    DecryptingReader,
    EncryptingWriter,
    Envelope,
    Header,
    WrappedKey,
    encrypted_bytes,
    is_encrypted,
    unwrap_key,
    wrap_key,
)

KEY = bytes(range(32))


def encrypted(
    content: bytes, *, chunk_bytes: int = CHUNK_BYTES, pieces: int = 1 << 20, key: bytes = KEY
) -> bytes:
    sink = io.BytesIO()
    writer = EncryptingWriter(sink, data_key=key, header=Header.new(chunk_bytes=chunk_bytes))
    for start in range(0, len(content), pieces):
        writer.write(content[start : start + pieces])
    writer.finish()
    return sink.getvalue()


def reader(stored: bytes, *, key: bytes = KEY) -> DecryptingReader:
    return DecryptingReader(io.BytesIO(stored), data_key=key, header=Header.decode(stored))


def decrypted(stored: bytes, *, key: bytes = KEY) -> bytes:
    return reader(stored, key=key).read()


@given(
    content=st.binary(max_size=300), chunk_bytes=st.integers(1, 64), pieces=st.integers(1, 97), data=st.data()
)
def test_any_reads_and_seeks_give_the_plain_bytes(
    content: bytes, chunk_bytes: int, pieces: int, data: st.DataObject
) -> None:
    stored = encrypted(content, chunk_bytes=chunk_bytes, pieces=pieces)
    assert len(stored) == encrypted_bytes(len(content), chunk_bytes=chunk_bytes)
    plain, file = io.BytesIO(content), reader(stored)
    assert file.size == len(content) and file.readable() and file.seekable() and not file.writable()
    buffered = io.BufferedReader(reader(stored), buffer_size=16)
    steps = st.tuples(st.sampled_from([io.SEEK_SET, io.SEEK_END, None]), st.integers(-320, 320))
    for whence, amount in data.draw(st.lists(steps, max_size=20)):
        if whence is None:
            expected = plain.read(amount)
            assert file.read(amount) == buffered.read(max(amount, -1)) == expected
        else:
            place = max(0, amount + (len(content) if whence == io.SEEK_END else 0))
            plain.seek(place)
            offset = place - len(content) if whence == io.SEEK_END else place
            assert file.seek(offset, whence) == buffered.seek(offset, whence) == place
        assert file.tell() == buffered.tell() == plain.tell()


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 3 * 2**18, 5_000_000])
def test_sizes_around_a_chunk(size: int) -> None:
    content = os.urandom(size)
    stored = encrypted(content)
    assert decrypted(stored) == content
    assert size < 16 or content[:16] not in stored


@given(content=st.binary(max_size=100), chunk_bytes=st.integers(1, 40), data=st.data())
def test_any_changed_bit_is_detected(content: bytes, chunk_bytes: int, data: st.DataObject) -> None:
    stored = bytearray(encrypted(content, chunk_bytes=chunk_bytes))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedFile):
        decrypted(bytes(stored))


@given(content=st.binary(max_size=100), chunk_bytes=st.integers(1, 40), data=st.data())
def test_any_other_length_is_detected_at_once(content: bytes, chunk_bytes: int, data: st.DataObject) -> None:
    stored = encrypted(content, chunk_bytes=chunk_bytes)
    shorter = stored[: data.draw(st.integers(0, len(stored) - 1))]
    longer = stored + data.draw(st.binary(min_size=1, max_size=3 * (chunk_bytes + TAG_BYTES)))
    for wrong in (shorter, longer):
        with pytest.raises(DamagedFile):
            reader(wrong)


def test_chunks_cannot_be_moved() -> None:
    content = os.urandom(64)
    stored, other = encrypted(content, chunk_bytes=16), encrypted(content, chunk_bytes=16)

    def chunks(file: bytes) -> list[bytes]:
        size = 16 + TAG_BYTES
        return [file[at : at + size] for at in range(HEADER_BYTES, len(file), size)]

    head, (a, b, c, d) = stored[:HEADER_BYTES], chunks(stored)
    assert decrypted(head + a + b + c + d) == content
    for wrong in ((b, a, c, d), (a, a, c, d), (a, c, d), (b, c, d), (a, b, c), (a, b, d, c), (a, b, c, d, d)):
        with pytest.raises(DamagedFile):
            decrypted(head + b"".join(wrong))
    # The same key and the same place, but another file.
    with pytest.raises(DamagedFile):
        decrypted(head + a + chunks(other)[1] + c + d)
    with pytest.raises(DamagedFile):
        decrypted(other[:HEADER_BYTES] + a + b + c + d)
    with pytest.raises(DamagedFile):
        decrypted(stored, key=bytes(32))


def test_equal_contents_are_told_apart() -> None:
    assert encrypted(b"same" * 100)[HEADER_BYTES:] != encrypted(b"same" * 100)[HEADER_BYTES:]


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [(0, b"mp4", "no complete header"), (8, b"\0\2", "format 2"), (12, b"\xff\xff\xff\xff", "chunk_bytes")],
)
def test_headers_that_this_version_cannot_read(at: int, value: bytes, problem: str) -> None:
    stored = bytearray(encrypted(b"x"))
    stored[at : at + len(value)] = value
    with pytest.raises(DamagedFile, match=problem):
        Header.decode(bytes(stored))


def test_a_reader_closes_its_source_and_refuses_nonsense() -> None:
    source = io.BytesIO(encrypted(b"content"))
    file = DecryptingReader(source, data_key=KEY, header=Header.decode(source.getvalue()))
    for offset, whence in ((-1, io.SEEK_SET), (-8, io.SEEK_END), (0, 9)):
        with pytest.raises(ValueError, match="expected"):
            file.seek(offset, whence)
    file.close()
    assert source.closed
    with pytest.raises(ValueError, match="closed"):
        file.read()
    with pytest.raises(ValueError, match="32 bytes"):
        EncryptingWriter(io.BytesIO(), data_key=b"short", header=Header.new())


def test_a_wrapped_key_belongs_to_one_file_and_one_name() -> None:
    file_id = bytes(16)
    wrapped = wrap_key(KEY, b"d" * 32, key_id="k", file_id=file_id, name="originals/a")
    assert unwrap_key(KEY, wrapped, name="originals/a") == b"d" * 32
    changed = [
        WrappedKey(**{**vars(wrapped), name: value})
        for name, value in (
            ("file_id", "01" * 16),
            ("key_id", "other"),
            ("nonce", "00" * 12),
            ("wrapped", "zz"),
        )
    ]
    for entry, name in [(wrapped, "originals/b"), *((entry, "originals/a") for entry in changed)]:
        with pytest.raises(DamagedFile, match="key envelope"):
            unwrap_key(KEY, entry, name=name)
    with pytest.raises(DamagedFile):
        unwrap_key(bytes(32), wrapped, name="originals/a")


def test_envelopes_are_read_as_written() -> None:
    wrapped = wrap_key(KEY, b"d" * 32, key_id="k", file_id=bytes(16), name="n")
    envelope = Envelope(keys=(wrapped,), replaces_clear=True)
    assert Envelope.decode(envelope.encode()) == envelope
    assert envelope.key_of(bytes(16)) == wrapped and envelope.key_of(bytes(15) + b"x") is None
    assert b"d" * 32 not in envelope.encode()
    for content in (
        b"",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "keys": [{"a": 1}], "replaces_clear": 0}',
    ):
        with pytest.raises(DamagedFile, match="damaged"):
            Envelope.decode(content)
    with pytest.raises(DamagedFile, match="format 2"):
        Envelope.decode(b'{"format": 2}')


#: The text "content" in chunks of 4 bytes, as format 1 was first written.
FORMAT_1 = bytes.fromhex(
    "45474f5641554c540001000000000004010101010101010101010101010101010202020202020200"
    "b9d03fbf91a45ae7862e6e0ca659128a59b41ae78c512c50fca4f4f0d3f1be0267478997489e62"
)


def test_a_file_of_format_1_stays_readable_and_is_written_so() -> None:
    assert is_encrypted(FORMAT_1)
    assert Header.decode(FORMAT_1) == Header(chunk_bytes=4, file_id=b"\1" * 16, nonce_prefix=b"\2" * 7)
    assert decrypted(FORMAT_1) == b"content"
    sink = io.BytesIO()
    writer = EncryptingWriter(sink, data_key=KEY, header=Header.decode(FORMAT_1))
    writer.write(b"content")
    writer.finish()
    assert sink.getvalue() == FORMAT_1


def test_the_library_is_loaded_only_when_something_is_encrypted() -> None:
    code = "import resources.vault, resources.keys, sys; print('cryptography' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert out.stdout.strip() == "False"
