"""Folders and lists as tools lay them out."""

from __future__ import annotations

import json

import pytest

from mlx_rcnn.data import open_dataset, report
from tests.annotated import coco_content, make_coco, make_voc, save_image, save_xml, voc_object


def moved(root, json_at, names, files):
    """The two images under other names on disk and in the JSON file."""
    content = coco_content()
    for entry, name, file in zip(content["images"], names, files, strict=True):
        save_image(root / file)
        entry["file_name"] = name
    path = root / json_at
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("json_at", "names", "files"),
    [
        ("annotations/instances_default.json", "x.jpg y.jpg", "images/default/{}"),  # CVAT
        ("annotations/instances_Train.json", "x.jpg y.jpg", "images/Train/{}"),
        ("train/_annotations.coco.json", "x.jpg y.jpg", "train/{}"),  # Roboflow
        ("result.json", "images\\x.jpg images\\y.jpg", "images/{}"),  # Label Studio on Windows
        ("result.json", "/data/upload/1/0a1b2c3d-x.jpg /data/upload/1/0a1b2c3d-y.jpg", "images/{}"),
        ("result.json", "C:\\me\\x.jpg C:\\me\\y.jpg", "{}"),
        ("result.json", "x.jpg /data/local-files/?d=in/y.jpg", "in/../{}"),
    ],
)
def test_images_are_found(tmp_path, json_at, names, files):
    (tmp_path / "in").mkdir()
    files = [files.format(name) for name in ("x.jpg", "y.jpg")]
    data = open_dataset(moved(tmp_path, json_at, names.split(), files))
    assert len(data) == 2 and data.defects == ()


def test_a_name_that_is_too_long_for_a_file(tmp_path):
    path = moved(tmp_path, "a.json", ["x.jpg", "y.jpg"], ["x.jpg", "y.jpg"])
    path.write_text(path.read_text().replace("x.jpg", "x" * 300 + ".jpg"))
    data = open_dataset(path)
    assert len(data) == 1 and any("xxx" in defect.where for defect in data.defects)
    path.write_text(path.read_text().replace("y.jpg", "y" * 300 + ".jpg"))
    with pytest.raises(ValueError, match="none of its 2 images"):
        open_dataset(path)


def test_encoded_names(tmp_path):
    names = ["my%20cat.jpg", "%C3%A9.jpg"]
    data = open_dataset(moved(tmp_path, "a.json", names, ["my cat.jpg", "é.jpg"]))
    assert len(data) == 2 and data.defects == ()


def test_roboflow_root_is_left_out(tmp_path):
    content = coco_content()
    first = content["categories"][0]["name"]
    for entry in content["categories"]:
        entry["supercategory"] = first
    content["categories"].insert(0, {"id": 0, "name": first, "supercategory": "none"})
    data = open_dataset(make_coco(tmp_path, content))
    assert len(data.class_names) == 3
    assert [d.rule for d in data.defects] == ["category left out"]


def test_labelme_is_named(tmp_path):
    for i in range(200):
        (tmp_path / f"{i}.json").write_text('{"shapes": [], "imagePath": "a.jpg"}')
    for path in (tmp_path, tmp_path / "1.json"):
        with pytest.raises(ValueError, match="labelme") as error:
            open_dataset(path)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        b"data\\obj\\a.jpg\r\ndata\\obj\\b.jpg\r\n",
        b"\xef\xbb\xbfa\r\nb\r\n",
        "a\nb\n".encode("utf-16"),
        b"a  1\nb -1\n",
        b"/home/me/x/a.xml\n./b.png\n",
    ],
)
def test_voc_lists(tmp_path, text):
    make_voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(text)
    assert [item.image_id for item in open_dataset(tmp_path, split="train").items] == ["a", "b"]


def test_a_list_that_matches_nothing_is_named(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("x\ny\n")
    with pytest.raises(ValueError, match=r"train.txt: none of its 2 lines \(x, ...\)"):
        open_dataset(tmp_path, split="train")


def test_xml_named_after_the_image_file(tmp_path):
    save_image(tmp_path / "my cat.jpg")
    save_xml(tmp_path / "my cat.jpg.xml", voc_object("cat"), filename="C:\\x\\my cat.jpg")
    assert open_dataset(tmp_path).defects == ()


def changed(tmp_path, masks=False, **fields):
    content = coco_content()
    content["annotations"][0].update(fields)
    return open_dataset(make_coco(tmp_path, content), masks=masks)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([], "no segmentation"),
        (None, "no segmentation"),
        ([[]], "no polygon of at least three points"),
        ([[1, 2, 3, 4]], "no polygon of at least three points, got 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "odd count of 7"),
        ([1, 2, 3, 4, 5, 6], "flat list"),
        ([[1, 2, None, 4, 5, 6]], "not a finite number"),
        ([[1, 2, 1e8, 4, 5, 6]], "1e+08 is far outside"),
        ("x", "got str"),
        ([{"size": [80, 100], "counts": [8000]}], "list of RLE"),
        ({"size": [80, 100], "counts": [7, 3]}, "damaged RLE"),
        ({"size": [8, 10], "counts": [80]}, "RLE of size"),
    ],
)
def test_a_segmentation_is_used_everywhere_or_nowhere(tmp_path, segmentation, said):
    data = changed(tmp_path / "m", masks=True, segmentation=segmentation)
    assert said in str(data.defects[0]) and "annotation" in str(data.defects[0])
    assert sum(len(data[i].target["boxes"]) for i in range(2)) == 1
    assert sum(len(data.ground_truth(i)) for i in range(2)) == 1  # the sound one of the file
    boxes = changed(tmp_path / "b", segmentation=segmentation)
    assert boxes.defects == () and sum(len(boxes.ground_truth(i)) for i in range(2)) == 2


@pytest.mark.parametrize("area", [None, "", [], "n/a", -1, float("nan")])
def test_an_area_that_is_none_is_the_box_s(tmp_path, area):
    data = changed(tmp_path, area=area)
    areas = [entry["area"] for i in range(2) for entry in data.ground_truth(i)]
    fallback = [w * h for i in range(2) for *_, w, h in (e["bbox"] for e in data.ground_truth(i))]
    assert areas == fallback and "area" in str(data.defects[0])


@pytest.mark.parametrize("value", ["0", 0, False, None, "false", 0.0])
def test_not_crowds(tmp_path, value):
    assert report(changed(tmp_path, iscrowd=value)).crowds == 0


def test_ids_of_other_types_are_said_once(tmp_path):
    content = coco_content()
    for entry in content["annotations"]:
        entry.update(image_id=str(entry["image_id"]), category_id=float(entry["category_id"]))
    data = open_dataset(make_coco(tmp_path, content))
    assert sum(report(data).objects.values()) == 2 and len(data.defects) == 2


def test_boxes_in_fractions_are_named(tmp_path):
    content = coco_content()
    for entry in content["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.4, 0.5]
    data = open_dataset(make_coco(tmp_path, content))
    assert "fractions of the image" in str(data.defects[0])
    assert sum(report(data).objects.values()) == 0
