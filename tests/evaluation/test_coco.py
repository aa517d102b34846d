"""COCO's metrics: equal to pycocotools, and by hand."""

import json
import math
import sys

import numpy as np
import pytest

from annotated import coco_content, make_coco, save_image
from mlx_rcnn.data import ShapesDataset, open_dataset
from mlx_rcnn.evaluation import coco_metrics, collect, evaluate_coco, results_entries
from mlx_rcnn.ops.rle import decode_rle
from recipe import GOLDENS


class Replay:
    """Gives predictions made beforehand, in the order of the dataset."""

    def __init__(self, predictions):
        self.predictions, self.batches = list(predictions), []

    def predict(self, images, *, score_thresh=None):
        self.batches.append((len(images), score_thresh))
        return [self.predictions.pop(0) for _ in images]


def perfect(dataset, masks=True, score=0.9):
    """The ground truth as predictions."""
    out = []
    for i in range(len(dataset)):
        target = dataset[i].target
        found = {"boxes": target["boxes"], "labels": target["labels"]}
        found["scores"] = np.full(len(target["labels"]), score, np.float32)
        if masks and "masks" in target:
            found["masks"] = target["masks"].astype(bool)
        out.append(found)
    return out


def evaluate(dataset, predictions, **options):
    return evaluate_coco(Replay(predictions), dataset, progress=False, **options)


def test_the_ground_truth_scores_one():
    data = ShapesDataset(6, (64, 64))
    found = evaluate(data, perfect(data))
    for key in ("AP", "AP50", "AP75", "AR100", "segm_AP", "segm_AP50", "segm_AR100"):
        assert found[key] == pytest.approx(1, abs=1e-9), key
    assert set(found["per_class"]) == {"circle", "square", "triangle"}
    for row in found["per_class"].values():
        assert row["AP"] == row["segm_AP"] == pytest.approx(1, abs=1e-9)
    assert found["class_names"] == list(data.class_names)
    assert (
        found["objects"]
        == found["detections"]
        == sum(len(data[i].target["labels"]) for i in range(6))
    )
    assert found["images"] == 6 and found["images_per_second"] > 0


