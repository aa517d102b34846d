"""A branch over the RoIs beside the box head: a part that is plugged into the two-stage flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Generic, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config.boxes import BoxConfig
from ..structures import Batch, Detections, Targets
from .rois import valid_rois
from .sampling import SampledRoIs

Result = dict[str, np.ndarray]
Own_co = TypeVar("Own_co", bound=BoxConfig, covariant=True)
Needed_contra = TypeVar("Needed_contra", bound=BoxConfig, contravariant=True)


@dataclass(frozen=True)
class Stage(Generic[Own_co]):
    """What a branch works with: layers, settings, and the maps of the batch at hand.

    ``heads``: the model's ``roi_heads``. ``config``: the model's. ``pool``: from RoIs (R, 5), see
    :func:`~mlx_rcnn.heads.rois.batch_rows`, and a size (ph, pw) to their features (R, ph, pw, C).
    """

    heads: nn.Module | SimpleNamespace
    config: Own_co
    pool: Callable[[mx.array, tuple[int, int]], mx.array]

    def of(self, k: int) -> Stage[Own_co]:
        """With the parts of the k-th box stage in place of lists of parts, one a stage."""
        parts = {
            name: part[k] if isinstance(part, list) else part for name, part in self.heads.items()
        }
        return replace(self, heads=SimpleNamespace(**parts))


class Branch(Generic[Needed_contra]):
    """Masks, keypoints, or another thing to find of each detection, with the config it needs.

    It holds nothing: its layers stand in the model's ``roi_heads`` under torchvision's names.
    """

    loss_name: str
    """Of what it adds to the losses."""
    finds: tuple[str, ...] = ()
    """Names of what :meth:`traced` gives, in its order; none: it is not exported."""
    mirrors = False
    """Whether what it finds in a mirrored image can be turned back, see :meth:`turned`."""

    def build(self, heads: nn.Module, config: Needed_contra) -> None:
        """Add the layers.

        Args:
            heads: the model's ``roi_heads``, its box head in it.
            config: the model's.
        """
        raise NotImplementedError

    def outputs(self, stage: Stage[Needed_contra], rois: mx.array) -> mx.array:
        """Raw outputs (R, ...) of RoIs (R, 5), float32."""
        raise NotImplementedError

    def loss(
        self,
        stage: Stage[Needed_contra],
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
        stage: Stage[Needed_contra],
        detections: Detections,
        batch: Batch,
        results: Sequence[Result],
        options: Mapping[str, object],
    ) -> None:
        """Add what it finds to the result of each image.

        Args:
            stage: of the batch.
            detections: evaluated.
            batch: the images.
            results: one dict an image, boxes in pixels of the image given; changed in place.
            options: of ``predict``, its own among them.
        """
        chosen = valid_rois(detections)
        raw = self.nothing(stage) if chosen is None else np.array(self.raw(stage, *chosen))
        first = 0
        for result, size in zip(results, batch.original_sizes.tolist(), strict=True):
            part = raw[first : first + len(result["scores"])]
            first += len(part)
            self.add_raw(part, result, tuple(size), stage.config, options)

    def raw(self, stage: Stage[Needed_contra], rois: mx.array, labels: mx.array) -> mx.array:
        """What results are made of and, over several views of an image, averaged.

        Args:
            stage: of the batch.
            rois (R, 5): batch index and xyxy pixels of the network input.
            labels (R,): the class of each.

        Returns:
            (R, ...): float32, in the frame of each RoI.
        """
        raise NotImplementedError

    def traced(
        self,
        stage: Stage[Needed_contra],
        boxes: mx.array,
        labels: mx.array,
        size: tuple[int, int],
    ) -> dict[str, mx.array]:
        """What it finds, in fixed shapes and without asking the host, to be exported.

        Args:
            stage: of one image.
            boxes (D, 4): xyxy pixels of the network input.
            labels (D,): the class of each.
            size: (height, width) of the image.

        Returns:
            (D, ...) by the names in :attr:`finds`, which results have too.
        """
        raise NotImplementedError

    def turned(self, raw: mx.array) -> mx.array:
        """:meth:`raw` of a mirrored image, as that of the image itself."""
        raise NotImplementedError

    def nothing(self, stage: Stage[Needed_contra]) -> np.ndarray:
        """:meth:`raw` of no RoI."""
        raise NotImplementedError

    def add_raw(
        self,
        raw: np.ndarray,
        result: Result,
        size: tuple[int, int],
        config: Needed_contra,
        options: Mapping[str, object],
    ) -> None:
        """Add what it finds to the result of one image.

        Args:
            raw (D, ...): as :meth:`raw`, of the result's boxes.
            result: with ``boxes`` (D, 4) in pixels of the image given; changed in place.
            size: (height, width) of the image given.
            config: the model's.
            options: of ``predict``.
        """
        raise NotImplementedError
