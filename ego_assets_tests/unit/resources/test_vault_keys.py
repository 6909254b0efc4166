"""Keys of the vault: made once, never shown, never beside what they lock."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ego_assets.schema.errors import ConfigurationError
from resources.keys import KeyMissing, VaultKey, VaultKeys

ROOT = Path(__file__).resolve().parents[3]
ONE, TWO = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def test_the_key_file_is_made_when_it_is_needed_and_then_kept(tmp_path: Path) -> None:
    keys = VaultKeys(tmp_path / "keys" / "vault.key")
    assert keys.present() is None and dict(keys.known()) == {} and not keys.file.parent.exists()
    made = keys.make()
    assert keys.make() == VaultKeys(keys.file).make() == keys.present() == made
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.file.parent.stat().st_mode) == 0o700
    assert [path.name for path in keys.file.parent.iterdir()] == ["vault.key"]
    written = json.loads(keys.file.read_text())
    assert written["format"] == 1 and written["keys"][0]["key_id"] == made.key_id
    assert base64.b64decode(written["keys"][0]["key"]) == made.secret


RACER = """
import contextlib, pathlib, sys
from resources.keys import VaultKeys

keys, exclusive = VaultKeys(pathlib.Path(sys.argv[1])), VaultKeys._exclusive


@contextlib.contextmanager
def when_all_are_here(self):
    # Every racer has seen by now that there is no key.
    print("here", flush=True)
    sys.stdin.readline()
    with exclusive(self):
        yield


VaultKeys._exclusive = when_all_are_here
print(keys.make().key_id)
"""


def test_processes_that_race_get_one_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path / "keys" / "vault.key")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [subprocess.Popen(command, text=True, cwd=ROOT, **pipes) for _ in range(3)]
    assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["here\n"] * 3
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    made = {racer.communicate()[0].strip() for racer in racers}
    present = VaultKeys(tmp_path / "keys" / "vault.key").present()
    assert present is not None and made == {present.key_id}


def test_a_key_from_the_environment_makes_no_file(tmp_path: Path) -> None:
    keys = VaultKeys(tmp_path / "vault.key", environment_key=ONE, previous=f" {TWO} ,")
    assert keys.source == "environment" and not keys.file.exists()
    assert keys.make() == keys.present() == VaultKey(secret=b"\1" * 32)
    assert [key.secret for key in keys.known().values()] == [b"\1" * 32, b"\2" * 32]
    assert not keys.file.exists()
    with pytest.raises(ConfigurationError, match="EGO_VAULT_PREVIOUS_KEYS"):
        keys.renew()


def test_the_key_file_stays_of_use_after_a_key_came_from_the_environment(tmp_path: Path) -> None:
    generated = VaultKeys(tmp_path / "vault.key").make()
    keys = VaultKeys(tmp_path / "vault.key", environment_key=ONE)
    assert keys.find(generated.key_id) == generated and keys.present() != generated


def test_a_new_key_keeps_the_earlier_ones(tmp_path: Path) -> None:
    keys = VaultKeys(tmp_path / "vault.key")
    first = keys.make()
    second = keys.renew()
    assert keys.present() == second and set(keys.known()) == {first.key_id, second.key_id}
    assert len({item["made_at"] for item in json.loads(keys.file.read_text())["keys"]}) == 2
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600


@pytest.mark.parametrize("inside", ["vault.key", "keys/vault.key", "../vault/x/vault.key"])
def test_the_key_does_not_lie_in_the_vault(tmp_path: Path, inside: str) -> None:
    with pytest.raises(ConfigurationError, match="outside the vault"):
        VaultKeys(tmp_path / "vault" / inside, apart_from=tmp_path / "vault")
    (tmp_path / "link").symlink_to(tmp_path / "vault")
    with pytest.raises(ConfigurationError, match="outside the vault"):
        VaultKeys(tmp_path / "link" / "vault.key", apart_from=tmp_path / "vault")


@pytest.mark.parametrize(
    "text", ["short", "!" * 44, base64.b64encode(b"x" * 16).decode(), "c2VjcmV0 c2VjcmV0"]
)
@pytest.mark.parametrize("name", ["EGO_VAULT_KEY", "EGO_VAULT_PREVIOUS_KEYS"])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, name: str, text: str) -> None:
    given = {"environment_key": text} if name == "EGO_VAULT_KEY" else {"previous": text}
    with pytest.raises(ConfigurationError, match=name) as caught:
        VaultKeys(tmp_path / "vault.key", **given)
    assert text not in str(caught.value)


def test_a_key_that_is_not_known_says_what_to_do(tmp_path: Path) -> None:
    keys = VaultKeys(tmp_path / "vault.key", environment_key=ONE)
    with pytest.raises(KeyMissing, match="EGO_VAULT_PREVIOUS_KEYS") as caught:
        keys.find("0123456789abcdef")
    assert "0123456789abcdef" in str(caught.value) and str(keys.file) in str(caught.value)
    assert not caught.value.about_clip, "it says nothing about the clip: the next run tries again"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "damaged"),
        ('{"format": 1, "keys": []}', "damaged"),
        ('{"format": 2, "keys": []}', "format 2"),
        (json.dumps({"format": 1, "keys": [{"key_id": "0" * 16, "key": ONE}]}), "damaged"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_not_replaced(tmp_path: Path, content: str, problem: str) -> None:
    keys = VaultKeys(tmp_path / "vault.key")
    keys.file.write_text(content)
    for ask in (keys.present, keys.known, keys.make, keys.renew):
        with pytest.raises(ConfigurationError, match=problem) as caught:
            ask()
        assert ONE not in str(caught.value)
    assert keys.file.read_text() == content


def test_no_key_is_shown(tmp_path: Path) -> None:
    keys = VaultKeys(tmp_path / "vault.key", environment_key=ONE, previous=TWO)
    key = keys.make()
    shown = f"{keys} {keys!r} {vars(keys)} {key} {key!r} {dict(keys.known())}"
    assert ONE not in shown and TWO not in shown and repr(key.secret) not in shown
    assert len(key.key_id) == 16 and key.key_id not in key.secret.hex()
    with pytest.raises(ValueError, match="expected 32 bytes, got 3"):
        VaultKey(secret=b"abc")


def test_a_key_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    keys = VaultKeys(tmp_path / "vault.key")
    keys.file.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        keys.present()
