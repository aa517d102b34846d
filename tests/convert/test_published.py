"""COCO's names are given to what its file, or the user, says is of COCO; a number is no name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import mlx_rcnn
from mlx_rcnn import FasterRCNN, KeypointRCNN, ResNetFPNConfig
from mlx_rcnn.checkpoints.export import export_state
from mlx_rcnn.config.categories import COCO_80, COCO_91, COCO_KEYPOINTS, COCO_PERSON
from mlx_rcnn.convert import published
from mlx_rcnn.convert.files.torch_writer import save_torch_file

BODY = ResNetFPNConfig(depth=18, width=8, num_classes=0, norm="frozen", out_channels=8)


def write(
    path: Path, classes: int, library: str = "torchvision", kind: Any = FasterRCNN, **content: Any
) -> Path:
    options = {"keypoint_layers": (8,)} if kind is KeypointRCNN else {}
    model = kind(BODY, 8, classes, use_fpn=True, hidden_dim=8, **options)
    save_torch_file({"model": export_state(model, library), **content}, path)
    return path


@pytest.mark.parametrize(("classes", "names"), [(91, COCO_91), (81, COCO_80)])
def test_a_number_is_no_name(folder: Path, classes: int, names: tuple[str, ...]) -> None:
    path = write(folder / "mine.pth", classes)
    model = mlx_rcnn.load(path)
    assert model.class_names is None and "--set class_names=coco" in model.source
    model = mlx_rcnn.load(path, class_names="coco")
    assert model.class_names == names and "class_names=" not in model.source
    path = path.rename(folder / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    assert mlx_rcnn.load(path).class_names == names


def test_a_published_file_by_another_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder / "mine.pth", 91)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(published.KNOWN, digest, published.Known("a zoo's"))
    assert mlx_rcnn.load(path).class_names == COCO_91


def test_persons_with_17_keypoints(folder: Path) -> None:
    path = write(folder / "mine.pth", 2, kind=KeypointRCNN)
    model = mlx_rcnn.load(path)
    assert model.class_names is None and model.keypoint_names is None
    model = mlx_rcnn.load(path, class_names="coco")
    assert model.class_names == COCO_PERSON and model.keypoint_names == COCO_KEYPOINTS


def test_the_zoos_signature(folder: Path) -> None:
    signed = {"__author__": "Detectron2 Model Zoo"}
    assert mlx_rcnn.load(write(folder / "a.pth", 81, "detectron2", **signed)).class_names == COCO_80
    assert mlx_rcnn.load(write(folder / "b.pth", 81, "detectron2")).class_names is None
    assert mlx_rcnn.load(write(folder / "c.pth", 21, "detectron2", **signed)).class_names is None


def test_names_of_another_number(folder: Path) -> None:
    path = write(folder / "mine.pth", 5)
    with pytest.raises(ValueError, match="coco: the model has 5 classes"):
        mlx_rcnn.load(path, class_names="coco")
    with pytest.raises(ValueError, match="3 names, expected 4, or 5"):
        mlx_rcnn.load(path, class_names="a,b,c")
    assert mlx_rcnn.load(path, class_names="a,b,c,d").class_names[1:] == ("a", "b", "c", "d")
