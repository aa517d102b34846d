"""Boxes to suppress, and what the tests of suppression call."""

from __future__ import annotations

import importlib
import math
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import strategies as st

from mlx_rcnn.ops import batched_nms, nms, nms_greedy, nms_mask
from reference import slow_iou

MODULE = importlib.import_module("mlx_rcnn.ops.nms")  # mlx_rcnn.ops.nms is the function
NAN, INF = float("nan"), float("inf")

# Whole numbers: every area, and so every comparison with a threshold, is exact in float32.
corner = st.integers(0, 6)
side = st.integers(-1, 5)  # some have no area, and some are inverted
boxes = st.tuples(corner, corner, side, side).map(lambda v: [v[0], v[1], v[0] + v[2], v[1] + v[3]])
scores = st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.75, 1.0, -1.0, INF, -INF, NAN])
thresholds = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.7, 1.0])
rows = st.lists(st.tuples(boxes, scores, st.integers(-1, 2)), min_size=1, max_size=14)


@pytest.fixture(autouse=True, params=[1000, 1, 3])
def block(request, monkeypatch):
    """Rows resolved at once: all of a test's list, and much fewer."""
    for name in ("CPU_BLOCK", "GPU_BLOCK", "ALL_ROUNDS_BLOCK"):
        monkeypatch.setattr(MODULE, name, request.param)
    monkeypatch.setattr(nms_greedy, "BLOCK", request.param)
    return request.param


def unzip(values):
    b, s, g = zip(*values, strict=True)
    return np.array(b, np.float32), np.array(s, np.float32), np.array(g)


def random_boxes(seed, n, extent=100.0, side=40.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, extent, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, side, (n, 2))], 1).astype(np.float32)


def chain(n):
    """Boxes 4 wide, 1 apart: neighbours share 3 of 5 columns, the next but one 2 of 6."""
    x = np.arange(n)
    return np.stack([x, 0 * x, x + 4, 0 * x + 1], axis=1).astype(np.float32)


def falling(n):
    return np.linspace(1, 0, n, dtype=np.float32)


def on_both(function, *arrays):
    """What stays on a CPU, whose host suppresses, and must by a GPU's rounds too."""
    result = function(*arrays)
    assert result.dtype == mx.int32 and result.ndim == 1
    with mock.patch.object(MODULE, "on_gpu", lambda: True):
        assert mx.array_equal(function(*arrays), result)
    return np.array(result).tolist()


def run_nms(b, s, threshold):
    return on_both(nms, mx.array(b), mx.array(s), threshold)


def run_batched(b, s, g, threshold):
    return on_both(batched_nms, mx.array(b), mx.array(s), mx.array(g), threshold)


def run_mask(b, valid=None, threshold=0.5, labels=None, rounds=None):
    """One sorted list -> (indices kept, exact)."""
    valid = np.ones(len(b), bool) if valid is None else np.asarray(valid)
    labels = None if labels is None else mx.array(np.asarray(labels, np.int32))[None]
    rounds = len(b) if rounds is None else rounds
    keep, exact = nms_mask(mx.array(b)[None], mx.array(valid)[None], threshold, labels, rounds)
    assert keep.shape == (1, len(b)) and keep.dtype == mx.bool_
    assert exact.shape == () and exact.dtype == mx.bool_
    return np.flatnonzero(np.array(keep[0])).tolist(), exact.item()


def slow_soft_nms(b, s, kind, threshold=0.5, sigma=0.5, labels=None, least=0.0):
    """Bodla et al., figure 2: take the best out of B, rescore what is left, until B is empty.

    The paper keeps all; here a box whose score is not above ``least`` leaves B, as in its code.
    """
    overlap = slow_iou(np.asarray(b, np.float64), np.asarray(b, np.float64))
    scores = [float(v) for v in s]
    labels = [0] * len(b) if labels is None else list(labels)
    least = [float(v) for v in np.broadcast_to(least, len(b))]
    remaining = [i for i in range(len(b)) if scores[i] > least[i]]
    picked = []
    while remaining:
        best = max(remaining, key=lambda i: (scores[i], -i))
        picked.append((best, scores[best]))
        remaining.remove(best)
        for i in remaining:
            if labels[i] != labels[best]:
                continue
            iou = overlap[best, i]
            if kind == "gaussian":
                scores[i] *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                scores[i] *= 1 - iou
        remaining = [i for i in remaining if scores[i] > least[i]]
    return picked
