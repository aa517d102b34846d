"""Decay, clipping and averaging."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

import tiny
from mlx_rcnn.training.config import TrainConfig
from mlx_rcnn.training.optimizer import (
    clip,
    make_optimizer,
    moving_average,
    optimizer_arrays,
    set_optimizer_arrays,
)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(kind):
    model = tiny.build("mask_rcnn")
    config = TrainConfig(lr=0.5, weight_decay=0.1, momentum=0.0, optimizer=kind)
    optimizer = make_optimizer(model, config)
    before = {k: np.array(v) for k, v in tree_flatten(model.parameters())}
    # With no gradient only decay moves a weight: w - 0.5 * 0.1 * w = 0.95 w.
    optimizer.update(model, tree_map(mx.zeros_like, model.trainable_parameters()))
    moved = set()
    for name, value in tree_flatten(model.parameters()):
        expected = before[name] * 0.95 if before[name].ndim > 1 else before[name]
        np.testing.assert_allclose(np.array(value), expected, rtol=1e-6, err_msg=name)
        if before[name].ndim > 1:
            moved.add(name)
    kernels = {n for n in before if n.endswith("weight") and "bn" not in n}
    assert moved == {n for n in kernels if "downsample.1" not in n}


def test_sgd_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight = mx.array([[2.0]])
    config = TrainConfig(lr=0.1, momentum=0.9, weight_decay=0.5)
    optimizer = make_optimizer(model, config)
    for _ in range(2):
        optimizer.update(model, {"weight": mx.array([[1.0]])})
    # v1 = 1 + 0.5 * 2 = 2, w1 = 2 - 0.2 = 1.8; v2 = 0.9 * 2 + 1 + 0.5 * 1.8 = 3.7, w2 = 1.43
    assert model.weight.item() == pytest.approx(1.43)


def test_state_goes_round():
    model = tiny.build()
    optimizer = make_optimizer(model, TrainConfig())
    optimizer.update(model, tree_map(mx.ones_like, model.trainable_parameters()))
    arrays = optimizer_arrays(optimizer)
    other = make_optimizer(model, TrainConfig())
    set_optimizer_arrays(other, arrays)
    again = optimizer_arrays(other)
    assert arrays.keys() == again.keys()
    assert all(mx.array_equal(arrays[k], again[k]).item() for k in arrays)
    del arrays["states.0.step"]
    with pytest.raises(ValueError, match="does not fit the model: states.0.step"):
        set_optimizer_arrays(other, arrays)


def test_nothing_to_learn():
    model = nn.Linear(2, 2)
    model.freeze()
    with pytest.raises(ValueError, match="no trainable parameters"):
        make_optimizer(model, TrainConfig())


def test_the_norm_of_many_numbers_is_exact():
    big = mx.random.normal((1024, 4096), key=mx.random.key(0)) * 1e-3
    want = np.linalg.norm(np.array(big).astype(np.float64))
    for limit in (0.0, 1e9):
        assert abs(clip({"a": big}, limit)[1].item() / want - 1) < 1e-5


def test_clip_is_global():
    # |(3, 4, 12)| = 13
    gradients = {"a": mx.array([3.0, 4.0]), "b": {"c": mx.array([12.0])}}
    clipped, norm = clip(gradients, 6.5)
    assert norm.item() == pytest.approx(13)
    np.testing.assert_allclose(clipped["a"], [1.5, 2], rtol=1e-5)
    np.testing.assert_allclose(clipped["b"]["c"], [6], rtol=1e-5)
    for limit in (0.0, 20.0):
        same, norm = clip(gradients, limit)
        assert norm.item() == pytest.approx(13)
        np.testing.assert_allclose(same["a"], [3, 4])


def test_not_a_number_is_seen_in_the_norm():
    _, norm = clip({"a": mx.array([1.0, math.nan])}, 1.0)
    assert math.isnan(norm.item())


def test_moving_average():
    model = nn.BatchNorm(1)
    model.freeze(keys=["running_mean", "running_var"])
    average = {
        "weight": mx.array([3.0]),
        "bias": mx.array([1.0]),
        "running_mean": mx.array([9.0]),
        "running_var": mx.array([9.0]),
    }
    average = moving_average(average, model, 0.75)
    # 0.75 * 3 + 0.25 * 1 = 2.5 and 0.75 * 1 + 0.25 * 0; statistics are taken as they are.
    assert average["weight"].item() == 2.5 and average["bias"].item() == 0.75
    assert average["running_mean"].item() == 0 and average["running_var"].item() == 1
