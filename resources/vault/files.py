"""The vault's files, encrypted: written, read, encrypted afterwards, given another key or another name.

Beside the file ``NAME`` lies its wrapped data key, ``NAME.key.json`` (:class:`resources.encryption.Envelope`). An
envelope is written before the file that needs it, and names the file by its id, so that at every instant the file
that lies there can be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ego_assets.schema.errors import EgoAssetsError, TransientError, UploadRejected
from resources.encryption import (
    HEADER_BYTES,
    KEY_BYTES,
    MAGIC,
    DamagedFile,
    DecryptingReader,
    EncryptingWriter,
    Envelope,
    Header,
    WrappedKey,
    is_encrypted,
    unwrap_key,
    wrap_key,
)
from resources.keys import KeyMissing, VaultKey, VaultKeys
from resources.vault.places import VaultPlace, created

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Describes the vault: its format, and the ids of the keys that were ever used in it.
DESCRIPTION_KEY = "vault.json"
ENVELOPE_SUFFIX = ".key.json"
FORMAT = 1

_BLOCK_BYTES = 1 << 20
#: How often a file is looked at that is being replaced just then.
_MAX_LOOKS = 4


class VaultError(EgoAssetsError):
    """The vault holds something else than was expected; nothing was removed."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """How a file lies in the vault.

    Attributes:
        encrypted: Whether it is encrypted.
        key_id: Key of the vault that its data key is wrapped with; empty for a clear file, and for an encrypted one
            whose envelope is missing, so that nobody can read it.
    """

    encrypted: bool
    key_id: str = ""


class VaultFiles:
    """Files of a vault under their keys. Who calls it keeps others out of the part that it writes to.

    Args:
        place: Where they lie.
        keys: The keys of the vault.
    """

    def __init__(self, place: VaultPlace, keys: VaultKeys) -> None:
        self._place = place
        self._keys = keys

    # --- in -------------------------------------------------------------------------------------------

    def keep(
        self,
        source: Path,
        key: str,
        *,
        before: os.stat_result | None = None,
        accepted: Callable[[str], None] | None = None,
    ) -> str:
        """Copy a file from outside, encrypted, read it back from its place and compare; returns its digest.

        Args:
            source: The file, which stays.
            key: Where it goes.
            before: Its status, where it must not have changed since.
            accepted: Called with the digest of the content before it is put in its place.

        Raises:
            TransientError: It changed while it was read.
            VaultError: What was written differs; it is removed again.
        """
        before = before or source.lstat()
        with self._place.staged(key) as path:
            digest, wrapped = self._write(blocks(source), path, key)
            require_unchanged(source, before)
            if accepted is not None:
                accepted(digest)
            if wrapped is not None:
                self._put_envelope(key, Envelope(keys=(wrapped,)))
            elif self._envelope(key) is not None:
                self._place.remove(key + ENVELOPE_SUFFIX)
        if self.sha256(key, what=f"The copy of {source.name!r} in the vault") != digest:
            self.remove(key)
            raise VaultError(
                f"The copy of {source.name!r} in the vault differs from the upload, which was left where it is. "
                "Check the vault's disk and try again."
            )
        return digest

    # --- out ------------------------------------------------------------------------------------------

    def open(self, key: str, *, what: str) -> BinaryIO:
        """The content of a file, seekable and unbuffered, decrypted as it is read.

        Args:
            key: The file.
            what: What it is, for errors, as the beginning of a sentence.

        Raises:
            FileNotFoundError: There is none.
            KeyMissing: The key of the vault that it needs is not known here.
            VaultError: Now or at any read: it was changed or damaged.
        """
        with named(what):
            for _ in range(_MAX_LOOKS):
                source = self._place.open(key)
                try:
                    found = self._reader(source, key, what=what)
                except BaseException:
                    source.close()
                    raise
                if found is not None:
                    return found
                # It was replaced between the look at the file and the one at its envelope.
                source.close()
            if self._begins_encrypted(key):
                raise DamagedFile("its key envelope is missing, or is that of another file")
            raise DamagedFile("a clear file lies in the place of an encrypted one")

    def sha256(self, key: str, *, what: str) -> str:
        """Digest of the content of a file, hexadecimal."""
        digest = hashlib.sha256()
        with self.open(key, what=what) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def state(self, key: str) -> FileState:
        """How the file lies there."""
        envelope = self._envelope(key)
        if envelope is not None and envelope.keys and not envelope.replaces_clear:
            return FileState(encrypted=True, key_id=envelope.keys[0].key_id)
        if not self._begins_encrypted(key):
            return FileState(encrypted=False)
        return FileState(encrypted=True, key_id=envelope.keys[0].key_id if envelope and envelope.keys else "")

    # --- in place -------------------------------------------------------------------------------------

    def encrypt(self, key: str, *, what: str, sha256: str = "") -> bool:
        """Encrypt a clear file in its place; whether there was something to do.

        The encrypted file is decrypted and compared before it takes the place of the clear one. Killed at any
        instant, one of the two is there and readable, and the next call goes on.

        Args:
            key: The file.
            what: What it is, for errors.
            sha256: Digest that its content must have.

        Raises:
            VaultError: The content has another digest; the file stays as it is.
        """
        envelope = self._envelope(key)
        if self.state(key).encrypted:
            if envelope is not None and envelope.replaces_clear:
                self._settle_envelope(key, envelope)
            return False
        with self._place.staged(key) as path:
            with self._place.open(key) as source:
                digest, wrapped = self._write(_blocks_of(source), path, key)
            assert wrapped is not None
            _require_digest(digest, sha256, what)
            self._compare(path, key, wrapped, digest, what)
            self._put_envelope(key, Envelope(keys=(wrapped,), replaces_clear=True))
        self._put_envelope(key, Envelope(keys=(wrapped,)))
        return True

    def encrypt_anew(self, key: str, *, what: str, sha256: str = "") -> None:
        """Encrypt an encrypted file with a new data key; its guarantees are those of :meth:`encrypt`."""
        with self._place.open(key) as file:
            header = Header.decode(file.read(HEADER_BYTES) or b"")
        envelope = self._envelope(key)
        present = envelope.key_of(header.file_id) if envelope is not None else None
        with self._place.staged(key) as path:
            with self.open(key, what=what) as source:
                digest, wrapped = self._write(_blocks_of(source), path, key)
            assert wrapped is not None and present is not None
            _require_digest(digest, sha256, what)
            self._compare(path, key, wrapped, digest, what)
            self._put_envelope(key, Envelope(keys=(present, wrapped)))
        self._put_envelope(key, Envelope(keys=(wrapped,)))

    def rewrap(self, key: str, *, what: str) -> bool:
        """Wrap the data key of a file with the present key of the vault; whether there was something to do.

        The content is not touched, and not read.
        """
        envelope = self._envelope(key)
        vault_key = self._vault_key()
        if envelope is None or all(wrapped.key_id == vault_key.key_id for wrapped in envelope.keys):
            return False
        with named(what):
            keys = tuple(
                self._wrapped_for(key, wrapped, vault_key, old_name=key) for wrapped in envelope.keys
            )
        self._put_envelope(key, replace(envelope, keys=keys))
        return True

    def move(self, key: str, new_key: str, *, what: str) -> None:
        """Give a file another key. Its data key is wrapped anew, because it is bound to the name."""
        envelope = self._envelope(key)
        if envelope is not None:
            with named(what):
                keys = tuple(
                    self._wrapped_for(new_key, wrapped, self._keys.find(wrapped.key_id), old_name=key)
                    for wrapped in envelope.keys
                )
            self._put_envelope(new_key, replace(envelope, keys=keys))
        self._place.rename(key, new_key)
        self._place.remove(key + ENVELOPE_SUFFIX)

    def remove(self, key: str) -> int:
        """Remove a file, its data key first, after which nobody can read it; returns 1, or 0 where it was gone."""
        self._place.remove(key + ENVELOPE_SUFFIX)
        return int(self._place.remove(key))

    def new_key(self) -> VaultKey:
        """Make a new present key where the key file gives it."""
        return self._noted(self._keys.renew())

    # --- inside ---------------------------------------------------------------------------------------

    def _reader(self, source: BinaryIO, key: str, *, what: str) -> BinaryIO | None:
        """The content of an opened file; ``None`` when its envelope is that of another one."""
        head = source.read(HEADER_BYTES) or b""
        envelope = self._envelope(key)
        if not is_encrypted(head):
            if envelope is not None and not envelope.replaces_clear:
                return None
            source.seek(0)
            return source
        header = Header.decode(head)
        wrapped = envelope.key_of(header.file_id) if envelope is not None else None
        if wrapped is None:
            return None
        data_key = unwrap_key(self._keys.find(wrapped.key_id).secret, wrapped, name=key)
        return cast(BinaryIO, _NamedReader(source, data_key=data_key, header=header, what=what))

    def _begins_encrypted(self, key: str) -> bool:
        with self._place.open(key) as file:
            return is_encrypted(file.read(len(MAGIC)) or b"")

    def _write(self, content: Iterable[bytes], path: Path, key: str) -> tuple[str, WrappedKey | None]:
        """Write a new file; returns the digest of the content and the wrapped key of an encrypted one."""
        digest = hashlib.sha256()
        if not self._keys.encrypts:
            with created(path) as file:
                for block in content:
                    digest.update(block)
                    view = memoryview(block)
                    while view:
                        view = view[file.write(view) :]
            return digest.hexdigest(), None
        vault_key, header, data_key = self._vault_key(), Header.new(), os.urandom(KEY_BYTES)
        with created(path) as file:
            writer = EncryptingWriter(file, data_key=data_key, header=header)
            for block in content:
                digest.update(block)
                writer.write(block)
            writer.finish()
        wrapped = wrap_key(
            vault_key.secret, data_key, key_id=vault_key.key_id, file_id=header.file_id, name=key
        )
        return digest.hexdigest(), wrapped

    def _compare(self, path: Path, key: str, wrapped: WrappedKey, digest: str, what: str) -> None:
        """Decrypt what was written before it replaces the only other copy."""
        actual = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            header = Header.decode(file.read(HEADER_BYTES))
            data_key = unwrap_key(self._keys.find(wrapped.key_id).secret, wrapped, name=key)
            with DecryptingReader(cast(BinaryIO, file), data_key=data_key, header=header) as reader:
                while block := reader.read(_BLOCK_BYTES):
                    actual.update(block)
        if actual.hexdigest() != digest:
            raise VaultError(f"{what} was not encrypted rightly, and stays as it is. Check the vault's disk.")

    def _wrapped_for(
        self, name: str, wrapped: WrappedKey, vault_key: VaultKey, *, old_name: str
    ) -> WrappedKey:
        data_key = unwrap_key(self._keys.find(wrapped.key_id).secret, wrapped, name=old_name)
        return wrap_key(
            vault_key.secret,
            data_key,
            key_id=vault_key.key_id,
            file_id=bytes.fromhex(wrapped.file_id),
            name=name,
        )

    def _settle_envelope(self, key: str, envelope: Envelope) -> None:
        self._put_envelope(key, replace(envelope, replaces_clear=False))

    def _envelope(self, key: str) -> Envelope | None:
        content = self._place.get(key + ENVELOPE_SUFFIX)
        return None if content is None else Envelope.decode(content)

    def _put_envelope(self, key: str, envelope: Envelope) -> None:
        self._place.put(key + ENVELOPE_SUFFIX, envelope.encode())

    def _vault_key(self) -> VaultKey:
        """The present key, made where this is the first file of all.

        Raises:
            KeyMissing: The vault has been encrypted before, and its key file is gone.
        """
        if self._keys.present() is None and (used := self._used_keys()):
            raise KeyMissing(
                f"The vault was encrypted with the key {', '.join(used)}, and the key file {self._keys.file} is "
                "missing. Restore it from its backup. If it is lost for good, so is what was encrypted with it; "
                "`ego-assets vault rotate --new-key` lets the vault go on with a new key."
            )
        return self._noted(self._keys.make())

    def _noted(self, key: VaultKey) -> VaultKey:
        """The key, after its id was written into the vault's description."""
        used = self._used_keys()
        if key.key_id not in used:
            value = {"format": FORMAT, "key_ids": [*used, key.key_id]}
            self._place.put(DESCRIPTION_KEY, json.dumps(value, indent=2).encode() + b"\n")
        return key

    def _used_keys(self) -> list[str]:
        """Ids of the keys that files of this vault were ever encrypted with."""
        content = self._place.get(DESCRIPTION_KEY)
        if content is None:
            return []
        value = json.loads(content)
        if value["format"] != FORMAT:
            raise VaultError(
                f"{DESCRIPTION_KEY} of the vault has format {value['format']}, and this version reads format {FORMAT}. "
                "Use the version that wrote it."
            )
        return list(value["key_ids"])


