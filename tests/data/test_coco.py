"""COCO files: ids, masks, folders, and what is wrong in them."""

import json

import numpy as np
import pytest

from annotated import coco_content, make_coco, save_image
from mlx_rcnn.data import DatasetError, ShapesDataset, open_dataset, write_coco

SQUARE = np.zeros((80, 100), np.uint8)
SQUARE[20:60, 10:50] = 1


def test_boxes_labels_and_ids(tmp_path):
    data = open_dataset(make_coco(tmp_path))
    assert data.format == "coco" and data.defects == () and not data.masks
    # Labels by rising category id, images by rising id.
    assert data.class_names == ("__background__", "cat", "dog") and data.category_ids == (3, 17)
    assert [item.image_id for item in data.items] == [4, 9]
    assert [data[i].target["labels"].tolist() for i in (0, 1)] == [[1], [2]]
    # x, y, width, height 10, 20, 40, 40.
    assert data[0].target["boxes"].tolist() == [[10, 20, 50, 60]]
    assert "masks" not in data[0].target


def test_masks_of_every_kind(tmp_path):
    content = coco_content()
    counts = [820, 40, 40, 40]  # column 10 from row 20 on: 10 * 80 + 20; only its first two columns
    first = {"size": [80, 100], "counts": [*counts, 8000 - sum(counts)]}
    whole = {"size": [80, 100], "counts": "dc000000"}
    content["annotations"][0] |= {"segmentation": first, "iscrowd": 1}
    data = open_dataset(make_coco(tmp_path, content), masks=True)
    target = data[0].target
    np.testing.assert_array_equal(target["masks"], SQUARE[None])
    assert target["masks"].dtype == np.uint8
    target = data[1].target
    assert target["iscrowd"].tolist() == [1]
    rows, columns = np.nonzero(target["masks"][0])
    assert (rows.min(), rows.max()) == (20, 59) and (columns.min(), columns.max()) == (10, 11)
    # A damaged string is found without loading the image.
    content["annotations"][0]["segmentation"] = whole
    data = open_dataset(make_coco(tmp_path, content), masks=True)
    assert len(data[1].target["labels"]) == 0 and len(data.defects) == 1


def test_masks_if_there_are_any(tmp_path):
    assert open_dataset(make_coco(tmp_path), masks=None).masks
    content = coco_content()
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path = make_coco(tmp_path, content)
    assert not open_dataset(path, masks=None).masks
    with_masks = open_dataset(path, masks=True)
    assert [d.problem for d in with_masks.defects] == ["no segmentation"] * 2


def test_ground_truth_is_what_passed(tmp_path):
    content = coco_content()
    content["annotations"].append(
        {"id": 5, "image_id": 4, "category_id": 3, "bbox": [1, 1, 0, 5], "area": 0.5}
    )
    data = open_dataset(make_coco(tmp_path, content), masks=True)
    assert len(data[0].target["labels"]) == 1  # training drops the box without area
    truth = data.ground_truth(0)
    assert [entry["bbox"] for entry in truth] == [[10, 20, 40, 40]]  # nor is it measured
    assert [entry["area"] for entry in truth] == [1600]
    renamed = data.with_classes(("__background__", "dog", "owl", "cat"))
    assert renamed.category_ids == (17, -1, 3)
    assert [entry["category_id"] for entry in renamed.ground_truth(0)] == [3]
    assert [entry["category_id"] for entry in data.ground_truth(0)] == [1]


@pytest.mark.parametrize(
    ("json_at", "images_at"),
    [
        ("a.json", "."),
        ("a.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_val2017.json", "images"),
        ("labels/a.json", "data"),
    ],
)
def test_images_are_found_beside_the_json(tmp_path, json_at, images_at):
    (tmp_path / json_at).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / json_at).write_text(json.dumps(coco_content()))
    for name in ("a.jpg", "b.jpg"):
        save_image(tmp_path / images_at / name)
    assert len(open_dataset(tmp_path / json_at)) == 2
    assert len(open_dataset(tmp_path)) == 2


def test_images_elsewhere(tmp_path):
    path = make_coco(tmp_path / "one")
    (tmp_path / "one/images").rename(tmp_path / "far")
    with pytest.raises(ValueError, match=r"none of its 2 images \(a.jpg, ...\) is in"):
        open_dataset(path)
    assert len(open_dataset(path, images=tmp_path / "far")) == 2
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        open_dataset(path, images=tmp_path / "none")


