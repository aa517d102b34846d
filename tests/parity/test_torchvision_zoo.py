"""Equal to torchvision's v2 and MobileNetV3 models, on the goldens of make_zoo.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_rcnn
import recipe
from mlx_rcnn import FasterRCNN
from recipe import GOLDENS
from small import photo
from stages import (
    BOUNDS,
    LEVELS,
    Stages,
    check_detections,
    check_masks,
    check_proposals,
    check_sample,
    run,
)
from zoo import CASES, PHOTOS

Models = Callable[[str], FasterRCNN]
# Large and slow: Mask R-CNN v2 is checked at every stage, and its network holds the other's.
SLOW = pytest.mark.slow
SLOW_V2 = [pytest.param(n, marks=SLOW if n == "fasterrcnn_resnet50_fpn_v2" else ()) for n in CASES]
SLOW_BOTH = [pytest.param(n, marks=SLOW if "v2" in n else ()) for n in CASES]
WITH_STAGES = [name for name in CASES if name != "fasterrcnn_resnet50_fpn_v2"]


@cache
def golden(name: str) -> Stages:
    """Faster R-CNN v2 is Mask R-CNN v2 without the mask branch."""
    file = name.replace("fasterrcnn_resnet", "maskrcnn_resnet")
    return dict(np.load(GOLDENS / f"zoo_{file}.npz"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By name: torchvision's network with the recipe's weights, loaded from a file of that name."""

    @cache
    def get(name: str) -> FasterRCNN:
        path = tmp_path_factory.mktemp("zoo") / f"{name}.safetensors"
        state = {key: mx.array(value) for key, value in recipe.state_dict(name).items()}
        mx.save_safetensors(str(path), state)
        loaded = mlx_rcnn.load(path, **CASES[name])
        path.unlink()
        return loaded

    return get


@pytest.fixture(scope="module")
def stages(model: Models) -> Callable[[str], Stages]:
    images = [photo(name) for name in PHOTOS]
    return cache(lambda name: run(model(name), images, golden(name)))


def built(name: str) -> FasterRCNN:
    return getattr(mlx_rcnn, name)(**CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_a_file_gives_what_the_builder_builds(model: Models, name: str) -> None:
    loaded, expected = model(name), built(name)
    names = {"class_names": loaded.class_names, "stride_rule": "torchvision"}
    assert loaded.config == type(expected)(expected.config, **names).config
    assert loaded.backbone.config == expected.backbone.config


@pytest.mark.parametrize("name", WITH_STAGES)
@pytest.mark.parametrize("stage", BOUNDS)
def test_stage(stages: Callable[[str], Stages], stage: str, name: str) -> None:
    if stage not in golden(name):
        assert stage.rsplit("_", 1)[-1] in LEVELS[3:] and "mobilenet" in name
        return
    check_sample(stages(name)[stage], golden(name), stage)


@pytest.mark.parametrize("name", WITH_STAGES)
def test_proposals(stages: Callable[[str], Stages], name: str) -> None:
    for image in range(len(PHOTOS)):
        check_proposals(stages(name), golden(name), image)


@pytest.mark.parametrize("name", SLOW_V2)
def test_detections(model: Models, name: str) -> None:
    raw = {"masks": "raw"} if name.startswith("mask") else {}
    images, want = [photo(name) for name in PHOTOS], golden(name)
    thresh = CASES[name].get("box_score_thresh", 0.05)
    results = model(name).predict(images, **raw)
    assert len(want["scores_0"]) >= 40 and len(want["scores_1"]) >= 5
    for i, (found, image) in enumerate(zip(results, images, strict=True)):
        check_detections(found, want, i, image.shape[:2], thresh)
        if raw:
            check_masks(found, want, i)


def test_small_images_have_fewer_proposals() -> None:
    """The two MobileNetV3 models share their weights and differ in numbers alone."""
    large, small = (f"fasterrcnn_mobilenet_v3_large_{kind}fpn" for kind in ("", "320_"))
    assert max(len(golden(small)[f"proposals_{i}"]) for i in (0, 1)) <= 150
    assert max(len(golden(large)[f"proposals_{i}"]) for i in (0, 1)) > 150


@pytest.mark.parametrize("name", SLOW_BOTH)
def test_save_and_load(model: Models, name: str, folder: Path) -> None:
    mlx_rcnn.save(model(name), folder)
    back = mlx_rcnn.load(folder)
    assert back.config == model(name).config and back.backbone.config == model(name).backbone.config
    image = photo("stop.jpg")
    [a], [b] = model(name).predict(image), back.predict(image)
    assert all(np.array_equal(a[key], b[key]) for key in a)
