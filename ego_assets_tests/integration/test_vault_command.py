"""``ego-assets vault`` and what ``doctor`` says of the vault's encryption."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ego_assets.doctor import Finding, examine
from ego_assets.settings import load_settings
from ego_assets.trial import try_layer
from ego_assets_tests.clips import write_clip
from ego_assets_tests.integration.test_command_line import CommandLine, command_line

KEY, NEW_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


@pytest.fixture
def ego(tmp_path: Path) -> Iterator[CommandLine]:
    with command_line(tmp_path / "data") as command:
        yield command


def finding() -> Finding:
    load_settings.cache_clear()
    [found] = [item for item in examine(load_settings()) if item.subject == "vault encryption"]
    return found


def ingest(ego: CommandLine, tmp_path: Path, *, seed: int = 0) -> str:
    path = write_clip(tmp_path / "in" / f"{seed}.mp4", seed=seed, frames=5)
    outcome = ego("ingest", path, "--json")
    assert outcome.code == 0, outcome.err
    return str(outcome.json["ingested"][0]["clip_id"])


def test_from_clear_to_encrypted_to_a_new_key(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGO_VAULT_ENCRYPTION", "off")
    before = finding()
    assert before.state == "note" and "off" in before.found and "EGO_VAULT_ENCRYPTION" in before.advice
    clip_id = ingest(ego, tmp_path)
    assert ego("vault", "encrypt").code == 2, "it is switched off"
    monkeypatch.delenv("EGO_VAULT_ENCRYPTION")
    clear = finding()
    assert clear.state == "note" and "1 clear" in clear.found and "vault encrypt" in clear.advice
    assert "encrypts what is clear" in ego("vault", "status").out
    assert ego("vault", "encrypt", "--json").json == {"encrypted": 1}
    sealed = finding()
    assert sealed.state == "ok" and "1 file(s) with key" in sealed.found and "key file" in sealed.found
    first = ego("vault", "status", "--json").json
    assert (first["clear"], first["encrypted"]) == (0, {first["present_key"]: 1})
    assert first["key_source"] == "file" and first["encryption"] == "on"
    rotated = ego("vault", "rotate", "--new-key")
    assert "1 file(s) rotated" in rotated.out and "copy of the key file" in rotated.out
    second = ego("vault", "status", "--json").json
    assert second["present_key"] != first["present_key"] and second["encrypted"] == {second["present_key"]: 1}
    original = ego.data / "vault" / "originals" / clip_id / "original.mp4"
    assert original.read_bytes().startswith(b"EGOVAULT")
    assert ego("run", "--clip", clip_id, "--layer", "clip_quality").code == 0
    actions = {row["action"] for row in ego("audit", "--json").json}
    assert {"vault.take", "vault.encrypt", "vault.rotate", "vault.new_key", "vault.open"} <= actions


def test_keys_from_the_environment(ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_VAULT_KEY", KEY)
    ingest(ego, tmp_path)
    assert finding().state == "ok" and "EGO_VAULT_KEY" in finding().found
    assert not (ego.data / "keys").exists()
    assert ego("vault", "rotate", "--new-key").code == 2
    monkeypatch.setenv("EGO_VAULT_KEY", NEW_KEY)
    lost = finding()
    assert lost.state == "missing" and "EGO_VAULT_PREVIOUS_KEYS" in lost.advice
    status = ego("vault", "status")
    assert status.code == 1 and "not known here" in status.out
    assert ego("vault", "status", "--json").code == 1
    monkeypatch.setenv("EGO_VAULT_PREVIOUS_KEYS", KEY)
    assert finding().state == "note" and "vault rotate" in finding().advice
    assert ego("vault", "rotate", "--json").json == {"rotated": 1}
    monkeypatch.delenv("EGO_VAULT_PREVIOUS_KEYS")
    assert finding().state == "ok" and ego("vault", "status").code == 0
    shown = ego("vault", "status").out + ego("doctor").out + json.dumps(finding().as_dict())
    assert KEY not in shown and NEW_KEY not in shown


def test_a_key_that_is_none_stops_every_command(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGO_VAULT_KEY", "not-a-key")
    outcome = ego("ingest", write_clip(tmp_path / "a.mp4", frames=5))
    assert outcome.code == 2 and "EGO_VAULT_KEY" in outcome.err and "not-a-key" not in outcome.err
    assert finding().state == "missing" and "EGO_VAULT_KEY" in finding().advice
    monkeypatch.setenv("EGO_VAULT_KEY", "")
    monkeypatch.setenv("EGO_VAULT_KEY_FILE", str(ego.data / "vault" / "vault.key"))
    assert finding().state == "missing" and "outside the vault" in finding().advice


def test_a_key_file_that_others_can_read_is_noted(ego: CommandLine, tmp_path: Path) -> None:
    assert finding().state == "ok" and "made with the first original" in finding().found
    ingest(ego, tmp_path)
    key_file = ego.data / "keys" / "vault.key"
    key_file.chmod(0o644)
    assert finding().state == "note" and f"chmod 600 {key_file}" in finding().advice


def test_an_envelope_that_is_gone_is_noted(ego: CommandLine, tmp_path: Path) -> None:
    clip_id = ingest(ego, tmp_path)
    (ego.data / "vault" / "originals" / clip_id / "original.mp4.key.json").unlink()
    assert finding().state == "note" and "vault status" in finding().advice
    status = ego("vault", "status")
    assert status.code == 1 and clip_id in status.err


def test_clear_copies_are_audited(ego: CommandLine, tmp_path: Path) -> None:
    clip_id = ingest(ego, tmp_path)
    target = tmp_path / "copy.mp4"
    assert ego("vault", "export", clip_id, target).code == 0
    assert target.read_bytes() == (tmp_path / "in" / "0.mp4").read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert ego("vault", "export", clip_id, target).code == 2, "nothing is overwritten"
    (tmp_path / "notes.txt").write_text("text")
    key = ego.project.vault.reject(tmp_path / "notes.txt", code="c", reason="r", move=True, actor="test")
    assert ego("vault", "export", key, tmp_path / "notes").code == 0
    assert (tmp_path / "notes").read_text() == "text"
    for wrong in ("rejected/../originals", "rejected/2026-01-01/gone.mp4", "nonsense"):
        assert ego("vault", "export", wrong, tmp_path / "no").code in (1, 2)
    assert not (tmp_path / "no").exists()
    rows = [row for row in ego("audit", "--json").json if row["action"] == "vault.open"]
    assert {(row["purpose"], row["detail"]) for row in rows} == {
        ("review", ""),
        # Which file, but not its name.
        ("review", f"{key.rpartition('/')[0]}/sha256:{hashlib.sha256(b'notes.txt').hexdigest()[:16]}"),
        ("review", f"rejected/2026-01-01/sha256:{hashlib.sha256(b'gone.mp4').hexdigest()[:16]}"),
    }


def test_a_trial_leaves_vault_and_key_of_the_project_alone(
    ego: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGO_VAULT_URL", "memory://vault-of-the-project/x")
    monkeypatch.setenv("EGO_VAULT_KEY_FILE", str(tmp_path / "secret" / "vault.key"))
    load_settings.cache_clear()
    try_layer("clip_quality", write_clip(tmp_path / "a.mp4", frames=5), tmp_path / "out")
    assert not (tmp_path / "secret").exists()
    assert not list(ego.project.vault._contents())
