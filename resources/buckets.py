"""Objects in a bucket by key: complete or absent, checksummed, retried.

``s3://`` is reached with boto3 and its transfer manager, every other scheme with its fsspec file system: ``gs://``
needs gcsfs, ``memory://`` serves tests.

On S3 every write carries a CRC-32 that the service compares with what arrived, for each part of a large object too, and
whole objects that are read are compared with it. The service refuses a body that was altered on the way, and it is sent
again. An object is visible when it is complete; the parts of an upload that was given up are removed at once, those
that a killed process left behind by :meth:`Bucket.abort_uploads`.

No listing is cached: other processes write to the same bucket.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from ego_assets.schema.buckets import BucketAccess
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, EgoAssetsError, TransientError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")
#: Inside the classes ``list`` is a method.
Names: TypeAlias = list[str]

#: Parts of a large object; S3 admits 10,000 of them, so that an object that is streamed may have 156 GiB.
PART_BYTES = 16 << 20
#: What a reader that goes forward fetches at once.
READ_AHEAD_BYTES = 4 << 20

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0
_CONNECT_TIMEOUT_S = 10.0
_CHECKSUM = "CRC32"

#: Answers of S3 that pass by themselves, or that a second try of the same request mends.
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "InvalidDigest",
        "OperationAborted",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
#: Those among them that mean a damaged body, which the client does not send again by itself.
_DAMAGED_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InvalidDigest",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound"})


@dataclass(frozen=True)
class ObjectInfo:
    """What a bucket says about one object.

    Attributes:
        key: Key relative to the URL of the :class:`Bucket`.
        bytes: Size.
        etag: Tag that changes with the content; empty where the service has none.
        modified_at: When it was written, with its time zone.
        sha256: The digest that :meth:`Bucket.put_file` was given; empty in listings, and where the service keeps none.
    """

    key: str
    bytes: int
    etag: str
    modified_at: dt.datetime
    sha256: str = ""


class Bucket:
    """The objects below one URL.

    Failures that may pass (5xx, timeouts, cut bodies, lost connections) are tried again ``access.max_attempts`` times
    in all with growing pauses. Every method may raise:

    - ``TransientError``: it did not pass.
    - ``ConfigurationError``: there is no such bucket, or the credentials are absent, wrong or not allowed to.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or another URL that fsspec knows.
        access: How it is reached.

    Raises:
        BackendUnavailable: The package for this scheme is not installed.
    """

    def __init__(self, url: str, access: BucketAccess | None = None) -> None:
        access = access or BucketAccess()
        parts = urlsplit(url)
        if not parts.scheme or not (parts.netloc or parts.scheme == "memory"):
            raise ConfigurationError(f"Expected a URL such as s3://bucket/prefix, got {url!r}. Correct it.")
        self.url = url.rstrip("/")
        self._objects: _Objects = _S3(url, access) if parts.scheme in ("s3", "s3a") else _Fsspec(url, access)
        self._read_ahead_bytes = READ_AHEAD_BYTES

    def __repr__(self) -> str:
        return f"Bucket({self.url!r})"

    def uri(self, key: str) -> str:
        """Full URL of an object."""
        return f"{self.url}/{_checked(key)}"

    # --- writing --------------------------------------------------------------------------------------

    def put_file(self, path: Path, key: str, *, sha256: str = "") -> None:
        """Write a local file as an object; a large one in several parts at the same time.

        ``sha256`` is kept with the object, where the service can, and :meth:`info` returns it.
        """
        with path.open("rb") as file:
            self._objects.write(_checked(key), file, sha256=sha256)

    def put(self, key: str, content: bytes) -> None:
        """Write an object, or replace it."""
        self._objects.write(_checked(key), io.BytesIO(content))

    @contextlib.contextmanager
    def upload(self, key: str) -> Iterator[BinaryIO]:
        """A stream to write an object to; it becomes visible when the block ends without an exception."""
        with self._objects.upload(_checked(key)) as file:
            yield file

    # --- reading --------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """The content of an object, or ``None`` where there is none."""
        try:
            return self._objects.read(_checked(key), None)
        except FileNotFoundError:
            return None

    def get_range(self, key: str, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on, in one request; fewer where the object ends before.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if start < 0 or size < 0:
            raise ValueError(f"start and size: expected 0 or more, got {start} and {size}")
        return self._objects.read(_checked(key), (start, size)) if size else b""

    def get_file(self, key: str, path: Path) -> None:
        """Fetch an object into a local file, which is complete or not there; the sizes are compared.

        Raises:
            FileNotFoundError: There is no such object.
        """
        info = self.info(key)
        if info is None:
            raise FileNotFoundError(self.uri(key))
        temporary = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            self._objects.fetch(_checked(key), temporary)
            found = temporary.stat().st_size
            if found != info.bytes:
                raise TransientError(
                    f"{self.uri(key)}: expected {info.bytes} bytes, got {found}. It changed meanwhile, or the download "
                    "was cut off. Try again."
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def open(self, key: str, *, size: int | None = None) -> BinaryIO:
        """A seekable reader that fetches ranges as they are asked for.

        A read somewhere else is one request of just these bytes; reads one after another fetch ahead.

        Args:
            key: The object.
            size: Its size where it is known, which saves the request that asks for it. An absent object is then found
                by the first read.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if size is None:
            info = self.info(key)
            if info is None:
                raise FileNotFoundError(self.uri(key))
            size = info.bytes
        reader = _RangeReader(self, _checked(key), size, ahead_bytes=self._read_ahead_bytes)
        return cast(BinaryIO, reader)

    # --- what is there --------------------------------------------------------------------------------

    def info(self, key: str) -> ObjectInfo | None:
        """Size, tag and time of an object, or ``None`` where there is none."""
        return self._objects.info(_checked(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below the folder ``prefix``, however deep, sorted by key."""
        return self._objects.list(_folder(prefix))

    def folders(self, prefix: str = "") -> Names:
        """Names of the folders directly below the folder ``prefix``, sorted."""
        return self._objects.folders(_folder(prefix))

    # --- removal --------------------------------------------------------------------------------------

    def remove(self, key: str) -> bool:
        """Remove an object; returns whether there was one."""
        if self.info(key) is None:
            return False
        self._objects.remove(_checked(key))
        return True

    def erase(self, name: str) -> int:
        """Remove an object, or all objects below a folder, for good; returns how many there were.

        In a bucket that keeps earlier versions of its objects those go as well, and unfinished uploads too.
        """
        return self._objects.erase(_checked(name.strip("/")))

    def abort_uploads(self, *, older_than_s: float, prefix: str = "") -> int:
        """Remove the parts of uploads that were begun that long ago and never finished; returns how many.

        They are invisible, and paid for.
        """
        return self._objects.abort_uploads(_folder(prefix), older_than_s)


class _RangeReader(io.RawIOBase):
    """One object as a file."""

    def __init__(self, bucket: Bucket, key: str, size: int, *, ahead_bytes: int) -> None:
        super().__init__()
        self.name = key.rpartition("/")[2]
        self._bucket = bucket
        self._key = key
        self._size = size
        self._ahead_bytes = ahead_bytes
        self._position = 0
        self._block = b""
        self._block_start = 0
        #: Where the next read begins if the reader goes forward.
        self._expected = -1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"offset: expected a place in the file, got {start + offset}")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        self._require_open()
        left = max(self._size - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted == 0:
            return b""
        start, end = self._position, self._position + wanted
        block_end = self._block_start + len(self._block)
        if not (self._block_start <= start and end <= block_end):
            # What the block has of it is not fetched again.
            kept = self._block[start - self._block_start :] if self._block_start <= start < block_end else b""
            at = start + len(kept)
            missing = end - at
            if at == self._expected:
                missing = max(missing, min(self._ahead_bytes, self._size - at))
            fetched = self._bucket.get_range(self._key, at, missing)
            if len(fetched) != missing:
                raise TransientError(
                    f"{self._bucket.uri(self._key)}: expected {missing} bytes at {at}, got {len(fetched)}. "
                    "It was replaced while it was read. Try again."
                )
            self._block, self._block_start = kept + fetched, start
            self._expected = at + missing
        self._position = end
        return self._block[start - self._block_start : end - self._block_start]

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("read of a closed file")


# --- the services -------------------------------------------------------------------------------------


class _Objects(Protocol):
    """Objects of one service by key relative to a URL; ``folder`` is empty or ends with a slash."""

    def write(self, key: str, file: BinaryIO, *, sha256: str = "") -> None: ...

    def upload(self, key: str) -> contextlib.AbstractContextManager[BinaryIO]: ...

    def read(self, key: str, span: tuple[int, int] | None) -> bytes: ...

    def fetch(self, key: str, path: Path) -> None: ...

    def info(self, key: str) -> ObjectInfo | None: ...

    def list(self, folder: str) -> Iterator[ObjectInfo]: ...

    def folders(self, folder: str) -> Names: ...

    def remove(self, key: str) -> None: ...

    def erase(self, name: str) -> int: ...

    def abort_uploads(self, folder: str, older_than_s: float) -> int: ...


class _S3:
    """S3 and what speaks its protocol.

    The client repeats single requests. Only what it does not repeat is repeated here: bodies that were cut or damaged.
    """

    def __init__(self, url: str, access: BucketAccess) -> None:
        parts = urlsplit(url)
        self._url = url.rstrip("/")
        self._bucket = parts.netloc
        path = parts.path.strip("/")
        self._prefix = f"{path}/" if path else ""
        self._access = access
        self._bucket_seen = False

    @property
    def _client(self) -> Any:
        with self._errors(self._url):
            # A connection must not be shared with the process that this one was forked from.
            return _s3_client(self._access, os.getpid())

    def write(self, key: str, file: BinaryIO, *, sha256: str = "") -> None:
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

        config = TransferConfig(
            multipart_threshold=2 * PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
        )
        extra: dict[str, Any] = {**self._encryption(), "ChecksumAlgorithm": _CHECKSUM}
        if sha256:
            extra["Metadata"] = {"sha256": sha256}

        def send() -> None:
            # The transfer closes what it is given.
            with _kept_open(file) as source:
                self._client.upload_fileobj(
                    source, self._bucket, self._prefix + key, ExtraArgs=extra, Config=config
                )

        self._repeated(key, send)

    @contextlib.contextmanager
    def upload(self, key: str) -> Iterator[BinaryIO]:
        upload = _S3Upload(self, key)
        try:
            yield cast(BinaryIO, upload)
            upload.complete()
        except BaseException:
            upload.abort()
            raise

    def read(self, key: str, span: tuple[int, int] | None) -> bytes:
        extra = {} if span is None else {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"}

        def receive() -> bytes:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **extra)
            with contextlib.closing(answer["Body"]) as body:
                content = cast(bytes, body.read())
            if len(content) != answer["ContentLength"]:
                raise _Damaged(f"expected {answer['ContentLength']} bytes, got {len(content)}")
            return content

        try:
            return self._repeated(key, receive)
        except _OutOfRange:
            return b""

    def fetch(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=2 * PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=4,
            num_download_attempts=self._access.max_attempts,
        )
        self._repeated(
            key,
            lambda: self._client.download_file(self._bucket, self._prefix + key, str(path), Config=config),
        )

    def info(self, key: str) -> ObjectInfo | None:
        try:
            found = self._repeated(
                key, lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            )
        except FileNotFoundError:
            self._require_bucket()
            return None
        return ObjectInfo(
            key,
            found["ContentLength"],
            found["ETag"].strip('"'),
            found["LastModified"],
            found.get("Metadata", {}).get("sha256", ""),
        )

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        for page in self._pages("list_objects_v2", folder):
            for found in page.get("Contents", ()):
                # Some tools mark a folder with an empty object.
                if not found["Key"].endswith("/"):
                    yield ObjectInfo(
                        self._relative(found["Key"]),
                        found["Size"],
                        found["ETag"].strip('"'),
                        found["LastModified"],
                    )

    def folders(self, folder: str) -> Names:
        return [
            found["Prefix"].rstrip("/").rpartition("/")[2]
            for page in self._pages("list_objects_v2", folder, Delimiter="/")
            for found in page.get("CommonPrefixes", ())
        ]

    def remove(self, key: str) -> None:
        self._repeated(key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def erase(self, name: str) -> int:
        removed = set()
        for page in self._pages("list_object_versions", name):
            for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if _is_within(self._relative(found["Key"]), name):
                    self._delete_version(found["Key"], found["VersionId"])
                    removed.add(found["Key"])
        self.abort_uploads(name, 0.0)
        return len(removed)

    def _delete_version(self, full_key: str, version_id: str) -> None:
        # Buckets without versions call the only one "null".
        which = {} if version_id == "null" else {"VersionId": version_id}
        self._repeated(
            self._relative(full_key),
            lambda: self._client.delete_object(Bucket=self._bucket, Key=full_key, **which),
        )

    def abort_uploads(self, folder: str, older_than_s: float) -> int:
        latest = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
        aborted = 0
        for page in self._pages("list_multipart_uploads", folder):
            for found in page.get("Uploads", ()):
                within = not folder or _is_within(self._relative(found["Key"]), folder.rstrip("/"))
                if within and found["Initiated"] <= latest:
                    self._abort(found["Key"], found["UploadId"])
                    aborted += 1
        return aborted

    def _abort(self, full_key: str, upload_id: str) -> None:
        # One that was finished or removed meanwhile is what is wanted.
        with contextlib.suppress(FileNotFoundError):
            self._repeated(
                self._relative(full_key),
                lambda: self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=full_key, UploadId=upload_id
                ),
            )

    def _pages(self, operation: str, folder: str, **options: Any) -> Iterator[dict[str, Any]]:
        pages = iter(
            self._client.get_paginator(operation).paginate(
                Bucket=self._bucket, Prefix=self._prefix + folder, **options
            )
        )
        while True:
            with self._errors(f"{self._url}/{folder}"):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _relative(self, full_key: str) -> str:
        return full_key[len(self._prefix) :]

    def _encryption(self) -> dict[str, str]:
        if not self._access.kms_key_id:
            return {}
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._access.kms_key_id}

    def _require_bucket(self) -> None:
        """Tell a missing object from a missing bucket, which the answer to HEAD does not."""
        if not self._bucket_seen:
            with self._errors(self._url):
                try:
                    self._client.head_bucket(Bucket=self._bucket)
                except Exception as error:
                    # Who may not ask for the bucket may still use it.
                    if _status(error) != 403:
                        raise
            self._bucket_seen = True

    def _repeated(self, key: str, request: Callable[[], T]) -> T:
        """The answer to a request whose body may arrive damaged."""
        where = f"{self._url}/{key}"
        for attempt in range(1, self._access.max_attempts + 1):
            try:
                with self._errors(where, key=key):
                    return request()
            except _Damaged as error:
                if attempt == self._access.max_attempts:
                    raise TransientError(
                        f"{where} cannot be transferred undamaged, {attempt} times in a row ({error}). "
                        "Try again later."
                    ) from error
                _pause(attempt)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _errors(self, where: str, *, key: str | None = None) -> Iterator[None]:
        """Say what failed in the terms of this package."""
        import urllib3.exceptions
        from botocore import exceptions as boto  # type: ignore[import-untyped]
        from s3transfer.exceptions import RetriesExceededError  # type: ignore[import-untyped]

        try:
            yield
        except boto.ClientError as error:
            raise self._service_error(error, where, about_object=key is not None) from error
        except (boto.FlexibleChecksumError, boto.IncompleteReadError, boto.ResponseStreamingError) as error:
            raise _Damaged(str(error)) from error
        except (boto.ReadTimeoutError, urllib3.exceptions.ProtocolError) as error:
            # The client repeated it if it was the answer's head; a body that stalls is for us.
            raise _Damaged(str(error)) from error
        except RetriesExceededError as error:
            raise _unreachable(where, error.last_exception) from error
        except (boto.ConnectionError, boto.HTTPClientError, ConnectionError, TimeoutError) as error:
            raise _unreachable(where, error) from error
        except (boto.BotoCoreError, ValueError) as error:
            # No credentials, no such profile, an address or a name that cannot be one.
            raise _refused(where, error) from error

    def _service_error(self, error: Any, where: str, *, about_object: bool) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = _status(error)
        if code in _DAMAGED_CODES:
            return _Damaged(str(error))
        if status == 416 or code == "InvalidRange":
            return _OutOfRange(str(error))
        if about_object and (code in _MISSING_CODES or code == "NoSuchUpload"):
            return FileNotFoundError(where)
        if code in _PASSING_CODES or status >= 500 or status in (408, 429):
            return _unreachable(where, error)
        return _refused(where, error)


class _S3Upload(io.RawIOBase):
    """An object that is written piece by piece; small ones are one request."""

    def __init__(self, objects: _S3, key: str) -> None:
        super().__init__()
        self._objects = objects
        self._key = key
        self._full_key = objects._prefix + key
        self._buffer = bytearray()
        self._position = 0
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: ReadableBuffer, /) -> int:
        if self.closed:
            raise ValueError("write to a closed file")
        view = memoryview(data).cast("B")
        self._buffer += view
        self._position += len(view)
        while len(self._buffer) >= PART_BYTES:
            self._send(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(view)

    def complete(self) -> None:
        """Make the object visible."""
        if not self._upload_id:
            self._objects.write(self._key, io.BytesIO(self._buffer))
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        self._request("complete_multipart_upload", MultipartUpload={"Parts": self._parts})
        self._upload_id = ""

    def abort(self) -> None:
        """Remove what was sent; what cannot be removed now is removed by housekeeping."""
        if self._upload_id:
            with contextlib.suppress(EgoAssetsError):
                self._objects._abort(self._full_key, self._upload_id)

    def _send(self, part: bytes) -> None:
        if not self._upload_id:
            answer = self._objects._repeated(
                self._key,
                lambda: self._objects._client.create_multipart_upload(
                    Bucket=self._objects._bucket,
                    Key=self._full_key,
                    ChecksumAlgorithm=_CHECKSUM,
                    **self._objects._encryption(),
                ),
            )
            self._upload_id = answer["UploadId"]
        number = len(self._parts) + 1
        answer = self._request("upload_part", PartNumber=number, Body=part, ChecksumAlgorithm=_CHECKSUM)
        # The service compares the parts' checksums once more when it puts them together.
        self._parts.append(
            {
                "PartNumber": number,
                "ETag": answer["ETag"],
                **{name: answer[name] for name in (f"Checksum{_CHECKSUM}",) if name in answer},
            }
        )

    def _request(self, operation: str, **options: Any) -> dict[str, Any]:
        request = getattr(self._objects._client, operation)
        return cast(
            dict[str, Any],
            self._objects._repeated(
                self._key,
                lambda: request(
                    Bucket=self._objects._bucket,
                    Key=self._full_key,
                    UploadId=self._upload_id,
                    **options,
                ),
            ),
        )


class _Fsspec:
    """Any other service, by its fsspec file system."""

    def __init__(self, url: str, access: BucketAccess) -> None:
        import fsspec

        options: dict[str, Any] = {}
        scheme = urlsplit(url).scheme
        if scheme in ("gs", "gcs"):
            # Compares the MD5 of what was written; the token is the path of a service account file.
            options = {"consistency": "md5", "timeout": access.timeout_s}
            if access.gcs_token:
                options["token"] = access.gcs_token
        try:
            self._fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except ImportError as error:
            extra = "Install it with `pip install 'ego-assets[gcs]'`." if scheme in ("gs", "gcs") else ""
            raise BackendUnavailable(
                f"{url} needs a package that is not installed ({error}). {extra}".rstrip()
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"{url} cannot be used: {error}. Correct the URL.") from error
        self._root = path.rstrip("/")
        self._url = url.rstrip("/")
        self._access = access

    def write(self, key: str, file: BinaryIO, *, sha256: str = "") -> None:
        path = self._path(key)
        start = file.tell()

        def send() -> None:
            file.seek(start)
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(file, io.BytesIO):
                self._fs.pipe_file(path, file.read())
            else:
                self._fs.put_file(file.name, path)

        self._repeated(key, send)

    @contextlib.contextmanager
    def upload(self, key: str) -> Iterator[BinaryIO]:
        with tempfile.NamedTemporaryFile(prefix="ego-assets-upload-") as file:
            yield cast(BinaryIO, file)
            file.flush()
            file.seek(0)
            self.write(key, cast(BinaryIO, file))

    def read(self, key: str, span: tuple[int, int] | None) -> bytes:
        start, end = (None, None) if span is None else (span[0], span[0] + span[1])
        return self._repeated(
            key, lambda: cast(bytes, self._fs.cat_file(self._path(key), start=start, end=end))
        )

    def fetch(self, key: str, path: Path) -> None:
        self._repeated(key, lambda: self._fs.get_file(self._path(key), str(path)))

    def info(self, key: str) -> ObjectInfo | None:
        try:
            found = self._repeated(key, lambda: self._fs.info(self._path(key)))
        except FileNotFoundError:
            return None
        return None if found["type"] == "directory" else self._described(found)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        try:
            found = self._repeated(folder, lambda: self._fs.find(self._path(folder).rstrip("/"), detail=True))
        except FileNotFoundError:
            return iter(())
        return iter(sorted((self._described(item) for item in found.values()), key=lambda item: item.key))

    def folders(self, folder: str) -> Names:
        try:
            found = self._repeated(folder, lambda: self._fs.ls(self._path(folder).rstrip("/"), detail=True))
        except FileNotFoundError:
            return []
        names = [item["name"].rstrip("/").rpartition("/")[2] for item in found if item["type"] == "directory"]
        return sorted(names)

    def remove(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._repeated(key, lambda: self._fs.rm_file(self._path(key)))

    def erase(self, name: str) -> int:
        found = [name] if self.info(name) is not None else [item.key for item in self.list(f"{name}/")]
        for key in found:
            self.remove(key)
        # File systems that have folders keep an empty one.
        with contextlib.suppress(FileNotFoundError, NotImplementedError):
            if self._repeated(name, lambda: self._fs.isdir(self._path(name))):
                self._repeated(name, lambda: self._fs.rm(self._path(name), recursive=True))
        return len(found)

    def abort_uploads(self, folder: str, older_than_s: float) -> int:
        # Unfinished uploads expire by themselves on Google's service, after a week.
        return 0

    def _described(self, found: dict[str, Any]) -> ObjectInfo:
        modified = found.get("mtime") or found.get("updated") or found.get("created")
        if isinstance(modified, str):
            modified = dt.datetime.fromisoformat(modified)
        if not isinstance(modified, dt.datetime):
            modified = dt.datetime.fromtimestamp(float(modified or 0.0), dt.UTC)
        if modified.tzinfo is None:
            modified = modified.replace(tzinfo=dt.UTC)
        name = str(found["name"])
        return ObjectInfo(
            name[len(self._root) + 1 :], int(found["size"]), str(found.get("etag") or ""), modified
        )

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _repeated(self, key: str, request: Callable[[], T]) -> T:
        where = f"{self._url}/{key}"
        for attempt in range(1, self._access.max_attempts + 1):
            try:
                return request()
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise _refused(where, error) from error
            except Exception as error:
                if not _may_pass(error):
                    raise
                if attempt == self._access.max_attempts:
                    raise _unreachable(where, error) from error
                _pause(attempt)
        raise AssertionError("unreachable")


@lru_cache(maxsize=16)
def _s3_client(access: BucketAccess, process_id: int) -> Any:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    session = boto3.Session(
        profile_name=access.aws_profile or None,
        region_name=access.region or None,
        aws_access_key_id=access.access_key_id or None,
        aws_secret_access_key=access.secret_access_key or None,
    )
    return session.client(
        "s3",
        endpoint_url=access.endpoint_url or None,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": access.max_attempts},
            connect_timeout=min(_CONNECT_TIMEOUT_S, access.timeout_s),
            read_timeout=access.timeout_s,
            tcp_keepalive=True,
            max_pool_connections=16,
            request_checksum_calculation="when_supported",
            response_checksum_validation="when_supported",
            # Services other than Amazon's seldom have a host name for each bucket.
            s3={"addressing_style": "path" if access.endpoint_url else "auto"},
        ),
    )


class _Damaged(Exception):
    """A body was cut off or altered on the way."""


class _OutOfRange(Exception):
    """The range begins behind the end of the object."""


@contextlib.contextmanager
def _kept_open(file: BinaryIO) -> Iterator[BinaryIO]:
    """A second view of a file from its beginning, which may be closed."""
    if isinstance(file, io.BytesIO):
        yield io.BytesIO(file.getbuffer())
    else:
        with Path(file.name).open("rb") as source:
            yield source


def _pause(attempt: int) -> None:
    """Wait before the next try, longer each time; by chance, so that many processes do not come back together."""
    time.sleep(random.uniform(0.5, 1.0) * min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S))


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    return isinstance(error, OSError) or type(error).__module__.startswith("aiohttp")


def _status(error: Any) -> int:
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _unreachable(where: str, error: BaseException) -> TransientError:
    return TransientError(f"{where} cannot be reached ({error}). Try again later.")


def _refused(where: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(
        f"{where} cannot be used ({error}). Check the URL, and EGO_*_S3_ENDPOINT_URL, EGO_*_S3_REGION, "
        "EGO_*_AWS_PROFILE, EGO_*_AWS_ACCESS_KEY_ID, EGO_*_AWS_SECRET_ACCESS_KEY, EGO_*_S3_KMS_KEY_ID or "
        "EGO_*_GCS_TOKEN, where * is STORE, VAULT or UPLOADS; and that the bucket exists."
    )


def _checked(key: str) -> str:
    """``key``, which must name one object below the URL."""
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise ValueError(f"key: expected a relative path with forward slashes, got {key!r}")
    return key


def _is_within(key: str, name: str) -> bool:
    """Whether ``key`` is the object ``name`` or lies in the folder of that name."""
    return key == name or key.startswith(f"{name}/")


def _folder(prefix: str) -> str:
    prefix = prefix.strip("/")
    return f"{_checked(prefix)}/" if prefix else ""
