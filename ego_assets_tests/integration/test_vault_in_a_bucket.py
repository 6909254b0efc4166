"""The vault by URL gives the guarantees of the folder: encrypted, audited, exclusive, nothing half-written."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from ego_assets.schema.errors import ArtifactMissing, ConfigurationError, TransientError, UploadRejected
from ego_assets.schema.vocabulary import VaultPurpose
from ego_assets.settings import Settings
from ego_assets_tests.bucket_server import BucketServer
from ego_assets_tests.clips import write_clip
from ego_assets_tests.vault_contents import clear_contents
from resources.database import Database
from resources.keys import VaultKeys
from resources.platform import open_vault
from resources.vault import Vault, VaultError

CLIP = "3b241101-e2bb-4255-8caf-4136c566a962"
OTHER = "9a1e2f3c-0000-4000-8000-000000000001"
MARKER = b"a marker that is in every file"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'metadata.db'}")
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def make_vault(tmp_path: Path, database: Database, bucket_server: BucketServer) -> Callable[..., Vault]:
    url = f"s3://{bucket_server.make_bucket()}/vault"

    def make(**options: object) -> Vault:
        keys = VaultKeys(tmp_path / "keys" / "vault.key", **options)  # type: ignore[arg-type]
        return Vault(url, database, keys=keys, access=bucket_server.access())

    return make


def objects(vault: Vault) -> dict[str, bytes]:
    """Everything in the bucket as it lies there."""
    return {key: vault._place.get(key) or b"" for key in vault._place.keys("")}


def read(vault: Vault, clip_id: str = CLIP) -> bytes:
    with vault.open(clip_id, purpose=VaultPurpose.INGEST, actor="test") as original:
        return original.read()


def write(tmp_path: Path, name: str, content: bytes = MARKER) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_originals_come_and_go_encrypted(
    make_vault: Callable[..., Vault], tmp_path: Path, database: Database
) -> None:
    vault = make_vault()
    write(tmp_path, "clip.json")
    source = write(tmp_path, "clip.mp4")
    stored = vault.take(CLIP, source, move=True, actor="test")
    assert not source.exists() and not (tmp_path / "clip.json").exists()
    assert vault.take(CLIP, source, move=True, actor="test") == stored
    assert read(vault) == MARKER
    assert set(objects(vault)) == {
        "vault.json",
        *(f"originals/{CLIP}/{name}" for name in ("original.json", "original.mp4", "original.mp4.key.json")),
        *(f"originals/{CLIP}/{name}" for name in ("sidecar.json", "sidecar.json.key.json")),
    }
    assert not [key for key, content in objects(vault).items() if MARKER in content]
    assert [entry.action for entry in database.audit_log(CLIP)] == ["vault.take", "vault.open"]
    with pytest.raises(UploadRejected, match="never reused"):
        vault.take(CLIP, write(tmp_path, "other.mp4", b"x"), move=True, actor="test")
    assert vault.erase(CLIP) == 2
    assert set(objects(vault)) == {"vault.json"}
    with pytest.raises(ArtifactMissing):
        read(vault)


def test_a_video_is_decoded_from_the_bucket_by_ranges(
    make_vault: Callable[..., Vault], tmp_path: Path, bucket_server: BucketServer
) -> None:
    vault = make_vault()
    source = write_clip(tmp_path / "clip.mp4", frames=30)
    vault.take(CLIP, source, move=False, actor="test")
    with vault.open(CLIP, purpose=VaultPurpose.DEIDENTIFY, actor="test") as original:
        assert original.name == "original.mp4" and original.seekable()
        original.seek(-100, io.SEEK_END)
        assert original.read() == source.read_bytes()[-100:]
        original.seek(0)
        with av.open(original) as container:
            assert sum(1 for _ in container.decode(video=0)) == 30
    ranges = [request.range for request in bucket_server.faults.requests if request.range]
    assert ranges, "the whole object was fetched"


def test_rejected_uploads_and_quarantine(make_vault: Callable[..., Vault], tmp_path: Path) -> None:
    vault = make_vault()
    kept = [
        vault.reject(write(tmp_path, "bad\n.mp4"), code="c", reason="r", move=True, actor="test")
        for _ in range(2)
    ]
    assert [key.rpartition("/")[2] for key in kept] == ["bad_.mp4", "bad_-2.mp4"]
    vault.take(CLIP, write(tmp_path, "clip.mp4"), move=True, actor="test")
    kept.append(vault.reject_stored(CLIP, code="c", reason="r", actor="test"))
    for key in kept:
        with vault.open_rejected(key, purpose=VaultPurpose.REVIEW, actor="test") as stream:
            assert stream.read() == MARKER
    version = tmp_path / "version"
    (version / "rgb").mkdir(parents=True)
    write(version / "rgb", "0.jpg")
    with vault.quarantine(3) as quarantine:
        quarantine.take(version, "frames", "v")
        assert not version.exists()
        quarantine.take(write(tmp_path, "0.jpg"), "frames", "v")
        quarantine.restrict()
        assert quarantine.names() == ["frames/v-2", "frames/v/rgb/0.jpg"]
        assert set(clear_contents(vault, "quarantine/3/").values()) == {MARKER}
        assert not [key for key, content in objects(vault).items() if MARKER in content]
        assert quarantine.purge() == 2
        assert quarantine.names() == [] and quarantine.purge() == 0


def test_keys_change_and_clear_objects_are_encrypted(
    make_vault: Callable[..., Vault], tmp_path: Path
) -> None:
    make_vault(encrypts=False).take(CLIP, write(tmp_path, "a.mp4"), move=False, actor="test")
    vault = make_vault()
    assert read(vault) == MARKER and vault.status().clear == 1
    assert vault.encrypt(actor="test") == 1
    before = objects(vault)
    assert vault.rotate(actor="test", new_key=True) == 1
    assert objects(vault)[f"originals/{CLIP}/original.mp4"] == before[f"originals/{CLIP}/original.mp4"]
    assert vault.rotate(actor="test", contents_too=True) == 1
    assert objects(vault)[f"originals/{CLIP}/original.mp4"] != before[f"originals/{CLIP}/original.mp4"]
    assert read(vault) == MARKER
    assert not [key for key, content in objects(vault).items() if MARKER in content]


def test_an_outage_leaves_the_upload_and_no_half_original(
    make_vault: Callable[..., Vault], tmp_path: Path, bucket_server: BucketServer
) -> None:
    vault = make_vault()
    source = write(tmp_path, "clip.mp4")
    vault.reject(write(tmp_path, "first.mp4"), code="c", reason="r", move=True, actor="test")
    for allowed in range(1, 40):
        bucket_server.faults.reset()
        seen = 0
        take = bucket_server.faults.take

        def falling(request: object, take: Callable[..., object] = take, allowed: int = allowed) -> object:
            nonlocal seen
            seen += 1
            bucket_server.faults.down = seen > allowed
            return take(request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket_server.faults, "take", falling)
            patch.setattr("resources.buckets._pause", lambda attempt: None)
            patch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
            try:
                vault.take(CLIP, source, move=True, actor="test")
                break
            except TransientError:
                assert source.read_bytes() == MARKER
        bucket_server.faults.reset()
        with pytest.raises(ArtifactMissing):
            read(vault)
    assert allowed > 5 and not source.exists()
    bucket_server.faults.reset()
    assert read(vault) == MARKER


def test_an_object_that_was_changed_is_told(make_vault: Callable[..., Vault], tmp_path: Path) -> None:
    vault = make_vault()
    key = vault.take(CLIP, write(tmp_path, "clip.mp4"), move=False, actor="test").key
    content = vault._place.get(key) or b""
    vault._place.put(key, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VaultError, match=f"original of clip {CLIP} cannot be read"):
        read(vault)
    with pytest.raises(VaultError, match="cannot be read"):
        vault.take(CLIP, tmp_path / "clip.mp4", move=True, actor="test")
    assert (tmp_path / "clip.mp4").exists()


def test_takers_of_one_clip_wait_for_one_another(make_vault: Callable[..., Vault], tmp_path: Path) -> None:
    vault = make_vault()
    sources = [write(tmp_path, f"{number}.mp4", bytes([number])) for number in range(3)]
    outcomes: list[str] = []

    def run(source: Path) -> None:
        try:
            vault.take(CLIP, source, move=True, actor="test")
            outcomes.append("taken")
        except UploadRejected as rejection:
            outcomes.append(rejection.code)

    threads = [threading.Thread(target=run, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["clip_id_taken"] * 2 + ["taken"]
    assert {read(vault), *(path.read_bytes() for path in tmp_path.glob("*.mp4"))} == {b"\0", b"\1", b"\2"}


def test_the_settings_name_bucket_credentials_and_key(
    tmp_path: Path, database: Database, bucket_server: BucketServer
) -> None:
    bucket = bucket_server.make_bucket()
    settings = Settings(
        data_dir=tmp_path / "data",
        vault_url=f"s3://{bucket}/originals-of-the-project",
        vault_s3_endpoint_url=bucket_server.endpoint_url,
        vault_s3_region=bucket_server.region,
        vault_aws_access_key_id=bucket_server.access_key_id,
        vault_aws_secret_access_key=bucket_server.secret_access_key,
        vault_s3_kms_key_id="alias/originals",
    )
    vault = open_vault(settings, database)
    stored = vault.take(CLIP, write(tmp_path, "clip.mp4"), move=True, actor="test")
    assert read(vault) == MARKER
    assert not settings.vault.exists() and settings.vault_key_path.exists()
    head = bucket_server.client("s3").head_object(Bucket=bucket, Key=f"originals-of-the-project/{stored.key}")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/originals")
    sent = [request for request in bucket_server.faults.requests if request.method == "PUT"]
    assert sent and all("testing" in request.headers["authorization"] for request in sent)


def test_a_bucket_that_is_not_there_is_a_setting_to_correct(
    tmp_path: Path, database: Database, bucket_server: BucketServer
) -> None:
    keys = VaultKeys(tmp_path / "vault.key")
    vault = Vault("s3://no-such-bucket-here", database, keys=keys, access=bucket_server.access())
    source = write(tmp_path, "clip.mp4")
    with pytest.raises(ConfigurationError, match="no-such-bucket-here"):
        vault.take(CLIP, source, move=True, actor="test")
    assert source.exists()


def test_other_services_give_the_same_guarantees(tmp_path: Path, database: Database) -> None:
    vault = Vault(f"memory://{uuid.uuid4().hex}/vault", database, keys=VaultKeys(tmp_path / "vault.key"))
    vault.take(CLIP, write(tmp_path, "clip.mp4"), move=True, actor="test")
    key = vault.reject(
        write(tmp_path, "bad.mp4"), code="c", reason="r", move=True, actor="test", clip_id=OTHER
    )
    assert read(vault) == MARKER
    assert clear_contents(vault, "rejected/") == {key.removeprefix("rejected/"): MARKER}
    assert not [key for key, content in objects(vault).items() if MARKER in content]
    assert vault.erase(CLIP) == 2, "the rejected upload has the content of the original"
    assert set(objects(vault)) == {"vault.json"}
