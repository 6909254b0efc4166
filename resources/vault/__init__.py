"""The vault: the only place where originals lie.

Layout below a folder (folders with mode 0700, files with 0600) or below the URL of a bucket of its own::

    vault.json                              format, and the ids of the keys that were used
    originals/{clip_id}/original.mp4        as uploaded, never changed
    originals/{clip_id}/original.json       name, digest, size, time
    originals/{clip_id}/sidecar.json        the upload's sidecar, where it had one
    rejected/{date}/{name}                  uploads that could not be accepted
    rejected/{date}/{name}.sidecar.json     the sidecar of such an upload
    rejected/{date}/{name}.reason.json      why
    quarantine/{incident}/...               what leaked, until it is purged
    .../{name}.key.json                     the wrapped data key of an encrypted file

Everything that came from outside is encrypted (:mod:`resources.encryption`) unless that is switched off: originals,
sidecars, rejected uploads and what is in quarantine. ``original.json`` and ``.reason.json`` are clear: they hold names,
sizes, times, digests and reasons, and nothing of a recording. Digests and sizes are those of the content, so that they
do not change with the keys.

Opening an original takes a purpose and leaves a row in the audit log first. No upload is ever deleted: it is
removed from its folder only when its content, read back from the vault, has the same digest. What is removed is the
quarantine of an incident, once everything in it was made anew, and what has to be erased.
"""

from resources.vault.files import VaultError
from resources.vault.quarantine import Quarantine
from resources.vault.service import (
    ORIGINALS,
    QUARANTINE,
    REJECTED,
    StoredOriginal,
    Vault,
    VaultStatus,
)

__all__ = [
    "ORIGINALS",
    "QUARANTINE",
    "REJECTED",
    "Quarantine",
    "StoredOriginal",
    "Vault",
    "VaultError",
    "VaultStatus",
]
