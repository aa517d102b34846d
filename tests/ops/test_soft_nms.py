"""Soft-NMS against the loop of its paper."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import soft_nms
from suppression import boxes, random_boxes, slow_soft_nms

KINDS = ("linear", "gaussian")
NAN = float("nan")


def run(b, s, top_k=100, kind="linear", threshold=0.5, sigma=0.5, labels=None, least=0.0):
    """One list -> (row, score) of each pick."""
    labels = None if labels is None else mx.array(np.asarray(labels, np.int32))[None]
    least = least if isinstance(least, float) else mx.array(np.asarray(least, np.float32))[None]
    b, s = (mx.array(np.asarray(v, np.float32))[None] for v in (b, s))
    rows, final = soft_nms(b, s, top_k, kind, threshold, sigma, labels, least)
    assert rows.shape == final.shape == (1, min(top_k, s.shape[1]))
    assert rows.dtype == mx.int32 and final.dtype == mx.float32
    assert (np.diff(np.array(final[0])) <= 0).all()
    there = final[0] > 0
    assert mx.all(there | (final[0] == -1)).item()
    count = int(mx.sum(there).item())
    return list(zip(rows[0, :count].tolist(), final[0, :count].tolist(), strict=True))


def assert_picks(got, expected):
    assert [row for row, _ in got] == [row for row, _ in expected]
    np.testing.assert_allclose([v for _, v in got], [v for _, v in expected], rtol=2e-5)


# 0 and 1: 9 * 10 / 110 = 9 / 11. 0 and 2: 5 * 10 / 150 = 1 / 3. 1 and 2: 6 * 10 / 140 = 3 / 7.
BOXES = [[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [40, 0, 50, 10]]
SCORES = [0.9, 0.8, 0.7, 0.6]


def test_linear_by_hand():
    # 1 is lowered to 0.8 * 2 / 11; 2 overlaps 0 by less than 0.5, and 1 too.
    assert_picks(run(BOXES, SCORES), [(0, 0.9), (2, 0.7), (3, 0.6), (1, 0.8 * 2 / 11)])
    # Above 0.3, 2 is lowered by 0, and then lowers 1 a second time
    expected = [(0, 0.9), (3, 0.6), (2, 0.7 * 2 / 3), (1, 0.8 * 2 / 11 * 4 / 7)]
    assert_picks(run(BOXES, SCORES, threshold=0.3), expected)
    quarter = [[0, 0, 10, 10], [0, 0, 10, 2.5]]
    assert run(quarter, [1, 0.5], threshold=0.25) == [(0, 1), (1, 0.375)]
    assert run(quarter, [1, 0.5], threshold=0.2501) == [(0, 1), (1, 0.5)]


def test_gaussian_by_hand():
    second = 0.7 * math.exp(-1 / 9 / 0.5)  # 0.56 after 0, below 0.6
    third = 0.8 * math.exp(-81 / 121 / 0.5) * math.exp(-9 / 49 / 0.5)
    expected = [(0, 0.9), (3, 0.6), (2, second), (1, third)]
    assert_picks(run(BOXES, SCORES, kind="gaussian"), expected)
    wide = run(BOXES, SCORES, kind="gaussian", sigma=1e9)  # nothing is lowered
    assert [row for row, _ in wide] == [0, 1, 2, 3]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(boxes, st.sampled_from([0, -1, 0.25, 0.5, 0.75, 1, NAN]), st.integers(0, 1)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(KINDS),
    st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]),
    st.sampled_from([0.1, 0.5, 3.0]),
    st.booleans(),
    st.integers(1, 15),
)
def test_oracle(rows, kind, threshold, sigma, by_label, top_k):
    b, s, labels = zip(*rows, strict=True)
    labels = labels if by_label else None
    expected = slow_soft_nms(b, s, kind, threshold, sigma, labels)
    # Small whole numbers tie: what is equal on paper may round apart, so scores are compared, and
    # rows only where none is near.
    got = run(b, s, top_k, kind, threshold, sigma, labels)
    assert len(got) == min(len(expected), top_k)
    np.testing.assert_allclose(
        [v for _, v in got], [v for _, v in expected[:top_k]], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_oracle_of_many(kind, seed):
    rng = np.random.default_rng(seed)
    b, s = random_boxes(seed, 120, 60), rng.permutation(120) / 121 + 0.004
    labels = rng.integers(0, 3, 120)
    assert_picks(run(b, s, 120, kind), slow_soft_nms(b, s, kind))
    assert_picks(run(b, s, 30, kind), slow_soft_nms(b, s, kind)[:30])
    args = {"threshold": 0.3, "sigma": 0.7, "labels": labels}
    assert_picks(run(b, s, 120, kind, **args), slow_soft_nms(b, s, kind, 0.3, 0.7, labels))
    least = rng.uniform(0, 0.3, 120).astype(np.float32)
    expected = slow_soft_nms(b, s, kind, 0.3, 0.7, labels, least)
    assert 0 < len(expected) < 120
    assert_picks(run(b, s, 120, kind, **args, least=least), expected)


def test_equal_scores_go_by_index():
    apart = [[30 * i, 0, 30 * i + 9, 9] for i in range(6)]
    assert [row for row, _ in run(apart, [0.5] * 6)] == list(range(6))
    same = [[0, 0, 10, 10]] * 3
    assert run(same, [0.5] * 3) == [(0, 0.5)]  # an IoU of 1 leaves nothing
    got = run(same, [0.5] * 3, kind="gaussian")
    assert_picks(got, [(0, 0.5), (1, 0.5 * math.exp(-2)), (2, 0.5 * math.exp(-4))])
    assert len(run(same, [0.5] * 3, labels=[1, 2, 3])) == 3


def test_what_takes_no_part():
    for scores in ([0] * 4, [-1, -0.5, 0, NAN]):
        assert run(BOXES, scores) == []
    # The best by far, if it counted
    assert_picks(run(BOXES, [NAN, 0.8, 0.7, 0]), [(1, 0.8), (2, 0.7)])
    # What falls to `least` no longer lowers: 1 (0.145) is out, and 2 keeps its score at 0.4 < 3 / 7
    assert [row for row, _ in run(BOXES, SCORES, threshold=0.4, least=0.2)] == [0, 2, 3]
    lowered = run(BOXES, [0.9, 0.8, 0.1, 0.6], threshold=0.4)
    assert_picks(lowered, [(0, 0.9), (3, 0.6), (1, 0.8 * 2 / 11), (2, 0.1 * 4 / 7)])


def test_boxes_without_area_lower_nothing():
    odd = [[5, 5, 5, 5], [5, 5, 5, 9], [9, 9, 1, 1], [0, 0, 10, 10], [NAN, 0, 4, 4]]
    for kind in KINDS:
        got = run(odd, [0.9, 0.8, 0.7, 0.6, 0.5], kind=kind, threshold=0.1)
        assert_picks(got, list(enumerate([0.9, 0.8, 0.7, 0.6, 0.5])))


def test_nothing():
    for count in (0, 3):
        rows, final = soft_nms(mx.zeros((count, 0, 4)), mx.zeros((count, 0)), 5)
        assert rows.shape == final.shape == (count, 0)
        assert (rows.dtype, final.dtype) == (mx.int32, mx.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_singles(kind):
    b = np.stack([random_boxes(seed, 40, 50) for seed in range(5)])
    s = np.random.default_rng(0).random((5, 40)).astype(np.float32)
    s[1] = 0
    labels = np.random.default_rng(1).integers(1, 4, (5, 40))
    rows, final = soft_nms(mx.array(b), mx.array(s), 20, kind, labels=mx.array(labels))
    for i in range(5):
        alone = run(b[i], s[i], 20, kind, labels=labels[i])
        there = np.array(final[i]) > 0
        assert alone == list(
            zip(*(np.array(v[i])[there].tolist() for v in (rows, final)), strict=True)
        )


def test_half_precision_is_computed_in_float32():
    b = mx.array(BOXES).astype(mx.float16)[None]
    rows, final = soft_nms(b, mx.array([SCORES]).astype(mx.float16), 4)
    assert final.dtype == mx.float32 and rows[0].tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cubic"}, "kind='cubic': expected 'hard', 'linear' or 'gaussian'"),
        ({"iou_threshold": 1.5}, r"iou_threshold=1.5: expected a number in \[0, 1\]"),
        ({"iou_threshold": NAN}, "iou_threshold=nan"),
        ({"sigma": 0}, "sigma=0: expected a number above 0"),
        ({"boxes": mx.zeros((2, 4))}, r"boxes: expected shape \(B, n, 4\), got \(2, 4\)"),
        ({"scores": mx.zeros((1, 3))}, r"scores: expected shape \(1, 2\), got \(1, 3\)"),
    ],
)
def test_wrong_arguments(options, message):
    given = {"boxes": mx.zeros((1, 2, 4)), "scores": mx.zeros((1, 2)), "top_k": 1, **options}
    with pytest.raises(ValueError, match=message):
        soft_nms(**given)
