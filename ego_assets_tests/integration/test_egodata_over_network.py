"""The SDK reading a delivery over HTTP and from S3, in a process that has only what the SDK needs."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ego_assets.delivery.egodata import Dataset, EgoDataError
from ego_assets_tests.bucket_server import BucketServer, serve_s3
from ego_assets_tests.delivered_clips import clip_id_of, make_clip
from ego_assets_tests.delivered_folders import write_correction, write_delivery

CLIPS = [make_clip(number, split="train") for number in range(3)]
STEPS = 4 * len(CLIPS)

READ = """
import hashlib, json, os, sys, warnings

class Only:
    allowed = {"numpy", "pyarrow", "PIL", "egodata", *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Only())
sys.path.insert(0, sys.argv[1])
import egodata

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    dataset = egodata.Dataset(sys.argv[2])
digests = {
    f"{step['clip_id']} {step['frame_index']}": [
        hashlib.sha256(step[field].tobytes()).hexdigest() for field in ("rgb", "depth", "mask")
    ]
    for step in dataset.stream(shuffle=5)
}
clips = {}
for info in dataset.clips(complete=["depth"]):
    with dataset.load_clip(info["clip_id"]) as clip:
        clips[clip.clip_id] = [len(clip), clip.hands[0]["frame_index"], clip.table("embedding.parquet").num_rows]
print(json.dumps([digests, clips, [str(warning.message) for warning in caught]], sort_keys=True), flush=True)
os._exit(0)  # pyarrow now and then aborts while it ends its S3 threads, after all work is done
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files whole, as a plain server does, and lists folders."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deliveries in two versions of a name and one with archives alone."""
    root = tmp_path_factory.mktemp("deliveries")
    write_delivery(root / "all" / "v0001", CLIPS)
    write_delivery(root / "folder" / "v0001", CLIPS, formats=("folder",))
    write_delivery(root / "archive" / "v0001", CLIPS, formats=("archive",))
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def bucket(root: Path) -> Iterator[tuple[BucketServer, str]]:
    with serve_s3() as server:
        name = server.make_bucket()
        client = server.client("s3")
        for path in root.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), name, f"deliveries/{path.relative_to(root).as_posix()}")
        yield server, name


def read(root: Path, address: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(root / "all" / "v0001"), address],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def credentials(server: BucketServer) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": server.access_key_id, "AWS_SECRET_ACCESS_KEY": server.secret_access_key}


@pytest.mark.parametrize("form", ["all", "folder", "archive"])
def test_over_http_everything_is_as_in_the_folder(root: Path, address: str, form: str) -> None:
    local = read(root, str(root / form / "v0001"))
    assert local.count("000000") and read(root, f"{address}/{form}/v0001") == local
    assert read(root, f"{address}/{form}/v0001/manifest.parquet") == local


@pytest.mark.parametrize("form", ["all", "folder", "archive"])
def test_from_s3_everything_is_as_in_the_folder(
    root: Path, bucket: tuple[BucketServer, str], form: str
) -> None:
    server, name = bucket
    local = read(root, str(root / form / "v0001"))
    host = server.endpoint_url.removeprefix("http://")
    query = f"?endpoint_override={host}&scheme=http&region={server.region}"
    keys = credentials(server)
    assert read(root, f"s3://{name}/deliveries/{form}/v0001{query}", **keys) == local
    keys |= {"AWS_ENDPOINT_URL": server.endpoint_url, "AWS_DEFAULT_REGION": server.region}
    assert read(root, f"s3://{name}/deliveries/{form}/v0001/", **keys) == local


def test_shards_come_in_few_large_pieces(
    bucket: tuple[BucketServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request per member would make reading from a bucket slow."""
    server, name = bucket
    for variable, value in credentials(server).items():
        monkeypatch.setenv(variable, value)
    host = server.endpoint_url.removeprefix("http://")
    dataset = Dataset(
        f"s3://{name}/deliveries/all/v0001?endpoint_override={host}&scheme=http&region={server.region}"
    )
    server.faults.reset()
    assert len(list(dataset.stream())) == STEPS
    assert server.faults.count("GET", ".tar") <= 2
    server.faults.reset()
    server.faults.fail(50, status=403, contains=".tar")
    with pytest.raises(EgoDataError, match=r"train-000000\.tar"):
        list(dataset.stream())
    server.faults.reset()


def test_what_was_withdrawn_since_is_known_over_http(root: Path, address: str) -> None:
    corrections = root / "folder" / "corrections.parquet"
    write_correction(corrections, clip_id_of(1), version="v0002")
    try:
        with pytest.warns(UserWarning, match=clip_id_of(1)):
            assert len(Dataset(f"{address}/folder/v0001")) == 2
    finally:
        corrections.unlink()


def test_a_delivery_at_the_root_of_a_host(root: Path) -> None:
    handler = functools.partial(Quiet, directory=str(root / "all" / "v0001"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        assert len(list(Dataset(f"http://127.0.0.1:{server.server_address[1]}").stream())) == STEPS
        server.shutdown()


def test_what_cannot_be_reached_is_said(address: str) -> None:
    with pytest.raises(EgoDataError, match=r"manifest\.parquet is not there"):
        Dataset(f"{address}/nothing")
    with pytest.raises(EgoDataError, match="cannot be read"):
        Dataset("http://127.0.0.1:9/delivery")


class Cut(Quiet):
    """Closes the connection in the middle of shards and pictures."""

    def copyfile(self, source, outputfile):  # type: ignore[no-untyped-def]
        content = source.read()
        cut = self.path.endswith((".tar", ".jpg", ".tar.gz"))
        outputfile.write(content[: len(content) // 2 if cut else None])


@pytest.mark.parametrize("form", ["all", "folder", "archive"])
def test_answers_that_end_too_early_are_no_samples(root: Path, form: str) -> None:
    handler = functools.partial(Cut, directory=str(root / form / "v0001"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(EgoDataError, match="copy it again"):
            list(Dataset(f"http://127.0.0.1:{server.server_address[1]}").stream())
        server.shutdown()
