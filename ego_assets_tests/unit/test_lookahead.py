"""The next clip's frames are got ready while the present one is worked on, and never matter beyond that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ego_assets.lookahead import Lookahead
from ego_assets.media.sampling import sample_frames
from ego_assets_tests.clips import write_clip

NAME = "proxy.mp4"


@dataclass(frozen=True)
class Document:
    """The part of an artifact document that is used."""

    clip_id: str
    version_id: str = "1"


@dataclass
class Store:
    """Videos by clip; notes who opened and gave back what, in which thread."""

    videos: dict[str, Path]
    versions: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, str, bool]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def document(self, clip_id: str, layer: str) -> Any:
        assert layer == "blurred_video"
        known = clip_id in self.videos
        return Document(clip_id, self.versions.get(clip_id, "1")) if known else None

    @contextlib.contextmanager
    def local_path(self, document: Any, name: str) -> Iterator[Path]:
        assert name == NAME
        in_main = threading.current_thread() is threading.main_thread()
        if document.clip_id in self.broken and not in_main:
            raise OSError("the bucket is down")
        self.events.append(("open", document.clip_id, in_main))
        try:
            yield self.videos[document.clip_id]
        finally:
            self.events.append(("close", document.clip_id, in_main))

    @property
    def still_open(self) -> int:
        names = [event[0] for event in self.events]
        return names.count("open") - names.count("close")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(
        {
            name: write_clip(tmp_path / f"{name}.mp4", frames=12 + place, width=64, height=48, rate=12)
            for place, name in enumerate("abc")
        }
    )


def indices(lookahead: Lookahead, store: Store, clip_id: str, rate: float | None = 6.0) -> list[int]:
    """The frames that a layer sees of a clip, checked against a plain look."""
    document = store.document(clip_id, "blurred_video")
    heard: list[tuple[int, int]] = []
    with lookahead.open(
        document, NAME, frames_per_second=rate, progress=lambda done, total: heard.append((done, total))
    ) as sampled:
        frames = list(sampled.stream())
        again = list(sampled.stream())
    plain = sample_frames(store.videos[clip_id], frames_per_second=rate)
    for seen in (frames, again):
        for one, other in zip(seen, plain.stream(), strict=True):
            assert (one.frame_index, one.timestamp_ns) == (other.frame_index, other.timestamp_ns)
            assert np.array_equal(one.image, other.image)
    assert heard[len(frames) - 1] == (len(frames), len(frames))
    return [frame.frame_index for frame in frames]


def test_every_clip_is_seen_as_without_it_and_the_next_one_is_fetched_meanwhile(store: Store) -> None:
    with Lookahead(store, ["a", "b", "c"]) as lookahead:  # type: ignore[arg-type]
        for clip_id in "abc":
            assert indices(lookahead, store, clip_id)[:3] == [0, 2, 4]
    opened = [(clip_id, in_main) for event, clip_id, in_main in store.events if event == "open"]
    assert opened == [("a", True), ("b", False), ("c", False)]
    assert store.still_open == 0


def test_a_version_that_changed_meanwhile_is_opened_anew(store: Store) -> None:
    with Lookahead(store, ["a", "b"]) as lookahead:  # type: ignore[arg-type]
        indices(lookahead, store, "a")
        store.versions["b"] = "2"
        store.videos["b"] = store.videos["c"]
        assert len(indices(lookahead, store, "b", rate=None)) == 14
    assert store.still_open == 0


def test_a_clip_that_is_left_out_is_dropped(store: Store) -> None:
    with Lookahead(store, ["a", "b", "c"]) as lookahead:  # type: ignore[arg-type]
        indices(lookahead, store, "a")
        indices(lookahead, store, "c")
    assert store.still_open == 0


def test_what_cannot_be_fetched_ahead_is_left_to_its_own_turn(store: Store) -> None:
    store.broken.add("b")
    with Lookahead(store, ["a", "b"]) as lookahead:  # type: ignore[arg-type]
        indices(lookahead, store, "a")
        indices(lookahead, store, "b")
    assert store.still_open == 0


def test_a_clip_without_a_committed_version_ends_nothing(store: Store) -> None:
    with Lookahead(store, ["a", "missing", "c"]) as lookahead:  # type: ignore[arg-type]
        indices(lookahead, store, "a")
        indices(lookahead, store, "c")
    assert store.still_open == 0


def test_looking_at_single_frames_fetches_the_next_video_too(store: Store) -> None:
    with Lookahead(store, ["a", "b"]) as lookahead:  # type: ignore[arg-type]
        document = store.document("a", "blurred_video")
        with lookahead.open(document, NAME, frames_per_second=None, progress=lambda *_: None) as sampled:
            (frame,) = sampled.stream(indices=[5])
        assert frame.frame_index == 5
        indices(lookahead, store, "b", rate=None)
    assert [event[1:] for event in store.events if event[0] == "open"] == [("a", True), ("b", False)]
    assert store.still_open == 0


def test_an_error_of_the_layer_gives_everything_back(store: Store) -> None:
    with pytest.raises(RuntimeError), Lookahead(store, ["a", "b"]) as lookahead:  # type: ignore[arg-type]
        document = store.document("a", "blurred_video")
        with lookahead.open(document, NAME, frames_per_second=None, progress=lambda *_: None) as sampled:
            next(iter(sampled.stream()))
            raise RuntimeError("the network fell over")
    assert store.still_open == 0


def test_who_is_interrupted_does_not_wait_for_a_download(store: Store) -> None:
    arrived, may_go_on = threading.Event(), threading.Event()
    local_path = store.local_path

    @contextlib.contextmanager
    def slow(document: Any, name: str) -> Iterator[Path]:
        if threading.current_thread() is not threading.main_thread():
            arrived.set()
            assert may_go_on.wait(20)
        with local_path(document, name) as path:
            yield path

    store.local_path = slow  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), Lookahead(store, ["a", "b"]) as lookahead:  # type: ignore[arg-type]
        document = store.document("a", "blurred_video")
        with lookahead.open(document, NAME, frames_per_second=None, progress=lambda *_: None) as sampled:
            next(iter(sampled.stream()))
            assert arrived.wait(20)
            raise KeyboardInterrupt
    # It came back while the other thread was still waiting.
    assert [event[1] for event in store.events] == ["a", "a"]
    may_go_on.set()
    assert lookahead._thread is not None
    lookahead._thread.join(20)
    assert [event[1] for event in store.events] == ["a", "a", "b", "b"]
