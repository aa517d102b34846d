"""Suppression's kernels as g++ compiles them: exact, in order, and without a race."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gpu_shim import Fake
from mlx_rcnn.kernels import launch, nms, suppress, suppressible
from mlx_rcnn.kernels.dialects import METAL, Dialect
from mlx_rcnn.ops import batched_nms, nms_mask
from reference import slow_nms

MODULE = importlib.import_module("mlx_rcnn.ops.nms")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group: fewer than on a GPU, as they are threads of the system here."""
    monkeypatch.setattr(nms, "_THREADS", 8)


def crowd(lists: int, count: int, key: int = 0, side: float = 40) -> np.ndarray:
    rng = np.random.default_rng([lists, count, key])
    corner = rng.uniform(0, 100, (lists, count, 2))
    sides = rng.uniform(1, side, (lists, count, 2))
    return np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)


def twin(boxes: np.ndarray, valid: np.ndarray, limit: float, labels: Any = None) -> np.ndarray:
    labels = None if labels is None else mx.array(labels)
    return np.array(MODULE._exact(mx.array(boxes), mx.array(valid), limit, labels))


def kernels(
    dialect: Dialect, boxes: np.ndarray, valid: np.ndarray, limit: float, labels: Any = None
) -> np.ndarray:
    labels = None if labels is None else mx.array(labels)
    return np.array(suppress(mx.array(boxes), mx.array(valid), limit, labels, dialect))


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 257])
def test_slow_oracle_and_twin(fake: Fake, dialect: Dialect, count: int) -> None:
    """Lists of one word, of a word and a bit, and of more words than there are threads."""
    boxes, rng = crowd(3, count), np.random.default_rng(count)
    valid = rng.uniform(size=(3, count)) < 0.9
    labels = rng.integers(0, 3, (3, count)).astype(np.int32)
    for limit in (0.1, 0.5):
        for of in (None, labels):
            keep = kernels(dialect, boxes, valid, limit, of)
            np.testing.assert_array_equal(keep, twin(boxes, valid, limit, of))
            for row in range(3):
                scores = np.where(valid[row], -np.arange(count, dtype=np.float32), NAN)
                group = None if of is None else of[row]
                expected = slow_nms(boxes[row], scores, limit, group)
                assert np.flatnonzero(keep[row]).tolist() == expected
    assert count < 100 or 0 < keep.sum() < valid.sum()


def test_chains_are_followed_in_order(fake: Fake, dialect: Dialect) -> None:
    """Each box ends the next alone: every second one stays, however late its turn comes."""
    x = np.arange(200)
    boxes = np.stack([x, 0 * x, x + 4, 0 * x + 1], axis=1).astype(np.float32)[None]
    keep = kernels(dialect, boxes, np.ones((1, 200), bool), 0.5)
    np.testing.assert_array_equal(keep[0], x % 2 == 0)


def test_ties_with_the_threshold_and_what_is_no_box(fake: Fake, dialect: Dialect) -> None:
    """Whole numbers, so that an IoU equals its threshold exactly; empty, inverted, NaN, huge."""
    rng = np.random.default_rng(3)
    corner = rng.integers(0, 6, (2, 150, 2))
    boxes = np.concatenate([corner, corner + rng.integers(-1, 5, (2, 150, 2))], axis=-1)
    boxes = boxes.astype(np.float32)
    odd = [[NAN, 0, 3, 3], [0, NAN, 3, NAN], [0, 0, INF, 3], [-INF, 0, INF, 3], [0, 0, 3e38, 3e38]]
    boxes[:, 20:25] = odd
    valid = np.ones((2, 150), bool)
    for limit in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0):
        keep = kernels(dialect, boxes, valid, limit)
        np.testing.assert_array_equal(keep, twin(boxes, valid, limit))


