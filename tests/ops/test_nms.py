import itertools
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings

from mlx_rcnn.ops import batched_nms, nms, nms_greedy, nms_mask
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
    run_batched,
    run_mask,
    run_nms,
    thresholds,
    unzip,
)

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
# For tests of what has no blocks, and of the blocks there really are.
once = pytest.mark.parametrize("block", [1000], indirect=True)
as_shipped = pytest.mark.parametrize("block", [MODULE.CPU_BLOCK], indirect=True)


def test_by_hand():
    # 0 and 1: 9 * 10 / 110 = 0.82. 0 and 2: 5 * 10 / 150 = 1 / 3. 1 and 2: 6 * 10 / 140 = 0.43.
    # 3 is apart from all.
    b = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [40, 0, 50, 10]], np.float32)
    s = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert run_nms(b, s, 0.5) == [0, 2, 3]
    assert run_nms(b, s, 0.3) == [0, 3]
    assert run_nms(b, s, 0.9) == [0, 1, 2, 3]
    # Best first, whatever the order given; with 1 on top, 0 and (below 0.43) 2 go.
    assert run_nms(b, np.array([0.1, 0.8, 0.2, 0.9], np.float32), 0.5) == [3, 1, 2]
    assert run_nms(b, np.array([0.1, 0.8, 0.2, 0.9], np.float32), 0.4) == [3, 1]
    # 1 is suppressed by 0 and does not suppress 2, though it overlaps it: 0.43 > 0.4 > 1 / 3
    assert run_nms(b, s, 0.4) == [0, 2, 3]


def test_overlap_of_exactly_the_threshold_stays():
    whole = [0, 0, 10, 10]
    for part, overlap in (([0, 0, 5, 10], 0.5), ([0, 0, 10, 2.5], 0.25), ([0, 0, 7, 10], 0.7)):
        b = np.array([whole, part], np.float32)
        assert run_nms(b, falling(2), overlap) == [0, 1]
        assert run_nms(b, falling(2), overlap - 1e-3) == [0]
    identical = np.array([whole] * 3, np.float32)
    assert run_nms(identical, falling(3), 1.0) == [0, 1, 2]
    assert run_nms(identical, falling(3), 0.999) == [0]
    touching = np.array([whole, [10, 0, 20, 10], [0, 10, 10, 20], [9, 9, 12, 12]], np.float32)
    assert run_nms(touching, falling(4), 0.0) == [0, 1, 2]


def test_equal_scores_go_by_index():
    b = np.array([[0, 0, 10, 10]] * 4 + [[20, 0, 30, 10]] * 2, np.float32)
    s = np.array([0.5, 0.5, 0.5, 0.5, 0.9, 0.9], np.float32)
    assert run_nms(b, s, 0.5) == [4, 0]
    assert run_nms(b[::-1].copy(), s[::-1].copy(), 0.5) == [0, 2]
    apart = np.array([[30 * i, 0, 30 * i + 9, 9] for i in range(6)], np.float32)
    assert run_nms(apart, np.zeros(6, np.float32), 0.5) == list(range(6))
    assert run_nms(apart, np.array([0.0, -0.0] * 3, np.float32), 0.5) == list(range(6))


def test_scores_that_are_no_numbers():
    b = np.array([[0, 0, 10, 10]] * 2 + [[20, 0, 30, 10]] * 2 + [[50, 0, 60, 10]], np.float32)
    # A NaN neither stays nor suppresses; infinities are scores like others.
    assert run_nms(b, np.array([NAN, 0.1, 0.2, NAN, NAN], np.float32), 0.5) == [2, 1]
    assert run_nms(b, np.array([-INF, NAN, 1e38, INF, -1e38], np.float32), 0.5) == [3, 4, 0]
    assert run_nms(b, np.full(5, NAN, np.float32), 0.5) == []
    s, g = np.array([NAN, 0.1, 0.2, NAN, NAN], np.float32), np.array([0, 0, 1, 1, 2])
    assert run_batched(b, s, g, 0.5) == [2, 1]


def test_boxes_without_area():
    # 0 / 0 is above no threshold; a point inside a box has overlap 0.
    points = np.array([[5, 5, 5, 5]] * 2 + [[0, 0, 10, 10]] + [[3, 0, 3, 9]] * 2, np.float32)
    assert run_nms(points, falling(5), 0.0) == [0, 1, 2, 3, 4]