class _NamedReader(DecryptingReader):
    """Says which file it is that does not authenticate."""

    def __init__(self, source: BinaryIO, *, data_key: bytes, header: Header, what: str) -> None:
        self._what = what
        super().__init__(source, data_key=data_key, header=header)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        with named(self._what):
            return super().readinto(buffer)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Errors about a file say which file it is, and what to do."""
    try:
        yield
    except DamagedFile as damage:
        raise VaultError(
            f"{what} cannot be read: {damage}. It was changed or damaged. Restore it, and the {ENVELOPE_SUFFIX} beside "
            "it, from the backup of the vault."
        ) from None
    except KeyMissing as missing:
        raise KeyMissing(f"{what} cannot be read. {missing}") from None


def regular(path: Path) -> os.stat_result:
    """The status of an ordinary file; ``FileNotFoundError`` when it is gone."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise UploadRejected(
            "symlink", f"{path.name!r} is a link; links are not followed. Upload the file itself."
        )
    if not stat.S_ISREG(status.st_mode):
        raise UploadRejected("not_a_file", f"{path.name!r} is no ordinary file. Upload the video itself.")
    return status


def require_unchanged(path: Path, before: os.stat_result) -> None:
    """Refuse a file that is another one, or was written to, since ``before``."""
    after = path.lstat()
    if (after.st_size, after.st_mtime_ns, after.st_ino) != (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    ):
        raise TransientError(
            f"{path.name!r} changed while it was read: it is still being written. Wait until the upload is "
            "complete, then try again."
        )


def blocks(path: Path) -> Iterator[bytes]:
    """The content of a file outside the vault, which must be no link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 (a descriptor, not a path)
        yield from _blocks_of(cast(BinaryIO, file))


def sha256_of(path: Path) -> str:
    """Digest of a file outside the vault."""
    digest = hashlib.sha256()
    for block in blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks_of(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block


def _require_digest(actual: str, expected: str, what: str) -> None:
    if expected and actual != expected:
        raise VaultError(
            f"{what} has sha256 {actual}, expected {expected}: it was changed or damaged, and stays as it is. "
            "Restore it from the backup of the vault."
        )
