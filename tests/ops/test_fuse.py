import importlib

import mlx.core as mx
import numpy as np
import pytest

MODULE = importlib.import_module("mlx_rcnn.ops.fuse")


def plain(x, y, z):
    """The docstring."""
    return mx.where(x > y, mx.maximum(x * y + z, 0), mx.zeros_like(x) - z)


@pytest.fixture(scope="module")
def compiled():
    return MODULE.fused_alike(plain)


@pytest.fixture(params=[True, False], ids=["compiler", "none"])
def function(request, monkeypatch, compiled):
    if request.param and not MODULE._has_compiler() and mx.default_device().type == mx.cpu:
        pytest.skip("no g++ on this machine: the plain function is what runs, and is tested next")
    monkeypatch.setattr(MODULE, "_has_compiler", lambda: request.param)
    return compiled


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(x, y, z):
    return np.where(x > y, np.maximum(x * y + z, 0), -z)


# One trace serves all of them, so every kind of broadcast has to come out of the first.
SHAPES = [
    ((2, 3, 4), (2, 3, 4), (2, 3, 4)),
    ((2, 5, 1), (2, 1, 7), (1, 1, 1)),
    ((1, 1, 1),) * 3,
    ((1, 128, 1), (1, 1, 500), (1, 1, 1)),
    ((3, 1, 6), (1, 9, 1), (3, 9, 6)),
    ((1,), (1,), (3,)),
    ((1, 1, 7), (4, 5, 7), (1, 5, 1)),
    ((2, 5, 1), (2, 1, 7), (2, 1, 1)),
    ((2, 3), (3,), ()),
    # Not (0, 3) with (1, 3): MLX's compiled shape is then (1, 3).
    ((0, 3, 4), (0, 3, 4), (4,)),
    ((0, 3), (3,), ()),
]


def test_same_as_plain_for_all_shapes(function):
    for number, shapes in enumerate(SHAPES):
        arrays = [random(10 * number + i, *shape) for i, shape in enumerate(shapes)]
        result = function(*map(mx.array, arrays))
        assert result.shape == np.broadcast_shapes(*shapes), shapes
        np.testing.assert_allclose(np.array(result), expected(*arrays), atol=1e-6)


def test_one_trace_serves_all_shapes(monkeypatch):
    """mx.compile keeps a trace, on a CPU a call of g++, for each shape it is not told to ignore."""
    monkeypatch.setattr(MODULE, "_has_compiler", lambda: True)
    traces = []

    def counted(x, y):
        traces.append(x.shape)
        return x + y

    function = MODULE.fused_alike(counted)
    sizes = np.random.default_rng(0).integers(1, 2000, (1000, 3)).tolist()
    for shape in sizes:
        function(mx.zeros(shape), mx.zeros(shape[-1:]))  # not evaluated: nothing is built
    assert len(traces) == 1


def test_scalars_broadcast(function):
    x, y = random(0, 4, 1), random(1, 1, 6)
    for value in (0.25, -1.0):
        result = function(mx.array(x), mx.array(y), mx.array(value))
        np.testing.assert_allclose(np.array(result), expected(x, y, np.float32(value)), atol=1e-6)


def test_dtypes_are_kept(function):
    arrays = [random(i, 3, 4) for i in range(3)]
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        result = function(*(mx.array(a).astype(dtype) for a in arrays))
        assert result.dtype == dtype
        np.testing.assert_allclose(
            np.array(result.astype(mx.float32)), expected(*arrays), atol=0.05, rtol=0.02
        )


def test_gradient(function):
    arrays = [mx.array(random(i, *shape)) for i, shape in enumerate([(3, 1), (1, 4), (3, 4)])]

    def gradients(f):
        return mx.grad(lambda *a: mx.sum(f(*a) ** 2), argnums=(0, 1, 2))(*arrays)

    for got, wanted in zip(gradients(function), gradients(plain), strict=True):
        np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-5)
        assert mx.abs(wanted).max().item() > 0


def test_views_and_strides(function):
    base = random(5, 8, 10)
    x = mx.array(base)
    views = [x[::2, ::-1], x[1::2], mx.broadcast_to(x[:1], (4, 10))]
    wanted = expected(base[::2, ::-1], base[1::2], np.tile(base[:1], (4, 1)))
    np.testing.assert_allclose(np.array(function(*views)), wanted, atol=1e-6)
    turned = function(x.T, x.reshape(10, 8), x.T)
    wanted = expected(base.T, base.reshape(10, 8), base.T)
    np.testing.assert_allclose(np.array(turned), wanted, atol=1e-6)


def test_name_and_documentation_stay(function):
    assert function.__name__ == "plain" and function.__doc__ == "The docstring."


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    def refuse(*_):
        raise AssertionError("the compiled function was called")

    monkeypatch.setattr(mx, "compile", lambda function, shapeless: refuse)
    monkeypatch.setattr(MODULE, "_has_compiler", lambda: False)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu, 0))
    x = mx.array([1.0, -2.0])
    assert MODULE.fused_alike(plain)(x, 0 * x, x).tolist() == [1, 2]  # max(0 + 1, 0) and -(-2)
    monkeypatch.setattr(MODULE, "_has_compiler", lambda: True)
    with pytest.raises(AssertionError, match="was called"):
        MODULE.fused_alike(plain)(x, x, x)


def test_the_compiler_is_looked_up_by_name(monkeypatch):
    lookup = MODULE._has_compiler.__wrapped__
    monkeypatch.setattr(MODULE.shutil, "which", lambda name: {"g++": "/bin/g++"}.get(name))
    assert lookup()
    monkeypatch.setattr(MODULE.shutil, "which", lambda name: None)
    assert not lookup()


def test_on_a_cpu_only_arguments_alike_are_compiled(monkeypatch):
    def refuse(*_):
        raise AssertionError("the compiled function was called")

    monkeypatch.setattr(mx, "compile", lambda function, shapeless: refuse)
    monkeypatch.setattr(MODULE, "_has_compiler", lambda: True)
    x = mx.array([1.0, -2.0])
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu, 0))
    assert MODULE.fused(plain)(x, 0 * x, x).tolist() == [1, 2]
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    with pytest.raises(AssertionError, match="was called"):
        MODULE.fused(plain)(x, x, x)
