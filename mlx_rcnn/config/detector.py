"""The configs of the models: frozen dataclasses, every default written once.

What models share stands in ``network`` (maps and input), ``proposals`` and ``boxes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TypeVar

from ..messages import nearest
from .boxes import BoxConfig, BoxStage, FastRCNNConfig, RCNNConfig
from .checks import (
    NORM_OR_NONE,
    SHARE,
    SWITCH,
    Choice,
    Names,
    Number,
    Row,
    Rows,
    Sizes,
    Whole,
    setting,
)
from .network import STRIDE_RULES, DetectorConfig
from .proposals import ProposalNetworkConfig, ProposingConfig

T = TypeVar("T", bound=DetectorConfig)

__all__ = [
    "STRIDE_RULES",
    "BoxConfig",
    "BoxStage",
    "CascadeMaskRCNNConfig",
    "CascadeRCNNConfig",
    "DetectorConfig",
    "FastRCNNConfig",
    "FasterRCNNConfig",
    "KeypointRCNNConfig",
    "MaskRCNNConfig",
    "ProposalNetworkConfig",
    "RCNNConfig",
    "make_config",
    "to_json",
]


@dataclass(frozen=True)
class FasterRCNNConfig(FastRCNNConfig, ProposingConfig):
    """A Fast R-CNN whose proposals are a network's: the fields of both."""


@dataclass(frozen=True)
class MaskRCNNConfig(FasterRCNNConfig):
    """A Faster R-CNN with a mask branch.

    Args:
        mask_pool_size ((int, int)): RoIAlign's output for the mask head, square.
        mask_hidden_channels (int): channels of the mask head. Default: ``256``.
        mask_out_size (int): side of a predicted mask, twice the pool size; the pool size itself
            with ``res5_head``. Default: ``28``.
        mask_num_convs (int): 3x3 convolutions of the mask head, perhaps none. Default: ``4``.
        mask_paste_rule (str): ``"torchvision"`` or ``"detectron2"`` (and mmdetection): where a
            pixel looks a mask up, see :func:`~mlx_rcnn.ops.paste_masks`; and, in training, how
            targets are cut to a box: shares of a pixel, or half a pixel off and 0 or 1.
        mask_head_norm (str): as ``box_head_norm``. Default: ``None``.
    """

    mask_pool_size: tuple[int, int] = setting((14, 14), Sizes(Row(2), whole=True))
    mask_hidden_channels: int = setting(256, Whole())
    mask_out_size: int = setting(28, Whole())
    mask_num_convs: int = setting(4, Whole(0))
    mask_paste_rule: str = setting("torchvision", Choice(("torchvision", "detectron2")))
    mask_head_norm: str | None = setting(None, NORM_OR_NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.mask_pool_size
        if height != width:
            raise ValueError(f"mask_pool_size={self.mask_pool_size!r}: expected a square")
        # The fourth stage of a ResNet halves the RoI features before the mask head doubles them.
        out = height if self.res5_head else 2 * height
        if self.mask_out_size != out:
            what = "mask_pool_size" if self.res5_head else "twice mask_pool_size"
            raise ValueError(f"mask_out_size={self.mask_out_size!r}: expected {what}, {out}")


@dataclass(frozen=True)
class KeypointRCNNConfig(FasterRCNNConfig):
    """A Faster R-CNN with a keypoint branch.

    Args:
        min_size: as in :class:`FasterRCNNConfig`; torchvision draws one of 640 to 800 in training.
        num_keypoints (int): K, of every object. Default: ``17``, COCO's of a person.
        keypoint_pool_size ((int, int)): RoIAlign's output for the keypoint head, square.
        keypoint_layers (tuple of int): channels of its 3x3 convolutions.
        keypoint_score (str): ``"logit"``, the greatest of the resized heatmap (torchvision), or
            ``"probability"``, its softmax normalised over the heatmap as it was (detectron2).
        keypoint_offset (float): pixels that the model puts points right of and below where COCO's
            files have them: ``0.5`` in detectron2, whose evaluator takes it off again. So do
            ``evaluate`` and COCO results, and ``train`` adds it. Default: ``0``.
        keypoint_names: one name a keypoint. Default: none.
        keypoint_skeleton: pairs of keypoints, counted from 0, to join when drawn. Default: none.
    """

    min_size: int | tuple[int, ...] = setting(
        (640, 672, 704, 736, 768, 800), Sizes(Row(), lone=True)
    )
    num_keypoints: int = setting(17, Whole())
    keypoint_pool_size: tuple[int, int] = setting((14, 14), Sizes(Row(2), whole=True))
    keypoint_layers: tuple[int, ...] = setting((512,) * 8, Sizes(Row(), whole=True))
    keypoint_score: str = setting("logit", Choice(("logit", "probability")))
    keypoint_offset: float = setting(0.0, Number(-1.0, 1.0))
    keypoint_names: tuple[str, ...] | None = setting(None, Names("num_keypoints"))
    keypoint_skeleton: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.keypoint_pool_size
        if height != width:
            raise ValueError(f"keypoint_pool_size={self.keypoint_pool_size!r}: expected a square")
        for edge in self.keypoint_skeleton or ():
            if (
                not isinstance(edge, tuple)
                or len(edge) != 2
                or set(edge) - set(range(self.num_keypoints))
            ):
                raise ValueError(
                    f"keypoint_skeleton holds {edge!r}: expected pairs of 0.."
                    f"{self.num_keypoints - 1}"
                )


@dataclass(frozen=True)
class CascadeRCNNConfig(FasterRCNNConfig):
    """A Faster R-CNN whose box head stands several times, each over the boxes of the one before.

    The defaults are the paper's (Cai and Vasconcelos, 2018) and detectron2's.

    Args:
        class_agnostic_bbox (bool): one box regression for all classes. Default: ``True``.
        cascade_ious (tuple of float): from which IoU an RoI is positive, one a stage, not falling.
            Default: ``(0.5, 0.6, 0.7)``.
        cascade_reg_weights: ``bbox_reg_weights`` of each stage, whose own field does not count.
            Default: ``(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)``.
        cascade_loss_weights (tuple of float): of each stage's losses. Default: 1 for all;
            mmdetection has 1, 0.5, 0.25.
        cascade_scores (str): what is averaged over the stages for a detection's score:
            ``"probability"`` (detectron2) or ``"logit"`` (mmdetection). Default:
            ``"probability"``.
        cascade_resample (bool): each later stage trains on a new sample of its boxes and the
            targets' (the paper, mmdetection), not on all of its boxes (detectron2). Default:
            ``True``.
        cascade_grad_scale (float): of the gradient from each box head into the pooled features.
            Default: ``1``; detectron2 has one over the number of stages.
    """

    class_agnostic_bbox: bool = setting(True, SWITCH)
    cascade_ious: tuple[float, ...] = setting((0.5, 0.6, 0.7), Row())
    cascade_reg_weights: tuple[tuple[float, ...], ...] = setting(
        ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)), Rows(4)
    )
    cascade_loss_weights: tuple[float, ...] = setting((1.0, 1.0, 1.0), Row())
    cascade_scores: str = setting("probability", Choice(("probability", "logit")))
    cascade_resample: bool = setting(True, SWITCH)
    cascade_grad_scale: float = setting(1.0, SHARE)

    def __post_init__(self) -> None:
        super().__post_init__()
        ious, stages = self.cascade_ious, len(self.cascade_ious)
        if not ious or any(not 0 < iou <= 1 for iou in ious) or list(ious) != sorted(ious):
            raise ValueError(
                f"cascade_ious={ious!r}: expected numbers in (0, 1], one a stage, none below the "
                "one before"
            )
        for name in ("cascade_reg_weights", "cascade_loss_weights"):
            value = getattr(self, name)
            if len(value) != stages:
                raise ValueError(
                    f"{name}={value!r}: expected {stages} entries, one a stage, as cascade_ious="
                    f"{ious!r} has"
                )
        if any(weight < 0 for weight in self.cascade_loss_weights):
            raise ValueError(
                f"cascade_loss_weights={self.cascade_loss_weights!r}: expected none below 0"
            )
        if self.res5_head:
            raise ValueError(
                "res5_head=True: expected False, a cascade's box heads have own layers"
            )

    @property
    def box_stages(self) -> tuple[BoxStage, ...]:
        """See :attr:`FastRCNNConfig.box_stages`."""
        rows = zip(
            self.cascade_ious, self.cascade_reg_weights, self.cascade_loss_weights, strict=True
        )
        return tuple(BoxStage(iou, iou, weights, loss) for iou, weights, loss in rows)


