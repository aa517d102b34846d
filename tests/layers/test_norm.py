from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn.layers import (
    BatchNorm,
    Conv2d,
    FrozenBatchNorm,
    GroupNorm,
    conv_norm,
    conv_norm_pool,
    make_norm,
    max_pool,
)
from recipe import fill
from reference import last_noise, noise

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
TINY_VARIANCES = [1e-5, 3e-6, 1.2e-5, 1e-8, 1.0, 40.0]
KINDS = ["batch", "frozen", "group"]


def filled(norm, prefix="norm."):
    """The norm with known parameters, none of them zero or one."""
    for key in norm.parameters():
        norm[key] = mx.array(fill(prefix + key, norm[key].shape))
    return norm


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


def test_a_frozen_batch_norm_still_follows_the_batch():
    """As in torch, where ``requires_grad`` says what learns and the mode which statistics count."""
    x = mx.array(noise("x", 2, 4, 4, 3) + 5)
    norm = filled(BatchNorm(3)).train()
    before = np.array(norm.running_mean)
    free = np.array(norm(x))
    norm.running_mean = mx.array(before)
    norm.freeze()
    np.testing.assert_array_equal(np.array(norm(x)), free)
    assert np.abs(np.array(norm.running_mean) - before).max() > 0.1
    np.testing.assert_allclose(np.array(norm.eval()(x)), slow_fixed(norm, np.array(x)), rtol=1e-5)


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
@pytest.mark.parametrize("bias", [False, True])
def test_conv_norm_is_conv_then_norm(kind, training, kernel, bias):
    def build():
        conv, norm = Conv2d(4, 6, kernel, 2, kernel // 2, bias=bias), make_norm(kind, 6, 1e-3, 3)
        conv.weight = mx.array(fill("conv", conv.weight.shape))
        if bias:
            conv.bias = mx.array(noise("bias", 6))
        return conv, filled(norm).train(training)

    conv, norm = build()
    x, residual = mx.array(noise("x", 2, 7, 8, 4)), mx.array(noise("residual", 2, 4, 4, 6))
    plain = np.array(norm(conv(x)))
    cases = [
        ({"relu": False}, plain),
        ({}, np.maximum(plain, 0)),
        ({"residual": residual}, np.maximum(plain + np.array(residual), 0)),
    ]
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


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (2, 3)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["batch", "frozen", "group", None])
def test_what_is_pooled_first_is_the_same_to_the_bit(kind, training, size):
    conv = Conv2d(3, 8, 3, padding=1, bias=kind is None)
    norm = None if kind is None else make_norm(kind, 8, groups=2)
    if norm is not None:
        scale = mx.array([1.0, -2, 0.5, 0, 3, -0.1, 1, 1])  # of both signs: the order may turn
        norm.update({"weight": scale, "bias": mx.arange(8) / 4 - 1})
        norm.train(training)
    x = mx.array(noise("pooled first", 2, *size, 3))
    found = conv_norm_pool(x, conv, norm)
    assert mx.array_equal(found, max_pool(conv_norm(x, conv, norm)))

    def by(function):
        def of(weight):
            conv.weight = weight
            return mx.sum(mx.sin(function()))

        return mx.grad(of)(mx.array(conv.weight))

    expected = by(lambda: max_pool(conv_norm(x, conv, norm)))
    gradient = by(lambda: conv_norm_pool(x, conv, norm))
    np.testing.assert_allclose(np.array(gradient), np.array(expected), rtol=1e-4, atol=1e-5)


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


def test_group_norm_has_the_gradients_of_mlx_s_own():
    own, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8, pytorch_compatible=True)
    x, cotangent = (mx.random.normal((2, 5, 7, 8), key=mx.random.key(i)) for i in (0, 1))

    def gradients(norm):
        def run(x, weight, bias):
            norm.weight, norm.bias = weight, bias
            return norm(x)

        weight, bias = (mx.random.normal((8,), key=mx.random.key(i)) for i in (2, 3))
        return mx.vjp(run, [x, weight, bias], [cotangent])[1]

    for got, expected in zip(gradients(own), gradients(theirs), strict=True):
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-4, atol=2e-5)


def test_batch_statistics_of_a_large_map_are_exact():
    """A sum over 40,000 pixels at once would be off by 6e-6 of the mean, and of the variance."""
    x = np.random.default_rng(0).standard_normal((2, 100, 200, 4)).astype(np.float32) + 5
    norm = BatchNorm(4, momentum=1.0)
    norm.train()
    norm(mx.array(x))
    pixels = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(np.array(norm.running_mean), pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(np.array(norm.running_var), pixels.var(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("valid", [[1, 0, 1, 1, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]])
def test_statistics_of_the_valid_rows(valid):
    """As if the others were not there, in the output, the gradients and the running statistics."""
    rows = np.flatnonzero(valid)
    x, cotangent = (mx.array(last_noise(f"valid {k}", 5, 6, 3, 2)) for k in "ab")

    def run(x, cotangent, mask):
        norm = filled(BatchNorm(6)).train()

        def total(x, parameters):
            norm.update(parameters)
            return mx.sum(norm(x, mask) * cotangent)

        parameters = {k: norm[k] for k in ("weight", "bias")}
        dx, gradients = mx.grad(total, argnums=(0, 1))(x, parameters)
        norm = filled(BatchNorm(6)).train()
        return norm(x, mask), dx, gradients, norm.running_mean, norm.running_var

    mask = mx.array(valid).astype(mx.bool_)
    silent = cotangent * mask[:, None, None, None]  # invalid rows reach no loss
    y, dx, gradients, mean, var = run(x, silent, mask)
    y_, dx_, gradients_, mean_, var_ = run(x[mx.array(rows)], cotangent[mx.array(rows)], None)
    np.testing.assert_allclose(np.array(y)[rows], np.array(y_), atol=1e-5)
    np.testing.assert_allclose(np.array(dx)[rows], np.array(dx_), atol=1e-5)
    for key in gradients:
        np.testing.assert_allclose(np.array(gradients[key]), np.array(gradients_[key]), atol=1e-5)
    np.testing.assert_allclose(np.array(mean), np.array(mean_), rtol=1e-5)
    np.testing.assert_allclose(np.array(var), np.array(var_), rtol=1e-5)


def test_no_valid_row_leaves_the_running_statistics():
    norm = filled(BatchNorm(6)).train()
    mean, var = np.array(norm.running_mean), np.array(norm.running_var)
    y = norm(mx.array(last_noise("valid a", 5, 6, 3, 2)), mx.zeros((5,), dtype=mx.bool_))
    assert mx.all(mx.isfinite(y)).item()
    np.testing.assert_array_equal(np.array(norm.running_mean), mean)
    np.testing.assert_array_equal(np.array(norm.running_var), var)
