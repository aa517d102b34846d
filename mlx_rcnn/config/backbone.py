"""Configuration of the backbones: frozen dataclasses, every default written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import (
    NORM,
    NORM_OR_NONE,
    SWITCH,
    Choice,
    Number,
    Positive,
    Whole,
    check_fields,
    setting,
)

RESNET_DEPTHS = (18, 34, 50, 101, 152)
MOBILENETS = ("large", "small")
VGG_DEPTHS = (11, 13, 16, 19)


@dataclass(frozen=True)
class Stages:
    """Rising stages out of ``first`` to ``last``, one at least."""

    first: int
    last: int

    def check(self, config: Any, name: str) -> None:
        """See :class:`~mlx_rcnn.config.checks.Rule`."""
        layers, stages = getattr(config, name), range(self.first, self.last + 1)
        rising = isinstance(layers, tuple) and list(layers) == sorted(set(layers) & set(stages))
        if not layers or not rising:
            raise ValueError(
                f"{name}={layers!r}: expected rising stages out of {', '.join(map(str, stages))}"
            )


@dataclass(frozen=True)
class _ResNetFields:
    """What every ResNet is built from."""

    depth: int = setting(50, Choice(RESNET_DEPTHS))
    num_classes: int = setting(1000, Whole(0))
    norm: str = setting("batch", NORM)
    norm_eps: float = setting(1e-5, Number())
    norm_groups: int = setting(32, Whole())
    stride_in_1x1: bool = setting(False, SWITCH)
    groups: int = setting(1, Whole())
    width_per_group: int = setting(64, Whole())
    width: int = setting(64, Whole())

    def __post_init__(self) -> None:
        check_fields(self)
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"groups={self.groups!r}, width_per_group={self.width_per_group!r}: expected 1 and "
                f"64 for depth={self.depth}, whose blocks have no bottleneck"
            )


@dataclass(frozen=True)
class ResNetFPNConfig(_ResNetFields):
    """A ResNet with a feature pyramid on top, as ``resnet_fpn_backbone`` of torchvision builds it.

    Args:
        depth (int): 18, 34, 50, 101 or 152. Default: ``50``.
        num_classes (int): outputs of the classifier ``fc``; 0 leaves it out. Default: ``1000``.
        norm (str): ``"batch"``, ``"frozen"`` (fixed statistics and affine) or ``"group"``.
        norm_eps (float): epsilon of the norms. Default: ``1e-5``.
        norm_groups (int): groups of ``norm="group"``. Default: ``32``.
        stride_in_1x1 (bool): stride in the first 1x1 of a bottleneck (MSRA, detectron2) instead of
            its 3x3. Default: ``False``.
        groups (int): groups of the 3x3 convolutions (ResNeXt). Default: ``1``.
        width_per_group (int): base width of the bottlenecks. Default: ``64``.
        width (int): channels of the stem and, doubling, of the stages. Default: ``64``.
        out_channels (int): channels of every pyramid level. Default: ``256``.
        returned_layers (tuple of int): which of stages 1..4 feed the pyramid. Default: all.
        fpn_norm (str): norm after each convolution of the pyramid, of the same epsilon and groups,
            or ``None`` for biases instead. Default: ``None``.
    """

    out_channels: int = setting(256, Whole())
    returned_layers: tuple[int, ...] = setting((1, 2, 3, 4), Stages(1, 4))
    fpn_norm: str | None = setting(None, NORM_OR_NONE)


@dataclass(frozen=True)
class ResNetConfig(_ResNetFields):
    """A ResNet whose last stage is a detector's one map (detectron2's C4 and DC5 models).

    Args:
        depth, num_classes, norm, norm_eps, norm_groups: as in :class:`ResNetFPNConfig`, but
            ``num_classes`` is 0 by default.
        stride_in_1x1, groups, width_per_group, width: as in :class:`ResNetFPNConfig`.
        last_stage (int): stages there are: 3 gives a map of stride 16, 4 one of stride 32.
            Default: ``4``.
        dilated (bool): the fourth stage keeps the stride of 16, its 3x3 convolutions have dilation
            2. Default: ``False``.
    """

    num_classes: int = setting(0, Whole(0))
    last_stage: int = setting(4, Choice((1, 2, 3, 4)))
    dilated: bool = setting(False, SWITCH)

    @property
    def channels(self) -> int:
        """Of the map."""
        return int(self.width * 2 ** (self.last_stage - 1) * (4 if self.depth >= 50 else 1))


@dataclass(frozen=True)
class MobileNetFPNConfig:
    """A MobileNetV3 with a feature pyramid on top, as torchvision's ``mobilenet_backbone``.

    Args:
        variant (str): ``"large"`` or ``"small"``. Default: ``"large"``.
        num_classes (int): outputs of the classifier; 0 leaves it out. Default: ``1000``.
        norm (str): ``"batch"``, ``"frozen"`` (fixed statistics and affine) or ``"group"``.
        norm_eps (float): epsilon of the norms. Default: ``1e-5``, as in torchvision's detectors;
            its classifiers have 1e-3.
        norm_groups (int): groups of ``norm="group"``. Default: ``8``, which divides all channels.
        width (float): multiplies all channels, which are rounded to multiples of 8.
            Default: ``1.0``.
        reduced_tail (bool): half the channels in the last stages. Default: ``False``.
        out_channels (int): channels of every pyramid level. Default: ``256``.
        returned_layers (tuple of int): which of stages 0..5 feed the pyramid: 0 is the stem, a
            stage ends where the next one strides, 5 ends with the last 1x1. As in torchvision each
            map is the output of the *first* block of its stage. Default: ``(4, 5)``.
        fpn_norm (str): as in :class:`ResNetFPNConfig`. Default: ``None``.
    """

    variant: str = setting("large", Choice(MOBILENETS))
    num_classes: int = setting(1000, Whole(0))
    norm: str = setting("batch", NORM)
    norm_eps: float = setting(1e-5, Number())
    norm_groups: int = setting(8, Whole())
    width: float = setting(1.0, Positive())
    reduced_tail: bool = setting(False, SWITCH)
    out_channels: int = setting(256, Whole())
    returned_layers: tuple[int, ...] = setting((4, 5), Stages(0, 5))
    fpn_norm: str | None = setting(None, NORM_OR_NONE)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class VGGConfig:
    """A VGG whose last convolution is a detector's one map, of stride 16, as R-CNNs began.

    Args:
        depth (int): 11, 13, 16 or 19. Default: ``16``.
        num_classes (int): outputs of the classifier; 0 leaves its linear layers out. Default:
            ``0``.
        norm (str): norm after each convolution, ``"batch"``, ``"frozen"`` (fixed statistics and
            affine) or ``"group"``; ``None`` for none, as in the paper. Default: ``None``.
        norm_eps (float): epsilon of the norms. Default: ``1e-5``.
        norm_groups (int): groups of ``norm="group"``. Default: ``32``.
        width (int): channels of the first block; the next three double them. Default: ``64``.
        hidden_dim (int): units of the classifier's two hidden layers. Default: ``4096``.
    """

    depth: int = setting(16, Choice(VGG_DEPTHS))
    num_classes: int = setting(0, Whole(0))
    norm: str | None = setting(None, NORM_OR_NONE)
    norm_eps: float = setting(1e-5, Number())
    norm_groups: int = setting(32, Whole())
    width: int = setting(64, Whole())
    hidden_dim: int = setting(4096, Whole())

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def channels(self) -> int:
        """Of the map."""
        return 8 * self.width


@dataclass(frozen=True)
class AlexNetConfig:
    """An AlexNet whose last convolution is a detector's one map, of stride 16.

    It is torchvision's, of one tower and without local response norms (Krizhevsky, 2014).

    Args:
        num_classes (int): outputs of the classifier; 0 leaves its linear layers out. Default:
            ``0``.
        width (int): channels of the first convolution; the others have 3, 6, 4 and 4 times as
            many. Default: ``64``.
        hidden_dim (int): units of the classifier's two hidden layers. Default: ``4096``.
    """

    num_classes: int = setting(0, Whole(0))
    width: int = setting(64, Whole())
    hidden_dim: int = setting(4096, Whole())

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def channels(self) -> int:
        """Of the map."""
        return 4 * self.width
