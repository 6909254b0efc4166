"""Errors a user can cause or has to act on.

Each message says what happened, to which clip or file, and what to do next. Everything derives from
:class:`EgoAssetsError`, so that a caller can tell an expected failure from a bug.
"""

from __future__ import annotations


class EgoAssetsError(Exception):
    """Base of all expected failures; retrying does not help unless a subclass says so."""

    #: Whether the same call may succeed later without anybody changing anything.
    transient: bool = False
    #: Whether it says something about the clip. What does not (settings, missing packages, an endpoint that is down) is
    #: tried again by the next run without anybody asking for it.
    about_clip: bool = True


class MediaError(EgoAssetsError):
    """A file cannot be used as a video. ``code`` is stable and machine-readable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UploadRejected(EgoAssetsError):
    """An upload cannot be accepted; it is moved to ``rejected/`` with this reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DuplicateUpload(UploadRejected):
    """The same content is already in the vault under ``first_clip_id``."""

    def __init__(self, first_clip_id: str, name: str) -> None:
        super().__init__(
            "duplicate",
            f"{name!r} has the same content as clip {first_clip_id}, which is already in the vault. "
            "Use that clip; nothing else needs to be done.",
        )
        self.first_clip_id = first_clip_id


class UnknownClip(EgoAssetsError):
    """No clip with this id is registered."""

    def __init__(self, clip_id: str) -> None:
        super().__init__(
            f"No clip {clip_id!r} is registered. List the known clips with `ego-assets status`, "
            "or ingest the file with `ego-assets ingest PATH`."
        )
        self.clip_id = clip_id


class ClipRefused(EgoAssetsError):
    """A layer may not run on a clip: a blocking gate failed, or the clip was withdrawn or held."""


class ClipErased(ClipRefused):
    """A clip was erased for good; its id is never used again."""

    def __init__(self, clip_id: str) -> None:
        super().__init__(f"Clip {clip_id} was erased for good. Nothing is left of it but its id.")
        self.clip_id = clip_id


class ArtifactMissing(EgoAssetsError):
    """An input layer has no committed version."""


class ArtifactCorrupted(EgoAssetsError):
    """A committed file does not match the digest in its artifact document."""


class InsufficientDisk(EgoAssetsError):
    """Not enough free space for the work that is about to start."""

    about_clip = False


class BackendUnavailable(EgoAssetsError):
    """A model backend cannot run here; the message says what to install or configure."""

    about_clip = False


class ConfigurationError(EgoAssetsError):
    """A setting or profile is wrong; the message names it and what was expected."""

    about_clip = False


class TransientError(EgoAssetsError):
    """A failure of the surroundings (network, store, database) that is worth retrying."""

    transient = True
    about_clip = False


class DeviceMemoryExhausted(EgoAssetsError):
    """Not even the smallest piece of work fits into a device's memory.

    The next attempt of a ladder may need less, so it goes on where other failures of the platform end it.
    """

    about_clip = False
