"""The range test: where the good rates are known, and that it leaves a model as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_rcnn.checkpoints.weights import flat_parameters
from mlx_rcnn.training import find_lr
from mlx_rcnn.training.lr_finder import sweep, write_finding
from mlx_rcnn.training.prepare import prepare_model


def valley(curvature: float, noise: float = 0.0, floor: float = 1.0):
    """Gradient descent on floor + curvature / 2 |w|^2 in 10 directions, from |w| = 1 in each.

    It goes down at any rate below 2 / curvature, fastest at 1 / curvature, and up above it.
    """
    w, rng = np.ones(10), np.random.default_rng(0)

    def step(number: int, rate: float) -> float:
        nonlocal w
        loss = floor + curvature / 2 * float(w @ w) + noise * float(rng.normal())
        w = w - rate * curvature * w
        return loss

    return step


@pytest.mark.parametrize("curvature", [0.5, 10.0, 2000.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_suggestion_is_in_the_range_that_is_known(curvature, noise):
    found = sweep(valley(curvature, noise, floor=curvature / 2), 100)
    # Below the limit, and no more than 100 times slower than the best.
    assert 0.01 / curvature < found.suggestion < 2 / curvature
    # Past the limit it goes up a few steps later: each is 17.5 % more than the last.
    if curvature > 1:
        assert found.end == "diverged" and 2 / curvature < found.rates[-1] < 20 / curvature
    assert found.rates[0] == 1e-6
    assert found.rates[1] / found.rates[0] == pytest.approx(1e7 ** (1 / 99))
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 101


def test_smoothing_by_hand():
    found = sweep(lambda number, rate: [4.0, 2.0, 6.0][number % 3], 10, 0.1, 1.0)
    # 0.9 m + 0.1 x from 0, over 1 - 0.9^n: (0.9 * 4 + 2) / 1.9, (0.81 * 4 + 0.9 * 2 + 6) / 2.71
    wanted = [4.0, 5.6 / 1.9, 11.04 / 2.71]
    assert found.smoothed[:3] == pytest.approx(wanted)
    assert found.end == "highest rate" and found.rates[-1] == pytest.approx(1.0)


def test_where_nothing_is_learned_nothing_is_suggested():
    found = sweep(lambda number, rate: 1.0 + number, 50)
    assert (found.suggestion, found.end) == (None, "diverged")
    assert "the loss fell nowhere, no learning rate is suggested" in str(found)
    assert str(sweep(lambda *_: math.nan)).startswith("0 steps (not finite): the loss fell nowhere")
    found = sweep(lambda number, rate: math.nan if number == 30 else 5.0 - number / 10, 50)
    assert found.end == "not finite" and len(found.rates) == 30
    assert found.suggestion == pytest.approx(found.rates[29] / 10)
    for options, said in (
        ({"steps": 9}, "steps=9: expected at least 10"),
        ({"lowest": 0.0}, "expected 0 < lowest < highest"),
        ({"lowest": 1.0, "highest": 0.1}, "expected 0 < lowest < highest"),
    ):
        with pytest.raises(ValueError, match=said):
            sweep(lambda number, rate: 1.0, **options)


def test_a_model_is_left_as_it_was(tmp_path):
    data = tiny.shapes()
    model, other = tiny.build(classes=7), tiny.build(classes=7)
    config = replace(tiny.CONFIG, ema=0.9, accumulate=2, batch_size=1)
    found = find_lr(model, data, config, 12)
    prepare_model(other, data.class_names, config)
    before, after = flat_parameters(other), flat_parameters(model)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[name], after[name]) for name in before)
    assert [mx.array_equal(a, b) for a, b in zip(
        *(sorted_arrays(m.trainable_parameters()) for m in (model, other)), strict=True
    )].count(False) == 0  # fmt: skip
    assert 10 <= len(found.losses) <= 12
    drawn = write_finding(found, config, tmp_path / "new")
    content = json.loads((tmp_path / "new" / "lr_finder.json").read_text())
    assert content["losses"] == found.losses and content["settings"]["accumulate"] == 2
    assert (tmp_path / "new" / "lr_finder.png").exists() == drawn
    # The first loss is that of a run's first step: the same images, the same draws.
    tiny.train(tmp_path / "run", replace(config, epochs=1), "faster_rcnn")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    again = find_lr(tiny.build(), data, config, 10)
    assert again.losses[0] == pytest.approx(line["total_loss"], abs=1e-6)


def sorted_arrays(tree) -> list[mx.array]:
    from mlx.utils import tree_flatten

    return [value for _, value in sorted(tree_flatten(tree))]
