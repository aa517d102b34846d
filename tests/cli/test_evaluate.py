"""``mlx_rcnn evaluate``: the tables by hand, the results file, and one line for what is wrong."""

import json
import sys
import types
from pathlib import Path

import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image

import mlx_rcnn.checkpoints.load
from annotated import coco_content, make_coco, make_voc, save_xml, voc_object
from mlx_rcnn.cli.main import main
from mlx_rcnn.data import ShapesDataset, write_coco
from mlx_rcnn.outputs.coco import coco_results

NAMES = ("__background__", "cat", "N/A", "dog")


class Model(nn.Module):
    """Finds a cat (0.9) and a dog (0.4) at (10, 20, 50, 60) in every image."""

    def __init__(self, names=NAMES):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.class_names, self.batches = names, []
        self.config = types.SimpleNamespace(num_classes=len(NAMES), image_levels=None)

    def predict(self, images, *, score_thresh=None):
        self.batches.append((len(images), score_thresh))
        return [
            {
                "boxes": np.array([[10, 20, 50, 60]] * 2, np.float32),
                "scores": np.array([0.9, 0.4], np.float32),
                "labels": np.array([1, 3], np.int32),
            }
            for _ in images
        ]


@pytest.fixture
def model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = Model()
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: model)
    return model


@pytest.fixture
def no_model(monkeypatch, tmp_path):
    def load(source, dtype=None):
        raise AssertionError("all is checked before the model is loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments), "--model", "fake"])


def one_error_line(capsys):
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mlx_rcnn: error: ") and err.count("\n") == 1
    return err.strip()


def test_coco(model, capsys):
    make_coco(Path("data"))  # a.jpg has a cat there, b.jpg a dog
    assert evaluate("--data", "data", "--batch-size", 2, "--json", "out/found.json") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    # Of each class one detection is right and one wrong, of the same score, and in the order of the
    # images: for cats the right one is first (AP 1), for dogs the wrong one (AP 1/2).
    assert [line.split() for line in lines[:3]] == [
        ["class", "objects", "AP", "AP50"],
        ["cat", "1", "100.0", "100.0"],
        ["dog", "1", "50.0", "50.0"],
    ]
    assert lines[4].split()[:7] == ["box", "AP", "75.0", "AP50", "75.0", "AP75", "75.0"]
    assert "2 images, 2 objects, 4 detections; images per second: " in out
    assert lines[-1] == "results: out/found.json" and "2/2" in err
    assert model.batches == [(2, 0.05)]
    entries = json.loads(Path("out/found.json").read_text())
    # The data's own ids: image 4 comes before 9; the cat is 3, the dog 17.
    assert [(e["image_id"], e["category_id"]) for e in entries] == [
        (4, 3),
        (4, 17),
        (9, 3),
        (9, 17),
    ]
    assert entries[0]["bbox"] == [10, 20, 40, 40]


def test_voc(model, capsys):
    make_voc(Path("data"))
    save_xml(Path("data/Annotations/c.xml"), voc_object("cat"), voc_object("dog", (5, 5, 5, 9)))
    for metric, title in (("voc", "area"), ("voc07", "11-point")):
        assert evaluate("--data", "data", "--split", "val", "--metric", metric) == 0
        out, err = capsys.readouterr()
        assert [line.split() for line in out.splitlines()[:2]] == [
            ["class", "objects", "AP"],
            ["cat", "1", "100.0"],
        ]
        assert f"mAP at IoU 0.5 ({title}) 100.0" in out and "1 image, 1 objects" in out
        assert err.splitlines() == [
            "mlx_rcnn: data/JPEGImages/c.jpg, object 2 (dog): box (5, 5, 5, 9) has no area "
            "(object dropped)"
        ]
    assert evaluate("--data", "data", "--json", "found.json", "--score-thresh", 0.3) == 0
    assert model.batches[-1] == (1, 0.3)
    entries = json.loads(Path("found.json").read_text())
    assert {(e["image_id"], e["category_id"]) for e in entries} >= {("a", 1), ("c", 3)}


def test_masks(model, small_model, monkeypatch, capsys):
    data = ShapesDataset(2, (48, 64))
    write_coco(data, "shapes")
    real = small_model("mask_rcnn")
    names = ("__background__", "circle", "square", "triangle", "star")
    fake = types.SimpleNamespace(class_names=names, config=real.config, predict=real.predict)
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: fake)
    assert evaluate("--data", "shapes", "--json", "found.json", "--score-thresh", 0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-4:] == ["mask", "AP", "mask", "AP50"]
    assert any(line.startswith("mask AP") for line in lines)
    first = [e for e in json.loads(Path("found.json").read_text()) if e["image_id"] == 1]
    want = coco_results(real.predict(data[0].image, score_thresh=0.0)[0], 1)
    want = [entry for entry in want if entry["category_id"] != 4]  # the data has no stars
    assert len(first) == len(want) > 0
    for got, entry in zip(first, want, strict=True):
        assert got["category_id"] == entry["category_id"]
        assert got["segmentation"]["size"] == [48, 64]


