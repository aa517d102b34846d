"""Configuration of the backbones: frozen dataclasses, every default written once."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import check_choice, check_integer, check_number, freeze_sequences

RESNET_DEPTHS = (18, 34, 50, 101, 152)
NORMS = ("batch", "frozen", "group")


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

    def __post_init__(self) -> None:
        freeze_sequences(self)
        check_choice(self, "depth", RESNET_DEPTHS)
        check_choice(self, "norm", NORMS)
        check_choice(self, "stride_in_1x1", (True, False))
        check_integer(self, "num_classes", 0)
        for name in ("norm_groups", "groups", "width_per_group", "width", "out_channels"):
            check_integer(self, name, 1)
        check_number(self, "norm_eps", 0.0)
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"groups={self.groups!r}, width_per_group={self.width_per_group!r}: expected 1 and "
                f"64 for depth={self.depth}, whose blocks have no bottleneck"
            )
        layers = self.returned_layers
        if not layers or list(layers) != sorted(set(layers) & {1, 2, 3, 4}):
            raise ValueError(
                f"returned_layers={layers!r}: expected rising stages out of 1, 2, 3, 4"
            )
