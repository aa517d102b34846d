from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_rcnn import FasterRCNNConfig
from mlx_rcnn.ops import decode_boxes
from mlx_rcnn.rpn.anchors import anchor_generator
from mlx_rcnn.rpn.network import (
    ProposalRule,
    RegionProposalNetwork,
    RPNHead,
    RPNOutputs,
    proposal_rule,
    select_proposals,
)
from reference import fill_ours, last_noise, slow_clip, slow_conv, slow_decode, slow_nms

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
MAPS = [(5, 7), (3, 4), (2, 2)]
COUNTS = [3 * h * w for h, w in MAPS]
CASES = {  # before, after suppression, its threshold, least score
    "a": (30, 25, 0.5, 0.0),
    "b": (1000, 1000, 0.7, 0.0),
    "c": (20, 1000, 0.7, 0.45),
}


def build_head(channels=8, anchors=3, depth=1):
    head = RPNHead(channels, anchors, depth)
    shapes = {key: value.shape for key, value in tree_flatten(head.parameters())}
    filled = {key: mx.array(fill_ours("rpn test." + key, v)) for key, v in shapes.items()}
    return head.load_weights(list(filled.items()))


def maps(channels=8):
    return [mx.array(last_noise(f"rpn map {i}", 2, channels, *s)) for i, s in enumerate(MAPS)]


def split(array, axis, counts=COUNTS):
    """All anchors on an axis -> one array a level."""
    ends = np.cumsum(counts)[:-1]
    return [mx.array(np.ascontiguousarray(v)) for v in np.split(array, ends, axis)]


def golden_inputs():
    axes = {"objectness": 1, "regression": 1, "anchors": 0}
    levels = [split(GOLDEN[f"rpn_{name}"], axis) for name, axis in axes.items()]
    return levels, mx.array(GOLDEN["rpn_sizes"])


def slow_proposals(logits, deltas, anchors, size, pre, post, overlap, score_thresh, min_size):
    """One image, its levels lists of NumPy arrays -> boxes and scores."""
    boxes, scores, levels = [], [], []
    for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        for i in np.argsort(-logit, kind="stable")[:pre]:
            box = slow_clip(slow_decode(delta[i], anchor[i]), size)
            score = 1 / (1 + np.exp(-np.float64(logit[i])))
            if min(box[2] - box[0], box[3] - box[1]) >= min_size and score >= score_thresh:
                boxes.append(box), scores.append(score), levels.append(level)
    boxes, scores = np.array(boxes).reshape(-1, 4), np.array(scores)
    kept = slow_nms(boxes, scores, overlap, np.array(levels))[:post]
    return boxes[kept], scores[kept]


def rows_of(proposals, image):
    """The valid rows, checked to come first and to fall."""
    valid = np.array(proposals.valid[image])
    boxes, scores = np.array(proposals.boxes[image]), np.array(proposals.scores[image])
    assert not np.any(np.diff(valid.astype(int)) > 0)
    assert np.all(np.diff(scores[valid]) <= 0)
    return boxes[valid], scores[valid]


