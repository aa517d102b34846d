"""Heads made new for what a data set holds: its classes and its keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.nn as nn

from ..config.boxes import BoxConfig, RCNNConfig
from ..data.protocols import Dataset
from ..heads import FastRCNNPredictor, KeypointRCNNPredictor, MaskRCNNPredictor
from ..heads.box import predictors_of
from ..heads.rcnn import RCNNPredictor
from ..models import Detector, KeypointRCNN

Predictors = dict[str, nn.Module | list[nn.Module]]
"""By name; a list of a cascade's, one a stage."""
BoxPredictor = FastRCNNPredictor | RCNNPredictor
PREDICTORS = ("box_predictor", "mask_predictor", "keypoint_predictor")


class DataKeypoints(NamedTuple):
    """The keypoints of a data set's objects."""

    # K
    number: int
    names: tuple[str, ...] | None  # (K,): ``None`` if the data set does not say
    # pairs to join when drawn, counted from 0; ``None`` if it does not say
    skeleton: tuple[tuple[int, int], ...] | None


def keypoints_of(dataset: Dataset) -> DataKeypoints | None:
    """What keypoints a data set's objects have, ``None`` if none."""
    names = getattr(dataset, "keypoint_names", None)
    skeleton = getattr(dataset, "keypoint_skeleton", None)
    if names:
        return DataKeypoints(len(names), tuple(names), skeleton)
    # What samples of this package hold, their data set says; another's has to be looked at.
    target = {} if hasattr(dataset, "keypoint_names") or not len(dataset) else dataset[0].target
    if "keypoints" not in target:
        return None
    return DataKeypoints(target["keypoints"].shape[1], None, skeleton)


def check_keypoints(
    model: Detector, found: DataKeypoints | None, val_set: Dataset | None, mirrored: bool
) -> None:
    """Check that a model can learn the keypoints of its data, and change nothing."""
    if not model.needs_keypoints:
        return
    if found is None:
        raise ValueError(
            f"a {type(model).__name__} learns keypoints, but the data has none: expected "
            "keypoints of its objects, or another model"
        )
    if found.names is None and mirrored:
        raise ValueError(
            "the data's keypoints have no names, by which a mirror swaps left and right: expected "
            "keypoint_names of the data set, or hflip=0"
        )
    other = keypoints_of(val_set) if val_set is not None else None
    if other is not None and other[:2] != found[:2]:
        raise ValueError(
            f"the validation data has other keypoints: {_listed(other)}; the training data has "
            f"{_listed(found)}"
        )


def set_keypoints(model: Detector, keypoints: DataKeypoints | None) -> bool:
    """Give a model the keypoints of a data set; whether its predictor is new, as others need."""
    if not isinstance(model, KeypointRCNN) or keypoints is None:
        return False
    count, names, skeleton = keypoints
    old = model.roi_heads.keypoint_predictor
    own = model.keypoint_names
    if old.num_keypoints == count and names in (None, own):
        skeleton = skeleton or model.keypoint_skeleton
        model.config = replace(
            model.config, num_keypoints=count, keypoint_names=own, keypoint_skeleton=skeleton
        )
        return False
    # Never trained, and of the right number: it has only lacked the names.
    new = old.num_keypoints != count or own is not None or bool(model.source)
    if new:
        deconvolution = old.kps_score_lowres
        predictor = KeypointRCNNPredictor(deconvolution.in_channels, count)
        predictor.set_dtype(deconvolution.weight.dtype)
        model.roi_heads.keypoint_predictor = predictor
    model.config = replace(
        model.config, num_keypoints=count, keypoint_names=names, keypoint_skeleton=skeleton
    )
    return new


def predictors(model: Detector) -> Predictors:
    """The layers that depend on classes or keypoints, by name; none of a proposal network."""
    heads: Mapping[str, nn.Module | list[nn.Module]] = model.get("roi_heads", {})
    return {name: heads[name] for name in PREDICTORS if name in heads}


def what_is_new(model: Detector, before: Predictors) -> str:
    """A line on what a model has kept, and what the data had made new."""
    now = predictors(model)
    new = [name for name, layer in now.items() if layer is not before.get(name)]
    of = f"of {model.source}" if model.source else "of the model"
    if not new:
        return f"all weights {of} are kept: it has the data's classes"
    return f"weights {of} are kept, but for {', '.join(new)}, new for the data's classes"


def _listed(keypoints: DataKeypoints) -> str:
    return ", ".join(keypoints.names) if keypoints.names else f"{keypoints.number} without names"


def set_classes(model: Detector, class_names: Sequence[str]) -> bool:
    """Give a model the classes of a data set; whether its predictors are new, as others need."""
    names = tuple(class_names)
    config, count = model.config, len(names)
    if model.class_names == names or not isinstance(config, BoxConfig):
        return False  # a proposal network finds objects of any class
    heads = model.roi_heads
    old = predictors_of(heads)
    new = model.num_classes != count or model.class_names is not None or bool(model.source)
    if new:  # else never trained, and of the right size: it has only lacked the names
        agnostic = getattr(config, "class_agnostic_bbox", False)
        made = [_box_like(p, count, agnostic) for p in old]
        heads.box_predictor = made if isinstance(heads.box_predictor, list) else made[0]
        if model.needs_masks:
            masks = heads.mask_predictor
            several = masks if isinstance(masks, list) else [masks]
            fresh = [_mask_like(predictor, count) for predictor in several]
            heads.mask_predictor = fresh if isinstance(masks, list) else fresh[0]
        if isinstance(config, RCNNConfig):  # its SVMs are fitted after the network
            heads.pop("svms", None)
            config = replace(config, rcnn_scores="softmax")
    each = config.box_score_thresh
    if isinstance(each, tuple) and len(each) != count - 1:  # they were of other classes
        config = replace(config, box_score_thresh=type(config).box_score_thresh)
    model.config = replace(config, num_classes=count, class_names=names)
    return new


def _box_like(old: nn.Module, count: int, agnostic: bool) -> BoxPredictor:
    made: BoxPredictor
    units = old.cls_score.weight.shape[1]
    if isinstance(old, RCNNPredictor):
        made = RCNNPredictor(units, old.bbox_pred.weight.shape[1], count)
    else:
        made = FastRCNNPredictor(units, count, agnostic)
    made.set_dtype(old.cls_score.weight.dtype)
    return made


def _mask_like(predictor: nn.Module, count: int) -> MaskRCNNPredictor:
    conv = predictor.conv5_mask
    made = MaskRCNNPredictor(conv.in_channels, conv.out_channels, count)
    made.set_dtype(conv.weight.dtype)
    return made
