"""LabelMe data: shapes, groups, embedded images, and what cannot be used."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotated import save_image
from mlx_rcnn.data import open_dataset


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


RECTANGLE = shape("cat", [[50, 60], [10, 20]], "rectangle")


def save(path: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    """The JSON and its image of 100 x 80."""
    save_image(path.with_suffix(".jpg"))
    body = {"shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    content = {"version": "5.5.0", "flags": {}, **body, "imageHeight": 80, "imageWidth": 100}
    path.write_text(json.dumps({**content, **more}))
    return path


def test_shapes(tmp_path):
    path = save(
        tmp_path / "ä b.json",
        RECTANGLE,
        shape("dog", [[10, 20], [50, 20], [50, 60]]),
        shape("dog", [[50, 40], [60, 40]], "circle"),
        shape("cat", [[1, 1], [9, 1], [9, 9], [1, 9]], "rotation", flags={"difficult": True}),
        shape("__ignore__", [[0, 0], [5, 0], [5, 5]]),
    )
    dataset = open_dataset(tmp_path)
    assert dataset.format == "labelme" and dataset.class_names[1:] == ("cat", "dog")
    target = dataset.target(0)
    boxes = [[10, 20, 50, 60], [10, 20, 50, 60], [40, 30, 60, 50], [1, 1, 9, 9]]
    np.testing.assert_allclose(target["boxes"], boxes, atol=1e-4)
    assert target["labels"].tolist() == [1, 2, 2, 1]
    assert target["difficult"].tolist() == [0, 0, 0, 1]
    assert not dataset.defects and len(open_dataset(path)) == 1
    circle = open_dataset(tmp_path, masks="kept").ground_truth(0)[2]["area"]
    assert circle == pytest.approx(np.pi * 100, rel=0.02)


def test_groups_are_one_object(tmp_path):
    left, right = [[0, 0], [10, 0], [10, 10], [0, 10]], [[20, 0], [30, 0], [30, 10], [20, 10]]
    save(
        tmp_path / "a.json",
        shape("cat", left, group_id=1),
        shape("cat", right, group_id=1),
        shape("dog", right, group_id=2),
        shape("tail", [[5, 5]], "point", group_id=1),
        shape("ear", [[6, 7]], "point", group_id=1, flags={"hidden": True}),
        shape("ear", [[6, 7]], "point"),
    )
    dataset = open_dataset(tmp_path, masks=True, keypoints=None)
    sample = dataset[0]
    assert dataset.keypoint_names == ("ear", "tail") and dataset.class_names[1:] == ("cat", "dog")
    assert sample.target["masks"].sum(axis=(1, 2)).tolist() == [200, 100]
    np.testing.assert_array_equal(sample.target["keypoints"][0], [[6, 7, 1], [5, 5, 2]])
    [defect] = dataset.defects
    assert "a point without an object" in defect.problem and "shape 6 (ear)" in defect.where


def test_a_mask_is_its_pixels(tmp_path):
    part = np.zeros((4, 6), np.uint8)
    part[1:3, 2:5] = 255
    file = BytesIO()
    Image.fromarray(part).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    save(
        tmp_path / "a.json",
        shape("cat", [[10, 20], [15, 23]], "mask", mask=data),
        shape("cat", [[98, 20], [103, 23]], "mask", mask=data),
        shape("cat", [[10, 20], [15, 23]], "mask", mask="AAAA"),
    )
    dataset = open_dataset(tmp_path, masks=True)
    [mask] = dataset[0].target["masks"]
    assert mask[21:23, 12:15].all() and mask.sum() == 6
    assert dataset.target(0)["boxes"].tolist() == [[12, 21, 15, 23]]
    assert [d.problem[:12] for d in dataset.defects] == ["mask of 6x4 ", "mask: cannot"]


def test_an_embedded_image_where_there_is_no_file(tmp_path):
    path = save(tmp_path / "a.json", RECTANGLE)
    data = base64.b64encode(path.with_suffix(".jpg").read_bytes()).decode()
    path.with_suffix(".jpg").unlink()
    assert "no image a.jpg" in str(pytest.raises(ValueError, open_dataset, tmp_path).value)
    save(path, RECTANGLE, imageData=data)
    path.with_suffix(".jpg").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset[0].image.shape == (80, 100, 3) and "imageData" in dataset[0].name
    save(path, RECTANGLE, imageData="%%%", imagePath="..\\other\\b.jpg")
    dataset = open_dataset(tmp_path)  # of the JSON's own stem, beside it
    assert dataset.items[0].path == tmp_path / "a.jpg"


def test_a_path_of_another_machine_that_cannot_be_looked_at(tmp_path):
    path = save(tmp_path / "a.json", RECTANGLE, imagePath=f"/{'x' * 300}/photo.jpg")
    path.with_suffix(".jpg").rename(tmp_path / "photo.jpg")
    assert open_dataset(tmp_path).items[0].path == tmp_path / "photo.jpg"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (shape("cat", [[1, 2], [3, 4]]), "polygon of 2 points"),
        (shape("cat", [[1, 2], [3, 4]], "line"), "a line has no area"),
        (shape("cat", [[1, 2], [3, 4], [5, 6]], "linestrip"), "a linestrip has no area"),
        (shape("cat", [[1, 2], [3, "x"], [5, 6]]), "expected pairs of finite numbers"),
        (shape("cat", None), "expected pairs"),
        (shape("", [[1, 2], [3, 4], [5, 6]]), "no label"),
        (shape("cat", [[1, 2], [1, 9]], "rectangle"), "has no area"),
        (shape("cat", [[1, 2], [3, 4]], "heart"), "heart of 2 points is not read"),
        (shape("cat", [[201, 2], [210, 8]], "rectangle"), "lies outside the image"),
    ],
)
def test_shapes_that_cannot_be_used(tmp_path, entry, problem):
    save(tmp_path / "a.json", RECTANGLE, entry)
    dataset = open_dataset(tmp_path)
    assert len(dataset.target(0)["boxes"]) == 1
    [defect] = dataset.defects
    assert problem in defect.problem and "shape 2" in defect.where


def test_files_that_cannot_be_used(tmp_path):
    save(tmp_path / "a.json", RECTANGLE)
    save(tmp_path / "size.json", RECTANGLE, imageWidth=50)
    save(tmp_path / "empty.json")
    for name, content in (("cut", '{"shapes": ['), ("deep", "[" * 100_000), ("list", "[1]")):
        (tmp_path / f"{name}.json").write_text(content)
    save_image(tmp_path / "alone.jpg")
    dataset = open_dataset(tmp_path, format="labelme")
    assert [item.path.name for item in dataset.items] == ["a.jpg", "empty.jpg"]
    said = " ".join(str(defect) for defect in dataset.defects)
    for text in ("cut.json: not JSON", "deep.json", "list.json: not LabelMe's", "says 50x80",
                 "alone.jpg: no annotation"):  # fmt: skip
        assert text in said, text


def test_splits_by_lists_and_folders(tmp_path):
    for name in ("a", "b", "c d"):
        save(tmp_path / f"{name}.json", RECTANGLE)
    (tmp_path / "train.txt").write_text("a\nc d\n")
    (tmp_path / "val.txt").write_text("b.json\nnone\nb\n")
    dataset = open_dataset(tmp_path, split="train")
    assert [item.path.stem for item in dataset.items] == ["a", "c d"]
    dataset = open_dataset(tmp_path, split="val")
    assert len(dataset) == 1 and dataset.splits == ("train", "val")
    assert [d.problem for d in dataset.defects] == ["none: no such annotation", "b comes up twice"]
    with pytest.raises(ValueError, match="no split 'test': it has train, val"):
        open_dataset(tmp_path, split="test")
