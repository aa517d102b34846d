"""What every detector begins with: the backbone's maps, and how far apart their pixels are."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..config.network import DetectorConfig
from ..layers import EvaluatedModule, inference
from ..structures import Batch
from .strides import KnownSizes, MapSizes, Size, Strides, batch_strides

Maps = list[mx.array]  # (N, h, w, C), finest first


def check_input(pixels: mx.array) -> None:
    """Raise a ValueError unless an array has the shape of network input."""
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"images: expected (N, H, W, 3) network input, got {pixels.shape}")


class MapSteps(EvaluatedModule):
    """What is done with the part ``backbone``, under a ``config``."""

    config: DetectorConfig
    backbone: Any  # an nn.Module that may be called, which nn.Module does not say

    def __setattr__(self, key: str, value: object) -> None:
        super().__setattr__(key, value)
        if key == "backbone":
            self._known_sizes = KnownSizes()

    @property
    def last_layer(self) -> nn.Module:
        """A layer over the maps, whose weights have the type that the network runs in."""
        raise NotImplementedError

    def features(self, pixels: mx.array) -> Maps:
        """The backbone's maps (N, h, w, C) in the weights' dtype, checked against the config.

        Args:
            pixels (N, H, W, 3): network input.

        Raises:
            ValueError, TypeError: an input of another shape, or maps that are not the config's.
        """
        check_input(pixels)
        maps = self.backbone(pixels.astype(self.last_layer.weight.dtype))
        features = [maps] if isinstance(maps, mx.array) else list(maps)
        if self.config.use_fpn and isinstance(maps, mx.array):
            raise ValueError("use_fpn=True: expected a list of maps from the backbone, got one map")
        for feature in features:
            if not isinstance(feature, mx.array):
                raise TypeError(
                    f"backbone returned a {type(maps).__name__} of {type(feature).__name__}: "
                    "expected one map (N, h, w, C) or a list of them"
                )
            if feature.ndim != 4 or feature.shape[-1] != self.config.feat_channels:
                raise ValueError(
                    f"feat_channels={self.config.feat_channels}: the backbone returned a map of "
                    f"shape {feature.shape}, expected (N, h, w, {self.config.feat_channels})"
                )
        return features

    @property
    def map_sizes(self) -> MapSizes:
        """The sizes of the backbone's maps by its input's; nothing is computed for them."""

        def shapes(size: Size) -> list[Size]:
            maps = inference(self).features(mx.zeros((1, *size, 3)))
            return [(f.shape[1], f.shape[2]) for f in maps]

        return MapSizes(shapes, self._known_sizes)

    def strides(self, features: Maps, batch: Batch) -> Strides:
        """Those that prediction takes for a batch, whose maps ``features`` are."""
        maps = [(f.shape[1], f.shape[2]) for f in features]
        _, height, width, _ = batch.pixels.shape
        most = int(batch.sizes[:, 0].max())
        return batch_strides(self.config, self.map_sizes, maps, (height, width), most)
