from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn.heads import MaskRCNNHeads, MaskRCNNPredictor
from reference import fill_ours, last_noise, noise, slow_conv

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")


def shapes_of(module):
    return {key: value.shape for key, value in tree_flatten(module.parameters())}


def build():
    heads, predictor = MaskRCNNHeads(4, 8, 2), MaskRCNNPredictor(8, 6, 3)
    for i, layer in enumerate(heads.convs):
        for key in ("weight", "bias"):  # torchvision nests each convolution in a sequence
            layer[key] = mx.array(fill_ours(f"mask test.{i}.0.{key}", layer[key].shape))
    filled = {k: mx.array(fill_ours("mask test." + k, v)) for k, v in shapes_of(predictor).items()}
    return heads, predictor.load_weights(list(filled.items()))


def slow_heads(heads, x):
    for layer in heads.convs:
        x = np.maximum(slow_conv(x, np.array(layer.weight), padding=1) + np.array(layer.bias), 0)
    return x


def slow_predictor(predictor, x):
    """Each pixel becomes a 2 x 2 block, then a linear map of the channels."""
    weight, bias = (np.array(predictor.conv5_mask[k], np.float64) for k in ("weight", "bias"))
    n, h, w, _ = x.shape
    wide = np.zeros((n, 2 * h, 2 * w, len(weight)))
    for i, j, a, b in np.ndindex(h, w, 2, 2):
        wide[:, 2 * i + a, 2 * j + b] = x[:, i, j] @ weight[:, a, b].T + bias
    last = predictor.mask_fcn_logits
    matrix = np.array(last.weight).reshape(len(last.weight), -1)
    return np.maximum(wide, 0) @ matrix.T + np.array(last.bias)


def test_logits_are_torchvisions():
    heads, predictor = build()
    logits = predictor(heads(mx.array(last_noise("mask rois", 2, 4, 5, 5))))
    assert logits.shape == (2, 10, 10, 3)
    np.testing.assert_allclose(np.array(logits), GOLDEN["mask_logits"], atol=1e-5)


def test_oracle():
    (heads, predictor), x = build(), noise("rois", 3, 4, 6, 4)
    features = heads(mx.array(x))
    np.testing.assert_allclose(np.array(features), slow_heads(heads, x), atol=1e-5)
    expected = slow_predictor(predictor, np.array(features))
    np.testing.assert_allclose(np.array(predictor(features)), expected, atol=1e-5)
    assert (expected > 0).any() and (expected < 0).any()  # logits, after no ReLU


def test_one_label_of_each_roi():
    _, predictor = build()
    x, labels = mx.array(noise("features", 5, 3, 4, 8)), mx.array([0, 2, 1, 2, 0])
    full, single = np.array(predictor(x)), predictor.of_labels(x, labels)
    assert single.shape == (5, 6, 8) and single.dtype == mx.float32
    for i, label in enumerate(labels.tolist()):
        np.testing.assert_allclose(np.array(single[i]), full[i, ..., label], atol=1e-5)
    # RoIs are independent
    alone = predictor.of_labels(x[3:4], labels[3:4])
    np.testing.assert_allclose(np.array(alone[0]), np.array(single[3]), atol=1e-5)


def test_no_rois():
    heads, predictor = build()
    features = heads(mx.zeros((0, 5, 5, 4)))
    assert features.shape == (0, 5, 5, 8) and predictor(features).shape == (0, 10, 10, 3)
    none = predictor.of_labels(features, mx.zeros((0,), dtype=mx.int32))
    assert none.shape == (0, 10, 10)


def test_structure():
    assert shapes_of(MaskRCNNHeads(16, 8, 3)) == {
        "convs.0.weight": (8, 3, 3, 16),
        "convs.0.bias": (8,),
        "convs.1.weight": (8, 3, 3, 8),
        "convs.1.bias": (8,),
        "convs.2.weight": (8, 3, 3, 8),
        "convs.2.bias": (8,),
    }
    assert len(MaskRCNNHeads(16, 8).convs) == 4
    assert shapes_of(MaskRCNNPredictor(8, 6, 3)) == {
        "conv5_mask.weight": (6, 2, 2, 8),
        "conv5_mask.bias": (6,),
        "mask_fcn_logits.weight": (3, 1, 1, 6),
        "mask_fcn_logits.bias": (3,),
    }
    # torchvision initialises all of them by fan out, which is sqrt(2 / (outputs * kernel area)),
    # and of a transposed kernel takes the inputs for the outputs
    mx.random.seed(0)
    predictor = MaskRCNNPredictor(128, 256, 91)
    for layer, fan in ((predictor.conv5_mask, 128 * 4), (predictor.mask_fcn_logits, 91)):
        assert mx.std(layer.weight).item() == pytest.approx((2 / fan) ** 0.5, rel=0.03)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_gives_float32_logits(dtype):
    heads, predictor = build()
    x = mx.array(noise("rois", 3, 4, 6, 4))
    expected = np.array(predictor(heads(x)))
    for module in (heads, predictor):
        module.set_dtype(dtype)
    features = heads(x.astype(dtype))
    assert features.dtype == dtype
    logits, single = predictor(features), predictor.of_labels(features, mx.array([1, 1, 2]))
    assert logits.dtype == single.dtype == mx.float32
    atol = 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(np.array(logits), expected, atol=atol)
    np.testing.assert_allclose(np.array(single[2]), expected[2, ..., 2], atol=atol)
