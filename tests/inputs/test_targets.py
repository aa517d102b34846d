"""Targets: what is refused, what is left out, and where boxes and masks end up."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.inputs.targets import prepare_targets
from mlx_rcnn.structures import BUCKET, Batch, Targets

CLASSES = 4
NAN, INF = float("nan"), float("inf")


def batch_of(*sizes: tuple[tuple[int, int], tuple[int, int]]) -> Batch:
    """Images of (size given, size resized), padded to a multiple of 32."""
    given_sizes, resized = (np.array(column) for column in zip(*sizes, strict=True))
    height, width = -(-resized.max(axis=0) // 32) * 32
    return Batch(mx.zeros((len(sizes), int(height), int(width), 3)), resized, given_sizes)


BATCH = batch_of(((50, 100), (25, 50)), ((60, 40), (90, 60)))  # half, and half as much again


def target(count: int = 2, size: tuple[int, int] = (50, 100), **changes: Any) -> dict[str, Any]:
    boxes = [[1.0 + i % 80, 2, 10 + i % 80, 12] for i in range(count)]
    masks = np.zeros((count, *size), np.uint8)
    masks[:, 2:12, 1:10] = 1
    labels = [1 + i % 3 for i in range(count)]
    return {"boxes": np.array(boxes), "labels": np.array(labels), "masks": masks, **changes}


def prepare(first: dict[str, Any], masks: bool = False, second: Any = None) -> Targets:
    second = target(1, (60, 40)) if second is None else second
    found = prepare_targets([first, second], BATCH, CLASSES, masks)
    assert found.boxes.dtype == mx.float32 and found.labels.dtype == mx.int32
    assert found.valid.dtype == mx.bool_
    return found


def test_boxes_and_masks_are_scaled_and_padded() -> None:
    found = prepare(target(), masks=True)
    assert found.boxes.shape == (2, BUCKET, 4) and found.labels.shape == (2, BUCKET)
    assert found.valid.tolist() == [[True] * 2 + [False] * 6, [True] + [False] * 7]
    # (1, 2, 10, 12) halved; (1, 2, 10, 12) of the second image times 1.5
    assert found.boxes[0, 0].tolist() == [0.5, 1, 5, 6]
    assert found.boxes[0, 1].tolist() == [1, 1, 5.5, 6]
    assert found.boxes[1, 0].tolist() == [1.5, 3, 15, 18]
    assert found.labels[:, :2].tolist() == [[1, 2], [1, 0]]
    assert found.masks is not None and found.masks.dtype == mx.uint8
    assert found.masks.shape == (2, BUCKET, 96, 64)
    # Nearest: row i of the half comes from row 2 i, column j from 2 j: 2..11 and 1..9 of the mask
    # are hit by rows 1..5 and columns 1..4.
    expected = np.zeros((96, 64), np.uint8)
    expected[1:6, 1:5] = 1
    np.testing.assert_array_equal(np.array(found.masks[0, 0]), expected)
    # Half as much again: row i from floor(i / 1.5), so rows 3..17 and columns 2..14
    expected = np.zeros((96, 64), np.uint8)
    expected[3:18, 2:15] = 1
    np.testing.assert_array_equal(np.array(found.masks[1, 0]), expected)
    assert not found.masks[:, 2:].any().item()
    assert prepare(target()).masks is None


def test_unequal_scales() -> None:
    batch = batch_of(((10, 40), (30, 20)))
    found = prepare_targets([{"boxes": [[4, 1, 40, 10]], "labels": [1]}], batch, CLASSES)
    assert found.boxes[0, 0].tolist() == [2, 3, 20, 30]


@pytest.mark.parametrize("count, length", [(0, 8), (1, 8), (8, 8), (9, 16), (300, 304)])
def test_padding(count: int, length: int) -> None:
    found = prepare(target(count), masks=count < 10)
    assert found.boxes.shape == (2, length, 4)
    assert np.array(found.valid).sum(axis=1).tolist() == [count, 1]
    assert np.array(found.valid)[0, :count].all()
    assert mx.isfinite(found.boxes).all().item()


def test_crowds_are_left_out() -> None:
    found = prepare(target(5, iscrowd=np.array([0, 1, 0, 1, 1])), masks=True)
    whole = prepare(target(5), masks=True)
    assert found.valid[0].tolist() == [True] * 2 + [False] * 6
    for ours, all_of_them in zip((found.boxes, found.labels), whole[:2], strict=True):
        assert ours[0, :2].tolist() == all_of_them[0][mx.array([0, 2])].tolist()
    assert mx.array_equal(found.masks[0, :2], whole.masks[0][mx.array([0, 2])]).item()
    assert not prepare(target(3, iscrowd=[1, 1, 1])).valid[0].any().item()


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), np.zeros((0,)), mx.zeros((0, 4))])
@pytest.mark.parametrize("masks", [[], np.zeros((0, 50, 100)), np.zeros((0, 0, 0))])
def test_no_object(boxes: Any, masks: Any) -> None:
    found = prepare({"boxes": boxes, "labels": [], "masks": masks}, masks=True)
    assert found.valid.tolist() == [[False] * 8, [True] + [False] * 7]


def test_arrays_of_all_kinds_and_boxes_on_the_border() -> None:
    """A whole image, over its border, one pixel; lists, MLX arrays, booleans."""
    boxes = [[0, 0, 100, 50], [-5, -5, 3, 3], [99, 49, 100, 50], [20, 20, 20.01, 20.01]]
    labels = [1, 2, 3, 1]
    expected = prepare({"boxes": boxes, "labels": labels})
    for kind in (np.array, mx.array):
        found = prepare({"boxes": kind(boxes), "labels": kind(labels)})
        assert mx.array_equal(found.boxes, expected.boxes).item()
    assert expected.boxes[0, 1].tolist() == [-2.5, -2.5, 1.5, 1.5]
    seen = target(masks=target()["masks"].astype(bool))
    assert mx.array_equal(prepare(seen, True).masks, prepare(target(), True).masks).item()
    found = prepare({"boxes": np.float64(boxes), "labels": np.float32(labels)})
    assert found.labels[0, :4].tolist() == labels


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 5, 5, 9], "has no area, expected x1 < x2 and y1 < y2"),
        ([5, 9, 8, 9], "has no area"),
        ([8, 5, 5, 9], "has no area"),
        ([0, 0, 0, 0], "has no area"),
        ([100, 5, 110, 9], "lies outside the image of 100 x 50 pixels"),
        ([5, 50, 9, 60], "lies outside"),
        ([-9, 5, 0, 9], "lies outside"),
        ([5, -9, 9, 0], "lies outside"),
        ([NAN, 5, 8, 9], "is not finite"),
        ([5, 5, INF, 9], "is not finite"),
        ([5, -INF, 9, 9], "is not finite"),
    ],
)
def test_bad_boxes(box: list[float], message: str) -> None:
    boxes = [*target()["boxes"], box]
    with pytest.raises(ValueError, match=rf"targets\[0\], box 2: .*{message}"):
        prepare(target(boxes=boxes, labels=[1, 2, 3]))


def test_bad_box_of_a_later_image() -> None:
    for box in ([8, 5, 5, 9], [41, 5, 50, 9], [5, 5, NAN, 9]):  # it is 40 wide
        second = {"boxes": [box, [1, 1, 2, 2]], "labels": [1, 1]}
        with pytest.raises(ValueError, match=r"targets\[1\], box 0: "):
            prepare(target(), second=second)


@pytest.mark.parametrize("label", [0, -1, CLASSES, 99, 1.5, NAN, INF])
def test_bad_labels(label: float) -> None:
    message = rf"targets\[0\], box 1: label {label}, expected an integer in 1\.\.3"
    with pytest.raises(ValueError, match=message):
        prepare(target(labels=np.array([1, label])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1]}, "2 boxes, but 1 labels"),
        ({"labels": [1, 2, 3]}, "2 boxes, but 3 labels"),
        ({"boxes": np.zeros((0, 4))}, "0 boxes, but 2 labels"),
        ({"iscrowd": [0]}, "2 boxes, but 1 iscrowd"),
        ({"boxes": np.ones((4, 5)), "labels": [1] * 5}, r"boxes of shape \(4, 5\).*\(G, 4\)"),
        ({"boxes": np.ones((1, 2, 4))}, r"boxes of shape \(1, 2, 4\)"),
        ({"boxes": [1, 2, 3, 4], "labels": [1]}, r"boxes of shape \(4,\)"),
        ({"boxes": None}, r"boxes of shape \(\)"),
        ({"masks": np.zeros((1, 50, 100))}, r"masks of shape \(1, 50, 100\).*\(2, 50, 100\)"),
        ({"masks": np.zeros((0, 50, 100))}, r"masks of shape \(0, 50, 100\)"),
        ({"masks": np.zeros((2, 25, 50))}, r"masks of shape \(2, 25, 50\)"),
        ({"masks": np.zeros((2, 100, 50))}, r"masks of shape \(2, 100, 50\)"),
        ({"masks": np.zeros((50, 100))}, r"masks of shape \(50, 100\)"),
        ({"masks": np.full((2, 50, 100), 255, np.uint8)}, "masks hold 255, expected 0 and 1"),
        ({"masks": np.full((2, 50, 100), 256)}, "masks hold 256"),
        ({"masks": np.full((2, 50, 100), 0.5)}, "masks hold 0.5"),
        ({"masks": np.full((2, 50, 100), -1)}, "masks hold -1"),
    ],
)
def test_counts_and_shapes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"targets\[0\]: .*{message}"):
        prepare(target(**changes), masks=True)


@pytest.mark.parametrize("name", ["boxes", "labels", "masks"])
def test_missing(name: str) -> None:
    wrong = {key: value for key, value in target().items() if key != name}
    with pytest.raises(ValueError, match=rf"targets\[0\]: missing '{name}', expected boxes, "):
        prepare(wrong, masks=True)


def test_not_one_dict_an_image() -> None:
    with pytest.raises(ValueError, match="expected 2 dicts, one an image, got 1"):
        prepare_targets([target()], BATCH, CLASSES)
    with pytest.raises(TypeError, match="expected a list of dicts, got dict"):
        prepare_targets(target(), BATCH, CLASSES)
    with pytest.raises(TypeError, match="expected a list of dicts, got NoneType"):
        prepare_targets(None, BATCH, CLASSES)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 40)] * 2), st.integers(0, 99)
)
def test_masks_take_the_nearest_pixel(before, after, seed) -> None:
    """Pixel by pixel: source = floor(i * before / after), at the last pixel at most."""
    mask = np.random.default_rng(seed).integers(0, 2, (1, *before)).astype(np.uint8)
    goal = {"boxes": [[0, 0, before[1], before[0]]], "labels": [1], "masks": mask}
    found = prepare_targets([goal], batch_of((before, after)), CLASSES, masks=True)
    masks = np.array(found.masks[0, 0])
    scale = [np.float32(b) / np.float32(a) for b, a in zip(before, after, strict=True)]
    for place in np.ndindex(masks.shape):
        i, j = place
        if i > after[0] or j > after[1]:
            assert masks[place] == 0
            continue
        # One line more than there is, so that a crop ends as it would on an unpadded mask
        i, j = min(i, after[0] - 1), min(j, after[1] - 1)
        y, x = (int(np.float32(n) * s) for n, s in zip((i, j), scale, strict=True))
        assert masks[place] == mask[0, min(y, before[0] - 1), min(x, before[1] - 1)]
    np.testing.assert_allclose(np.array(found.boxes[0, 0]), [0, 0, after[1], after[0]], rtol=1e-6)
