"""Objects in a bucket over HTTP: complete or absent, checksummed, retried; and what failures do to them."""

from __future__ import annotations

import datetime as dt
import importlib
import io
import sys
import uuid
from pathlib import Path

import pytest

from ego_assets.schema.buckets import BucketAccess
from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, TransientError
from ego_assets_tests.bucket_server import BucketServer
from resources import buckets
from resources.buckets import Bucket

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def bucket(bucket_server: BucketServer) -> Bucket:
    bucket = Bucket(f"s3://{bucket_server.make_bucket()}/some/prefix", bucket_server.access())
    return bucket


@pytest.fixture(params=["s3", "memory"])
def any_bucket(request: pytest.FixtureRequest, bucket_server: BucketServer) -> Bucket:
    if request.param == "memory":
        return Bucket(f"memory://{uuid.uuid4().hex}/store")
    return Bucket(f"s3://{bucket_server.make_bucket()}/store", bucket_server.access())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """S3 admits no smaller parts than this, the last one excepted."""
    monkeypatch.setattr(buckets, "PART_BYTES", 5 << 20)
    return 5 << 20


# --- what every service does --------------------------------------------------------------------------


def test_an_object_is_what_was_put(any_bucket: Bucket, tmp_path: Path) -> None:
    any_bucket.put("a/b.bin", CONTENT)
    assert any_bucket.get("a/b.bin") == CONTENT
    any_bucket.put("a/b.bin", b"")
    assert any_bucket.get("a/b.bin") == b""
    (tmp_path / "file").write_bytes(CONTENT)
    any_bucket.put_file(tmp_path / "file", "a/file")
    any_bucket.get_file("a/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "file"]
    assert any_bucket.get("a/none") is None and any_bucket.info("a/none") is None
    with pytest.raises(FileNotFoundError):
        any_bucket.get_file("a/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_info_and_listings(any_bucket: Bucket) -> None:
    for key in ("b/2", "b/1", "a/x/y", "c", "bb"):
        any_bucket.put(key, key.encode())
    assert [item.key for item in any_bucket.list()] == ["a/x/y", "b/1", "b/2", "bb", "c"]
    assert [item.key for item in any_bucket.list("b")] == ["b/1", "b/2"]
    assert [item.key for item in any_bucket.list("b/")] == ["b/1", "b/2"]
    assert list(any_bucket.list("nothing")) == []
    assert any_bucket.folders() == ["a", "b"] and any_bucket.folders("a") == ["x"]
    assert any_bucket.folders("nothing") == []
    info = any_bucket.info("b/1")
    assert info is not None and (info.key, info.bytes) == ("b/1", 3)
    assert abs(dt.datetime.now(dt.UTC) - info.modified_at) < dt.timedelta(minutes=5)
    assert any_bucket.uri("b/1") == f"{any_bucket.url}/b/1"
    # Another process wrote it: nothing is remembered.
    other = Bucket.__new__(Bucket)
    other.__dict__.update(any_bucket.__dict__)
    other.put("b/3", b"3")
    assert [item.key for item in any_bucket.list("b")] == ["b/1", "b/2", "b/3"]


def test_removal(any_bucket: Bucket) -> None:
    for key in ("b/2", "b/1/x", "bb", "c"):
        any_bucket.put(key, b"1")
    assert any_bucket.remove("c") and not any_bucket.remove("c")
    assert any_bucket.erase("b") == 2 and any_bucket.erase("b") == 0
    assert [item.key for item in any_bucket.list()] == ["bb"]
    assert any_bucket.erase("bb") == 1 and list(any_bucket.list()) == []
    with pytest.raises(ValueError, match="key"):
        any_bucket.erase("")


def test_ranges(any_bucket: Bucket) -> None:
    any_bucket.put("o", CONTENT)
    assert any_bucket.get_range("o", 100, 50) == CONTENT[100:150]
    assert any_bucket.get_range("o", len(CONTENT) - 5, 50) == CONTENT[-5:]
    assert any_bucket.get_range("o", len(CONTENT), 50) == b""
    assert any_bucket.get_range("o", 7, 0) == b""
    with pytest.raises(FileNotFoundError):
        any_bucket.get_range("none", 0, 1)
    with pytest.raises(ValueError, match="start"):
        any_bucket.get_range("o", -1, 1)


def test_an_open_object_reads_as_a_file_does(any_bucket: Bucket) -> None:
    any_bucket.put("a/o.bin", CONTENT)
    any_bucket._read_ahead_bytes = 1000
    plain = io.BytesIO(CONTENT)
    with any_bucket.open("a/o.bin") as file:
        assert file.name == "o.bin" and file.seekable() and file.readable()
        for whence, offset, size in [
            (0, 0, 10), (1, 0, 10), (1, 0, 3000), (0, 5, 20), (1, -10, 1500), (2, -7, 100), (2, 10, 5), (0, 9000, -1),
        ]:  # fmt: skip
            assert file.seek(offset, whence) == plain.seek(offset, whence)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    with pytest.raises(FileNotFoundError):
        any_bucket.open("none")


def test_a_stream_becomes_visible_at_its_end_only(any_bucket: Bucket) -> None:
    with any_bucket.upload("o") as file:
        file.write(CONTENT)
        assert any_bucket.get("o") is None
        file.write(b"end")
    assert any_bucket.get("o") == CONTENT + b"end"
    with pytest.raises(RuntimeError), any_bucket.upload("p") as file:
        file.write(CONTENT)
        raise RuntimeError
    assert any_bucket.get("p") is None


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/./b", "a/\0"])
def test_a_key_leads_nowhere_else(any_bucket: Bucket, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        any_bucket.put(key, b"")


# --- large objects ------------------------------------------------------------------------------------


def test_large_objects_go_in_parts_that_carry_checksums(
    bucket: Bucket, bucket_server: BucketServer, small_parts: int, tmp_path: Path
) -> None:
    content = CONTENT * 800
    assert 2 * small_parts < len(content) < 3 * small_parts
    (tmp_path / "large").write_bytes(content)
    bucket.put_file(tmp_path / "large", "file")
    with bucket.upload("stream") as stream:
        for start in range(0, len(content), 1 << 20):
            stream.write(content[start : start + (1 << 20)])
    parts = [request for request in bucket_server.faults.requests if "partNumber" in request.path]
    assert len(parts) == 6 and all("x-amz-checksum-crc32" in part.headers for part in parts)
    assert bucket.get("file") == bucket.get("stream") == content
    bucket.get_file("file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_parts_that_fail_or_are_altered_are_sent_again(
    bucket: Bucket, bucket_server: BucketServer, small_parts: int, tmp_path: Path
) -> None:
    content = CONTENT * 800
    bucket_server.faults.fail(1, status=500, contains="partNumber=2")
    bucket_server.faults.alter(1, contains="partNumber=3")
    bucket_server.faults.drop(1, contains="partNumber=1")
    with bucket.upload("stream") as stream:
        stream.write(content)
    (tmp_path / "large").write_bytes(content)
    bucket_server.faults.alter(1, contains="partNumber=2")
    bucket.put_file(tmp_path / "large", "file")
    assert bucket_server.faults.injected == {"status": 1, "alter": 2, "drop": 1}
    assert bucket.get("file") == bucket.get("stream") == content
    assert bucket.abort_uploads(older_than_s=0.0) == 0


def test_what_an_interrupted_stream_sent_is_removed_at_once(bucket: Bucket, small_parts: int) -> None:
    with pytest.raises(RuntimeError), bucket.upload("stream") as stream:
        stream.write(bytes(small_parts + 1))
        raise RuntimeError
    assert bucket.info("stream") is None and bucket.abort_uploads(older_than_s=0.0) == 0


def test_parts_of_a_process_that_died_are_invisible_and_removable(
    bucket: Bucket, bucket_server: BucketServer
) -> None:
    client = bucket_server.client("s3")
    name = bucket.url.split("/")[2]
    for key in ("some/prefix/a/dead", "some/prefix/ab/dead", "elsewhere/dead"):
        upload = client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
        client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    assert list(bucket.list()) == []
    assert bucket.abort_uploads(older_than_s=0.0, prefix="a") == 1
    assert bucket.abort_uploads(older_than_s=0.0) == 1
    left = client.list_multipart_uploads(Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["elsewhere/dead"]


# --- a service that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["fail", "drop", "cut", "alter_answer"])
def test_a_read_survives_what_passes(bucket: Bucket, bucket_server: BucketServer, fault: str) -> None:
    bucket.put("o", CONTENT)
    getattr(bucket_server.faults, fault)(2, method="GET")
    assert bucket.get("o") == CONTENT
    assert bucket_server.faults.injected.total() == 2


def test_a_file_is_fetched_whole_although_bodies_are_cut(
    bucket: Bucket, bucket_server: BucketServer, tmp_path: Path
) -> None:
    bucket.put("o", CONTENT)
    bucket_server.faults.cut(2)
    bucket.get_file("o", tmp_path / "o")
    assert (tmp_path / "o").read_bytes() == CONTENT
    assert bucket_server.faults.injected["cut"] == 2


@pytest.mark.parametrize("fault", ["fail", "drop", "alter"])
def test_a_write_survives_what_passes(
    bucket: Bucket, bucket_server: BucketServer, fault: str, tmp_path: Path
) -> None:
    getattr(bucket_server.faults, fault)(2, method="PUT")
    bucket.put("o", CONTENT)
    (tmp_path / "file").write_bytes(CONTENT)
    getattr(bucket_server.faults, fault)(1, method="PUT")
    bucket.put_file(tmp_path / "file", "file")
    assert bucket_server.faults.injected.total() == 3
    assert bucket.get("o") == bucket.get("file") == CONTENT


def test_a_slow_answer_is_asked_for_again(bucket_server: BucketServer) -> None:
    bucket = Bucket(f"s3://{bucket_server.make_bucket()}", bucket_server.access(timeout_s=0.4))
    bucket.put("o", CONTENT)
    bucket_server.faults.slow(1, delay_s=1.0, method="GET")
    assert bucket.get("o") == CONTENT
    assert bucket_server.faults.count("GET") == 2


def test_a_body_that_is_altered_each_time_is_refused_and_not_stored(
    bucket: Bucket, bucket_server: BucketServer
) -> None:
    bucket.put("o", b"before")
    bucket_server.faults.alter(100)
    with pytest.raises(TransientError, match="undamaged, 3 times"):
        bucket.put("o", CONTENT)
    assert bucket.get("o") == b"before"
    bucket_server.faults.alter_answer(100)
    with pytest.raises(TransientError, match="undamaged, 3 times"):
        bucket.get("o")


def test_a_service_that_stays_down_is_said_so_after_the_agreed_tries(
    bucket: Bucket, bucket_server: BucketServer, tmp_path: Path
) -> None:
    bucket.put("o", CONTENT)
    file = bucket.open("o")
    bucket_server.faults.reset()
    bucket_server.faults.down = True
    with pytest.raises(TransientError, match=r"s3://\S+/some/prefix/o cannot be reached.*Try again later"):
        bucket.get("o")
    assert bucket_server.faults.count() == 3
    for call in (
        lambda: bucket.put("o", b""),
        lambda: bucket.info("o"),
        lambda: list(bucket.list()),
        lambda: bucket.get_file("o", tmp_path / "o"),
        lambda: file.read(),
    ):
        with pytest.raises(TransientError):
            call()
    assert list(tmp_path.iterdir()) == []
    nobody = BucketAccess(
        endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key="b", max_attempts=2
    )
    with pytest.raises(TransientError, match="cannot be reached"):
        Bucket("s3://bucket", nobody).get("o")


def test_what_does_not_pass_is_not_tried_again(bucket: Bucket, bucket_server: BucketServer) -> None:
    bucket_server.faults.fail(10, status=403)
    with pytest.raises(ConfigurationError, match=r"EGO_\*_AWS_ACCESS_KEY_ID.*STORE, VAULT or UPLOADS"):
        bucket.get("o")
    assert bucket_server.faults.count() == 1


def test_a_bucket_that_does_not_exist_is_no_missing_object(bucket_server: BucketServer) -> None:
    bucket = Bucket("s3://nobody-made-this/prefix", bucket_server.access())
    for call in (lambda: bucket.get("o"), lambda: bucket.info("o"), lambda: list(bucket.list())):
        with pytest.raises(ConfigurationError, match="nobody-made-this"):
            call()


def test_no_credentials_and_no_profile(bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    endpoint = bucket_server.endpoint_url
    with pytest.raises(ConfigurationError, match="credentials"):
        Bucket("s3://bucket", BucketAccess(endpoint_url=endpoint)).get("o")
    with pytest.raises(ConfigurationError, match="someone"):
        Bucket("s3://bucket", BucketAccess(endpoint_url=endpoint, aws_profile="someone")).get("o")


# --- encryption, versions, schemes --------------------------------------------------------------------


def test_every_write_asks_for_the_kms_key(
    bucket_server: BucketServer, small_parts: int, tmp_path: Path
) -> None:
    name = bucket_server.make_bucket()
    bucket = Bucket(f"s3://{name}", bucket_server.access(kms_key_id="alias/ego"))
    bucket.put("put", b"1")
    (tmp_path / "large").write_bytes(bytes(2 * small_parts + 1))
    bucket.put_file(tmp_path / "large", "file", sha256="ab")
    with bucket.upload("stream") as stream:
        stream.write(bytes(small_parts + 1))
    client = bucket_server.client("s3")
    for key in ("put", "file", "stream"):
        found = client.head_object(Bucket=name, Key=key)
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", "alias/ego"), key
    info = bucket.info("file")
    assert info is not None and info.sha256 == "ab"


def test_erasing_takes_earlier_versions_too(bucket_server: BucketServer) -> None:
    name = bucket_server.make_bucket()
    client = bucket_server.client("s3")
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    bucket = Bucket(f"s3://{name}/p", bucket_server.access())
    for key in ("a/1", "a/1", "a/2", "ab/1"):
        bucket.put(key, b"x")
    bucket.remove("a/2")
    assert bucket.erase("a") == 2
    left = client.list_object_versions(Bucket=name)
    assert [version["Key"] for version in left["Versions"]] == ["p/ab/1"] and "DeleteMarkers" not in left


def test_a_read_elsewhere_is_one_request_and_going_forward_fetches_ahead(
    bucket: Bucket, bucket_server: BucketServer
) -> None:
    bucket.put("o", CONTENT)
    file = bucket.open("o")
    bucket_server.faults.reset()
    file.seek(5000)
    assert file.read(100) == CONTENT[5000:5100]
    assert [request.range for request in bucket_server.faults.requests] == ["bytes=5000-5099"]
    for start in range(5100, 9100, 100):
        assert file.read(100) == CONTENT[start : start + 100]
    assert bucket_server.faults.count() == 2


def test_google_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # What fsspec imported before it remembers by scheme.
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "gs", raising=False)
    with pytest.raises(BackendUnavailable, match=r"ego-assets\[gcs\]"):
        Bucket("gs://bucket/prefix")


@pytest.mark.parametrize("url", ["bucket/prefix", "s3://", "nosuch://bucket"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Correct"):
        Bucket(url)


def test_secrets_are_not_shown(bucket: Bucket, bucket_server: BucketServer) -> None:
    assert bucket_server.secret_access_key not in repr(bucket)
    bucket_server.faults.fail(10, status=403)
    with pytest.raises(ConfigurationError) as error:
        bucket.get("o")
    assert bucket_server.secret_access_key not in str(error.value)
