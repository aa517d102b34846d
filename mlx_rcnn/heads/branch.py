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
    """What a branch works with: layers, settings, and the maps of the batch at hand."""

    heads: nn.Module | SimpleNamespace  # the model's ``roi_heads``
    config: Own_co  # the model's
    # from RoIs (R, 5), see :func:`~mlx_rcnn.heads.rois.batch_rows`, and a size (ph, pw) to their
    # features (R, ph, pw, C)
    pool: Callable[[mx.array, tuple[int, int]], mx.array]

    def of(self, k: int) -> Stage[Own_co]:
        """With the parts of the k-th box stage in place of lists of parts, one a stage."""
        parts = {
            name: part[k] if isinstance(part, list) else part for name, part in self.heads.items()
        }
        return replace(self, heads=SimpleNamespace(**parts))


class Branch(Generic[Needed_contra]):
    """Masks, keypoints, or another thing to find of each detection, with the config it needs."""

    # It holds nothing: its layers stand in the model's ``roi_heads`` under torchvision's names.
    loss_name: str
    """Of what it adds to the losses."""
    finds: tuple[str, ...] = ()
    """Names of what :meth:`traced` gives, in its order; none: it is not exported."""
    mirrors = False
    """Whether what it finds in a mirrored image can be turned back, see :meth:`turned`."""

    def build(self, heads: nn.Module, config: Needed_contra) -> None:
        """Add the layers to the model's ``roi_heads``, its box head in it."""
        raise NotImplementedError

    def outputs(self, stage: Stage[Needed_contra], rois: mx.array) -> mx.array:
        """Raw outputs (R, ...) of RoIs (R, 5), float32."""
        raise NotImplementedError

    def loss(
        self,
        stage: Stage[Needed_contra],
        # sampled for each box stage, of which there is one but in a cascade
        rois: Sequence[SampledRoIs],
        targets: Targets,  # in pixels of the network input
        group: mx.distributed.Group | None,  # of the machines that share a batch
    ) -> mx.array:
        """The loss over the positives of a batch, a scalar, 0 without positives."""
        raise NotImplementedError

    def add_results(
        self,
        stage: Stage[Needed_contra],
        detections: Detections,  # evaluated
        batch: Batch,
        results: Sequence[Result],
        options: Mapping[str, object],  # of ``predict``, its own among them
    ) -> None:
        """Add what it finds to each image's result, in place; boxes are in pixels of the image."""
        chosen = valid_rois(detections)
        raw = self.nothing(stage) if chosen is None else np.array(self.raw(stage, *chosen))
        first = 0
        for result, size in zip(results, batch.original_sizes.tolist(), strict=True):
            part = raw[first : first + len(result["scores"])]
            first += len(part)
            self.add_raw(part, result, tuple(size), stage.config, options)

    def raw(self, stage: Stage[Needed_contra], rois: mx.array, labels: mx.array) -> mx.array:
        """(R, ...) float32 in each RoI's frame: results are made of it, averaged over views."""
        # ``rois`` (R, 5): batch index and xyxy pixels of the network input; ``labels`` (R,).
        raise NotImplementedError

    def traced(
        self,
        stage: Stage[Needed_contra],
        boxes: mx.array,  # (D, 4) xyxy pixels of the network input
        labels: mx.array,  # (D,)
        size: tuple[int, int],  # (height, width) of the image
    ) -> dict[str, mx.array]:
        """(D, ...) by the names in :attr:`finds`, in fixed shapes and without asking the host."""
        raise NotImplementedError

    def turned(self, raw: mx.array) -> mx.array:
        """:meth:`raw` of a mirrored image, as that of the image itself."""
        raise NotImplementedError

    def nothing(self, stage: Stage[Needed_contra]) -> np.ndarray:
        """:meth:`raw` of no RoI."""
        raise NotImplementedError

    def add_raw(
        self,
        raw: np.ndarray,  # (D, ...) as :meth:`raw`, of the result's boxes
        result: Result,  # with ``boxes`` (D, 4) in pixels of the image given
        size: tuple[int, int],  # (height, width) of the image given
        config: Needed_contra,
        options: Mapping[str, object],
    ) -> None:
        """Add what it finds to the result of one image, in place."""
        raise NotImplementedError
