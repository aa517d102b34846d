"""One step: keys, accumulation, precision, and steps that fail."""

from __future__ import annotations

import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tiny
from mlx_rcnn.training.config import TrainConfig
from mlx_rcnn.training.optimizer import make_optimizer, optimizer_arrays
from mlx_rcnn.training.step import TrainStep, step_key
from tiny import arrays, batches

# With every candidate sampled nothing is random, and counts are alike in all images.
EXACT = {"dropout": 0.0, "rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**6}


def taker(model, **options) -> TrainStep:
    config = TrainConfig(**options)
    return TrainStep(model, make_optimizer(model, config), config)


def test_keys_differ_in_each_argument_and_repeat():
    same = step_key(1, 2, 3, 4)
    assert mx.array_equal(same, step_key(1, 2, 3, 4)).item()
    others = [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (2, 1, 3, 4)]
    assert all(not mx.array_equal(same, step_key(*other)).item() for other in others)


def test_two_accumulated_batches_of_one_are_one_of_two():
    image = tiny.shapes()[1]
    one = SimpleNamespace(images=[image.image], targets=[image.target])
    two = SimpleNamespace(images=[image.image] * 2, targets=[image.target] * 2)
    results, states = [], []
    for chosen in ([one, one], [two]):
        take = taker(tiny.build(**EXACT))
        results.append(take(chosen, 0, 0.1))
        states.append(arrays(take))
    assert results[0].norm == pytest.approx(results[1].norm, rel=1e-4)
    for name in states[0]:
        np.testing.assert_allclose(states[0][name], states[1][name], rtol=1e-3, atol=1e-5)


def test_a_step_moves_what_learns_and_reports_losses():
    model = tiny.build("mask_rcnn")
    take = taker(model, ema=0.9)
    before = arrays(take)
    result = take(batches(2), 0, 0.1)
    after = arrays(take)
    assert result.finite and not result.stop and result.suspects == []
    parts = [v for k, v in result.losses.items() if k != "total_loss"]
    assert len(parts) == 5 and sum(parts) == pytest.approx(result.losses["total_loss"], rel=1e-5)
    assert any((before[k] != after[k]).any() for k in before if k.startswith("roi_heads"))
    # The average's decay at step 0 is 1/10, so that it follows at once: 0.1 old + 0.9 new.
    name = "roi_heads.box_predictor.cls_score.weight"
    expected = 0.1 * before[name] + 0.9 * after[name]
    np.testing.assert_allclose(after[f"average.{name}"], expected, rtol=1e-5, atol=1e-7)


def test_losses_are_read_at_one_place(monkeypatch):
    """The step itself evaluates once; get_loss alone looks at its proposals."""
    take = taker(tiny.build())
    count = [0]
    real = mx.eval

    def counted(*args):
        count[0] += 1
        real(*args)

    monkeypatch.setattr(mx, "eval", counted)
    take(batches(1), 0, 0.1)
    assert count[0] == 1


@pytest.mark.parametrize("norm", ["group", "batch", "frozen"])
def test_half_precision_keeps_the_weights_float32(norm):
    model = tiny.build(norm=norm, dropout=0.0)
    exact = taker(tiny.build(norm=norm, dropout=0.0))
    take = taker(model, dtype="bfloat16")
    used = []
    get_loss = model.get_loss

    def watched(*args, **options):
        used.append(
            {
                v.dtype
                for k, v in tree_flatten(model.parameters())
                if "bn" not in k and "downsample.1" not in k
            }
        )
        return get_loss(*args, **options)

    object.__setattr__(model, "get_loss", watched)
    model.train()
    [batch] = batches(2)
    result = take([batch], 0, 0.01)
    assert used == [{mx.bfloat16}]
    assert {v.dtype for _, v in tree_flatten(model.parameters())} == {mx.float32}
    assert {v.dtype for k, v in optimizer_arrays(take.optimizer).items() if k.endswith(".v")} == {
        mx.float32
    }
    other = exact([batch], 0, 0.01)
    assert result.losses["total_loss"] == pytest.approx(other.losses["total_loss"], rel=0.05)
    moved = arrays(take)["backbone.net.layer1.0.conv1.weight"]
    start = np.array(
        dict(tree_flatten(tiny.build(norm=norm).parameters()))["backbone.net.layer1.0.conv1.weight"]
    )
    assert 0 < np.abs(moved - start).max() < 0.05
    if norm == "batch":  # running statistics go on
        assert arrays(take)["backbone.net.bn1.running_mean"].any()


def test_a_step_that_is_not_finite_is_not_taken():
    model = tiny.build(norm="batch")
    model.train()
    take = taker(model, ema=0.5)
    take(batches(2), 0, 0.1)
    before = arrays(take)
    good, bad = batches(2, 2)
    tiny.poison(model, bad.images)
    result = take([good, bad], 1, 0.1)
    assert not result.finite and result.suspects == [1]
    assert math.isnan(result.norm)
    after = arrays(take)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert take([good], 1, 0.1).finite


def test_a_step_that_raises_is_not_taken():
    take = taker(tiny.build(), dtype="bfloat16")
    before = arrays(take)
    good, bad = batches(2, 2)
    bad.targets[1]["boxes"][0] = [5, 5, 5, 9]
    with pytest.raises(ValueError, match=r"targets\[1\], box 0.*no area"):
        take([good, bad], 0, 0.1)
    after = arrays(take)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_few_padded_sizes(monkeypatch):
    model, asked = tiny.build(), []  # a network of multiples of 32
    get_loss = type(model).get_loss

    def spy(self, *args, **more):
        asked.append(more["size_divisible"])
        return get_loss(self, *args, **more)

    monkeypatch.setattr(type(model), "get_loss", spy)
    for wanted in ({}, {"size_divisible": 1}, {"size_divisible": 48}):
        taker(model, **wanted)(batches(1), 0, 0.1)
    assert asked == [64, 32, 96]
