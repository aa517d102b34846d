"""The installed wheel at work: make a model, save it, predict with it from the command line.

Run by .ci/run with the interpreter of an environment that holds nothing but the wheel and its
dependencies, from an empty directory; the only argument is the checkout, which must not be used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import mlx_rcnn
import mlx_rcnn.convert


def run(*command: str) -> str:
    """Run a command, pass its output through, and return it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"$ {' '.join(command)}\n{done.stdout}", end="", flush=True)
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode}: {' '.join(command)}")
    return done.stdout


def check(ok: bool, message: str) -> None:
    """Leave with `message` unless `ok`; unlike assert this also holds under python -O."""
    if not ok:
        sys.exit(f"smoke test: {message}")


def main(checkout: Path) -> None:
    """Make, save and use a model of random weights."""
    for module in (mlx_rcnn, mlx_rcnn.convert):
        where = Path(module.__file__ or "").resolve()
        check(checkout not in where.parents, f"{module.__name__} came from the checkout, {where}")

    model = mlx_rcnn.faster_rcnn_resnet_50_fpn(
        num_classes=5, backbone_num_classes=0, min_size=128, max_size=192
    )
    mlx_rcnn.save(model, "model")
    pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")

    script = Path(sys.executable).with_name("mlx_rcnn")
    run(str(script), "info", "--model", "model")
    run(
        *(sys.executable, "-m", "mlx_rcnn", "predict", "photo.png", "--model", "model"),
        *("--score-thresh", "0", "--top-k", "5", "--out", "out", "--json", "out.json"),
    )

    drawn = [path for path in Path("out").iterdir() if path.stem.startswith("photo")]
    check(len(drawn) == 1, f"expected one annotated image in out/, found {drawn}")
    with Image.open(drawn[0]) as image:
        image.load()
        check(image.size == (320, 240), f"the annotated image is {image.size}, not (320, 240)")
    results = json.loads(Path("out.json").read_text())
    check(isinstance(results, list), f"COCO results are a list, got {type(results).__name__}")
    check(len(results) <= 5, f"--top-k 5 gave {len(results)} results")
    for row in results:
        check({"image_id", "category_id", "bbox", "score"} <= set(row), f"incomplete row {row}")
    print(f"smoke test: {drawn[0]} and out.json with {len(results)} results")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
