"""The journal of a delivery that is being written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ego_assets.delivery.journal import JOURNAL, HashedFile, Journal


def test_what_is_finished_is_remembered(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.create("a/b.bin") as file:
        file.write(b"content")
    with journal.create_path("c.txt") as path:
        path.write_text("text")
    entries = Journal(tmp_path).entries
    assert {name: (entry.bytes, entry.sha256) for name, entry in entries.items()} == {
        "a/b.bin": (7, hashlib.sha256(b"content").hexdigest()),
        "c.txt": (4, hashlib.sha256(b"text").hexdigest()),
    }
    journal.close()
    assert not (tmp_path / JOURNAL).exists()


@pytest.mark.parametrize("with_path", [False, True])
def test_a_file_that_fails_leaves_nothing(tmp_path: Path, with_path: bool) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        if with_path:
            with journal.create_path("a.bin") as path:
                path.write_bytes(b"half")
                raise RuntimeError("stop")
        else:
            with journal.create("a.bin") as file:
                file.write(b"half")
                raise RuntimeError("stop")
    assert not journal.has("a.bin")
    assert list(tmp_path.iterdir()) == []


def test_what_vanished_or_was_cut_is_not_finished(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in ("kept", "gone", "cut"):
        with journal.create(name) as file:
            file.write(b"12345")
    (tmp_path / "gone").unlink()
    (tmp_path / "cut").write_bytes(b"123")
    with (tmp_path / JOURNAL).open("a") as lines:
        lines.write('["half a li')
    again = Journal(tmp_path)
    assert set(again.entries) == {"kept"}
    with again.create("cut") as file:
        file.write(b"67890")
    assert set(Journal(tmp_path).entries) == {"kept", "cut"}


@given(pieces=st.lists(st.binary(max_size=200_000), max_size=12))
def test_the_digest_is_that_of_the_content(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("hashed") / "file"
    with HashedFile(path) as file:
        for piece in pieces:
            file.write(piece * 40)
    content = path.read_bytes()
    assert content == b"".join(piece * 40 for piece in pieces)
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
