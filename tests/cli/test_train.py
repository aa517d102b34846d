"""``mlx_rcnn train``: flags, what is refused before training, and a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_rcnn
import tiny
from mlx_rcnn.cli.arguments import build_parser
from mlx_rcnn.cli.flags.train import given_settings
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.train import command as commands
from mlx_rcnn.data import write_coco
from mlx_rcnn.models.builders import divided
from mlx_rcnn.training import TrainConfig
from mlx_rcnn.training.checkpoint import read_progress
from mlx_rcnn.training.config import flag
from test_backbone_weights import save, state_of

FAST = ["--epochs", "1", "--warmup", "1", "--batch-size", "3"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coco(tiny.shapes(), tmp_path / "data")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    mlx_rcnn.save(tiny.build(classes=7), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def train(tmp_path: Path, data: Path, model: Path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; gives the exit code and what was printed."""

    def run(*args: str, **changed: Path | None) -> tuple[int, str, str]:
        given = {"data": data, "model": model, "output": tmp_path / "run", **changed}
        line = [part for k, v in given.items() if v is not None for part in (f"--{k}", str(v))]
        capsys.readouterr()
        code = main(["train", *line, *args])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, errors = result
    assert code == 2
    assert errors.startswith("mlx_rcnn: error: ") and errors.count("\n") == 1, errors
    assert all(word in errors for word in words), errors


def test_a_backbone_from_a_classifier(tmp_path: Path, train, monkeypatch):
    def small(norm: str, backbone_num_classes: int) -> mlx_rcnn.FasterRCNN:
        backbone = mlx_rcnn.ResNetFPNConfig(18, backbone_num_classes, norm=norm, out_channels=8)
        return mlx_rcnn.FasterRCNN(
            backbone, 8, 91, use_fpn=True, hidden_dim=8, min_size=64, max_size=96
        )

    monkeypatch.setitem(commands.BUILDERS, "faster_rcnn_resnet_50_fpn", small)
    state = state_of("transformers_resnet18")
    weights = save(tmp_path / "net.safetensors", state)
    built = Path("faster_rcnn_resnet_50_fpn")
    refused(train(*FAST, "--backbone", str(weights)), "--backbone goes with --model faster_rcnn_")
    refused(train(*FAST, "--backbone", "x", model=built), "--backbone x: no weights 'x'")
    code, _, errors = train(*FAST, "--backbone", str(weights), model=built)
    assert code == 0, errors
    net = mlx_rcnn.load(tmp_path / "run/last").backbone.net
    assert read_progress(tmp_path / "run").config["freeze"] == 2  # as for any that has learned
    stem = state["resnet.embedder.embedder.convolution.weight"]
    assert mx.array_equal(net.conv1.weight, stem.transpose(0, 2, 3, 1))
    last = state["resnet.encoder.stages.3.layers.1.layer.1.convolution.weight"]
    moved = mx.abs(net.layer4[1].conv2.weight - last.transpose(0, 2, 3, 1)).max().item()
    assert 0 < moved < 0.1


SEVERAL = {
    "drops": (0.5, 0.75),
    "min_size": (320, 480),
    "scale_jitter": (0.5, 2.0),
    "keypoint_pairs": ("left:right", "near:far"),
    "log": ("csv", "tensorboard"),
}


def test_every_setting_is_a_flag_without_a_default_of_its_own():
    parser = build_parser()
    args = parser.parse_args(["train", "--data", "x"])
    assert given_settings(args) == {}
    for item in fields(TrainConfig):
        default = item.default
        several = "tuple" in str(item.type)
        value = SEVERAL[item.name] if several else default
        if value is None:
            value = "AP50" if "str" in str(item.type) else 3
        words = [",".join(map(str, value)) if several else str(value)]
        if isinstance(default, bool):  # a switch, which takes nothing
            value, words = True, []
        args = parser.parse_args(["train", "--data", "x", flag(item.name), *words])
        assert given_settings(args) == {item.name: value}