def random_levels(seed, counts, images=1, spread=0.4):
    """Well separated logits, deltas and anchors of a 40 x 60 image."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    logits = rng.permutation(images * total).reshape(images, total) / (images * total) * 8 - 4
    deltas = rng.normal(0, spread, (images, total, 4))
    centre = rng.uniform(0, [60, 40], (total, 2))
    half = rng.uniform(1, 15, (total, 2))
    anchors = np.concatenate([centre - half, centre + half], axis=1)
    return [np.asarray(v, np.float32) for v in (logits, deltas, anchors)]


def test_head_is_torchvisions():
    logits, deltas = build_head()(maps())
    for i, count in enumerate(COUNTS):
        assert logits[i].shape == (2, count) and deltas[i].shape == (2, count, 4)
        np.testing.assert_allclose(np.array(logits[i]), GOLDEN[f"rpn_logits_{i}"], atol=1e-5)
        np.testing.assert_allclose(np.array(deltas[i]), GOLDEN[f"rpn_deltas_{i}"], atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_head_oracle(depth):
    head, features = build_head(depth=depth), maps()
    logits, deltas = head(features)

    def conv(layer, x):
        weight = np.array(layer.weight)
        return slow_conv(x, weight, padding=weight.shape[1] // 2) + np.array(layer.bias)

    for level, feature in enumerate(features):
        x = np.array(feature)
        for block in head.conv:
            x = np.maximum(conv(block[0], x), 0)
        # y, x, anchor and, for the deltas, coordinate: in this order
        expected = conv(head.cls_logits, x).reshape(2, -1)
        np.testing.assert_allclose(np.array(logits[level]), expected, atol=1e-4)
        expected = conv(head.bbox_pred, x).reshape(2, -1, 4)
        np.testing.assert_allclose(np.array(deltas[level]), expected, atol=1e-4)


def test_head_structure():
    head = RPNHead(16, 9, 2)
    shapes = {k: v.shape for k, v in tree_flatten(head.parameters())}
    assert shapes == {
        "conv.0.0.weight": (16, 3, 3, 16),
        "conv.0.0.bias": (16,),
        "conv.1.0.weight": (16, 3, 3, 16),
        "conv.1.0.bias": (16,),
        "cls_logits.weight": (9, 1, 1, 16),
        "cls_logits.bias": (9,),
        "bbox_pred.weight": (36, 1, 1, 16),
        "bbox_pred.bias": (36,),
    }
    mx.random.seed(0)
    head = RPNHead(64, 9)
    for layer in (head.conv[0][0], head.cls_logits, head.bbox_pred):
        assert mx.std(layer.weight).item() == pytest.approx(0.01, rel=0.1)
        assert not mx.any(layer.bias).item()
    head.set_dtype(mx.bfloat16)
    logits, deltas = head([mx.zeros((1, 2, 2, 64), dtype=mx.bfloat16)])
    assert logits[0].dtype == deltas[0].dtype == mx.float32


def proposals_of(logits, deltas, anchors, sizes, *args, rounds=None, **options):
    """What is selected by the rule of the other arguments."""
    rule = ProposalRule(*args, **options)
    return select_proposals(RPNOutputs(logits, deltas, anchors), sizes, rule, rounds)


@pytest.mark.parametrize("case", CASES)
def test_proposals_are_torchvisions(case):
    levels, sizes = golden_inputs()
    pre, post, overlap, score = CASES[case]
    proposals = proposals_of(*levels, sizes, pre, post, overlap, score, rounds=1000)
    assert proposals.exact.item()
    for i in (0, 1):
        boxes, scores = rows_of(proposals, i)
        assert len(boxes) == len(GOLDEN[f"proposals_{case}_{i}"])
        np.testing.assert_allclose(boxes, GOLDEN[f"proposals_{case}_{i}"], atol=1e-4)
        np.testing.assert_allclose(scores, GOLDEN[f"proposal_scores_{case}_{i}"], atol=1e-6)


def test_proposals_by_hand():
    # Two levels, no deltas, an image of 30 x 50. Level 0: B overlaps A by 81 / 119 = 0.68 and goes;
    # C is cut to (40, 20, 50, 30). Level 1: D is A again, and stays, on another level; E lies
    # outside the image and has no area left.
    a, b, c, e = [0, 0, 10, 10], [1, 1, 11, 11], [40, 20, 60, 40], [55, 0, 70, 9]
    anchors = [mx.array([b, a, c], dtype=mx.float32), mx.array([a, e], dtype=mx.float32)]
    logits = [mx.array([[1.0, 2.0, 0.0]]), mx.array([[0.5, 3.0]])]
    deltas = [mx.zeros((1, 3, 4)), mx.zeros((1, 2, 4))]
    sizes = mx.array([[30.0, 50]])
    result = proposals_of(logits, deltas, anchors, sizes, 10, 10, 0.5)
    boxes, scores = rows_of(result, 0)
    assert boxes.tolist() == [a, a, [40, 20, 50, 30]]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([-2.0, -0.5, 0.0])), rtol=1e-6)
    # The least score is inclusive: sigmoid(0) = 0.5; fewer before and after suppression
    for options, expected in (
        ({"score_thresh": 0.5}, [a, a, [40, 20, 50, 30]]),
        ({"score_thresh": 0.51}, [a, a]),
        ({"nms_thresh": 0.7}, [a, b, a, [40, 20, 50, 30]]),
        ({"pre_nms_top_n": 1}, [a]),  # the best of level 1 is E
        ({"post_nms_top_n": 2}, [a, a]),
        ({"min_size": 10.0}, [a, a, [40, 20, 50, 30]]),
        ({"min_size": 10.01}, []),
    ):
        settings_ = {"pre_nms_top_n": 10, "post_nms_top_n": 10, "nms_thresh": 0.5, **options}
        result = proposals_of(logits, deltas, anchors, sizes, **settings_)
        assert rows_of(result, 0)[0].tolist() == expected, options


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 9999),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(1, 15),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([1e-3, 5.0]),
)
def test_proposals_oracle(seed, counts, pre, post, overlap, score_thresh, min_size):
    logits, deltas, anchors = random_levels(seed, counts)
    levels = [split(v, a, counts) for v, a in ((logits, 1), (deltas, 1), (anchors, 0))]
    result = proposals_of(
        *levels, mx.array([[40.0, 60.0]]), pre, post, overlap, score_thresh, min_size, rounds=50
    )
    assert result.exact.item()
    boxes, scores = rows_of(result, 0)
    first = [[np.array(v)[0] for v in kind] for kind in levels[:2]]
    expected = slow_proposals(
        *first,
        [np.array(v) for v in levels[2]],
        (40, 60),
        pre,
        post,
        overlap,
        score_thresh,
        min_size,
    )
    np.testing.assert_allclose(scores, expected[1], rtol=1e-5)
    np.testing.assert_allclose(boxes, expected[0], atol=1e-3)
    most = min(pre, max(counts)) * len(counts)
    assert result.boxes.shape == (1, min(post, most), 4)


def test_batch_equals_singles():
    levels, sizes = golden_inputs()
    together = proposals_of(*levels, sizes, 30, 25, 0.5, rounds=100)
    for i in (0, 1):
        single = proposals_of(
            [v[i : i + 1] for v in levels[0]],
            [v[i : i + 1] for v in levels[1]],
            levels[2],
            sizes[i : i + 1],
            30,
            25,
            0.5,
            rounds=100,
        )
        for got, expected in zip(rows_of(single, 0), rows_of(together, i), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)
    # Each image is cut to its own size
    assert rows_of(together, 0)[0].max(axis=0)[2:].tolist() == [50, 40]
    assert rows_of(together, 1)[0].max(axis=0)[2:].tolist() == [56, 33]


def test_levels_that_hold_nothing_change_nothing():
    levels, sizes = golden_inputs()
    expected = proposals_of(*levels, sizes, 30, 200, 0.5, 0.1, rounds=100)
    for where in (0, 1, 3):
        for n in (1, 7, 150):  # of one anchor, and longer than any other level
            logits, deltas, anchors = (list(v) for v in levels)
            logits.insert(where, mx.full((2, n), -50.0))
            deltas.insert(where, mx.zeros((2, n, 4)))
            anchors.insert(where, mx.broadcast_to(levels[2][0][0], (n, 4)))
            result = proposals_of(logits, deltas, anchors, sizes, 30, 200, 0.5, 0.1, rounds=100)
            for i in (0, 1):
                for got, want in zip(rows_of(result, i), rows_of(expected, i), strict=True):
                    np.testing.assert_array_equal(got, want)


def test_anchors_that_are_not_numbers_change_nothing():
    levels, sizes = golden_inputs()
    expected = proposals_of(*levels, sizes, 1000, 200, 0.5, rounds=100)
    logits, deltas, anchors = (list(v) for v in levels)
    logits[1] = mx.concatenate([mx.full((2, 3), mx.nan), logits[1], mx.full((2, 1), 9.0)], axis=1)
    deltas[1] = mx.pad(deltas[1], [(0, 0), (3, 0), (0, 0)])
    deltas[1] = mx.concatenate([deltas[1], mx.full((2, 1, 4), mx.nan)], axis=1)
    anchors[1] = mx.concatenate([anchors[1][:3], anchors[1], anchors[1][:1]])
    result = proposals_of(logits, deltas, anchors, sizes, 1000, 200, 0.5, rounds=100)
    for i in (0, 1):
        for got, want in zip(rows_of(result, i), rows_of(expected, i), strict=True):
            np.testing.assert_array_equal(got, want)


def test_no_proposals():
    levels, sizes = golden_inputs()
    none = proposals_of(*levels, sizes, 30, 25, 0.5, 1.0)
    assert none.exact.item() and not mx.any(none.valid).item()
    assert none.boxes.shape == (2, 25, 4) and none.scores.shape == none.valid.shape == (2, 25)
    empty = proposals_of(*levels, mx.zeros((2, 2)), 30, 25, 0.5)  # images of no size
    assert not mx.any(empty.valid).item()


def test_too_few_rounds_are_reported(monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # a GPU too must work in rounds
    # 60 boxes in a chain, each overlapping the next by 3 / 5, on the second of two levels
    x = np.arange(60.0)
    chain = np.stack([x, 0 * x, x + 4, 0 * x + 1], axis=1).astype(np.float32)
    logits = [mx.array([[0.0]]), mx.array(np.linspace(3, -3, 60, dtype=np.float32))[None]]
    deltas = [mx.zeros((1, 1, 4)), mx.zeros((1, 60, 4))]
    anchors, sizes = [mx.array(chain[:1]), mx.array(chain)], mx.array([[9.0, 99]])
    few = proposals_of(logits, deltas, anchors, sizes, 60, 60, 0.5, rounds=3)
    assert not few.exact.item()
    result = proposals_of(logits, deltas, anchors, sizes, 60, 60, 0.5, rounds=60)
    assert result.exact.item()
    boxes, _ = rows_of(result, 0)
    assert sorted(boxes[:, 0].tolist()) == sorted([0, *range(0, 60, 2)])


def test_network_wires_its_config():
    """Head, anchors and selection, with every field of the config at another value."""
    config = FasterRCNNConfig(
        None,
        8,
        5,
        use_fpn=True,
        anchor_sizes=((6, 8), (12, 16), (24, 32)),
        aspect_ratios=(0.5, 2.0),
        anchor_stride=(8, 16, 32),
        anchor_rounding=False,
        anchor_offset=0.5,
        rpn_nms_thresh=0.4,
        rpn_score_thresh=0.7,
        rpn_min_size=4.0,
    )
    rpn = RegionProposalNetwork(config)
    rpn.head = build_head(anchors=4)
    features, sizes = maps(), mx.array([[38.0, 50], [33, 56]])
    strides = [((8, 8), (16, 16), (32, 32))]
    anchors = anchor_generator(config).grid(MAPS, strides[0])
    rule = proposal_rule(config)._replace(pre_nms_top_n=40, post_nms_top_n=30)
    result = select_proposals(rpn(features, anchors), sizes, rule, rounds=100)
    logits, deltas = rpn.head(features)
    assert anchors[0].shape == (5 * 7 * 4, 4)
    assert anchors[1][4, 0].item() - anchors[1][0, 0].item() == 16
    assert (anchors[2][0, 0] + anchors[2][0, 2]).item() == 32  # centre at half a stride
    for i in (0, 1):
        expected = slow_proposals(
            [np.array(v[i]) for v in logits],
            [np.array(v[i]) for v in deltas],
            [np.array(v) for v in anchors],
            tuple(sizes[i].tolist()),
            40,
            30,
            0.4,
            0.7,
            4.0,
        )
        boxes, scores = rows_of(result, i)
        assert len(boxes) > 5
        np.testing.assert_allclose(scores, expected[1], atol=1e-5)
        np.testing.assert_allclose(boxes, expected[0], atol=1e-3)
    names = {k for k, _ in tree_flatten(rpn.parameters())}
    assert all(name.startswith("head.") for name in names)  # anchors are no parameters


def test_decoding_uses_no_weights():
    """The region proposal network's coder has weights 1, unlike the box head's."""
    anchor, delta = mx.array([[8.0, 8, 24, 16]]), mx.array([[0.25, -0.5, 0.1, 0.2]])
    sizes = mx.array([[99.0, 99]])
    result = proposals_of([mx.zeros((1, 1))], [delta[None]], [anchor], sizes, 1, 1, 0.5)
    np.testing.assert_array_equal(np.array(result.boxes[0]), np.array(decode_boxes(delta, anchor)))
