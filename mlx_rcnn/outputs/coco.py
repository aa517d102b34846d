"""Detections as entries of COCO results, and their file, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import replacing
from ..ops.masks import paste_mask
from ..ops.rle import encode_rle, encode_rle_part
from ..structures import Entry

# COCO 2017 names its files 000000000139.jpg, COCO 2014 COCO_val2014_000000000139.jpg.
_COCO_STEM = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")


def image_ids(paths: Sequence[Path]) -> list[int | str]:
    """The ``image_id`` of each file in COCO results: its number as COCO names it, else its path."""
    matches = [_COCO_STEM.fullmatch(path.stem) for path in paths]
    numbers = Counter(int(match[1]) for match in matches if match)
    return [
        # ``000000000139.jpg`` is 139; names that come up twice are paths
        int(match[1]) if match and numbers[int(match[1])] == 1 else path.as_posix()
        for path, match in zip(paths, matches, strict=True)
    ]


def coco_results(
    prediction: Mapping[str, np.ndarray],
    image_id: int | str,
    # taken off x and y, in pixels (see :class:`~mlx_rcnn.KeypointRCNNConfig`)
    keypoint_offset: float = 0.0,
    # (height, width), where masks are probabilities (D, M, M) of ``predict(masks="raw")``: they are
    # pasted one at a time, so that (D, H, W) never exists
    image_size: tuple[int, int] | None = None,
    paste_rule: str = "torchvision",
) -> list[Entry]:
    """One prediction, ``boxes`` (D, 4) xyxy pixels and so on, as D entries of COCO results."""
    boxes = np.asarray(prediction["boxes"], np.float64).reshape(-1, 4)
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    entries: list[Entry] = []
    for i, (label, score) in enumerate(
        zip(prediction["labels"], prediction["scores"], strict=True)
    ):
        entry: Entry = {
            "image_id": image_id,
            "category_id": int(label),  # which torchvision's checkpoints count as COCO does
            "bbox": [round(float(v), 4) for v in boxes[i]],  # x, y, width, height in pixels
            "score": round(float(score), 8),
        }
        if "masks" in prediction:
            mask = prediction["masks"][i]
            if image_size is None:
                entry["segmentation"] = encode_rle(mask)
            else:  # the part that its box covers: an image may be too large for one whole mask
                part, corner = paste_mask(mask, prediction["boxes"][i], image_size, rule=paste_rule)
                entry["segmentation"] = encode_rle_part(part, corner, image_size)
        # x, y and visibility of each in one list of 3 * K numbers, and ``keypoints_scores``, which
        # COCO's format lacks; ``score`` is the box's there, too
        for name, offset in (("keypoints", [keypoint_offset] * 2 + [0]), ("keypoints_scores", 0)):
            if name in prediction:  # (D, K, 3) and (D, K)
                values = prediction[name][i].astype(np.float64) - offset
                entry[name] = np.round(values, 4).ravel().tolist()
        entries.append(entry)
    return entries


def results_of(
    model: object, prediction: Mapping[str, np.ndarray], image_id: int | str, image: np.ndarray
) -> list[Entry]:
    """:func:`coco_results` of a prediction, its masks pasted or, by ``mask_option``, not yet."""
    config = getattr(model, "config", None)
    # of its config the keypoints' offset and how masks are pasted
    offset = getattr(config, "keypoint_offset", 0.0)
    masks = prediction.get("masks")
    if masks is None or masks.dtype == bool:
        return coco_results(prediction, image_id, offset)
    size, rule = (image.shape[0], image.shape[1]), getattr(config, "mask_paste_rule", "torchvision")
    return coco_results(prediction, image_id, offset, size, rule)


def mask_option(model: object) -> dict[str, str]:
    """Options of ``predict`` for results whose masks are kept as RLE alone, if it has masks."""
    return {"masks": "raw"} if getattr(model, "needs_masks", False) else {}


def write_results(path: Path, entries: Sequence[Entry]) -> None:
    """Write COCO results as JSON, one entry a line; the file is replaced whole or untouched."""
    with replacing(path) as part:
        part.write_text(results_text(entries), encoding="utf-8")


def results_text(entries: Sequence[Entry]) -> str:
    """What :func:`write_results` writes."""
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    return f"[\n{lines}\n]\n" if entries else "[]\n"
