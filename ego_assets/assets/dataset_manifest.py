"""``dataset_manifest``: the delivery: Parquet manifest, clip folders and archives, SDK and dataset card."""

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, MetadataValue, asset

from ego_assets.assets.clip_package import package_name
from ego_assets.schema.vocabulary import PrivacyStatus, ReviewRisk

if TYPE_CHECKING:
    from ego_assets.schema.clip import Clip
    from resources.database import Database

#: Name of the delivery that holds every clip that may be delivered.
DELIVERY_NAME = "dataset"


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
    from ego_assets.delivery.dataset import PackagedClip, write_delivery

    settings, database = context.resources.settings, context.resources.database.get()
    store = context.resources.store.get()
    packaged: list[PackagedClip] = []
    left_out: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    for clip in database.clips():
        package = store.document(clip.clip_id, "clip_package")
        manifest = store.document(clip.clip_id, "manifest")
        reason = reason_to_leave_out(clip, database)
        if not reason and (package is None or manifest is None):
            reason = "it is not packaged yet"
        if reason or package is None or manifest is None:
            left_out[clip.clip_id] = reason
            continue
        row = json.loads(store.read_bytes(manifest, "manifest.json"))["row"]
        packaged.append(
            PackagedClip(
                clip_id=clip.clip_id,
                row={
                    **row,
                    "recording_date": clip.recording_date,
                    "privacy_status": clip.privacy_status.value,
                },
                package=package.file(package_name(clip.clip_id)),
                open_package=partial(store.open, package, package_name(clip.clip_id)),
            )
        )
        versions[clip.clip_id] = {"clip_package": package.data_version, **package.inputs}
    root = settings.deliveries / DELIVERY_NAME
    delivery = write_delivery(root, packaged)
    database.add_delivery(
        name=DELIVERY_NAME,
        version=delivery.version,
        uri=str(delivery.folder),
        definition={"left_out": left_out},
        bytes=delivery.bytes,
        clips=versions,
    )
    return MaterializeResult(
        metadata={
            "delivery": MetadataValue.path(str(delivery.folder)),
            "version": MetadataValue.text(delivery.version),
            "new": MetadataValue.bool(delivery.is_new),
            "clips": MetadataValue.int(len(packaged)),
            "size_bytes": MetadataValue.int(delivery.bytes),
            "left out": MetadataValue.json(left_out),
        }
    )


def reason_to_leave_out(clip: "Clip", database: "Database") -> str:
    """Why a clip may not be delivered; empty when it may."""
    if clip.withdrawn:
        return f"it was withdrawn: {clip.withdrawn_reason}"
    if clip.duplicate_of:
        return f"it is a duplicate of {clip.duplicate_of}"
    if clip.failed:
        return clip.failed_reason
    if clip.held:
        return f"it is held: {clip.held_reason}"
    if clip.privacy_status not in (PrivacyStatus.BLURRED, PrivacyStatus.REVIEWED):
        return "it is not de-identified"
    risky = [item for item in database.review_items("open", clip.clip_id) if item.risk == ReviewRisk.HIGH]
    if risky:
        return f"a review is open: {risky[0].reason}"
    return ""
