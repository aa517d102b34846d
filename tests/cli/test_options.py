"""Options of prediction on the command line: suppression, thresholds by class, several views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_rcnn
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.cli.main import main
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from mlx_rcnn.data import ShapesDataset, write_coco
from mlx_rcnn.ops import masks as pasting
from mlx_rcnn.outputs.coco import coco_results
from small import PHOTOS, recipe_state, untrained

Augment = mlx_rcnn.TestTimeAugment
PHOTO = str(PHOTOS / "dogs.jpg")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each kind, of four classes."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("faster_rcnn", "mask_rcnn", "keypoint_rcnn"):
        model = untrained(kind)
        assign(model, rename(recipe_state(model), RULES).weights, "the recipe")
        mlx_rcnn.save(model, folder / kind)
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def predict(model: Path, *words: str, images: bool = False) -> int:
    more = [] if images else ["--no-images"]
    return main(["predict", PHOTO, "--model", str(model), "--json", "found.json", *more, *words])


def found() -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(Path("found.json").read_text())
    return content


def expected(model: Path, settings: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    [result] = mlx_rcnn.load(model, **(settings or {})).predict(PHOTO, **options)
    return coco_results(result, PHOTO)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("mlx_rcnn: error: ") and error.count("\n") == 1
    return error


def test_suppression_by_settings(models: Path, capsys) -> None:
    model = models / "faster_rcnn"
    words = ["--set", "box_nms_kind=gaussian", "--set", "box_nms_agnostic=yes"]
    assert predict(model, *words, "--set", "box_nms_sigma=0.3") == 0
    settings = {"box_nms_kind": "gaussian", "box_nms_agnostic": True, "box_nms_sigma": 0.3}
    assert found() == expected(model, settings) != expected(model)
    capsys.readouterr()
    assert main(["info", "--model", str(model), *words]) == 0
    assert "Gaussian Soft-NMS of sigma 0.5 over all classes" in capsys.readouterr().out


def test_thresholds_by_class(models: Path, capsys) -> None:
    model, each = models / "faster_rcnn", (0.1, 0.9, 0.3, 0.05)
    words = ["--set", "box_score_thresh=0.1,0.9,0.3,0.05"]
    assert predict(model, *words) == 0
    assert found() == expected(model, score_thresh=each) != expected(model)
    capsys.readouterr()
    assert main(["info", "--model", str(model), *words]) == 0
    assert "score 0.05 to 0.9 by class or more" in capsys.readouterr().out
    error = refused(capsys, *PREDICT, str(model), "--set", "box_score_thresh=0.1,0.9")
    assert "box_score_thresh has 2 entries: expected one number, or 4, one a class" in error
    error = refused(capsys, *PREDICT, str(model), "--set", "box_score_thresh=0.1,0.9,x")
    assert "box_score_thresh=0.1,0.9,x: expected a number or numbers between commas" in error


PREDICT = ["predict", PHOTO, "--model"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("box_nms_kind=gausian", "'gaussian'); did you mean 'gaussian'?"),
        ("box_nms_kind=Linear", "did you mean 'linear'?"),
        ("box_nms_kind=none", "box_nms_kind=none: expected a word"),
        ("box_reg_loss=giuo", "'giou'); did you mean 'giou'?"),
        ("rpn_reg_loss=smoothl1", "did you mean 'smooth_l1'?"),
        ("roi_pooling=pooling", "did you mean 'pool'?"),
        ("resize_rule=pilow", "did you mean 'pillow'?"),
        ("roi_pooling=xyz", "roi_pooling='xyz': expected one of ('align', 'pool')"),
        ("box_nms_sigma=0", "box_nms_sigma=0.0: expected positive numbers"),
        ("box_nms_agnostic=maybe", "box_nms_agnostic=maybe: expected true or false"),
        ("box_nms_kid=hard", "did you mean 'box_nms_kind'?"),
    ],
)
def test_unknown_values_name_the_nearest(models: Path, capsys, setting: str, message: str) -> None:
    assert message in refused(capsys, *PREDICT, str(models / "faster_rcnn"), "--set", setting)


def test_nearest_names_of_flags(models: Path, capsys) -> None:
    model = str(models / "faster_rcnn")
    for words, meant in (
        (["convert", model, "x.pth", "--to", "torchvison"], "torchvision"),
        (["convert", model, "x", "--from", "detectron"], "detectron2"),
        (["info", "--model", model, "--style", "cafe"], "caffe"),
        ([*PREDICT, model, "--dtype", "float61"], "float16"),
        (["predcit", PHOTO], "predict"),
        (["evaluate", "--data", "x", "--model", model, "--metric", "voc70"], "voc07"),
    ):
        assert f"did you mean '{meant}'?" in refused(capsys, *words)
    error = refused(capsys, "convert", model, "x", "--arch", "fasterrcnn_resnet50_fnp")
    assert "did you mean 'fasterrcnn_resnet50_fpn'?" in error


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize(
    ("words", "augment"),
    [
        (["--tta-sizes", "80, 96"], Augment((80, 96))),
        (["--tta-sizes", "80,96", "--no-tta-flip"], Augment((80, 96), flip=False)),
        (["--tta-flip"], Augment(None)),
        (["--tta-sizes", "128", "--tta-flip"], Augment((128,))),
    ],
)
def test_several_views(models: Path, kind: str, words: list[str], augment: Augment) -> None:
    assert predict(models / kind, *words) == 0
    assert found() == expected(models / kind, augment=augment) != expected(models / kind)


@pytest.mark.parametrize(
    "sizes", ["0", "400,", "", "a,b", "400.5", "-3", "4001", "400;600", "1e3", "99999999999"]
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_wrong_sizes(capsys, command: str, sizes: str) -> None:
    source = [PHOTO] if command == "predict" else ["--data", "none"]
    error = refused(capsys, command, *source, "--model", "none", f"--tta-sizes={sizes}")
    assert f"--tta-sizes: '{sizes}' given, expected whole numbers from 1 to 4000" in error


def test_flags_that_do_not_go_together(models: Path, capsys) -> None:
    error = refused(capsys, *PREDICT, "none", "--no-tta-flip")
    assert "--no-tta-flip goes with --tta-sizes" in error
    error = refused(capsys, *PREDICT, str(models / "keypoint_rcnn"), "--tta-sizes", "80")
    assert "a KeypointRCNN cannot look at mirrored images" in error and "--no-tta-flip" in error
    assert predict(models / "keypoint_rcnn", "--tta-sizes", "80,96", "--no-tta-flip") == 0
    assert all(len(entry["keypoints"]) == 15 for entry in found())
    data = str(write_coco(ShapesDataset(1, (64, 80)), Path("data")))
    error = refused(capsys, "evaluate", "--data", data, "--predictions", "x", "--tta-flip")
    assert "--tta-sizes and --tta-flip go with --model" in error


def test_results_alone_paste_a_mask_at_a_time(models: Path, monkeypatch) -> None:
    """With pictures and without, the same RLE; without, no two masks are pasted at once."""
    assert predict(models / "mask_rcnn", images=True) == 0
    whole, most = found(), []
    assert len(whole) > 10 and all("segmentation" in entry for entry in whole)
    check = pasting._check

    def counted(masks: np.ndarray, *rest: Any) -> Any:
        most.append(len(masks))
        return check(masks, *rest)

    monkeypatch.setattr(pasting, "_check", counted)
    assert predict(models / "mask_rcnn") == 0
    assert found() == whole and most == [1] * len(whole)


def test_evaluate(models: Path, capsys) -> None:
    """Options reach the model; thresholds by class are those that detections are kept by."""
    data = str(write_coco(ShapesDataset(2, (64, 80)), Path("data")))
    names = "circle,square,triangle,other"
    command = ["evaluate", "--data", data, "--classes", names, "--metric", "voc"]
    command += ["--model", str(models / "mask_rcnn"), "--json", "found.json"]

    def run(*words: str) -> list[dict[str, Any]]:
        assert main([*command, *words]) == 0
        return found()

    plain = run()
    assert min(entry["score"] for entry in plain) < 0.2
    assert all("segmentation" in entry for entry in plain)
    kept = run("--set", "box_score_thresh=0.05,0.4,1,0.05")
    assert 0 < len(kept) < len(plain)
    few = [e["score"] for e in kept if e["category_id"] == 2]
    assert all(score > 0.4 for score in few) and not any(e["category_id"] == 3 for e in kept)
    assert run("--set", "box_score_thresh=0.3") == [e for e in plain if e["score"] > 0.3]
    both = run("--set", "box_score_thresh=0.3", "--score-thresh", "0.5")  # the flag counts
    assert both == [e for e in plain if e["score"] > 0.5]
    views = run("--tta-sizes", "64,96")
    assert len(views) > 0 and views != plain


def test_tiles(models: Path, capsys) -> None:
    model = models / "mask_rcnn"
    assert predict(model, "--tile", "128", "--overlap", "0.3", "--batch-size", "2") == 0
    tiles = mlx_rcnn.Tiles(128, 0.3, batch_size=2)
    [result] = mlx_rcnn.predict_tiled(mlx_rcnn.load(model), PHOTO, tiles)
    assert len(result) > 5 and found() == coco_results(result, PHOTO)
    assert predict(model, "--tile", "128", "--classes", "1", "--top-k", "3", images=True) == 0
    assert 0 < len(found()) <= 3 and {entry["category_id"] for entry in found()} == {1}
    for words, message in (
        (("--overlap", "0.3"), "--overlap goes with --tile"),
        (("--tile", "128", "--overlap", "1"), "expected at most 0.9"),
        (("--tile", "4"), "expected an integer of at least 16"),
        (("--tile", "0"), "expected a whole number of at least 1"),
        (("--tile", "128", "--tta-flip"), "expected one of them"),
    ):
        assert message in refused(capsys, "predict", PHOTO, "--model", str(model), *words)
