"""Fetches the next clip's video and begins to decode it while the present clip is being worked on."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.progress import ProgressCallback

if TYPE_CHECKING:
    from pathlib import Path

    from ego_assets.media.decode import DecodedFrame, Decoder
    from ego_assets.media.sampling import SampledFrames
    from ego_assets.schema.artifact import ArtifactDocument
    from resources.storage import ArtifactStore


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The frames of one version of one clip's video on one grid."""

    document: ArtifactDocument
    name: str
    frames_per_second: float | None
    decoder: Decoder


class _Ready:
    """A video that is fetched and, where that was asked for, begun to be decoded on its grid."""

    def __init__(self, store: ArtifactStore, wanted: _Wanted, *, begin: bool = False) -> None:
        from ego_assets.media.sampling import sample_frames

        self.wanted = wanted
        self._begun: Iterator[DecodedFrame] | None = None
        self._held = contextlib.ExitStack()
        try:
            path = self._held.enter_context(store.local_path(wanted.document, wanted.name))
            self.sampled = sample_frames(
                path, frames_per_second=wanted.frames_per_second, decoder=wanted.decoder
            )
            if begin:
                self._begin(path)
        except BaseException:
            self._held.close()
            raise

    def _begin(self, path: Path) -> None:
        """Decode the first frame; the decoder goes on by itself, a few frames ahead."""
        frames = self.sampled.decode(path, self.sampled.frame_index.tolist())
        self._held.callback(frames.close)
        first = next(frames, None)
        self._begun = chain([] if first is None else [first], frames)

    def decode(self, video: Path, indices: Sequence[int]) -> Iterator[DecodedFrame]:
        """The frames; those of the grid go on where decoding already is, once."""
        if self._begun is None or not self.is_grid(indices):
            return self.sampled.decode(video, indices)
        frames, self._begun = self._begun, None
        return frames

    def is_grid(self, indices: Sequence[int]) -> bool:
        """Whether these are the frames of the grid."""
        return bool(np.array_equal(indices, self.sampled.frame_index))

    def close(self) -> None:
        """End decoding and give the file back."""
        self._held.close()


class Lookahead:
    """Hands out the frames of the clips of a run, and gets those of the next clip ready meanwhile.

    The next clip is begun when the present one's frames are first asked for; memory is bounded by what a decoder keeps
    ahead. What was made ready and is not what its clip needs in the end is dropped. Errors of a clip come up in its own
    turn only.

    Args:
        store: Where the videos are.
        clip_ids: Clips of the run, in order.
    """

    def __init__(self, store: ArtifactStore, clip_ids: Sequence[str]) -> None:
        self._store = store
        self._next = dict(pairwise(clip_ids))
        self._thread: Thread | None = None
        self._coming: tuple[str, Future[_Ready | None]] | None = None

    def __enter__(self) -> Lookahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._drop()
        # Who is interrupted does not wait for a download: the thread gives back what it gets, or ends with the process.
        if self._thread is not None and (kind is None or issubclass(kind, Exception)):
            self._thread.join()

    @contextlib.contextmanager
    def open(
        self,
        document: ArtifactDocument,
        name: str,
        *,
        frames_per_second: float | None,
        progress: ProgressCallback,
        decoder: Decoder = "cpu",
    ) -> Iterator[SampledFrames]:
        """The frames of a clip's video on a time grid, as :func:`ego_assets.media.sampling.sample_frames` has them.

        Args:
            document: The privacy layer of the clip.
            name: Its file to decode.
            frames_per_second: Rate of the grid; ``None`` for every frame.
            progress: Hears frames done and in total.
            decoder: What decodes, as :class:`ego_assets.media.decode.VideoReader` has it.
        """
        wanted = _Wanted(document=document, name=name, frames_per_second=frames_per_second, decoder=decoder)
        ready = self._take(wanted) or _Ready(self._store, wanted)

        def decode(video: Path, indices: Sequence[int]) -> Generator[DecodedFrame]:
            self._begin_next(wanted, begin=ready.is_grid(indices))
            yield from ready.decode(video, indices)

        with contextlib.closing(ready):
            yield replace(ready.sampled, progress=progress, decode=decode)

    def _begin_next(self, present: _Wanted, *, begin: bool) -> None:
        following = self._next.get(present.document.clip_id)
        if following is None or (self._coming is not None and self._coming[0] == following):
            return
        self._drop()
        future: Future[_Ready | None] = Future()

        def run() -> None:
            try:
                future.set_result(self._prepare(following, present, begin=begin))
            except BaseException as error:
                future.set_exception(error)

        self._coming = following, future
        self._thread = Thread(target=run, name="lookahead", daemon=True)
        self._thread.start()

    def _prepare(self, clip_id: str, present: _Wanted, *, begin: bool) -> _Ready | None:
        document = self._store.document(clip_id, PRIVACY_LAYER)
        if document is None:
            return None
        return _Ready(self._store, replace(present, document=document), begin=begin)

    def _take(self, wanted: _Wanted) -> _Ready | None:
        """What was made ready, where it is what is wanted; nothing where it failed, which its clip will say itself."""
        if self._coming is None or self._coming[0] != wanted.document.clip_id:
            return None
        (_, future), self._coming = self._coming, None
        ready = None if future.exception() is not None else future.result()
        if ready is None or ready.wanted == wanted:
            return ready
        ready.close()
        return None

    def _drop(self) -> None:
        """Give back what is being made ready, as soon as it is."""
        if self._coming is not None:
            self._coming[1].add_done_callback(_close)
            self._coming = None


def _close(future: Future[_Ready | None]) -> None:
    ready = None if future.exception() is not None else future.result()
    if ready is not None:
        ready.close()
