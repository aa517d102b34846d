"""COCO results and pictures on disk."""

import json
import os
from pathlib import Path

import pytest

from mlx_rcnn.results import image_ids, picture_paths, replacing, write_results


def test_image_ids():
    paths = ["a/000000000139.jpg", "COCO_val2014_000000000042.jpg", "123.jpg", "x/y z.png"]
    assert image_ids([Path(p) for p in paths]) == [139, 42, "123.jpg", "x/y z.png"]
    twice = [Path("train/000000000007.jpg"), Path("val/000000000007.jpg")]
    assert image_ids(twice) == ["train/000000000007.jpg", "val/000000000007.jpg"]


def test_picture_paths():
    sources = ["a/x.jpg", "b/x.jpg", "c/X.JPG", "x.png", "y.tif", "z.webp", "w.jpeg", "x_2.jpg"]
    names = [p.name for p in picture_paths([Path(s) for s in sources], Path("out"))]
    assert names == [
        "x.jpg", "x_2.jpg", "X_3.jpg", "x.png", "y.png", "z.jpg", "w.jpeg", "x_2_2.jpg",
    ]  # fmt: skip


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "found.json"
    write_results(path, [{"score": 1.0}, {"score": 0.5}])
    assert path.read_text() == '[\n{"score": 1.0},\n{"score": 0.5}\n]\n'
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert len(json.loads(path.read_text())) == 2 and os.listdir(tmp_path) == ["found.json"]
