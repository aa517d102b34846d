"""YOLO data: layouts, names, splits, and every line that cannot be used."""

from pathlib import Path

import numpy as np
import pytest

from annotated import save_image
from mlx_rcnn.data import open_dataset

BOX = "0 0.3 0.5 0.4 0.5"  # of 100 x 80: 10, 20, 50, 60
XYXY = [10, 20, 50, 60]


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def make(root: Path, labels: dict[str, tuple[str, ...] | None], names: str = "[cat, dog]") -> Path:
    """images/NAME.jpg and labels/NAME.txt (``None``: no file), and a data.yaml."""
    for name, lines in labels.items():
        save_image(root / "images" / f"{name}.jpg")
        if lines is not None:
            write(root / "labels" / f"{name}.txt", *lines)
    write(root / "data.yaml", f"names: {names}", "train: images")
    return root


def boxes(dataset, index=0):
    return dataset.target(index)["boxes"].tolist()


def test_ultralytics_layout(tmp_path):
    for split, lines in (("train", [BOX]), ("val", ["1 0.5 0.5 1 1"])):
        save_image(tmp_path / "set" / "images" / split / "ä b.jpg")
        write(tmp_path / "set" / "labels" / split / "ä b.txt", *lines)
    config = write(
        tmp_path / "set.yaml", "path: set", "train: images/train", "val: images/val",
        "names:", "  0: cat", "  1: big dog",
    )  # fmt: skip
    for path in (config, tmp_path):
        train = open_dataset(path, split="train")
        assert (train.format, train.splits) == ("yolo", ("train", "val"))
        assert train.class_names == ("__background__", "cat", "big dog")
        assert boxes(train) == [XYXY] and not train.defects
    assert boxes(open_dataset(config, split="val")) == [[0, 0, 100, 80]]
    assert len(open_dataset(config)) == 2
    with pytest.raises(ValueError, match="no split 'test': it has train, val"):
        open_dataset(config, split="test")


def test_roboflow_layout_with_its_wrong_paths(tmp_path):
    for split in ("train", "valid"):
        save_image(tmp_path / split / "images" / "a.jpg")
        write(tmp_path / split / "labels" / "a.txt", BOX)
    write(
        tmp_path / "data.yaml", "train: ../train/images", "val: ../valid/images", "", "nc: 1",
        "names: ['cat']", "roboflow:", "  workspace: x",
    )  # fmt: skip
    write(tmp_path / "README.roboflow.txt", "hello")
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split=split)
        assert boxes(dataset) == [XYXY] and not dataset.defects
    (tmp_path / "data.yaml").unlink()  # folders say the same; names are then lacking
    dataset = open_dataset(tmp_path, split="val")
    assert boxes(dataset) == [XYXY] and dataset.class_names[1:] == ("class_0",)
    assert "what the classes are called" in str(dataset.defects[0])


def test_paths_of_another_machine_that_cannot_be_looked_at(tmp_path):
    # Path.exists raises on the whole path, as below a folder that belongs to another user.
    far = "/" + "x" * 300
    make(tmp_path, {"a": (BOX,), "b": (BOX,)})
    write(tmp_path / "data.yaml", "names: [cat, dog]", f"train: {far}/images")
    assert [boxes(open_dataset(tmp_path), i) for i in (0, 1)] == [[XYXY], [XYXY]]
    write(tmp_path / "data.yaml", "names: [cat, dog]", "train: train.txt")
    write(tmp_path / "train.txt", f"{far}/images/a.jpg", f"images/{'y' * 300}.jpg")
    dataset = open_dataset(tmp_path, split="train")
    assert len(dataset) == 1 and boxes(dataset) == [XYXY]
    assert any("yyy" in defect.where for defect in dataset.defects)


def test_darknet_layout(tmp_path):
    save_image(tmp_path / "obj_train_data" / "a.jpg")
    save_image(tmp_path / "obj_train_data" / "b.jpg")
    write(tmp_path / "obj_train_data" / "a.txt", BOX)
    write(tmp_path / "obj_train_data" / "b.txt")
    write(tmp_path / "obj.names", "cat", "dog")
    lines = ["data/obj_train_data/a.jpg", "data/obj_train_data/b.jpg"]
    write(tmp_path / "train.txt", *lines, "data/obj_train_data/c.jpg")
    write(
        tmp_path / "obj.data", "classes = 2", "train = data/train.txt", "names = data/obj.names",
    )  # fmt: skip
    dataset = open_dataset(tmp_path, split="train")
    assert [len(dataset.target(i)["boxes"]) for i in range(len(dataset))] == [1, 0]
    assert len(dataset.defects) == 1 and "c.jpg" in str(dataset.defects[0])


def test_images_beside_labels_and_classes(tmp_path):
    save_image(tmp_path / "a.b.jpg")
    write(tmp_path / "a.b.txt", BOX)
    write(tmp_path / "classes.txt", "cat", "dog")
    dataset = open_dataset(tmp_path)
    assert dataset.class_names[1:] == ("cat", "dog") and boxes(dataset) == [XYXY]
    assert not dataset.defects and dataset.splits == ()


