"""``dataset_manifest``: the delivery: Parquet manifest, clip folders and archives, SDK and dataset card."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, MetadataValue, asset

from ego_assets.assets.clip_package import package_name
from ego_assets.delivering import DELIVERY_NAME, Selection, changed_since, select_clips
from ego_assets.disk import require_space
from ego_assets.schema.clip import PRIVACY_LAYER
from ego_assets.schema.errors import TransientError

if TYPE_CHECKING:
    from ego_assets.delivery.dataset import WrittenDelivery
    from ego_assets.settings import Settings
    from resources.database import Database
    from resources.storage import ArtifactStore

#: How often a version is written whose clips change meanwhile, before it is left to the next run.
MAX_ATTEMPTS = 3


class DeliveryOutdated(TransientError):
    """Clips changed each time while a delivery was written."""

    def __init__(self, reasons: str) -> None:
        super().__init__(
            f"Clips changed while the delivery was written, {MAX_ATTEMPTS} times: {reasons}. Nothing was delivered. "
            "Use `ego-assets run` when these clips are at rest."
        )


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
    from ego_assets.delivery.dataset import remove_delivery

    settings, database = context.resources.settings, context.resources.database.get()
    store = context.resources.store.get()
    root, removed = settings.deliveries / DELIVERY_NAME, set[str]()
    for _ in range(MAX_ATTEMPTS):
        selection = select_clips(database, store)
        recorded = {made.version for made in database.deliveries() if made.name == DELIVERY_NAME}
        delivery = _write(
            selection, root, {*recorded, *removed}, settings=settings, database=database, store=store
        )
        with database.transaction():
            changed = changed_since(selection, database, store)
            if not changed:
                database.add_delivery(
                    name=DELIVERY_NAME,
                    version=delivery.version,
                    uri=str(delivery.folder),
                    definition={"left_out": dict(selection.left_out)},
                    bytes=delivery.bytes,
                    clips={chosen.clip.clip_id: chosen.data_versions for chosen in selection.clips},
                )
                break
            recorded = {made.version for made in database.deliveries() if made.name == DELIVERY_NAME}
        if delivery.version not in recorded:
            remove_delivery(root, delivery.version)
            removed.add(delivery.version)
        reasons = "; ".join(f"clip {clip_id}: {reason}" for clip_id, reason in sorted(changed.items()))
        context.log.warning(f"Version {delivery.version} is not delivered, it is written again: {reasons}")
    else:
        raise DeliveryOutdated(reasons)
    return MaterializeResult(
        metadata={
            "delivery": MetadataValue.path(str(delivery.folder)),
            "version": MetadataValue.text(delivery.version),
            "new": MetadataValue.bool(delivery.is_new),
            "clips": MetadataValue.int(len(selection.clips)),
            "size_bytes": MetadataValue.int(delivery.bytes),
            "left out": MetadataValue.json(dict(selection.left_out)),
        }
    )


def _write(
    selection: Selection,
    root: Path,
    taken_versions: set[str],
    *,
    settings: "Settings",
    database: "Database",
    store: "ArtifactStore",
) -> "WrittenDelivery":
    """Write a version that holds the chosen clips."""
    from ego_assets.delivery.card import dataset_card
    from ego_assets.delivery.dataset import PackagedClip, write_delivery
    from ego_assets.recall import recall_of

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
    renderings = {entry.clip.clip_id: entry.data_versions.get(PRIVACY_LAYER, "") for entry in selection.clips}
    return write_delivery(
        root,
        packaged,
        recorded_versions=taken_versions,
        require_space=partial(
            require_space, root, reserve_bytes=settings.free_disk_reserve_bytes, what="The delivery"
        ),
        card=partial(dataset_card, measured_recall=recall_of(renderings, database)),
    )
