"""Keypoints on the command line: pictures and results of ``predict``, and ``evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.cli.main import main
from mlx_rcnn.data import write_coco
from mlx_rcnn.outputs.skeletons import limb_color


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    """Two images of shapes with their keypoints."""
    monkeypatch.chdir(tmp_path)
    return write_coco(tiny.shapes(2, keypoints=True), tmp_path / "data")


class Found:
    """A Keypoint R-CNN that finds a circle's keypoints in a row, but for the last one."""

    def __init__(self, **options):
        names = tiny.shapes().class_names
        options = {"keypoint_names": tiny.shapes(1, keypoints=True).keypoint_names, **options}
        self.model = tiny.build("keypoint_rcnn", class_names=names, **options)
        self.scores = [5.0, 5.0, 5.0, 5.0, -1.0]

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def predict(self, images, **_):
        row = [(10.5 + 10 * k, 30.5, 1) for k in range(5)]
        return [
            {
                "boxes": np.array([[5, 5, 60, 60]], np.float32),
                "scores": np.array([0.9], np.float32),
                "labels": np.array([1], np.int32),
                "keypoints": np.array([row], np.float32),
                "keypoints_scores": np.array([self.scores], np.float32),
            }
            for _ in images
        ]


@pytest.fixture
def model(monkeypatch) -> Found:
    fake = Found(keypoint_skeleton=((0, 1), (3, 4)))
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: fake)
    return fake


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--model", "fake"])


def test_predict(data: Path, model: Found, capsys):
    assert run("predict", data.parent / "images", "--classes", "circle") == 0
    out = capsys.readouterr().out
    assert "circle 1" in out and "2 images, 2 detections" in out
    first, _ = json.loads(Path("predictions/detections.json").read_text())
    assert first["keypoints"][:6] == [10.5, 30.5, 1, 20.5, 30.5, 1]
    assert len(first["keypoints"]) == 15 and first["keypoints_scores"] == model.scores
    # 64 x 80 is enlarged by 256 / 80, rounded up: 4.
    picture = np.asarray(Image.open("predictions/000001.png"))
    assert tuple(picture[122, 42]) == limb_color(0, 5)
    assert tuple(picture[122, 62]) == limb_color(0, 2)
    plain = np.asarray(Image.open(data.parent / "images/000001.png")).repeat(4, 0).repeat(4, 1)
    # The last keypoint scores too little, and so does the limb to it.
    assert (picture[115:130, 180:215] == plain[115:130, 180:215]).all()


def test_evaluate(data: Path, model: Found, capsys):
    assert run("evaluate", "--data", data, "--json", "found.json") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert " ".join(lines[0].split()) == "class objects AP AP50 keypoint AP keypoint AP50"
    assert any(line.startswith("box ") for line in lines) and "warning" not in err
    (start,) = [i for i, line in enumerate(lines) if line.startswith("keypoint AP ")]
    assert lines[start].split()[1::2] == ["AP", "AP50", "AP75", "APm", "APl"]
    assert lines[start + 1].split()[::2] == ["AR", "AR50", "AR75", "ARm", "ARl"]
    entry = json.loads(Path("found.json").read_text())[0]
    assert {"image_id", "category_id", "keypoints", "score"} <= set(entry)
    assert run("evaluate", "--data", data, "--metric", "voc") == 0
    assert "keypoint" not in capsys.readouterr().out


def test_evaluate_with_other_keypoints(data: Path, monkeypatch, capsys):
    def measured_by(**options) -> tuple[int, str]:
        fake = Found(**options)
        monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: fake)
        capsys.readouterr()
        return run("evaluate", "--data", data), capsys.readouterr().err

    code, err = measured_by(keypoint_names=None)  # not known to differ
    assert code == 0 and "warning" not in err
    code, err = measured_by(keypoint_names=("centre", "west", "east", "top", "bottom"))
    assert code == 0 and "warning: keypoint 2 is west to the model and left in the data" in err
    code, err = measured_by(keypoint_names=None, num_keypoints=4)
    assert code == 2 and err.count("\n") == 1
    assert "the model finds 4 keypoints, but the data has 5: centre, left" in err
    content = json.loads(data.read_text())
    content["categories"][0]["keypoints"] = ["other"]
    data.write_text(json.dumps(content))
    code, err = measured_by()
    assert code == 0 and "no keypoints that all its classes share: boxes alone" in err
