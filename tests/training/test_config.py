"""The settings of a run."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from mlx_rcnn.training.config import TrainConfig, changes, from_json


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("batch_size", 0, "batch_size=0: expected a number at least 1"),
        ("epochs", 1.5, "epochs=1.5: expected a whole number"),
        ("epochs", True, "epochs=True: expected a whole number"),
        ("lr", float("nan"), "lr=nan: expected a number at least 0"),
        ("lr", "fast", "lr='fast': expected a number"),
        ("ema", 1, "ema=1: expected a number below 1"),
        ("hflip", 1.5, "hflip=1.5: expected a number from 0 to 1"),
        ("freeze", 7, "freeze=7: expected a number from 0 to 6"),
        ("min_size", (), r"min_size=\(\): expected one number or more"),
        ("min_size", (320, 0), "min_size=0: expected a number at least 1"),
        ("drops", (0.5, 2), "drops=2: expected a number from 0 to 1"),
        ("scale_jitter", (0.5,), r"scale_jitter=\(0.5,\): expected two factors"),
        ("scale_jitter", (2.0, 0.5), "expected two factors, 0 < low <= high"),
        ("colour_jitter", -1, "colour_jitter=-1: expected a number from 0 to 1"),
        ("schedule", "line", "schedule='line': expected one of"),
        ("dtype", "float16", "dtype='float16': expected one of"),
    ],
)
def test_rules(name, value, error):
    with pytest.raises((ValueError, TypeError), match=error):
        TrainConfig(**{name: value})


def test_one_number_stands_for_a_tuple():
    assert TrainConfig(min_size=320).min_size == (320,)
    assert TrainConfig(drops=[0.5, 0.75]).drops == (0.5, 0.75)


def test_json_and_back():
    config = TrainConfig(min_size=(320, 480), ema=0.9)
    assert from_json(asdict(config)) == config
    with pytest.raises(TypeError, match="no field 'epoch'; did you mean 'epochs'"):
        from_json({"epoch": 3})


def test_changes():
    config = TrainConfig()
    assert changes(config, replace(config, workers=7, checkpoint_steps=3, epochs=30)) == []
    assert changes(config, replace(config, lr=1.0)) == ["lr: 0.005, now 1.0"]