def boxes_dataset(tmp_path, boxes, extra=()):
    """One image of 80 x 100 with cats; `extra` is added to the annotations."""
    content = coco_content()
    del content["images"][0]
    content["annotations"] = [
        {
            "id": i,
            "image_id": 4,
            "category_id": 3,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, box in enumerate(boxes)
    ] + list(extra)
    return open_dataset(make_coco(tmp_path, content))


def found(*rows):
    """Predictions of (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].astype(np.int32)}


def test_half_found_by_hand(tmp_path):
    data = boxes_dataset(tmp_path, [(0, 0, 10, 10), (50, 50, 10, 10)])
    # One of two objects is found, exactly: precision 1 up to recall 0.5, that is at 51 of the 101
    # recalls 0, 0.01, ... 1, at every threshold.
    result = evaluate(data, [found((0, 0, 10, 10, 0.9, 1))])
    assert result["AP"] == result["AP50"] == pytest.approx(51 / 101)
    assert result["AR1"] == result["AR100"] == pytest.approx(0.5)
    # A wrong one that scores better halves the precision of what comes after.
    result = evaluate(data, [found((0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.95, 1))])
    assert result["AP"] == pytest.approx(0.5 * 51 / 101)
    # The box is 10 x 10, found 10 x 7: IoU 0.7 passes thresholds 0.5 to 0.65 and, as 7 / 10, 0.7.
    result = evaluate(data, [found((0, 0, 10, 7, 0.9, 1))])
    assert result["AP"] == pytest.approx(5 / 10 * 51 / 101)
    assert result["AP50"] == pytest.approx(51 / 101) and result["AP75"] == 0
    # Of 100 square pixels, both are small.
    assert result["APs"] == result["AP"] and math.isnan(result["APm"])
    # Of the right place and the wrong class: nothing. Dogs: nothing to find.
    result = evaluate(data, [found((0, 0, 10, 10, 0.9, 2))])
    assert result["AP"] == 0 and math.isnan(result["per_class"]["dog"]["AP"])
    assert result["per_class"]["cat"] == {"AP": 0, "AP50": 0, "objects": 2}


def test_crowds_and_boxes_that_training_drops(tmp_path):
    crowd = {
        "id": 90,
        "image_id": 4,
        "category_id": 3,
        "bbox": [40, 0, 40, 40],
        "area": 1600,
        "iscrowd": 1,
    }
    data = boxes_dataset(tmp_path, [(0, 0, 10, 10)], [crowd])
    # Two detections within the crowd are neither right nor wrong.
    rows = (41, 1, 60, 20, 0.99, 1), (50, 5, 70, 30, 0.98, 1), (0, 0, 10, 10, 0.5, 1)
    result = evaluate(data, [found(*rows)])
    assert result["AP"] == pytest.approx(1) and result["objects"] == 1
    # A box without area is dropped and named: pycocotools would count it as never found.
    empty = {
        "id": 91,
        "image_id": 4,
        "category_id": 3,
        "bbox": [5, 5, 0, 3],
        "area": 0,
        "iscrowd": 0,
    }
    data = boxes_dataset(tmp_path, [(0, 0, 10, 10)], [empty])
    result = evaluate(data, [found((0, 0, 10, 10, 0.5, 1))])
    assert result["AP50"] == pytest.approx(1) and result["objects"] == 1
    assert [defect.rule for defect in data.defects] == ["object dropped"]


def test_nothing_found_and_nothing_there(tmp_path):
    data = boxes_dataset(tmp_path, [(0, 0, 10, 10)])
    assert evaluate(data, [found()])["AP"] == 0
    data = boxes_dataset(tmp_path, [])
    result = evaluate(data, [found((0, 0, 10, 10, 0.5, 1))])
    assert math.isnan(result["AP"]) and result["objects"] == 0


def golden(tmp_path):
    content = json.loads((GOLDENS / "eval_coco.json").read_text())
    for image in content["truth"]["images"]:
        save_image(tmp_path / image["file_name"], (image["height"], image["width"]))
    (tmp_path / "truth.json").write_text(json.dumps(content["truth"]))
    data = open_dataset(tmp_path / "truth.json", masks=True)
    labels = {own: label for label, own in enumerate(data.category_ids, 1)}
    predictions = []
    for item in data.items:
        mine = [entry for entry in content["found"] if entry["image_id"] == item.image_id]
        xywh = np.array([entry["bbox"] for entry in mine], np.float32).reshape(-1, 4)
        masks = [decode_rle(entry["segmentation"]) for entry in mine]
        predictions.append(
            {
                "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                "scores": np.array([entry["score"] for entry in mine], np.float32),
                "labels": np.array([labels[e["category_id"]] for e in mine], np.int32),
                "masks": np.array(masks, bool).reshape(len(mine), *item.size),
            }
        )
    return content, data, predictions


@pytest.mark.parametrize("renamed", [False, True])
def test_equal_to_pycocotools(tmp_path, renamed):
    content, data, predictions = golden(tmp_path)
    if renamed:  # a model with the classes in another order, and more of them
        names = ("__background__", "owl", "bird", "N/A", "dog", "cat", "never seen")
        lookup = np.array([0, *(names.index(name) for name in data.class_names[1:])])
        for prediction in predictions:
            prediction["labels"] = lookup[prediction["labels"]]
        data = data.with_classes(names)
    result = evaluate(data, predictions, batch_size=4)
    for kind, prefix in (("bbox", ""), ("segm", "segm_")):
        expected = content["expected"][kind]
        for key, value in expected["stats"].items():
            if value == -1:
                assert math.isnan(result[prefix + key])
            else:
                assert result[prefix + key] == pytest.approx(value, abs=1e-12), (kind, key)
        for name, (ap, ap50) in expected["classes"].items():
            row = result["per_class"][name]
            for key, value in (("AP", ap), ("AP50", ap50)):
                if value is None:
                    assert math.isnan(row[prefix + key])
                else:
                    assert row[prefix + key] == pytest.approx(value, abs=1e-12), (kind, name, key)
    assert 0.2 < result["AP"] < 0.6 and result["AP"] != result["segm_AP"]


def test_results_carry_the_datasets_own_ids(tmp_path):
    content, data, predictions = golden(tmp_path)
    entries = results_entries(collect(Replay(predictions), data, progress=False), data.category_ids)
    key = lambda e: (e["image_id"], e["category_id"], e["bbox"], e["score"])  # noqa: E731
    want = [{**e, "score": round(e["score"], 8)} for e in content["found"]]
    assert sorted(map(key, entries)) == sorted(map(key, want))
    assert all(set(entry) == set(want[0]) for entry in entries)


def test_classes_that_the_data_lacks_are_left_out_of_the_results(tmp_path):
    data = open_dataset(make_coco(tmp_path)).with_classes(("__background__", "owl", "cat", "dog"))
    predictions = [found((0, 0, 9, 9, 0.9, 1), (0, 0, 9, 9, 0.8, 2)), found((1, 1, 9, 9, 0.9, 3))]
    entries = results_entries(collect(Replay(predictions), data, progress=False), data.category_ids)
    assert [(e["image_id"], e["category_id"]) for e in entries] == [(4, 3), (9, 17)]


def test_masks_only_where_both_sides_have_them():
    data = ShapesDataset(2, (32, 32))
    assert "segm_AP" not in evaluate(data, perfect(data, masks=False))
    without = ShapesDataset(2, (32, 32), masks=False)
    assert "segm_AP" not in evaluate(without, perfect(data))


def test_batches_and_threshold_reach_the_model():
    data = ShapesDataset(5, (32, 32))
    model = Replay(perfect(data))
    evaluate_coco(model, data, batch_size=2, score_thresh=0.3, progress=False)
    assert model.batches == [(2, 0.3), (2, 0.3), (1, 0.3)]


def test_the_bar(capsys):
    data = ShapesDataset(2, (32, 32))
    coco_metrics(collect(Replay(perfect(data)), data))
    assert "2/2" in capsys.readouterr().err
    evaluate(data, perfect(data))
    assert capsys.readouterr() == ("", "")


def test_errors(monkeypatch):
    data = ShapesDataset(1, (32, 32))
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate(data, [], batch_size=0)
    with pytest.raises(ValueError, match="no images"):
        evaluate([], [], batch_size=1)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r'pip install "mlx-rcnn\[eval\]"'):
        evaluate(data, perfect(data))
