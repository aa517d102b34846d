from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.heads import DetectionRule, select_detections
from mlx_rcnn.structures import Proposals
from reference import slow_clip, slow_decode, slow_nms

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
CASES = {"a": (0.05, 0.5, 100), "b": (0.05, 0.3, 7), "c": (0.4, 0.7, 100)}  # score, overlap, top_k
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
NAN = float("nan")


def as_proposals(boxes, valid=None):
    boxes = mx.array(np.asarray(boxes, np.float32))
    ok = mx.ones(boxes.shape[:2], dtype=mx.bool_) if valid is None else mx.array(np.asarray(valid))
    return Proposals(boxes, mx.zeros(boxes.shape[:2]), ok, mx.array(True))


def select(logits, deltas, boxes, sizes, *args, valid=None, candidates=1024, rounds=None, **rest):
    rule = DetectionRule(*args, **rest)
    logits, deltas, sizes = (mx.array(np.asarray(v, np.float32)) for v in (logits, deltas, sizes))
    found = as_proposals(boxes, valid)
    return select_detections(logits, deltas, found, sizes, rule, candidates, rounds)


def rows_of(detections, image):
    """The valid rows of one image, checked to come first and to fall."""
    valid = np.array(detections.valid[image])
    assert not np.any(np.diff(valid.astype(int)) > 0)
    boxes, scores, labels = (np.array(v[image])[valid] for v in detections[:3])
    assert np.all(np.diff(scores) <= 0) and labels.dtype == np.int32
    return boxes, scores, labels


