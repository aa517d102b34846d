"""The report: counts by hand."""

from annotated import coco_content, make_coco, make_voc, save_image, save_xml, voc_object
from mlx_rcnn.data import ShapesDataset, open_dataset, report


def test_counts(tmp_path):
    make_voc(tmp_path)
    # 30 x 30 = 900 is small (under 32 * 32), 40 x 40 medium, 100 x 100 = 10000 large.
    objects = [voc_object("dog", (0, 0, 30, 30), 1), voc_object("dog", (0, 0, 100, 100))]
    save_image(tmp_path / "JPEGImages/big.jpg", (120, 200))
    save_xml(tmp_path / "Annotations/big.xml", *objects, size=None)
    save_image(tmp_path / "JPEGImages/none.jpg")
    save_xml(tmp_path / "Annotations/none.xml", voc_object("dog", (3, 3, 3, 3)))
    found = report(open_dataset(tmp_path))
    assert (found.images, found.empty, found.per_image) == (5, 1, 2)
    assert found.objects == {"cat": 3, "dog": 2}
    assert (found.difficult, found.crowds, found.areas) == (1, 0, (1, 3, 1))
    assert found.image_sizes == ((80, 100), (80, 100), (120, 200))
    assert len(found.defects) == 1
    lines = str(found).splitlines()
    assert lines[0] == "images   5, 1 without an object; 100x80 to 200x120, median 100x80"
    assert lines[1] == "objects  5, at most 2 an image; 1 small, 3 medium, 1 large; 1 difficult"
    assert lines[2:4] == ["  cat  3", "  dog  2"]
    assert lines[4] == "defects  1: 1 object dropped" and "no area" in lines[5]


def test_crowds_and_no_defects(tmp_path):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    found = report(open_dataset(make_coco(tmp_path, content)))
    assert (found.crowds, found.empty, found.objects) == (1, 1, {"cat": 1, "dog": 0})
    assert str(found).splitlines()[-1] == "defects  none" and "1 crowds" in str(found)


def test_many_defects_are_cut_short(tmp_path):
    save_image(tmp_path / "a.jpg")
    boxes = [voc_object("cat", (i, 5, i, 9)) for i in range(30)]
    save_xml(tmp_path / "a.xml", *boxes)
    lines = str(report(open_dataset(tmp_path))).splitlines()
    assert "defects  30: 30 object dropped" in lines and lines[-1] == "  ... and 10 more"


def test_any_dataset():
    found = report(ShapesDataset(4, (40, 50)))
    assert found.images == 4 and sum(found.objects.values()) >= 4 and found.defects == ()
