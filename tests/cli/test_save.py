"""``predict --save``: what is found, as annotations that come back as the same objects."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.cli.main import main
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from mlx_rcnn.data import open_dataset
from small import photo, recipe_state, untrained

NAMES = ("__background__", "ant", "bee/fly", "çat", "a dog")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask R-CNN with names, one without, and two photos."""
    folder = tmp_path_factory.mktemp("save")
    for name, names in (("model", NAMES), ("nameless", None)):
        model = untrained("mask_rcnn", class_names=names)
        assign(model, rename(recipe_state(model), RULES).weights, "the recipe")
        mlx_rcnn.save(model, folder / name)
    (folder / "photos").mkdir()
    for i, name in enumerate(("deck.jpg", "stop.jpg")):
        Image.fromarray(photo(name)[:120, :160]).save(folder / f"photos/{i} é.png")
    return folder


def run(here: Path, *words: object, model: str = "model") -> int:
    given = ("predict", here / "photos", "--model", here / model, "--no-images", *words)
    return main([str(word) for word in given])


def test_every_format_comes_back(here: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    kinds = "coco,voc,yolo,labelme,cvat,csv,crops"
    assert run(here, "--out", out, "--save", kinds, "--confidence", "0.3") == 0
    shown = capsys.readouterr().out
    entries = json.loads((out / "detections.json").read_text())
    kept = [entry for entry in entries if entry["score"] >= 0.3]
    assert 3 < len(kept) < len(entries)
    for kind in ("coco", "voc", "yolo", "labelme", "cvat"):
        assert f"{kind}: " in shown
        path = next((out / kind).glob("**/*.json")) if kind == "coco" else out / kind
        data = open_dataset(path, masks=False)
        assert data.defects == () and set(data.class_names) <= set(NAMES)
        found = sorted(
            (data.class_names[label], *np.round(box, 0))
            for i in range(len(data))
            for box, label in zip(*(data.target(i)[k] for k in ("boxes", "labels")), strict=True)
        )
        want = sorted(
            (NAMES[e["category_id"]], *np.round([x, y, x + w, y + h], 0))
            for e in kept
            for x, y, w, h in [e["bbox"]]
        )
        assert len(found) == len(want), kind
        if kind in ("coco", "voc"):  # the others' boxes are those of the outlines
            apart = [
                np.abs(np.subtract(a[1:], b[1:])).max() for a, b in zip(found, want, strict=True)
            ]
            assert max(apart) <= 1.5, kind
    rows = list(csv.DictReader((out / "detections.csv").open(encoding="utf-8")))
    assert len(rows) == len(kept) and {row["name"] for row in rows} <= set(NAMES)
    crops = sorted((out / "crops").glob("*/*.png"))
    assert len(crops) == len(kept) and not (out / "crops/bee").exists()
    width, height = Image.open(crops[0]).size
    assert 0 < width <= 160 and 0 < height <= 120


def test_what_cannot_work_is_one_line(here: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "full/voc").mkdir(parents=True)
    (tmp_path / "full/voc/x").touch()
    for words, message in (
        (("--save", "yola"), "expected some of"),
        (("--save", "yola"), "did you mean 'yolo'"),
        (("--confidence", "0.5"), "--confidence goes with --save"),
        (("--save", "csv", "--confidence", "2"), "expected a number from 0 to 1"),
    ):
        assert run(here, "--out", tmp_path / "out", *words) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert run(here, "--out", tmp_path / "full", "--save", "voc") == 2
    assert "is not empty: remove it or give another --out" in capsys.readouterr().err
    assert run(here, "--out", tmp_path / "out", "--save", "voc", model="nameless") == 2
    assert "give --set class_names=FILE" in capsys.readouterr().err
    assert run(here, "--out", tmp_path / "o2", "--save", "csv", model="nameless") == 0
    rows = list(csv.DictReader((tmp_path / "o2/detections.csv").open(encoding="utf-8")))
    assert rows == [] or rows[0]["name"].startswith("class ")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are Unicode")
def test_a_file_name_that_is_no_unicode(here: Path, tmp_path: Path, capsys: Any) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    name = os.fsdecode(b"a\xff.png")
    for target in (name, "a_.png"):
        Image.fromarray(photo("deck.jpg")[:90, :130]).save(photos / target)
    kinds = "coco,voc,yolo,labelme,cvat,csv,crops"
    words = ["predict", photos, "--model", here / "model", "--out", out, "--save", kinds]
    assert main([*map(str, words), "--confidence", "0.3"]) == 0
    shown = capsys.readouterr().out
    why = "  1 images renamed, as names repeat, or hold control characters or no Unicode"
    assert shown.count(why) == 5 and "a\\udcff.png" in shown
    for kind in ("coco", "voc", "yolo", "labelme", "cvat"):
        path = next((out / kind).glob("**/*.json")) if kind == "coco" else out / kind
        data = open_dataset(path, masks=False)
        assert data.defects == () and len(data) == 2
        assert sorted(item.path.name for item in data.items) == ["a_.png", "a__2.png"]
    with (out / "detections.csv").open(encoding="utf-8") as file:
        images = {Path(row["image"]).name for row in csv.DictReader(file)}
    assert images == {"a\\udcff.png", "a_.png"}
    entries = json.loads((out / "detections.json").read_text())
    assert {Path(entry["image_id"]).name for entry in entries} == {name, "a_.png"}
    assert (out / name).exists() and list((out / "crops").glob(f"*/{name[:2]}_1.png"))
