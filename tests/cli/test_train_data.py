"""``mlx_rcnn train``: which images are learned from, and which are only measured on."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.cli.main import main
from mlx_rcnn.training import TrainConfig, fit
from mlx_rcnn.training.checkpoint import read_progress

FAST = ["--epochs", "1", "--warmup", "1", "--batch-size", "1", "--workers", "1"]


def voc(root: Path, lists: dict[str, range], count: int = 6, unreadable: range = range(0)) -> Path:
    """A VOC folder of pictures with one leaf each, every picture another one."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(root.name))
    for i in range(count):
        pixels = random.integers(0, 80, (64, 80, 3), dtype=np.uint8)
        pixels[20:50, 30:70] = (40, 220, 60)
        Image.fromarray(pixels).save(root / f"JPEGImages/{i}.png")
        if i in unreadable:
            (root / f"JPEGImages/{i}.png").write_bytes(b"no picture")
        (root / f"Annotations/{i}.xml").write_text(
            f"<annotation><filename>{i}.png</filename><size><width>80</width><height>64</height>"
            "</size><object><name>leaf</name><bndbox><xmin>31</xmin><ymin>21</ymin><xmax>70</xmax>"
            "<ymax>50</ymax></bndbox></object></annotation>"
        )
    for name, rows in lists.items():
        text = "".join(f"{i}\n" for i in rows)
        (root / f"ImageSets/Main/{name}.txt").write_text(text)
    return root


@pytest.fixture
def train(tmp_path: Path, capsys):
    """Runs the command on a folder; gives the exit code and all that was printed."""
    mlx_rcnn.save(tiny.build(classes=3), tmp_path / "model")

    def run(data: Path, *args: str) -> tuple[int, str]:
        capsys.readouterr()
        line = ["--data", str(data), "--model", str(tmp_path / "model")]
        code = main(["train", *line, "--output", str(tmp_path / "run"), *FAST, *args])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def steps(tmp_path: Path) -> int:
    return read_progress(tmp_path / "run").step


def test_without_train_it_is_trainval_and_said(tmp_path, train):
    code, said = train(voc(tmp_path / "a", {"trainval": range(4), "test": range(4, 6)}))
    assert code == 0, said
    assert "has no split train: trained on trainval" in said and "nothing is validated" in said
    assert steps(tmp_path) == 4


@pytest.mark.parametrize("names", [("val", "test"), ("test",)])
def test_lists_without_one_to_train_on_are_named(tmp_path, train, names):
    code, said = train(voc(tmp_path / "a", {name: range(3) for name in names}))
    assert code == 2 and "has no split train" in said and "--split" in said
    assert all(name in said for name in names) and not (tmp_path / "run").exists()


def test_unreadable_images_to_train_on_are_no_reason_to_train_on_others(tmp_path, train):
    data = voc(tmp_path / "a", {"train": range(4), "val": range(4, 6)}, unreadable=range(4))
    code, said = train(data)
    assert code == 2 and "no image can be used" in said and "0.png" in said


def test_an_image_in_both_sets_is_an_error_unless_asked_for(tmp_path, train):
    data = voc(tmp_path / "a", {"train": range(4), "val": range(3, 6)})
    code, said = train(data)
    assert code == 2 and "1 of the 3 validation images" in said and "3.png" in said
    code, said = train(data, "--allow-overlap")
    assert code == 0, said


def test_a_copy_under_another_name_is_the_same_image(tmp_path, train):
    data = voc(tmp_path / "a", {"train": range(4), "val": range(4, 6)})
    picture = (data / "JPEGImages/1.png").read_bytes()
    (data / "JPEGImages/5.png").write_bytes(picture)
    code, said = train(data)
    assert code == 2 and "5.png" in said


def test_a_share_kept_for_validation(tmp_path, train):
    """By image and seed, recorded, and the same when the run goes on."""
    data = voc(tmp_path / "a", {})
    code, said = train(data, "--val-fraction", "0.34")
    assert code == 0 and "nothing is validated" not in said, said
    assert steps(tmp_path) == 4
    assert read_progress(tmp_path / "run").config["val_fraction"] == 0.34
    code, said = train(data, "--resume", "--epochs", "2")
    assert code == 0 and steps(tmp_path) == 8, said


def test_a_share_in_place_of_the_val_list(tmp_path, train):
    data = voc(tmp_path / "a", {"train": range(4), "val": range(4, 6)})
    code, said = train(data, "--val-fraction", "0.5")
    assert code == 0 and steps(tmp_path) == 2, said
    code, said = train(data, "--resume", "--epochs", "2")
    assert code == 0 and steps(tmp_path) == 4, said


def test_nothing_to_learn_is_refused(tmp_path, train):
    file = mlx_rcnn.data.write_coco(tiny.shapes(), tmp_path / "data")
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    file.write_text(json.dumps(content))
    code, said = train(file)
    assert code == 2 and "nothing to learn" in said
    content["annotations"] = []
    file.write_text(json.dumps(content))
    code, said = train(file)
    assert code == 2 and not (tmp_path / "run/last").exists()


def test_an_unknown_metric_is_refused_before_training(tmp_path, train):
    data = voc(tmp_path / "a", {"train": range(4), "val": range(4, 6)})
    code, said = train(data, "--metric", "AP5O")
    assert code == 2 and "AP5O" in said and "AP50" in said
    assert not (tmp_path / "run/last").exists()


@pytest.mark.parametrize("scores", [[float("nan")] * 3, [0.5, float("nan"), 0.4]])
def test_nan_is_no_score(tmp_path, scores):
    left, data = iter(scores), tiny.shapes(2)
    config = TrainConfig(epochs=3, batch_size=2, workers=1)
    done = fit(
        tiny.build(),
        data,
        tiny.shapes(1, seed=5),
        config,
        tmp_path / "run",
        evaluate=lambda *_: {"AP": next(left)},
    )
    best = json.loads((tmp_path / "run/best/training.json").read_text())["step"]
    assert best == (3 if scores[0] != scores[0] else 1)
    assert done.best == (None if scores[0] != scores[0] else 0.5)


def test_one_process_a_folder(tmp_path):
    """A second run in a folder where one is under way is refused, and harms nothing."""
    started, go = threading.Event(), threading.Event()

    def slow(*_):
        started.set()
        assert go.wait(60)
        return {"AP": 0.5}

    config = TrainConfig(epochs=1, batch_size=2, workers=1)
    args = tiny.shapes(2), tiny.shapes(1, seed=5), config, tmp_path / "run"
    first = threading.Thread(target=lambda: fit(tiny.build(), *args, evaluate=slow))
    first.start()
    assert started.wait(60)
    try:
        with pytest.raises(FileExistsError, match="another process is training in"):
            fit(tiny.build(), *args, overwrite=True, evaluate=tiny.score)
    finally:
        go.set()
        first.join()
    assert read_progress(tmp_path / "run").step == 1
