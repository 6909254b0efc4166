"""Synthetic first-person clips with exact ground truth, for the demo, the tests and the benchmarks."""

from ego_assets.schema.hands import HandState
from ego_assets.synth.demo import DemoClip, demo_clips, demo_specs
from ego_assets.synth.ground_truth import GroundTruth, GroundTruthUnreadable
from ego_assets.synth.render import LOCATION_METADATA, render_clip
from ego_assets.synth.scene import FrameBox, ObjectKind
from ego_assets.synth.spec import SceneSpec
from ego_assets.synth.textures import SceneDataMissing

__all__ = [
    "LOCATION_METADATA",
    "DemoClip",
    "FrameBox",
    "GroundTruth",
    "GroundTruthUnreadable",
    "HandState",
    "ObjectKind",
    "SceneDataMissing",
    "SceneSpec",
    "demo_clips",
    "demo_specs",
    "render_clip",
]
