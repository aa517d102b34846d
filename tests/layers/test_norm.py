import copy
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_rcnn.layers import BatchNorm, Conv2d, FrozenBatchNorm, GroupNorm, conv_norm, make_norm
from recipe import fill
from reference import last_noise, noise

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
PARAMETERS = ["bias", "running_mean", "running_var", "weight"]
TINY_VARIANCES = [1e-5, 3e-6, 1.2e-5, 1e-8, 1.0, 40.0]
KINDS = ["batch", "frozen", "group"]


def filled(norm, prefix="norm."):
    """The norm with known parameters, none of them zero or one."""
    for key in norm.parameters():
        norm[key] = mx.array(fill(prefix + key, norm[key].shape))
    return norm


def trainable(module):
    return sorted(k for k, _ in tree_flatten(module.trainable_parameters()))


def slow_fixed(norm, x):
    weight, bias, mean, var = (
        np.array(norm[k], np.float64) for k in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def slow_group(x, groups, weight, bias, eps):
    out = np.empty(x.shape)
    size = x.shape[-1] // groups
    for n, g in np.ndindex(len(x), groups):
        own = slice(g * size, (g + 1) * size)
        part = x[n, ..., own].astype(np.float64)
        out[n, ..., own] = (part - part.mean()) / np.sqrt(part.var() + eps)
    return out * weight + bias


def test_fixed_statistics_by_hand():
    # (5 - 1) / sqrt(3.5 + 0.5) * 3 + 10 = 4 / 2 * 3 + 10; epsilon is inside the root
    for norm in (BatchNorm(1, eps=0.5).eval(), FrozenBatchNorm(1, eps=0.5)):
        norm.weight, norm.bias = mx.array([3.0]), mx.array([10.0])
        norm.running_mean, norm.running_var = mx.array([1.0]), mx.array([3.5])
        assert norm(mx.full((1, 1, 1, 1), 5.0)).item() == pytest.approx(16)
        scale, shift = norm.affine()
        assert scale.item() == pytest.approx(1.5) and shift.item() == pytest.approx(8.5)


@pytest.mark.parametrize("name", ["0", "1e-5"])
def test_frozen_is_torchvisions_with_tiny_variances(name):
    norm = filled(FrozenBatchNorm(6, eps=float(name)), "frozen.")
    norm.running_var = mx.array(TINY_VARIANCES)
    x = last_noise("norm input", 3, 6, 4, 5)
    expected = GOLDEN[f"frozen_eps_{name}"]
    np.testing.assert_allclose(np.array(norm(mx.array(x))), expected, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(slow_fixed(norm, x), expected, rtol=2e-5, atol=1e-4)
    # Where the variance is of the size of epsilon, one is not the other
    other = GOLDEN["frozen_eps_1e-5" if name == "0" else "frozen_eps_0"]
    assert np.abs(expected - other)[..., :4].max() > 1


def test_training_batch_norm_is_torchs():
    norm = filled(BatchNorm(6), "batch.").train()
    cotangent = mx.array(last_noise("norm cotangent", 3, 6, 4, 5))
    totals = {"weight": 0, "bias": 0}
    for step in range(2):
        x = mx.array(last_noise(f"norm input {step}", 3, 6, 4, 5) + 2)

        def total(x, parameters):
            norm.update(parameters)
            return mx.sum(norm(x) * cotangent)

        before = {k: norm[k] for k in ("running_mean", "running_var")}
        dx, gradients = mx.grad(total, argnums=(0, 1))(x, {k: norm[k] for k in totals})
        for key in totals:
            totals[key] = totals[key] + gradients[key]
        norm.update(before)
        y = norm(x)  # once: the gradient above was a pass of its own
    np.testing.assert_allclose(np.array(y), GOLDEN["batch_norm"], atol=1e-5)
    np.testing.assert_allclose(np.array(dx), GOLDEN["batch_norm_dx"], atol=1e-5)
    for key in ("running_mean", "running_var"):
        np.testing.assert_allclose(np.array(norm[key]), GOLDEN[f"batch_norm_{key}"], rtol=1e-5)
    for key, value in totals.items():
        np.testing.assert_allclose(np.array(value), GOLDEN[f"batch_norm_d{key}"], rtol=1e-4)


def test_training_batch_norm_by_hand():
    # 1, 3, 5, 7: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5 for the output, 20 / 3 for the running
    # one: 0.9 * 1 + 0.1 * 20 / 3 and 0.9 * 0 + 0.1 * 4.
    norm = BatchNorm(1, eps=0.0)
    y = norm(mx.array([1.0, 3, 5, 7]).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(np.array(y).ravel(), np.array([-3, -1, 1, 3]) / 5**0.5, rtol=1e-6)
    assert norm.running_mean.item() == pytest.approx(0.4)
    assert norm.running_var.item() == pytest.approx(0.9 + 2 / 3)
    norm = BatchNorm(1, momentum=0.5)
    norm(mx.array([1.0, 3, 5, 7]).reshape(4, 1, 1, 1))
    assert norm.running_mean.item() == 2
    norm.eval()
    norm(mx.array([100.0]).reshape(1, 1, 1, 1))
    assert norm.running_mean.item() == 2  # no update in evaluation
    norm.train()
    norm(mx.array([9.0]).reshape(1, 1, 1, 1))  # one value a channel: finite, where torch raises
    assert mx.isfinite(norm.running_var).item()


def test_training_batch_norm_far_from_zero():
    """The mean of squares less the square of the mean would lose the variance."""
    x = noise("far", 4, 3, 3, 2) + 3000
    y = BatchNorm(2)(mx.array(x))
    wide = x.astype(np.float64)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(np.array(y), expected, atol=2e-3)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_oracle(groups):
    norm = filled(GroupNorm(groups, 6, eps=0.01), "group.")
    x = last_noise("norm input", 3, 6, 4, 5)
    expected = slow_group(x, groups, np.array(norm.weight), np.array(norm.bias), 0.01)
    np.testing.assert_allclose(np.array(norm(mx.array(x))), expected, atol=1e-5)
    assert norm.affine() is None
    if groups == 3:
        norm.eps = 1e-5
        np.testing.assert_allclose(np.array(norm(mx.array(x))), GOLDEN["group_norm"], atol=1e-5)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="norm_groups=4: does not divide 6 channels"):
        GroupNorm(4, 6)


def test_frozen_never_trains():
    norm = filled(FrozenBatchNorm(3))
    x = mx.array(noise("x", 2, 4, 4, 3) + 5)
    expected, before = np.array(norm(x)), {k: np.array(norm[k]) for k in PARAMETERS}
    for change in (
        lambda m: m, lambda m: m.unfreeze(), lambda m: m.train(), lambda m: m.freeze(),
        lambda m: m.unfreeze(keys=["weight", "running_var"]), lambda m: m.train().unfreeze(),
        lambda m: m.freeze(keys="bias").unfreeze(keys="bias"), lambda m: m.eval().unfreeze(),
        lambda m: m.unfreeze(strict=True), lambda m: m.unfreeze(recurse=False),
    ):  # fmt: skip
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
        "conv.weight", "norms.0.bias", "norms.0.weight", "norms.2.bias", "norms.2.weight",
    ]  # fmt: skip
    for change in (
        lambda: net, net.unfreeze, net.train, lambda: net.freeze() and net.unfreeze(),
        lambda: net.freeze(keys="weight") and net.unfreeze(keys=["weight"]),
    ):  # fmt: skip
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


def test_load_weights_fills_the_statistics():
    net = Net()
    weights = [(k, mx.array(fill(k, v.shape))) for k, v in tree_flatten(Net().parameters())]
    net.load_weights(weights, strict=True)
    for key, value in tree_flatten(net.parameters()):
        np.testing.assert_array_equal(np.array(value), fill(key, value.shape))
    net.update(tree_unflatten([("norms.1.running_var", mx.full((4,), 7.0))]))
    assert net.norms[1].running_var.tolist() == [7.0] * 4


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision(dtype):
    """Statistics are computed in float32 and the output has the input's dtype."""
    x = mx.array(noise("x", 2, 16, 16, 4) + 8).astype(dtype)
    wide = np.array(x.astype(mx.float32), np.float64)
    for norm in (filled(BatchNorm(4)), filled(FrozenBatchNorm(4)), filled(BatchNorm(4)).eval()):
        expected = slow_fixed(norm, wide)
        if norm.training and not isinstance(norm, FrozenBatchNorm):
            expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
            expected = expected * np.array(norm.weight) + np.array(norm.bias)
        result = norm(x)
        assert result.dtype == dtype
        result = np.array(result.astype(mx.float32))
        np.testing.assert_allclose(result, expected, rtol=0.01, atol=0.01)
        assert norm.running_var.dtype == mx.float32
    # The sum of the squares, 2 * 256 * 300 ** 2, is beyond float16
    large = mx.array(noise("x", 2, 16, 16, 4) * 300).astype(mx.float16)
    assert mx.all(mx.isfinite(BatchNorm(4)(large))).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_norm_is_conv_then_norm(kind, training, kernel):
    def build():
        conv, norm = Conv2d(4, 6, kernel, 2, kernel // 2, bias=False), make_norm(kind, 6, 1e-3, 3)
        conv.weight = mx.array(fill("conv", conv.weight.shape))
        return conv, filled(norm).train(training)

    conv, norm = build()
    x, residual = mx.array(noise("x", 2, 7, 8, 4)), mx.array(noise("residual", 2, 4, 4, 6))
    plain = np.array(norm(conv(x)))
    cases = [
        ({"relu": False}, plain), ({}, np.maximum(plain, 0)),
        ({"residual": residual}, np.maximum(plain + np.array(residual), 0)),
    ]  # fmt: skip
    for options, expected in cases:
        other = build()  # its statistics have not moved
        weight = np.array(other[0].weight)
        np.testing.assert_allclose(np.array(conv_norm(x, *other, **options)), expected, atol=2e-5)
        np.testing.assert_array_equal(np.array(other[0].weight), weight)
        for key in ("running_mean", "running_var"):
            if key in norm:  # moved as often, or as little
                np.testing.assert_allclose(np.array(other[1][key]), np.array(norm[key]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_conv_norm_gradients(kind):
    """Folding the statistics into the kernel changes no gradient."""
    conv, norm = Conv2d(3, 4, 3, padding=1, bias=False), filled(make_norm(kind, 4, 1e-3, 2)).eval()
    x, residual = mx.array(noise("x", 1, 5, 5, 3)), mx.array(noise("residual", 1, 5, 5, 4))
    keys = [k for k in ("weight", "bias") if kind != "frozen"]

    def folded(x, weight, residual, parameters):
        conv.weight = weight
        norm.update(parameters)
        return mx.sum(conv_norm(x, conv, norm, residual=residual) ** 2)

    def unfolded(x, weight, residual, parameters):
        conv.weight = weight
        norm.update(parameters)
        return mx.sum(mx.maximum(norm(conv(x)) + residual, 0) ** 2)

    arguments = x, conv.weight, residual, {k: norm[k] for k in keys}
    both = [mx.grad(f, argnums=(0, 1, 2, 3))(*arguments) for f in (folded, unfolded)]
    for (key, got), (_, wanted) in zip(*map(tree_flatten, both), strict=True):
        got, wanted = np.array(got), np.array(wanted)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3, err_msg=key)
        assert np.abs(wanted).max() > 0


def test_conv_norm_keeps_half_precision():
    conv, norm = Conv2d(4, 6, 3, bias=False), filled(FrozenBatchNorm(6))
    conv.set_dtype(mx.bfloat16)
    x = mx.array(noise("x", 1, 5, 5, 4)).astype(mx.bfloat16)
    for options in ({}, {"relu": False}, {"residual": mx.zeros((1, 3, 3, 6), dtype=mx.bfloat16)}):
        assert conv_norm(x, conv, norm, **options).dtype == mx.bfloat16
    # The scale is folded in float32: 1 / sqrt(1e-9) is beyond float16's squares
    norm.running_var = mx.full((6,), 1e-9)
    norm.eps = 0.0
    norm.set_dtype(mx.float32)
    assert mx.all(mx.isfinite(conv_norm(x, conv, norm, relu=False))).item()


def test_make_norm():
    norms = {kind: make_norm(kind, 8, 0.125, 4) for kind in KINDS}
    assert type(norms["batch"]) is BatchNorm and type(norms["frozen"]) is FrozenBatchNorm
    assert type(norms["group"]) is GroupNorm and norms["group"].num_groups == 4
    for norm in norms.values():
        assert norm.eps == 0.125 and norm.weight.shape == norm.bias.shape == (8,)
    assert "8, eps=0.125" in repr(norms["batch"]) and "FrozenBatchNorm" in repr(norms["frozen"])
    for kind in ("batch", "frozen"):
        assert norms[kind].running_mean.tolist() == [0] * 8
        assert norms[kind].running_var.tolist() == norms[kind].weight.tolist() == [1] * 8
    with pytest.raises(ValueError, match="norm_groups"):
        make_norm("group", 8, groups=3)
