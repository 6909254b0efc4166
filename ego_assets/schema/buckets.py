"""Where objects lie outside this machine, and with which credentials they are reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class BucketAccess:
    """How one bucket is reached; empty values leave the choice to the client's own configuration.

    Attributes:
        endpoint_url: Address of an S3 service other than Amazon's.
        region: Region of the bucket.
        aws_profile: Named profile of the AWS configuration files.
        access_key_id: Key, where no profile is used.
        secret_access_key: Its secret.
        kms_key_id: Key with which the service encrypts what is written (SSE-KMS).
        gcs_token: Path of a service account file for ``gs://``.
        max_attempts: Tries of one request after a failure that may pass, the first one included.
        timeout_s: How long one answer may take, in seconds.
    """

    endpoint_url: str = ""
    region: str = ""
    aws_profile: str = ""
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    kms_key_id: str = ""
    gcs_token: str = ""
    max_attempts: int = 6
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts: expected at least 1, got {self.max_attempts}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: expected more than 0, got {self.timeout_s}")
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key: expected both or neither")


def is_bucket_url(root: str) -> bool:
    """Whether ``root`` names objects behind a file system client, such as ``s3://`` or ``gs://``."""
    return "://" in root and not root.startswith("file://")


def bucket_of(url: str) -> str:
    """Scheme and bucket of a URL, without the path below it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
