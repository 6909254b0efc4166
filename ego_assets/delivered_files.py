"""The delivered files of a clip, read from the committed layers in the store when they are asked for."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from ego_assets.schema.errors import ArtifactCorrupted, ArtifactMissing
from ego_assets.schema.layers import DeliveryMember, LayerSpec

if TYPE_CHECKING:
    from ego_assets.schema.artifact import ArtifactDocument
    from resources.storage import ArtifactStore

#: Files that are held open: those of the clips whose samples are mixed, and no more.
MOST_OPEN_FILES = 128
#: Lists of files, and documents, that are kept: two of each clip whose samples are mixed, and some more.
MOST_REMEMBERED = 80
_METADATA = "metadata.json"

_T = TypeVar("_T")
_Listed = tuple[dict[str, DeliveryMember], dict[str, int], dict[str, "ArtifactDocument"]]


class OpenFiles:
    """Keeps files of the store open while they are read from again and again; use it as a context manager.

    Args:
        store: The store.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._open: OrderedDict[tuple[str, str, str], BinaryIO] = OrderedDict()
        self._made: OrderedDict[tuple[str, str], Any] = OrderedDict()

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

    def remember(self, key: tuple[str, str], make: Callable[[], _T]) -> _T:
        """What was made under this key, or made now; only that of the clips that were asked for last is kept."""
        made = self._made.pop(key, None)
        if made is None:
            made = make()
        self._made[key] = made
        if len(self._made) > MOST_REMEMBERED:
            self._made.popitem(last=False)
        return cast("_T", made)

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
        specs: What each layer delivers.
    """

    def __init__(self, files: OpenFiles, *, package: ArtifactDocument, specs: Sequence[LayerSpec]) -> None:
        self._files = files
        self._package = package
        self._specs = specs

    def documents(self) -> dict[str, ArtifactDocument]:
        """The layers that were packed and that deliver something, by name.

        Raises:
            ArtifactMissing: One was made anew since.
        """
        found: dict[str, ArtifactDocument] = {}
        for spec in self._specs:
            packed = self._package.inputs.get(spec.name)
            if spec.deliver is None or packed is None:
                continue
            document = self._files.store.document(self._package.clip_id, spec.name)
            if document is None or document.data_version != packed:
                raise ArtifactMissing(
                    f"Clip {self._package.clip_id}: {spec.name} was made anew after it was packed. Pack it again: "
                    f"`ego-assets run --clip {self._package.clip_id}`."
                )
            found[spec.name] = document
        return found

    def sizes(self) -> Mapping[str, int]:
        """Size in bytes by path."""
        return self._listed[1]

    def read(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            KeyError: The clip has no such file.
            ArtifactCorrupted: The layer that it comes from is shorter than its index says.
            ArtifactMissing: That layer is gone from the store.
        """
        if path == _METADATA:
            return self._files.store.read_bytes(self._package, _METADATA)
        members, sizes, documents = self._listed
        member, size = members[path], sizes[path]
        document = documents[member.layer]
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

    @property
    def _listed(self) -> _Listed:
        return self._files.remember((self._package.clip_id, "files"), self._list)

    def _list(self) -> _Listed:
        """Where each file lies, and its size, by path."""
        documents = self.documents()
        members: dict[str, DeliveryMember] = {}
        sizes = {_METADATA: self._package.file(_METADATA).bytes}
        for spec in self._specs:
            document = documents.get(spec.name)
            if document is not None and spec.deliver is not None:
                for member in spec.deliver(document, partial(self._files.store.read_bytes, document)):
                    members[member.path] = member
                    available = document.file(member.file).bytes
                    sizes[member.path] = available - member.offset if member.size is None else member.size
        return members, sizes, documents


class StoredMetadata(Mapping[str, Any]):
    """The ``metadata.json`` of a packed clip, read when it is asked for.

    Args:
        files: The store, and what was read of it.
        package: The committed package of the clip.
    """

    def __init__(self, files: OpenFiles, package: ArtifactDocument) -> None:
        self._files = files
        self._package = package

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    @property
    def _content(self) -> dict[str, Any]:
        return self._files.remember((self._package.clip_id, _METADATA), self._read)

    def _read(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._files.store.read_bytes(self._package, _METADATA))
        return content
