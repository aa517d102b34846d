"""Levels: which values are black and white, the same whole and by windows, and kept by a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import mlx_rcnn
from mlx_rcnn import load_image
from mlx_rcnn.cli.main import main
from mlx_rcnn.config.levels import Levels, read_levels
from mlx_rcnn.data import open_dataset
from mlx_rcnn.inputs import levels as levels_module
from mlx_rcnn.inputs.pixels import ImageError
from mlx_rcnn.inputs.tiff import TiffImage
from small import photo, untrained

GREY = np.random.default_rng(0).integers(100, 4000, (60, 90))


def by_hand(values: np.ndarray, low: float, high: float) -> np.ndarray:
    values = values.astype(float)
    rows = [[min(max((v - low) / (high - low), 0), 1) * 255 for v in row] for row in values]
    return np.repeat(np.rint(np.array(rows))[..., None], 3, axis=2).astype(np.uint8)


def test_reading() -> None:
    assert read_levels("200:3000") == Levels(200, 3000)
    assert read_levels("-1000:3e3") == Levels(-1000, 3000)
    assert read_levels("1%:99.5%") == Levels(1, 99.5, True)
    assert read_levels("auto") == Levels(0.1, 99.9, True)
    for wrong in ("", "5", "5:5", "9:1", "1:2:3", "1%:2", "1:x", "-1%:50%", "1%:101%", "0:inf"):
        with pytest.raises(ValueError, match="expected LOW:HIGH"):
            read_levels(wrong)


@pytest.mark.parametrize("kind", ["uint16", "float32", "int16"])
@pytest.mark.parametrize("text", ["200:3000", "5%:90%", "auto"])
def test_files_whole_and_by_windows(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / "a.tif"
    values = (GREY - (500 if kind != "uint16" else 0)).astype(kind)
    tifffile.imwrite(path, values, tile=(16, 32))
    given = read_levels(text)
    low, high = given.low, given.high
    if given.percent:
        low, high = np.percentile(values.astype(float), [low, high])
    expected = by_hand(values, low, high)
    np.testing.assert_array_equal(load_image(path, text), expected)
    with TiffImage(path, levels=text) as image:
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image[0:60, 0:90], expected)
        np.testing.assert_array_equal(image[7:30, 5:80], expected[7:30, 5:80])


def test_percentiles_of_a_sample_are_the_same_by_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels_module, "SAMPLED", 500)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY.astype(np.uint16), tile=(16, 32))
    expected = by_hand(GREY, *np.percentile(GREY[::4, ::4], [1, 99]))
    np.testing.assert_array_equal(load_image(path, "1%:99%"), expected)
    np.testing.assert_array_equal(TiffImage(path, levels="1%:99%")[0:60, 0:90], expected)


def test_what_levels_do_not_touch(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo()).save(path)
    np.testing.assert_array_equal(load_image(path, "20:30"), photo())
    np.testing.assert_array_equal(load_image(photo(), "20:30"), photo())
    flat = tmp_path / "flat.tif"
    tifffile.imwrite(flat, np.full((40, 40), 700, np.uint16))
    assert not load_image(flat, "auto").any()


def test_colours_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2).astype(np.uint16)
    tifffile.imwrite(path, values, photometric="rgb", tile=(16, 16))
    expected = np.stack([by_hand(values[..., c], 200, 3000)[..., 0] for c in range(3)], axis=2)
    with TiffImage(path, levels="200:3000") as image:
        np.testing.assert_array_equal(image[0:60, 0:90], expected)
    with pytest.raises(ImageError, match="levels expect grey, or a TIFF read by windows"):
        load_image(path, "200:3000")
    bad = tmp_path / "nan.tif"
    tifffile.imwrite(bad, np.full((30, 30), np.nan, np.float32))
    with pytest.raises(ImageError, match="NaN"):
        load_image(bad, "0:1")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A model with levels, one without, and a data set of one picture of 16 bits."""
    model = untrained("faster_rcnn", 2, class_names=("__background__", "spot"))
    for name, text in (("levels", "300:3500"), ("plain", None)):
        model.config = replace(model.config, image_levels=text)
        mlx_rcnn.save(model, tmp_path / name)
    (tmp_path / "data").mkdir()
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / "data/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 60}],
        "categories": [{"id": 1, "name": "spot"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30], "area": 900}
        ],
    }
    (tmp_path / "data/train.json").write_text(json.dumps(content))
    return tmp_path


