"""The command line: what it writes, what it says, and its exit codes, with a model made up here."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image

import mlx_rcnn.checkpoints.load
from mlx_rcnn.cli.arguments import build_parser
from mlx_rcnn.cli.main import main
from mlx_rcnn.ops.rle import decode_rle
from mlx_rcnn.outputs.coco import coco_results

NAMES = ("__background__", "person", "bicycle", "N/A", "traffic light")


class FakeModel(nn.Module):
    """Finds the same in every image: a person (0.9), a traffic light (0.6), a bicycle (0.2)."""

    def __init__(self, class_names=NAMES, masks=True):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.config = types.SimpleNamespace(
            num_classes=len(NAMES), box_detections_per_img=100, image_levels=None
        )
        self.class_names, self.masks = class_names, masks
        self.calls = []

    def predict(self, images, *, score_thresh=None, nms_thresh=None, top_k=None):
        self.calls.append((len(images), score_thresh, nms_thresh, top_k))
        return [self.found(image.shape, score_thresh or 0.05, top_k) for image in images]

    def found(self, shape, score_thresh, top_k):
        height, width = shape[:2]
        scores = np.array([0.9, 0.6, 0.2], np.float32)
        rows = np.flatnonzero(scores >= score_thresh)[:top_k]
        boxes = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1], [0, 0.5, 1, 1]], np.float32)
        found = {
            "boxes": (boxes * np.array([width, height] * 2, np.float32))[rows],
            "scores": scores[rows],
            "labels": np.array([1, 4, 2], np.int32)[rows],
        }
        if self.masks:
            found["masks"] = np.zeros((len(rows), height, width), bool)
            found["masks"][:, : height // 2, : width // 2] = True
        return found


@pytest.fixture
def model(monkeypatch):
    fake = FakeModel()

    def load(source, dtype=None):
        fake.dtype = dtype
        return fake

    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)
    return fake


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The working directory: photos/{a.jpg, b.png}, both 320x240, and broken.jpg."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (320, 240), (90, 90, 90)).save(tmp_path / "photos" / name)
    (tmp_path / "broken.jpg").write_bytes(b"not an image at all")
    return tmp_path


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--model", "fake.pth"])


def entries(path="predictions/detections.json"):
    return json.loads(Path(path).read_text())


def one_error_line(capsys):
    """Standard error, which must be the one line of an error."""
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1
    assert err.startswith("mlx_rcnn: error: ")
    return err.strip()


def test_predict_one_image(work, model, capsys):
    assert predict("photos/a.jpg") == 0
    out, err = capsys.readouterr()
    assert err == ""  # no progress bar for one image
    lines = out.splitlines()
    assert lines[0].split() == ["image", "size", "detections", "score", ">=", "0.5", "classes"]
    assert re.split("  +", lines[1]) == [
        "photos/a.jpg",
        "320x240",
        "3",
        "2",
        "person 1, traffic light 1",
    ]
    assert re.search(r"^1 image, 3 detections; images per second: [\d.]+ model, [\d.]+", out, re.M)
    assert sorted(os.listdir("predictions")) == ["a.jpg", "detections.json"]
    assert np.asarray(Image.open("predictions/a.jpg")).shape == (240, 320, 3)


def test_results_are_coco_results(work, model):
    assert predict("photos/a.jpg", "photos/b.png") == 0
    found = entries()
    assert [e["image_id"] for e in found] == ["photos/a.jpg"] * 3 + ["photos/b.png"] * 3
    first = dict(found[0])
    mask = decode_rle(first.pop("segmentation"))
    # The person's box is (0, 0) to (160, 120): width 160, height 120.
    expected = {"image_id": "photos/a.jpg", "category_id": 1, "bbox": [0, 0, 160, 120]}
    assert first.pop("score") == pytest.approx(0.9, abs=1e-7)
    assert first == expected
    assert mask.shape == (240, 320) and mask[:120, :160].all() and mask.sum() == 120 * 160
    # (80, 60) to (320, 240).
    assert found[1]["category_id"] == 4 and found[1]["bbox"] == [80, 60, 240, 180]


def test_without_masks_there_is_no_segmentation(work, model):
    model.masks = False
    assert predict("photos/a.jpg") == 0
    assert all(set(e) == {"image_id", "category_id", "bbox", "score"} for e in entries())


def test_pictures_show_scores_from_a_half_on_unless_told(work, model):
    predict("photos/b.png", "--out", "default")
    predict("photos/b.png", "--out", "low", "--score-thresh", "0.1")
    default, low = (np.asarray(Image.open(f"{out}/b.png")) for out in ("default", "low"))
    # The bicycle (0.2) spans the lower half: its corner at the lower left lies in no other box.
    assert default[239, 0].tolist() == [90, 90, 90] != low[239, 0].tolist()


def test_folder_with_a_bar_on_standard_error(work, model, capsys):
    assert predict("photos") == 0
    out, err = capsys.readouterr()
    assert "2/2" in err and "image" in err
    assert "2 images, 6 detections" in out
    assert sorted(os.listdir("predictions")) == ["a.jpg", "b.png", "detections.json"]


def test_glob_and_standard_input(work, model, monkeypatch, capsys):
    assert predict("photos/*.png", "--no-images") == 0
    assert {e["image_id"] for e in entries()} == {"photos/b.png"}
    (work / "list").write_text("photos/b.png\n\nphotos/a.jpg\n")
    with open("list") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert predict("-", "--no-images") == 0
    assert [e["image_id"] for e in entries()[::3]] == ["photos/b.png", "photos/a.jpg"]


def test_batches_and_thresholds_reach_the_model(work, model):
    for i in range(3):
        Image.new("RGB", (30 + i, 20)).save(f"photos/c{i}.png")
    options = ["--batch-size", 2, "--score-thresh", 0.3, "--nms-thresh", 0.4, "--top-k", 1]
    assert predict("photos", *options) == 0
    assert model.calls == [(2, 0.3, 0.4, 1), (2, 0.3, 0.4, 1), (1, 0.3, 0.4, 1)]
    assert len(entries()) == 5


def test_no_images_makes_no_folder_it_does_not_need(work, model):
    assert predict("photos/a.jpg", "--no-images", "--json", "deep/er/found.json") == 0
    assert len(entries("deep/er/found.json")) == 3
    assert not Path("predictions").exists()


def test_classes_by_name_and_number(work, model):
    for given, labels in (("Person", [1]), ("2, traffic LIGHT", [4, 2]), ("3", [])):
        assert predict("photos/a.jpg", "--classes", given) == 0
        assert [e["category_id"] for e in entries()] == labels
    # --top-k counts what is left of the classes: the bicycle is third of all.
    assert predict("photos/a.jpg", "--classes", "bicycle", "--top-k", 1) == 0
    assert [e["category_id"] for e in entries()] == [2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("persn", "the model has no class 'persn'; did you mean person?"),
        ("zebra", "the model has no class 'zebra'; see `mlx_rcnn info`"),
        ("person,,2", "the model has no class ''"),
        ("__background__", "no class '__background__'"),
        ("N/A", "no class 'N/A'"),
        ("0", "0 is not in 1..4"),
        ("5", "5 is not in 1..4"),
    ],
)
def test_unknown_classes(work, model, capsys, given, message):
    assert predict("photos/a.jpg", "--classes", given) == 2
    assert message in one_error_line(capsys)
    assert not Path("predictions").exists()


def test_class_names_of_a_model_without(work, model, capsys):
    model.class_names = None
    assert predict("photos/a.jpg", "--classes", "person") == 2
    assert "no class names: expected numbers from 1 to 4" in one_error_line(capsys)
    assert predict("photos/a.jpg", "--classes", "1") == 0
    assert "class 1 1" in capsys.readouterr().out


def test_goes_on_past_unreadable_images(work, model, capsys):
    (work / "empty.jpg").touch()
    sources = ["broken.jpg", "photos/a.jpg", "empty.jpg", "photos/b.png"]
    assert predict(*sources, "--batch-size", 4) == 1
    out, err = capsys.readouterr()
    assert "mlx_rcnn: cannot read broken.jpg: not an image" in err
    assert "mlx_rcnn: cannot read empty.jpg: the file is empty" in err
    assert "Traceback" not in err and err.splitlines()[-1] == "mlx_rcnn: 2 failed, named above"
    assert model.calls[0][0] == 2
    assert "2 images, 6 detections" in out and len(entries()) == 6


def test_nothing_readable_leaves_an_empty_list(work, model, capsys):
    assert predict("broken.jpg") == 1
    assert entries() == [] and model.calls == []
    assert "Traceback" not in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_named(work, model, capsys):
    os.makedirs("predictions/a.jpg")  # a folder where the picture should go
    assert predict("photos") == 1
    assert "mlx_rcnn: cannot write predictions/a.jpg" in capsys.readouterr().err
    assert len(entries()) == 6
    assert sorted(os.listdir("predictions")) == ["a.jpg", "b.png", "detections.json"]


def test_small_images_are_enlarged(work, model):
    Image.new("RGB", (32, 24)).save("tiny.png")
    assert predict("tiny.png") == 0
    assert Image.open("predictions/tiny.png").size == (256, 192)
    assert entries()[1]["bbox"] == [8, 6, 24, 18]  # in pixels of the image given


def test_sources_are_never_overwritten(work, model):
    before = Path("photos/a.jpg").read_bytes()
    assert predict("photos", "--out", "photos") == 0
    assert Path("photos/a.jpg").read_bytes() == before
    assert sorted(os.listdir("photos")) == [
        "a.jpg",
        "a_2.jpg",
        "b.png",
        "b_2.png",
        "detections.json",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_file_names_that_are_not_text(work, model, capsys):
    os.rename("photos/a.jpg", b"photos/caf\xe9.jpg")
    assert predict("photos") == 0
    assert "caf\\udce9.jpg" in capsys.readouterr().out
    assert b"caf\xe9.jpg" in os.listdir(b"predictions")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jpg"], "no such file or folder: none.jpg"),
        (["photos/*.gif"], "no image matches photos/*.gif"),
        (["void"], "no images in folder void"),
        (["photos", "--score-thresh", "2"], "--score-thresh: '2' given, expected a number from 0"),
        (["photos", "--score-thresh", "nan"], "'nan' given"),
        (["photos", "--score-thresh", "high"], "'high' given"),
        (["photos", "--nms-thresh", "-0.1"], "--nms-thresh: '-0.1' given"),
        (["photos", "--top-k", "0"], "--top-k: '0' given, expected a whole number of at least 1"),
        (["photos", "--batch-size", "1.5"], "--batch-size: '1.5' given"),
        (["photos", "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["photos", "--out", "broken.jpg"], "broken.jpg is not a folder"),
        (["photos", "--out", "broken.jpg/deep"], "broken.jpg is not a folder"),
        (["photos", "--json", "photos"], "--json photos is a folder: expected a file"),
        (["photos", "--json", "photos/a.jpg"], "is one of the images"),
        (["photos", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        ([], "the following arguments are required: SOURCE"),
    ],
)
def test_arguments_that_cannot_work(work, monkeypatch, capsys, arguments, message):
    def load(source):
        raise AssertionError("arguments are checked before the model is loaded")

    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)
    (work / "void").mkdir()
    before = sorted(work.rglob("*"))
    assert predict(*arguments) == 2
    assert message in one_error_line(capsys)
    assert sorted(work.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
def test_unwritable_folder(work, model, capsys):
    assert predict("photos", "--out", "/proc/self/predictions") == 2
    assert "cannot write to /proc/self/predictions" in one_error_line(capsys)


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU")
def test_no_gpu(work, model, capsys):
    assert predict("photos", "--device", "gpu") == 2
    assert "--device gpu: MLX has no GPU on this machine" in one_error_line(capsys)


def test_device_and_dtype(work, model):
    before = mx.default_device()
    try:
        assert predict("photos/a.jpg", "--device", "cpu", "--dtype", "bfloat16") == 0
        assert mx.default_device() == mx.Device(mx.cpu)
    finally:
        mx.set_default_device(before)
    assert model.dtype == "bfloat16"


@pytest.mark.parametrize(
    "error", [FileNotFoundError("no such model: x.pth"), ValueError("x.pth:\n  two\n  lines")]
)
@pytest.mark.parametrize("command", [["predict", "photos"], ["info"]])
def test_models_that_do_not_load(work, monkeypatch, capsys, command, error):
    def load(source, dtype=None):
        raise error

    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", load)
    assert main([*command, "--model", "x.pth"]) == 2
    assert "x.pth" in one_error_line(capsys)
    assert not Path("predictions").exists()


def test_no_command_and_unknown_command(capsys):
    assert main([]) == 2
    assert "required: COMMAND" in one_error_line(capsys)
    assert main(["segment"]) == 2
    assert "invalid choice: 'segment'" in one_error_line(capsys)


def test_warnings_are_one_line_without_a_source(work, model, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow warns from here, 320 * 240
    assert predict("photos/a.jpg") == 0
    err = capsys.readouterr().err
    assert err.startswith("mlx_rcnn: warning: Image size (76800 pixels)") and err.count("\n") == 1


def test_interrupt_keeps_what_is_done(work, model, capsys):
    predict_one = model.predict

    def interrupted(images, **options):
        if len(model.calls) == 1:
            raise KeyboardInterrupt
        return predict_one(images, **options)

    object.__setattr__(model, "predict", interrupted)
    assert predict("photos") == 130
    out, err = capsys.readouterr()
    assert "mlx_rcnn: interrupted" in err and "Traceback" not in err
    assert len(entries()) == 3 and "1 image, 3 detections" in out


def test_a_crash_keeps_what_is_done(work, model):
    predict_one = model.predict

    def crash(images, **options):
        if len(model.calls) == 1:
            raise RuntimeError("a bug")
        return predict_one(images, **options)

    object.__setattr__(model, "predict", crash)
    with pytest.raises(RuntimeError, match="a bug"):
        predict("photos")
    assert len(entries()) == 3


def test_control_c_in_a_real_process(work):
    script = (
        "import signal, sys, time, types, mlx_rcnn.checkpoints.load, numpy as np\n"
        # A shell's background job, which tests may run in, ignores it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mlx_rcnn.cli.main import main\n"
        "def predict(images, **options):\n"
        "    print('predicting', flush=True); time.sleep(60)\n"
        "config = types.SimpleNamespace(image_levels=None)\n"
        "model = types.SimpleNamespace(predict=predict, class_names=None, config=config)\n"
        "mlx_rcnn.checkpoints.load.load = lambda source, dtype=None: model\n"
        "sys.exit(main(['predict', 'photos', '--model', 'x']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "predicting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "mlx_rcnn: interrupted" in err and "Traceback" not in err
    assert os.listdir("predictions") == ["detections.json"] and entries() == []


def test_help_is_complete_and_lists_only_what_exists(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    names = ("predict", "train", "evaluate", "info", "data", "doctor", "benchmark")
    assert all(name in out for name in names)
    (commands,) = (a for a in build_parser()._actions if a.choices)
    for command in commands.choices.values():
        for action in command._actions:
            assert action.help, action.dest
            optional = action.option_strings and not action.required
            if optional and action.dest != "help":
                assert "(default: " in action.help, action.dest


def test_a_real_model_through_the_command_line(work, small_model, monkeypatch):
    real = small_model("mask_rcnn")
    monkeypatch.setattr(mlx_rcnn.checkpoints.load, "load", lambda source, dtype=None: real)
    assert predict("photos", "--score-thresh", 0, "--top-k", 5, "--batch-size", 2) == 0
    for name in ("a.jpg", "b.png"):
        expected = coco_results(
            real.predict(f"photos/{name}", score_thresh=0.0, top_k=5)[0], f"photos/{name}"
        )
        found = [e for e in entries() if e["image_id"] == f"photos/{name}"]
        assert len(found) == len(expected) > 0
        for got, want in zip(found, expected, strict=True):
            assert got["category_id"] == want["category_id"]
            assert got["score"] == pytest.approx(want["score"], abs=1e-4)
            assert got["segmentation"]["size"] == [240, 320]
