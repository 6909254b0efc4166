"""``dataset_manifest``: the delivery: Parquet manifest, clip folders and archives, SDK and dataset card."""

import json
from functools import partial
from typing import Any

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, MetadataValue, asset

from ego_assets.assets.clip_package import package_name
from ego_assets.delivering import DELIVERY_NAME, select_clips
from ego_assets.disk import require_space
from ego_assets.schema.clip import PRIVACY_LAYER


@asset(
    group_name="collection",
    deps=[AssetKey("clip_package")],
    required_resource_keys={"settings", "database", "store"},
    description=(
        "The newest version of the delivery below deliveries/dataset/: manifest.parquet with one row per clip, "
        "clip folders and archives, egodata.py and the dataset card. Clips that stopped, were withdrawn or have "
        "an open privacy review of high risk are left out, with the reason."
    ),
    kinds={"python", "parquet"},
)
def dataset_manifest(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """Write the next version of the delivery, unless nothing changed."""
    from ego_assets.delivery.card import dataset_card
    from ego_assets.delivery.dataset import PackagedClip, write_delivery
    from ego_assets.reviewing import recall_of

    settings, database = context.resources.settings, context.resources.database.get()
    store = context.resources.store.get()
    selection = select_clips(database, store)
    packaged = []
    for chosen in selection.clips:
        clip, archive = chosen.clip, package_name(chosen.clip.clip_id)
        row = json.loads(store.read_bytes(chosen.manifest, "manifest.json"))["row"]
        packaged.append(
            PackagedClip(
                clip_id=clip.clip_id,
                row={
                    **row,
                    "recording_date": clip.recording_date,
                    "privacy_status": clip.privacy_status.value,
                },
                data_versions=chosen.data_versions,
                package=chosen.package.file(archive),
                open_package=partial(store.open, chosen.package, archive),
            )
        )
    recorded = {made.version for made in database.deliveries() if made.name == DELIVERY_NAME}
    root = settings.deliveries / DELIVERY_NAME
    fits = partial(require_space, root, reserve_bytes=settings.free_disk_reserve_bytes, what="The delivery")
    renderings = {entry.clip.clip_id: entry.data_versions.get(PRIVACY_LAYER, "") for entry in selection.clips}
    recall = recall_of(renderings, database)
    delivery = write_delivery(
        root,
        packaged,
        recorded_versions=recorded,
        require_space=fits,
        card=partial(dataset_card, measured_recall=recall),
    )
    database.add_delivery(
        name=DELIVERY_NAME,
        version=delivery.version,
        uri=str(delivery.folder),
        definition={"left_out": dict(selection.left_out)},
        bytes=delivery.bytes,
        clips={chosen.clip.clip_id: chosen.data_versions for chosen in selection.clips},
    )
    return MaterializeResult(
        metadata={
            "delivery": MetadataValue.path(str(delivery.folder)),
            "version": MetadataValue.text(delivery.version),
            "new": MetadataValue.bool(delivery.is_new),
            "clips": MetadataValue.int(len(packaged)),
            "size_bytes": MetadataValue.int(delivery.bytes),
            "left out": MetadataValue.json(dict(selection.left_out)),
        }
    )
