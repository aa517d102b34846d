"""What an optimizer can reach of a norm, whatever is called on it or on its network."""

import copy

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_rcnn.layers import BatchNorm, Conv2d, FrozenBatchNorm, GroupNorm
from recipe import fill
from reference import noise

PARAMETERS = ["bias", "running_mean", "running_var", "weight"]


def trainable(module):
    return sorted(k for k, _ in tree_flatten(module.trainable_parameters()))


def test_frozen_never_trains():
    norm = FrozenBatchNorm(3)
    x = mx.array(noise("x", 2, 4, 4, 3) + 5)
    expected, before = np.array(norm(x)), {k: np.array(norm[k]) for k in PARAMETERS}
    for change in (
        lambda m: m,
        lambda m: m.unfreeze(),
        lambda m: m.train(),
        lambda m: m.freeze(),
        lambda m: m.unfreeze(keys=["weight", "running_var"]),
        lambda m: m.train().unfreeze(),
        lambda m: m.freeze(keys="bias").unfreeze(keys="bias"),
        lambda m: m.eval().unfreeze(),
        lambda m: m.unfreeze(strict=True),
        lambda m: m.unfreeze(recurse=False),
    ):
        change(norm)
        assert trainable(norm) == []
        assert sorted(norm.parameters()) == PARAMETERS  # but they are saved and loaded
        np.testing.assert_array_equal(np.array(norm(x)), expected)
    for key, value in before.items():
        np.testing.assert_array_equal(np.array(norm[key]), value)


def test_batch_norm_trains_weight_and_bias_only():
    norm = BatchNorm(3)
    both = ["bias", "weight"]
    assert trainable(norm) == both and sorted(norm.parameters()) == PARAMETERS
    assert trainable(norm.unfreeze()) == both
    assert trainable(norm.freeze()) == []
    assert trainable(norm.unfreeze()) == both
    assert trainable(norm.freeze(keys="weight")) == ["bias"]
    assert trainable(norm.freeze(keys=["bias"])) == []
    assert trainable(norm.unfreeze(keys="weight")) == ["weight"]
    assert trainable(norm.unfreeze(keys=["running_mean", "running_var"])) == ["weight"]
    assert trainable(norm.unfreeze()) == both
    assert trainable(norm.train().unfreeze()) == both
    assert trainable(norm.eval().unfreeze()) == both
    assert trainable(norm.freeze(keys=["running_mean"], strict=True)) == both
    with pytest.raises(KeyError):
        norm.freeze(keys=["gamma"], strict=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Conv2d(2, 4, 3, bias=False)
        self.norms = [BatchNorm(4), FrozenBatchNorm(4), GroupNorm(2, 4)]

    def __call__(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = norm(x)
        return x


def test_freezing_through_a_network():
    net = Net()
    everything = [
        "conv.weight",
        "norms.0.bias",
        "norms.0.weight",
        "norms.2.bias",
        "norms.2.weight",
    ]
    for change in (
        lambda: net,
        net.unfreeze,
        net.train,
        lambda: net.freeze() and net.unfreeze(),
        lambda: net.freeze(keys="weight") and net.unfreeze(keys=["weight"]),
    ):
        change()
        assert trainable(net) == everything
    net.apply_to_modules(lambda _, m: m.unfreeze(recurse=False))
    assert trainable(net) == everything
    net.freeze()
    assert trainable(net) == []
    net.unfreeze(keys=["weight"])
    assert trainable(net) == ["conv.weight", "norms.0.weight", "norms.2.weight"]


def test_copies_stay_frozen():
    net = copy.deepcopy(Net())
    net.unfreeze()
    assert trainable(net) == trainable(Net())
    assert net.norms[0]._no_grad is not Net().norms[0]._no_grad
    first, second = FrozenBatchNorm(2), BatchNorm(2)
    first.freeze()
    second.freeze(keys="bias")
    assert trainable(BatchNorm(2)) == ["bias", "weight"]  # nothing is shared between modules
    copied = copy.deepcopy(second)
    assert trainable(copied) == ["weight"]
    copied.unfreeze()
    assert trainable(second) == ["weight"]


def test_an_optimizer_with_weight_decay_moves_no_statistics():
    net = Net()
    net.norms[0].running_mean = net.norms[1].running_mean = mx.full((4,), 2.0)
    net.unfreeze()
    net.eval()  # fixed statistics everywhere: only an optimizer could change them
    before = {k: np.array(v) for k, v in tree_flatten(net.parameters())}
    step = nn.value_and_grad(net, lambda model, x: mx.sum(model(x) ** 2))
    optimizer = optim.SGD(0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        _, gradients = step(net, mx.array(noise("x", 1, 4, 4, 2)))
        optimizer.update(net, gradients)
    after = {k: np.array(v) for k, v in tree_flatten(net.parameters())}
    moved = sorted(k for k in before if not np.array_equal(before[k], after[k]))
    assert moved == trainable(net)


def test_statistics_move_in_training_and_take_no_gradient():
    net = Net().train()
    before = {k: np.array(v) for k, v in tree_flatten(net.parameters())}
    x = mx.array(noise("x", 2, 5, 5, 2) + 1)
    _, gradients = nn.value_and_grad(net, lambda model, x: mx.sum(model(x)))(net, x)
    assert sorted(k for k, _ in tree_flatten(gradients)) == trainable(net)
    after = {k: np.array(v) for k, v in tree_flatten(net.parameters())}
    moved = sorted(k for k in before if not np.array_equal(before[k], after[k]))
    assert moved == ["norms.0.running_mean", "norms.0.running_var"]


def test_running_statistics_are_cut_from_the_graph():
    norm, x = BatchNorm(3).train(), mx.array(noise("x", 2, 4, 4, 3))

    def moved(x):
        norm(x)
        return mx.sum(norm.running_mean + norm.running_var)

    assert not mx.any(mx.grad(moved)(x)).item()


def test_load_weights_fills_the_statistics():
    net = Net()
    weights = [(k, mx.array(fill(k, v.shape))) for k, v in tree_flatten(Net().parameters())]
    net.load_weights(weights, strict=True)
    for key, value in tree_flatten(net.parameters()):
        np.testing.assert_array_equal(np.array(value), fill(key, value.shape))
    net.update(tree_unflatten([("norms.1.running_var", mx.full((4,), 7.0))]))
    assert net.norms[1].running_var.tolist() == [7.0] * 4
