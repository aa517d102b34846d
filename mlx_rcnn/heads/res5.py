"""The box head of the models before pyramids: the last stage of the ResNet, over each RoI."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..backbones import block_options, residual_stage
from ..config.backbone import ResNetConfig

# RoI features of 1024 x 14 x 14 take 0.8 MB each, and as much again in the first block.
ROIS_AT_ONCE = 64


class Res5Head(nn.Module):
    """The fourth stage of a ResNet over RoI features, averaged (detectron2's C4 models)."""

    def __init__(self, config: object):
        super().__init__()
        if not isinstance(config, ResNetConfig) or config.last_stage != 3:
            raise ValueError(
                f"res5_head=True: expected a ResNetConfig with last_stage=3, got {config!r}"
            )
        options = block_options(
            config.norm,
            config.norm_eps,
            config.norm_groups,
            config.stride_in_1x1,
            config.groups,
            config.width_per_group,
        )
        self.layer4 = residual_stage(config.depth, 4, config.width, options)
        self.out_channels = 2 * config.channels

    def features(self, x: mx.array) -> mx.array:
        """(R, s, s, c) -> (R, s / 2, s / 2, 2c), which a mask head goes on from."""
        for block in self.layer4:
            x = block(x)
        return x

    def __call__(
        self,
        x: mx.array,
        dropout: float = 0.0,
        key: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """(R, s, s, c) -> (R, 2c); the other arguments are for the other heads."""
        return mx.mean(self.features(x), axis=(1, 2))
