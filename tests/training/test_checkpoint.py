"""Checkpoints: whole, atomic, and the same when they come back."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
import tiny
from mlx_rcnn.training import checkpoint
from mlx_rcnn.training.checkpoint import (
    BEST,
    LAST,
    Progress,
    averaged,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from mlx_rcnn.training.config import TrainConfig
from mlx_rcnn.training.optimizer import make_optimizer
from mlx_rcnn.training.step import TrainStep
from tiny import arrays, batches


def trainer(**options) -> TrainStep:
    model = tiny.build()
    config = TrainConfig(**options)
    return TrainStep(model, make_optimizer(model, config), config)


def at(step: int, metric: float | None = None) -> Progress:
    return Progress(step, 0, metric, {"epochs": 1}, ["__background__", "cat"], {"images": 6})


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"optimizer": "adamw"}])
def test_everything_comes_back(tmp_path: Path, options):
    take = trainer(**options)
    take(batches(2), 0, 0.01)
    save_checkpoint(tmp_path, take, at(1, 0.5))
    other = trainer(**options)
    assert load_checkpoint(tmp_path, other) == at(1, 0.5)
    same(arrays(take), arrays(other))
    # And what follows is the same too.
    for one in (take, other):
        one(batches(2), 1, 0.01)
    same(arrays(take), arrays(other))


def test_links_lead_to_models(tmp_path: Path):
    take = trainer(ema=0.5)
    take(batches(2), 0, 0.01)
    save_checkpoint(tmp_path, take, at(1))
    save_checkpoint(tmp_path, take, at(1), BEST)
    for name in (LAST, BEST):
        loaded = mlx_rcnn.load(tmp_path / name)
        with averaged(take) as model:
            expected = {k: np.array(v) for k, v in tree_flatten(model.parameters())}
        same(expected, {k: np.array(v) for k, v in tree_flatten(loaded.parameters())})
    assert not os.path.isabs(os.readlink(tmp_path / LAST))  # the folder may be moved
    assert sorted(p.name for p in (tmp_path / BEST).iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]


def test_old_checkpoints_go(tmp_path: Path):
    take = trainer()
    for step in (0, 1, 1, 2):
        save_checkpoint(tmp_path, take, at(step))
        if step == 1:
            save_checkpoint(tmp_path, take, at(step), BEST)
    (tmp_path / "checkpoints" / ".part-1-step-00000003").mkdir()
    save_checkpoint(tmp_path, take, at(3))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "best-00000001.2"
        if (tmp_path / "checkpoints/best-00000001.2").exists()
        else "best-00000001",
        "step-00000003",
    ]
    assert read_progress(tmp_path).step == 3 and read_progress(tmp_path, BEST).step == 1


FAILING = ["save", "_write_arrays", "_flush", "_link"]


@pytest.mark.parametrize("name", [*FAILING, "os.rename", "os.replace"])
def test_a_failure_anywhere_keeps_the_last_good_one(tmp_path: Path, monkeypatch, name):
    take = trainer()
    save_checkpoint(tmp_path, take, at(0))
    before = arrays(take)
    take(batches(2), 0, 0.01)

    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{checkpoint.__name__}.{name}", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, take, at(1))
    monkeypatch.undo()
    other = trainer()
    assert load_checkpoint(tmp_path, other).step == 0
    same(before, arrays(other))
    save_checkpoint(tmp_path, take, at(1))
    assert read_progress(tmp_path).step == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_full_disk(tmp_path: Path):
    """A limit on the size of files is what a process can have of a full disk."""
    take = trainer()
    save_checkpoint(tmp_path, take, at(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"model\.safetensors"):
            save_checkpoint(tmp_path, take, at(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(tmp_path, trainer()).step == 0
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]


def test_what_is_no_checkpoint(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        read_progress(tmp_path)
    take = trainer()
    path = save_checkpoint(tmp_path, take, at(0))
    with pytest.raises(ValueError, match="average of the weights False, expected True"):
        load_checkpoint(tmp_path, trainer(ema=0.5))
    with pytest.raises(ValueError, match="optimizer's state does not fit"):
        load_checkpoint(tmp_path, trainer(optimizer="adamw"))
    (path / "state.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_checkpoint(tmp_path, take)
    for text in ("{", "[]", json.dumps({"format_version": 9}), json.dumps({"format_version": 1})):
        (path / "training.json").write_text(text)
        with pytest.raises(ValueError, match="no checkpoint of this trainer"):
            read_progress(tmp_path)
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError):
        read_progress(tmp_path)