def test_a_run_resumed_and_refused(tmp_path: Path, train):
    run = tmp_path / "run"
    setting = ["--set", "box_nms_thresh=0.4"]
    refused(train(*FAST, "--set", "num_classes=3"), "num_classes", "the data's")
    code, out, _ = train(*FAST, *setting)
    assert code == 0 and "trained 2 steps" in out and "circle" in out
    assert mlx_rcnn.load(run / "last").config.box_nms_thresh == 0.4
    refused(
        train("--resume", "--set", "box_nms_thresh=0.5", model=None),
        "the run in",
        "has box_nms_thresh=0.4, got 0.5",
    )
    assert mlx_rcnn.load(run / "best").class_names == tiny.shapes().class_names
    refused(train(*FAST), "--output", "holds another run", "--resume, --overwrite")
    code, out, _ = train("--resume", *setting, model=None)
    assert code == 0 and "trained 2 steps" in out
    refused(train("--resume", "--lr", "1", model=None), "other settings", "lr: 0.005, now 1.0")
    code, out, _ = train(*FAST, "--overwrite", "--lr", "0.001")
    assert code == 0 and read_progress(run).config["lr"] == 0.001


def test_resume_from_other_classes(tmp_path: Path, data: Path, train):
    assert train(*FAST)[0] == 0
    content = json.loads(data.read_text())
    content["categories"][0]["name"] = "ring"
    data.write_text(json.dumps(content))
    refused(train("--resume"), "classes circle, square, triangle", "has ring, square")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "0"], ["--batch-size 0", "at least 1"]),
        (["--batch-size", "two"], ["--batch-size", "'two' given, expected a whole number"]),
        (["--epochs", "-1"], ["--epochs -1", "at least 1"]),
        (["--ema", "1.5"], ["--ema 1.5", "from 0 to 1"]),
        (["--min-size", "320,x"], ["--min-size", "several separated by commas"]),
        (["--schedule", "line"], ["--schedule", "invalid choice"]),
        (["--format", "kitti"], ["--format", "invalid choice"]),
        (["--split", "nowhere"], ["nowhere", "has no splits"]),
        (["--val-split", "val"], ["--val-split val", "has no splits"]),
        (["--resume"], ["--output", "no checkpoint to resume from"]),
        (["--resume", "--overwrite"], ["not allowed with"]),
        (["--batch-size", "7"], ["6 images", "batch_size 7"]),
    ],
)
def test_flags_that_cannot_work(tmp_path: Path, train, flags, words):
    refused(train(*flags), *words)
    assert not (tmp_path / "run").exists()


