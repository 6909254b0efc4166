"""``dataset_manifest``: the default delivery, and the corrected versions of all others."""

from typing import Any

from dagster import AssetExecutionContext, AssetKey, MaterializeResult, MetadataValue, asset


@asset(
    group_name="collection",
    deps=[AssetKey("clip_package")],
    required_resource_keys={"settings", "database", "store"},
    description=(
        "The newest version of the delivery below deliveries/dataset/: manifest.parquet with one row per clip, "
        "clip folders and archives, egodata.py and the dataset card. Clips that stopped, were withdrawn or have "
        "an open privacy review of high risk are left out, with the reason. Deliveries that were made by name are "
        "corrected where they hold a clip that was withdrawn or de-identified anew; the job `deliver` makes others."
    ),
    kinds={"python", "parquet"},
)
def dataset_manifest(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """Write the next version of the delivery, unless nothing changed, then the corrections of the others."""
    from ego_assets.assembling import DeliveryMaker
    from ego_assets.delivering import DATASET

    maker = DeliveryMaker(
        settings=context.resources.settings,
        database=context.resources.database.get(),
        store=context.resources.store.get(),
        log=context.log.warning,
    )
    made = maker.make(DATASET)
    corrected = maker.correct_all()
    return MaterializeResult(
        metadata={
            **({"published": MetadataValue.text(made.published)} if made.published else {}),
            "delivery": MetadataValue.path(str(made.written.folder)),
            "version": MetadataValue.text(made.written.version),
            "new": MetadataValue.bool(made.written.is_new),
            "clips": MetadataValue.int(len(made.selection.clips)),
            "size_bytes": MetadataValue.int(made.written.bytes),
            "left out": MetadataValue.json(dict(made.selection.left_out)),
            "corrected": MetadataValue.json([str(one.written.folder) for one in corrected]),
        }
    )