def test_inverted_boxes_overlap_nothing():
    # As in torchvision, where no intersection is negative.
    for box in ([10, 0, 0, 10], [0, 10, 10, 0], [10, 10, 0, 0]):
        b = np.array([box] * 2 + [[0, 0, 10, 10]], np.float32)
        assert run_nms(b, falling(3), 0.1) == [0, 1, 2]


def test_one_pixel_and_one_box():
    b = np.array([[3, 3, 4, 4], [3, 3, 4, 4], [4, 3, 5, 4]], np.float32)
    assert run_nms(b, falling(3), 0.5) == [0, 2]
    assert run_nms(b[:1], falling(1), 0.5) == [0]
    assert run_batched(b[:1], falling(1), np.array([7]), 0.5) == [0]


def test_no_boxes():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    assert run_nms(*none, 0.5) == []
    assert run_batched(*none, np.zeros(0, np.int32), 0.5) == []
    for shape in ((2, 0), (0, 0), (0, 3)):
        keep, exact = nms_mask(mx.zeros((*shape, 4)), mx.zeros(shape, dtype=mx.bool_), 0.5)
        assert keep.shape == shape and keep.dtype == mx.bool_ and exact.item()
    assert run_mask(chain(5), [False] * 5) == ([], True)


@settings(max_examples=60, deadline=None)
@given(rows, thresholds)
def test_oracle(values, threshold):
    b, s, g = unzip(values)
    assert run_nms(b, s, threshold) == slow_nms(b, s, threshold)
    assert run_batched(b, s, g, threshold) == slow_nms(b, s, threshold, g)


