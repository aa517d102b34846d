"""COCO results and pictures on disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mlx_rcnn.data.annotations import coco_annotations
from mlx_rcnn.files import replacing
from mlx_rcnn.ops.rle import decode_rle
from mlx_rcnn.outputs.coco import coco_results, image_ids, write_results
from mlx_rcnn.outputs.pictures import picture_paths


def test_image_ids():
    paths = ["a/000000000139.jpg", "COCO_val2014_000000000042.jpg", "123.jpg", "x/y z.png"]
    assert image_ids([Path(p) for p in paths]) == [139, 42, "123.jpg", "x/y z.png"]
    twice = [Path("train/000000000007.jpg"), Path("val/000000000007.jpg")]
    assert image_ids(twice) == ["train/000000000007.jpg", "val/000000000007.jpg"]


def test_picture_paths():
    sources = ["a/x.jpg", "b/x.jpg", "c/X.JPG", "x.png", "y.tif", "z.webp", "w.jpeg", "x_2.jpg"]
    names = [p.name for p in picture_paths([Path(s) for s in sources], Path("out"))]
    assert names == [
        "x.jpg",
        "x_2.jpg",
        "X_3.jpg",
        "x.png",
        "y.png",
        "z.jpg",
        "w.jpeg",
        "x_2_2.jpg",
    ]


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "found.json"
    write_results(path, [{"score": 1.0}, {"score": 0.5}])
    assert path.read_text() == '[\n{"score": 1.0},\n{"score": 0.5}\n]\n'
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert len(json.loads(path.read_text())) == 2 and os.listdir(tmp_path) == ["found.json"]


def test_coco_annotations():
    masks = np.zeros((2, 10, 20), np.uint8)
    masks[0, 2:5, 1:4] = 1  # 9 pixels
    target = {
        "boxes": np.array([[1, 2, 4, 6], [0, 0, 20, 10]], np.float32),
        "labels": np.array([3, 1], np.int32),
        "difficult": np.array([0, 1], np.uint8),
    }
    first, second = coco_annotations(target)
    assert first == {
        "category_id": 3,
        "bbox": [1, 2, 3, 4],
        "area": 12,
        "iscrowd": 0,
        "difficult": 0,
    }
    assert second["difficult"] == 1 and second["area"] == 200
    first = coco_annotations({**target, "masks": masks, "iscrowd": np.array([1, 0])})[0]
    assert first["area"] == 9 and first["iscrowd"] == 1
    assert decode_rle(first["segmentation"]).sum() == 9
    points = np.zeros((2, 2, 3), np.float32)
    points[0] = [[1.5, 2, 2], [0, 0, 0]]
    first, second = coco_annotations({**target, "keypoints": points})
    assert first["keypoints"] == [1.5, 2, 2, 0, 0, 0] and first["num_keypoints"] == 1
    assert second["num_keypoints"] == 0


def test_coco_results_with_keypoints():
    prediction = {
        "boxes": np.array([[1, 2, 4, 6]], np.float32),
        "scores": np.array([0.5], np.float32),
        "labels": np.array([1], np.int32),
        "keypoints": np.array([[[1.23456, 2, 1], [3, 4.5, 1]]], np.float32),
        "keypoints_scores": np.array([[7.25, -0.5]], np.float32),
    }
    (entry,) = coco_results(prediction, 7)
    assert entry == {
        "image_id": 7,
        "category_id": 1,
        "bbox": [1, 2, 3, 4],
        "score": 0.5,
        "keypoints": [1.2346, 2, 1, 3, 4.5, 1],
        "keypoints_scores": [7.25, -0.5],
    }
    assert json.loads(json.dumps(entry)) == entry  # numbers of JSON, not of NumPy
    (shifted,) = coco_results(prediction, 7, keypoint_offset=0.5)
    assert shifted == {**entry, "keypoints": [0.7346, 1.5, 1, 2.5, 4, 1]}
