"""The delivered files of a clip, read from the committed layers in the store when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, BinaryIO

from ego_assets.schema.errors import ArtifactCorrupted
from ego_assets.schema.layers import DeliveryMember, LayerSpec

if TYPE_CHECKING:
    from ego_assets.schema.artifact import ArtifactDocument
    from resources.storage import ArtifactStore

#: Files that are held open: those of the clips whose samples are mixed, and no more.
MOST_OPEN_FILES = 128
_METADATA = "metadata.json"


class OpenFiles:
    """Keeps files of the store open while they are read from again and again; use it as a context manager.

    Args:
        store: The store.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._open: OrderedDict[tuple[str, str, str], BinaryIO] = OrderedDict()

    def get(self, document: ArtifactDocument, name: str) -> BinaryIO:
        """The file, at any position.

        Raises:
            ArtifactMissing: It is gone from the store.
        """
        key = (document.clip_id, document.data_version, name)
        file = self._open.pop(key, None) or self.store.open(document, name)
        self._open[key] = file
        if len(self._open) > MOST_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def close(self) -> None:
        """Close them all."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class StoreClipFiles:
    """Implements :class:`ego_assets.delivery.clip_source.ClipFiles` on the store.

    Args:
        files: The store, and what is open of it.
        package: The committed package of the clip.
        layers: The committed layers that were packed, by name.
        specs: What each of them delivers.
    """

    def __init__(
        self,
        files: OpenFiles,
        *,
        package: ArtifactDocument,
        layers: Mapping[str, ArtifactDocument],
        specs: Sequence[LayerSpec],
    ) -> None:
        self._files = files
        self._package = package
        self._layers = dict(layers)
        self._specs = [spec for spec in specs if spec.deliver is not None and spec.name in layers]

    def sizes(self) -> Mapping[str, int]:
        """Size in bytes by path."""
        return self._sizes

    def read(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            KeyError: The clip has no such file.
            ArtifactCorrupted: The layer that it comes from is shorter than its index says.
            ArtifactMissing: That layer is gone from the store.
        """
        if path == _METADATA:
            return self._files.store.read_bytes(self._package, _METADATA)
        member, size = self._members[path], self._sizes[path]
        document = self._layers[member.layer]
        file = self._files.get(document, member.file)
        file.seek(member.offset)
        content = file.read(size)
        if len(content) != size:
            raise ArtifactCorrupted(
                f"{path} of clip {document.clip_id}: expected {size} bytes in {member.file} of {member.layer}, got "
                f"{len(content)}. Make the layer again: `ego-assets run --clip {document.clip_id} --layer "
                f"{member.layer} --again`."
            )
        return content

    @cached_property
    def _members(self) -> dict[str, DeliveryMember]:
        members: dict[str, DeliveryMember] = {}
        for spec in self._specs:
            document = self._layers[spec.name]
            if spec.deliver is not None:
                for member in spec.deliver(document, partial(self._files.store.read_bytes, document)):
                    members[member.path] = member
        return members

    @cached_property
    def _sizes(self) -> dict[str, int]:
        sizes = {_METADATA: self._package.file(_METADATA).bytes}
        for path, member in self._members.items():
            available = self._layers[member.layer].file(member.file).bytes
            sizes[path] = available - member.offset if member.size is None else member.size
        return sizes
