"""The model as SAHI takes it: over a small stand-in of its classes, and over SAHI where it is."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mlx_rcnn import Tiles, predict_tiled
from mlx_rcnn.outputs.sahi import sahi_model
from small import photo, untrained

NAMES = ("__background__", "ant", "bee", "cat", "dog")


class Base:
    """What of SAHI 0.12's base class an adapter leans on."""

    def __init__(self, model: Any = None, confidence_threshold: float = 0.3, **rest: Any) -> None:
        self.confidence_threshold, self.rest = confidence_threshold, rest
        self.set_device(rest.get("device"))
        if rest.get("load_at_init", True):
            self.set_model(model)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (
        ("sahi", {}),
        ("sahi.models", {}),
        ("sahi.utils", {}),
        ("sahi.models.base", {"DetectionModel": Base}),
        ("sahi.prediction", {"ObjectPrediction": dict}),
        ("sahi.utils.cv", {"get_coco_segmentation_from_bool_mask": lambda mask: [mask.sum()]}),
    ):
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)


def test_what_sahi_asks_for(stand_in: None) -> None:
    model = untrained("mask_rcnn", class_names=NAMES, box_detections_per_img=5)
    images = [photo()[:90, :120], photo("stop.jpg")[:80, :100]]
    adapter = sahi_model(model, 0.05, image_size=64)
    assert isinstance(adapter, Base) and adapter.rest["image_size"] == 64
    assert adapter.category_mapping == {"1": "ant", "2": "bee", "3": "cat", "4": "dog"}
    assert adapter.num_categories == 4 and adapter.has_mask and adapter.category_names[0] == "ant"
    adapter.perform_batch_inference(images)
    adapter._create_object_prediction_list_from_original_predictions(
        [[0, 0], [7, 9]], [[200, 300], [200, 300]]
    )
    rows = adapter._object_prediction_list_per_image
    expected = model.predict(images, score_thresh=0.05)
    assert [len(one) for one in rows] == [len(one) for one in expected] == [5, 5]
    for one, found, shift in zip(rows, expected, ([0, 0], [7, 9]), strict=True):
        for i, row in enumerate(one):
            assert row["bbox"] == found["boxes"][i].tolist()
            assert row["category_name"] == NAMES[row["category_id"]] == found.names[i]
            assert row["score"] == found["scores"][i] and row["shift_amount"] == shift
            area = found["masks"][i].sum()
            assert row["segmentation"] == [area] and row["full_shape"] == [200, 300]
    adapter.perform_inference(images[0])
    adapter._create_object_prediction_list_from_original_predictions([3, 4])
    [one] = adapter._object_prediction_list_per_image
    assert len(one) == 5 and one[0]["shift_amount"] == [3, 4] and one[0]["full_shape"] is None


def test_what_cannot_be(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a FastRCNN needs proposals"):
        sahi_model(untrained("fast_rcnn"))
    nameless = sahi_model(untrained("faster_rcnn"))
    assert nameless.category_names == ["class 1", "class 2", "class 3", "class 4"]
    assert not nameless.has_mask
    monkeypatch.setitem(sys.modules, "sahi.models.base", None)
    with pytest.raises(ImportError, match="pip install sahi"):
        sahi_model(untrained("faster_rcnn"))


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_sahi_itself(kind: str) -> None:
    """Slices that do not overlap, and no merging to speak of: what ``predict_tiled`` gives."""
    sahi = pytest.importorskip("sahi.predict", reason="SAHI, an optional library, is not installed")
    model = untrained(kind, class_names=NAMES, box_detections_per_img=6)
    image = np.ascontiguousarray(photo()[:192, :288])
    adapter = sahi_model(model, confidence_threshold=0.2)
    for batch in (1, 4):
        result = sahi.get_sliced_prediction(
            image, adapter, 96, 96, 0, 0, False, "NMS", "IOU", 0.999, verbose=0, batch_size=batch
        )
        rows = result.object_prediction_list
        tiles = Tiles(96, 0.0, whole=False)
        [found] = predict_tiled(model, image, tiles, score_thresh=0.2)
        assert len(rows) >= len(found) > 6  # cut boxes go from ours
        # SAHI takes the box of an object with a mask from its outline.
        boxed = kind == "faster_rcnn"
        theirs = {
            (r.category.name, *np.round([r.score.value, *r.bbox.to_xyxy()][: 1 + 4 * boxed], 1))
            for r in rows
        }
        own = {
            (name, *np.round([score, *box][: 1 + 4 * boxed], 1))
            for name, score, box in zip(
                found.names, found["scores"].tolist(), found["boxes"].tolist(), strict=True
            )
        }
        assert own <= theirs
        assert all((row.mask is not None) == (kind == "mask_rcnn") for row in rows)
