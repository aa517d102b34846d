"""Which format a file or folder has, and one clear error where it has several."""

import json

import pytest

from annotated import make_coco, make_voc, save_image
from mlx_rcnn.cli.flags.common import DATA_FORMATS
from mlx_rcnn.data import ShapesDataset, open_dataset, write_dataset
from mlx_rcnn.data.formats.recognise import FORMATS, guess_format
from mlx_rcnn.data.open import splits_of
from mlx_rcnn.data.writers.write import WRITERS

KINDS = {
    "voc": "VOC XML",
    "coco": "COCO JSON",
    "yolo": "YOLO text",
    "labelme": "LabelMe JSON",
    "cvat": "CVAT XML",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    data = ShapesDataset(2, (20, 30), max_objects=1)
    return {format: write_dataset(data, root / format, format).path for format in WRITERS}


def test_formats_are_the_same_everywhere():
    assert set(FORMATS) == set(WRITERS) == set(KINDS) and FORMATS == DATA_FORMATS


@pytest.mark.parametrize("format", WRITERS)
def test_each_is_told(folders, format):
    path = folders[format]
    assert guess_format(path) == format
    assert open_dataset(path).format == format
    for other in set(WRITERS) - {format}:
        with pytest.raises(ValueError):
            open_dataset(path, other)


@pytest.mark.parametrize("one", WRITERS)
@pytest.mark.parametrize("two", WRITERS)
def test_two_in_one_folder_are_both_named(folders, tmp_path, one, two):
    if one >= two:
        return
    for format in (one, two):
        source = folders[format] if folders[format].is_dir() else folders[format].parent
        (tmp_path / format).symlink_to(source)
    with pytest.raises(ValueError) as error:
        guess_format(tmp_path)
    for format in (one, two):
        assert KINDS[format] in str(error.value)
        assert f"{format}" in str(error.value).split("choose the format, ")[1]
    assert "--format" in str(error.value) and "\n" not in str(error.value)


def test_text_files_of_voc_and_a_readme_are_no_yolo(tmp_path):
    root = make_voc(tmp_path / "voc")
    (root / "README.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert guess_format(root) == "voc" and splits_of(root) == ("train", "val")
    make_coco(tmp_path / "coco")
    (tmp_path / "coco" / "notes.txt").write_text("x")
    assert guess_format(tmp_path / "coco") == "coco"


def test_files_alone(tmp_path):
    embedded = json.dumps({"imageData": "A" * 70_000, "shapes": [], "imagePath": ""})
    for name, text, format in (
        ("a.json", embedded, "labelme"),
        ("b.json", json.dumps({"version": "5", "shapes": [], "imagePath": ""}), "labelme"),
        ("c.json", json.dumps({"images": [], "x": {"shapes": []}}), "coco"),
        ("d.yaml", "names: [a]", "yolo"),
        ("e.xml", "<annotations/>", "cvat"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert guess_format(tmp_path / name) == format
    (tmp_path / "f.xml").write_text("<annotation/>")
    (tmp_path / "g.zip").write_bytes(b"PK")
    save_image(tmp_path / "h.jpg")
    for name, problem in (
        ("f.xml", "expected a folder of VOC"),
        ("g.zip", "unpack it"),
        ("h.jpg", "expected a folder"),
    ):
        with pytest.raises(ValueError, match=problem):
            guess_format(tmp_path / name)


def test_entities_in_voc_are_refused(tmp_path):
    root = make_voc(tmp_path)
    bomb = '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    (root / "Annotations" / "a.xml").write_text(bomb)
    dataset = open_dataset(root)
    assert len(dataset) == 2 and "declares an entity" in str(dataset.defects[0])
