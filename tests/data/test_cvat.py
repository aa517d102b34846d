"""CVAT's XML for images: shapes, groups, subsets, and what cannot be used."""

from pathlib import Path

import numpy as np
import pytest

from annotated import save_image
from mlx_rcnn.data import open_dataset

LABELS = """<meta><job><labels>
<label><name>dog</name><type>any</type></label><label><name>cat</name><type>any</type></label>
<label><name>pose</name><type>skeleton</type></label>
<label><name>nose</name><type>points</type><parent>pose</parent></label>
<label><name>ear</name><type>points</type><parent>pose</parent></label>
</labels></job></meta>"""
BOX = '<box label="cat" occluded="1" xtl="10.00" ytl="20" xbr="50" ybr="60" z_order="0"></box>'


def image(shapes: str, name: str = "a.jpg", **more: str) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<image id="0" name="{name}" width="100" height="80"{extra}>{shapes}</image>'


def save(root: Path, *images: str, labels: str = LABELS) -> Path:
    save_image(root / "images" / "a.jpg")
    path = root / "annotations.xml"
    text = f"<annotations><version>1.1</version>{labels}{''.join(images)}</annotations>"
    path.write_text(text, encoding="utf-8")
    return path


def test_shapes(tmp_path):
    mask = '<mask label="dog" rle="1, 2, 1, 1, 1" left="10" top="20" width="3" height="2"/>'
    path = save(
        tmp_path,
        image(
            BOX
            + '<polygon label="dog" points="10,20;50,20;50.5,60"><attribute name="difficult">true'
            + "</attribute></polygon>"
            + mask
            + '<ellipse label="cat" cx="50" cy="40" rx="10" ry="5"/>'
            + '<box label="cat" xtl="40" ytl="30" xbr="60" ybr="40" rotation="90"/>'
            + '<tag label="x"/>'
        ),
    )
    for source in (tmp_path, path):
        dataset = open_dataset(source)
        assert dataset.format == "cvat" and dataset.class_names[1:] == ("dog", "cat")
    target = dataset.target(0)
    expected = [[10, 20, 50, 60], [10, 20, 50.5, 60], [11, 20, 13, 22], [40, 35, 60, 45],
                [45, 25, 55, 45]]  # fmt: skip
    np.testing.assert_allclose(target["boxes"], expected, atol=1e-4)
    assert target["labels"].tolist() == [2, 1, 1, 2, 2] and target["difficult"].tolist()[1] == 1
    said = [str(defect) for defect in dataset.defects]
    assert len(said) == 2 and "rotated boxes" in said[0] and "tags of whole images" in said[1]
    masks = open_dataset(path, masks=True)[0].target["masks"]
    np.testing.assert_array_equal(masks[1][20:22, 10:13], [[0, 1, 1], [0, 1, 0]])


def test_groups_and_skeletons(tmp_path):
    square = "{0},0;{1},0;{1},10;{0},10"
    point = '<points label="{}" outside="{}" occluded="{}" points="{}"/>'
    skeleton = point.format("ear", 0, 1, "4,5") + point.format("nose", 1, 0, "0,0")
    save(
        tmp_path,
        image(
            f'<polygon label="cat" group_id="1" points="{square.format(0, 10)}"/>'
            f'<polygon label="cat" group_id="1" points="{square.format(20, 30)}"/>'
            f'<skeleton label="pose" group_id="1">{skeleton}</skeleton>'
            f'<polygon label="cat" group_id="0" points="{square.format(40, 50)}"/>'
            '<points label="nose" points="3,3"/>'
        ),
    )
    dataset = open_dataset(tmp_path, masks=True, keypoints=None)
    assert dataset.class_names[1:] == ("dog", "cat") and dataset.keypoint_names == ("nose", "ear")
    target = dataset[0].target
    assert target["masks"].sum(axis=(1, 2)).tolist() == [200, 100]
    np.testing.assert_array_equal(target["keypoints"][0], [[0, 0, 0], [4, 5, 1]])
    assert "a point without an object" in str(dataset.defects[0])


