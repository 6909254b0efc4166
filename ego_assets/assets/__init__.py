"""The assets, one thin file per artifact. Registering a layer here is all it takes to run it."""

from ego_assets.assets import (
    blurred_video,
    clip_package,
    clip_quality,
    frames,
    manifest,
    raw_clip,
)
from ego_assets.assets.dataset_manifest import dataset_manifest
from ego_assets.assets.quality_summary import quality_summary

#: Every layer with the function that makes it, in the order of the chain.
LAYERS = tuple(
    (module.SPEC, module.make)
    for module in (raw_clip, clip_quality, blurred_video, frames, manifest, clip_package)
)

#: Assets over the whole collection, not partitioned.
COLLECTION_ASSETS = (quality_summary, dataset_manifest)
