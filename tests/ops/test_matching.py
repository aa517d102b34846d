"""The matcher against torchvision's rule written out, and what the sampler promises."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import box_iou
from mlx_rcnn.ops import matching as assign
from mlx_rcnn.ops.matching import BELOW, BETWEEN, Sample, match, sample
from reference import noise


def slow_match(
    iou: np.ndarray, valid: np.ndarray, high: float, low: float, rescue: bool
) -> list[int]:
    """``torchvision.models.detection._utils.Matcher``, an anchor at a time, on IoU (M, n).

    float32, as the thresholds are compared with float32 overlaps there.
    """
    rows = [m for m in range(len(iou)) if valid[m]]
    found = []
    for j in range(iou.shape[1]):
        best = max(rows, key=lambda m: (iou[m, j], -m), default=None)
        if best is None or iou[best, j] < np.float32(low):
            matched = BELOW
        else:
            matched = BETWEEN if iou[best, j] < np.float32(high) else best
        if rescue and any(iou[m, j] == iou[m].max() for m in rows):
            matched = best
        found.append(matched)
    return found


def run(targets, valid, boxes, high, low, rescue) -> list[int]:
    boxes = mx.array(np.asarray(boxes, np.float32).reshape(-1, 4))
    targets = mx.array(np.asarray(targets, np.float32).reshape(-1, 4))
    found = match(targets, mx.array(np.asarray(valid, bool)), boxes, high, low, rescue)
    assert found.dtype == mx.int32 and found.shape == (boxes.shape[0],)
    return found.tolist()


def test_match_by_hand() -> None:
    # Against (0, 0, 10, 10): itself 1; half of it 0.5; (0, 0, 10, 20) is 100 / 200 = 0.5;
    # shifted by 5: 50 / 150 = 1/3; (0, 0, 4, 10): 0.4; far away 0.
    target = [[0, 0, 10, 10]]
    boxes = [
        [0, 0, 10, 10],
        [0, 0, 5, 10],
        [0, 0, 10, 20],
        [5, 0, 15, 10],
        [0, 0, 4, 10],
        [50, 50, 60, 60],
    ]
    expected = [0, BETWEEN, BETWEEN, BELOW, BETWEEN, BELOW]
    assert run(target, [True], boxes, 0.7, 0.4, True) == expected
    # A threshold is reached by equality: 0.5 is a match, and not below 0.5
    assert run(target, [True], boxes, 0.5, 0.5, False) == [0, 0, 0, BELOW, BELOW, BELOW]
    # Without the exact box the best are the two halves, a tie: both are matched
    rescued = run(target, [True], boxes[1:], 0.7, 0.3, True)
    assert rescued == [0, 0, BETWEEN, BETWEEN, BELOW]
    rescued = run(target, [True], boxes[1:], 0.7, 0.3, False)
    assert rescued == [BETWEEN, BETWEEN, BETWEEN, BETWEEN, BELOW]


def test_a_rescued_box_goes_to_the_target_it_overlaps_most() -> None:
    # Box 0 is all that target 1 has (IoU 0.1 by hand: 10 / (90 + 20 - 10)), but it lies deeper in
    # target 0 (70 / 100 = 0.7), which has a better box in turn: so it answers for target 0.
    targets = [[0, 0, 10, 7], [0, 8, 10, 10]]
    boxes = [[0, 0, 10, 9], [0, 0, 10, 7]]
    np.testing.assert_allclose(
        np.array(box_iou(mx.array(targets, mx.float32), mx.array(boxes, mx.float32))),
        [[7 / 9, 1], [0.1, 0]],
        rtol=1e-6,
    )
    assert run(targets, [True, True], boxes, 0.9, 0.85, True) == [0, 0]
    assert run(targets, [True, True], boxes, 0.9, 0.85, False) == [BELOW, 0]
    # With the better target taken out, target 1
    assert run(targets, [False, True], boxes, 0.9, 0.85, True) == [1, BELOW]


def test_equal_overlaps_go_to_the_first_target() -> None:
    twice = [[0, 0, 10, 10]] * 3
    assert run(twice, [True] * 3, [[0, 0, 10, 10]], 0.7, 0.3, True) == [0]
    assert run(twice, [False, True, True], [[0, 0, 10, 10]], 0.7, 0.3, True) == [1]


corners = st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 4)] * 2).map(
    lambda v: [v[0], v[1], v[0] + v[2], v[1] + v[3]]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(corners, st.booleans()), min_size=0, max_size=8),
    st.lists(corners, min_size=1, max_size=12),
    st.sampled_from([(0.7, 0.3), (0.5, 0.5), (1.0, 0.0), (0.25, 0.25)]),
    st.booleans(),
    st.integers(1, 4),
)
def test_match_oracle(targets, boxes, thresholds, rescue, at_once) -> None:
    """Whole numbers make ties; chunks of targets change nothing."""
    valid = np.array([v for _, v in targets], bool)
    places = np.array([t for t, _ in targets], np.float32).reshape(-1, 4)
    iou = np.array(box_iou(mx.array(places), mx.array(boxes, mx.float32)))
    expected = slow_match(iou, valid, *thresholds, rescue)
    before, assign.TARGETS_AT_ONCE = assign.TARGETS_AT_ONCE, at_once
    try:
        assert run(places, valid, boxes, *thresholds, rescue) == expected
    finally:
        assign.TARGETS_AT_ONCE = before


@pytest.mark.parametrize("rescue", [False, True])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 300])
def test_many_targets(count: int, rescue: bool) -> None:
    first = np.abs(noise(f"targets {count}", count, 2)) * 40
    targets = np.concatenate([first, first + 4 + np.abs(noise("sides", count, 2)) * 20], axis=1)
    near = np.repeat(targets[:: max(count // 50, 1)], 2, axis=0)
    boxes = near + noise("jitter", *near.shape)
    boxes = np.concatenate([boxes, [[900, 900, 950, 950]]])
    valid = np.arange(count) % 5 != 2
    iou = np.array(box_iou(mx.array(targets), mx.array(boxes.astype(np.float32))))
    expected = slow_match(iou, valid, 0.7, 0.3, rescue)
    assert run(targets, valid, boxes, 0.7, 0.3, rescue) == expected
    if count == 300:
        assert max(expected) > 256 and len(set(expected)) > 30


def test_rows_that_do_not_exist_change_nothing() -> None:
    """Whatever they hold, and wherever they stand behind the others."""
    targets = np.array([[0, 0, 10, 10], [20, 20, 40, 30]], np.float32)
    boxes = np.array([[1, 0, 10, 9], [20, 20, 30, 30], [0, 0, 0, 0], [5, 5, 6, 6]], np.float32)
    for high, low, rescue in ((0.7, 0.3, True), (0.5, 0.5, False)):
        expected = run(targets, [True, True], boxes, high, low, rescue)
        for value in (0.0, np.nan, np.inf, 7.0):
            padded = np.concatenate([targets, np.full((40, 4), value, np.float32), boxes])
            valid = np.arange(len(padded)) < 2
            assert run(padded, valid, boxes, high, low, rescue) == expected
        assert run(targets, [False, False], boxes, high, low, rescue) == [BELOW] * 4


def draw(positive, negative, count, fraction, key=0) -> Sample:
    arrays = (mx.array(np.asarray(v, bool)) for v in (positive, negative))
    return Sample(*map(np.array, sample(*arrays, count, fraction, mx.random.key(key))))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("pn-"), min_size=1, max_size=40),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_sample_counts(kinds: str, count: int, fraction: float, key: int) -> None:
    kind = np.array(kinds)
    found = draw(kind == "p", kind == "n", count, fraction, key)
    # torchvision: int(count * fraction) positives or all there are, the rest negatives
    positives = min(int((kind == "p").sum()), int(count * fraction))
    negatives = min(int((kind == "n").sum()), count - positives)
    assert len(found.rows) == len(found.valid) == min(count, len(kind))
    assert found.positive.sum() == positives and found.valid.sum() == positives + negatives
    chosen = found.rows[found.valid]
    assert len(set(chosen.tolist())) == len(chosen)
    # Positives, then negatives, then nothing
    assert (kind[chosen] == ["p"] * positives + ["n"] * negatives).all()
    assert found.valid[: positives + negatives].all() and found.positive[:positives].all()
    assert ((found.rows >= 0) & (found.rows < len(kind))).all()  # of the invalid ones too


def test_everything_sampled() -> None:
    kind = np.array(list("pn-npp-n" * 9))
    found = draw(kind == "p", kind == "n", 10_000, 0.5)
    assert sorted(found.rows[found.positive]) == np.flatnonzero(kind == "p").tolist()
    rest = found.valid & ~found.positive
    assert sorted(found.rows[rest]) == np.flatnonzero(kind == "n").tolist()
    assert len(found.rows) == len(kind)


def test_no_candidates() -> None:
    nothing = np.zeros(9, bool)
    assert not draw(nothing, nothing, 4, 0.5).valid.any()
    found = draw(nothing, ~nothing, 4, 0.5)
    assert found.valid.all() and not found.positive.any()
    # Positives never fill up for negatives
    found = draw(~nothing, nothing, 4, 0.5)
    assert found.valid.tolist() == found.positive.tolist() == [True, True, False, False]


def test_the_key_decides() -> None:
    kind = np.arange(300) % 3
    first, again, other = (draw(kind == 0, kind == 1, 60, 0.5, key) for key in (1, 1, 2))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert set(first.rows) != set(other.rows)
    positives = set(first.rows[first.positive]) & set(other.rows[other.positive])
    assert len(positives) < 25  # 30 of 100 each time: 9 in common on average


def test_uniform_over_keys() -> None:
    """Every candidate as often as any other, and every pair."""
    kind = np.array(list("pppppppppp----nnnnnnnn"))
    positive, negative = mx.array(kind == "p"), mx.array(kind == "n")
    keys = mx.random.split(mx.random.key(7), 800)
    drawn = [sample(positive, negative, 8, 0.5, key) for key in keys]
    rows = np.array(mx.stack([d.rows for d in drawn]))
    valid = np.array(mx.stack([d.valid for d in drawn]))
    assert valid.all()
    taken = np.zeros((len(keys), len(kind)))
    np.put_along_axis(taken, rows, 1, axis=1)
    # 4 of 10 and 4 of 8; a pair of positives 4 * 3 / (10 * 9), of negatives 4 * 3 / (8 * 7),
    # one of each 0.4 * 0.5. Five standard deviations.
    p, n = kind == "p", kind == "n"
    share = np.where(p, 0.4, np.where(n, 0.5, 0.0))
    expected = np.outer(share, share)
    expected[np.ix_(p, p)], expected[np.ix_(n, n)] = 12 / 90, 12 / 56
    np.fill_diagonal(expected, share)
    deviation = np.sqrt(expected * (1 - expected) / len(keys))
    assert (np.abs(taken.T @ taken / len(keys) - expected) <= 5 * deviation).all()
