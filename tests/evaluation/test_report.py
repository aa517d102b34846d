"""The report's page and numbers: masks, keypoints, many classes, pictures and charts."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.evaluation import coco_metrics, collect, error_analysis, write_report
from mlx_rcnn.evaluation.matches import match
from mlx_rcnn.evaluation.report.charts import bar, curve_chart, spark
from mlx_rcnn.evaluation.report.pictures import draw_both
from mlx_rcnn.evaluation.report.text import change, escape, number, percent
from scored import collected_of

GREEN = (46, 160, 90)


def written(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    return page, json.loads((folder / "report.json").read_text())


class Perfect:
    """Finds what is there, and in the first image nothing."""

    def __init__(self, dataset):
        self.dataset, self.at = dataset, 0

    def predict(self, images, *, score_thresh=None):
        found = []
        for _ in images:
            target = self.dataset[self.at].target
            keep = slice(0, None if self.at else 0)
            found.append({name: target[name][keep] for name in ("boxes", "labels")})
            found[-1]["scores"] = np.full(len(found[-1]["labels"]), 0.9, np.float32)
            found[-1]["masks"] = target["masks"][keep].astype(bool)
            self.at += 1
        return found


def test_masks_are_told_beside_boxes(tmp_path):
    data = ShapesDataset(3, (48, 64))
    collected = collect(Perfect(data), data, progress=False)
    other = replace(collected, masks=False)
    report = write_report(tmp_path / "out", collected, data, names=("a", "b"), against=other)
    page, stored = written(tmp_path / "out")
    assert list(report["analyses"]) == ["bbox", "segm"]
    assert list(report["against"]["analyses"]) == ["bbox"]
    # Images are judged by what both have; nothing differs.
    assert stored["pictures"] == "bbox" and stored["against"]["difference"]["bbox"]["images"] == []
    assert "is better on 0 images and worse on 0 of 3" in page
    assert '<h2 id="segm">Masks</h2>' in page and page.count("<img ") == 1
    objects = len(data[0].target["labels"])
    assert f"0 objects found, 0 wrong, {objects} not found; F1 0.0" in page
    expected = error_analysis(collected, "segm")
    assert stored["analyses"]["segm"]["AP"] == pytest.approx(expected["AP"], abs=1e-6)
    assert stored["analyses"]["segm"]["errors"]["missed"]["count"] == objects
    alone = write_report(tmp_path / "alone", collected, data)
    assert alone["pictures"] == "segm" and "<img " in written(tmp_path / "alone")[0]


def test_of_keypoints_the_ap_is_told_and_the_rest_is_said_to_be_missing(tmp_path):
    collected = collected_of([(1, 1, 0, 0, 50, 50, 0)], [(1, 1, 0, 0, 50, 50, 0.9)])
    collected.keypoints = 2
    points = [10.0, 10.0, 2, 40.0, 40.0, 2]
    collected.truth[0] |= {"keypoints": points, "num_keypoints": 2}
    collected.found[0] |= {"keypoints": points}
    write_report(tmp_path, collected)
    page, stored = written(tmp_path)
    assert stored["metrics"]["keypoints_AP"] == 1 and list(stored["analyses"]) == ["bbox"]
    assert "<td>keypoint</td><td>100.0</td>" in page
    assert "Of keypoints only the AP is given" in page


def test_many_classes(tmp_path):
    names = ("__background__", *(f"class {i}" for i in range(1, 204)))
    truth, found = [], []
    for label in range(1, 101):  # on one image, in a row, each taken for the next
        box = (label, 0, label + 0.5, 50)
        truth.append((1, label, *box, 0))
        found.append((1, label + 1, *box, 0.9 - label / 1000))
    write_report(tmp_path, collected_of(truth, found, names))
    page, stored = written(tmp_path)
    assert "30 of 101 classes, those most often taken for another" in page
    assert page.count('class="turned"') == 31 and page.count("<figure>") == 13
    assert "102 classes have neither objects nor detections." in page
    assert 'id="classes-bbox" class="sorts classes"' in page and page.count("<bdi title=") == 101
    assert len(page) < 250_000
    boxes = stored["analyses"]["bbox"]
    assert len(boxes["per_class"]) == 203 and len(boxes["confusion"]["cells"]) == 100
    assert boxes["per_class"]["class 200"]["curves"]["AP"] is None
    # Each put right: the last class, which has no objects, is then no longer found.
    assert boxes["errors"]["class"] == {"dAP": 1.0, "count": 100, "passed_over": 0}


def test_metrics_that_are_known_are_not_computed_again(tmp_path, monkeypatch):
    collected = collected_of([(1, 1, 0, 0, 50, 50, 0)], [])
    metrics = coco_metrics(collected)
    monkeypatch.setattr("mlx_rcnn.evaluation.report.write.coco_metrics", None)
    assert write_report(tmp_path, collected, metrics=metrics)["metrics"] is metrics


def test_pictures_outline_what_is_right_and_name_what_is_wrong():
    truth = [(1, 1, 0, 0, 20, 40, 0), (1, 2, 60, 50, 90, 90, 0)]
    found = [(1, 1, 0, 0, 20, 40, 0.9), (1, 1, 60, 50, 90, 90, 0.8), (1, 2, 5, 60, 25, 90, 0.1)]
    collected = collected_of(truth, found)
    matches = match(collected, "bbox")
    pixels = np.full((100, 100, 3), 120, np.uint8)
    picture = np.asarray(draw_both(pixels, collected, matches, 1, 0.5))
    assert picture.shape == (560, 2 * 560 + 6, 3)
    left, right = picture[:, :560], picture[:, 566:]
    for half in (left, right):
        assert tuple(half[0, 50]) == tuple(half[100, 111]) == GREEN  # the cat's box, 5.6 times
    orange, pink = tuple(left[400, 336]), tuple(right[400, 336])
    assert orange == (255, 127, 0) and pink == (217, 65, 185)  # of another class; not found
    assert tuple(left[400, 28]) == (120, 120, 120)  # scores too little to be shown
    # Detections of images of another type and shape.
    wide = draw_both(np.zeros((10, 200, 3), np.float32), collected, matches, 1, 2.0)
    assert wide.size == (2 * 560 + 6, 28) and isinstance(wide, Image.Image)


def test_charts_go_through_their_values():
    values = [1.0] * 51 + [0.0] * 50
    chart = curve_chart("a <b>", [("AP50 50.5", values), ("none", None)])
    (line,) = re.findall(r'class="c0" d="M([\d. L]+)"/></?[^f]', chart)[:1]
    points = [tuple(map(float, point.split())) for point in line.split("L")]
    # 30 to 254 across, 16 to 175 down: precision 1 up to recall 0.5, then 0.
    assert points == [(30, 16), (142, 16), (144.2, 175), (254, 175)]
    assert "a &lt;b&gt;" in chart and "AP50 50.5" in chart and ">none<" not in chart
    assert spark(values).count("L") == 3 and spark(None) == ""
    assert 'width="90.0"' in bar(0.25, 0.5) and 'width="0.0"' in bar(float("nan"), 0.5)
    assert 'class="other" width="0.0"' in bar(0.0, 0.0, True)


def test_numbers_as_text():
    assert [percent(v) for v in (0.5744, None, float("nan"))] == ["57.4", "-", "-"]
    assert [number(v) for v in (0.53999, 0.54, None)] == ["0.539", "0.540", "-"]
    assert change(0.0004) == "0.0" and change(None) == "-"
    assert change(0.012) == '<span class="up">+1.2</span>'
    assert change(-0.012, coloured=False) == "\u22121.2"
    assert escape("a<\n\x00'\"") == "a&lt;  &#x27;&quot;"
