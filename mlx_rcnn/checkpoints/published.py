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

# Classifiers, IMAGENET1K_V1; torchvision starts its own detectors from some of them.
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
    "vgg11": "vgg11-8a719046.pth",
    "vgg11_bn": "vgg11_bn-6002323d.pth",
    "vgg13": "vgg13-19584684.pth",
    "vgg13_bn": "vgg13_bn-abd245e5.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "vgg19_bn": "vgg19_bn-c79401a0.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
}
PUBLISHED_BACKBONES = {name: _HOST + file for name, file in _BACKBONE_FILES.items()}


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
