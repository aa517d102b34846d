"""COCO's keypoint metrics: equal to pycocotools, and by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from annotated import coco_content, make_coco, save_image
from mlx_rcnn.data import ShapesDataset, open_dataset
from mlx_rcnn.evaluation import coco_metrics, collect, evaluate_coco, results_entries
from recipe import GOLDENS


class Replay:
    """Gives predictions made beforehand, in the order of the dataset."""

    def __init__(self, predictions):
        self.predictions = list(predictions)

    def predict(self, images, *, score_thresh=None):
        return [self.predictions.pop(0) for _ in images]


def evaluate(dataset, predictions, **options):
    return evaluate_coco(Replay(predictions), dataset, progress=False, **options)


def perfect(dataset):
    """The ground truth as predictions."""
    out = []
    for i in range(len(dataset)):
        found = {k: dataset[i].target[k] for k in ("boxes", "labels", "keypoints")}
        found["scores"] = np.full(len(found["labels"]), 0.9, np.float32)
        out.append(found)
    return out


def test_the_ground_truth_scores_one():
    data = ShapesDataset(6, (64, 64), keypoints=True)
    result = evaluate(data, perfect(data))
    for key in ("AP", "keypoints_AP", "keypoints_AP50", "keypoints_AP75", "keypoints_AR"):
        assert result[key] == pytest.approx(1, abs=1e-9), key
    assert "segm_AP" not in result
    for row in result["per_class"].values():
        assert row["keypoints_AP"] == row["keypoints_AP50"] == pytest.approx(1, abs=1e-9)


def test_similarity_by_hand(tmp_path):
    content = coco_content()
    content["categories"][1] |= {"keypoints": ["a", "b"]}
    content["annotations"] = [
        {**content["annotations"][1], "area": 400.0, "keypoints": [20, 30, 2, 0, 0, 0]}
    ]
    del content["images"][0]
    data = open_dataset(make_coco(tmp_path, content), keypoints=True)
    places = [[20, 30, 1], [99, 0, 1]]  # the second is not annotated, and does not count

    def score(distance, **options):
        found = {
            "boxes": data[0].target["boxes"],
            "labels": np.array([1]),
            "scores": np.array([0.9]),
            "keypoints": np.array([places], np.float32) + [[distance, 0, 0], [0, 0, 0]],
        }
        return evaluate(data, [found], **options)["keypoints_AP"]

    # exp(-d^2 / (2 * 400 * (2 * 0.05)^2)) = exp(-d^2 / 8): 0.7548 for d = 1.5 passes the thresholds
    # 0.5, 0.55, ... 0.75, six of ten; 0.882 for d = 1 passes 0.8 and 0.85 too.
    assert score(0) == pytest.approx(1) and score(1.5) == pytest.approx(0.6)
    assert score(1) == pytest.approx(0.8)
    # A sigma twice as large: exp(-d^2 / 32) is 0.7548 for d = 3.
    assert score(3, keypoint_sigmas=(0.1, 0.1)) == pytest.approx(0.6)
    for odd in ((0.1,), (0.1, 0)):
        with pytest.raises(ValueError, match="keypoint_sigmas=.*expected 2 numbers above 0"):
            score(1, keypoint_sigmas=odd)


def golden(tmp_path, count):
    content = json.loads((GOLDENS / "eval_keypoints.json").read_text())[str(count)]
    for image in content["truth"]["images"]:
        save_image(tmp_path / image["file_name"], (image["height"], image["width"]))
    (tmp_path / "truth.json").write_text(json.dumps(content["truth"]))
    data = open_dataset(tmp_path / "truth.json", keypoints=True)
    labels = {own: label for label, own in enumerate(data.category_ids, 1)}
    predictions = []
    for item in data.items:
        mine = [entry for entry in content["found"] if entry["image_id"] == item.image_id]
        points = np.array([e["keypoints"] for e in mine], np.float32).reshape(-1, count, 3)
        low, high = (f(points[:, :, :2], axis=1) for f in (np.min, np.max)) if mine else ([], [])
        predictions.append(
            {
                "boxes": np.concatenate([low, high], axis=1) if mine else np.zeros((0, 4)),
                "scores": np.array([entry["score"] for entry in mine], np.float32),
                "labels": np.array([labels[e["category_id"]] for e in mine], np.int32),
                "keypoints": points,
                "keypoints_scores": np.ones((len(mine), count), np.float32),
            }
        )
    return content, data, predictions


@pytest.mark.parametrize("count", [17, 5])
def test_equal_to_pycocotools(tmp_path, count):
    content, data, predictions = golden(tmp_path, count)
    result = evaluate(data, predictions)
    for key, value in content["expected"]["stats"].items():
        assert result[f"keypoints_{key}"] == pytest.approx(value, abs=1e-12), key
    for name, (ap, ap50) in content["expected"]["classes"].items():
        row = result["per_class"][name]
        assert row["keypoints_AP"] == pytest.approx(ap, abs=1e-12)
        assert row["keypoints_AP50"] == pytest.approx(ap50, abs=1e-12)
    assert 0.2 < result["keypoints_AP"] < 0.8


def test_results_are_cocos(tmp_path):
    content, data, predictions = golden(tmp_path, 17)
    entries = results_entries(collect(Replay(predictions), data, progress=False), data.category_ids)
    key = lambda e: (e["image_id"], e["category_id"], e["keypoints"], e["score"])  # noqa: E731
    want = [{**e, "score": round(e["score"], 8)} for e in content["found"]]
    assert sorted(map(key, entries)) == sorted(map(key, want))


def test_only_where_both_sides_have_them(tmp_path):
    data = ShapesDataset(2, (32, 32), keypoints=True)
    without = ShapesDataset(2, (32, 32))
    assert "keypoints_AP" not in evaluate(without, perfect(data))
    boxes = [{k: v for k, v in found.items() if k != "keypoints"} for found in perfect(data)]
    assert "keypoints_AP" not in evaluate(data, boxes)
    assert "keypoints_AP" not in evaluate(data, [perfect(data)[0], boxes[1]])
    assert "keypoints_AP" not in evaluate(data, [boxes[0], perfect(data)[1]])


def test_nothing_found_and_nothing_there(tmp_path):
    empty = {
        "boxes": np.zeros((0, 4)),
        "scores": np.zeros(0),
        "labels": np.zeros(0, int),
        "keypoints": np.zeros((0, 5, 3)),
    }
    data = ShapesDataset(2, (32, 32), keypoints=True)
    assert evaluate(data, [empty] * 2)["keypoints_AP"] == 0
    content = coco_content()
    content["categories"][0]["keypoints"] = list("abcde")
    data = open_dataset(make_coco(tmp_path, content), keypoints=True)  # none is visible
    result = evaluate(data, [{**empty, **perfect(data)[0]}, empty])
    assert math.isnan(result["keypoints_AP"]) and result["AP"] == pytest.approx(0.5)


def test_other_numbers_of_keypoints():
    data = ShapesDataset(1, (32, 32), keypoints=True)
    (found,) = perfect(data)
    found["keypoints"] = found["keypoints"][:, :3]
    with pytest.raises(ValueError, match="finds 3 keypoints, but the data has 5 of an object"):
        coco_metrics(collect(Replay([found]), data, progress=False))


def test_half_a_pixel_of_detectron2s_is_taken_off() -> None:
    """A model that puts points where detectron2 does is scored as its evaluator scores it."""
    data = ShapesDataset(3, (64, 64), keypoints=True)

    class Perfect:
        config = SimpleNamespace(keypoint_offset=0.5)

        def __init__(self) -> None:
            self.at = iter(range(len(data)))

        def predict(self, images, **options):
            target = data[next(self.at)].target
            found = {k: target[k] for k in ("boxes", "labels", "keypoints")}
            found["keypoints"] = found["keypoints"] + np.array([0.5, 0.5, 0], np.float32)
            return [{**found, "scores": np.ones(len(found["boxes"]), np.float32)}]

    collected = collect(Perfect(), data, progress=False)
    for entry, truth in zip(collected.found, collected.truth, strict=True):
        want = np.array(truth["keypoints"], float).reshape(-1, 3)[:, :2]
        got = np.array(entry["keypoints"]).reshape(-1, 3)[:, :2]
        seen = np.array(truth["keypoints"]).reshape(-1, 3)[:, 2] > 0
        np.testing.assert_allclose(got[seen], want[seen], atol=1e-3)
