"""metrics.jsonl, curves and the contact sheet."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from mlx_rcnn.training.metrics import Metrics, draw_curves, smooth
from mlx_rcnn.training.pictures import contact_sheet


def test_lines_of_lost_work_go(tmp_path: Path):
    metrics = Metrics(tmp_path)
    for step in (1, 2, 3):
        metrics.add({"kind": "step", "step": step, "total_loss": np.float32(0.5), "lr": 0.1})
    metrics.add({"kind": "epoch", "step": 3, "epoch": 1, "metrics": {"AP": math.nan}})
    assert metrics.evaluated(1) and not metrics.evaluated(2)
    with metrics.path.open("a") as file:
        file.write('{"kind": "step", "st')  # killed here
    metrics = Metrics(tmp_path, 3)
    metrics.add({"kind": "step", "step": 4})
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4]
    assert lines[3]["metrics"] == {"AP": None} and lines[0]["total_loss"] == 0.5
    assert [line["step"] for line in Metrics(tmp_path, 2).lines()] == [1, 2]


def test_smooth():
    # Means of 1; 1, 3; 1, 3, 5.
    np.testing.assert_allclose(smooth(np.array([1.0, 3, 5])), [1, 2, 3])
    np.testing.assert_allclose(smooth(np.arange(30.0))[-1], np.mean(np.arange(10, 30)))


def test_curves(tmp_path: Path):
    pytest.importorskip("matplotlib")
    metrics = Metrics(tmp_path)
    assert draw_curves(metrics)  # of nothing yet
    for step in (1, 2):
        metrics.add({"kind": "step", "step": step, "total_loss": 1.0, "lr": 0.1})
    metrics.add({"kind": "epoch", "step": 2, "epoch": 1, "metrics": {"AP": 0.5, "AP50": None}})
    assert draw_curves(metrics)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1200, 400)


def test_contact_sheet(tmp_path: Path):
    model, path = tiny.build().eval(), tmp_path / "new" / "sheet.png"
    for count, size in ((1, (320, 320)), (3, (640, 640)), (6, (960, 640))):
        contact_sheet(model, tiny.shapes(count), model.class_names or ("a",), path)
        with Image.open(path) as picture:
            assert picture.size == size


def test_contact_sheet_of_given_proposals(tmp_path: Path):
    """A Fast R-CNN looks at the proposals of each image's own sample."""
    data, asked = tiny.shapes(2), []
    model = tiny.build("faster_rcnn").eval()

    class Given:
        needs_proposals = True

        def predict(self, image, proposals):
            asked.append(proposals)
            return model.predict(image)

    class WithBoxes:
        def __len__(self):
            return len(data)

        def __getitem__(self, index):
            sample = data[index]
            return sample._replace(target={**sample.target, "proposals": np.full((1, 4), index)})

    contact_sheet(Given(), WithBoxes(), data.class_names, tmp_path / "sheet.png")
    assert [given.tolist() for given in asked] == [[[0] * 4], [[1] * 4]]
