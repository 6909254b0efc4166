"""Deliveries in a bucket: copies of the local folders, each with a marker that is written last.

Below the URL: ``{name}/{version}/...`` as in the folder, and ``{name}/{version}/_COMPLETE.json`` with the size and
SHA-256 of every file. A copy without the marker is not whole. A copy that was interrupted is continued: files whose
size and digest are in the bucket already are not sent again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ego_assets.schema.buckets import BucketAccess
from resources.buckets import Bucket

#: Written when everything else is there.
MARKER = "_COMPLETE.json"
FORMAT = 1
#: Beside the versions: what became of the clips of earlier ones.
CORRECTIONS = "corrections.parquet"
#: Folders of a delivery whose files hold several clips.
MIXED_FOLDERS = ("webdataset/", "hf/", "lerobot/", "egovid/")


class PublishedDeliveries:
    """The deliveries in one bucket.

    Every method may raise the errors of :class:`resources.buckets.Bucket`.

    Args:
        url: URL that the deliveries are copied to.
        access: How the bucket is reached.
    """

    def __init__(self, url: str, access: BucketAccess | None = None) -> None:
        self._bucket = Bucket(url, access)

    def uri(self, folder: Path) -> str:
        """Where the copy of a delivery lies or will lie."""
        return self._bucket.uri(_key(folder))

    def is_published(self, folder: Path) -> bool:
        """Whether the copy is whole and holds the files that the folder holds, judged by names and sizes."""
        marker = self._bucket.get(f"{_key(folder)}/{MARKER}")
        if marker is None:
            return False
        try:
            listed = {entry["name"]: entry["bytes"] for entry in json.loads(marker)["files"]}
        except (ValueError, KeyError, TypeError):
            return False
        return listed == {name: path.stat().st_size for name, path in _files(folder)}

    def publish(self, folder: Path) -> str:
        """Make the copy equal to a finished delivery's folder ``.../{name}/{version}``; returns its URL.

        What the folder holds no longer is removed from the bucket, so that a clip that was recalled goes there too.
        """
        key = _key(folder)
        with _locked(folder.parent):
            files = [_described(name, path) for name, path in _files(folder)]
            marker = json.dumps({"format": FORMAT, "files": files}, indent=2).encode() + b"\n"
            if self._bucket.get(f"{key}/{MARKER}") == marker:
                return self.uri(folder)
            # From here on until the end the copy is not whole.
            self._bucket.remove(f"{key}/{MARKER}")
            names = {entry["name"] for entry in files}
            for item in list(self._bucket.list(key)):
                if item.key[len(key) + 1 :] not in names:
                    self._bucket.erase(item.key)
            for entry in files:
                target = f"{key}/{entry['name']}"
                there = self._bucket.info(target)
                if there is None or (there.bytes, there.sha256) != (entry["bytes"], entry["sha256"]):
                    self._bucket.put_file(folder / entry["name"], target, sha256=entry["sha256"])
            self._bucket.put(f"{key}/{MARKER}", marker)
        return self.uri(folder)

    def publish_corrections(self, root: Path) -> None:
        """Copy the list of corrections that lies beside the versions, where there is one."""
        path, key = root / CORRECTIONS, f"{root.name}/{CORRECTIONS}"
        if path.is_file() and self._bucket.get(key) != (content := path.read_bytes()):
            self._bucket.put(key, content)

    def _lists(self, copy: str, clip_id: str) -> bool:
        """Whether the manifest of a copy lists a clip; one that cannot be read may."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = self._bucket.get(f"{copy}/manifest.parquet")
        if content is None:
            return True
        try:
            column = pq.read_table(io.BytesIO(content), columns=["clip_id"])["clip_id"]
        except (OSError, KeyError, pa.ArrowException):
            return True
        return clip_id in column.to_pylist()

    def recall(self, clip_id: str, root: Path) -> list[str]:
        """Take a clip out of all copies for good.

        Args:
            clip_id: The clip.
            root: Folder of the deliveries, from which the clip was taken before. Copies whose folder is still there
                become equal to it, so that its list of recalled clips follows; of the others the clip is removed.

        Returns:
            ``name/version`` of each copy that held the clip.
        """
        found = []
        for name in self._bucket.folders():
            for version in self._bucket.folders(name):
                copy, folder = f"{name}/{version}", root / name / version
                held = [item.key for item in self._bucket.list(copy) if _is_of(item.key, copy, clip_id)]
                if not folder.is_dir() and self._lists(copy, clip_id):
                    # Nothing says which shards and tables it is in: all of them go.
                    held += [item.key for item in self._bucket.list(copy) if _is_mixed(item.key, copy)]
                for key in dict.fromkeys(held):
                    self._bucket.erase(key)
                if held:
                    found.append(copy)
                    if not folder.is_dir():
                        # It lacks something that it lists.
                        self._bucket.remove(f"{copy}/{MARKER}")
                if folder.is_dir() and not self.is_published(folder):
                    self.publish(folder)
        return found


def _is_of(key: str, copy: str, clip_id: str) -> bool:
    return key[len(copy) + 1 :].removeprefix("hdf5/").startswith(clip_id)


def _is_mixed(key: str, copy: str) -> bool:
    """Whether a file may hold several clips."""
    return key[len(copy) + 1 :].startswith(MIXED_FOLDERS)


def _key(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of a delivery's files, sorted; hidden ones are being written."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            yield name, path


def _described(name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"name": name, "bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep out who writes a delivery below ``root`` or takes a clip out of one."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
