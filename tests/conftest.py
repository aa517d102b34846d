"""Models that several test files share; they are never changed by a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_rcnn
import recipe
import small
from mlx_rcnn import FasterRCNN
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename


@pytest.fixture(scope="session")
def torchvision_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FasterRCNN]:
    """By name: torchvision's network with the recipe's weights, through a file, at 192 and 336."""

    @cache
    def get(name: str) -> FasterRCNN:
        path = tmp_path_factory.mktemp("torchvision") / f"{name}.safetensors"
        state = {key: mx.array(value) for key, value in recipe.state_dict(name).items()}
        mx.save_safetensors(str(path), state)
        model = mlx_rcnn.load(path, min_size=192, max_size=336)
        path.unlink()
        return model

    return get


@pytest.fixture(scope="session")
def small_state() -> Callable[[str], dict[str, mx.array]]:
    """By kind: the recipe's weights of a small model, by torchvision's keys."""
    return cache(lambda kind: small.recipe_state(small.untrained(kind)))


@pytest.fixture(scope="session")
def fresh_model(small_state: Callable[[str], dict[str, mx.array]]) -> Callable[..., FasterRCNN]:
    """By kind and config: a new small model with the recipe's weights, which a test may change."""

    def get(kind: str, **options) -> FasterRCNN:
        model = small.untrained(kind, **options)
        assign(model, rename(small_state(kind), RULES).weights, "the recipe")
        return model.eval()

    return get


@pytest.fixture(scope="session")
def small_model(fresh_model: Callable[..., FasterRCNN]) -> Callable[[str], FasterRCNN]:
    """By kind: a small model with the recipe's weights, not to be changed."""
    return cache(fresh_model)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder that is not kept, as pytest keeps the others: models are large."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def saved(folder: Path, fresh_model: Callable[..., FasterRCNN]) -> Path:
    """A directory with a small Faster R-CNN, written by ``mlx_rcnn.save``."""
    mlx_rcnn.save(fresh_model("faster_rcnn"), folder / "saved")
    return folder / "saved"
