"""Detections beside objects, from rows of numbers, shared by tests of evaluation."""

from mlx_rcnn.evaluation import Collected


def collected_of(truth, found, classes=("__background__", "cat", "dog"), images=1):
    """From rows of (image, label, x1, y1, x2, y2, crowd) and (image, label, x1, ..., score)."""
    out = Collected(classes, masks=False)
    out.images = [{"id": i, "height": 100, "width": 100} for i in range(1, images + 1)]
    out.ids = [f"image {i}" for i in range(1, images + 1)]
    for number, (image, label, *box, crowd) in enumerate(truth, 1):
        out.truth.append({"id": number, **entry(image, label, box), "iscrowd": crowd})
    out.found = [{**entry(image, label, box), "score": s} for image, label, *box, s in found]
    return out


def entry(image, label, box):
    x1, y1, x2, y2 = box
    size = [x2 - x1, y2 - y1]
    return {
        "image_id": image,
        "category_id": label,
        "bbox": [float(v) for v in (x1, y1, *size)],
        "area": float(size[0] * size[1]),
    }
