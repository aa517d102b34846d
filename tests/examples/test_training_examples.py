"""The training examples run, on a folder with a handful of made-up pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.data import write_proposals

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC folder: 4 images to train on, 2 to validate with."""
    root = tmp_path / "voc"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    dataset = tiny.shapes(6)
    for i in range(len(dataset)):
        image, target, _, _ = dataset[i]
        Image.fromarray(image).save(root / f"JPEGImages/{i}.png")
        objects = "".join(
            f"<object><name>{dataset.class_names[label]}</name><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(target["boxes"], target["labels"], strict=True)
        )
        (root / f"Annotations/{i}.xml").write_text(
            f"<annotation><filename>{i}.png</filename><size><width>80</width><height>64</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
    (root / "ImageSets/Main/train.txt").write_text("0\n1\n2\n3\n")
    (root / "ImageSets/Main/val.txt").write_text("4\n5\n")
    (root / "ImageSets/Main/test.txt").write_text("4\n5\n")
    return root


@pytest.mark.parametrize("name", ["train_voc.py", "pretrain_backbone.py"])
def test_example(tmp_path: Path, voc: Path, name):
    run = tmp_path / "run"
    command = [sys.executable, str(EXAMPLES / name), "--data", str(voc), "--output", str(run)]
    command += ["--epochs", "1", "--size", "64", "--width", "16"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    model = mlx_rcnn.load(run / "best")
    assert model.config.min_size == 64 and len(model.class_names) >= 3


@pytest.mark.parametrize("model", ["FastRCNN", "RCNN"])
def test_given_proposals(tmp_path: Path, voc: Path, model):
    """Both read the file; an R-CNN, which is slow, is tested once and has no best epoch."""
    boxes = np.array([[0, 0, 40, 40], [20, 10, 70, 60], [5, 5, 30, 20]], np.float32)
    write_proposals(tmp_path / "boxes.npz", {f"{i}.png": boxes for i in range(6)})
    command = [sys.executable, str(EXAMPLES / "train_voc.py"), "--data", str(voc)]
    command += ["--model", model, "--proposals", "boxes.npz", "--output", "run"]
    command += ["--epochs", "1", "--size", "32", "--width", "16"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "last on test: AP " in done.stdout
    assert ("best on test: AP " in done.stdout) == (model == "FastRCNN")
    assert type(mlx_rcnn.load(tmp_path / "run/last")).__name__ == model


def test_alternate_training(tmp_path: Path, voc: Path):
    """Four steps of one pass; the backbone of the second is that of the result."""
    command = [sys.executable, str(EXAMPLES / "alternate_training.py"), "--data", str(voc)]
    command += ["--split", "train", "--output", "run", "--epochs", "1", "--size", "64"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    model = mlx_rcnn.load(tmp_path / "run/model")
    second = mlx_rcnn.load(tmp_path / "run/2-detector/last")
    fourth = mlx_rcnn.load(tmp_path / "run/4-detector/last")
    third = mlx_rcnn.load(tmp_path / "run/3-proposals/last")
    for ours, theirs, alike in (
        (model.backbone, second.backbone, True),
        (model.backbone, third.backbone, True),
        (model.rpn, third.rpn, True),
        (model.roi_heads, fourth.roi_heads, True),
        (model.roi_heads, second.roi_heads, False),
    ):
        pairs = zip(tree_flatten(ours.parameters()), tree_flatten(theirs.parameters()), strict=True)
        assert all(mx.array_equal(a[1], b[1]).item() for a, b in pairs) is alike
    assert model.class_names == second.class_names


def test_the_detector_of_the_demo(tmp_path: Path, voc: Path):
    """Its own sizes, one step of it."""
    run, model = tmp_path / "run", tmp_path / "model"
    command = [sys.executable, str(EXAMPLES / "blood_cells/train.py"), "--data", str(voc)]
    command += ["--output", str(run), "--export", str(model), "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test: AP " in done.stdout
    assert (model / "model.safetensors").stat().st_size < 6e6
    assert {str(v.dtype) for v in mx.load(str(model / "model.safetensors")).values()} == {
        "mlx.core.float16",
        "mlx.core.float32",
    }


def test_evolution(tmp_path: Path):
    """The whole family over one small photo: a row each, and the parts add up."""
    photo = tmp_path / "photo.png"
    Image.fromarray(tiny.shapes(1)[0].image).save(photo)
    command = [sys.executable, str(EXAMPLES / "evolution.py"), str(photo)]
    command += ["--depth", "18", "--size", "64", "--proposals", "6"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        line.split() for line in done.stdout.splitlines() if "RCNN" in line and "no Sel" not in line
    ]
    assert [row[0] for row in rows] == ["RCNN", "FastRCNN", "FasterRCNN", "MaskRCNN", "CascadeRCNN"]
    for row in rows:
        assert sum(map(float, row[1:5])) == pytest.approx(float(row[5]), abs=0.003)