def test_a_group_of_any_size(fake: Fake, dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, valid = crowd(2, 500), np.ones((2, 500), bool)
    expected = twin(boxes, valid, 0.5)
    monkeypatch.setattr(launch, "_LANES", 3)  # of 16 words: CUDA adds threads that have none
    for size in (1, 3, 40):
        monkeypatch.setattr(nms, "_THREADS", size)
        np.testing.assert_array_equal(kernels(dialect, boxes, valid, 0.5), expected)


def test_five_lists_of_a_thousand(fake: Fake, dialect: Dialect) -> None:
    boxes, valid = crowd(5, 1000), np.ones((5, 1000), bool)
    keep = kernels(dialect, boxes, valid, 0.7)
    np.testing.assert_array_equal(keep, twin(boxes, valid, 0.7))
    assert len(fake.ran) == 2  # two launches for it all


@pytest.mark.slow
def test_one_list_of_twenty_thousand(fake: Fake) -> None:
    boxes, valid = crowd(1, 20000, side=4), np.ones((1, 20000), bool)
    expected = np.array(nms_mask(mx.array(boxes), mx.array(valid), 0.5, rounds=64)[0])
    np.testing.assert_array_equal(kernels(METAL, boxes, valid, 0.5), expected)
    assert len(fake.ran) == 2


def race(fake: Fake, dialect: Dialect) -> None:
    """Run the sweep under the thread sanitizer, which ends it at the first race."""
    fake.checks = "-fsanitize=thread"
    boxes, valid = crowd(2, 300), np.ones((2, 300), bool)
    np.testing.assert_array_equal(kernels(dialect, boxes, valid, 0.5), twin(boxes, valid, 0.5))


def test_no_two_threads_race(fake: Fake, dialect: Dialect) -> None:
    race(fake, dialect)


@pytest.mark.parametrize("which", [0, 1])
def test_without_a_barrier_they_would(
    fake: Fake, dialect: Dialect, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """That the test above sees a race is shown by taking out either barrier."""
    parts = nms._SWEEP.body.split("RCNN_BARRIER;")
    assert len(parts) == 3
    middle = ["RCNN_BARRIER;", ";"] if which else [";", "RCNN_BARRIER;"]
    body = parts[0] + middle[0] + parts[1] + middle[1] + parts[2]
    monkeypatch.setattr(nms, "_SWEEP", nms._SWEEP._replace(body=body))
    with pytest.raises(AssertionError, match="data race|Not equal"):
        race(fake, dialect)


def test_what_fits() -> None:
    assert suppressible(5, 1000) and suppressible(1, 20000) and suppressible(1, 65536)
    assert not suppressible(1, 65537) and not suppressible(0, 5) and not suppressible(5, 0)
    assert not suppressible(20, 20000)  # the bits of these would take a gigabyte


def test_the_way_to_the_kernels(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = crowd(1, 300)[0], np.random.default_rng(0).uniform(size=300)
    groups = np.arange(300) % 3
    given = mx.array(boxes), mx.array(scores.astype(np.float32)), mx.array(groups)
    expected = np.array(batched_nms(*given, 0.5))
    assert not fake.ran  # a CPU runs none
    monkeypatch.setattr(MODULE, "backend", lambda: METAL)
    np.testing.assert_array_equal(np.array(batched_nms(*given, 0.5)), expected)
    assert {kernel.name for kernel, _, _ in fake.ran} >= {"nms_overlaps", "nms_sweep"}
    half = mx.array(boxes[None]).astype(mx.bfloat16)
    keep, exact = nms_mask(half, mx.ones((1, 300), dtype=mx.bool_), 0.5, rounds=1)
    assert exact.item() and keep.dtype == mx.bool_  # whatever the rounds
    fake.ran.clear()
    assert nms_mask(mx.zeros((2, 0, 4)), mx.zeros((2, 0), dtype=mx.bool_), 0.5)[1].item()
    assert not fake.ran


def test_kernels_that_are_wrong_are_left_alone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, valid = mx.array(crowd(2, 100)), mx.ones((2, 100), dtype=mx.bool_)
    expected = np.array(nms_mask(boxes, valid, 0.5)[0])
    run = fake.run
    monkeypatch.setattr(
        fake,
        "run",
        lambda source, *rest: [
            ~out if out.dtype == mx.bool_ else out for out in run(source, *rest)
        ],
    )
    monkeypatch.setattr(MODULE, "backend", lambda: METAL)
    with pytest.warns(RuntimeWarning, match="nms.*differs"):
        np.testing.assert_array_equal(np.array(nms_mask(boxes, valid, 0.5)[0]), expected)


def test_no_gradient_is_asked_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's kernels have none, and fail when one is asked for."""

    @mx.custom_function
    def refusing(boxes: mx.array, valid: mx.array) -> mx.array:
        return valid & (boxes[..., 0] < 50)

    @refusing.vjp
    def fails(*_: Any) -> Any:
        raise RuntimeError("asked for a gradient")

    fused = importlib.import_module("mlx_rcnn.ops.nms_fused")
    monkeypatch.setattr(fused, "agree", lambda *_: True)
    monkeypatch.setattr(fused, "suppress", lambda b, v, *_: refusing(b, v))
    monkeypatch.setattr(MODULE, "backend", lambda: METAL)

    def total(boxes: mx.array) -> mx.array:
        keep, _ = nms_mask(boxes, boxes[..., 2] > 10, 0.5)
        return mx.sum(mx.where(keep[..., None], boxes, 0))

    boxes = mx.array(crowd(1, 30))
    assert mx.any(mx.grad(total)(boxes) != 0).item()
    with pytest.raises(RuntimeError, match="asked for"):  # so this is what is avoided
        mx.eval(mx.grad(lambda b: mx.sum(mx.where(refusing(b, b[..., 0] > 1), 1.0, 0)))(boxes))
