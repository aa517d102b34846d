"""What is found, and who finds it, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..outputs.coco import results_of
from ..outputs.draw import class_color
from ..outputs.skeletons import limb_color, skeleton_style
from .limits import Limits
from .worker import Found

BOX_DIGITS, SCORE_DIGITS = 4, 8  # decimals, as in COCO results


def model_name(source: str) -> str:
    """How a model is called in answers, which tell no more of this machine's folders than that.

    Args:
        source: of ``--model``.

    Returns:
        ``run/best`` of a folder ``.../run/best``, and of a file its name without the suffix.
    """
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.is_dir() or not path.suffix else path.stem


def detections_json(found: Found, name: str, model: str) -> bytes:
    """The answer of ``POST /predict``.

    Args:
        found: in one image.
        name: of the image.
        model: the model's name.

    Returns:
        JSON as ``GET /schema`` says it, boxes to 1e-4 of a pixel, scores to 1e-8.
    """
    height, width = found.image.shape[:2]
    content = {
        "model": model,
        "image": {"name": name, "width": width, "height": height},
        "detections": detection_list(found),
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def detection_list(found: Found) -> list[dict[str, Any]]:
    """Each detection, best first: ``label``, ``name``, ``score``, ``box``, and what it has beside.

    Args:
        found: in one image.

    Returns:
        Dicts ready for JSON; ``mask`` is COCO's RLE of the image given.
    """
    prediction = found.prediction
    entries = results_of(found.model, prediction, 0, found.image)
    rows = []
    for i, (entry, name) in enumerate(zip(entries, prediction.names, strict=True)):
        row: dict[str, Any] = {"label": entry["category_id"], "name": name, "score": entry["score"]}
        row["box"] = [round(v, BOX_DIGITS) for v in prediction["boxes"][i].tolist()]
        if "segmentation" in entry:
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
    model: Any, name: str, limits: Limits, formats: tuple[str, ...], shown: float
) -> dict[str, Any]:
    """The answer of ``GET /model``: classes and colours, what can be asked for, the limits.

    Args:
        model, name: that is served.
        limits: of the server.
        formats: values of ``format``.
        shown: the threshold that pictures and files have by default.
    """
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
        "threshold": shown,
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
