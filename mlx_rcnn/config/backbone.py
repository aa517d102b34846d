"""Configuration of the backbones: frozen dataclasses, every default written once."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import NORMS, check_choice, check_integer, check_number, check_sizes, freeze_sequences

RESNET_DEPTHS = (18, 34, 50, 101, 152)
MOBILENETS = ("large", "small")


@dataclass(frozen=True)
class ResNetFPNConfig:
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

    depth: int = 50
    num_classes: int = 1000
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_groups: int = 32
    stride_in_1x1: bool = False
    groups: int = 1
    width_per_group: int = 64
    width: int = 64
    out_channels: int = 256
    returned_layers: tuple[int, ...] = (1, 2, 3, 4)
    fpn_norm: str | None = None

    def __post_init__(self) -> None:
        _check(self, 1, 4)
        _check_resnet(self)


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet whose last stage is a detector's one map (detectron2's C4 and DC5 models).

    Args:
        depth, num_classes, norm, norm_eps, norm_groups, stride_in_1x1, groups, width_per_group,
            width: as in :class:`ResNetFPNConfig`, but ``num_classes`` is 0 by default.
        last_stage (int): stages there are: 3 gives a map of stride 16, 4 one of stride 32.
            Default: ``4``.
        dilated (bool): the fourth stage keeps the stride of 16, its 3x3 convolutions have dilation
            2. Default: ``False``.
    """

    depth: int = 50
    num_classes: int = 0
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_groups: int = 32
    stride_in_1x1: bool = False
    groups: int = 1
    width_per_group: int = 64
    width: int = 64
    last_stage: int = 4
    dilated: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "norm", NORMS)
        check_choice(self, "dilated", (True, False))
        check_choice(self, "last_stage", (1, 2, 3, 4))
        check_integer(self, "num_classes", 0)
        check_integer(self, "norm_groups", 1)
        check_number(self, "norm_eps", 0.0)
        _check_resnet(self)

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

    variant: str = "large"
    num_classes: int = 1000
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_groups: int = 8
    width: float = 1.0
    reduced_tail: bool = False
    out_channels: int = 256
    returned_layers: tuple[int, ...] = (4, 5)
    fpn_norm: str | None = None

    def __post_init__(self) -> None:
        _check(self, 0, 5)
        check_choice(self, "variant", MOBILENETS)
        check_choice(self, "reduced_tail", (True, False))
        check_sizes(self, "width")
        check_number(self, "width", 0.0)


def _check_resnet(config: ResNetFPNConfig | ResNetConfig) -> None:
    check_choice(config, "depth", RESNET_DEPTHS)
    check_choice(config, "stride_in_1x1", (True, False))
    for name in ("groups", "width_per_group", "width"):
        check_integer(config, name, 1)
    if config.depth < 50 and (config.groups, config.width_per_group) != (1, 64):
        raise ValueError(
            f"groups={config.groups!r}, width_per_group={config.width_per_group!r}: expected 1 and "
            f"64 for depth={config.depth}, whose blocks have no bottleneck"
        )


def _check(config: ResNetFPNConfig | MobileNetFPNConfig, first: int, last: int) -> None:
    """The fields both have; stages are ``first`` to ``last``."""
    freeze_sequences(config)
    check_choice(config, "norm", NORMS)
    check_choice(config, "fpn_norm", (None, *NORMS))
    check_integer(config, "num_classes", 0)
    for name in ("norm_groups", "out_channels"):
        check_integer(config, name, 1)
    check_number(config, "norm_eps", 0.0)
    layers, stages = config.returned_layers, range(first, last + 1)
    if not layers or list(layers) != sorted(set(layers) & set(stages)):
        raise ValueError(
            f"returned_layers={layers!r}: expected rising stages out of "
            f"{', '.join(map(str, stages))}"
        )
