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
    wide = list(map(ShapesDataset(6, (64, 96)).__getitem__, range(6)))
    tall = list(map(ShapesDataset(6, (96, 64), seed=1).__getitem__, range(6)))
    data = Given(wide + tall if kind == "mixed" else wide)
    model = tiny.build(min_size=(32, 64))
    config = TrainConfig(rotate90=0.5 if kind == "turned" else 0.0)
    config = prepare_model(model, ShapesDataset(1, (64, 96)).class_names, config)
    # What a step takes whose images are padded to 96 x 96 where there are both kinds.
    whole = tiny.build(min_size=64)
    prepare_model(whole, ShapesDataset(1, (64, 96)).class_names, config)
    batch = [*wide[:4], tall[0]] if kind != "alike" else wide[:5]
    five, four = peak(whole, batch, config), peak(whole, batch[1:], config)
    for room, wanted in (((five + (five - four) / 2), 5), (five - (five - four) / 2, 4)):
        monkeypatch.setattr(batch_size, "machine_memory", lambda room=room: int(room / SHARE))
        found = fitting_batch(model, data, config, mx.distributed.init())
        assert found.images == wanted
        assert found.takes == pytest.approx(five if wanted == 5 else four, rel=0.03)
        assert found.limit == pytest.approx(room, abs=2)
    assert model.config.min_size == (32, 64)


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
