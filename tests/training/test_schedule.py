"""Learning rates, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_rcnn.training.schedule import cosine_factor, learning_rate, step_factor, warmup_factor


def test_warmup_rises_in_a_line_from_a_thousandth():
    # 0.001 + 0.999 * step / 100
    assert warmup_factor(0, 100) == 0.001
    assert warmup_factor(50, 100) == pytest.approx(0.5005)
    assert warmup_factor(99, 100) == pytest.approx(0.99001)
    assert warmup_factor(100, 100) == warmup_factor(10**6, 100) == warmup_factor(0, 0) == 1.0


def test_step_drops_at_its_shares():
    # 75 % and 90 % of 200 steps are 150 and 180.
    at = [step_factor(s, 200, (0.75, 0.9), 0.1) for s in (0, 149, 150, 179, 180, 199)]
    assert at == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine():
    # Steps 10 to 110: a quarter is cos(45 degrees), a half cos(90 degrees).
    assert cosine_factor(0, 110, 10) == cosine_factor(10, 110, 10) == 1
    assert cosine_factor(35, 110, 10) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert cosine_factor(60, 110, 10) == pytest.approx(0.5)
    assert cosine_factor(110, 110, 10) == pytest.approx(0)


def test_warmup_multiplies_the_schedule():
    # Step 50 of 100 warm-up steps: 0.02 * 0.5005; step 160 of 200, behind 75 %: 0.02 * 0.1.
    assert learning_rate(50, 200, 0.02, "step", 100, (0.75,), 0.1) == pytest.approx(0.01001)
    assert learning_rate(160, 200, 0.02, "step", 100, (0.75,), 0.1) == pytest.approx(0.002)
    assert learning_rate(150, 200, 0.02, "cosine", 100, (0.75,), 0.1) == pytest.approx(0.01)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="schedule='line'.*'step' or 'cosine'"):
        learning_rate(0, 1, 0.1, "line", 0, (), 0.1)


@given(st.integers(1, 1000), st.integers(0, 1000), st.sampled_from(["step", "cosine"]))
def test_never_negative_nor_above_the_base(total, warmup, schedule):
    rates = [learning_rate(s, total, 1.0, schedule, warmup, (0.5,), 0.1) for s in range(total)]
    assert all(0 <= rate <= 1 for rate in rates)
    after = rates[warmup:]
    assert after == sorted(after, reverse=True)
