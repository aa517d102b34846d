"""Equal to torchvision, stage by stage and end to end, on the goldens of make_torchvision.py.

`benchmarks/parity.py` runs each stage on torchvision's own inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from mlx_rcnn import FasterRCNN
from recipe import GOLDENS
from small import photo
from stages import (
    BOUNDS,
    Stages,
    check_detections,
    check_masks,
    check_proposals,
    check_sample,
    run,
)

NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
PHOTOS = {"one": ("deck.jpg",), "three": ("deck.jpg", "stop.jpg", "dogs.jpg")}
ODD = ((1, 1), (4000, 30), (30, 4000), (97, 61))  # as make_torchvision.py
Models = Callable[[str], FasterRCNN]


@cache
def golden(case: str) -> Stages:
    if "x" not in case:
        return dict(np.load(GOLDENS / f"torchvision_{case}.npz"))
    odd = np.load(GOLDENS / "torchvision_odd.npz")
    return {k.removeprefix(f"{case}_"): odd[k] for k in odd.files if k.startswith(f"{case}_")}


def images_of(case: str) -> list[np.ndarray]:
    if "x" not in case:
        return [photo(name) for name in PHOTOS[case]]
    size = tuple(int(n) for n in case.split("x"))
    noise = np.random.default_rng(ODD.index(size)).integers(0, 256, (*size, 3))
    return [noise.astype(np.uint8)]


@pytest.fixture(scope="module")
def stages(torchvision_model: Models) -> Callable[[str], Stages]:
    model = torchvision_model("maskrcnn_resnet50_fpn")
    return cache(lambda case: run(model, images_of(case), golden(case)))


@pytest.mark.parametrize("case", PHOTOS)
@pytest.mark.parametrize("stage", BOUNDS)
def test_stage(stages, stage: str, case: str) -> None:
    check_sample(stages(case)[stage], golden(case), stage)


@pytest.mark.parametrize("case", PHOTOS)
def test_proposals(stages, case: str) -> None:
    for image in range(len(PHOTOS[case])):
        check_proposals(stages(case), golden(case), image)


@pytest.mark.parametrize("case", PHOTOS)
@pytest.mark.parametrize("name", NAMES)
def test_detections(torchvision_model: Models, name: str, case: str) -> None:
    raw = {"masks": "raw"} if name.startswith("mask") else {}
    images, want = images_of(case), golden(case)
    results = torchvision_model(name).predict(images, **raw)
    assert len(results) == len(images)
    for i, (found, image) in enumerate(zip(results, images, strict=True)):
        assert len(want[f"scores_{i}"]) >= 30  # the goldens are not trivial
        check_detections(found, want, i, image.shape[:2])
        if raw:
            check_masks(found, want, i)


@pytest.mark.parametrize("case", [f"{h}x{w}" for h, w in ODD])
def test_odd_sizes(torchvision_model: Models, stages, case: str) -> None:
    got, want = stages(case), golden(case)
    for stage in ("input", "roi_features", "cls_logits"):
        check_sample(got[stage], want, stage)
    if case != "1x1":  # one colour: anchors tie, and rounding decides which survive
        check_proposals(got, want, 0)
    images = images_of(case)
    found = torchvision_model("maskrcnn_resnet50_fpn").predict(images, masks="raw")[0]
    check_detections(found, want, 0, images[0].shape[:2])
    check_masks(found, want, 0)


def test_the_checks_can_fail(stages) -> None:
    """A network one level of grey, one RoI level or one class off does not pass."""
    want = golden("one")
    with pytest.raises(AssertionError):
        check_sample(stages("one")["input"] + 1 / 255, want, "input")
    found = {key: want[f"{key}_0"] for key in ("boxes", "scores", "labels")}
    check_detections(found, want, 0, (220, 330))
    for changed in ({"labels": found["labels"] + 1}, {"boxes": found["boxes"] + 0.6}):
        with pytest.raises(AssertionError):
            check_detections({**found, **changed}, want, 0, (220, 330))
    with pytest.raises(AssertionError):
        check_detections({k: v[:-4] for k, v in found.items()}, want, 0, (220, 330))
