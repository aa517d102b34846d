"""Files of the libraries' model zoos, told by the digest that ends their names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple


class Known(NamedTuple):
    """Published weights: ``title``, box AP and mask or keypoint AP on COCO val2017, if known."""

    title: str
    box: float | None = None
    other: float | None = None


# By the hash that ends the published file's name.
KNOWN = {
    "258fb6c6": Known("fasterrcnn_resnet50_fpn.COCO_V1", 37.0),
    "dd69338a": Known("fasterrcnn_resnet50_fpn_v2.COCO_V1", 46.7),
    "fb6a3cc7": Known("fasterrcnn_mobilenet_v3_large_fpn.COCO_V1", 32.8),
    "907ea3f9": Known("fasterrcnn_mobilenet_v3_large_320_fpn.COCO_V1", 22.8),
    "bf2d0c1e": Known("maskrcnn_resnet50_fpn.COCO_V1", 37.9, 34.6),
    "73cbd019": Known("maskrcnn_resnet50_fpn_v2.COCO_V1", 47.4, 41.8),
    "fc266e95": Known("keypointrcnn_resnet50_fpn.COCO_V1", 54.6, 65.0),
    "b275ba": Known("COCO-Detection/faster_rcnn_R_50_FPN_1x", 37.9),
    "280758": Known("COCO-Detection/faster_rcnn_R_50_FPN_3x", 40.2),
    "f6e8b1": Known("COCO-Detection/faster_rcnn_R_101_FPN_3x", 42.0),
    "68b088": Known("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x", 43.0),
    "721ade": Known("COCO-Detection/faster_rcnn_R_50_C4_1x", 35.7),
    "f97cb7": Known("COCO-Detection/faster_rcnn_R_50_C4_3x", 38.4),
    "51d356": Known("COCO-Detection/faster_rcnn_R_50_DC5_1x", 37.3),
    "68d202": Known("COCO-Detection/faster_rcnn_R_50_DC5_3x", 39.0),
    "e5f7ce": Known("COCO-Detection/fast_rcnn_R_50_FPN_1x", 37.8),
    "02ce48": Known("COCO-Detection/rpn_R_50_FPN_1x"),  # average recall 58.0 of 1000 boxes
    "450694": Known("COCO-Detection/rpn_R_50_C4_1x"),  # 51.6
    "e9d89b": Known("Misc/cascade_mask_rcnn_R_50_FPN_1x", 42.1, 36.4),
    "480dd8": Known("Misc/cascade_mask_rcnn_R_50_FPN_3x", 44.3, 38.5),
    "a54504": Known("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", 38.6, 35.2),
    "f10217": Known("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", 41.0, 37.2),
    "a3ec72": Known("COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x", 42.9, 38.6),
    "2d9806": Known("COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x", 44.3, 39.5),
    "04e291": Known("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x", 53.6, 64.0),
    "a6e10b": Known("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x", 55.4, 65.5),
    "997cc7": Known("COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x", 56.4, 66.1),
    "5ad38f": Known("COCO-Keypoints/keypoint_rcnn_X_101_32x8d_FPN_3x", 57.3, 66.0),
    "047c8118": Known("faster_rcnn_r50_fpn_1x_coco", 37.4),
    "a5d8aa15": Known("faster_rcnn_r50_fpn_2x_coco", 38.4),
    "f513f705": Known("faster_rcnn_r101_fpn_1x_coco", 39.4),
    "1d2dac9c": Known("faster_rcnn_r101_fpn_2x_coco", 39.8),
    "cff10310": Known("faster_rcnn_x101_32x4d_fpn_1x_coco", 41.2),
    "833ee192": Known("faster_rcnn_x101_64x4d_fpn_1x_coco", 42.1),
    "d4b0c5d6": Known("mask_rcnn_r50_fpn_1x_coco", 38.2, 34.7),
    "3e542a40": Known("mask_rcnn_r50_fpn_2x_coco", 39.2, 35.4),
    "21b550bb": Known("mask_rcnn_r50_fpn_mstrain-poly_3x_coco", 40.9, 37.1),
    "1efe0ed5": Known("mask_rcnn_r101_fpn_1x_coco", 40.0, 36.1),
    "5675c317": Known("mask_rcnn_r101_fpn_mstrain-poly_3x_coco", 42.7, 38.5),
    "3dc56deb": Known("cascade_rcnn_r50_fpn_1x_coco", 40.3),
    "e9872a90": Known("cascade_rcnn_r50_fpn_20e_coco", 41.0),
    "0b6a2fbf": Known("cascade_rcnn_r101_fpn_1x_coco", 42.0),
    "5057dcc5": Known("cascade_rcnn_r101_fpn_20e_coco", 42.5),
    "9d4dcb24": Known("cascade_mask_rcnn_r50_fpn_1x_coco", 41.2, 35.9),
    "5bdc3824": Known("cascade_mask_rcnn_r50_fpn_mstrain_3x_coco", 44.3, 38.5),
    "befdf6ee": Known("cascade_mask_rcnn_r101_fpn_1x_coco", 42.9, 37.3),
    "005947da": Known("cascade_mask_rcnn_r101_fpn_20e_coco", 43.4, 37.8),
}


def known_weights(file: str) -> Known | None:
    """What is published about a file by the hash in its name; ``None`` for a user's own weights."""
    stem = file.rsplit(".", 1)[0]  # such as ``model_final_b275ba.pkl``
    return next((known for digest, known in KNOWN.items() if _ends(stem, digest)), None)


def _ends(stem: str, digest: str) -> bool:
    return stem.endswith((f"-{digest}", f"_{digest}"))


def is_published(path: Path) -> bool:
    """Whether a file is one of a model zoo, by its name or, renamed, by its bytes."""
    if known_weights(path.name):
        return True
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:8] in KNOWN