def test_a_model_without_class_names(model, capsys):
    make_coco(Path("data"))
    model.class_names = None
    assert evaluate("--data", "data") == 2
    assert "3 classes without names, but the data has 2: cat, dog" in one_error_line(capsys)
    model.config.num_classes = 3
    model.predict = lambda images, score_thresh: [
        {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
        for _ in images
    ]
    assert evaluate("--data", "data") == 0
    out, err = capsys.readouterr()
    assert "no class names: its labels are taken in the order of the data, cat, dog" in err
    assert "--classes" in err and "matched by name" not in out


def test_names_that_differ_are_said(model, capsys):
    make_coco(Path("data"))
    model.class_names = ("__background__", "cat", "cow", "dog")
    assert evaluate("--data", "data") == 0
    out, _ = capsys.readouterr()
    line = next(line for line in out.splitlines() if line.startswith("classes are matched by name"))
    assert "2 of the model's 3 are in the data, which lacks 'cow'" in line
    assert "their numbers differ" in line


def test_names_are_given(model, capsys, monkeypatch):
    given = {}
    load = mlx_rcnn.checkpoints.load.load
    monkeypatch.setattr(
        mlx_rcnn.checkpoints.load, "load", lambda *a, **k: given.update(k) or load(*a)
    )
    make_coco(Path("data"))
    assert evaluate("--data", "data", "--classes", "cat,dog,cow") == 0
    assert given["class_names"] == "cat,dog,cow"
    capsys.readouterr()
    assert evaluate("--data", "data", "--classes", "a,b", "--set", "class_names=a,b") == 2
    assert "expected one of them" in one_error_line(capsys)


def test_classes_that_the_model_lacks(model, capsys):
    make_voc(Path("data"), label="zebra")
    assert evaluate("--data", "data") == 2
    message = one_error_line(capsys)
    assert "classes that the model lacks (objects): 'zebra' (3)" in message
    assert model.batches == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none"], "no such file or folder: none"),
        (["--data", "empty"], "no annotations in empty: expected VOC XML files or COCO JSON"),
        (["--data", "empty", "--format", "voc"], "no annotations in empty"),
        (["--data", "empty", "--format", "coco"], "expected one COCO JSON file, got none"),
        (["--data", "broken"], "a.xml: not well-formed XML at line 1"),
        (["--data", "list.json"], "list.json holds a list: expected COCO annotations"),
        (["--data", "text.json"], "text.json is not JSON: Expecting value at line 1"),
        (["--data", "alone.json"], "none of its 2 images (a.jpg, ...) is in"),
        (["--data", "voc", "--split", "dev"], "no split 'dev': it has train, val"),
        (["--data", "voc", "--strict"], "1 defect: voc/Annotations/z.xml: no image z.jpg"),
        (["--data", "voc", "--batch-size", "0"], "--batch-size: '0' given, expected a whole"),
        (["--data", "voc", "--score-thresh", "2"], "--score-thresh: '2' given"),
        (["--data", "voc", "--metric", "map"], "--metric: invalid choice: 'map'"),
        (["--data", "voc", "--json", "empty"], "--json empty is a folder: expected a file"),
        (["--data", "voc", "--json", "text.json/x"], "text.json is not a folder"),
        (["--data", "voc", "--json", "voc/JPEGImages/a.jpg"], "is part of the data"),
        (["--data", "coco/annotations.json", "--json", "coco/annotations.json"], "is part of the"),
        ([], "the following arguments are required: --data"),
    ],
)
def test_what_cannot_work_is_one_line(no_model, capsys, arguments, message):
    make_voc(Path("voc"))
    save_xml(Path("voc/Annotations/z.xml"), voc_object("cat"))
    make_coco(Path("coco"))
    for folder in ("empty", "broken"):
        Path(folder).mkdir()
    Path("broken/a.xml").write_text("<annotation")
    Path("list.json").write_text("[]")
    Path("text.json").write_text("text")
    Path("alone.json").write_text(json.dumps(coco_content()))
    before = sorted(Path().rglob("*"))
    assert evaluate(*arguments) == 2
    assert message in one_error_line(capsys)
    assert sorted(Path().rglob("*")) == before


def test_without_faster_coco_eval(no_model, monkeypatch, capsys):
    make_voc(Path("data"))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert evaluate("--data", "data") == 2
    assert 'pip install "mlx-rcnn[eval]"' in one_error_line(capsys)
    model = Model()
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: model)
    assert evaluate("--data", "data", "--metric", "voc") == 0


def test_an_image_damaged_further_down(model, capsys):
    make_voc(Path("data"))
    path = Path("data/JPEGImages/b.jpg")
    Image.effect_noise((100, 80), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert evaluate("--data", "data") == 0
    out, err = capsys.readouterr()
    assert "cannot read data/JPEGImages/b.jpg" in err and "2 images, 2 objects" in out


def test_many_defects_are_cut_short(model, capsys):
    make_voc(Path("data"))
    boxes = [voc_object("cat", (i, 5, i, 9)) for i in range(14)]
    save_xml(Path("data/Annotations/a.xml"), *boxes)
    assert evaluate("--data", "data", "--metric", "voc") == 0
    assert "mlx_rcnn: ... and 4 more defects in the data" in capsys.readouterr().err
