"""Faster, Mask, Keypoint and Cascade R-CNN on Apple's MLX, with the weights people already have."""

from typing import TYPE_CHECKING, Any

from . import moved, ops
from .checkpoints.backbone_weights import load_backbone
from .checkpoints.export_function import export_function
from .checkpoints.exported_function import load_function
from .checkpoints.load import load
from .checkpoints.save import save
from .checkpoints.start import start_from
from .config.backbone import (
    AlexNetConfig,
    MobileNetFPNConfig,
    ResNetConfig,
    ResNetFPNConfig,
    VGGConfig,
)
from .config.detector import (
    CascadeMaskRCNNConfig,
    CascadeRCNNConfig,
    FasterRCNNConfig,
    FastRCNNConfig,
    KeypointRCNNConfig,
    MaskRCNNConfig,
    ProposalNetworkConfig,
    RCNNConfig,
)
from .heads import FastRCNNPredictor, KeypointRCNNPredictor, MaskRCNNPredictor
from .inputs.images import load_image
from .memory import reuse_large_blocks
from .models import (
    RCNN,
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    KeypointRCNN,
    MaskRCNN,
    ProposalNetwork,
    TestTimeAugment,
    Tiles,
    cascade_mask_rcnn_resnet_50_fpn,
    cascade_mask_rcnn_resnet_101_fpn,
    cascade_rcnn_resnet_50_fpn,
    cascade_rcnn_resnet_101_fpn,
    fast_rcnn_resnet_50_fpn,
    fast_rcnn_vgg_16,
    faster_rcnn_resnet_50_fpn,
    faster_rcnn_resnet_101_fpn,
    faster_rcnn_vgg_16,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    keypointrcnn_resnet50_fpn,
    mask_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_101_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    predict_tiled,
    quantize,
    rcnn_alexnet,
    rcnn_vgg_16,
)
from .training import set_trainable

if TYPE_CHECKING:
    from .outputs.draw import draw_detections

__version__ = "0.1.0"

__all__ = [
    "RCNN",
    "AlexNetConfig",
    "CascadeMaskRCNN",
    "CascadeMaskRCNNConfig",
    "CascadeRCNN",
    "CascadeRCNNConfig",
    "FastRCNN",
    "FastRCNNConfig",
    "FastRCNNPredictor",
    "FasterRCNN",
    "FasterRCNNConfig",
    "KeypointRCNN",
    "KeypointRCNNConfig",
    "KeypointRCNNPredictor",
    "MaskRCNN",
    "MaskRCNNConfig",
    "MaskRCNNPredictor",
    "MobileNetFPNConfig",
    "ProposalNetwork",
    "ProposalNetworkConfig",
    "RCNNConfig",
    "ResNetConfig",
    "ResNetFPNConfig",
    "TestTimeAugment",
    "Tiles",
    "VGGConfig",
    "cascade_mask_rcnn_resnet_50_fpn",
    "cascade_mask_rcnn_resnet_101_fpn",
    "cascade_rcnn_resnet_50_fpn",
    "cascade_rcnn_resnet_101_fpn",
    "draw_detections",
    "export_function",
    "fast_rcnn_resnet_50_fpn",
    "fast_rcnn_vgg_16",
    "faster_rcnn_resnet_50_fpn",
    "faster_rcnn_resnet_101_fpn",
    "faster_rcnn_vgg_16",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "load",
    "load_backbone",
    "load_function",
    "load_image",
    "mask_rcnn_resnet_50_fpn",
    "mask_rcnn_resnet_101_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "ops",
    "predict_tiled",
    "quantize",
    "rcnn_alexnet",
    "rcnn_vgg_16",
    "reuse_large_blocks",
    "save",
    "set_trainable",
    "start_from",
]

moved.install()


def __getattr__(name: str) -> Any:
    """``draw_detections``, when asked for, so that the import stays quick; modules that moved."""
    if name == "draw_detections":
        from .outputs.draw import draw_detections

        return draw_detections
    return moved.attribute(__name__, name)


def __dir__() -> list[str]:
    return list(__all__)