def slow_detections(
    logits, deltas, boxes, size, score_thresh, overlap, top_k, weights=WEIGHTS, min_size=1e-2
):
    """One image, a (proposal, class) pair at a time."""
    found = []
    wide = np.asarray(logits, np.float64)
    scores = np.exp(wide - wide.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    for i, c in np.ndindex(scores.shape):
        delta = deltas[i] if deltas.shape[1] == 4 else deltas[i].reshape(-1, 4)[c]
        box = slow_clip(slow_decode(delta, boxes[i], weights), size)
        large = min(box[2] - box[0], box[3] - box[1]) >= min_size
        if c > 0 and scores[i, c] > score_thresh and large:
            found.append((*box, scores[i, c], c))
    found = np.array(found).reshape(-1, 6)
    kept = slow_nms(found[:, :4], found[:, 4], overlap, found[:, 5])[:top_k]
    return found[kept, :4], found[kept, 4], found[kept, 5]


def assert_same(got, expected, atol=1e-3):
    assert len(got[0]) == len(expected[0])
    np.testing.assert_array_equal(got[2], expected[2])
    np.testing.assert_allclose(got[1], expected[1], atol=1e-5)
    np.testing.assert_allclose(got[0], expected[0], atol=atol)


def golden_inputs():
    """The second image's 18 proposals are padded to 25."""
    out = []
    for name in ("logits", "deltas", "proposals"):
        first, second = np.split(GOLDEN[f"det_{name}"], [25])
        out.append(np.stack([first, np.pad(second, [(0, 7), (0, 0)])]))
    valid = np.ones((2, 25), bool)
    valid[1, 18:] = False
    return out, GOLDEN["det_sizes"], valid


def random_image(seed, count, classes, agnostic=False):
    """Crowded proposals of a 60 x 80 image; some scores pass, some do not."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, [60, 40], (max(count // 4, 1), 2))
    corner = np.repeat(seeds, 4, axis=0)[:count] + rng.normal(0, 3, (min(count, 4 * len(seeds)), 2))
    corner = np.concatenate([corner, rng.uniform(0, 40, (count - len(corner), 2))])
    boxes = np.concatenate([corner, corner + rng.uniform(4, 30, (count, 2))], axis=1)
    logits = rng.normal(0, 2, (count, classes))
    deltas = rng.normal(0, 1.5, (count, 4 if agnostic else 4 * classes))
    return [np.asarray(v, np.float32) for v in (logits, deltas, boxes)]


def test_by_hand():
    # Four proposals, classes 0 to 2, logits log 1, log 3 and so on: scores 1/8, 3/8, 4/8; ...
    scores = np.array([[1, 3, 4], [1, 4, 3], [6, 1, 1], [2, 4, 2]]) / 8
    boxes = [[0, 0, 20, 20], [2, 0, 22, 20], [30, 30, 50, 50], [40, 40, 70, 70]]
    deltas = np.zeros((4, 12))
    # Class 1 of proposal 3: dx = 10 * 5 / 30 moves it by 5 to (45, 40, 75, 70), cut to (.., 60, 55)
    deltas[3, 4] = 10 * 5 / 30
    args = np.log(scores)[None], deltas[None], [boxes], [[55, 60]]
    result = select(*args, 0.25, 0.5, 10)
    found = rows_of(result, 0)
    # 0 and 1 overlap by 18 / 22 = 0.82: of class 1 proposal 1 (0.5) suppresses proposal 0 (0.375),
    # of class 2 the other way round. Proposal 3 of class 2 has 0.25, which is not above 0.25.
    # All three have 0.5; equal scores go by proposal.
    np.testing.assert_allclose(found[0], [boxes[0], boxes[1], [45, 40, 60, 55]], atol=1e-4)
    np.testing.assert_allclose(found[1], 0.5, rtol=1e-6)
    assert found[2].tolist() == [2, 1, 1]
    assert result.exact.item()
    # Just below, it is a detection; with a looser overlap all pairs are.
    assert len(rows_of(select(*args, 0.2499, 0.5, 10), 0)[0]) == 4
    assert len(rows_of(select(*args, 0.25, 0.82, 10), 0)[0]) == 5
    # 15 x 15 is what is left of the moved box
    for min_size, count in ((15, 3), (15.01, 2)):
        assert len(rows_of(select(*args, 0.25, 0.5, 10, min_size=min_size), 0)[0]) == count
    # Other weights move it elsewhere: 5 / 30 * 30 * 10 / 5
    got_boxes, _, labels = rows_of(select(*args, 0.25, 0.5, 10, (5.0, 5.0, 5.0, 5.0)), 0)
    assert [50, 40, 60, 55] in got_boxes.round(3).tolist()


@pytest.mark.parametrize("case", CASES)
def test_torchvision(case):
    arrays, sizes, valid = golden_inputs()
    result = select(*arrays, sizes, *CASES[case], valid=valid, rounds=200)
    assert result.exact.item()
    for i in (0, 1):
        expected = [GOLDEN[f"det_{name}_{case}_{i}"] for name in ("boxes", "scores", "labels")]
        assert_same(rows_of(result, i), expected, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 9999),
    st.integers(1, 24),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(1, 30),
    st.sampled_from([WEIGHTS, (1.0, 2.0, 3.0, 4.0)]),
    st.sampled_from([1e-2, 8.0]),
    st.integers(1, 100),
)
def test_oracle(
    seed, count, classes, agnostic, score, overlap, top_k, weights, min_size, candidates
):
    arrays = random_image(seed, count, classes, agnostic)
    expected = slow_detections(*arrays, (60, 80), score, overlap, top_k, weights, min_size)
    batch = [v[None] for v in arrays]
    options = {"reg_weights": weights, "min_size": min_size, "rounds": 100}
    result = select(*batch, [[60, 80]], score, overlap, top_k, **options)
    assert result.exact.item()
    pairs = count * (classes - 1)
    assert result.boxes.shape == (1, min(top_k, pairs), 4)
    assert_same(rows_of(result, 0), expected)
    # Fewer candidates are right or say that they are not
    few = select(*batch, [[60, 80]], score, overlap, top_k, candidates=candidates, **options)
    if few.exact.item():
        assert_same(rows_of(few, 0), expected)
    else:
        assert candidates < pairs


def crowd(n=30):
    """The best 20 of n proposals are one box (in class 1); the others lie apart."""
    boxes = np.array([[0, 0, 20, 20]] * 20 + [[30 * i, 50, 30 * i + 20, 70] for i in range(n - 20)])
    score = np.linspace(0.9, 0.5, n)
    return np.log(np.stack([1 - score, score], axis=1)), np.zeros((n, 8)), boxes


def test_exact_is_false_when_the_candidates_were_cut_too_early():
    logits, deltas, boxes = (v[None] for v in crowd())
    sizes, expected = [[999, 999]], slow_detections(*crowd(), (999, 999), 0.05, 0.5, 5)
    assert len(expected[0]) == 5
    for candidates in (1, 8, 20, 23, 24, 25, 30, 99):
        exact = candidates >= 24  # the crowd, which is one detection, and 4 more
        result = select(logits, deltas, boxes, sizes, 0.05, 0.5, 5, candidates=candidates)
        assert result.exact.item() == exact
        if exact:
            assert_same(rows_of(result, 0), expected)
        else:
            assert len(rows_of(result, 0)[0]) < 5
    # Enough although most are cut: one detection needs one candidate
    result = select(logits, deltas, boxes, sizes, 0.05, 0.5, 1, candidates=1)
    assert result.exact.item()
    assert_same(rows_of(result, 0), slow_detections(*crowd(), (999, 999), 0.05, 0.5, 1))
    # Not enough, but no other passes the threshold: scores fall from 0.9 to 0.5 by 0.4 / 29
    passing = int((np.linspace(0.9, 0.5, 30) > 0.7).sum())
    for candidates, exact in ((passing - 1, False), (passing, True)):
        result = select(logits, deltas, boxes, sizes, 0.7, 0.5, 5, candidates=candidates)
        assert result.exact.item() == exact
        assert len(rows_of(result, 0)[0]) == 1
    # One image of a batch is enough to say no
    calm = np.array([[30 * i, 0, 30 * i + 20, 20] for i in range(30)])
    twice = [np.concatenate([v, v]) for v in (logits, deltas)]
    both = np.stack([calm, boxes[0]])
    result = select(*twice, both, [[9999, 9999]] * 2, 0.05, 0.5, 5, candidates=8)
    assert not result.exact.item() and len(rows_of(result, 0)[0]) == 5


def test_exact_is_false_when_the_rounds_were_too_few(monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    x = np.arange(60.0)
    boxes = np.stack([x, 0 * x, x + 4, 0 * x + 1], axis=1)  # neighbours overlap by 3 / 5
    score = np.linspace(0.9, 0.6, 60)
    arrays = np.log(np.stack([1 - score, score], axis=1))[None], np.zeros((1, 60, 4)), boxes[None]
    assert not select(*arrays, [[9, 99]], 0.05, 0.5, 100, rounds=3).exact.item()
    result = select(*arrays, [[9, 99]], 0.05, 0.5, 100, rounds=60)
    assert result.exact.item()
    assert rows_of(result, 0)[0][:, 0].tolist() == list(range(0, 60, 2))


@pytest.mark.parametrize("agnostic", [False, True])
def test_invalid_proposals_change_nothing(agnostic):
    logits, deltas, boxes = random_image(3, 20, 4, agnostic)
    arrays = [v[None] for v in (logits, deltas, boxes)]
    expected = rows_of(select(*arrays, [[60, 80]], 0.05, 0.4, 50), 0)
    assert len(expected[0]) > 10
    where = np.sort(np.random.default_rng(4).choice(33, 20, replace=False))
    valid = np.zeros((1, 33), bool)
    valid[0, where] = True
    for junk in (0, 50.0, NAN, float("inf")):
        wide = [np.full((1, 33, v.shape[1]), junk, np.float32) for v in (logits, deltas, boxes)]
        wide[0][0, :, 1] += 1e4  # the best of all, if it counted
        for to, values in zip(wide, (logits, deltas, boxes), strict=True):
            to[0, where] = values
        result = select(*wide, [[60, 80]], 0.05, 0.4, 50, valid=valid)
        assert result.exact.item()
        for got, want in zip(rows_of(result, 0), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_batch_equals_singles():
    images = [random_image(seed, 20, 4) for seed in (5, 6, 7)]
    sizes = [[60, 80], [50, 50], [30, 90]]
    together = select(*(np.stack(v) for v in zip(*images, strict=True)), sizes, 0.05, 0.4, 30)
    for i, image in enumerate(images):
        single = select(*(v[None] for v in image), [sizes[i]], 0.05, 0.4, 30)
        assert_same(rows_of(single, 0), rows_of(together, i), atol=1e-5)
        assert_same(rows_of(together, i), slow_detections(*image, sizes[i], 0.05, 0.4, 30))


def test_what_is_not_a_number_is_no_detection():
    logits, deltas, boxes = random_image(8, 20, 4)
    bad = [v.copy() for v in (logits, deltas, boxes)]
    bad[0][3, 2] = NAN  # spoils the softmax of all classes of proposal 3
    bad[1][7] = NAN
    bad[2][11] = NAN
    good = [i for i in range(20) if i not in (3, 7, 11)]
    expected = slow_detections(logits[good], deltas[good], boxes[good], (60, 80), 0.05, 0.4, 50)
    result = select(*(v[None] for v in bad), [[60, 80]], 0.05, 0.4, 50)
    assert_same(rows_of(result, 0), expected)


def test_nothing_found():
    arrays = [v[None] for v in random_image(9, 6, 3)]
    none = select(*arrays, [[60, 80]], 1.0, 0.5, 5)  # a score is never greater than 1
    invalid = select(*arrays, [[60, 80]], 0.0, 0.5, 5, valid=np.zeros((1, 6), bool))
    empty = select(*arrays, [[0, 0]], 0.0, 0.5, 5)  # an image of no size
    for result in (none, invalid, empty):
        assert result.exact.item() and not mx.any(result.valid).item()
        assert result.boxes.shape == (1, 5, 4) and result.labels.shape == (1, 5)
    arrays = [np.zeros((2, 0, n)) for n in (3, 12, 4)]
    none = select(*arrays, [[9, 9]] * 2, 0.1, 0.5, 5)
    assert none.boxes.shape == (2, 0, 4) and none.exact.item()


def test_equal_scores_go_by_proposal_then_class():
    boxes = [[[0, 0, 9, 9], [20, 0, 29, 9], [20, 0, 29, 9], [40, 0, 49, 9]]]
    result = select(np.zeros((1, 4, 3)), np.zeros((1, 4, 4)), boxes, [[99, 99]], 0.1, 0.5, 50)
    got_boxes, _, labels = rows_of(result, 0)
    assert got_boxes[:, 0].tolist() == [0, 0, 20, 20, 40, 40]
    assert labels.tolist() == [1, 2] * 3


def test_labels_are_never_the_background():
    logits, deltas, boxes = random_image(10, 20, 4)
    logits[:, 0] += 20
    result = select(logits[None], deltas[None], boxes[None], [[60, 80]], 0.0, 1.0, 100)
    _, scores, labels = rows_of(result, 0)
    assert set(labels) == {1, 2, 3} and scores.max() < 1e-3
