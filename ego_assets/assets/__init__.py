"""The assets, one thin file per artifact. Registering a layer here is all it takes to run it."""

from ego_assets.assets import actions as actions_asset
from ego_assets.assets import blurred_video as blurred_video_asset
from ego_assets.assets import captions as captions_asset
from ego_assets.assets import clip_package, manifest
from ego_assets.assets import clip_quality as clip_quality_asset
from ego_assets.assets import depth_maps as depth_maps_asset
from ego_assets.assets import embeddings as embeddings_asset
from ego_assets.assets import frames as frames_asset
from ego_assets.assets import hand_object as hand_object_asset
from ego_assets.assets import masks as masks_asset
from ego_assets.assets import raw_clip as raw_clip_asset
from ego_assets.assets.collection_checks import (
    audit_chain_intact,
    deliveries_open,
    incidents_resolved,
    nothing_private_inside,
)
from ego_assets.assets.dataset_manifest import dataset_manifest
from ego_assets.assets.quality_summary import quality_summary
from ego_assets.assets.recall_check import collection_recall_check, delivery_recall_check

#: The layers up to the first picture that may be shown.
PRIVACY_CHAIN = tuple(
    (module.SPEC, module.make) for module in (raw_clip_asset, clip_quality_asset, blurred_video_asset)
)

#: The layers that models and algorithms add to a de-identified clip. A new one is added here.
ENRICHMENT = tuple(
    (module.SPEC, module.make)
    for module in (
        frames_asset,
        hand_object_asset,
        depth_maps_asset,
        embeddings_asset,
        masks_asset,
        actions_asset,
        captions_asset,
    )
)

_ENRICHMENT_SPECS = tuple(spec for spec, _ in ENRICHMENT)

#: Every layer with the function that makes it, in the order of the chain.
LAYERS = (
    *PRIVACY_CHAIN,
    *ENRICHMENT,
    manifest.layer(_ENRICHMENT_SPECS),
    clip_package.layer(_ENRICHMENT_SPECS),
)

#: Assets over the whole collection, not partitioned.
COLLECTION_ASSETS = (quality_summary, dataset_manifest)

#: Checks over the whole collection.
COLLECTION_CHECKS = (
    incidents_resolved,
    audit_chain_intact,
    deliveries_open,
    nothing_private_inside,
    delivery_recall_check,
    collection_recall_check,
)
