"""Whatever is in the files: an answer or one sentence, the same objects, nothing changed."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlx_rcnn
import tiny
from mlx_rcnn.cli.main import main
from mlx_rcnn.data import open_dataset, report
from mlx_rcnn.evaluation import evaluate_coco
from tests.annotated import coco_content, make_coco, make_voc, save_image, save_xml, voc_object

ODD = st.sampled_from(
    [
        None, "", "1", "x", 1.0, 0, 1, -1, 2, True, [], [[]], {}, float("nan"), float("inf"), 1e8,
        1e300, [1, 2, 3, 4], [[10, 20, 30, 30]], [[1, 2, 3, 4, 5]], [10, 20, 50, 20, 50, 60],
        [[10, 20, float("nan"), 20, 50, 60]], [[10, 20, None, 20, 50, 60]], ["a"], [True], [None],
        [[[10, 20], [50, 20], [50, 60]]], [[10, 20, 1e8, 20, 50, 60]], [{"x": 1}], [0, 0, 0.5, 0.5],
        {"size": [80, 100], "counts": [100, 50, 7850]}, {"size": [80, 100], "counts": "abc"},
        [{"size": [80, 100], "counts": [100, 50, 7850]}], {"size": [9, 9], "counts": [81]},
        [5, 5, 2] * 3, [None, None, 0, 5, 5, 2, 5, 5, 9], ["5", "6", "7", "8"], [5, 5, 1e8, 1e8],
        {"size": None, "counts": []}, {"counts": [1]}, "a\\b.jpg", "%20.jpg", "\0", "é" * 300,
    ]
)  # fmt: skip
PLACES = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": (
        "id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints",
        "num_keypoints", "difficult",
    ),
    "categories": ("id", "name", "supercategory", "keypoints", "skeleton"),
}  # fmt: skip
FAULTS = st.lists(
    st.sampled_from([(part, key) for part, keys in PLACES.items() for key in keys]).flatmap(
        lambda place: st.tuples(st.just(place), st.integers(0, 3), ODD)
    ),
    max_size=4,
)


class Oracle:
    """Finds each object of a dataset that is measured, in the order of its images."""

    def __init__(self, dataset, masks, keypoints):
        self.dataset, self.masks, self.keypoints, self.at = dataset, masks, keypoints, 0

    def predict(self, images, score_thresh=None):
        found = []
        for image in images:
            target = self.dataset[self.at].target
            count, self.at = len(target["boxes"]), self.at + 1
            one = {
                "boxes": target["boxes"],
                "labels": target["labels"],
                "scores": np.full(count, 0.9, np.float32),
            }
            if self.masks:
                one["masks"] = target["masks"].astype(bool).reshape(count, *image.shape[:2])
            if self.keypoints:
                one["keypoints"] = target["keypoints"]
                one["keypoints_scores"] = np.ones(target["keypoints"].shape[:2], np.float32)
            found.append(one)
        return found


def check(path, **options):
    """Open, count, load and measure; errors are of the kinds a command says in a line."""
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    try:
        dataset = open_dataset(path, **options)
    except (ValueError, OSError) as error:
        assert str(error).strip() and len(str(error)) < 1000
    else:
        counted = report(dataset)
        targets = [dataset[i].target for i in range(len(dataset))]
        truths = [dataset.ground_truth(i) for i in range(len(dataset))]
        assert [len(t["labels"]) for t in targets] == [len(t) for t in truths]
        objects = sum(counted.objects.values())
        assert objects == sum(int((t["iscrowd"] == 0).sum()) for t in targets)
        assert objects == sum(not entry["iscrowd"] for truth in truths for entry in truth)
        for target in targets:
            assert np.isfinite(target["boxes"]).all()
            assert np.isfinite(target.get("keypoints", np.zeros(0))).all()
        masks, keypoints = options.get("masks", False), options.get("keypoints", False)
        result = evaluate_coco(Oracle(dataset, masks, keypoints), dataset, progress=False)
        assert result["objects"] == objects
    assert before == {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}


def check_coco(faults, masks, keypoints):
    content = coco_content()
    for category in content["categories"]:
        category.update(keypoints=["a", "b", "c"], skeleton=[[1, 2]])
    for entry in content["annotations"]:
        entry.update(keypoints=[15, 25, 2, 0, 0, 0, 45, 50, 1], num_keypoints=2)
    for (part, key), at, value in faults:
        content[part][at % len(content[part])][key] = value
    with tempfile.TemporaryDirectory() as folder:
        path = make_coco(Path(folder), content)
        check(path, masks=masks, keypoints=keypoints)


def check_voc(box, name, size, text, split):
    with tempfile.TemporaryDirectory() as folder:
        root = make_voc(Path(folder, "voc"))
        save_image(root / "JPEGImages" / "odd.jpg")
        save_xml(root / "Annotations" / "odd.jpg.xml", voc_object(name, box), size=size)
        (root / "ImageSets/Main/train.txt").write_bytes(text)
        check(root, split=split)


VOC = {
    "box": st.tuples(*[st.sampled_from([0, 5, 60, -3, 1e8, "nan", "inf", "", "x", 0.4])] * 4),
    "name": st.sampled_from(["cat", "Cat", "", " ", "N/A", "é", "c at"]),
    "size": st.sampled_from([None, (80, 100), (0, 0), ("x", "y"), ("inf", 5), ("80.0", "100.0")]),
    "text": st.sampled_from(
        [b"", b"a\r\nb\r\n", b"\xef\xbb\xbfa\n", b"x\\y\\a.jpg\r\nodd.jpg\r\n", b"a 1\nodd -1\n",
         b"gone\n", "a\nb".encode("utf-16"), b"\xff\x00"]
    ),
    "split": st.sampled_from([None, "train", "val", "test"]),
}  # fmt: skip
LOOSE = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=70, derandomize=True, **LOOSE)
@given(FAULTS, st.booleans(), st.booleans())
def test_any_coco_file(faults, masks, keypoints):
    check_coco(faults, masks, keypoints)


@settings(max_examples=30, derandomize=True, **LOOSE)
@given(**VOC)
def test_any_voc_folder(**case):
    check_voc(**case)


@pytest.mark.slow
@settings(max_examples=1600, **LOOSE)
@given(FAULTS, st.booleans(), st.booleans())
def test_many_coco_files(faults, masks, keypoints):
    check_coco(faults, masks, keypoints)


@pytest.mark.slow
@settings(max_examples=400, **LOOSE)
@given(**VOC)
def test_many_voc_folders(**case):
    check_voc(**case)


def check_commands(faults):
    """The command line on such a file: two steps of training, and measuring."""
    content = coco_content()
    for (part, key), at, value in faults:
        content[part][at % len(content[part])][key] = value
    with tempfile.TemporaryDirectory() as folder:
        path = make_coco(Path(folder, "data"), content)
        before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
        model = Path(folder, "model")
        mlx_rcnn.save(tiny.build(classes=3), model)
        run = ["--output", str(Path(folder, "run")), "--epochs", "2", "--batch-size", "1"]
        run += ["--warmup", "1", "--workers", "0"]
        for command, options in (("train", run), ("evaluate", [])):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                code = main([command, "--data", str(path), "--model", str(model), *options])
            assert code in (0, 2) and said.getvalue().strip(), said.getvalue()
            assert "Traceback" not in said.getvalue()
        assert before == {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}


@settings(max_examples=12, derandomize=True, **LOOSE)
@given(FAULTS)
def test_commands_on_any_coco_file(faults):
    check_commands(faults)


@pytest.mark.slow
@settings(max_examples=40, **LOOSE)
@given(FAULTS)
def test_commands_on_many_coco_files(faults):
    check_commands(faults)
