"""Detections on disk: COCO results JSON and annotated pictures, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .files import replacing as replacing
from .ops.rle import encode_rle

# COCO 2017 names its files 000000000139.jpg, COCO 2014 COCO_val2014_000000000139.jpg.
_COCO_STEM = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
# Sources that lost nothing to compression keep that in their picture; photos become JPEG.
_LOSSLESS_SUFFIXES = (
    ".bmp", ".gif", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
)  # fmt: skip


def image_ids(paths: Sequence[Path]) -> list[int | str]:
    """The ``image_id`` of each image in COCO results.

    Args:
        paths: image files.

    Returns:
        The number for a file named as COCO names them (twelve digits: ``000000000139.jpg`` is 139),
        the path as a string for every other, and for COCO names that come up twice.
    """
    matches = [_COCO_STEM.fullmatch(path.stem) for path in paths]
    numbers = Counter(int(match[1]) for match in matches if match)
    return [
        int(match[1]) if match and numbers[int(match[1])] == 1 else path.as_posix()
        for path, match in zip(paths, matches, strict=True)
    ]


def coco_results(prediction: Mapping[str, np.ndarray], image_id: int | str) -> list[dict[str, Any]]:
    """Turn one prediction into entries of a COCO results file.

    Args:
        prediction: one dict of ``predict``: ``boxes`` (D, 4) xyxy pixels, ``scores`` (D,),
            ``labels`` (D,), and if present ``masks`` (D, H, W) bool, ``keypoints`` (D, K, 3) and
            ``keypoints_scores`` (D, K).
        image_id: the id of the image the entries belong to.

    Returns:
        D dicts with ``image_id``, ``category_id`` (the label, which torchvision's checkpoints count
        as COCO does), ``bbox`` [x, y, width, height] in pixels, ``score``, for masks
        ``segmentation``, compressed RLE, and for keypoints ``keypoints``, x, y and visibility of
        each in one list of 3 * K numbers, and ``keypoints_scores``, which COCO's format lacks;
        ``score`` is the box's there, too.
    """
    boxes = np.asarray(prediction["boxes"], np.float64).reshape(-1, 4)
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    entries: list[dict[str, Any]] = []
    for i, (label, score) in enumerate(
        zip(prediction["labels"], prediction["scores"], strict=True)
    ):
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(label),
            "bbox": [round(float(v), 4) for v in boxes[i]],
            "score": round(float(score), 8),
        }
        if "masks" in prediction:
            entry["segmentation"] = encode_rle(prediction["masks"][i])
        for name in ("keypoints", "keypoints_scores"):
            if name in prediction:
                entry[name] = np.round(prediction[name][i].astype(np.float64), 4).ravel().tolist()
        entries.append(entry)
    return entries


def coco_annotations(target: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Turn the objects of one image into COCO's annotations.

    Args:
        target: ``boxes`` (G, 4) xyxy pixels, ``labels`` (G,), and if present ``iscrowd`` (G,),
            ``difficult`` (G,), ``masks`` (G, H, W) and ``keypoints`` (G, K, 3).

    Returns:
        G dicts with ``category_id`` (the label), ``bbox`` [x, y, width, height] in pixels,
        ``area`` (of the mask, or else of the box), ``iscrowd``, ``difficult``, for masks
        ``segmentation``, compressed RLE, and for keypoints ``keypoints``, one list of 3 * K
        numbers, and ``num_keypoints``, how many are visible.
    """
    none = np.zeros(len(target["boxes"]), np.uint8)
    entries: list[dict[str, Any]] = []
    for i, ((x1, y1, x2, y2), label, crowd, difficult) in enumerate(
        zip(
            target["boxes"].astype(np.float64).tolist(),
            target["labels"].tolist(),
            target.get("iscrowd", none).tolist(),
            target.get("difficult", none).tolist(),
            strict=True,
        )
    ):
        entry: dict[str, Any] = {
            "category_id": int(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(crowd),
            "difficult": int(difficult),
        }
        if "masks" in target:
            entry["segmentation"] = encode_rle(target["masks"][i])
            entry["area"] = float(np.count_nonzero(target["masks"][i]))
        if "keypoints" in target:
            points = target["keypoints"][i].astype(np.float64)
            entry["keypoints"] = points.ravel().tolist()
            entry["num_keypoints"] = int(np.count_nonzero(points[:, 2]))
        entries.append(entry)
    return entries


def write_results(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write COCO results as JSON, one entry a line.

    Args:
        path: the file, replaced as a whole once the new one is complete.
        entries: what :func:`coco_results` gives, for any number of images.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        file.write(f"[\n{lines}\n]\n" if entries else "[]\n")


def picture_paths(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Where the annotated picture of each source goes.

    Args:
        sources: image files.
        folder: the folder for the pictures.

    Returns:
        One path a source: its stem with ``.png`` if it is stored without loss, else with a JPEG
        suffix. Where two would share a name, or one would overwrite a source, ``_2``, ``_3`` ... is
        added. Names that differ in case alone count as the same, as they are on macOS.
    """
    taken = {_identity(source) for source in sources}
    paths = []
    for source in sources:
        suffix = source.suffix.lower()
        if suffix in _LOSSLESS_SUFFIXES:
            suffix = ".png"
        elif suffix not in _JPEG_SUFFIXES:
            suffix = ".jpg"
        path, number = folder / f"{source.stem}{suffix}", 2
        while _identity(path) in taken:
            path, number = folder / f"{source.stem}_{number}{suffix}", number + 1
        taken.add(_identity(path))
        paths.append(path)
    return paths


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture, as PNG or as JPEG of quality 95 by its suffix.

    Args:
        path: the file, replaced as a whole once the new one is complete.
        picture: an RGB image.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    with replacing(path) as part:
        if path.suffix == ".png":
            picture.save(part, "PNG", compress_level=3)
        else:  # full chroma resolution: thin coloured lines smear without it
            picture.save(part, "JPEG", quality=95, subsampling=0)


def _identity(path: Path) -> str:
    return str(path.resolve()).casefold()
