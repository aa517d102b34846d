"""Equal to detectron2 and mmdetection, stage by stage and end to end, through a checkpoint file.

The goldens are cut from those libraries' own outputs (``tests/goldens/crop_libraries.py``);
``benchmarks/parity_golden.py`` runs the whole ones, with photos at full size.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import mlx_rcnn
from library_goldens import compare, detection_rows, found_mask_rows
from library_recipe import blobs, library_state
from mlx_rcnn import FasterRCNN, MaskRCNN
from mlx_rcnn.config.categories import COCO_80
from mlx_rcnn.ops import resize_opencv, resize_pillow
from recipe import GOLDENS

LIBRARIES = ("detectron2", "mmdet")
CASES = [f"{library}_{kind}" for library in LIBRARIES for kind in ("faster", "mask")]
Models = Callable[[str], FasterRCNN]


@cache
def golden(case: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDENS / f"{case}_blobs.npz"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By case: the library's network with the recipe's weights, through a file as it writes it."""

    @cache
    def get(case: str) -> FasterRCNN:
        library, kind = case.split("_")
        state = library_state(library, kind)
        if library == "detectron2":
            content = {"model": state, "__author__": "test", "matching_heuristics": True}
        else:
            content = {"meta": {"epoch": 12}, "state_dict": state}
        path = tmp_path_factory.mktemp(case) / ("x.pkl" if library == "detectron2" else "x.pth")
        path.write_bytes(pickle.dumps(content, 2))
        model = mlx_rcnn.load(path, min_size=320, class_names="coco")
        path.unlink()
        return model

    return get


@pytest.mark.parametrize("case", CASES)
def test_every_stage(models: Models, case: str) -> None:
    if case.endswith("mask"):
        rows = compare(models(case), golden(case), blobs())
        assert len(rows) == 27
    else:  # all but the last stage are the Mask R-CNN's
        rows = detection_rows(models(case).predict(blobs())[0], golden(case))
    assert [row for row in rows if not row.within] == []


@pytest.mark.parametrize("case", CASES)
def test_what_was_built(models: Models, case: str) -> None:
    model = models(case)
    assert type(model) is (MaskRCNN if case.endswith("mask") else FasterRCNN)
    assert model.class_names == COCO_80 and model.config.num_classes == 81
    assert model.source is not None and "ResNet-50 and FPN, 80 classes" in model.source
    net = model.backbone.config
    assert (net.norm, net.norm_eps, net.num_classes) == ("frozen", 1e-5, 0)
    assert net.stride_in_1x1 == (case.startswith("detectron2"))


def test_the_image_is_the_goldens() -> None:
    resized = {"detectron2": resize_pillow, "mmdet": resize_opencv}
    for library in LIBRARIES:
        want = golden(f"{library}_mask")
        image = blobs()
        assert hashlib.sha256(image.tobytes()).hexdigest() == str(want["orig_rgb_sha256"])
        size = tuple(int(n) for n in want["resized_hw"])
        image = resized[library](image, size)
        assert hashlib.sha256(image.tobytes()).hexdigest() == str(want["resized_rgb_sha256"])


MUTATIONS = {
    "resize_rule": ("pillow", "opencv"),
    "anchor_offset": (0.0, 0.5),
    "roi_aligned": (True, False),
    "roi_sampling_ratio": (0, 2),
}


@pytest.mark.parametrize("field", MUTATIONS)
def test_the_comparison_can_fail(models: Models, field: str) -> None:
    """A single rule of torchvision's or mmdetection's in detectron2's model shows."""
    model = models("detectron2_faster")
    right, wrong = MUTATIONS[field]
    assert getattr(model.config, field) == right
    other = FasterRCNN(replace(model.config, backbone=model.backbone, **{field: wrong}))
    other.update(model.parameters())
    rows = compare(other, golden("detectron2_faster"), blobs())
    assert any(not row.within for row in rows)


def test_detections_are_matched_by_class_and_box(models: Models) -> None:
    found = models("mmdet_mask").predict(blobs(), masks="raw")[0]
    want = golden("mmdet_mask")

    def failures(**changed) -> list[str]:
        altered = {**found, **changed}
        rows = detection_rows(altered, want) + found_mask_rows(altered, want)
        return [row.stage for row in rows if not row.within]

    assert failures() == []
    assert failures(labels=found["labels"] + 1)
    assert failures(boxes=found["boxes"] + 0.6)
    assert failures(scores=found["scores"] + 0.003) == ["detections, scores"]
    assert failures(masks=found["masks"][::-1])
    assert failures(**{k: v[3:] for k, v in found.items()})
