"""The features that R-CNN's SVMs and box regression see."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..heads.rcnn import classifier_of
from ..heads.rois import batch_rows
from ..inputs.proposals import prepare_proposals
from ..inputs.transform import load_images, preprocess
from ..memory import bounded_cache
from ..progress import bar
from ..structures import GivenProposals, Images
from .rcnn import RCNN
from .strides import Strides


def crop_units(
    model: RCNN, images: Images, proposals: GivenProposals, *, progress: bool = False
) -> list[np.ndarray]:
    """What the last hidden layer of an R-CNN's classifier gives of each proposal's crop.

    ``config.crops_at_once`` of them are in memory at a time.

    Args:
        model: it is not touched.
        images, proposals: as :meth:`RCNN.predict`.
        progress: show a bar over the crops. Default: ``False``.

    Returns:
        One array (P, units) float32 an image.

    Raises:
        ValueError, TypeError, FileNotFoundError: as :meth:`RCNN.predict`.
    """
    channels = classifier_of(model.backbone).unit_channels

    def layer(net: nn.Module, pooled: mx.array) -> mx.array:
        units: mx.array = net.units(pooled)
        return units

    return _features(model, images, proposals, channels, layer, progress)


def crop_maps(
    model: RCNN, images: Images, proposals: GivenProposals, *, progress: bool = False
) -> list[np.ndarray]:
    """The last pooled map of an R-CNN's classifier of each proposal's crop, flattened.

    Args:
        model, images, proposals, progress: as :func:`crop_units`.

    Returns:
        One array (P, h * w * c) float32 an image, what ``box_predictor.bbox_pred`` sees.

    Raises:
        ValueError, TypeError, FileNotFoundError: as :meth:`RCNN.predict`.
    """
    values = model.roi_heads.box_predictor.bbox_pred.weight.shape[1]
    return _features(
        model, images, proposals, values, lambda _, pooled: pooled.flatten(1), progress
    )


def _features(
    model: RCNN,
    images: Images,
    proposals: GivenProposals,
    channels: int,
    layer: Callable[[nn.Module, mx.array], mx.array],
    progress: bool,
) -> list[np.ndarray]:
    model, pictures = model.to_predict(), load_images(images, model.config.image_levels)
    batch = preprocess(pictures, model.config, model.input_sizes(pictures))
    given = prepare_proposals(proposals, batch)
    valid, net = np.array(given.valid), classifier_of(model.backbone)
    stage = model.stage([batch.pixels], Strides([], []))
    rois = batch_rows(given.boxes)[mx.array(np.flatnonzero(valid).astype(np.int32))]
    side, step = model.config.crop_size, model.config.crops_at_once
    done = [np.zeros((0, channels), np.float32)]
    with bounded_cache(), bar(total=len(rois), unit="crop", disable=not progress) as shown:
        for start in range(0, len(rois), step):
            piece = rois[start : start + step]
            rows = layer(net, net.pooled(stage.pool(piece, (side, side))))
            done.append(np.array(rows.astype(mx.float32)))
            shown.update(len(piece))
    return np.split(np.concatenate(done), np.cumsum(valid.sum(axis=1))[:-1])
