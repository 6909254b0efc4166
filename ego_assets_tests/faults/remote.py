"""The same project on a store in a bucket and on Postgres, and what happens to servers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ego_assets_tests.faults.harness import Ground, Outcome

if TYPE_CHECKING:
    from ego_assets_tests.bucket_server import BucketServer
    from ego_assets_tests.postgres_server import PostgresServer


class BucketGround(Ground):
    """A ground whose store lies in a bucket that can be out of reach.

    Args:
        folder: Where everything else lies.
        server: The S3 server with its faults.
    """

    def __init__(self, folder: Path, *, server: BucketServer) -> None:
        self.server = server
        self._bucket = server.make_bucket()
        access = server.access()
        options: Mapping[str, Any] = {
            "store_url": f"s3://{self._bucket}/store",
            "store_s3_endpoint_url": access.endpoint_url,
            "store_s3_region": access.region,
            "store_aws_access_key_id": access.access_key_id,
            "store_aws_secret_access_key": access.secret_access_key,
            "bucket_max_attempts": 2,
        }
        super().__init__(folder, options=options)

    def _clear(self) -> None:
        super()._clear()
        self.server.faults.reset()
        client = self.server.client("s3")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
            for entry in page.get("Contents", ()):
                client.delete_object(Bucket=self._bucket, Key=entry["Key"])


class PostgresGround(Ground):
    """A ground whose metadata lies on a Postgres that can be killed.

    Args:
        folder: Where everything else lies.
        server: The server.
    """

    def __init__(self, folder: Path, *, server: PostgresServer) -> None:
        super().__init__(folder)
        self.server = server
        self._database: Any = None

    def _clear(self) -> None:
        super()._clear()
        self.close()
        self._database = self.server.database()
        self.options["database_url"] = self._database.__enter__()

    def close(self) -> None:
        """Remove the database."""
        if self._database is not None:
            self._database.__exit__(None, None, None)
            self._database = None


def store_outage(ground: Ground, rng: random.Random) -> Outcome:
    """The bucket answers nothing but 503 for a while, or cuts some answers."""
    assert isinstance(ground, BucketGround)
    faults = ground.server.faults
    after_s, lasts_s = rng.uniform(0, ground.seconds), rng.uniform(0.2, 2.0)
    cuts = rng.random() < 0.4

    def happen(ground: Ground) -> bool:
        if cuts:
            faults.cut(rng.randint(1, 8), method=rng.choice(["GET", "PUT"]))
            faults.drop(rng.randint(0, 4))
        process = ground.child()
        process.join(after_s)
        alive = process.is_alive()
        if not cuts:
            faults.down = True
            process.join(lasts_s)
            faults.down = False
        ground.wait(process)
        faults.reset()
        return alive or cuts

    what = "answers are cut" if cuts else f"503 for {lasts_s:.1f} s after {after_s:.1f} s"
    # A reader would meet the faults in place of the child.
    return ground.disturb("store outage", what, happen, readers=False)


def database_restart(ground: Ground, rng: random.Random) -> Outcome:
    """The Postgres server is killed and started again while the work goes on."""
    assert isinstance(ground, PostgresGround)
    server = ground.server
    after_s = rng.uniform(0, ground.seconds)

    def happen(ground: Ground) -> bool:
        process = ground.child()
        process.join(after_s)
        alive = process.is_alive()
        server.restart()
        ground.wait(process)
        return alive

    return ground.disturb("database restart", f"killed after {after_s:.1f} s", happen, readers=False)