def test_splits(tmp_path):
    for split in ("train2017", "val2017"):
        make_coco(tmp_path, name=f"annotations/instances_{split}.json")
        (tmp_path / f"annotations/captions_{split}.json").write_text("{}")
    for split in ("val", "val2017"):
        assert len(open_dataset(tmp_path, split=split)) == 2
    assert open_dataset(tmp_path, split="train").splits == ("train2017", "val2017")
    with pytest.raises(ValueError, match="no split 'test': it has train2017, val2017"):
        open_dataset(tmp_path, split="test")
    with pytest.raises(ValueError, match="expected one COCO JSON file, got .*choose a split"):
        open_dataset(tmp_path)


def test_splits_by_folder(tmp_path):
    for split in ("train", "valid"):
        make_coco(tmp_path / split, name="_annotations.coco.json")
    assert len(open_dataset(tmp_path, split="val")) == 2


def test_what_is_wrong_is_dropped_and_named(tmp_path):
    content = coco_content()
    body = {"image_id": 4, "category_id": 3, "iscrowd": 0}
    content["images"] += [
        {"id": 5, "file_name": "gone.jpg", "height": 80, "width": 100},
        {"id": 9, "file_name": "b.jpg"},
        {"id": 6},
    ]
    content["annotations"] += [
        {"id": 10, **body, "bbox": [1, 2, 3, 0]},
        {"id": 11, **body, "bbox": [200, 2, 3, 4]},
        {"id": 12, **body, "bbox": [10, 20, 40, 40]},
        {"id": 13, **body, "image_id": 77, "bbox": [1, 2, 3, 4]},
        {"id": 14, **body, "category_id": 8, "bbox": [1, 2, 3, 4]},
        {"id": 15, **body, "bbox": [1, 2, 3]},
        {"id": 16, **body, "bbox": [60, 60, 60, 10]},
        {"id": 17, **body, "bbox": [1, 2, 3, None]},
    ]
    path = make_coco(tmp_path, content)
    data = open_dataset(path)
    assert len(data) == 2
    assert data[0].target["boxes"].tolist() == [[10, 20, 50, 60], [60, 60, 100, 70]]
    lines = [str(defect) for defect in data.defects]
    for part in (
        "annotation 10: box (1, 2, 4, 2) has no area (object dropped)",
        "annotation 11: box (200, 2, 203, 6) lies outside the image of 100x80 (object dropped)",
        "annotation 12: box (10, 20, 50, 60) comes up twice (object dropped)",
        "annotation 13: image id 77 is not in images (object dropped)",
        "annotation 14: category id 8 is not in categories (object dropped)",
        "annotation 15: bbox [1, 2, 3]: expected four numbers (object dropped)",
        "annotation 16: box (60, 60, 120, 70) passes the border of the image of 100x80 (box",
        "annotation 17: bbox [1, 2, 3, None]: expected four numbers",
        "gone.jpg: no such image",
        "image id 9 comes up twice (image dropped)",
        "image {'id': 6}: expected id and file_name (image dropped)",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 11
    with pytest.raises(DatasetError, match="11 defects"):
        open_dataset(path, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: .* at line 1"),
        ("[]", "holds a list: expected COCO annotations"),
        ('[{"image_id": 1}]', "holds COCO results: expected COCO annotations"),
        ("5", "it has no images, annotations, categories"),
        ('{"images": [], "categories": []}', "it has no annotations"),
        ('{"images": [5], "annotations": [], "categories": []}', "images is not a list of dicts"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "has no images",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}',
            "expected an integer id and a name",
        ),
        (
            '{"images": [], "annotations": [], '
            '"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "category id 1 comes up twice",
        ),
    ],
)
def test_json_of_another_kind(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(tmp_path / "a.json")
    assert "\n" not in str(error.value)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        open_dataset(tmp_path / "a.json")


def test_made_up_data_comes_back_through_files(tmp_path):
    shapes = ShapesDataset(3, (40, 60))
    data = open_dataset(write_coco(shapes, tmp_path), masks=True)
    assert data.class_names == shapes.class_names and data.defects == ()
    for i in range(3):
        want, got = shapes[i], data[i]
        np.testing.assert_array_equal(got.image, want.image)
        for key in ("boxes", "labels", "masks"):
            np.testing.assert_array_equal(got.target[key], want.target[key])
