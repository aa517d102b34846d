"""``--proposals``: a file of one model feeds another, and what cannot be is said in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
from halves import halves
from mlx_rcnn.cli.main import main
from mlx_rcnn.data import ShapesDataset, read_proposals, write_proposals
from mlx_rcnn.inputs.proposals import Proposed


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``, ``fast`` and ``rpn``, models that share weights, and ``photos`` of shapes."""
    folder = tmp_path_factory.mktemp("proposals")
    for name, model in zip(("whole", "fast", "rpn"), halves(), strict=True):
        mlx_rcnn.save(model, folder / name)
    (folder / "photos").mkdir()
    shapes = ShapesDataset(3, (96, 128), seed=2)
    for i in range(3):
        Image.fromarray(shapes[i].image).save(folder / f"photos/{i}.png")
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_file_of_one_feeds_the_other(here: Path, tmp_path: Path, capsys) -> None:
    shown = ("predict", here / "photos", "--no-images", "--out")
    assert run(*shown, tmp_path / "r", "--model", here / "rpn") == 0
    assert "proposals: " in capsys.readouterr().out
    file = tmp_path / "r/proposals.npz"
    found = read_proposals(file)
    assert sorted(found) == ["0.png", "1.png", "2.png"] and len(found["0.png"].boxes) > 20
    assert run(*shown, tmp_path / "f", "--model", here / "fast", "--proposals", file) == 0
    assert run(*shown, tmp_path / "w", "--model", here / "whole") == 0
    ours, theirs = (
        json.loads((tmp_path / name / "detections.json").read_text()) for name in ("f", "w")
    )
    assert len(theirs) > 10 and len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a["category_id"] == b["category_id"] and a["image_id"] == b["image_id"]
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.05)
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_a_results_file_and_unreadable_images(here: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(here / "photos", tmp_path / "photos")
    (tmp_path / "photos/bad.png").write_bytes(b"none")
    results = tmp_path / "boxes.json"
    name = str(tmp_path / "photos/0.png")
    entry = {"image_id": name, "bbox": [4, 4, 60, 50], "score": 0.5, "category_id": 1}
    results.write_text(json.dumps([entry]))
    words = ("predict", tmp_path / "photos", "--model", here / "fast", "--out", tmp_path / "out")
    assert run(*words, "--proposals", results, "--score-thresh", "0") == 1
    assert "bad.png" in capsys.readouterr().err
    ids = {e["image_id"] for e in json.loads((tmp_path / "out/detections.json").read_text())}
    assert ids == {name}


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("fast", (), "a FastRCNN classifies proposals: give --proposals FILE, or"),
        ("whole", ("--proposals", "x.npz"), "a FasterRCNN makes its own"),
        ("fast", ("--proposals", "none.npz"), "--proposals: "),
        ("fast", ("--proposals", "few.npz"), "2 of 3 images have no proposals, first"),
        ("fast", ("--proposals", "turned.npz"), "look like x, y, width, height"),
    ],
)
def test_one_line_for_what_cannot_work(
    here: Path, tmp_path: Path, capsys, monkeypatch, model: str, words, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_proposals("few.npz", {"1.png": Proposed(np.array([[0, 0, 9, 9]], np.float32))}, {})
    rows = np.array([[50, 40, 10, 10]], np.float32)
    np.savez("turned.npz", **{f"boxes/{i}.png": rows for i in range(3)}, about=about("few.npz"))
    assert run("predict", here / "photos", "--model", here / model, *words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("mlx_rcnn: error: ")
    assert not (tmp_path / "predictions/detections.json").exists()


def about(file: str) -> np.ndarray:
    with np.load(file) as archive:
        return archive["about"]


def test_without_opencv_the_cure_is_said(here: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    words = ("predict", here / "photos", "--model", here / "fast", "--out", tmp_path / "out")
    assert run(*words, "--proposals", "selective-search") == 2
    assert 'pip install "mlx-rcnn[proposals]"' in capsys.readouterr().err


def test_a_networks_recall_and_training_on_a_file(here: Path, tmp_path: Path, capsys) -> None:
    shapes = ShapesDataset(3, (96, 128), seed=2)
    folder = tmp_path / "data"
    folder.mkdir()
    images, annotations = [], []
    for i in range(3):
        sample = shapes[i]
        Image.fromarray(sample.image).save(folder / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 96, "width": 128})
        for box, label in zip(
            sample.target["boxes"].tolist(), sample.target["labels"], strict=True
        ):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(shapes.class_names) if i]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(data))
    assert run("evaluate", "--model", here / "rpn", "--data", folder / "data.json") == 0
    out = capsys.readouterr().out
    assert "IoU 0.5" in out and f"{len(annotations)} objects of 3 images" in out
    run("predict", folder, "--model", here / "rpn", "--no-images", "--out", tmp_path / "r")
    words = ("--data", folder / "data.json", "--proposals", tmp_path / "r/proposals.npz")
    train = ("--epochs", 1, "--batch-size", 1, "--workers", 1, "--output", tmp_path / "run")
    assert run("train", "--model", here / "fast", *words, *train) == 0
    trained = mlx_rcnn.load(tmp_path / "run/last")
    assert type(trained).__name__ == "FastRCNN" and trained.class_names == shapes.class_names
    assert run("evaluate", "--model", tmp_path / "run/last", *words, "--metric", "voc") == 0
    assert run("evaluate", "--model", tmp_path / "run/last", *words[:2], "--metric", "voc") == 2
    assert "give --proposals FILE" in capsys.readouterr().err
    assert run("info", "--model", here / "fast") == 0
    assert "FastRCNN" in capsys.readouterr().out
    assert run("info", "--model", here / "rpn") == 0
    assert "proposals     at most 100 an image" in capsys.readouterr().out
