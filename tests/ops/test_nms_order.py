"""The order in which boxes are looked at."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops.nms import sort_scores, top_scores
from suppression import INF, NAN, scores


def test_sort_scores():
    # inf, 3 (twice), 0 and -0 (equal), -inf, and NaN behind it
    s = [-0.0, 3, NAN, 0.0, INF, 3, -2, -0.0]
    order = sort_scores(mx.array(s))
    assert order.tolist() == [4, 1, 5, 0, 3, 7, 6, 2] and order.dtype == mx.int32
    assert sort_scores(mx.array([[1.0, 2], [2, 1], [1, 1]])).tolist() == [[1, 0], [0, 1], [0, 1]]
    assert sort_scores(mx.zeros((3, 0))).shape == (3, 0)
    assert sort_scores(mx.array([NAN, -INF, NAN])).tolist() == [0, 1, 2]  # all equal
    fine = np.array([1e-30, 1, 1 + 2**-23, -1e-30, -1, -1 - 2**-23, 3e38, -3e38], np.float32)
    assert sort_scores(mx.array(fine)).tolist() == np.argsort(-fine.astype(np.float64)).tolist()
    assert sort_scores(mx.array([1.0, 2.0]).astype(mx.bfloat16)).tolist() == [1, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(width=32, allow_subnormal=False), scores), max_size=20))
def test_sort_scores_oracle(values):
    s = np.array(values, np.float32)
    clean = np.where(np.isnan(s), -np.inf, s)
    expected = sorted(range(len(s)), key=lambda i: (-clean[i], i))
    assert sort_scores(mx.array(s)).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(scores, min_size=1, max_size=20), st.data())
def test_top_scores_oracle(values, data):
    s, k = np.array(values, np.float32), data.draw(st.integers(0, len(values)))
    top = top_scores(mx.array(s)[None], k)
    assert top.shape == (1, k) and top.dtype == mx.int32
    chosen, clean = top[0].tolist(), np.where(np.isnan(s), -np.inf, s)
    assert len(set(chosen)) == k and all(0 <= i < len(s) for i in chosen)
    assert chosen == sorted(chosen, key=lambda i: (-clean[i], i))
    assert clean[chosen].tolist() == sorted(clean, reverse=True)[:k]


def test_top_scores_of_rows():
    s = np.random.default_rng(10).permutation(60).reshape(3, 20).astype(np.float32)
    expected = np.argsort(-s, axis=1)
    for k in (1, 7, 19, 20):
        np.testing.assert_array_equal(np.array(top_scores(mx.array(s), k)), expected[:, :k])
