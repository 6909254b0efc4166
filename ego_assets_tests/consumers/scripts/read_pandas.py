"""pandas: the manifest, and every path that it names. Argument: folder of the delivery."""

import sys
from pathlib import Path

import pandas as pd
from facts import say

root = Path(sys.argv[1])
rows = pd.read_parquet(root / "manifest.parquet")
good = rows[(rows["activity_category"] == "cooking") & (rows["quality_score"] >= 0)]
say(
    {},
    clips=good["clip_id"].tolist(),
    split=dict(zip(rows["clip_id"], rows["split"], strict=True)),
    steps=int(rows["step_count"].sum()),
    duration_s=float(rows["duration_s"].sum()),
    collectors=rows.groupby("collector_id")["split"].nunique().to_dict(),
    missing=[path for path in [*rows["package_path"], *rows["clip_path"]] if not (root / path).exists()],
)
