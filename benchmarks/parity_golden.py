"""Stage by stage against a folder of detectron2's and mmdetection's own outputs: one table a case.

FOLDER holds `{detectron2,mmdet}_{faster,mask}_*.npz`, the arrays that `tests/library_goldens.py`
compares, `meta` (JSON: what image, what short side, the salt of the weights), and
`keys_{detectron2,mmdet}_{faster,mask}.txt` with the state dicts' keys and shapes; of cascades,
`..._{cascade,cascade_mask}_{blobs,photo}.npz`, what `tests/cascade_goldens.py` compares. Weights
come from `tests/library_recipe.py`; no torch is needed. On Linux preload OpenBLAS.

    python benchmarks/parity_golden.py FOLDER [--photos FOLDER] [--case detectron2_mask_photo]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

Golden = dict[str, np.ndarray]
PHOTO = "18124840932_e42b3e377c_k.jpg"


def state_dict(keys: Path, salt: str) -> dict[str, np.ndarray]:
    """The recipe's tensors for lines of key, (shape) and dtype, separated by tabs."""
    from library_recipe import fill

    rows = (line.split("\t") for line in keys.read_text().splitlines())
    shapes = {key: [int(n) for n in shape.strip("()").split(",") if n] for key, shape, _ in rows}
    return {key: fill(key, tuple(shape), salt) for key, shape in shapes.items()}


def image_of(golden: Golden, meta: dict[str, Any], photos: Path) -> np.ndarray:
    """The original image, checked against the golden's sum."""
    from library_recipe import blobs
    from mlx_rcnn import load_image

    if isinstance(meta["input"], str):
        image = load_image(photos / meta["input"])
    else:
        given = meta["input"]["blobs"]
        image = blobs(given["h"], given["w"], given["n"], given["seed"])
    if hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() != str(
        golden["orig_rgb_sha256"]
    ):
        raise SystemExit(f"{meta['input']}: not the image this golden was made of")
    return image


def run(path: Path, photos: Path) -> bool:
    """Compare one case, print its table, and tell whether every bound holds."""
    from cascade_goldens import compare_cascade
    from library_goldens import compare

    golden = dict(np.load(path))
    library = path.stem.partition("_")[0]
    cascade = "_cascade_" in path.name
    state, short, meta = (cascade_case if cascade else plain_case)(path, golden)
    model = loaded(library, state, short)
    del state
    image = image_of(golden, meta, photos)
    rows = (compare_cascade if cascade else compare)(model, golden, image)
    print(f"{path.stem}: {model.source}")
    wide = max(len(row.stage) for row in rows)
    for row in rows:
        bound = f"{'>=' if row.least else '<='} {row.bound:g}"
        print(
            f"  {row.stage:{wide}}  {row.measured:>9.3g}  {bound:>9}  "
            f"{'ok' if row.within else 'OUTSIDE'}",
            flush=True,
        )
    return all(row.within for row in rows)


def plain_case(path: Path, golden: Golden) -> tuple[dict[str, np.ndarray], int, dict[str, Any]]:
    """Weights, the short side and what the golden says of itself."""
    meta = json.loads(str(golden["meta"]))
    library, kind = path.stem.split("_")[:2]
    overrides = meta["overrides"]
    sides = overrides.get("test_pipeline Resize.scale", [1333, 800])
    short = int(overrides.get("INPUT.MIN_SIZE_TEST", min(sides)))
    state = state_dict(path.with_name(f"keys_{library}_{kind}.txt"), meta.get("salt", ""))
    return state, short, meta


def cascade_case(path: Path, _: Golden) -> tuple[dict[str, np.ndarray], int, dict[str, Any]]:
    """As :func:`plain_case`, of a cascade, whose file says nothing of itself."""
    from library_recipe import cascade_state

    library, _, rest = path.stem.partition("_")
    kind, _, image = rest.rpartition("_")
    blobs = image == "blobs"
    given = {"blobs": {"h": 240, "w": 320, "n": 40, "seed": 2024}}
    return cascade_state(library, kind), 320 if blobs else 800, {"input": given if blobs else PHOTO}


def loaded(library: str, state: dict[str, np.ndarray], short: int) -> Any:
    """The model, through a file as its library writes it."""
    import mlx_rcnn

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("model.pkl" if library == "detectron2" else "model.pth")
        wrapper = "model" if library == "detectron2" else "state_dict"
        file.write_bytes(pickle.dumps({wrapper: state}, 4))
        return mlx_rcnn.load(file, min_size=short)


def main() -> int:
    """Run all cases of a folder, or the one named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path, help="where photos are. Default: FOLDER")
    parser.add_argument("--case", help="one case: the name of its file without .npz")
    args = parser.parse_args()
    pattern = f"{args.case}.npz" if args.case else "*_*_*.npz"
    cases = [p for p in sorted(args.folder.glob(pattern)) if not p.name.startswith("units_")]
    if not cases:
        raise SystemExit(f"{args.folder} holds no {pattern}")
    passed = [run(path, args.photos or args.folder) for path in cases]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
