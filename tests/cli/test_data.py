"""``mlx_rcnn data``: check, stats, draw, split and convert, on every format."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
import tiny
from annotated import make_coco, make_voc, save_xml, voc_object
from mlx_rcnn.cli.arguments import build_parser
from mlx_rcnn.cli.main import main
from mlx_rcnn.config.settings import read_setting
from mlx_rcnn.data import ShapesDataset, open_dataset, write_dataset
from mlx_rcnn.data.writers.write import WRITERS


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command; gives the exit code, what was printed and the error."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str, str]:
        code = main(["data", *map(str, args)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def shapes(tmp_path) -> dict[str, Path]:
    """Ten images in each format."""
    data = ShapesDataset(10, (48, 64), max_objects=3)
    return {f: write_dataset(data, tmp_path / "in" / f, f).path for f in WRITERS}


def test_help_is_complete(run):
    (commands,) = (a for a in build_parser()._actions if a.choices)
    (actions,) = (a for a in commands.choices["data"]._actions if a.choices)
    assert set(actions.choices) == {"check", "stats", "draw", "split", "convert"}
    for parser in actions.choices.values():
        for action in parser._actions:
            assert action.help, action.dest
            if action.option_strings and not action.required and action.dest != "help":
                assert "(default: " in action.help, action.dest
    code, out, err = run()
    assert code == 2 and "ACTION" in err
    code, out, err = run("chekc", "x")
    assert code == 2 and "did you mean 'check'?" in err and err.count("\n") == 1


@pytest.mark.parametrize("format", WRITERS)
def test_check(run, shapes, format):
    code, out, err = run("check", shapes[format])
    assert code == 0 and "10 images" in out and "no defects" in out and err == ""
    if format != "voc":
        assert run("check", shapes[format], "--masks", "--pixels")[0] == 0


def test_check_lists_every_defect(run, tmp_path):
    root = make_voc(tmp_path / "voc")
    save_xml(root / "Annotations" / "a.xml", *(voc_object("cat", (5, 5, 5, i)) for i in range(40)))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nghost\n")
    code, out, _ = run("check", root)
    assert code == 1 and out.count("has no area") == 40 and "ghost: no such annotation" in out
    assert out.count("\n") == 42 and "41 defects" in out
    content = (root / "JPEGImages" / "b.jpg").read_bytes()
    (root / "JPEGImages" / "b.jpg").write_bytes(content[:300] + b"\xff" * 40 + content[340:])
    assert run("check", root, "--split", "train", "--pixels")[0] == 1
    code, out, err = run("check", tmp_path / "none")
    assert code == 2 and out == "" and "no such file or folder" in err


def test_stats_print_anchors_that_can_be_pasted(run, shapes, monkeypatch):
    monkeypatch.setattr("mlx_rcnn.cli.data.stats.find_spec", lambda name: None)
    code, out, err = run("stats", shapes["yolo"], "--set", "min_size=100")
    assert code == 0 and err == ""
    assert "circle" in out and "recall at 0.5" in out and 'pip install "mlx-rcnn[plots]"' in out
    pasted = re.findall(r"--set '?((?:anchor_sizes|aspect_ratios)=[^' \n]+)", out)
    sizes = dict(read_setting(text) for text in pasted)["anchor_sizes"]
    assert len(sizes) == 5 and all(len(level) == 1 for level in sizes)
    again = run("stats", shapes["coco"], "--set", "min_size=100")[1]
    assert again.splitlines()[-4:] == out.splitlines()[-4:]
    single = run("stats", shapes["coco"], "--set", "use_fpn=no", "--set", "anchor_sizes=20,30")[1]
    assert re.search(r"anchor_sizes=\d+,\d+'", single)
    code, _, err = run("stats", shapes["coco"], "--set", "min_sise=3")
    assert code == 2 and "min_size" in err


def test_stats_draw_where_matplotlib_is(run, shapes, monkeypatch):
    drawn: list[str] = []

    class Anything:
        def __getattr__(self, name):
            return lambda *args, **options: drawn.append(name)

    class Figure(Anything):
        def __init__(self, **_):
            pass

        def subplots(self, *_):
            return Anything(), Anything(), Anything()

        def savefig(self, path, **_):
            Path(path).write_bytes(b"picture")

    module = ModuleType("matplotlib.figure")
    module.Figure = Figure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", module)
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    monkeypatch.setattr("mlx_rcnn.cli.data.stats.find_spec", lambda name: SimpleNamespace())
    code, out, _ = run("stats", shapes["voc"], "--out", "new/x.png")
    assert code == 0 and "picture: new/x.png" in out and Path("new/x.png").read_bytes()
    assert {"barh", "hist", "scatter"} <= set(drawn)


def test_stats_of_a_model(run, tmp_path, shapes):
    mlx_rcnn.save(tiny.build(classes=3), tmp_path / "model")
    code, out, err = run("stats", shapes["voc"], "--model", tmp_path / "model")
    assert code == 0, err
    assert "recall at 0.5" in out


def test_draw_is_what_training_sees(run, tmp_path):
    data = ShapesDataset(5, (48, 64), max_objects=2, keypoints=True)
    path = write_dataset(data, tmp_path / "x", "coco").path
    code, out, err = run("draw", path, "--count", 3, "--seed", 4)
    assert code == 0 and "3 of 5 images" in out and err == ""
    with Image.open("data_sheet.png") as sheet:
        first = np.array(sheet)
    assert first.shape == (640, 640, 3) and (first[:236, :316] != 255).any()
    assert (first[324:, 324:] == 255).all()  # the fourth place is empty
    run("draw", path, "--count", 3, "--seed", 4, "--out", "again.png")
    np.testing.assert_array_equal(np.array(Image.open("again.png")), first)
    run("draw", path, "--count", 3, "--vflip", 1, "--hflip", 0, "--out", "other.png")
    assert (np.array(Image.open("other.png")) != first).any()
    for wrong in (["--hflip", 3], ["--scale-jitter", "2,1"], ["--count", 0]):
        code, _, err = run("draw", path, *wrong)
        assert code == 2 and err.count("\n") == 1


@pytest.mark.parametrize("format", WRITERS)
def test_split(run, shapes, format):
    path = shapes[format]
    code, out, err = run("split", path, "--val-fraction", 0.3, "--test-fraction", 0.2)
    assert code == 0, err
    assert "images" in out and "circle" in out
    root = path.parent if path.is_file() else path
    parts = {name: open_dataset(root, format, name) for name in ("train", "val", "test")}
    names = [item.path.resolve() for part in parts.values() for item in part.items]
    assert [len(part) for part in parts.values()] == [5, 3, 2] and len(set(names)) == 10
    assert not any(part.defects for part in parts.values())
    # Not again by mistake, and never beside old lists that share images.
    code, _, err = run("split", path, "--val-fraction", 0.3)
    assert code == 2 and err.count("\n") == 1 and ("--overwrite" in err or "overwrite" in err)
    if format != "coco":
        code, _, err = run("split", path, "--overwrite")
        assert code == 2 and "its split test stays, and shares" in err
        inner = run("split", path, "--split", "train", "--val-fraction", 0.4, "--overwrite")
        assert inner[0] == 2 and "val would be replaced, and 3 of its images" in inner[2]
    again = ("split", path, "--test-fraction", 0.2, "--seed", 3, "--overwrite")
    assert run(*again)[0] == 0
    assert len(open_dataset(root, format, "train")) == 6


def test_split_of_coco_keeps_what_is_in_the_file(run, tmp_path):
    path = make_coco(tmp_path / "coco")
    content = json.loads(path.read_text())
    Image.new("RGB", (100, 80)).save(path.parent / "images" / "b.jpg")
    content["info"] = {"year": 2020}
    content["annotations"][0]["attributes"] = {"occluded": True}
    path.write_text(json.dumps(content))
    assert run("split", path, "--val-fraction", 0.5)[0] == 0
    files = [path.with_name(f"annotations_{split}.json") for split in ("train", "val")]
    halves = [json.loads(file.read_text()) for file in files]
    assert all(half["info"] == {"year": 2020} for half in halves)
    entries = sorted((e for half in halves for e in half["annotations"]), key=lambda e: e["id"])
    assert entries == content["annotations"]


def test_split_keeps_a_data_yaml_readable(run, tmp_path):
    data = ShapesDataset(4, (48, 64), max_objects=1)
    root = write_dataset(data, tmp_path / "x", "yolo").path
    (root / "data.yaml").write_text(
        "path: .\ntrain:\n- images\n# note\nval: [images]\nnames: [circle, square, triangle]\n"
    )
    code, _, err = run("split", root / "data.yaml", "--val-fraction", 0.5)
    assert code == 2 and "has splits train, val: --overwrite" in err
    assert run("split", root / "data.yaml", "--val-fraction", 0.5, "--overwrite")[0] == 0
    text = (root / "data.yaml").read_text()
    assert "# path: .\n# train:\n# - images\n# note\n# val: [images]\nnames" in text
    assert [len(open_dataset(root, split=s)) for s in ("train", "val")] == [2, 2]
    assert (root / "train.txt").read_text().startswith("./images/")


@pytest.mark.parametrize("to", WRITERS)
def test_convert_keeps_splits(run, tmp_path, to):
    root = make_voc(tmp_path / "voc", ("a", "b c", "ü"))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb c\nü\n")
    code, out, err = run("convert", root, to, "--out", "out", "--image-files", "link")
    assert code == 0, err
    assert "1 images in no split left out" in out
    back = open_dataset("out", split="val")
    assert back.format == to and [item.path.name for item in back.items] == ["ü.jpg"]
    assert len(open_dataset("out", split="train")) == 1
    code, _, err = run("convert", root, to, "--out", "out")
    assert code == 2 and "not empty" in err


def test_convert_says_defects_and_errors(run, tmp_path):
    path = make_coco(tmp_path / "coco")
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = -1
    path.write_text(json.dumps(content))
    code, out, err = run("convert", path, "yolo", "--out", "x", "--shapes", "boxes")
    assert code == 0 and "has no area" in err and "2 images, 1 objects" in out
    assert "1 outlines left out" in out
    assert run("convert", path, "kitti", "--out", "y")[0] == 2
    mixed = make_voc(tmp_path / "coco")
    code, _, err = run("convert", mixed, "yolo", "--out", "y")
    assert code == 2 and "VOC XML" in err and "COCO JSON" in err and err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folders(run, tmp_path, shapes):
    (tmp_path / "locked").mkdir(mode=0o500)
    for args in (
        ("convert", shapes["voc"], "yolo", "--out", "locked/x"),
        ("draw", shapes["voc"], "--out", "locked/x.png"),
        ("stats", shapes["voc"], "--out", "locked/x.png"),
    ):
        code, _, err = run(*args)
        assert code == 2 and "cannot write" in err and err.count("\n") == 1


def test_train_and_evaluate_take_a_data_yaml(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ShapesDataset(3, (48, 64), max_objects=2, masks=False)
    root = write_dataset({"train": data, "val": data}, "set", "yolo").path
    mlx_rcnn.save(tiny.build(classes=4), "model")
    fast = ["--epochs", "1", "--warmup", "1", "--workers", "1", "--model", "model"]
    line = ["train", "--data", str(root / "data.yaml"), *fast, "--allow-overlap"]
    assert main(line) == 0, capsys.readouterr()
    assert "images   3" in capsys.readouterr().out
    line = ["evaluate", "--data", str(root / "data.yaml"), "--split", "val", "--metric", "voc"]
    assert main([*line, "--model", "run/last"]) == 0
    line = ["train", "--data", str(root / "data.yaml"), "--split", "test", "--output", "x"]
    assert main([*line, *fast]) == 2
    assert "no split 'test'" in capsys.readouterr().err
