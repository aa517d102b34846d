"""Heads made new for a data set's keypoints; those of classes are tested with whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_rcnn.data import Sample
from mlx_rcnn.training.new_heads import (
    DataKeypoints,
    check_keypoints,
    keypoints_of,
    set_classes,
    set_keypoints,
)
from mlx_rcnn.training.trainer import fit

SHAPES = keypoints_of(tiny.shapes(keypoints=True))


class Nameless:
    """Shapes whose keypoints are in the samples alone, as in somebody's own data set."""

    def __init__(self):
        self.inner = tiny.shapes(keypoints=True)
        self.class_names, self.sizes = self.inner.class_names, self.inner.sizes

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        return self.inner[index]


def weight(model) -> np.ndarray:
    return np.array(model.roi_heads.keypoint_predictor.kps_score_lowres.weight)


def test_keypoints_of():
    assert SHAPES is not None and SHAPES.number == 5 and SHAPES.names[1] == "left"
    assert keypoints_of(tiny.shapes()) is None
    assert keypoints_of(Nameless()) == DataKeypoints(5, None, None)


def test_a_predictor_is_new_when_the_keypoints_are():
    model = tiny.build("keypoint_rcnn")
    before = weight(model)
    # Never trained and of the right number: it has only lacked the names.
    assert not set_keypoints(model, SHAPES)
    np.testing.assert_array_equal(weight(model), before)
    assert model.keypoint_names == SHAPES.names and model.keypoint_skeleton == SHAPES.skeleton
    assert not set_keypoints(model, SHAPES)  # those it has
    assert not set_keypoints(model, DataKeypoints(5, None, None))  # or may have
    assert model.keypoint_names == SHAPES.names and model.keypoint_skeleton == SHAPES.skeleton
    np.testing.assert_array_equal(weight(model), before)
    # Others of the same number, and another number.
    renamed = SHAPES._replace(names=("a", "b", "c", "d", "e"), skeleton=None)
    assert set_keypoints(model, renamed) and (weight(model) != before).any()
    assert model.keypoint_names == renamed.names and model.keypoint_skeleton is None
    model.set_dtype(mx.float16)
    assert set_keypoints(model, DataKeypoints(2, ("a", "b"), ((0, 1),)))
    assert model.roi_heads.keypoint_predictor.num_keypoints == model.config.num_keypoints == 2
    assert model.roi_heads.keypoint_predictor.kps_score_lowres.weight.dtype == mx.float16


def test_a_checkpoint_without_names_is_of_unknown_keypoints():
    model = tiny.build("keypoint_rcnn")
    model.source = "a checkpoint"
    before = weight(model)
    assert set_keypoints(model, SHAPES) and (weight(model) != before).any()


def test_other_models_are_left_alone():
    model = tiny.build()
    assert not set_keypoints(model, SHAPES) and not set_keypoints(model, None)
    check_keypoints(model, None, None, True)


def test_data_that_cannot_be_learned_from(tmp_path: Path):
    model, one = tiny.build("keypoint_rcnn"), replace(tiny.CONFIG, epochs=1)
    with pytest.raises(ValueError, match="KeypointRCNN learns keypoints, but the data has none"):
        fit(model, tiny.shapes(), None, one, tmp_path / "run")
    with pytest.raises(ValueError, match="have no names.* or hflip=0"):
        fit(model, Nameless(), None, one, tmp_path / "run")
    other = tiny.shapes(keypoints=True)
    other.keypoint_names = ("a", "b")
    with pytest.raises(ValueError, match="other keypoints: a, b; the training data has centre, le"):
        fit(model, tiny.shapes(keypoints=True), other, one, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_keypoints_without_names(tmp_path: Path):
    one = replace(tiny.CONFIG, epochs=1, hflip=0.0)
    model = tiny.build("keypoint_rcnn", num_keypoints=3)
    assert fit(model, Nameless(), None, one, tmp_path / "run").step == 3
    assert model.config.num_keypoints == 5 and model.keypoint_names is None
    # Boxes alone are of no concern to a mirror's names.
    assert fit(tiny.build(), Nameless(), None, replace(one, hflip=1.0), tmp_path / "b").step == 3


def test_thresholds_by_class_go_with_their_classes() -> None:
    names = ("background", "a", "b", "c")
    model = tiny.build(box_score_thresh=(0.1, 0.2, 0.3), class_names=names)
    set_classes(model, ("background", "x", "y", "z"))
    assert model.config.box_score_thresh == (0.1, 0.2, 0.3)  # as many, given for these
    set_classes(model, ("background", "x"))
    assert model.config.box_score_thresh == 0.05 and model.num_classes == 2
    assert len(model.predict(tiny.shapes(1)[0].image)) == 1