def test_a_skeleton_alone_has_the_box_of_its_points(tmp_path):
    points = '<points label="nose" points="10,20"/><points label="ear" points="30,50"/>'
    save(tmp_path, image(f'<skeleton label="pose">{points}</skeleton>'))
    dataset = open_dataset(tmp_path, keypoints=True)
    assert dataset.class_names[1:] == ("dog", "cat", "pose")
    assert dataset.target(0)["boxes"].tolist() == [[10, 20, 30, 50]]


def test_subsets_are_splits(tmp_path):
    save_image(tmp_path / "images" / "Train" / "b.jpg")
    save(tmp_path, image(BOX, "b.jpg", subset="Train"), image(BOX, subset="Validation"))
    assert [len(open_dataset(tmp_path, split=s)) for s in ("train", "val", None)] == [1, 1, 2]
    assert (
        "no image" in str(open_dataset(tmp_path, split="train").defects)
        or not open_dataset(tmp_path, split="val").defects
    )
    with pytest.raises(ValueError, match="no split 'test': it has train, val"):
        open_dataset(tmp_path, split="test")


@pytest.mark.parametrize(
    ("element", "problem"),
    [
        ('<box label="cat" xtl="1" ytl="2" xbr="x" ybr="4"/>', "xbr='x': expected a number"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "no label"),
        ('<polygon label="cat" points="1,2;3,4"/>', "a polygon of 2 points"),
        ('<polygon label="cat" points="1,2;3"/>', "expected x,y;x,y"),
        ('<polyline label="cat" points="1,2;3,4"/>', "a polyline is not read"),
        ('<cuboid label="cat"/>', "a cuboid is not read"),
        ('<ellipse label="cat" cx="5" cy="5" rx="0" ry="3"/>', "radii 0 and 3"),
        ('<mask label="cat" rle="1, 2" left="1" top="1" width="3" height="2"/>', "adds up to 3"),
        ('<mask label="cat" rle="x" left="1" top="1" width="3" height="2"/>', "run lengths"),
        ('<mask label="cat" rle="9" left="99" top="1" width="3" height="3"/>', "leaves the image"),
        ('<skeleton label="pose"/>', "a skeleton without points"),
    ],
)
def test_shapes_that_cannot_be_used(tmp_path, element, problem):
    save(tmp_path, image(BOX + element))
    dataset = open_dataset(tmp_path)
    assert len(dataset.target(0)["boxes"]) == 1
    [defect] = dataset.defects
    assert problem in defect.problem and defect.rule == "object dropped" and "a.jpg" in defect.where


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<annotations>", "not well-formed XML at line 1"),
        (BOMB, "declares an entity"),
        ("<annotations><version>1.1</version></annotations>", "has no images"),
        ("<annotations><track/></annotations>", "for video: export it as"),
        ("<other/>", "<other>, expected <annotations>"),
        ('<?xml version="1.0" encoding="none-such"?><annotations/>', "unknown encoding"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, problem):
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as error:
        open_dataset(path, format="cvat")
    assert "annotations.xml" in str(error.value)


def test_images_elsewhere_twice_and_missing(tmp_path):
    path = save(tmp_path / "x", image(BOX), image(BOX), image(BOX, "b.jpg"), image(BOX, ""))
    said = " ".join(map(str, open_dataset(path).defects))
    assert all(t in said for t in ("comes up twice", "b.jpg: no image", "expected a name"))
    (tmp_path / "x" / "images").rename(tmp_path / "photos")
    with pytest.raises(ValueError, match="name their folder with --images"):
        open_dataset(path)
    assert len(open_dataset(path, images=tmp_path / "photos")) == 1
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        open_dataset(path, images=tmp_path / "none")


def test_a_name_that_is_too_long_for_a_file_is_a_defect(tmp_path):
    path = save(tmp_path, image(BOX), image(BOX, f"{'x' * 300}.jpg"))
    dataset = open_dataset(path)
    assert len(dataset) == 1
    assert any("no image" in defect.problem for defect in dataset.defects)
