"""Write tide.json: what tidecv makes of annotations and detections.

Needs tidecv and pycocotools; the tests need only the file. Made with tidecv 1.0.1 and pycocotools
2.0.11:

    python tests/goldens/make_tide.py

Made-up COCO annotations with crowds, images without objects and without detections, a class that is
never found and one that is found but has no objects; detections are objects that were moved, named
otherwise, found twice or made up.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from tidecv import TIDE, datasets

HERE = Path(__file__).parent
CATEGORIES = {2: "cat", 5: "dog", 6: "owl", 9: "never there", 11: "never found"}
OBJECTS, FOUND = (2, 5, 6, 11), (2, 5, 6, 9)
SIZE = 100
# Nothing on image 3, nothing found on image 5, everything found many times on image 8.
IMAGES, EMPTY, UNSEEN, CROWDED = 14, 3, 5, 8


def polygon(box):
    """An octagon in a box."""
    x, y, w, h = box
    a, b = 0.3 * w, 0.3 * h
    corners = [
        *(x + a, y, x + w - a, y, x + w, y + b, x + w, y + h - b),
        *(x + w - a, y + h, x + a, y + h, x, y + h - b, x, y + b),
    ]
    return [round(float(v), 2) for v in corners]


def rle(box):
    mask = coco_mask.frPyObjects([polygon(box)], SIZE, SIZE)[0]
    return {"size": mask["size"], "counts": mask["counts"].decode()}


def random_box(rng, least=10, most=50):
    size = rng.uniform(least, most, 2)
    return [*(rng.uniform(0, 1, 2) * (SIZE - size)), *size]


def moved(rng, box, amount):
    size = np.array([*box[2:], *box[2:]])
    x, y, w, h = np.array(box) + rng.normal(0, amount, 4) * size
    w, h = max(w, 3), max(h, 3)
    x, y = np.clip(x, 0, SIZE - 3), np.clip(y, 0, SIZE - 3)
    return [x, y, min(w, SIZE - x), min(h, SIZE - y)]


def make():
    rng = np.random.default_rng(5)
    truth, found = [], []

    def add(image, category, box):
        quarters = [round(float(v) * 4) / 4 for v in box]  # exact in float32
        score = round(0.05 + 0.94 * float(rng.uniform()), 6)
        entry = {"image_id": image, "category_id": int(category), "bbox": quarters}
        found.append({**entry, "segmentation": rle(quarters), "score": score})

    for image in range(1, IMAGES + 1):
        boxes = [] if image == EMPTY else [random_box(rng) for _ in range(rng.integers(1, 7))]
        for i, box in enumerate(boxes):
            box = [round(float(v) * 4) / 4 for v in box]
            category, crowd = int(rng.choice(OBJECTS)), int(i == 3)
            segmentation = rle(box) if crowd else [polygon(box)]
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": category}
            shape = {"bbox": box, "area": box[2] * box[3], "segmentation": segmentation}
            truth.append({**entry, **shape, "iscrowd": crowd})
            if image == UNSEEN:
                continue
            times = 40 if image == CROWDED else int(rng.integers(0, 4))
            for _ in range(times):
                named = category if rng.uniform() < 0.7 and category in FOUND else rng.choice(FOUND)
                add(image, named, moved(rng, box, rng.choice([0.03, 0.15, 0.4])))
            if crowd:
                inside = [box[0] + 1, box[1] + 1, box[2] / 3, box[3] / 3]
                add(image, category if category in FOUND else 2, inside)
        if image != UNSEEN:
            for _ in range(2):
                add(image, rng.choice(FOUND), random_box(rng))
    images = [
        {"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE}
        for i in range(1, IMAGES + 1)
    ]
    categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    return {"images": images, "categories": categories, "annotations": truth}, found


def expected(truth, found, mode):
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "truth.json"), Path(folder, "found.json")
        for path, content in zip(files, (truth, found), strict=True):
            path.write_text(json.dumps(content))
        tide = TIDE()
        run = tide.evaluate(
            datasets.COCO(str(files[0])), datasets.COCOResult(str(files[1])), mode=mode
        )
    errors = tide.get_all_errors()
    counts = {kind.short_name: count for kind, count in run.count_errors().items()}
    return {
        "AP50": run.ap,
        "main": errors["main"][run.preds.name],
        "special": errors["special"][run.preds.name],
        "counts": counts,
    }


if __name__ == "__main__":
    truth, found = make()
    content = {"truth": truth, "found": found}
    content["expected"] = {
        name: expected(truth, found, mode)
        for name, mode in (("bbox", TIDE.BOX), ("segm", TIDE.MASK))
    }
    (HERE / "tide.json").write_text(json.dumps(content) + "\n")
    print(json.dumps(content["expected"], indent=1), len(truth["annotations"]), len(found))
