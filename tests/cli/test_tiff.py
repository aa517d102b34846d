"""``predict`` on TIFF: pages and levels as a user asks for them, and what is said of the rest."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import mlx_rcnn
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.cli.main import main
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from mlx_rcnn.ops.rle import decode_rle
from small import photo, recipe_state, untrained

NAMES = ("__background__", "ant", "bee/fly", "çat", "a dog")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask R-CNN, a stack of three pages and a pyramid."""
    folder = tmp_path_factory.mktemp("tiff")
    model = untrained("mask_rcnn", class_names=NAMES, box_detections_per_img=6)
    assign(model, rename(recipe_state(model), RULES).weights, "the recipe")
    mlx_rcnn.save(model, folder / "model")
    pages = np.stack([photo()[:90, :130], photo()[60:150, :130], photo()[:90, 100:230]])
    tifffile.imwrite(folder / "stäck 1.tif", pages, photometric="rgb", compression="zlib")
    with tifffile.TiffWriter(folder / "slide.tif") as file:
        file.write(photo()[:180, :260], subifds=1, photometric="rgb", tile=(64, 64))
        file.write(photo()[:180:2, :260:2], subfiletype=1, photometric="rgb", tile=(64, 64))
    return folder


def run(here: Path, out: Path, *words: object) -> int:
    given = ("predict", "--model", here / "model", "--out", out, *words)
    return main([str(word) for word in given])


def boxes(path: Path) -> list[list[float]]:
    return [entry["bbox"] for entry in json.loads(path.read_text())]


def test_pages_are_images(here: Path, tmp_path: Path, capsys: Any) -> None:
    stack = here / "stäck 1.tif"
    assert run(here, tmp_path, stack, "--tile", 64, "--save", "csv,crops") == 0
    entries = json.loads((tmp_path / "detections.json").read_text())
    ids = list(dict.fromkeys(entry["image_id"] for entry in entries))
    assert ids == [f"{stack.as_posix()}#page={n}" for n in (1, 2, 3)]
    pictures = sorted(p.name for p in tmp_path.glob("*.png"))
    assert pictures == [f"stäck 1_page{n}.png" for n in (1, 2, 3)]
    assert decode_rle(entries[0]["segmentation"]).shape == (90, 130)
    with (tmp_path / "detections.csv").open() as file:
        assert next(csv.DictReader(file))["image"].endswith("#page=1")
    capsys.readouterr()
    # One page, with tiles or whole, is what its picture alone gives.
    for words in (["--tile", 64], []):
        two, alone = tmp_path / "two", tmp_path / "alone.png"
        Image.fromarray(tifffile.imread(stack)[1]).save(alone)
        assert run(here, two, stack, "--page", 2, *words) == 0
        assert run(here, tmp_path / "one", alone, *words) == 0
        assert boxes(two / "detections.json") == boxes(tmp_path / "one/detections.json")
    # By its name, as results have it.
    assert run(here, tmp_path / "named", stack, "--page", "all") == 0
    assert "is predicted" not in capsys.readouterr().err


def test_without_a_page_the_first_and_a_word(here: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(here, tmp_path, here / "stäck 1.tif", "--no-images") == 0
    assert "has 3 pages or levels: the first is predicted; --page all" in capsys.readouterr().err


def test_levels_are_in_pixels_of_the_full_resolution(here: Path, tmp_path: Path) -> None:
    for level in (0, 1):
        words = ["--tile", 128, "--level", level, "--no-images"]
        assert run(here, tmp_path / str(level), here / "slide.tif", *words) == 0
        rows = json.loads((tmp_path / f"{level}/detections.json").read_text())
        reach = np.array([row["bbox"] for row in rows])
        assert 200 < (reach[:, 0] + reach[:, 2]).max() <= 260.01
        assert decode_rle(rows[0]["segmentation"]).shape == (180, 260)


def test_what_cannot_be(here: Path, tmp_path: Path, capsys: Any) -> None:
    stack, slide = here / "stäck 1.tif", here / "slide.tif"
    photo_file = tmp_path / "a.png"
    Image.fromarray(photo()).save(photo_file)
    for words, message in (
        ([stack, "--page", 4], "--page 4: "),
        ([stack, "--page", 0], "'0' given, expected 1, 2, ... or all"),
        ([stack, "--level", 1], "--level goes with --tile"),
        ([slide, "--tile", 64, "--level", 2], "no level 2: expected 0 to 1 (260x180, 130x90)"),
        ([photo_file, "--tile", 64, "--level", 1], "is no TIFF, which alone has levels"),
        ([stack, "--page", 1, "--tta-flip"], "--page and --tta-sizes or --tta-flip"),
        ([stack, "--tile", 64, "--save", "coco"], "cannot tell pages of"),
        ([stack, "--tile", 64, "--overlap", 1], "overlap=1.0: expected at most 0.9"),
        ([stack, "--tile", 8], "--tile 8 --overlap 0.2: size=8: expected an integer of at least"),
        ([stack, "--overlap", 0.1], "--overlap goes with --tile"),
    ):
        assert run(here, tmp_path / "out", *words) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_page_leaves_the_others(here: Path, tmp_path: Path, capsys: Any) -> None:
    data = (here / "stäck 1.tif").read_bytes()
    broken = tmp_path / "broken.tif"
    with tifffile.TiffFile(here / "stäck 1.tif") as file:
        start = file.pages[1].dataoffsets[0]
    broken.write_bytes(data[:start] + b"\0" * 50 + data[start + 50 :])
    assert run(here, tmp_path / "out", broken, "--tile", 64) == 1
    shown = capsys.readouterr()
    assert "broken.tif, page 2: damaged in tile or strip 0" in shown.err and "1 failed" in shown.err
    ids = {
        row["image_id"][-1] for row in json.loads((tmp_path / "out/detections.json").read_text())
    }
    assert ids == {"1", "3"}


def test_without_tifffile(
    here: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain.tif"
    Image.fromarray(photo()[:90, :130]).save(plain)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert run(here, tmp_path / "out", plain, "--tile", 64, "--no-images") == 0
    assert run(here, tmp_path / "out", here / "stäck 1.tif", "--tile", 64) == 2
    assert 'pip install "mlx-rcnn[tiff]"' in capsys.readouterr().err
