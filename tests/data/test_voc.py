"""VOC folders: layouts, splits, and what is wrong in them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from annotated import BOX, make_voc, save_image, save_xml, voc_object
from mlx_rcnn.data import DatasetError, open_dataset


def ids(dataset):
    return [item.image_id for item in dataset.items]


def test_a_year_of_a_devkit(tmp_path):
    make_voc(tmp_path)
    data = open_dataset(tmp_path)
    assert ids(data) == ["a", "b", "c"] and data.format == "voc" and data.defects == ()
    assert data.class_names == ("__background__", "cat") and data.category_ids is None
    assert data.splits == ("train", "val")  # cat_train.txt is a list of a class
    assert data.sizes.tolist() == [[80, 100]] * 3
    sample = data[1]
    assert sample.image.shape == (80, 100, 3) and sample.image.dtype == np.uint8
    assert sample.image_id == "b" and sample.name.endswith("b.jpg")
    # The numbers of the XML as they stand.
    assert sample.target["boxes"].tolist() == [list(map(float, BOX))]
    assert sample.target["boxes"].dtype == np.float32
    assert sample.target["labels"].tolist() == [1] and sample.target["labels"].dtype == np.int32
    assert sample.target["iscrowd"].tolist() == sample.target["difficult"].tolist() == [0]
    assert ids(open_dataset(tmp_path, split="train")) == ["a", "b"]
    assert ids(open_dataset(tmp_path, split="val")) == ["c"]
    with pytest.raises(ValueError, match="no split 'test': it has train, val"):
        open_dataset(tmp_path, split="test")


def test_the_devkit_itself_joins_its_years(tmp_path):
    make_voc(tmp_path / "VOCdevkit/VOC2007", ("000001", "000002"))
    make_voc(tmp_path / "VOCdevkit/VOC2012", ("2008_1", "2008_2"), "dog")
    # Masks have the names of the photos; they are none.
    save_image(tmp_path / "VOCdevkit/VOC2007/SegmentationClass/000001.png", (9, 9))
    for root in (tmp_path, tmp_path / "VOCdevkit"):
        data = open_dataset(root, split="train")
        assert ids(data) == ["000001", "2008_1"] and data.defects == ()
        assert data.class_names[1:] == ("cat", "dog")
        assert data[0].image.shape == (80, 100, 3)
    # Classes are those of the whole folder, so that splits agree.
    assert open_dataset(tmp_path / "VOCdevkit/VOC2012").class_names[1:] == ("dog",)


def test_names_that_come_up_twice(tmp_path):
    make_voc(tmp_path / "one", ("a", "b"))
    make_voc(tmp_path / "two", ("a", "b"), "dog")
    data = open_dataset(tmp_path, split="train")
    assert ids(data) == ["one/Annotations/a", "two/Annotations/a"]
    assert ["one" in str(data.items[0].path), "two" in str(data.items[1].path)] == [True, True]
    assert [data[i].target["labels"].tolist() for i in range(2)] == [[1], [2]]


@pytest.mark.parametrize(
    ("image", "xml"),
    [
        ("{}.jpg", "{}.xml"),
        ("images/{}.jpg", "annotations/{}.xml"),
        ("images/deep/er/{}.PNG", "labels/xml/{}.XML"),
        ("photos of mine/{}.jpeg", "{}.xml"),
    ],
)
def test_loose_folders(tmp_path, image, xml):
    for name in ("x", "y.1"):
        save_image(tmp_path / image.format(name))
        save_xml(tmp_path / xml.format(name), voc_object("cat"))
    save_image(tmp_path / image.format("x")).with_name("._x.jpg").write_bytes(b"junk")
    (tmp_path / xml.format("x")).with_name("._x.xml").write_bytes(b"junk")
    data = open_dataset(tmp_path)
    assert sorted(ids(data)) == ["x", "y.1"] and data.defects == () and data.splits == ()
    (tmp_path / "val.txt").write_text("y.1\n")
    assert ids(open_dataset(tmp_path, split="val")) == ["y.1"]


def test_folders_named_as_splits(tmp_path):
    for split, name in (("train", "a"), ("valid", "a"), ("valid", "b")):
        save_image(tmp_path / split / f"{name}.jpg")
        save_xml(tmp_path / split / f"{name}.xml", voc_object(split))
    data = open_dataset(tmp_path, split="val")
    assert ids(data) == ["a", "b"]
    assert [data[i].target["labels"].tolist() for i in (0, 1)] == [[2], [2]]
    assert data.splits == ("train", "val") and len(open_dataset(tmp_path)) == 3


def test_an_image_by_the_filename(tmp_path):
    save_image(tmp_path / "images/photo.jpg")
    save_xml(tmp_path / "xml/0001.xml", voc_object("cat"), filename="photo.jpg")
    assert open_dataset(tmp_path).items[0].path.name == "photo.jpg"


def test_what_is_wrong_is_dropped_and_named(tmp_path):
    make_voc(tmp_path)
    folder = tmp_path / "Annotations"
    objects = [
        voc_object("cat"),
        voc_object("cat"),  # 2: twice
        voc_object("cat", (5, 5, 5, 9)),  # 3: no width
        voc_object("cat", (30, 30, 20, 40)),  # 4: turned round
        voc_object("cat", (100, 5, 120, 30)),  # 5: right of the image
        voc_object("cat", (-7, 5, 20, 90)),  # 6: reaches over the border
        voc_object("cat", (0, 0, 101, 80.5)),  # 7: by rounding only
        voc_object("cat", ("x", 0, 10, 10)),  # 8
        voc_object("", (0, 0, 10, 10)),  # 9
        voc_object("cat", ("nan", 0, 10, 10)),  # 10
        # VOC's person layout: the box of the hand is not the object's.
        voc_object("dog", (1, 2, 3, 4), 1, "<part><bndbox><xmin>7</xmin></bndbox></part>"),
    ]
    save_xml(folder / "a.xml", *objects)
    (folder / "b.xml").write_text("<annotation>\n<object>\n</annotation>")
    (folder / "odd.xml").write_text("<html/>")
    save_xml(folder / "gone.xml", voc_object("cat"))
    save_xml(folder / "c.xml", voc_object("cat"), size=(50, 100))
    save_image(tmp_path / "JPEGImages/alone.jpg")
    (tmp_path / "JPEGImages/text.jpg").write_text("hello")
    save_xml(folder / "text.xml", voc_object("cat"))

    data = open_dataset(tmp_path)
    assert ids(data) == ["a"]
    expected = [list(map(float, BOX)), [0, 5, 20, 80], [0, 0, 100, 80], [1, 2, 3, 4]]
    assert data[0].target["boxes"].tolist() == expected
    assert data[0].target["difficult"].tolist() == [0, 0, 0, 1]
    assert data[0].target["labels"].tolist() == [1, 1, 1, 2]
    lines = [str(defect) for defect in data.defects]
    for part in (
        "a.jpg, object 2 (cat): box (10, 20, 50, 60) comes up twice (object dropped)",
        "a.jpg, object 3 (cat): box (5, 5, 5, 9) has no area (object dropped)",
        "object 4 (cat): box (30, 30, 20, 40) has no area",
        "object 5 (cat): box (100, 5, 120, 30) lies outside the image of 100x80",
        "object 6 (cat): box (-7, 5, 20, 90) passes the border of the image of 100x80 (box clipped",
        "object 8: bndbox: expected four numbers",
        "object 9: no name",
        "object 10 (cat): box (nan, 0, 10, 10) is not finite",
        "b.xml: not well-formed XML at line 3, column 3: mismatched tag (image dropped)",
        "odd.xml: not a VOC annotation: <html>, expected <annotation>",
        "gone.xml: no image gone.jpg (image dropped)",
        "c.jpg: the image is 100x80, its annotation says 100x50 (image dropped)",
        "alone.jpg: no annotation (image dropped)",
        "text.jpg: not an image, or a format Pillow does not know (image dropped)",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 14
    with pytest.raises(DatasetError, match="14 defects:\n") as error:
        open_dataset(tmp_path, strict=True)
    assert all(line in str(error.value) for line in lines)
    assert open_dataset(make_voc(tmp_path / "fine"), strict=True).defects == ()


def test_split_lists_that_name_what_is_not_there(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nnone\na\n\n")
    data = open_dataset(tmp_path, split="train")
    assert ids(data) == ["a"]
    assert "none: no such annotation" in str(data.defects[0])
    assert "a comes up twice" in str(data.defects[1])


def test_images_turned_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: stored 100 x 80, shown 80 x 100
    for name, size in (("shown", (100, 80)), ("stored", (80, 100)), ("unknown", None)):
        save_image(tmp_path / f"{name}.jpg", exif=exif)
        save_xml(tmp_path / f"{name}.xml", voc_object("cat"), size=size)
    data = open_dataset(tmp_path)
    # Boxes lie in the frame that the annotation's size tells; without one, in the shown one.
    assert data.sizes.tolist() == [[100, 80], [80, 100], [100, 80]]
    assert [data[i].image.shape[:2] for i in range(3)] == [(100, 80), (80, 100), (100, 80)]


def test_no_objects_at_all(tmp_path):
    save_image(tmp_path / "a.jpg")
    save_xml(tmp_path / "a.xml")
    data = open_dataset(tmp_path, class_names=("__background__", "cat"))
    target = data[0].target
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_classes_of_a_model(tmp_path):
    make_voc(tmp_path / "a")
    make_voc(tmp_path / "b", ("x", "y"), "dog")
    names = ("__background__", "dog", "N/A", "cat", "cow")
    data = open_dataset(tmp_path, class_names=names)
    assert data.class_names == names
    assert [data[i].target["labels"].tolist() for i in range(5)] == [[3], [3], [3], [1], [1]]
    assert data.ground_truth(0)[0]["category_id"] == 3
    with pytest.raises(ValueError, match=r"lacks \(objects\): 'dog' \(2\); the model has cat, cow"):
        open_dataset(tmp_path, class_names=("__background__", "cat", "cow"))
    # A second change counts from the labels of the first.
    again = data.with_classes(("__background__", "cat", "dog"))
    assert [again[i].target["labels"].tolist() for i in (0, 4)] == [[1], [2]]


def test_an_image_that_changes_under_way(tmp_path):
    data = open_dataset(make_voc(tmp_path))
    save_image(tmp_path / "JPEGImages/a.jpg", (40, 40))
    with pytest.raises(ValueError, match="a.jpg is 40x40, expected 100x80"):
        data[0]
    shutil.rmtree(tmp_path / "JPEGImages")
    with pytest.raises(FileNotFoundError, match="a.jpg"):
        data[0]


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_dataset(tmp_path / "none")
    with pytest.raises(ValueError, match="no annotations in .*: expected VOC XML files or COCO"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="no annotations in .*: expected VOC XML"):
        open_dataset(tmp_path, format="voc")
    with pytest.raises(ValueError, match="format='kitti': expected one of"):
        open_dataset(tmp_path, format="kitti")
    with pytest.raises(ValueError, match="expected a folder of VOC annotations or a COCO JSON"):
        open_dataset(save_image(tmp_path / "a.jpg"))
    with pytest.raises(ValueError, match="is a file: expected a folder"):
        open_dataset(tmp_path / "a.jpg", format="voc")
    (tmp_path / "a.xml").write_text("<annotation")
    with pytest.raises(ValueError, match="no VOC annotation in .*a.xml: not well-formed XML at"):
        open_dataset(tmp_path)
    save_xml(tmp_path / "a.xml", voc_object("cat"), size=(1, 1))
    with pytest.raises(ValueError, match="no image can be used; .*annotation says 1x1"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="VOC annotations hold no masks"):
        open_dataset(tmp_path, masks=True)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ValueError, match="both VOC XML .* and COCO JSON .* files: choose"):
        open_dataset(tmp_path)