def test_data_and_models_that_cannot_work(tmp_path: Path, data: Path, model: Path, train):
    refused(train(data=tmp_path / "nothing"), "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(train(data=tmp_path / "empty"), "empty")
    refused(train(data=model / "config.json"), "config.json")
    refused(train(model=None), "--model is missing")
    refused(train(model=tmp_path / "nothing"), "no model")
    (tmp_path / "file").write_text("")
    refused(train(output=tmp_path / "file"), "is a file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("")
    refused(train("--overwrite", output=tmp_path / "mine"), "letter.txt")
    refused(train("--val-data", str(tmp_path / "nothing")), "no such file or folder")
    for name in Path(data.parent / "images").iterdir():
        name.unlink()
    refused(train(), "none of its 6 images")
    assert not (tmp_path / "run").exists()


def test_masks_are_trained_when_the_model_has_them(tmp_path: Path, train):
    mlx_rcnn.save(tiny.build("mask_rcnn", classes=4), tmp_path / "masks")
    code, _, errors = train(*FAST, model=tmp_path / "masks")
    assert code == 0, errors
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["mask_loss"] > 0


def test_keypoints_are_trained_when_the_model_has_them(tmp_path: Path, data: Path, train):
    other = tiny.build("keypoint_rcnn", classes=2, num_keypoints=3, keypoint_names=("a", "b", "c"))
    mlx_rcnn.save(other, tmp_path / "points")
    refused(train(*FAST, model=tmp_path / "points"), str(data), "has no keypoints")
    assert not (tmp_path / "run").exists()
    made = tiny.shapes(keypoints=True)
    path = write_coco(made, tmp_path / "pointed")
    code, out, errors = train(*FAST, "--hflip", "1", model=tmp_path / "points", data=path)
    assert code == 0, errors
    assert "keypoints  5 of an object; " in out and "keypoint=" in errors  # the bar
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["keypoint_loss"] > 0
    trained = mlx_rcnn.load(tmp_path / "run" / "best")
    assert trained.keypoint_names == made.keypoint_names and trained.class_names[1] == "circle"
    assert trained.keypoint_skeleton == made.keypoint_skeleton
    code, _, errors = train("--resume", "--epochs", "2", model=None, data=path)
    assert code == 0, errors
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["keypoints"] = ["middle", *category["keypoints"][1:]]
    path.write_text(json.dumps(content))
    refused(train("--resume", model=None, data=path), "keypoints: ['centre', ", "now ['middle', ")


def test_a_failure_under_way_is_one_line_and_code_1(tmp_path: Path, train, monkeypatch):

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_rcnn.training.run.write_checkpoint", full)
    code, _, errors = train(*FAST)
    assert code == 1 and "No space left on device" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_another_machines_failure_is_one_line(monkeypatch, capsys):
    @contextmanager
    def fails(group):
        raise ConnectionError("machine 1 of 2 failed: x.jpg; machine 0 stops with it")
        yield

    monkeypatch.setattr("mlx_rcnn.cli.train.command.watched", fails)
    assert main(["train", "--data", "x", "--model", "y"]) == 1
    error = capsys.readouterr().err
    assert error == "mlx_rcnn: error: machine 1 of 2 failed: x.jpg; machine 0 stops with it\n"


def test_a_builder_from_a_detector_of_another_kind(tmp_path: Path, train, model, monkeypatch):
    def build(num_classes: int = 4, **config: object) -> mlx_rcnn.MaskRCNN:
        fixed = {"depth": 18, "num_classes": config.pop("backbone_num_classes", 0)}
        own = {"mask_hidden_channels": 8, "mask_num_convs": 1, "use_fpn": True, **config}
        net, detector = divided(mlx_rcnn.MaskRCNN, mlx_rcnn.ResNetFPNConfig, fixed, own)
        return mlx_rcnn.MaskRCNN(net, net.out_channels, num_classes, **detector)

    monkeypatch.setitem(commands.BUILDERS, "mask_rcnn_resnet_50_fpn", build)
    built = Path("mask_rcnn_resnet_50_fpn")
    refused(train(*FAST, "--init", "x"), "--init x goes with", "give --model x alone")
    refused(train(*FAST, "--init", "x", model=built), "no model")
    refused(train("--init", "x", "--backbone", "y", model=built), "expected one of them")
    code, out, errors = train(*FAST, "--init", str(model), model=built)
    assert code == 0, errors
    assert f"mask_rcnn_resnet_50_fpn from {model}: " in out
    assert "new: roi_heads.mask_head, roi_heads.mask_predictor" in out
    assert "but for box_predictor, mask_predictor, new for the data's classes" in errors
    trained = mlx_rcnn.load(tmp_path / "run" / "last")
    stem = mlx_rcnn.load(model).backbone.net.conv1.weight
    assert mx.array_equal(trained.backbone.net.conv1.weight, stem)  # frozen, as it has learned
    assert read_progress(tmp_path / "run").config["freeze"] == 2


def test_find_lr_trains_nothing(tmp_path: Path, train):
    code, out, errors = train(*FAST, "--find-lr", "12")
    assert code in (0, 1) and "Traceback" not in errors
    assert "steps up to lr" in out
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {
        "lr_finder.json",
        "lr_finder.png",
    }
    refused(train(*FAST, "--find-lr", "3"), "--find-lr 3", "at least 10")
    refused(train(*FAST, "--find-lr", "0"), "--find-lr", "at least 1")
    code, _, errors = train(*FAST)  # the run to come is in the same folder
    assert code == 0, errors
    assert (tmp_path / "run" / "lr_finder.json").exists()
    refused(train("--find-lr", "--resume", model=None), "--find-lr", "no --resume")
