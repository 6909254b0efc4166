"""h5py and Pillow. Argument: folder of the delivery."""

import io
import sys
from pathlib import Path

import h5py
import numpy as np
from facts import facts, say
from PIL import Image

samples = {}
for path in sorted(Path(sys.argv[1], "hdf5").glob("*.h5")):
    with h5py.File(path) as file:
        clip_id = file.attrs["clip_id"]
        for step, frame in enumerate(file["frame_index"][:].tolist()):
            assert file["has_depth"][step] and file["has_mask"][step]
            samples[f"{clip_id}_{frame:06d}"] = facts(
                rgb=np.asarray(Image.open(io.BytesIO(file["rgb"][step].tobytes()))),
                depth=file["depth"][step],
                mask=file["mask"][step],
                clip_id=clip_id,
                split=file.attrs["split"],
                timestamp_ns=int(file["timestamps_ns"][step]),
                caption=file["caption"][step].decode(),
            )
say(samples)
