"""The fixed-shape form of suppression, its rounds and its padding."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import nms_mask
from reference import slow_nms
from suppression import (
    INF,
    MODULE,
    NAN,
    block,  # noqa: F401
    chain,
    falling,
    random_boxes,
    rows,
    run_mask,
    thresholds,
    unzip,
)


@settings(max_examples=60, deadline=None)
@given(rows, thresholds, st.integers(0, 14), st.data())
def test_mask_oracle(values, threshold, rounds, data):
    b, _, g = unzip(values)
    n = len(b)
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    for labels in (None, g):
        s = np.where(valid, falling(n), np.float32(NAN))
        expected = slow_nms(b, s, threshold, labels)
        assert run_mask(b, valid, threshold, labels) == (expected, True)
        keep, exact = run_mask(b, valid, threshold, labels, rounds)
        assert keep == expected or not exact  # it may not claim what it has not reached


def test_every_number_of_rounds(monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    n = 24
    claims = []
    for rounds in range(1, n + 1):
        keep, exact = run_mask(chain(n), rounds=rounds)
        assert keep == list(range(0, n, 2)) or not exact
        claims.append(exact)
    assert claims == sorted(claims) and all(claims[min(MODULE.CPU_BLOCK, n) - 1 :])
    if n < MODULE.CPU_BLOCK:
        assert not any(claims[: n // 2])
    # Boxes that do not meet are settled by the first round
    apart = np.array([[30 * i, 0, 30 * i + 9, 9] for i in range(n)], np.float32)
    assert run_mask(apart, rounds=1) == (list(range(n)), True)


@pytest.mark.parametrize("block", [20], indirect=True)
def test_one_unsettled_block_is_enough(monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    apart = np.array([[30 * i, 50, 30 * i + 9, 59] for i in range(20)], np.float32)
    for order in ((apart, chain(20)), (chain(20), apart), (apart, chain(20), apart)):
        b = np.concatenate(order)
        expected = slow_nms(b, falling(len(b)), 0.5)
        assert run_mask(b, rounds=3)[1] is False
        assert run_mask(b, rounds=20) == (expected, True)


def test_one_unsettled_list_is_enough(monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    apart = np.array([[30 * i, 0, 30 * i + 9, 9] for i in range(40)], np.float32)
    batch, valid = mx.array(np.stack([apart, chain(40), apart])), mx.ones((3, 40), dtype=mx.bool_)
    _, exact = nms_mask(batch, valid, 0.5, rounds=2)
    assert exact.item() == (MODULE.CPU_BLOCK == 1)
    keep, exact = nms_mask(batch, valid, 0.5, rounds=40)
    assert exact.item()
    assert np.array(keep).sum(axis=1).tolist() == [40, 20, 40]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.booleans())
def test_invalid_rows_change_nothing(seed, labelled):
    rng = np.random.default_rng(seed)
    b, g = random_boxes(seed, 20, 60), rng.integers(0, 3, 20)
    expected, _ = run_mask(b, labels=g if labelled else None)
    where = np.sort(rng.choice(27, 20, replace=False))
    junk = np.array([[NAN] * 4, [-INF, -INF, INF, INF], [-1e30, -1e30, 1e30, 1e30], [0, 0, 99, 99]])
    wide = junk[rng.integers(0, 4, 27)].astype(np.float32)
    wide[::2] = b[0]  # copies of the best box
    wide[where] = b
    groups, valid = np.zeros(27, int), np.zeros(27, bool)
    groups[where], valid[where] = g, True
    keep, exact = run_mask(wide, valid, labels=groups if labelled else None)
    assert keep == where[expected].tolist() and exact


def test_batch_equals_singles():
    rng = np.random.default_rng(5)
    b = random_boxes(5, 90, 60).reshape(3, 30, 4)
    valid, labels = rng.random((3, 30)) < 0.8, rng.integers(0, 2, (3, 30)).astype(np.int32)
    for with_labels in (False, True):
        keep, exact = nms_mask(
            mx.array(b), mx.array(valid), 0.3, mx.array(labels) if with_labels else None, 30
        )
        assert exact.item()
        for i in range(3):
            single, _ = run_mask(b[i], valid[i], 0.3, labels[i] if with_labels else None)
            assert np.flatnonzero(np.array(keep[i])).tolist() == single
            assert 0 < len(single) < valid[i].sum()
