"""The layers of the box head; tests/heads/test_box.py has what is made of their output."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import FasterRCNNConfig
from mlx_rcnn.heads import FastRCNNPredictor, RoIHeads, TwoMLPHead
from reference import noise


def test_mlp_flattens_rows_then_columns_then_channels():
    head, x = TwoMLPHead(2 * 3 * 4, 5), noise("rois", 6, 2, 3, 4)
    for layer, key in ((head.fc6, "fc6"), (head.fc7, "fc7")):
        layer.weight = mx.array(noise(key, *layer.weight.shape))
        layer.bias = mx.array(noise(key + " bias", 5))
    flat = np.stack([[x[r, i, j, c] for i, j, c in np.ndindex(2, 3, 4)] for r in range(6)])
    hidden = np.maximum(flat @ np.array(head.fc6.weight).T + np.array(head.fc6.bias), 0)
    expected = np.maximum(hidden @ np.array(head.fc7.weight).T + np.array(head.fc7.bias), 0)
    np.testing.assert_allclose(np.array(head(mx.array(x))), expected, atol=1e-4)
    assert head(mx.zeros((0, 2, 3, 4))).shape == (0, 5)
    shapes = {k: v.shape for k, v in tree_flatten(head.parameters())}
    assert shapes == {
        "fc6.weight": (5, 24),
        "fc6.bias": (5,),
        "fc7.weight": (5, 5),
        "fc7.bias": (5,),
    }


def test_dropout():
    head, x = TwoMLPHead(300, 400), mx.ones((5, 1, 1, 300))
    for layer, size in ((head.fc6, 300), (head.fc7, 400)):
        layer.weight, layer.bias = mx.full((400, size), 1 / size), mx.zeros((400,))
    np.testing.assert_allclose(np.array(head(x)), 1, rtol=1e-4)
    # Without a key, or without a share, nothing is dropped
    np.testing.assert_array_equal(np.array(head(x, 0.5)), np.array(head(x)))
    np.testing.assert_array_equal(np.array(head(x, 0.0, mx.random.key(0))), np.array(head(x)))
    y = np.array(head(x, 0.25, mx.random.key(0)))
    # A quarter is zero; the others grow by 4 / 3 of what the first layer's dropout left, about 1
    assert abs((y == 0).mean() - 0.25) < 0.05 and abs(y.mean() - 1) < 0.05
    np.testing.assert_allclose(y[y > 0], 4 / 3, rtol=0.15)
    np.testing.assert_array_equal(np.array(head(x, 0.25, mx.random.key(0))), y)
    assert np.any(np.array(head(x, 0.25, mx.random.key(1))) != y)


@pytest.mark.parametrize("agnostic", [False, True])
def test_predictor(agnostic):
    mx.random.seed(0)
    predictor = FastRCNNPredictor(300, 7, agnostic)
    assert mx.std(predictor.cls_score.weight).item() == pytest.approx(0.01, rel=0.1)
    assert mx.std(predictor.bbox_pred.weight).item() == pytest.approx(0.001, rel=0.1)
    assert not mx.any(predictor.cls_score.bias).item()
    x = noise("features", 5, 300)
    logits, deltas = predictor(mx.array(x))
    assert logits.shape == (5, 7) and deltas.shape == (5, 4 if agnostic else 28)
    for value, layer in ((logits, predictor.cls_score), (deltas, predictor.bbox_pred)):
        expected = x @ np.array(layer.weight).T + np.array(layer.bias)
        np.testing.assert_allclose(np.array(value), expected, atol=1e-5)
    predictor.set_dtype(mx.bfloat16)
    half = predictor(mx.array(x).astype(mx.bfloat16))
    assert half[0].dtype == half[1].dtype == mx.float32
    # torchvision's head swap reads the size of the features from the old one
    assert (predictor.cls_score.in_features, predictor.cls_score.out_features) == (300, 7)


@pytest.mark.parametrize("agnostic", [False, True])
def test_heads_wire_their_config(agnostic):
    config = FasterRCNNConfig(
        None, 6, 9, pool_size=(2, 3), hidden_dim=11, class_agnostic_bbox=agnostic
    )
    heads = RoIHeads(config)
    shapes = {k: v.shape for k, v in tree_flatten(heads.parameters())}
    assert shapes["box_head.fc6.weight"] == (11, 2 * 3 * 6)
    assert shapes["box_head.fc7.weight"] == (11, 11)
    assert shapes["box_predictor.cls_score.weight"] == (9, 11)
    assert shapes["box_predictor.bbox_pred.weight"] == (4 if agnostic else 36, 11)
