"""What orchestration costs beside the work itself, and what importing the definitions costs.

Layers with the real specifications and gates, but with functions that write one small file, run over real
instances: Dagster on SQLite, the metadata database, the artifact store.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import uuid
import warnings
from pathlib import Path

from _harness import Reporter, alternate, child_cpu_seconds, cpu_seconds, parse_arguments

RANGE_TARGET = 0.3
CLIPS = 50
QUICK_CLIPS = 15


def main() -> None:
    options = parse_arguments(__doc__)
    reporter = Reporter("orchestration")
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    runs, clips = (1, QUICK_CLIPS) if options.quick else (3, CLIPS)
    in_range = [run_clips(clips) for _ in range(runs)]
    reporter.report(
        f"{clips}-clip range run, per clip and layer",
        statistics.median(in_range),
        "CPU seconds",
        target=RANGE_TARGET,
    )
    single = [run_clips(1) for _ in range(2 if options.quick else 5)]
    reporter.report("single-clip run, per clip and layer", statistics.median(single), "CPU seconds")
    imports = alternate(
        {
            "import dagster": lambda: import_cost("dagster"),
            "import ego_assets.definitions": lambda: import_cost("ego_assets.definitions"),
        },
        runs=3 if options.quick else 7,
    )
    base = statistics.median(imports["import dagster"])
    reporter.report("import dagster", base, "CPU seconds")
    reporter.report(
        "import ego_assets.definitions",
        statistics.median(imports["import ego_assets.definitions"]),
        "CPU seconds",
        target=round(1.5 * base + 1, 2),
    )


def import_cost(module: str) -> float:
    """CPU seconds of importing a module in a fresh interpreter."""
    root = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.insert(0, {root!r}); import {module}"
    return child_cpu_seconds([sys.executable, "-W", "ignore", "-c", code])


def run_clips(count: int) -> float:
    """CPU seconds per clip and layer of one run over ``count`` clips through every layer."""
    from dagster import DagsterInstance, Definitions, define_asset_job, in_process_executor

    from ego_assets.assets import LAYERS
    from ego_assets.batching import build_layer_assets
    from ego_assets.partitions import clip_partitions
    from ego_assets.schema.clip import Clip
    from ego_assets.settings import Settings
    from resources.platform import build_resources

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder) / "data")
        resources = build_resources(settings)
        clip_ids = [str(uuid.uuid4()) for _ in range(count)]
        for clip_id in clip_ids:
            resources["database"].get().add_clip(Clip(clip_id=clip_id, source_name="clip.mp4"))
        definitions = Definitions(
            assets=build_layer_assets([(spec, trivial) for spec, _ in LAYERS]),
            resources=resources,
            jobs=[define_asset_job("all_layers", selection="*", partitions_def=clip_partitions)],
            executor=in_process_executor,
        )
        (Path(folder) / "dagster").mkdir()
        instance = DagsterInstance.local_temp(str(Path(folder) / "dagster"))
        instance.add_dynamic_partitions("clip_id", clip_ids)
        job = definitions.resolve_job_def("all_layers")
        where = (
            {"partition_key": clip_ids[0]}
            if count == 1
            else {
                "tags": {
                    "dagster/asset_partition_range_start": clip_ids[0],
                    "dagster/asset_partition_range_end": clip_ids[-1],
                }
            }
        )

        def run() -> None:
            if not job.execute_in_process(instance=instance, **where).success:
                raise RuntimeError("the run failed")

        return cpu_seconds(run) / (count * len(LAYERS))


def trivial(work, staged):  # type: ignore[no-untyped-def]
    """A layer without work: reads its inputs' documents, writes one small file, passes its gates."""
    from ego_assets.execution import LayerDraft

    for name in work.spec.inputs:
        work.input(name)
    staged.path("result.json").write_text("{}\n")
    return LayerDraft(gates=[gate.passed("Fine.", value=0.0) for gate in work.spec.gates])


if __name__ == "__main__":
    main()
