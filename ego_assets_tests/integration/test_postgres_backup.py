"""A backup as the operations guide describes it: pg_dump, and pg_restore into an empty database."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from ego_assets.schema.clip import Clip
from ego_assets.schema.embeddings import Embedding
from ego_assets_tests.postgres_server import PostgresServer
from resources.database import SCHEMA_REVISION, Database
from resources.embeddings import EmbeddingIndex


def run(server: PostgresServer, program: str, url: str, *arguments: str) -> None:
    parts = make_url(url)
    connection = ["-h", parts.host or "", "-p", str(parts.port), "-U", parts.username or ""]
    done = subprocess.run(
        [str(server.programs / program), *connection, "-d", parts.database or "", *arguments],
        env={**os.environ, "PGPASSWORD": parts.password or ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_restored_backup_is_the_same_database(
    postgres_server: PostgresServer, postgres_url: str, empty_postgres_url: str, tmp_path: Path
) -> None:
    if not postgres_server.is_ours:
        pytest.skip("pg_dump of the server that EGO_TEST_POSTGRES_URL names is not at hand")
    database = Database(postgres_url)
    clips = [Clip(clip_id=str(uuid.uuid4()), source_name=f"Küche {n}.mp4") for n in range(3)]
    vector = Embedding("test-v1", np.eye(768, dtype=np.float32)[7])
    for clip in clips:
        database.add_clip(clip)
        database.write_audit(actor="ann", action="look", clip_id=clip.clip_id)
        EmbeddingIndex(database).put(clip.clip_id, vector, data_version="d" * 64)
    dump = tmp_path / "metadata.dump"
    run(postgres_server, "pg_dump", postgres_url, "--format=custom", f"--file={dump}")
    run(
        postgres_server, "pg_restore", empty_postgres_url, "--no-owner", "--exit-on-error",
        "--single-transaction", str(dump),
    )  # fmt: skip

    restored = Database(empty_postgres_url)
    restored.upgrade()
    assert restored._revision() == SCHEMA_REVISION
    assert restored.clips() == database.clips() and restored.audit_log() == database.audit_log()
    assert [n.clip_id for n in EmbeddingIndex(restored).nearest(vector)] == sorted(c.clip_id for c in clips)
    with pytest.raises(DBAPIError, match="append-only"), restored.engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_log"))
    # What is numbered goes on where it stopped.
    restored.write_audit(actor="ann", action="look again")
    assert restored.audit_log()[-1].id == database.audit_log()[-1].id + 1
    database.close()
    restored.close()
