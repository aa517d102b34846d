"""``--set FIELD=VALUE``, ``--state`` and ``--style``: what keys and shapes do not tell is given."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
from mlx_rcnn import FasterRCNN, ResNetFPNConfig
from mlx_rcnn.cli.main import main
from mlx_rcnn.config.detector import to_json
from mlx_rcnn.convert.files.torch_file import load_torch_file
from mlx_rcnn.convert.files.torch_writer import save_torch_file

State = dict[str, mx.array]


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def plain(library: str = "torchvision", **options) -> None:
    """Writes a model for a library as x.pth, without the settings that go with it."""
    body = {"depth": 18, "width": 24, "num_classes": 0, "out_channels": 16, "norm": "frozen"}
    own = {name: options.pop(name) for name in list(options) if name in ("norm", "norm_groups")}
    fields = {"use_fpn": True, "hidden_dim": 8, "min_size": 64, "max_size": 96, **options}
    mlx_rcnn.save(FasterRCNN(ResNetFPNConfig(**body | own), 16, 4, **fields), "model")
    assert main(["convert", "model", "full.pth", "--to", library, "--overwrite"]) == 0
    save_torch_file(dict(load_torch_file("full.pth")), "x.pth")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("mlx_rcnn: error: ") and error.count("\n") == 1
    return error


CASES = {
    "norm_groups": ({"norm": "group", "norm_groups": 4}, ["norm_groups=4"]),
    "pool_size": ({"pool_size": (4, 6)}, ["pool_size=4,6"]),
    "anchor_sizes": ({"anchor_sizes": (8, 16)}, ["anchor_sizes=8,16"]),
    "aspect_ratios": ({"aspect_ratios": (1.0, 2.0)}, ["aspect_ratios=1,2"]),
}


@pytest.mark.parametrize("field", CASES)
def test_a_refusal_names_the_field_that_cures_it(here: Path, capsys, field: str) -> None:
    options, words = CASES[field]
    plain(**options)
    error = refused(capsys, "convert", "x.pth", "back")
    assert "x.pth" in error and f"--set {field}=..." in error
    flags = [word for setting in words for word in ("--set", setting)]
    more = ["--set", "min_size=64", "--set", "max_size=96"]
    assert main(["convert", "x.pth", "back", *flags, *more]) == 0
    was, now = mlx_rcnn.load("model"), mlx_rcnn.load("back")
    image = (mx.random.uniform(shape=(64, 80, 3)) * 255).astype(mx.uint8)
    expected, got = (m.predict(image, score_thresh=0.0)[0] for m in (was, now))
    assert all((expected[key] == got[key]).all() for key in expected)
    assert to_json(mlx_rcnn.load("full.pth").config) == to_json(was.config)  # with its settings


@pytest.mark.parametrize(
    "options", [{"rpn_nms_thresh": 0.3, "rpn_post_nms_top_n_test": 9}, {"anchor_sizes": (16, 32)}]
)
def test_verify_of_other_settings(here: Path, capsys, options) -> None:
    plain(**options)
    command = ["convert", "model", "y.pth", "--to", "torchvision", "--verify"]
    assert main(command) == 0
    assert "the same before writing and after reading" in capsys.readouterr().out


def test_verify_ends_in_one_line(here: Path, capsys, monkeypatch) -> None:
    plain()

    def broken(*args, **kwargs):
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr("mlx_rcnn.cli.convert.verify.from_checkpoint", broken)
    assert main(["convert", "model", "y.pth", "--to", "torchvision", "--verify"]) == 1
    assert "verify: what was written cannot be compared: no memory" in capsys.readouterr().out


def test_every_command_takes_settings(here: Path, capsys) -> None:
    plain(norm="group", norm_groups=4)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save("1.png")
    model = ["--model", "x.pth", "--set", "norm_groups=4"]
    assert main(["info", *model, "--set", "box_nms_thresh=0.25"]) == 0
    assert "NMS at IoU 0.25" in capsys.readouterr().out
    assert main(["predict", "1.png", *model, "--set", "min_size=64", "--no-images"]) == 0
    wrong = refused(capsys, "info", "--model", "x.pth", "--set", "norm_groups=5")
    assert "x.pth: norm_groups=5: does not divide 24 channels" in wrong
    wrong = refused(capsys, "info", *model, "--set", "num_classes=7")
    assert "x.pth does not fit the model with norm_groups=4, num_classes=7: misshaped" in wrong
    wrong = refused(capsys, "info", *model, "--set", "mask_out_size=28")
    assert "a FasterRCNN on this backbone has no field 'mask_out_size'" in wrong
    assert "did you mean 'norm_groups'" in refused(capsys, "info", *model, "--set", "norm_group=4")


def test_a_directory_takes_settings_too(here: Path, capsys) -> None:
    plain()
    assert main(["info", "--model", "model", "--set", "box_score_thresh=0.25"]) == 0
    assert "score 0.25 or more" in capsys.readouterr().out
    assert "box_score_thresh=2.0: expected" in refused(
        capsys, "info", "--model", "model", "--set", "box_score_thresh=2"
    )
    assert "with anchor_sizes=(8, 16): misshaped" in refused(
        capsys, "info", "--model", "model", "--set", "anchor_sizes=8,16"
    )
    for setting, message in (
        ("anchor_stride=4,8", "expected one entry for each of the 5 maps"),
        ("anchor_sizes=(8,),(16,)", "expected one entry for each of the 5 maps"),
        ("box_head_convs=100000000", "expected at most the"),
        ("rpn_conv_depth=100000000", "expected at most the"),
        ("size_divisible=100000", "at most 1024"),
        ("res5_head=true", "expected a ResNetConfig"),
        ("class_names=a,b", "class_names: a,b: 2 names, expected 3, or 4"),
    ):
        error = refused(capsys, "info", "--model", "model", "--set", setting)
        assert message in error and "config.json" in error and len(error) < 700
    assert "state='ema' goes with a checkpoint file" in refused(
        capsys, "info", "--model", "model", "--state", "ema"
    )


def test_one_network_of_several(here: Path, capsys) -> None:
    plain()
    state = dict(load_torch_file("x.pth"))
    save_torch_file({"teacher": state, "student": {k: v + 1 for k, v in state.items()}}, "two.pth")
    assert "(--state teacher)" in refused(capsys, "info", "--model", "two.pth")
    assert main(["convert", "two.pth", "back", "--state", "student"]) == 0
    key = "backbone.net.conv1.weight"
    was, now = (mx.load(f"{name}/model.safetensors")[key] for name in ("model", "back"))
    assert mx.array_equal(was + 1, now)


@pytest.mark.parametrize("library", ["detectron2", "mmdetection"])
def test_other_libraries_take_settings(here: Path, capsys, library: str) -> None:
    plain(library, pool_size=(4, 6), anchor_rounding=False)
    error = refused(capsys, "convert", "x.pth", "back")
    assert "--set pool_size=..." in error
    flags = ["--set", "pool_size=4,6", "--set", "box_nms_thresh=0.25"]
    assert main(["convert", "x.pth", "back", *flags]) == 0
    config = mlx_rcnn.load("back").config
    assert (config.pool_size, config.box_nms_thresh) == ((4, 6), 0.25)
