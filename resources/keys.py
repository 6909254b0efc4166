"""The keys of the vault: from the environment in production, otherwise from a key file that is made once.

The key file, mode 0600, is JSON: ``{"format": 1, "keys": [{"key_id", "key", "made_at"}, ...]}``, the present key first
and earlier ones after it. Whoever has it and the vault can read originals, so the two must not lie together, and
their backups neither. Whoever loses it has lost the originals.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ego_assets.schema.errors import ConfigurationError

FORMAT = 1
KEY_BYTES = 32

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_ADVICE = "Make one with `openssl rand -base64 32`."


class KeyMissing(ConfigurationError):
    """The key that something is encrypted with is not among those that are known here."""


@dataclass(frozen=True, kw_only=True)
class VaultKey:
    """One key of the vault.

    Attributes:
        secret: 32 bytes; never shown.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"secret: expected {KEY_BYTES} bytes, got {len(self.secret)}")

    @property
    def key_id(self) -> str:
        """Names the key and does not give it away: the beginning of a digest, 16 hexadecimal digits."""
        return hashlib.sha256(b"ego-assets vault key id\0" + self.secret).hexdigest()[:16]

    @classmethod
    def parse(cls, text: str, *, source: str) -> VaultKey:
        """A key in base64.

        Raises:
            ConfigurationError: It is none; the message names ``source`` and shows nothing of the text.
        """
        try:
            secret = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError(f"{source}: expected base64, got something else. {_ADVICE}") from None
        if len(secret) != KEY_BYTES:
            raise ConfigurationError(
                f"{source}: expected {KEY_BYTES} bytes in base64, got {len(secret)}. {_ADVICE}"
            )
        return cls(secret=secret)


class VaultKeys:
    """The keys with which one vault is read and written; nothing is read or made before it is needed.

    Args:
        file: The key file. Where the environment gives no key, its first key is the present one, and it is made
            when the first file is encrypted.
        environment_key: The present key in base64, from ``EGO_VAULT_KEY``.
        previous: Earlier keys in base64, separated by commas, from ``EGO_VAULT_PREVIOUS_KEYS``.
        encrypts: Whether new files are encrypted; what is encrypted already is readable all the same.
        apart_from: Folder of the vault, in which the key file must not lie.

    Raises:
        ConfigurationError: A key cannot be used, or the key file would lie in the vault.
    """

    def __init__(
        self,
        file: Path,
        *,
        environment_key: str = "",
        previous: str = "",
        encrypts: bool = True,
        apart_from: Path | None = None,
    ) -> None:
        if apart_from is not None and file.resolve().is_relative_to(apart_from.resolve()):
            raise ConfigurationError(
                f"EGO_VAULT_KEY_FILE: expected a file outside the vault, got {file}, which lies in it. A key beside "
                "what it locks protects nothing, and a backup of the vault would hold both."
            )
        self.file = file
        self.encrypts = encrypts
        self._environment = (
            VaultKey.parse(environment_key, source="EGO_VAULT_KEY") if environment_key.strip() else None
        )
        self._previous = tuple(
            VaultKey.parse(part, source="EGO_VAULT_PREVIOUS_KEYS")
            for part in previous.split(",")
            if part.strip()
        )

    @property
    def source(self) -> Literal["environment", "file"]:
        """Where the present key comes from."""
        return "file" if self._environment is None else "environment"

    def present(self) -> VaultKey | None:
        """The key that new files are encrypted with; ``None`` while there is no key file yet."""
        if self._environment is not None:
            return self._environment
        return next(iter(self._in_file()), None)

    def known(self) -> Mapping[str, VaultKey]:
        """All keys by id, those of an existing key file among them also where the environment gives the present one."""
        present = () if self._environment is None else (self._environment,)
        return {key.key_id: key for key in (*present, *self._previous, *self._in_file())}

    def find(self, key_id: str) -> VaultKey:
        """The key with this id.

        Raises:
            KeyMissing: It is not known here; the message says what to do.
        """
        known = self.known()
        if key_id not in known:
            here = ", ".join(known) or "none"
            raise KeyMissing(
                f"The key {key_id} of the vault is not known here (known: {here}). Give it in EGO_VAULT_KEY or "
                f"EGO_VAULT_PREVIOUS_KEYS, or restore the key file {self.file} from its backup. Nobody can read "
                "what is encrypted with it otherwise; the files themselves may be undamaged."
            )
        return known[key_id]

    def make(self) -> VaultKey:
        """The present key; the key file is made where there is none. Of several processes one makes it."""
        known = self.present()
        if known is not None:
            return known
        with self._exclusive():
            # Another process may have been faster while this one waited.
            return self.present() or self._write_new()

    def renew(self) -> VaultKey:
        """Put a new key at the head of the key file; the earlier ones stay in it.

        Raises:
            ConfigurationError: The present key comes from the environment.
        """
        if self._environment is not None:
            raise ConfigurationError(
                "The key of the vault comes from EGO_VAULT_KEY. Put the present key into EGO_VAULT_PREVIOUS_KEYS and a "
                f"new one into EGO_VAULT_KEY, then rotate. {_ADVICE}"
            )
        with self._exclusive():
            return self._write_new()

    def _write_new(self) -> VaultKey:
        """Put a new key before those of the key file, at once or not at all."""
        key = VaultKey(secret=os.urandom(KEY_BYTES))
        self._write((key, *self._in_file()))
        return key

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other processes and threads from writing the key file; its folder is made where it is missing."""
        folder = self.file.parent
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            _fsync(folder.parent)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _in_file(self) -> tuple[VaultKey, ...]:
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(
                f"The key file of the vault, {self.file}, cannot be read ({error.strerror}). Check its owner and mode."
            ) from None
        problem = ConfigurationError(
            f"{self.file} is no key file of a vault: it was changed or damaged. Restore it from its backup. Do not "
            "remove it: without its keys nobody can read the originals."
        )
        try:
            value = json.loads(content)
            number, listed = value["format"], [(item["key_id"], item["key"]) for item in value["keys"]]
        except (ValueError, KeyError, TypeError):
            raise problem from None
        if number != FORMAT:
            raise ConfigurationError(
                f"{self.file} has format {number}, and this version reads format {FORMAT}. Use the version that wrote "
                "it."
            )
        keys = [VaultKey.parse(str(text), source=str(self.file)) for _, text in listed]
        if not keys or [key.key_id for key in keys] != [key_id for key_id, _ in listed]:
            raise problem
        return tuple(keys)

    def _write(self, keys: tuple[VaultKey, ...]) -> None:
        """Replace the key file by one that holds these keys and is on the disk."""
        now, made_at = dt.datetime.now(dt.UTC).isoformat(), self._made_at()
        value = {
            "format": FORMAT,
            "keys": [
                {
                    "key_id": key.key_id,
                    "key": base64.b64encode(key.secret).decode(),
                    "made_at": made_at.get(key.key_id, now),
                }
                for key in keys
            ],
        }
        temporary = self.file.with_name(f".{self.file.name}.{uuid.uuid4().hex}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
                json.dump(value, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.file)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync(self.file.parent)

    def _made_at(self) -> Mapping[str, str]:
        if not self.file.exists():
            return {}
        return {
            item["key_id"]: item.get("made_at", "") for item in json.loads(self.file.read_bytes())["keys"]
        }


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
