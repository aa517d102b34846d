"""``mlx_rcnn evaluate`` loses no detections: they are on the disk before they are scored."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import mlx.nn as nn
import numpy as np
import pytest

from annotated import coco_content, make_coco
from mlx_rcnn.cli.main import main


class Model(nn.Module):
    """Finds a cat and a dog at the place where the one object of each image is."""

    class_names = ("__background__", "cat", "dog")
    config = SimpleNamespace(num_classes=3, image_levels=None)

    def predict(self, images: list, *, score_thresh: float) -> list[dict[str, np.ndarray]]:
        found = {
            "boxes": np.array([[10, 20, 50, 60], [11, 20, 50, 61]], np.float32),
            "scores": np.array([0.9, 0.4], np.float32),
            "labels": np.array([1, 2], np.int32),
        }
        return [found] * len(images)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``--model`` is given."""
    monkeypatch.setattr("mlx_rcnn.checkpoints.load.load", lambda source, **_: Model())
    return "fake"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_coco(tmp_path, coco_content())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def metrics(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of the table that do not tell a time."""
    lines = capsys.readouterr().out.splitlines()
    return [re.sub(r"; images per second.*", "", line) for line in lines]


def test_detections_are_scored_again(data, saved, tmp_path, temporary, capsys) -> None:
    common = ["evaluate", "--data", str(data)]
    results = tmp_path / "found.json"
    assert main([*common, "--model", str(saved), "--json", str(results)]) == 0
    first = [line for line in metrics(capsys) if "results:" not in line]
    assert json.loads(results.read_text())
    assert main([*common, "--predictions", str(results)]) == 0
    assert metrics(capsys) == first
    assert list(temporary.iterdir()) == []


def test_a_failure_of_the_metrics_keeps_them(
    data, saved, temporary, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(collected):
        raise MemoryError

    common = ["evaluate", "--data", str(data)]
    with monkeypatch.context() as patch:
        patch.setattr("mlx_rcnn.cli.evaluate.command.coco_metrics", fails)
        assert main([*common, "--model", str(saved)]) == 1
    (kept,) = temporary.glob("*/detections.json")
    error = capsys.readouterr().err
    assert (
        f"coco's metrics failed: MemoryError: MemoryError; the detections are kept: "
        f"--predictions {kept} scores them" in error
    )
    assert main([*common, "--predictions", str(kept)]) == 0
    assert kept.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nothing", "is not JSON"),
        ("{}", "holds a dict, expected a list"),
        ("[3]", "entry 0 is a int"),
        ('[{"image_id": 1}]', "entry 0 has no category_id"),
        (
            '[{"image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]',
            "entry 0: image_id 77 is not in the data",
        ),
        (
            '[{"image_id": 9, "category_id": 999, "bbox": [1, 2, 3, 4], "score": 1}]',
            "entry 0: category_id 999 is not in the data",
        ),
        (
            '[{"image_id": 9, "category_id": [17], "bbox": [1, 2, 3, 4], "score": 1}]',
            "entry 0: category_id [17] is not in the data",
        ),
        (
            '[{"image_id": 9, "category_id": 17, "bbox": [1, 2, NaN, 4], "score": 1}]',
            "entry 0: bbox [1, 2, nan, 4], expected finite numbers",
        ),
        (
            '[{"image_id": 9, "category_id": 17, "bbox": [1, 2, 3, 4], "score": 1,'
            ' "keypoints": null}]',
            "entry 0: keypoints None, expected finite numbers",
        ),
    ],
)
def test_files_of_others_are_refused(data, tmp_path, content, said, capsys) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    assert main(["evaluate", "--data", str(data), "--predictions", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_one_of_model_and_predictions(data, saved, capsys) -> None:
    assert main(["evaluate", "--data", str(data)]) == 2
    assert "one of the arguments --model --predictions is required" in capsys.readouterr().err


def test_an_evaluation_that_stops_early_leaves_nothing(data, saved, temporary, monkeypatch) -> None:
    def stops(*args, **options):
        raise ValueError("no")

    monkeypatch.setattr("mlx_rcnn.cli.evaluate.images.assemble", stops)
    assert main(["evaluate", "--data", str(data), "--model", saved]) == 1
    assert list(temporary.iterdir()) == []


def test_json_and_predictions_exclude_each_other(data, tmp_path, capsys) -> None:
    common = ["evaluate", "--data", str(data), "--predictions", "x.json"]
    assert main([*common, "--json", str(tmp_path / "y.json")]) == 2
    assert "--json goes with --model" in capsys.readouterr().err
