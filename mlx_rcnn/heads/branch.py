"""A branch over the RoIs beside the box head: a part that is plugged into the two-stage flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..structures import Batch, Detections, Targets
from .sampling import SampledRoIs

Result = dict[str, np.ndarray]


class Stage(NamedTuple):
    """What a branch works with: layers, settings, and the maps of the batch at hand.

    ``heads``: the model's ``roi_heads``. ``config``: the model's. ``pool``: from RoIs (R, 5), see
    :func:`~mlx_rcnn.heads.rois.batch_rows`, and a size (ph, pw) to their features (R, ph, pw, C).
    """

    heads: Any
    config: Any
    pool: Callable[[mx.array, tuple[int, int]], mx.array]

    def of(self, k: int) -> Stage:
        """With the parts of the k-th box stage in place of lists of parts, one a stage."""
        parts = {
            name: part[k] if isinstance(part, list) else part for name, part in self.heads.items()
        }
        return self._replace(heads=SimpleNamespace(**parts))


class Branch:
    """Masks, keypoints, or another thing to find of each detection.

    It holds nothing: its layers stand in the model's ``roi_heads`` under torchvision's names.
    """

    loss_name: str
    """Of what it adds to the losses."""

    def build(self, heads: nn.Module, config: Any) -> None:
        """Add the layers.

        Args:
            heads: the model's ``roi_heads``, its box head in it.
            config: the model's.
        """
        raise NotImplementedError

    def outputs(self, stage: Stage, rois: mx.array) -> mx.array:
        """Raw outputs (R, ...) of RoIs (R, 5), float32."""
        raise NotImplementedError

    def loss(
        self,
        stage: Stage,
        rois: Sequence[SampledRoIs],
        targets: Targets,
        group: mx.distributed.Group | None,
    ) -> mx.array:
        """The loss over the positives of a batch.

        Args:
            stage: of the batch.
            rois: sampled for each box stage, of which there is one but in a cascade.
            targets: in pixels of the network input.
            group: of the machines that share a batch.

        Returns:
            A scalar, 0 without positives.
        """
        raise NotImplementedError

    def add_results(
        self,
        stage: Stage,
        detections: Detections,
        batch: Batch,
        results: Sequence[Result],
        options: Mapping[str, Any],
    ) -> None:
        """Add what it finds to the result of each image.

        Args:
            stage: of the batch.
            detections: evaluated.
            batch: the images.
            results: one dict an image, boxes in pixels of the image given; changed in place.
            options: of ``predict``, its own among them.
        """
        raise NotImplementedError