def test_outlines(tmp_path):
    root = make(tmp_path, {"a": ("1 0.1 0.25 0.5 0.25 0.5 0.75", BOX)})
    dataset = open_dataset(root)
    assert boxes(dataset) == [[10, 20, 50, 60], XYXY]
    dataset = open_dataset(root, masks=None)
    assert dataset.masks and len(boxes(dataset)) == 1
    assert "no segmentation" in str(dataset.defects[0])
    assert dataset[0].target["masks"].sum() == pytest.approx(800, abs=40)
    assert dataset.ground_truth(0)[0]["area"] == 800
    kept = open_dataset(root, masks="kept")
    assert not kept.masks and not kept.defects and len(boxes(kept)) == 2
    assert kept.items[0].segmentations[1] is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("7 0.5 0.5 0.1 0.1", "class 7 is not among the 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not among"),
        ("cat 0.5 0.5 0.1 0.1", "class 'cat': expected a whole number"),
        ("0 0.5 0.5 0.1", "3 numbers behind the class"),
        ("0 0.5 0.5 0.1 0.1 0.9", "a score"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers behind the class"),
        ("0 0.5 x 0.1 0.1", "'x': expected numbers"),
        ("0 0.5 nan 0.1 0.1", "'nan': expected numbers"),
        ("0,0.5,0.5,0.1,0.1", "expected a whole number"),
        ("0 10 20 50 60", "look like pixels"),
        ("0 0.5 1.5 0.1 0.1", "1.5 lies outside 0 to 1"),
        ("0 0.1 0.1 0.2 0.2 0.3 -0.5", "-0.5 lies outside 0 to 1"),
        ("0 0.5 0.5 0 0.1", "has no area"),
        (BOX, "comes up twice"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, line, problem):
    dataset = open_dataset(make(tmp_path, {"a": (BOX, line)}))
    assert boxes(dataset) == [XYXY]
    [defect] = dataset.defects
    assert problem in defect.problem and defect.rule == "object dropped"
    assert "a.jpg" in defect.where and "a.txt line 2" in defect.where


def test_files_that_cannot_be_used(tmp_path):
    root = make(tmp_path, {"a": (BOX,), "empty": (), "none": None})
    write(root / "labels" / "ghost.txt", BOX)
    save_image(root / "images" / "a.png")  # the same stem
    (root / "images" / "bad.jpg").write_bytes(b"no image")
    write(root / "labels" / "bad.txt", BOX)
    (root / "labels" / "none.bin").write_bytes(b"\x00")
    dataset = open_dataset(root)
    assert sorted(Path(item.path).name for item in dataset.items) == [
        "a.jpg", "empty.jpg", "none.jpg",
    ]  # fmt: skip
    said = sorted(str(defect) for defect in dataset.defects)
    assert len(said) == 4
    for name, text in (
        ("a.png", "shares its labels, a.txt, with a.jpg"),
        ("bad.jpg", "cannot read"),
        ("ghost.txt", "no image of this name"),
        ("data.yaml", "no label file (1 times, first in none.jpg)"),
    ):
        assert any(name in line and text in line for line in said), (name, said)


def test_binary_labels_are_defects(tmp_path):
    root = make(tmp_path, {"a": (BOX,)})
    (root / "labels" / "a.txt").write_bytes(bytes(range(256)))
    dataset = open_dataset(root)
    assert len(dataset) == 1 and dataset.defects and boxes(dataset) == []


POSE = "0 0.3 0.5 0.4 0.5 0.1 0.25 2 0.5 0.75 1 0 0 0"


def test_keypoints(tmp_path):
    root = make(tmp_path, {"a": (POSE, BOX.replace("0.3", "0.4")), "b": ("0 0.3 0.5 0.4 0.5 1",)})
    write(
        root / "data.yaml", "train: images", "names: [cat]", "kpt_shape: [3, 3]",
        "kpt_names: {0: [nose, left_ear, right_ear]}",
    )  # fmt: skip
    dataset = open_dataset(root, keypoints=None)
    assert dataset.keypoint_names == ("nose", "left_ear", "right_ear")
    points = dataset.target(0)["keypoints"]
    np.testing.assert_array_equal(points[0], [[10, 20, 2], [50, 60, 1], [0, 0, 0]])
    assert not points[1].any()
    assert [d.problem for d in dataset.defects] == [
        "5 numbers behind the class: expected 13, a box and its keypoints"
    ]
    assert open_dataset(root).keypoint_names is None
    config = (root / "data.yaml").read_text()
    flips = config.replace("kpt_names: {0: [nose, left_ear, right_ear]}", "flip_idx: [0, 2, 1]")
    (root / "data.yaml").write_text(flips)
    names = open_dataset(root, keypoints=True).keypoint_names
    assert names == ("keypoint_1", "left_keypoint_2", "right_keypoint_2")
    with pytest.raises(ValueError, match="expected kpt_shape"):
        open_dataset(make(tmp_path / "x", {"a": (BOX,)}), keypoints=True)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["names: [a, a]", "train: images"], "two classes have the same name"),
        (["names: {0: a, 2: b}", "train: images"], "expected the numbers 0, 1, 2"),
        (["names: 3", "train: images"], "expected a list of names"),
        (["names: [a]", "train: {a: b}"], "train: expected a folder"),
        (["names: [a]", "train: nowhere"], "train: no image in nowhere"),
        (["names: [a]", "train: *x"], "line 2: .*an alias"),
        (["names: [a]", "kpt_shape: 3", "train: images"], "kpt_shape: expected"),
    ],
)
def test_a_data_yaml_that_cannot_be_used(tmp_path, lines, problem):
    root = make(tmp_path, {"a": (BOX,)})
    write(root / "data.yaml", *lines)
    with pytest.raises(ValueError, match=problem):
        open_dataset(root, split="train")


def test_several_configs_are_named(tmp_path):
    root = make(tmp_path, {"a": (BOX,)})
    write(root / "other.yaml", "names: [a]")
    with pytest.raises(ValueError, match=r"name one of data\.yaml, other\.yaml"):
        open_dataset(root)
    assert len(open_dataset(root / "data.yaml")) == 1
