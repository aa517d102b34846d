"""What is found, and who finds it, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..outputs.coco import results_of
from ..outputs.draw import class_color
from ..outputs.skeletons import limb_color, skeleton_style
from .limits import Limits
from .worker import Found

if TYPE_CHECKING:
    from ..models import Detector
    from ..structures import Json

BOX_DIGITS, SCORE_DIGITS = 4, 8  # decimals, as in COCO results


class _Every(TypedDict):
    label: int
    name: str
    score: float
    box: list[float]


class Row(_Every, total=False):
    """A detection as JSON: ``GET /schema`` says what each key is."""

    mask: dict[str, list[int] | str]
    keypoints: list[list[float]]
    keypoints_scores: list[float]


def model_name(source: str) -> str:
    """How a model is called in answers, which tell no more of this machine's folders than that."""
    path = Path(source)
    # ``run/best`` of a folder ``.../run/best``
    return "/".join(path.parts[-2:]) if path.is_dir() or not path.suffix else path.stem


def detections_json(found: Found, name: str, model: str) -> bytes:
    """The answer of ``POST /predict``: JSON as ``GET /schema`` says it."""
    height, width = found.image.shape[:2]
    content = {
        "model": model,
        "image": {"name": name, "width": width, "height": height},
        "detections": detection_list(found),  # boxes to 1e-4 of a pixel, scores to 1e-8
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def detection_list(found: Found) -> list[Row]:
    """Each detection, best first: ``label``, ``name``, ``score``, ``box`` and what it has else."""
    prediction = found.prediction
    entries = results_of(found.model, prediction, 0, found.image)
    rows = []
    for i, (entry, name) in enumerate(zip(entries, prediction.names, strict=True)):
        row: Row = {
            "label": entry["category_id"],
            "name": name,
            "score": entry["score"],
            "box": [round(v, BOX_DIGITS) for v in prediction["boxes"][i].tolist()],
        }
        if "segmentation" in entry:
            # COCO's RLE of the image given
            row["mask"] = entry["segmentation"]
        if "keypoints" in prediction:
            points = prediction["keypoints"][i].tolist()
            row["keypoints"] = [[round(v, BOX_DIGITS) for v in point] for point in points]
        if "keypoints_scores" in prediction:
            scores = prediction["keypoints_scores"][i].tolist()
            row["keypoints_scores"] = [round(v, BOX_DIGITS) for v in scores]
        rows.append(row)
    return rows


def describe(
    model: Detector, name: str, limits: Limits, formats: tuple[str, ...], shown: float
) -> dict[str, Json]:
    """The answer of ``GET /model``: classes and colours, what can be asked for, the limits."""
    names = model.class_names or [f"class {i}" for i in range(model.num_classes)]
    style = skeleton_style(model)
    points = getattr(model, "keypoint_names", None) or ()
    skeleton = style.get("skeleton") or ()
    return {
        "model": name,
        "kind": type(model).__name__,
        "classes": [
            {"label": label, "name": name, "color": _hex(class_color(label))}
            for label, name in enumerate(names)
            if label > 0
        ],
        "masks": bool(getattr(model, "needs_masks", False)),
        "keypoints": [
            {"name": name, "color": _hex(limb_color(i, len(points)))}
            for i, name in enumerate(points)
        ],
        "skeleton": [
            {"ends": list(ends), "color": _hex(limb_color(i, len(skeleton)))}
            for i, ends in enumerate(skeleton)
        ],
        "keypoint_thresh": style.get("keypoint_thresh"),
        "threshold": shown,  # that pictures and files have by default
        "formats": list(formats),
        "limits": {
            "bytes": limits.max_bytes,
            "pixels": limits.max_pixels,
            "queue": limits.queue,
            "seconds": limits.seconds,
        },
    }


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
