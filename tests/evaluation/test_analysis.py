"""Thresholds, confusion and images by hand, and against slow counting."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlx_rcnn.evaluation import coco_metrics, error_analysis
from mlx_rcnn.evaluation.compare import compare
from mlx_rcnn.evaluation.confusion import confusion_matrix
from mlx_rcnn.evaluation.curves import best_threshold
from mlx_rcnn.evaluation.matches import match
from scored import collected_of


def random_collected(seed, images=12, classes=4):
    """Boxes around one another, in all classes, with some crowds."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            x, y = rng.integers(0, 60, 2).tolist()
            box = (x, y, x + 30, y + 30)
            truth.append((image, int(rng.integers(1, classes)), *box, int(rng.uniform() < 0.1)))
            for _ in range(rng.integers(0, 4)):
                dx, dy = rng.integers(-8, 9, 2).tolist()
                score = round(float(rng.uniform(0.05, 1)), 1)  # with ties
                moved = (x + dx, y + dy, x + dx + 30, y + dy + 30)
                found.append((image, int(rng.integers(1, classes)), *moved, score))
    names = ("__background__", *"abcdefgh"[: classes - 1])
    return collected_of(truth, found, names, images)


def matched(collected):
    return match(collected, "bbox")


def test_the_best_threshold_by_hand():
    truth = [(1, 1, 0, 0, 10, 10, 0), (1, 1, 30, 0, 40, 10, 0), (1, 1, 60, 0, 70, 10, 0)]
    found = [
        (1, 1, 0, 0, 10, 10, 0.9),  # right
        (1, 1, 30, 0, 40, 10, 0.6),  # right
        (1, 1, 0, 50, 10, 60, 0.6),  # wrong, of the same score: both or none
        (1, 1, 20, 50, 30, 60, 0.5),
        (1, 2, 20, 50, 30, 60, 0.7),  # wrong, of a class without objects
    ]
    matches = matched(collected_of(truth, found))
    # F1 of cats: 2 * 1 / (1 + 3) at 0.9, 2 * 2 / (3 + 3) at 0.6, 2 * 2 / (4 + 3) at 0.5.
    expected = {"score_thresh": 0.6, "precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3}
    assert best_threshold(matches, 1) == pytest.approx(expected)
    dogs = best_threshold(matches, 2)
    assert dogs["score_thresh"] == 0.7 and dogs["precision"] == 0
    assert math.isnan(dogs["recall"]) and math.isnan(dogs["F1"])
    # Together: 0.5 at 0.9, 2 / 5 at 0.7, 4 / 7 at 0.6, 4 / 8 at 0.5.
    both = best_threshold(matches)
    assert (both["score_thresh"], both["F1"]) == (0.6, pytest.approx(4 / 7))


def test_the_best_threshold_without_detections_or_objects():
    wrong = [(1, 1, 50, 50, 60, 60, 0.9), (1, 1, 70, 70, 80, 80, 0.2)]
    none = best_threshold(matched(collected_of([(1, 1, 0, 0, 9, 9, 0)], wrong)), 1)
    assert none == {"score_thresh": 0.2, "precision": 0, "recall": 0, "F1": 0}  # all of them
    none = best_threshold(matched(collected_of([(1, 1, 0, 0, 9, 9, 0)], [])), 1)
    assert none["score_thresh"] is None and math.isnan(none["precision"])
    assert none["recall"] == none["F1"] == 0
    assert math.isnan(best_threshold(matched(collected_of([], [])))["F1"])


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all(seed):
    collected = random_collected(seed)
    matches = matched(collected)
    for label in (None, 1, 2, 3):
        of_class = (matches.labels == label) | (label is None)
        shown = of_class & ~matches.passed_over
        total = int(((matches.object_labels == label) | (label is None)).sum())
        best = best_threshold(matches, label)
        scored = []
        for thresh in np.unique(matches.scores[shown]):
            kept = shown & (matches.scores >= thresh)
            right = int((kept & (matches.kinds == -1)).sum())
            scored.append((2 * right / (kept.sum() + total), thresh))
        assert (best["F1"], best["score_thresh"]) == pytest.approx(max(scored))


def slow_confusion(collected, thresh):
    """Counted from the definition, pair by pair."""
    size = len(collected.class_names)
    table = np.zeros((size, size), int)
    for image in collected.images:
        mine = [e for e in collected.truth if e["image_id"] == image["id"]]
        crowds = [e for e in mine if e["iscrowd"]]
        free = [e for e in mine if not e["iscrowd"]]
        dets = [e for e in collected.found if e["image_id"] == image["id"]]
        dets = sorted((e for e in dets if e["score"] >= thresh), key=lambda e: -e["score"])
        for same in (True, False):
            left = []
            for det in dets:
                label = det["category_id"]
                near = [e for e in free if (e["category_id"] == label) == same]
                near = sorted(near, key=lambda e: -iou(det["bbox"], e["bbox"]))
                if near and iou(det["bbox"], near[0]["bbox"]) >= 0.5:
                    table[near[0]["category_id"], label] += 1
                    free = [e for e in free if e is not near[0]]
                    continue
                own = [e for e in crowds if e["category_id"] == label]
                if not any(share(det["bbox"], e["bbox"]) > 0.5 for e in own):
                    left.append(det)
            dets = left
        for det in dets:
            table[0, det["category_id"]] += 1
        for entry in free:
            table[entry["category_id"], 0] += 1
    return table


def both(a, b):
    sides = [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    return max(sides[0], 0) * max(sides[1], 0)


def iou(a, b):
    return both(a, b) / (a[2] * a[3] + b[2] * b[3] - both(a, b))


def share(a, b):
    return both(a, b) / (a[2] * a[3])


@pytest.mark.parametrize("seed", range(8))
def test_confusion_is_what_counting_gives(seed):
    collected = random_collected(seed)
    matches = matched(collected)
    for thresh in (0.0, 0.3, 0.7):
        table = confusion_matrix(matches, 4, thresh)
        np.testing.assert_array_equal(table, slow_confusion(collected, thresh))
        # Each object once; the diagonal is what is right at this score.
        assert table[1:].sum() == len(matches.object_labels)
        right = (matches.kinds == -1) & (matches.scores >= thresh)
        assert np.trace(table) == right.sum()
        np.testing.assert_array_equal(matches.found(thresh).sum(), right.sum())


def test_analysis_agrees_with_the_metrics_and_with_itself():
    collected = random_collected(3)
    found, metrics = error_analysis(collected), coco_metrics(collected)
    for name in ("AP", "AP50", "AP75"):
        assert found[name] == pytest.approx(metrics[name], abs=1e-12)
        assert np.mean(found["curves"][name]) == pytest.approx(metrics[name], abs=1e-12)
    for name, row in found["per_class"].items():
        for key in ("AP", "AP50"):
            assert row[key] == pytest.approx(metrics["per_class"][name][key], abs=1e-12)
        assert row["objects"] == metrics["per_class"][name]["objects"]
        assert np.mean(row["curves"]["AP75"]) == pytest.approx(row["AP75"], abs=1e-12)
    for kind, row in found["errors"].items():
        assert row["count"] == sum(r["errors"][kind] for r in found["per_class"].values())
    # Images, matrix and best threshold count the same detections.
    right, wrong, missed = (
        sum(row[name] for row in found["images"]) for name in ("right", "wrong", "missed")
    )
    best = found["best"]
    assert best["precision"] == pytest.approx(right / (right + wrong))
    assert best["recall"] == pytest.approx(right / (right + missed))
    cells = found["confusion"]["cells"]
    assert sum(n for true, named, n in cells if true == named) == right
    assert sum(n for true, named, n in cells if named and true != named) == wrong
    assert found["confusion"]["score_thresh"] == best["score_thresh"]
    # At another score more or less is shown, and what costs what is the same.
    other = error_analysis(collected, score_thresh=0.9)
    assert other["errors"] == found["errors"] and other["images"] != found["images"]
    assert other["confusion"]["score_thresh"] == 0.9


def test_kinds_that_are_not_there():
    with pytest.raises(ValueError, match="kind='masks': expected 'bbox' or 'segm'"):
        error_analysis(collected_of([], []), "masks")
    with pytest.raises(ValueError, match="have no masks"):
        error_analysis(collected_of([], []), "segm")


def test_compared_with_itself_and_with_less():
    collected = random_collected(1)
    one = error_analysis(collected)
    same = compare(one, one)
    assert same["AP"] == 0 and same["images"] == [] and set(same["errors"].values()) == {0}
    assert {row["AP"] for row in same["per_class"].values()} == {0}
    less = replace(collected, found=[e for e in collected.found if e["image_id"] % 2])
    other = error_analysis(less)
    found = compare(one, other)
    assert found["AP"] == one["AP"] - other["AP"] > 0
    assert found["errors"]["missed"] < 0 and found["best"]["F1"] > 0
    differences = [row["difference"] for row in found["images"]]
    assert differences == sorted(differences, reverse=True) and differences[0] > 0
    rows = {row["image_id"]: row for row in found["images"]}
    mine = {row["image_id"]: row for row in one["images"]}
    theirs = {row["image_id"]: row for row in other["images"]}
    for key, row in rows.items():
        assert row["difference"] == pytest.approx(mine[key]["F1"] - theirs[key]["F1"])
        assert row["one"]["missed"] == mine[key]["missed"]
    backwards = compare(other, one)
    assert [row["image_id"] for row in backwards["images"]][-1] == found["images"][0]["image_id"]


def test_only_the_same_is_compared():
    one = error_analysis(random_collected(1))
    with pytest.raises(ValueError, match="3 images are in one analysis alone"):
        compare(one, error_analysis(random_collected(1, images=15)))
    with pytest.raises(ValueError, match="kinds 'bbox' and 'segm'"):
        compare(one, {**one, "kind": "segm"})
