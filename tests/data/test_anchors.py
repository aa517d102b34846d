"""Anchors against objects: IoU of shapes by hand, and fits that are better and always the same."""

import numpy as np
import pytest

from annotated import make_voc
from mlx_rcnn.config import FasterRCNNConfig
from mlx_rcnn.data import open_dataset
from mlx_rcnn.data.anchors import AnchorShapes, fit_anchors, measure, object_sizes, shape_iou
from mlx_rcnn.rpn.anchors import AnchorGenerator

COCO = AnchorShapes((32, 64, 128, 256, 512), (0.5, 1.0, 2.0))


def test_shape_iou_by_hand():
    found = shape_iou(np.array([[10.0, 20.0], [1.0, 1.0]]), np.array([[20.0, 10.0], [10.0, 20.0]]))
    np.testing.assert_allclose(found, [[1 / 3, 1], [1 / 200, 1 / 200]])


def test_anchors_are_those_of_the_model():
    own = AnchorGenerator((32, 64), (0.5, 2.0), rounding=False).cell_anchors(0)
    got = AnchorShapes((32, 64), (0.5, 2.0)).boxes()
    np.testing.assert_allclose(got, own[:, 2:] - own[:, :2], rtol=1e-6)


def test_objects_as_the_network_sees_them(tmp_path):
    data = open_dataset(make_voc(tmp_path))  # 100 x 80, boxes of 40 x 40
    config = FasterRCNNConfig(None, 8, 2, min_size=160, max_size=1000)
    np.testing.assert_allclose(object_sizes(data, config), [[80, 80]] * 3)
    config = FasterRCNNConfig(None, 8, 2, min_size=160, max_size=100)
    np.testing.assert_allclose(object_sizes(data, config), [[40, 40]] * 3)


def test_a_fit_finds_what_is_there():
    rng = np.random.default_rng(0)
    side = rng.choice([12.0, 40.0, 300.0], 600) * rng.uniform(0.95, 1.05, 600)
    ratio = rng.choice([1.0, 3.0], 600) * rng.uniform(0.97, 1.03, 600)
    sizes = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], 1)
    now = AnchorShapes((128, 256, 512), (0.5, 1.0))
    fit = fit_anchors(sizes, now)
    assert measure(sizes, now).recall < 0.5 and fit.recall == 1 and fit.mean > 0.9
    np.testing.assert_allclose(fit.shapes.sizes, [12, 40, 300], rtol=0.1)
    np.testing.assert_allclose(fit.shapes.ratios, [1, 3], rtol=0.1)
    assert fit == fit_anchors(sizes[rng.permutation(600)], now)


def test_a_fit_is_never_worse():
    exact = COCO.boxes()
    assert fit_anchors(exact, COCO) == measure(exact, COCO)
    one = fit_anchors(np.array([[7.3, 5.1]]), COCO)
    assert one.mean > 0.9 and one.recall == 1
    wide = np.random.default_rng(1).uniform(1, 800, (500, 2))
    assert fit_anchors(wide, COCO).mean >= measure(wide, COCO).mean
    assert fit_anchors(wide, COCO).recall == pytest.approx(1, abs=0.4)
