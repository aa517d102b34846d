"""TIDE's errors: equal to tidecv, and by hand."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from annotated import save_image
from mlx_rcnn.data import open_dataset
from mlx_rcnn.evaluation import coco_metrics, read_results
from mlx_rcnn.evaluation.coco import precision_curves, scored_labels
from mlx_rcnn.evaluation.errors import error_costs
from mlx_rcnn.evaluation.matches import KINDS, match
from recipe import GOLDENS
from scored import collected_of

THEIRS = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS, strict=True))
CROWDED = 8  # the image that has more than 100
HALF_IN_CROWD = 0.769254  # by exactly a half: enough for COCO to pass it over, not for tidecv


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tide")
    content = json.loads((GOLDENS / "tide.json").read_text())
    for image in content["truth"]["images"]:
        save_image(folder / image["file_name"], (image["height"], image["width"]))
    for name in ("truth", "found"):
        (folder / f"{name}.json").write_text(json.dumps(content[name]))
    data = open_dataset(folder / "truth.json", masks=True)
    return content, read_results(folder / "found.json", data)


def costs(collected, kind="bbox"):
    matches = match(collected, kind)
    return matches, error_costs(matches, len(collected.class_names))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equal_to_tidecv(golden, kind):
    content, collected = golden
    expected = content["expected"][kind]
    _, found = costs(collected, kind)
    assert 100 * found["AP50"] == pytest.approx(expected["AP50"], abs=1e-9)
    for theirs, ours in THEIRS.items():
        row = found["errors"][ours]
        assert 100 * row["dAP"] == pytest.approx(expected["main"][theirs], abs=1e-9), ours
        # tidecv counts what lies in crowds, and costs nothing, as well.
        assert row["count"] + row["passed_over"] == expected["counts"][theirs], ours
    special = expected["special"]
    assert 100 * found["false_positives"] == pytest.approx(special["FalsePos"], abs=1e-9)
    assert 100 * found["false_negatives"] == pytest.approx(special["FalseNeg"], abs=1e-9)
    assert sum(row["passed_over"] for row in found["errors"].values()) > 0
    assert all(row["dAP"] > 0 for row in found["errors"].values())


def test_what_is_right_gives_the_evaluators_average_precision(golden):
    _, collected = golden
    # TIDE takes 100 detections an image, COCO 100 of each class: the same where there are fewer.
    few = [e for e in collected.found if e["image_id"] != CROWDED]
    assert len(few) < len(collected.found) - 100
    few = [e for e in few if e["score"] != HALF_IN_CROWD]
    collected = replace(collected, found=few)
    for kind in ("bbox", "segm"):
        labels, curves = scored_labels(collected), precision_curves(collected, kind)
        matches = match(collected, kind)
        per_class = coco_metrics(collected)["per_class"]
        name = "AP50" if kind == "bbox" else "segm_AP50"
        for k, label in enumerate(labels):
            expected = per_class[collected.class_names[label]][name]
            mine = (matches.labels == label) & ~matches.passed_over
            order = np.argsort(-matches.scores[mine], kind="stable")
            right = matches.kinds[mine][order] == -1
            objects = int((matches.object_labels == label).sum())
            assert math.isnan(expected) == (objects == 0)
            if objects:
                assert slow_ap(right, objects) == pytest.approx(expected, abs=1e-12)
                assert curves[0, :, k].mean() == pytest.approx(expected, abs=1e-12)


def slow_ap(right, objects):
    total = 0.0
    for recall in range(101):
        best = 0.0
        for n in range(1, len(right) + 1):
            if sum(right[:n]) / objects >= recall / 100:
                best = max(best, sum(right[:n]) / n)
        total += best
    return total / 101


def test_each_kind_by_hand():
    truth = [
        (1, 1, 0, 0, 10, 10, 0),  # found
        (1, 1, 50, 0, 60, 10, 0),  # found too small: IoU 0.4
        (1, 2, 0, 50, 10, 60, 0),  # taken for a cat
        (1, 2, 50, 50, 60, 60, 0),  # missed
        (1, 1, 80, 80, 100, 100, 1),  # a crowd
    ]
    found = [
        (1, 1, 0, 0, 10, 10, 0.9),  # right
        (1, 1, 50, 0, 60, 4, 0.8),  # location
        (1, 1, 0, 50, 10, 60, 0.7),  # class
        (1, 1, 0, 0, 10, 9, 0.6),  # duplicate
        (1, 1, 20, 20, 30, 30, 0.5),  # background
        (1, 1, 50, 50, 60, 54, 0.4),  # both: IoU 0.4 with a dog
        (1, 1, 81, 81, 90, 90, 0.3),  # in the crowd, and with no object
    ]
    matches, costs_ = costs(collected_of(truth, found))
    names = [KINDS[k] if k >= 0 else "right" for k in matches.kinds]
    wanted = ["right", "location", "class", "duplicate", "background", "both", "background"]
    assert names == wanted
    assert matches.objects.tolist() == [0, 1, 2, 0, -1, -1, -1]
    assert matches.passed_over.tolist() == [False] * 6 + [True]
    assert matches.missed().tolist() == [False, False, False, True]
    # Cats: 1 of 2 found at precision 1, 51 of 101 recalls. Dogs: none of 2.
    half = 51 / 101
    assert costs_["AP50"] == pytest.approx(half / 2)
    gain = {name: row["dAP"] for name, row in costs_["errors"].items()}
    # The badly placed cat put right is the second of two: recall 1 at precision 1.
    assert gain["location"] == pytest.approx((1 - half) / 2)
    # The dog that was a cat is one of two dogs, at precision 1.
    assert gain["class"] == pytest.approx(half / 2)
    # Worse than all that is right, these cost nothing. Missed: one dog fewer to find, none found.
    assert [gain[k] for k in ("both", "duplicate", "background", "missed")] == [0] * 4
    assert {k: (r["count"], r["passed_over"]) for k, r in costs_["errors"].items()} == {
        **dict.fromkeys(KINDS, (1, 0)),
        "background": (1, 1),
    }
    # Without cats to miss the one found is all; no dog was found, so that they no longer count.
    assert costs_["false_negatives"] == pytest.approx(1 - half / 2)
    assert costs_["false_positives"] == 0


def test_nothing_there_and_nothing_found():
    matches, nothing = costs(collected_of([], []))
    assert math.isnan(nothing["AP50"]) and not len(matches.labels)
    _, missed = costs(collected_of([(1, 1, 0, 0, 9, 9, 0)], []))
    assert missed["AP50"] == 0 and missed["errors"]["missed"]["count"] == 1
    _, invented = costs(collected_of([], [(1, 1, 0, 0, 9, 9, 0.5)]))
    assert invented["AP50"] == 0 and invented["errors"]["background"]["count"] == 1


def test_the_best_hundred_of_an_image_count():
    found = [(1, 1, i % 90, 0, i % 90 + 5, 5, i / 1000) for i in range(130)]
    matches, _ = costs(collected_of([(1, 1, 0, 0, 9, 9, 0)], found))
    assert Counter(matches.images.tolist()) == {1: 100}
    assert matches.scores[0] == 0.129 and matches.scores[-1] == 0.03
