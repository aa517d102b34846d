"""Write eval_coco.json and polygons.json: what pycocotools makes of annotations and polygons.

Needs pycocotools; the tests need only the files. Made with pycocotools 2.0.11:

    python tests/goldens/make_eval.py

eval_coco.json holds made-up COCO annotations with all that the format has (polygons of several
parts, both kinds of RLE, crowds, ids with gaps), detections, and their metrics. Detections are
ground truth moved by quarters of a pixel, so that all their numbers are exact in float32.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HERE = Path(__file__).parent
SIZES = {7: (90, 120), 12: (120, 90), 40: (64, 64), 41: (100, 150), 99: (80, 80), 100: (50, 60)}
CATEGORIES = {3: "cat", 18: "dog", 25: "never seen", 90: "bird"}
STATS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)


def blob(rng, height, width):
    """A polygon around a random place, to two decimals, as COCO's."""
    count, radius = int(rng.integers(4, 9)), rng.uniform(4, 0.45 * min(height, width))
    centre = rng.uniform([radius, radius], [width - radius, height - radius])
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    points = centre + radius * rng.uniform(0.6, 1, (count, 1)) * np.stack(
        [np.cos(angles), np.sin(angles)], axis=1
    )
    return [round(float(v), 2) for v in points.ravel()]


def uncompressed(mask):
    flat = mask.ravel(order="F").astype(int)
    change = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *change, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def compressed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def polygon_cases(rng):
    """Polygons with their RLE: off the image, repeated points, integers, slivers, several parts."""
    cases = []
    for i in range(60):
        height, width = (int(n) for n in rng.integers(1, 40, 2))
        parts = []
        for _ in range(1 + (i % 7 == 0)):
            low, high = (-15, 1.5) if i % 2 else (0, 1)
            points = rng.uniform(low, high * np.array([width, height]), (rng.integers(3, 9), 2))
            points = np.round(points, int(rng.integers(0, 3)))
            if i % 5 == 0:
                points = np.concatenate([points, points[-1:], points[:1]])
            parts.append(points.ravel().tolist())
        rle = coco_mask.merge(coco_mask.frPyObjects(parts, height, width))
        cases.append({"polygons": parts, "size": [height, width], "counts": rle["counts"].decode()})
    return cases


def annotations(rng):
    found = []
    for image_id, (height, width) in SIZES.items():
        if image_id == 100:  # nothing in it
            continue
        for _ in range(int(rng.integers(2, 7))):
            parts = [blob(rng, height, width) for _ in range(int(rng.integers(1, 3)))]
            rle = coco_mask.merge(coco_mask.frPyObjects(parts, height, width))
            mask, kind = coco_mask.decode(rle), int(rng.integers(4))
            crowd = kind == 3
            segmentation = parts if kind < 2 else uncompressed(mask)
            if kind == 2:
                segmentation = compressed(mask)
            found.append(
                {
                    "id": 1000 + 3 * len(found),
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 18, 90])),
                    "bbox": [round(float(v), 2) for v in coco_mask.toBbox(rle)],
                    "area": float(mask.sum()) + 0.25,
                    "iscrowd": int(crowd),
                    "segmentation": segmentation,
                }
            )
    return found


def detections(rng, truth):
    found = []
    for annotation in truth:
        height, width = SIZES[annotation["image_id"]]
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, height, width)
        else:
            rle = {**segmentation, "counts": segmentation["counts"].encode()}
        mask = coco_mask.decode(rle)
        for _ in range(int(rng.integers(0, 4))):
            shift = rng.integers(-3, 4, 2)
            moved = np.roll(mask, shift, axis=(0, 1))
            x, y, w, h = (round(4 * v) / 4 for v in annotation["bbox"])
            dx, dy, dw, dh = (int(v) / 4 for v in rng.integers(-12, 13, 4))
            x, y = max(x + dx, 0), max(y + dy, 0)
            category = annotation["category_id"] if rng.random() < 0.85 else 18
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": [x, y, max(w + dw, 1), max(h + dh, 1)],
                    "score": int(rng.integers(52, 1024)) / 1024,  # ties, now and then
                    "segmentation": compressed(moved),
                }
            )
    return found


def metrics(truth, found, kind):
    # As detectron2 and torchvision do: without its box, an area is that of the mask.
    found = [{k: v for k, v in f.items() if kind == "bbox" or k != "bbox"} for f in found]
    expected = COCO()
    expected.dataset = truth
    expected.createIndex()
    evaluator = COCOeval(expected, expected.loadRes(found), kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = evaluator.eval["precision"]
    classes = {}
    for k, category in enumerate(evaluator.params.catIds):
        both = (precision[:, :, k, 0, -1], precision[0, :, k, 0, -1])
        values = [float(p[p > -1].mean()) if (p > -1).any() else None for p in both]
        classes[CATEGORIES[category]] = values
    return {"stats": dict(zip(STATS, map(float, evaluator.stats), strict=True)), "classes": classes}


def main():
    rng = np.random.default_rng(11)
    cases = polygon_cases(rng)
    (HERE / "polygons.json").write_text(json.dumps(cases) + "\n")
    truth = {
        "images": [
            {"id": i, "file_name": f"{i:012}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "annotations": annotations(rng),
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    found = detections(rng, truth["annotations"])
    with contextlib.redirect_stdout(io.StringIO()):
        expected = {
            kind: metrics(json.loads(json.dumps(truth)), json.loads(json.dumps(found)), kind)
            for kind in ("bbox", "segm")
        }
    content = {"truth": truth, "found": found, "expected": expected}
    (HERE / "eval_coco.json").write_text(json.dumps(content) + "\n")
    print(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
