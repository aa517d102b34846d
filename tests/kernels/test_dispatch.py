"""The way to the kernels, end to end: a GPU is faked, and g++ runs what it would have run."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tiny
from gpu_shim import Fake
from mlx_rcnn.kernels import fixed_order, in_fixed_order, launch, switch
from mlx_rcnn.kernels.dialects import METAL
from mlx_rcnn.ops import multiscale_roi_align, roi_align
from mlx_rcnn.training import TrainConfig
from mlx_rcnn.training.optimizer import make_optimizer
from mlx_rcnn.training.step import TrainStep
from scenes import SCALES, boxes, pyramid

MODULE = importlib.import_module("mlx_rcnn.ops.roi_align")


@pytest.fixture
def gpu(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """RoIAlign finds a GPU with Metal."""
    monkeypatch.setattr(MODULE, "backend", lambda: METAL)
    return fake


def kinds(fake: Fake) -> set[str]:
    """Which kernels ran."""
    return {kernel.name.split("_")[2] for kernel, _, _ in fake.ran}


def values_and_gradients(ratio: int, **options: Any) -> list[np.ndarray]:
    rois = mx.array(boxes())

    def total(*maps: mx.array) -> mx.array:
        pooled = multiscale_roi_align(maps, rois, (3, 2), SCALES, ratio, **options)
        return mx.sum(pooled * mx.sin(pooled * 9))

    maps = [mx.array(m) for m in pyramid()]
    value, grads = mx.value_and_grad(total, argnums=tuple(range(len(maps))))(*maps)
    return [np.array(v) for v in (value, *grads)]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_all_levels(fake: Fake, monkeypatch: pytest.MonkeyPatch, ratio: int, fixed: bool) -> None:
    expected = values_and_gradients(ratio)
    assert not fake.ran  # a CPU runs none
    monkeypatch.setattr(MODULE, "backend", lambda: METAL)
    found = values_and_gradients(ratio, deterministic=fixed)
    assert kinds(fake) == {"forward", "collect" if fixed else "scatter"}
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


def test_one_map_and_its_gradient(gpu: Fake) -> None:
    features, rois = mx.array(pyramid()[0]), mx.array(boxes())
    gradient = mx.grad(lambda f: mx.sum(roi_align(f, rois, 2, 0.25, 2)))(features)
    assert kinds(gpu) == {"forward", "scatter"} and gradient.shape == features.shape
    assert mx.sum(gradient).item() == pytest.approx(
        mx.sum(roi_align(mx.ones(features.shape), rois, 2, 0.25, 2)).item(), rel=1e-5
    )


def test_no_gradient_reaches_the_boxes(gpu: Fake) -> None:
    features, rois = mx.array(pyramid()[0]), mx.array(boxes())
    assert not mx.any(mx.grad(lambda b: mx.sum(roi_align(features, b, 2, 0.25, 2)))(rois)).item()


def test_no_boxes_launch_nothing(gpu: Fake) -> None:
    maps = [mx.array(m) for m in pyramid()]
    assert multiscale_roi_align(maps, mx.zeros((0, 5)), (3, 2), SCALES).shape == (0, 3, 2, 5)
    assert not gpu.ran


def test_what_the_kernels_cannot_do_is_the_twins(gpu: Fake) -> None:
    rois = mx.array(boxes())
    assert roi_align(mx.zeros((1, 4, 4, 3), mx.int32), rois, 2).dtype == mx.int32
    assert not gpu.ran


def test_the_environment_switches(gpu: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", "1"), ("0", "0"), ("1", "1"), ("deterministic", "deterministic")):
        monkeypatch.setenv("MLX_RCNN_KERNELS", value)
        assert switch() == expected
    values_and_gradients(2)
    assert kinds(gpu) == {"forward", "collect"}
    monkeypatch.setenv("MLX_RCNN_KERNELS", "off")
    with pytest.raises(ValueError, match="MLX_RCNN_KERNELS='off': expected 0, 1 or determ"):
        switch()


@pytest.mark.parametrize("wanted", [False, True])
def test_a_training_step_in_a_fixed_order(gpu: Fake, wanted: bool) -> None:
    """``deterministic`` of a run reaches the kernels, and no further than the run."""
    config = TrainConfig(deterministic=wanted)
    model = tiny.build(norm="group")
    TrainStep(model, make_optimizer(model, config), config)(tiny.batches(1), 0, 0.001)
    assert kinds(gpu) == {"forward", "collect" if wanted else "scatter"}
    assert not in_fixed_order()


def test_blocks_in_blocks() -> None:
    with fixed_order():
        with fixed_order(False):
            assert in_fixed_order()  # who is outside has asked
        assert in_fixed_order()
    assert not in_fixed_order()


def test_which_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        type = mx.DeviceType.gpu

    monkeypatch.setattr(launch.mx, "default_device", Device)
    monkeypatch.delenv("MLX_RCNN_KERNELS", raising=False)
    monkeypatch.setattr(launch.mx.metal, "is_available", lambda: True)
    assert launch.backend() is METAL
    monkeypatch.setattr(launch.mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(launch.mx.cuda, "is_available", lambda: True)
    assert launch.backend().name == "cuda"
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")
    assert launch.backend() is None
    monkeypatch.setenv("MLX_RCNN_KERNELS", "1")
    Device.type = mx.DeviceType.cpu
    assert launch.backend() is None


@pytest.mark.parametrize("how", ["wrong", "raises"])
@pytest.mark.parametrize("kind", ["forward", "scatter"])
def test_a_kernel_that_is_wrong_on_this_machine_is_left_alone(
    gpu: Fake, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    monkeypatch.setattr(MODULE, "backend", lambda: None)
    expected = values_and_gradients(2)
    run = gpu.run

    def broken(source: Any, grid: Any, arguments: Any) -> list[mx.array]:
        if kind not in source.call:
            return run(source, grid, arguments)
        if how == "raises":
            raise RuntimeError("[metal::Device] Unable to build metal library")
        return [out * 1.001 for out in run(source, grid, arguments)]

    monkeypatch.setattr(gpu, "run", broken)
    monkeypatch.setattr(MODULE, "backend", lambda: METAL)
    said = "Unable to build" if how == "raises" else "differs"
    with pytest.warns(RuntimeWarning, match=f"roi_align.*{said}"):
        found = values_and_gradients(2)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)
    tried = len(gpu.ran)
    values_and_gradients(2)  # nor is it tried, or spoken of, again
    assert len(gpu.ran) - tried == (0 if kind == "forward" else 1)


@pytest.mark.parametrize("ratio", [0, 2])
def test_a_whole_prediction(gpu: Fake, monkeypatch: pytest.MonkeyPatch, ratio: int) -> None:
    model = tiny.build("mask_rcnn", roi_sampling_ratio=ratio, box_score_thresh=0.0)
    image = tiny.shapes()[0].image
    [found] = model.predict(image)
    assert kinds(gpu) == {"forward"}
    monkeypatch.setattr(MODULE, "backend", lambda: None)
    [expected] = model.predict(image)
    assert len(expected["scores"]) > 3
    for key, value in expected.items():
        if key == "masks":  # of booleans: a probability of exactly a half may fall on either side
            assert (found[key] != value).mean() < 1e-3
        else:
            np.testing.assert_allclose(found[key], value, atol=1e-3, rtol=1e-4)


def test_a_whole_loss_and_its_gradient(gpu: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("mask_rcnn", dropout=0.0)
    [batch] = tiny.batches(2)

    def losses() -> dict[str, np.ndarray]:
        def total(model: nn.Module) -> mx.array:
            return sum(model.get_loss(batch.images, batch.targets, key=mx.random.key(4)).values())

        value, gradient = nn.value_and_grad(model, total)(model)
        return {"loss": np.array(value), **{k: np.array(v) for k, v in tree_flatten(gradient)}}

    found = losses()
    assert kinds(gpu) == {"forward", "scatter"}
    monkeypatch.setattr(MODULE, "backend", lambda: None)
    for key, value in losses().items():
        bound = 1e-5 + 1e-4 * float(np.abs(value).max())
        np.testing.assert_allclose(found[key], value, atol=bound, err_msg=key)
