"""Cut the goldens of detectron2 and mmdetection down to what the tests need.

    python tests/goldens/crop_libraries.py FOLDER

FOLDER holds the whole files, `{detectron2,mmdet}_{faster,mask}_blobs.npz`, `units_*.npz` and
`keys_*_mask.txt`. They are outputs of detectron2 0.6 and mmdet 3.3.0 (mmcv 2.1.0) on a CPU, nothing
in either patched, with the weights of `tests/library_recipe.py` and its `blobs` image at short side
320. A sample `X` is `X_shape`, flat positions `X_pos` and values `X_val`; 400 positions of each are
kept. Masks are kept in float16. `benchmarks/parity_golden.py FOLDER` runs the whole files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
POSITIONS = 400
WHOLE = (
    "orig_hw",
    "resized_hw",
    "orig_rgb_sha256",
    "resized_rgb_sha256",
    "net_input_stride",
    "proposal_boxes",
    "proposal_boxes_pre200",
    "det_boxes",
    "det_boxes_input",
    "det_scores",
    "det_classes",
    "mask_areas",
)


def crop(path: Path) -> dict[str, np.ndarray]:
    """The arrays kept of one whole-model file."""
    golden = dict(np.load(path))
    kept = {name: golden[name] for name in WHOLE if name in golden}
    kept["net_input_strided"] = golden["net_input_strided"][:, ::2, ::2]
    kept["net_input_stride"] = golden["net_input_stride"] * 2
    if "mask_probs" in golden:
        kept["mask_probs"] = golden["mask_probs"].astype(np.float16)
    for name in (k.removesuffix("_pos") for k in golden if k.endswith("_pos")):
        step = -(-len(golden[f"{name}_pos"]) // POSITIONS)
        kept[f"{name}_shape"] = golden[f"{name}_shape"]
        kept |= {f"{name}_{part}": golden[f"{name}_{part}"][::step] for part in ("pos", "val")}
    return kept


def main(folder: Path) -> None:
    """Write the cropped files beside this script."""
    for path in sorted(folder.glob("*_blobs.npz")):
        np.savez_compressed(HERE / path.name, **crop(path))
    for library in ("detectron2", "mmdet"):
        units = f"units_{library}.npz"
        np.savez_compressed(HERE / units, **dict(np.load(folder / units)))
        lines = (folder / f"keys_{library}_mask.txt").read_text().splitlines()
        rows = (line.split("\t") for line in lines)
        text = [
            f"{key} {'x'.join(n.strip() for n in shape[1:-1].split(',') if n.strip())}"
            for key, shape, _ in rows
        ]
        (HERE / f"keys_{library}_mask.txt").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