def test_a_model_keeps_its_levels(here: Path) -> None:
    model: Any = mlx_rcnn.load(here / "levels")
    assert model.config.image_levels == "300:3500"
    path, expected = here / "data/a.png", by_hand(GREY, 300, 3500)
    [ours], [theirs] = model.predict(path), model.predict(expected)
    np.testing.assert_array_equal(ours["boxes"], theirs["boxes"])
    with pytest.raises(ValueError, match="image_levels.*expected LOW:HIGH"):
        mlx_rcnn.load(here / "plain", image_levels="9:1")
    dataset = open_dataset(here / "data/train.json", levels="300:3500")
    np.testing.assert_array_equal(dataset[0].image, expected)


@pytest.mark.parametrize("tile", [[], ["--tile", 64]])
def test_the_flag_is_the_field(here: Path, tile: list[Any]) -> None:
    found = []
    for i, words in enumerate((["levels"], ["plain", "--levels", "300:3500"])):
        out = here / f"out{i}"
        model, *flags = [here / words[0], *words[1:]]
        given = ["predict", here / "data/a.png", "--model", model, *flags, "--out", out, *tile]
        assert main([str(word) for word in given]) == 0
        found.append((out / "detections.json").read_text())
    assert found[0] == found[1]


def test_wrong_levels_are_one_line(here: Path, capsys: Any) -> None:
    given = ["predict", here / "data/a.png", "--model", here / "plain", "--levels", "7"]
    assert main([str(word) for word in given]) == 2
    assert "--levels: '7' given, expected LOW:HIGH such as 200:3000" in capsys.readouterr().err


def test_data_draw_takes_them(here: Path) -> None:
    sheets = []
    for words in ([], ["--levels", "0:100"]):
        sheet = here / "sheet.png"
        given = ["data", "draw", here / "data/train.json", "--out", sheet, *words]
        assert main([str(word) for word in given]) == 0
        sheets.append(np.array(Image.open(sheet)).mean())
    assert sheets[1] > sheets[0] + 20  # all is white


@pytest.fixture
def below_zero(here: Path) -> Path:
    """Data of which one of two images has floats below 0, as Hounsfield units."""
    file = here / "data/train.json"
    content = json.loads(file.read_text())
    [image], [first, *_] = content["images"], content["annotations"]
    tifffile.imwrite(here / "data/ct.tif", (GREY - 500).astype(np.float32))
    content["images"].append({**image, "id": 2, "file_name": "ct.tif"})
    content["annotations"].append({**first, "id": 99, "image_id": 2})
    file.write_text(json.dumps(content))
    return file


def test_data_below_zero_needs_levels(below_zero: Path, capsys: Any) -> None:
    plain = open_dataset(below_zero)
    [defect] = plain.defects
    assert len(plain) == 1 and "floats from -400" in str(defect)
    assert str(defect).endswith("say by levels which are black and white (image dropped)")
    dataset = open_dataset(below_zero, levels="-400:3000", strict=True)
    np.testing.assert_array_equal(dataset[1].image, by_hand(GREY - 500, -400, 3000))
    assert len(dataset.with_levels(None)) == 1 and len(dataset.with_levels("auto")) == 2
    for words, code in ([], 1), (["--levels", "-400:3000"], 0):
        assert main(["data", "check", str(below_zero), *words]) == code
        assert f"{2 - code} image" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["levels"], ["plain", "--levels", "-400:3000"], ["plain"]])
def test_evaluate_reads_by_the_models_levels(
    here: Path, below_zero: Path, capsys: Any, words: list[str]
) -> None:
    model, *flags = words
    command = ["evaluate", "--data", str(below_zero), "--model", str(here / model), *flags]
    by_levels = words != ["plain"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert f"{1 + by_levels} image" in out and ("floats from -400" in err) != by_levels
    assert main([*command, "--strict"]) == (0 if by_levels else 2)
