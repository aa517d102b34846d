"""The features that R-CNN's SVMs see."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from tqdm import tqdm

from ..heads.rcnn import classifier_of
from ..heads.rois import batch_rows
from ..inputs.proposals import prepare_proposals
from ..inputs.transform import load_images, preprocess
from ..memory import bounded_cache
from .rcnn import RCNN
from .strides import Strides


def crop_units(
    model: RCNN, images: Any, proposals: Any, *, progress: bool = False
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
    model, pictures = model.to_predict(), load_images(images)
    batch = preprocess(pictures, model.config, model.input_sizes(pictures))
    given = prepare_proposals(proposals, batch)
    valid, net = np.array(given.valid), classifier_of(model.backbone)
    stage = model.stage([batch.pixels], Strides([], []))
    rois = batch_rows(given.boxes)[mx.array(np.flatnonzero(valid).astype(np.int32))]
    side, step = model.config.crop_size, model.config.crops_at_once
    done = [np.zeros((0, net.unit_channels), np.float32)]
    with bounded_cache(), tqdm(total=len(rois), unit="crop", disable=not progress) as bar:
        for start in range(0, len(rois), step):
            piece = rois[start : start + step]
            units = net.units(net.pooled(stage.pool(piece, (side, side))))
            done.append(np.array(units.astype(mx.float32)))
            bar.update(len(piece))
    return np.split(np.concatenate(done), np.cumsum(valid.sum(axis=1))[:-1])
