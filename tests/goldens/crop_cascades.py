"""Cut the goldens of the two libraries' cascades down to what the tests need.

    python tests/goldens/crop_cascades.py FOLDER

FOLDER holds `{detectron2,mmdet}_cascade_mask_blobs.npz`, outputs as those of `crop_libraries.py`,
with the weights of `tests/library_recipe.py`, `cascade_state`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LEFT_OUT = ("orig_rgb", "resized_rgb", "scores_averaged", "logits_averaged", "mask_probs_stage0")
POSITIONS, ROWS = 400, 200


def crop(path: Path) -> dict[str, np.ndarray]:
    """The arrays kept of one file: of each stage the outputs of its first 200 boxes."""
    golden, kept = dict(np.load(path)), {}
    for name, value in golden.items():
        sample = name.rpartition("_")[0]
        if name in LEFT_OUT or name.endswith("_stats"):
            continue
        if sample in LEFT_OUT and not name.endswith("_first200"):
            continue
        if name.endswith(("_pos", "_val")):
            if "roi_feat" not in name:
                continue
            value = value[:: -(-len(value) // POSITIONS)]
        if name.startswith("stage") and name.endswith(("_boxes_out", "logits_shape")):
            continue
        if name.endswith("_first200"):
            value = value[:40]
        if name == "mask_probs":
            value = value.astype(np.float16)
        kept[name] = value
    return kept


if __name__ == "__main__":
    for library in ("detectron2", "mmdet"):
        name = f"{library}_cascade_mask_blobs.npz"
        np.savez_compressed(HERE / name, **crop(Path(sys.argv[1]) / name))
