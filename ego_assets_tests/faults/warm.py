"""Imported once by the process that the children are forked from: what a child would import and set up itself."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from pathlib import Path


def _warm_up() -> None:
    import cv2

    # Threads do not survive a fork.
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from ego_assets_tests.clips import write_clip
    from ego_assets_tests.faults import worker

    folder = Path(tempfile.mkdtemp(prefix="ego_faults_warm_"))
    try:
        data = folder / "data"
        write_clip(data / "uploads" / "clip.mp4")
        project = worker.open_project(data, {})
        worker.take_uploads(project)
        worker.run_pending(project, ())
        worker.deliver(project)
        project.database.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    import dagster  # noqa: F401

    import ego_assets.cli
    import ego_assets.definitions  # noqa: F401


_warm_up()
