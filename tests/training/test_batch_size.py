"""The batch size that memory allows, against steps of that size; measuring leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.training import TrainConfig, batch_size
from mlx_rcnn.training.batch_size import SHARE, fitting_batch
from mlx_rcnn.training.checkpoint import LAST, read_progress
from mlx_rcnn.training.optimizer import make_optimizer
from mlx_rcnn.training.prepare import prepare_model
from mlx_rcnn.training.step import TrainStep


class Given(list):
    """A data set of these samples."""

    @property
    def sizes(self):
        return np.array([sample.image.shape[:2] for sample in self])


def peak(model, samples, config) -> int:
    """Bytes that a step on all of them takes."""
    batch = type("B", (), {"images": [s.image for s in samples],
                           "targets": [s.target for s in samples]})  # fmt: skip
    take = TrainStep(model, make_optimizer(model, config), config)
    mx.clear_cache()
    mx.reset_peak_memory()
    take([batch], 0, 0.0)
    return mx.get_peak_memory()


@pytest.mark.parametrize("kind", ["alike", "mixed", "turned"])
def test_the_largest_batch_that_fits(monkeypatch, kind):
    """Where a step takes 1000 bytes, and one for each pixel of its padded batch."""
    wide = list(map(ShapesDataset(6, (64, 96)).__getitem__, range(6)))
    tall = list(map(ShapesDataset(6, (96, 64), seed=1).__getitem__, range(6)))
    data = Given(wide + tall if kind == "mixed" else wide)
    model = tiny.build(min_size=(32, 64))
    config = TrainConfig(rotate90=0.5 if kind == "turned" else 0.0)
    config = prepare_model(model, ShapesDataset(1, (64, 96)).class_names, config)

    def takes(model, samples, *_):
        sides = np.array([s.image.shape[:2] for s in samples]).max(axis=0)
        return 1000 + len(samples) * int(sides.prod())

    monkeypatch.setattr(batch_size, "_peak", takes)
    each = 64 * 96 if kind == "alike" else 96 * 96  # padded to what there is of both
    for room, wanted in ((1000 + 5.5 * each, 5), (1000 + 4.5 * each, 4)):
        monkeypatch.setattr(batch_size, "machine_memory", lambda room=room: int(room / SHARE))
        found = fitting_batch(model, data, config, mx.distributed.init())
        assert found.images == wanted
        assert found.takes == pytest.approx(1000 + wanted * each, abs=2)
        assert found.limit == pytest.approx(room, abs=2)
    assert model.config.min_size == (32, 64)


def test_what_two_images_promise_of_five():
    wide = list(map(ShapesDataset(6, (64, 96)).__getitem__, range(6)))
    model = tiny.build(min_size=64)
    config = prepare_model(model, ShapesDataset(1, (64, 96)).class_names, TrainConfig())
    found = fitting_batch(model, Given(wide[:5]), config, mx.distributed.init())
    assert found.images == 5
    # MLX allocates ahead of what it computes, so that the peak of so small a step is a race.
    assert found.takes == pytest.approx(peak(model, wide[:5], config), rel=0.4)


def test_limits(monkeypatch):
    model, data, group = tiny.build(), tiny.shapes(3), mx.distributed.init()
    config = prepare_model(model, data.class_names, tiny.CONFIG)
    assert fitting_batch(model, data, config, group).images == 3  # an epoch is a step at least
    assert fitting_batch(model, data, replace(config, accumulate=2), group).images == 1
    assert fitting_batch(model, tiny.shapes(1), config, group).images == 1
    monkeypatch.setattr(batch_size, "machine_memory", lambda: 1000)
    found = fitting_batch(model, data, config, group)
    assert found.images == 1 and found.takes > found.limit
    # What it takes counts all that the process holds, other tests' arrays too; the text is exact.
    said = "1 image takes about 0.0121 GB, 0.00442 each; 7e-07 GB may be, 70% of the memory"
    assert str(found._replace(takes=12_124_509, each=4_421_537)) == said


def test_a_run_is_that_of_the_number_found_and_keeps_it(tmp_path: Path, monkeypatch, capsys):
    config = replace(tiny.CONFIG, batch_size="auto")

    def arrays(name: str) -> dict:
        files = ("model.safetensors", "state.safetensors")
        return {k: v for f in files for k, v in mx.load(str(tmp_path / name / LAST / f)).items()}

    tiny.train(tmp_path / "auto", replace(config, epochs=1))
    said = capsys.readouterr().err
    assert "batch size: 6 images take about" in said and "the learning rate stays 0.005" in said
    tiny.train(tmp_path / "six", replace(config, epochs=1, batch_size=6))
    assert read_progress(tmp_path / "auto").config["batch_size"] == 6
    auto, six = arrays("auto"), arrays("six")
    assert auto.keys() == six.keys() and all(mx.array_equal(auto[k], six[k]) for k in auto)
    monkeypatch.setattr(batch_size, "machine_memory", lambda: 1000)
    done = tiny.train(tmp_path / "auto", replace(config, epochs=2), resume=True)
    assert (done.step, read_progress(tmp_path / "auto").config["batch_size"]) == (2, 6)


def test_what_is_no_batch_size():
    assert TrainConfig(batch_size="auto").batch_size == "auto"
    with pytest.raises(ValueError, match="'auto': expected to be measured by now"):
        _ = TrainConfig(batch_size="auto").images
    with pytest.raises(TypeError, match="batch_size='all': expected a whole number or 'auto'"):
        TrainConfig(batch_size="all")