@dataclass(frozen=True)
class CascadeMaskRCNNConfig(CascadeRCNNConfig, MaskRCNNConfig):
    """A cascade with a mask branch.

    Args:
        cascade_mask_heads (bool): a mask head a stage, each trained on the boxes of its own, their
            probabilities averaged (mmdetection); else one, on those of the first (detectron2).
            Default: ``False``.
    """

    cascade_mask_heads: bool = setting(False, SWITCH)


def make_config(
    cls: type[T],
    backbone: object,
    feat_channels: int | None,
    num_classes: int | None,
    options: Mapping[str, object],
) -> T:
    """Turn a model's constructor arguments, keywords or a config, into a checked ``cls``."""
    given = {"feat_channels": feat_channels, "num_classes": num_classes}
    options = {**{k: v for k, v in given.items() if v is not None}, **options}
    known = [f.name for f in fields(cls)]
    for name in options:
        if name not in known:
            raise TypeError(f"{cls.__name__} has no field {name!r}{nearest(name, known)}")
    if type(backbone) is cls:  # then ``options`` replace its fields
        renewed: Callable[..., T] = replace  # the fields' rules check what is given
        return renewed(backbone, **options)
    if isinstance(backbone, DetectorConfig):
        raise TypeError(f"got a {type(backbone).__name__}, expected a {cls.__name__}")
    # The level a pyramid subsamples from its last is for proposals alone, as in torchvision.
    returned = getattr(getattr(backbone, "config", backbone), "returned_layers", None)
    if "roi_levels" in known and isinstance(returned, tuple):
        options.setdefault("roi_levels", min(len(returned), 4))
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.name in given]
    missing = [name for name in needed if name not in options]
    if missing:
        raise TypeError(f"{cls.__name__}: missing {' and '.join(missing)}")
    made: Callable[..., T] = cls
    return made(backbone=backbone, **options)


def to_json(config: DetectorConfig) -> dict[str, object]:
    """The config as JSON-ready values, the backbone (a module or config) left out."""
    return asdict(replace(config, backbone=None))
