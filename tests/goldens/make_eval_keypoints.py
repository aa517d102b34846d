"""Write eval_keypoints.json: what pycocotools makes of keypoints.

Needs pycocotools; the tests need only the file. Made with pycocotools 2.0.11:

    python tests/goldens/make_eval_keypoints.py

For a person's 17 keypoints and for 5 others: made-up annotations of two categories (crowds, objects
of no visible keypoint, image ids with gaps, more than 20 detections in an image), detections, and
their metrics. All numbers are quarters of a pixel, exact in float32.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HERE = Path(__file__).parent
SIZES = {7: (240, 320), 12: (300, 200), 40: (200, 200), 99: (80, 80)}
CATEGORIES = {1: "person", 18: "dog"}
STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
SIGMA = 0.05  # of each of the 5; pycocotools has numbers for a person alone


def quarters(values):
    return np.round(4 * np.asarray(values)) / 4


def annotations(rng, count):
    found = []
    for image_id, (height, width) in SIZES.items():
        if image_id == 99:  # nothing in it
            continue
        for number in range(10):
            side = rng.uniform(20, 0.95 * min(height, width), 2)
            corner = rng.uniform(0, [width - side[0], height - side[1]])
            places = quarters(corner + rng.uniform(0, 1, (count, 2)) * side)
            visible = rng.choice([0, 1, 2], count, p=[0.3, 0.2, 0.5])
            if number in (3, 4):
                visible[:] = 0
            places[visible == 0] = 0
            points = np.concatenate([places, visible[:, None]], axis=1)
            found.append(
                {
                    "id": 500 + 3 * len(found),
                    "image_id": image_id,
                    "category_id": int(rng.choice(list(CATEGORIES))),
                    "bbox": quarters([*corner, *side]).tolist(),
                    "area": float(quarters(side.prod() * 0.6)),
                    "iscrowd": int(number == 4),
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
    return found


def detections(rng, truth, count):
    found = []
    for annotation in truth:
        x, y, w, h = annotation["bbox"]
        points = np.array(annotation["keypoints"]).reshape(count, 3)
        hidden = points[:, 2] == 0
        points[hidden, :2] = [x + w / 2, y + h / 2]
        for _ in range(int(rng.integers(1, 4)) + 2 * (annotation["image_id"] == 7)):
            spread = rng.uniform(0, 0.12) * np.sqrt(annotation["area"])
            moved = quarters(points[:, :2] + rng.normal(0, spread, (count, 2)))
            moved = np.concatenate([moved, np.ones((count, 1))], axis=1)
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if rng.random() < 0.9 else 18,
                    "keypoints": moved.ravel().tolist(),
                    "score": int(rng.integers(52, 256)) / 256,  # ties, now and then
                }
            )
    return found


def metrics(truth, found, count):
    expected = COCO()
    expected.dataset = truth
    expected.createIndex()
    evaluator = COCOeval(expected, expected.loadRes(found), "keypoints")
    if count != 17:
        evaluator.params.kpt_oks_sigmas = np.full(count, SIGMA)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = evaluator.eval["precision"]
    classes = {
        CATEGORIES[category]: [
            float(p[p > -1].mean()) for p in (precision[:, :, k, 0, -1], precision[0, :, k, 0, -1])
        ]
        for k, category in enumerate(evaluator.params.catIds)
    }
    return {"stats": dict(zip(STATS, map(float, evaluator.stats), strict=True)), "classes": classes}


def case(rng, count):
    names = [f"point {i}" for i in range(count)]
    truth = {
        "images": [
            {"id": i, "file_name": f"{i:012}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "annotations": annotations(rng, count),
        "categories": [
            {"id": i, "name": name, "keypoints": names} for i, name in CATEGORIES.items()
        ],
    }
    found = detections(rng, truth["annotations"], count)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = metrics(json.loads(json.dumps(truth)), json.loads(json.dumps(found)), count)
    return {"truth": truth, "found": found, "expected": expected}


def main():
    rng = np.random.default_rng(5)
    cases = {str(count): case(rng, count) for count in (17, 5)}
    (HERE / "eval_keypoints.json").write_text(json.dumps(cases) + "\n")
    print(json.dumps({count: made["expected"] for count, made in cases.items()}, indent=1))


if __name__ == "__main__":
    main()