@pytest.mark.parametrize("n", [2, 40, 200])
def test_chain(n, monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    # Neighbours overlap by 3 / 5, others by 2 / 6 at most: every other box stays, and that is known
    # of a box only when it is known of all before it.
    expected = list(range(0, n, 2))
    assert run_mask(chain(n)) == (expected, True)
    assert run_nms(chain(n), falling(n), 0.5) == expected
    assert run_batched(chain(n), falling(n), np.zeros(n, int), 0.5) == expected
    if n == 2:
        return
    # Short blocks need as many rounds as they are long; the others more than CPU_ROUNDS.
    keep, exact = run_mask(chain(n), rounds=MODULE.CPU_ROUNDS)
    assert exact == (MODULE.CPU_BLOCK < MODULE.CPU_ROUNDS)
    assert (keep == expected) == exact


def test_permuting_the_boxes_permutes_the_answer():
    b, s = random_boxes(6, 40), np.random.default_rng(6).permutation(40).astype(np.float32)
    expected = run_nms(b, s, 0.3)
    order = np.random.default_rng(7).permutation(40)
    assert [int(order[i]) for i in run_nms(b[order], s[order], 0.3)] == expected


@pytest.mark.parametrize("counts", [[30], [10, 10, 10], [27, 1, 1, 1], [1] * 30, [15, 15], [2, 28]])
def test_groups_of_all_proportions(counts):
    """One padded row a group and one labelled list are two ways to the same answer."""
    names = np.array([-7, 3, 2**30, 0, *range(100, 126)])[: len(counts)]
    g = np.random.default_rng(8).permutation(np.repeat(names, counts))
    b, s = random_boxes(8, 30, 40), np.random.default_rng(9).random(30).astype(np.float32)
    s[::7] = s[3]  # equal scores within and across groups
    s[5] = NAN
    expected = slow_nms(b, s, 0.3, g)
    assert run_batched(b, s, g, 0.3) == expected
    if len(counts) == 1:
        assert run_nms(b, s, 0.3) == expected


def test_groups_do_not_shift_coordinates():
    # Far from the origin a shift by group times extent would round widths of a few pixels away:
    # overlap 1 / 3 at 0.5 stays. A million groups are no problem either.
    b = np.array([[0, 0, 4, 1], [2, 0, 6, 1]], np.float32) + np.float32(2**22)
    assert run_batched(b, falling(2), np.array([10**6, 10**6]), 0.5) == [0, 1]
    assert run_batched(b, falling(2), np.array([10**6, 10**6]), 0.3) == [0]
    assert run_batched(b, falling(2), np.array([0, 10**6]), 0.3) == [0, 1]


def test_torchvision():
    b, s, g = (GOLDEN[f"nms_{name}"] for name in ("boxes", "scores", "groups"))
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        assert run_nms(b, s, threshold) == GOLDEN[f"nms_{threshold}"].tolist()
        assert run_batched(b, s, g, threshold) == GOLDEN[f"batched_nms_{threshold}"].tolist()


@as_shipped
def test_ten_thousand_boxes_in_bounded_memory():
    n = 10_000
    rng = np.random.default_rng(11)
    b = random_boxes(11, n, 150, 100)
    s, g = rng.permutation(n).astype(np.float32), rng.integers(0, 4, n)
    mx.eval(arrays := [mx.array(v) for v in (b, s, g)])
    for function, inputs, groups in ((nms, arrays[:2], 0 * g), (batched_nms, arrays, g)):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        kept = function(*inputs, 0.5)
        mx.eval(kept)
        assert mx.get_peak_memory() - before < n * n * 4 / 5
        expected = [i for group in range(4) for i in fast_nms(b, s, 0.5, groups == group)]
        assert kept.tolist() == sorted(expected, key=lambda i: -s[i])


def fast_nms(b, s, threshold, rows):
    """A row of the matrix at a time, in float32."""
    kept, order = [], np.flatnonzero(rows)
    order = order[np.argsort(-s[order])]
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    while order.size:
        i, order = order[0], order[1:]
        kept.append(int(i))
        side = np.minimum(b[order, 2:], b[i, 2:]) - np.maximum(b[order, :2], b[i, :2])
        both = np.maximum(side[:, 0], 0) * np.maximum(side[:, 1], 0)
        order = order[both / (area[order] + area[i] - both) <= np.float32(threshold)]
    return kept


@once
def test_arrays_of_numpy_and_of_half_precision():
    b, s = chain(6), falling(6)
    assert nms(b, s, 0.5).tolist() == [0, 2, 4]
    half = mx.array(b).astype(mx.float16), mx.array(s).astype(mx.bfloat16)
    assert nms(*half, 0.5).tolist() == [0, 2, 4]
    assert nms(b.astype(np.int32), s, 0.5).tolist() == [0, 2, 4]


@once
def test_bad_arguments():
    b, s, g = mx.zeros((3, 4)), mx.zeros(3), mx.zeros(3, dtype=mx.int32)
    for function, more in ((nms, ()), (batched_nms, (g,))):
        for bad in (mx.zeros((3, 5)), mx.zeros(4), mx.zeros((1, 3, 4))):
            with pytest.raises(ValueError, match=r"boxes: expected shape \(n, 4\), got"):
                function(bad, s, *more, 0.5)
        for bad in (mx.zeros(2), mx.zeros((3, 1))):
            with pytest.raises(ValueError, match=r"scores: expected shape \(3,\), got"):
                function(b, bad, *more, 0.5)
        for bad in (-0.1, 1.5, NAN):
            with pytest.raises(ValueError, match="iou_threshold=.*expected a number in"):
                function(b, s, *more, bad)
    with pytest.raises(ValueError, match=r"idxs: expected shape \(3,\), got \(2,\)"):
        batched_nms(b, s, g[:2], 0.5)


@as_shipped
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 0.99, 1.0])
def test_boxes_within_boxes(threshold, monkeypatch):
    """Their IoU is the ratio of their areas, by which the host leaves comparisons out."""
    monkeypatch.setattr(nms_greedy, "BLOCK", 128)
    monkeypatch.setattr(nms_greedy, "MANY", 100)
    rng = np.random.default_rng(0)
    side = np.exp(rng.uniform(0, 6, (900, 1)))
    around = np.concatenate([300 - side / 2, 300 + side / 2], axis=1)
    b = around[:, [0, 0, 1, 1]].astype(np.float32)
    s = rng.uniform(0, 1, 900).astype(np.float32)
    # side^2 ratios down to the threshold: each box ends those of more than sqrt(threshold) of it
    kept = run_nms(b, s, threshold)  # as the rounds of a GPU, which compare all
    assert kept == sorted(kept, key=lambda i: -s[i])
    for i, j in itertools.combinations(sorted(side[kept, 0]), 2):
        assert i / j <= np.sqrt(threshold) + 1e-3
    assert len(kept) == 1 if threshold == 0 else len(kept) > 1
