"""``predict`` of a folder: images are read ahead of the network, drawn and written behind it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from mlx_rcnn import Tiles, save
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.predict import steps
from mlx_rcnn.outputs.detections import Detections
from mlx_rcnn.structures import Prepared
from small import untrained

NAMES = ("__background__", "cat")
COUNT, PATIENCE = 6, 20


class Model:
    """Whose ``predict`` calls ``during`` with the image's number, which its brightness tells."""

    class_names, config = NAMES, SimpleNamespace(num_classes=2, image_levels=None)

    def __init__(self) -> None:
        self.during: Any = lambda number: None
        self.threads: set[str] = set()

    def predict(self, images: list, **_: Any) -> list[Detections]:
        self.threads.add(threading.current_thread().name)
        found = []
        for image in images:
            self.during(number_of(image))
            arrays = {
                "boxes": np.array([[1, 2, 11, 12]], np.float32),
                "scores": np.array([0.9], np.float32),
                "labels": np.array([1], np.int32),
            }
            found.append(Detections(arrays, NAMES, image.shape[:2]))
        return found


def number_of(image: Any) -> int:
    return int(image[0, 0, 0]) // 20


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    """In a folder with photos; what is read and drawn has an event."""
    model = Model()
    monkeypatch.setattr("mlx_rcnn.checkpoints.load.load", lambda source, **_: model)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(COUNT):
        Image.new("RGB", (32, 24), (20 * i,) * 3).save(f"photos/{i}.png")
    return model


class Watch:
    """Events of the steps of each image, and the threads that took them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = [threading.Event() for _ in range(COUNT)]
        self.drawn = [threading.Event() for _ in range(COUNT)]
        self.threads: dict[str, set[str]] = {"read": set(), "drawn": set()}
        load, draw = steps.load_source, steps.draw_detections

        def load_source(*args: Any) -> Any:
            image = load(*args)
            self._tell("read", image)
            return image

        def draw_detections(image: Any, *args: Any, **options: Any) -> Any:
            picture = draw(image, *args, **options)
            self._tell("drawn", image)
            return picture

        monkeypatch.setattr(steps, "load_source", load_source)
        monkeypatch.setattr(steps, "draw_detections", draw_detections)

    def _tell(self, what: str, image: Any) -> None:
        self.threads[what].add(threading.current_thread().name)
        getattr(self, what)[number_of(image)].set()


def predict(*words: str) -> int:
    return main(["predict", "photos", "--model", "x", "--out", "out", *words])


def test_three_threads_work_at_once(model: Model, monkeypatch: Any, capsys: Any) -> None:
    """While an image is predicted the next is read and the one before is drawn."""
    watch = Watch(monkeypatch)

    def during(number: int) -> None:
        if number + 1 < COUNT:
            assert watch.read[number + 1].wait(PATIENCE)
        if number:
            assert watch.drawn[number - 1].wait(PATIENCE)

    model.during = during
    assert predict() == 0
    assert model.threads == {"MainThread"}
    assert watch.threads == {"read": {"ahead"}, "drawn": {"behind"}}
    out = capsys.readouterr().out
    share = float(out.split("; the network waited ")[1].split(" % of the time")[0])
    assert 0 <= share <= 100
    assert [line.split()[0] for line in out.splitlines()[1 : 1 + COUNT]] == [
        f"photos/{i}.png" for i in range(COUNT)
    ]


def test_few_images_are_read_ahead(model: Model, monkeypatch: Any) -> None:
    watch, most = Watch(monkeypatch), []

    def during(number: int) -> None:
        ahead = [event.is_set() for event in watch.read[number + 1 :]]
        if number == 0:  # time for more, were there room
            watch.read[min(4, COUNT - 1)].wait(0.2)
        most.append(sum(ahead))

    model.during = during
    assert predict("--no-images") == 0
    assert max(most) <= 2


def test_what_is_predicted_is_written_when_it_ends_early(model: Model, monkeypatch: Any) -> None:
    slow, draw = threading.Event(), steps.draw_detections

    def draw_slowly(image: Any, *args: Any, **options: Any) -> Any:
        if number_of(image) == 1:
            assert slow.wait(PATIENCE)
        return draw(image, *args, **options)

    def during(number: int) -> None:
        if number == 2:
            threading.Timer(0.1, slow.set).start()
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "draw_detections", draw_slowly)
    model.during = during
    assert predict() == 130
    assert sorted(p.name for p in Path("out").glob("*.png")) == ["0.png", "1.png"]
    model.during = lambda number: None
    assert predict("--resume") == 0
    assert len(list(Path("out").glob("*.png"))) == COUNT


def test_what_cannot_be_read_is_named_in_its_place(model: Model, capsys: Any) -> None:
    Path("photos/2.png").write_bytes(b"none")
    assert predict("--batch-size", "2") == 1
    assert "cannot read photos/2.png" in capsys.readouterr().err
    assert len(list(Path("out").glob("*.png"))) == COUNT - 1


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "cascade_rcnn"])
def test_what_is_prepared_gives_the_same(kind: str) -> None:
    model = untrained(kind, box_score_thresh=0.0)
    images = [
        np.random.default_rng(i).integers(0, 256, (70, 60 + 9 * i, 3), np.uint8) for i in (0, 1)
    ]
    ready = model.prepare(images)
    assert isinstance(ready, Prepared) and isinstance(ready.pixels, np.ndarray)
    assert model.prepare(ready) is ready
    for found, expected in zip(model.predict(ready), model.predict(images), strict=True):
        assert found.keys() == expected.keys() and len(found["boxes"])
        assert found.image is not None
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_model_s_results_are_those_of_predict(tmp_path: Path, monkeypatch: Any) -> None:
    """Batches read ahead are equal to the bit; tiles and views go as before."""
    monkeypatch.chdir(tmp_path)
    model = tiny.build(box_score_thresh=0.0, class_names=("b", "x", "y", "z"))
    save(model, "model")
    Path("photos").mkdir()
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (60 + 7 * i, 80, 3), np.uint8) for i in range(3)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(f"photos/{i}.png")
    flip = steps.TestTimeAugment(None)
    for words, expected in (
        ((), lambda image: model.predict([image])),
        (("--tile", "50"), lambda image: steps.predict_tiled(model, [image], Tiles(50))),
        (
            ("--tta-flip",),
            lambda image: model.predict([image], augment=flip),
        ),
    ):
        run = ["predict", "photos", "--model", "model", "--out", "out", "--no-images", *words]
        assert main(run) == 0
        entries = json.loads(Path("out/detections.json").read_text())
        scores = np.array([entry["score"] for entry in entries])
        wanted = np.concatenate([expected(image)[0]["scores"] for image in images])
        assert len(scores) and np.array_equal(scores, np.round(wanted.astype(float), 8)), words
