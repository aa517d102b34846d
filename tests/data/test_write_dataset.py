"""Data sets written in every format and read back: the same objects, or it is said what is lost."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from annotated import make_coco, make_voc, save_image
from mlx_rcnn.data import ShapesDataset, open_dataset, write_dataset
from mlx_rcnn.data.dataset import DetectionDataset
from mlx_rcnn.data.items import RawObject, make_item
from mlx_rcnn.data.writers.write import WRITERS
from mlx_rcnn.ops.rle import encode_rle

H, W = 37, 53  # no power of two, so that fractions are not exact
NAMES = ("__background__", "a cat", "ünï <&>")
sides = st.floats(1, 20, width=32)  # boxes below a pixel are no pixels
boxes = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h), st.floats(0, 30, width=32),
    st.floats(0, 15, width=32), sides, sides,
)  # fmt: skip
corner = st.tuples(st.integers(0, W * 10), st.integers(0, H * 10))
polygon = st.lists(corner, min_size=3, max_size=8)


def as_mask(seed: int) -> np.ndarray:
    """Blobs with holes and islands."""
    rng = np.random.default_rng(seed)
    small = rng.random((H // 4 + 1, W // 4 + 1)) < 0.6
    return small.repeat(4, axis=0).repeat(4, axis=1)[:H, :W]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return save_image(tmp_path_factory.mktemp("photo") / "a photo é.png", (H, W))


def dataset(photo, objects, masks=False, names=None, points=None) -> DetectionDataset:
    defects: list = []
    item = make_item(photo, "x", str(photo), (H, W), objects, defects, masks, points)
    assert item is not None
    return DetectionDataset([item], NAMES, keypoint_names=names)


def rows(data, index=0):
    """What can be compared: by class name, sorted."""
    target = data.target(index)
    found = []
    for i, box in enumerate(target["boxes"].astype(float).tolist()):
        found.append((data.class_names[target["labels"][i]], box, int(target["difficult"][i])))
    return sorted(found)


quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@pytest.mark.parametrize("format", WRITERS)
@given(found=st.lists(st.tuples(boxes, st.integers(1, 2), st.booleans()), max_size=4))
def test_boxes_come_back(tmp_path_factory, photo, format, found):
    objects = [RawObject("o", box, label, difficult=hard) for box, label, hard in found]
    data = dataset(photo, objects)
    folder = tmp_path_factory.mktemp("out") / "x"
    written = write_dataset(data, folder, format, images="refer")
    back = open_dataset(folder, format)
    assert back.format == format and len(back) == 1 and not back.defects
    want, got = rows(data), rows(back)
    if format == "yolo":  # has no such mark, which is said
        assert sum(r[2] for r in want) == sum(int(line.split()[0]) for line in written.lost)
        want, got = ([(n, b, 0) for n, b, _ in r] for r in (want, got))
    assert [r[::2] for r in got] == [r[::2] for r in want]
    least = 1e-5 if format == "yolo" else 0
    for (_, box, _), (_, other, _) in zip(got, want, strict=True):
        np.testing.assert_allclose(box, other, rtol=0, atol=least)


@quick
@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", "cvat"])
@pytest.mark.parametrize("shapes", ["auto", "polygons"])
@given(seed=st.integers(0, 9999), corners=polygon)
def test_masks_come_back_to_the_pixel(tmp_path_factory, photo, format, shapes, seed, corners):
    outline = np.array(corners, float).reshape(-1) / 10
    segmentations = [[outline], encode_rle(as_mask(seed))]
    objects = [
        RawObject(str(i), (0, 0, W, H), i, segmentation=s) for i, s in enumerate(segmentations, 1)
    ]
    data = dataset(photo, objects, "kept")
    folder = tmp_path_factory.mktemp("out") / "x"
    write_dataset(data, folder, format, images="refer", shapes=shapes)
    back = open_dataset(folder, format, masks="kept")
    drawn = DetectionDataset(data.items, NAMES, masks=True)
    if (
        not all(s is not None for s in data.items[0].segmentations)
        or not drawn[0].target["masks"].any(axis=(1, 2)).all()
    ):
        return  # a polygon thinner than a pixel is an object without an outline
    wanted = drawn[0].target["masks"]
    got = DetectionDataset(back.items, back.class_names, masks=True)[0].target["masks"]
    assert sorted(m.tobytes() for m in got) == sorted(m.tobytes() for m in wanted)


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", "cvat"])
def test_keypoints_come_back(tmp_path, photo, format):
    names = ("nose", "left_ear", "right_ear")
    points = np.array([[1.25, 2, 2], [30, 20.5, 1], [0, 0, 0]])
    objects = [
        RawObject("o", (1, 2, 30, 21), 1, keypoints=points),
        RawObject("o", (1, 2, 31, 22), 2, keypoints=np.zeros((3, 3))),
    ]
    data = dataset(photo, objects, names=names, points=3)
    write_dataset(data, tmp_path / "x", format)
    back = open_dataset(tmp_path / "x", keypoints=True)
    assert not back.defects and back.keypoint_names is not None
    order = [back.keypoint_names.index(n) for n in names if n in back.keypoint_names]
    got = back.target(0)["keypoints"][:, order]
    np.testing.assert_allclose(got[0], points[: len(order)], atol=1e-6)  # LabelMe: what is seen
    assert not got[1].any() and rows(back) == rows(data)


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_lost_is_said(tmp_path, photo, format):
    ring = np.zeros((H, W), bool)
    ring[5:20, 5:20], ring[10:12, 10:12], ring[30, 30] = True, False, True
    points = np.array([[1.0, 2, 2]])
    objects = [
        RawObject("o", (0, 0, 9, 9), 1, crowd=True),
        RawObject("o", (5, 5, 31, 31), 1, difficult=True, segmentation=encode_rle(ring)),
    ]
    lost = "\n".join(write_dataset(dataset(photo, objects, "kept"), tmp_path / "x", format).lost)
    assert ("1 crowds left out" in lost) == (format in ("voc", "yolo"))
    assert ("difficult marks left out" in lost) == (format == "yolo")
    assert ("1 outlines left out" in lost) == (format == "voc")
    assert ("with holes, which are joined" in lost) == (format in ("yolo", "labelme"))
    assert ("several parts joined" in lost) == (format == "yolo")
    assert ("classes without an object" in lost) == (format in ("voc", "labelme"))
    back = open_dataset(tmp_path / "x", format)
    crowds = back.target(0)["iscrowd"].tolist()
    assert sorted(crowds) == ([0] if format in ("voc", "yolo") else [0, 1])
    data = dataset(photo, [RawObject("o", (0, 0, 9, 9), 1, keypoints=points)], points=1, names="n")
    lost = write_dataset(data, tmp_path / "y", format).lost
    assert ("1 objects without their keypoints" in lost) == (format == "voc")
    boxes = write_dataset(dataset(photo, objects, "kept"), tmp_path / "z", format, shapes="boxes")
    assert "1 outlines left out" in boxes.lost


@pytest.mark.parametrize("format", WRITERS)
def test_splits_and_images(tmp_path, format):
    data = open_dataset(make_coco(tmp_path / "coco"))
    parts = {"train": data, "val": open_dataset(make_voc(tmp_path / "voc"), split="val")}
    with pytest.raises(ValueError, match="splits differ in their classes"):
        write_dataset(parts, tmp_path / "x", format)
    parts["val"] = ShapesDataset(2, (20, 30), max_objects=1, masks=False)
    parts["train"] = ShapesDataset(3, (20, 30), max_objects=1, masks=False)
    written = write_dataset(parts, tmp_path / "x", format)
    assert written.images == 5 and str(written).startswith(str(tmp_path / "x"))
    for split, part in parts.items():
        back = open_dataset(tmp_path / "x", split=split)
        assert set(back.splits) == {"train", "val"} and len(back) == len(part)
        for i in range(len(part)):
            np.testing.assert_array_equal(back[i].image, part[i].image)
    for how in ("copy", "link", "refer"):
        back = open_dataset(write_dataset(data, tmp_path / how, format, images=how).path)
        source, copy = data.items[0].path, back.items[0].path
        assert copy.read_bytes() == source.read_bytes()
        assert os.path.samefile(copy, source) == (how != "copy")
        assert copy.is_symlink() == (how == "refer" and format in ("voc", "yolo", "cvat"))


def test_names_that_repeat_are_changed_and_said(tmp_path):
    content = json.loads(make_coco(tmp_path).read_text())
    for folder, image in zip(("one", "two"), content["images"], strict=True):
        image["file_name"] = f"{folder}/a.jpg"
        save_image(tmp_path / folder / "a.jpg")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    written = write_dataset(open_dataset(tmp_path / "annotations.json"), tmp_path / "x", "yolo")
    assert sorted(os.listdir(tmp_path / "x" / "labels")) == ["a.txt", "a_2.txt"]
    assert written.lost == (
        "1 images renamed, as names repeat, or hold control characters or no Unicode",
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are Unicode")
@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_paths_that_are_no_unicode_are_referred_to(tmp_path, format):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    data = open_dataset(make_coco(folder))
    written = write_dataset(data, tmp_path / "x", format, images="refer")
    back = open_dataset(written.path)
    assert len(back) == len(data) > 0 and back.defects == ()
    assert os.path.samefile(back.items[0].path, data.items[0].path)


def test_an_image_annotated_as_stored_is_written_turned_for_yolo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save_image(tmp_path / "a.jpg", (H, W), exif=exif)
    item = make_item(path, 1, "a", (H, W), [RawObject("o", (1, 2, 30, 20), 1)], [])
    assert item is not None and not item.upright
    data = DetectionDataset([item], NAMES)
    for format in WRITERS:
        back = open_dataset(write_dataset(data, tmp_path / format, format).path)
        np.testing.assert_array_equal(back[0].image, data[0].image)
        np.testing.assert_allclose(back.target(0)["boxes"], [[1, 2, 30, 20]], atol=1e-5)


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    data = open_dataset(make_coco(tmp_path / "coco"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_dataset(data, tmp_path / "full", "coco")
    data.items[1].path.unlink()
    before = sorted(tmp_path.rglob("*"))
    for format in WRITERS:
        with pytest.raises(OSError, match=r"b\.jpg"):
            write_dataset(data, tmp_path / "new" / "deep", format)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_dataset(data, tmp_path / "file" / "x", "coco")

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="on another disk"):
        write_dataset(data, tmp_path / "x", "coco", images="link")
    for wrong in ({"format": "kitti"}, {"format": "coco", "images": "move"},
                  {"format": "coco", "shapes": "dots"}):  # fmt: skip
        with pytest.raises(ValueError, match="expected one of"):
            write_dataset(data, tmp_path / "x", **wrong)
    with pytest.raises(ValueError, match="expected letters"):
        write_dataset({"../x": data}, tmp_path / "x", "coco")
    assert not Path(tmp_path / "x").exists()
