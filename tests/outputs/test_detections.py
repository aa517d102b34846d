"""What predict gives: still arrays by name, and what else it can do."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_rcnn.outputs.detections import Detections

NAMES = ("__background__", "cat", "dog")


def made(masks: bool = False, **more: Any) -> Detections:
    boxes = np.array([[1, 2, 11, 8], [3.5, 0, 9, 9.2], [0, 0, 20, 10]], np.float32)
    arrays = {
        "boxes": boxes,
        "scores": np.array([0.9, 0.8, 0.3], np.float32),
        "labels": np.array([2, 1, 2], np.int32),
    }
    if masks:
        arrays["masks"] = np.zeros((3, 10, 20), bool)
        arrays["masks"][0, 2:8, 1:11] = True
    return Detections(arrays, NAMES, (10, 20), **more)


def image() -> np.ndarray:
    return np.arange(600, dtype=np.uint8).reshape(10, 20, 3)


def test_it_is_still_a_mapping_of_arrays() -> None:
    found = made(masks=True)
    assert isinstance(found, dict) and list(found) == ["boxes", "scores", "labels", "masks"]
    assert found["boxes"].dtype == np.float32 and {**found}.keys() == found.keys()
    assert {name: array.shape for name, array in found.items()}["masks"] == (3, 10, 20)
    with pytest.raises(KeyError, match="have boxes, scores, labels, masks; did you mean 'masks'"):
        found["mask"]
    assert found.get("keypoints") is None and "keypoints" not in found


def test_it_counts_and_selects_detections() -> None:
    found = made()
    assert len(found) == 3 and found and found.names == ["dog", "cat", "dog"]
    assert repr(found) == "Detections(3: 2 dog, 1 cat; best 0.90)"
    dogs = found[found["labels"] == 2]
    assert dogs["scores"].tolist() == pytest.approx([0.9, 0.3]) and dogs.names == ["dog", "dog"]
    assert type(dogs) is Detections and dogs.size == (10, 20)
    assert found[-1]["labels"].tolist() == [2] and len(found[:2]) == 2 and len(found[[]]) == 0
    assert found[[2, 0]]["scores"].tolist() == pytest.approx([0.3, 0.9])
    assert found[np.array([False] * 3)]["boxes"].shape == (0, 4)
    assert not found[:0] and repr(found[:0]) == "Detections(none)" == repr(Detections({}))
    assert repr(made(masks=True)).endswith("best 0.90; masks)")
    assert Detections(dict(found)).names == ["class 2", "class 1", "class 2"]
    for key, kind in ((3, IndexError), ([True], IndexError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(kind):
            found[key]


def test_copies_and_pickles() -> None:
    found = made(image="photo.jpg", style={"skeleton": [(0, 1)]})
    for other in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert type(other) is Detections and other.names == found.names
        assert other.style == found.style and other.image == "photo.jpg"
        np.testing.assert_array_equal(other["boxes"], found["boxes"])
    array = image()
    assert pickle.loads(pickle.dumps(made(image=array))).image is None


def test_an_array_is_not_kept_alive() -> None:
    pixels = image()
    found = made(image=pixels)
    assert found.image is pixels and found[:1].image is pixels
    assert found._repr_png_()
    del pixels
    gc.collect()
    assert found.image is None and found._repr_png_() is None
    with pytest.raises(ValueError, match="give it, as in draw"):
        found.draw()


def test_pictures(tmp_path: Any) -> None:
    Image.fromarray(image()).save(tmp_path / "photo.png")
    found = made(image=str(tmp_path / "photo.png"))
    drawn = found.draw()
    assert drawn.size == (20, 10) and (np.array(drawn) != image()).any()
    png = found._repr_png_()
    assert png and Image.open(io.BytesIO(png)).size == (20, 10)
    assert (np.array(found.draw(score_thresh=1.0)) == image()).all()


def test_crops_are_boxes_rounded_outwards() -> None:
    pixels = image()
    crops = made().crops(pixels)
    assert [c.shape for c in crops] == [(6, 10, 3), (10, 6, 3), (10, 20, 3)]
    np.testing.assert_array_equal(crops[0], pixels[2:8, 1:11])
    thin = Detections(
        {
            "boxes": np.array([[20, 10, 20, 10], [-3, -3, 0.2, 0.2]], np.float32),
            "scores": np.ones(2, np.float32),
            "labels": np.ones(2, np.int32),
        }
    )
    assert [c.shape for c in thin.crops(pixels)] == [(1, 1, 3), (1, 1, 3)]
    assert made().crops(pixels / np.float32(255))[2].dtype == np.uint8


def test_coco_and_raw_masks() -> None:
    entries = made(masks=True).to_coco(7)
    assert [e["image_id"] for e in entries] == [7] * 3 and entries[0]["bbox"] == [1, 2, 10, 6]
    raw = made()
    raw["masks"] = np.zeros((3, 28, 28), np.float32)
    for method in (raw.to_coco,):
        with pytest.raises(ValueError, match="the masks are raw, 28 x 28"):
            method()


def test_pandas() -> None:
    pytest.importorskip("pandas")
    frame = made().to_pandas()
    assert list(frame.columns) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert frame["name"].tolist() == ["dog", "cat", "dog"] and frame["x2"].tolist() == [11, 9, 20]


def test_supervision() -> None:
    pytest.importorskip("supervision")
    found = made(masks=True).to_supervision()
    assert len(found) == 3 and found.mask.shape == (3, 10, 20)
    assert found.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert len(made()[:0].to_supervision()) == 0


def test_fiftyone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for it: it is half a gigabyte."""
    fake = SimpleNamespace(
        Detection=lambda **given: given, Detections=lambda detections: detections
    )
    monkeypatch.setitem(sys.modules, "fiftyone", fake)
    [first, *_] = made(masks=True).to_fiftyone()
    assert first["label"] == "dog" and first["bounding_box"] == pytest.approx([0.05, 0.2, 0.5, 0.6])
    assert first["mask"].shape == (6, 10) and first["mask"].all()
    with pytest.raises(ValueError, match="size of the image is not known"):
        Detections(dict(made())).to_fiftyone()


@pytest.mark.parametrize("name", ["pandas", "supervision", "fiftyone"])
def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"^{name} is not installed: pip install {name}$"):
        getattr(made(), f"to_{name}")()
