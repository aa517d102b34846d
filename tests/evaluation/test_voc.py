"""VOC's average precision: by hand, and against a slow oracle."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotated import save_image, save_xml, voc_object
from mlx_rcnn.data import ShapesDataset, open_dataset
from mlx_rcnn.evaluation import evaluate_voc
from mlx_rcnn.evaluation.voc import average_precision, match


class Replay:
    def __init__(self, predictions):
        self.predictions = list(predictions)

    def predict(self, images, *, score_thresh=None):
        return [self.predictions.pop(0) for _ in images]


def found(*rows):
    """Predictions of (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].astype(np.int32)}


def slow_ap(hits, objects, metric):
    """From the definition: a precision and recall after each detection."""
    points = [(sum(hits[:k]) / objects, sum(hits[:k]) / k) for k in range(1, len(hits) + 1)]

    def best(recall):
        return max((p for r, p in points if r >= recall - 1e-9), default=0.0)

    if metric == "voc07":
        return sum(best(t / 10) for t in range(11)) / 11
    recalls = [0.0, *sorted({r for r, _ in points})]
    return sum((b - a) * best(b) for a, b in zip(recalls, recalls[1:], strict=False))


def test_average_precision_by_hand():
    # Right, wrong, right of 4 objects. Precisions 1, 1/2, 2/3 at recalls 1/4, 1/4, 1/2.
    hits = np.array([True, False, True])
    # 11 points: 0, 0.1, 0.2 have 1; 0.3, 0.4, 0.5 have 2/3; the rest 0: (3 + 2) / 11.
    assert average_precision(hits, 4, "voc07") == pytest.approx(5 / 11)
    # Area: 1/4 of recall at 1, and 1/4 at 2/3: 1/4 + 1/6.
    assert average_precision(hits, 4, "voc") == pytest.approx(5 / 12)
    # A dip before a rise is filled: wrong, right, right of 2: precision at most 2/3 throughout.
    hits = np.array([False, True, True])
    assert average_precision(hits, 2, "voc") == pytest.approx(2 / 3)
    assert average_precision(hits, 2, "voc07") == pytest.approx(2 / 3)
    # 3 of 10: the recall is 3 / 10, which reaches 0.3 (in floats, 0.1 * 3 is above it): 4 points.
    assert average_precision(np.ones(3, bool), 10, "voc07") == pytest.approx(4 / 11)
    for metric in ("voc", "voc07"):
        assert average_precision(np.ones(5, bool), 5, metric) == pytest.approx(1)
        assert average_precision(np.zeros(5, bool), 5, metric) == 0
        assert average_precision(np.zeros(0, bool), 5, metric) == 0
        assert math.isnan(average_precision(np.zeros(3, bool), 0, metric))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.booleans(), max_size=25), st.integers(0, 8), st.sampled_from(["voc", "voc07"]))
def test_average_precision_against_the_oracle(hits, missed, metric):
    objects = sum(hits) + missed
    if objects:
        want = slow_ap(hits, objects, metric)
        got = average_precision(np.array(hits, bool), objects, metric)
        assert got == pytest.approx(want, abs=1e-9)


def entry(box, score=None, image=1, **marks):
    x1, y1, x2, y2 = box
    out = {"image_id": image, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, **marks}
    return out if score is None else {**out, "score": score}


def test_matching_by_hand():
    truth = [entry((0, 0, 9, 9)), entry((50, 0, 59, 9)), entry((0, 0, 9, 9), image=2)]
    hits, objects = match(
        truth,
        [
            entry((0, 0, 9, 9), 0.5),  # the second on this object: wrong
            entry((1, 0, 9, 9), 0.8),  # right
            entry((0, 0, 9, 9), 0.9, image=2),  # right
            entry((80, 80, 89, 89), 0.7),  # nothing there
            entry((0, 0, 9, 9), 0.6, image=3),  # an image without objects
        ],
    )
    assert objects == 3 and hits.tolist() == [True, True, False, False, False]


def test_pixels_are_counted_inclusively():
    # 0 to 9 are ten pixels; 0 to 4 are five: 50 of 100 is an IoU of exactly 0.5, which passes.
    # As lengths, 4 of 9, it would not.
    assert match([entry((0, 0, 9, 9))], [entry((0, 0, 9, 4), 0.9)])[0].tolist() == [True]
    assert match([entry((0, 0, 9, 9))], [entry((0, 0, 9, 3), 0.9)])[0].tolist() == [False]


def test_difficult_objects_do_not_count():
    truth = [
        entry((0, 0, 9, 9), difficult=1),
        entry((50, 0, 59, 9)),
        entry((70, 0, 79, 9)) | {"iscrowd": 1},
    ]
    rows = [entry((0, 0, 9, 9), 0.9), entry((0, 0, 9, 8), 0.8), entry((50, 0, 59, 9), 0.7)]
    hits, objects = match(truth, [*rows, entry((70, 0, 79, 9), 0.6)])
    assert objects == 1 and hits.tolist() == [True]
    # But where a detection fits no object by half, it is wrong, difficult or not.
    assert match(truth, [entry((0, 0, 9, 2), 0.9)])[0].tolist() == [False]


def test_a_dataset_by_hand(tmp_path):
    save_image(tmp_path / "a.jpg")
    save_image(tmp_path / "b.jpg")
    save_xml(
        tmp_path / "a.xml", voc_object("cat", (0, 0, 20, 20)), voc_object("dog", (40, 0, 60, 20))
    )
    save_xml(tmp_path / "b.xml", voc_object("cat", (0, 0, 20, 20), 1), voc_object("cat"))
    data = open_dataset(tmp_path, class_names=("__background__", "cat", "dog", "cow"))
    predictions = [
        found((0, 0, 20, 20, 0.9, 1), (40, 40, 60, 60, 0.95, 1), (0, 0, 20, 20, 0.9, 2)),
        found((0, 0, 20, 20, 0.99, 1)),  # on the difficult one
    ]
    result = evaluate_voc(Replay(predictions), data, metric="voc", progress=False)
    # Cats: wrong (0.95), right (0.9), of 2: precision 1/2 at recall 1/2. Dogs: wrong, of 1.
    assert result["per_class"]["cat"] == {"AP": pytest.approx(0.25), "objects": 2}
    assert result["per_class"]["dog"] == {"AP": 0, "objects": 1}
    assert math.isnan(result["per_class"]["cow"]["AP"])
    assert result["mAP"] == pytest.approx(0.125)  # of cats and dogs: there are no cows
    assert (result["images"], result["detections"]) == (2, 4)
    result = evaluate_voc(Replay(predictions), data, metric="voc07", progress=False)
    # 0 to 0.5, six points of eleven at 1/2.
    assert result["per_class"]["cat"]["AP"] == pytest.approx(3 / 11)


@pytest.mark.parametrize("metric", ["voc", "voc07"])
def test_the_ground_truth_scores_one(metric):
    data = ShapesDataset(5, (64, 64))
    targets = [data[i].target for i in range(5)]
    predictions = [{**t, "scores": np.full(len(t["labels"]), 0.5, np.float32)} for t in targets]
    found = evaluate_voc(Replay(predictions), data, metric=metric, progress=False)
    assert found["mAP"] == pytest.approx(1)


def test_another_metric():
    with pytest.raises(ValueError, match="metric='coco': expected one of"):
        evaluate_voc(Replay([]), ShapesDataset(1), metric="coco")
