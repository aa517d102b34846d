"""Published weights: where they are, what they reach, on what terms."""

from __future__ import annotations

from typing import NamedTuple

# Each file's name ends in the first 8 hex digits of its SHA-256.
_HOST = "https://download.pytorch.org/models/"
_FILES = {
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
    "keypointrcnn_resnet50_fpn": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "maskrcnn_resnet50_fpn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
}
PUBLISHED = {name: _HOST + file for name, file in _FILES.items()}

# Classifiers, IMAGENET1K_V1: those torchvision starts its own detectors from.
_BACKBONE_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
    "resnext101_64x4d": "resnext101_64x4d-173b62eb.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
    "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
}
PUBLISHED_BACKBONES = {name: _HOST + file for name, file in _BACKBONE_FILES.items()}


class Known(NamedTuple):
    """Published weights: ``title``, box AP and mask or keypoint AP on COCO val2017, if known."""

    title: str
    box: float | None = None
    other: float | None = None


class Terms(NamedTuple):
    """On what terms a library's weights are: the Hub's ``licence`` tag, and what to say."""

    licence: str
    text: str
    address: str


TERMS = {
    "torchvision": Terms(
        "bsd-3-clause",
        "The weights are torchvision's, under its BSD 3-Clause licence.",
        "https://github.com/pytorch/vision",
    ),
    "detectron2": Terms(
        "cc-by-sa-3.0",
        "The weights are of the detectron2 model zoo by Facebook AI Research (Wu, Kirillov, Massa, "
        "Lo and Girshick, Detectron2, 2019), under the Creative Commons Attribution-ShareAlike "
        "3.0 licence (https://creativecommons.org/licenses/by-sa/3.0/). Changes made: tensors "
        "were renamed and their axes reordered, as the command below says. Whoever shares these "
        "weights or an adaptation of them must name that source and use the same licence.",
        "https://github.com/facebookresearch/detectron2",
    ),
    "mmdetection": Terms(
        "apache-2.0",
        "The weights are of the mmdetection model zoo by OpenMMLab, under the Apache 2.0 licence.",
        "https://github.com/open-mmlab/mmdetection",
    ),
}
"""By library, of the weights its authors publish; a user's own are the user's."""


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
}


def known_weights(file: str) -> Known | None:
    """What is published about a file, told by the hash in its name.

    Args:
        file: its name, such as ``model_final_b275ba.pkl``.

    Returns:
        The entry, or ``None`` for a user's own weights.
    """
    stem = file.rsplit(".", 1)[0]
    return next((known for digest, known in KNOWN.items() if _ends(stem, digest)), None)


def _ends(stem: str, digest: str) -> bool:
    return stem.endswith((f"-{digest}", f"_{digest}"))
