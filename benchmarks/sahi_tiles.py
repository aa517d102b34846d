"""SAHI's slicing beside ``predict_tiled``: the same model, picture, tiles and overlap.

    python benchmarks/sahi_tiles.py PICTURE --model examples/blood_cells/model --tile 640

needs ``pip install sahi``. Prints what each finds, how much of it is the same and the seconds of
each, in turn, the first turn left out. ``--repeat K`` lays the picture out K by K first.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from importlib import metadata
from typing import Any

import numpy as np

import mlx_rcnn
from mlx_rcnn.outputs.sahi import sahi_model


def ours(model: Any, image: np.ndarray, args: argparse.Namespace) -> Any:
    tiles = mlx_rcnn.Tiles(args.tile, args.overlap, batch_size=args.batch_size)
    [found] = mlx_rcnn.predict_tiled(model, image, tiles, score_thresh=args.score)
    return found["boxes"], found["scores"], found["labels"]


def theirs(adapter: Any, image: np.ndarray, args: argparse.Namespace) -> Any:
    from sahi.predict import get_sliced_prediction

    result = get_sliced_prediction(
        image,
        adapter,
        args.tile,
        args.tile,
        args.overlap,
        args.overlap,
        postprocess_type=args.merge,
        postprocess_match_metric="IOU" if args.merge == "NMS" else "IOS",
        verbose=0,
        batch_size=args.batch_size,
    )
    rows = result.object_prediction_list
    boxes = np.array([row.bbox.to_xyxy() for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row.score.value for row in rows], np.float32)
    return boxes, scores, np.array([row.category.id for row in rows])


def matched(a: Any, b: Any, iou: float) -> int:
    """Pairs of the same class, best scores of ``a`` first, each of ``b`` once."""
    free, count = np.ones(len(b[0]), bool), 0
    for i in np.argsort(-a[1]):
        box = a[0][i]
        low, high = np.maximum(box[:2], b[0][:, :2]), np.minimum(box[2:], b[0][:, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        areas = np.prod(b[0][:, 2:] - b[0][:, :2], axis=1)
        overlap = shared / (areas + np.prod(box[2:] - box[:2]) - shared)
        overlap[~free | (b[2] != a[2][i])] = 0
        if len(overlap) and overlap.max() >= iou:
            free[overlap.argmax()] = False
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    model: Any = mlx_rcnn.load(args.model)
    image = np.tile(mlx_rcnn.load_image(args.picture), (args.repeat, args.repeat, 1))
    adapter = sahi_model(model, confidence_threshold=args.score)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlx", "sahi", "numpy"))
    print(f"{platform.machine()}, {versions}; {image.shape[1]} x {image.shape[0]} pixels")
    print(f"tiles of {args.tile}, overlap {args.overlap}, score > {args.score}")
    ways = {"ours": lambda: ours(model, image, args)}
    for merge in ("GREEDYNMM", "NMS"):
        given = argparse.Namespace(**{**vars(args), "merge": merge})
        ways[f"sahi {merge}"] = lambda given=given: theirs(adapter, image, given)
    found: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.turns + 1):  # in turn, so that a busy machine is busy for all
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - began)
    for name, (boxes, _, _) in found.items():
        took = statistics.median(seconds[name][1:])
        same = [matched(found["ours"], found[name], iou) for iou in (0.5, 0.9)]
        print(
            f"{name}: {len(boxes)} objects, {took:.2f} s; of ours {same[0]} at IoU 0.5, "
            f"{same[1]} at 0.9"
        )


if __name__ == "__main__":
    main()
