"""What tensors cannot say goes there and back in a file beside them."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
import tiny
from mlx_rcnn.cli.main import main
from mlx_rcnn.convert.files.torch_file import load_torch_file
from mlx_rcnn.convert.files.torch_writer import save_torch_file

IMAGE = np.random.default_rng(2).integers(0, 256, (70, 90, 3), np.uint8)
UNUSUAL = {
    "class_names": ("__background__", "a", "b", "c"),
    "box_score_thresh": 0.2,
    "min_size": 72,
    "rpn_nms_thresh": 0.6,
    "anchor_sizes": (16, 48),
    "aspect_ratios": (0.5, 2.0),
    "image_mean": (0.4, 0.5, 0.6),
}


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "keypoint_rcnn"])
def test_there_and_back_is_the_same_model(tmp_path: Path, kind: str, capsys) -> None:
    """Four groups of a norm, an odd number of anchors, sizes, thresholds and names."""
    model = tiny.build(kind, **UNUSUAL)
    mlx_rcnn.save(model, tmp_path / "m")
    there = ["convert", str(tmp_path / "m"), str(tmp_path / "x.pth"), "--to", "torchvision"]
    assert main([*there, "--verify"]) == 0, capsys.readouterr()
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "back"), "--verify"]) == 0
    back = mlx_rcnn.load(tmp_path / "back")
    assert back.config == mlx_rcnn.load(tmp_path / "m").config
    own = dict(tree_flatten(model.parameters()))
    for name, value in tree_flatten(back.parameters()):
        assert mx.array_equal(value, own[name]).item(), name
    found, expected = back.predict(IMAGE)[0], model.predict(IMAGE)[0]
    assert all(np.array_equal(found[k], expected[k]) for k in expected)
    assert not list(tmp_path.glob(".*"))


def test_a_file_of_other_tensors_is_passed_over_and_said(tmp_path: Path) -> None:
    for name, classes in (("a", 3), ("b", 5)):
        model = tiny.build(classes=classes, norm="frozen", box_score_thresh=0.3)
        mlx_rcnn.save(model, tmp_path / name)
        main(
            ["convert", str(tmp_path / name), str(tmp_path / f"{name}.pth"), "--to", "torchvision"]
        )
    beside = tmp_path / "a.pth.json"
    assert mlx_rcnn.load(tmp_path / "a.pth").config.box_score_thresh == 0.3
    beside.write_bytes((tmp_path / "b.pth.json").read_bytes())
    with pytest.warns(UserWarning, match="a.pth.json was not written with a.pth: passed over"):
        assert mlx_rcnn.load(tmp_path / "a.pth").config.box_score_thresh == 0.3  # of its own
    # Written again by another library, which keeps no settings.
    save_torch_file(load_torch_file(tmp_path / "a.pth"), tmp_path / "a.pth")
    with pytest.warns(UserWarning, match="a.pth.json is of other tensors than a.pth: passed over"):
        assert mlx_rcnn.load(tmp_path / "a.pth").config.box_score_thresh == 0.05
    beside.write_text("{}")  # somebody else's
    with pytest.warns(UserWarning, match="a.pth.json holds no settings of mlx_rcnn"):
        assert mlx_rcnn.load(tmp_path / "a.pth").config.num_classes == 3
    content = json.loads((tmp_path / "b.pth.json").read_text())
    (tmp_path / "b.pth.json").write_text(json.dumps({**content, "detector": 3}))
    with pytest.raises(ValueError, match="b.pth.json: detector is no dict: remove the file"):
        mlx_rcnn.load(tmp_path / "b.pth")


def test_changed_by_hand_and_trained_on(tmp_path: Path) -> None:
    model = tiny.build(box_score_thresh=0.3)
    mlx_rcnn.save(model, tmp_path / "m")
    file, beside = tmp_path / "x.pth", tmp_path / "x.pth.json"
    assert main(["convert", str(tmp_path / "m"), str(file), "--to", "torchvision"]) == 0
    text = beside.read_text()
    beside.write_text(text.replace('"box_score_thresh": 0.3', '"box_score_thresh": 0.6'))
    assert mlx_rcnn.load(file).config.box_score_thresh == 0.6
    beside.unlink()
    assert mlx_rcnn.load(file).config.box_score_thresh == 0.3
    beside.write_text(text)
    state = {key: value * 2 for key, value in load_torch_file(file).items()}
    save_torch_file({"model": state, "epoch": 3}, file)
    assert mlx_rcnn.load(file).config.box_score_thresh == 0.3


@pytest.mark.parametrize(("library", "suffix"), [("detectron2", ".pkl"), ("detectron2", ".pth")])
def test_other_libraries_files_carry_settings_too(tmp_path, library: str, suffix: str) -> None:
    model = tiny.build(norm="frozen", box_score_thresh=0.3, anchor_rounding=False)
    mlx_rcnn.save(model, tmp_path / "m")
    file = tmp_path / f"x{suffix}"
    assert main(["convert", str(tmp_path / "m"), str(file), "--to", library]) == 0
    (tmp_path / f"x{suffix}.json").unlink()
    assert mlx_rcnn.load(file).config.box_score_thresh == 0.3
