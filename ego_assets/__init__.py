"""ego_assets: first-person video in, de-identified and enriched training data out.

Every artifact of a clip is a Dagster asset partitioned by ``clip_id``; every quality gate is an asset
check. ``ego_assets.definitions`` is what Dagster loads; ``ego_assets.cli`` is the command line.
"""

__version__ = "0.1.0"
