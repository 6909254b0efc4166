"""Real services in temporary folders, and layers small enough to run by the hundred."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, Definitions, define_asset_job, in_process_executor

from ego_assets.batching import build_layer_assets
from ego_assets.execution import ClipWork, LayerDraft
from ego_assets.partitions import clip_partitions
from ego_assets.schema.clip import Clip
from ego_assets.schema.errors import ConfigurationError, TransientError
from ego_assets.schema.gates import GateSpec
from ego_assets.schema.layers import LayerSpec, RetryPolicySpec
from ego_assets.settings import Settings
from resources.platform import build_resources

FIT = GateSpec(name="fit", description="The clip is fit.", blocking=True, threshold=1.0)
PRETTY = GateSpec(name="pretty", description="The clip is pretty.")
NO_WAIT = RetryPolicySpec(max_retries=2, delay_s=0.0)

#: A chain like the real one: essential, essential, two that may be given up, one that waits for all.
SPECS = (
    LayerSpec(
        name="intake", group="t", description="", stage=0, essential=True, reads_original=True, retry=NO_WAIT
    ),
    LayerSpec(
        name="gate",
        group="t",
        description="",
        stage=1,
        inputs=("intake",),
        gates=(FIT, PRETTY),
        essential=True,
        retry=NO_WAIT,
    ),
    LayerSpec(name="frames", group="t", description="", stage=3, inputs=("gate",), retry=NO_WAIT),
    LayerSpec(name="depth_maps", group="t", description="", stage=3, inputs=("gate",), retry=NO_WAIT),
    LayerSpec(
        name="masks", group="t", description="", stage=3, inputs=("gate",), gates=(FIT,), retry=NO_WAIT
    ),
    LayerSpec(name="follow_up", group="t", description="", stage=4, inputs=("masks",), retry=NO_WAIT),
    LayerSpec(
        name="manifest",
        group="t",
        description="",
        stage=6,
        inputs=("gate",),
        optional_inputs=("frames", "depth_maps", "masks", "follow_up"),
        retry=NO_WAIT,
    ),
)


@dataclass
class Behaviour:
    """What the layers do on which clip.

    Rules: ``unfit``, ``unjudged``, ``misconfigured``, ``crash``, ``flaky``, ``down``, ``ugly``, ``unknown``.
    """

    rules: dict[tuple[str, str], str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    #: Optional inputs that a layer was given, by layer and clip.
    given: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def set(self, layer: str, clip_id: str, what: str) -> None:
        self.rules[(layer, clip_id)] = what

    def make(self, work: ClipWork, staged: Any) -> LayerDraft:
        layer, clip_id = work.spec.name, work.clip.clip_id
        self.calls.append((layer, clip_id))
        rule = self.rules.get((layer, clip_id))
        if rule == "misconfigured":
            raise ConfigurationError("There is no such backend.")
        if rule == "crash":
            raise RuntimeError("the model fell over")
        if rule == "flaky" and self.calls.count((layer, clip_id)) < 3:
            raise TransientError("try later")
        if rule == "down":
            raise TransientError("nobody answers")
        for name in work.spec.inputs:
            work.input(name)
        self.given[(layer, clip_id)] = {
            name for name in work.spec.optional_inputs if work.optional_input(name) is not None
        }
        staged.path("result.txt").write_text(f"{layer} of {clip_id}")
        verdicts = {gate.name: gate.passed("Fine.", value=1.0) for gate in work.spec.gates}
        if rule == "unfit":
            verdicts["fit"] = FIT.failed("Unfit.", value=0.0)
        if rule == "unjudged":
            verdicts["fit"] = FIT.not_evaluated("Nobody can tell.")
        if rule == "ugly":
            verdicts["pretty"] = PRETTY.warned("Ugly.")
        if rule == "unknown":
            verdicts["pretty"] = PRETTY.not_evaluated("Nobody can tell.")
        return LayerDraft(gates=list(verdicts.values()), metadata={"answer": 42})


@dataclass
class Bench:
    """A small platform."""

    settings: Settings
    instance: DagsterInstance
    definitions: Definitions
    behaviour: Behaviour
    clip_ids: list[str]

    @property
    def database(self) -> Any:
        return build_resources(self.settings)["database"].get()

    @property
    def store(self) -> Any:
        return build_resources(self.settings)["store"].get()

    def run_range(self, first: str, last: str, **options: Any) -> Any:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return self._run(tags=tags, **options)

    def run_clip(self, clip_id: str, **options: Any) -> Any:
        return self._run(partition_key=clip_id, **options)

    def _run(self, **options: Any) -> Any:
        job = self.definitions.resolve_job_def("chain")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return job.execute_in_process(
            instance=self.instance, raise_on_error=False, run_config=quiet, **options
        )


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[[int], Bench]]:
    """Builds a platform with so many registered clips."""
    instances: list[DagsterInstance] = []

    def build(clips: int) -> Bench:
        settings = Settings(data_dir=tmp_path / "data", free_disk_reserve_bytes=0)
        resources = build_resources(settings)
        behaviour = Behaviour()
        clip_ids = [str(uuid.UUID(int=number + 1, version=4)) for number in range(clips)]
        database = resources["database"].get()
        for clip_id in clip_ids:
            database.add_clip(Clip(clip_id=clip_id, source_name="clip.mp4"))
        (tmp_path / "dagster").mkdir()
        instance = DagsterInstance.local_temp(str(tmp_path / "dagster"))
        instances.append(instance)
        instance.add_dynamic_partitions(clip_partitions.name or "", clip_ids)
        definitions = Definitions(
            assets=build_layer_assets([(spec, behaviour.make) for spec in SPECS]),
            resources=resources,
            jobs=[define_asset_job("chain", selection="*", partitions_def=clip_partitions)],
            executor=in_process_executor,
        )
        return Bench(settings, instance, definitions, behaviour, clip_ids)

    yield build
    for instance in instances:
        instance.dispose()
