"""What is chosen to fit the memory: as many images in a step, and the rest by rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import tiny
from mlx_rcnn.training import TrainConfig, fit_memory
from mlx_rcnn.training.batch_size import Cost, cost_of_step
from mlx_rcnn.training.checkpoint import Progress, read_progress
from mlx_rcnn.training.fit_memory import measured
from mlx_rcnn.training.prepare import prepare_model
from mlx_rcnn.training.run_folder import check_resume
from mlx_rcnn.training.trainer import fit

GB = 10**9
KEPT, AGAIN = Cost(2 * GB, 3 * GB, GB), Cost(int(1.5 * GB), 2 * GB, GB / 2)


def choose(monkeypatch, memory: float, norm: str = "group", **given):
    """The settings for so many GB, of a step that takes ``KEPT``, or ``AGAIN`` recomputed."""
    model = tiny.build(norm=norm)
    config = TrainConfig(fit_memory=True, memory=memory, **{"batch_size": 8, "freeze": 0, **given})
    monkeypatch.setattr(
        fit_memory, "cost_of_step", lambda m, t, c, g: AGAIN if c.recompute else KEPT
    )
    prepare_model(model, tiny.shapes().class_names, config)
    found = measured(model, tiny.shapes(), config, mx.distributed.init())
    assert not found.fit_memory and found.memory == 0
    return found.batch_size, found.accumulate, found.recompute


def test_the_rule(monkeypatch, capsys) -> None:
    assert choose(monkeypatch, 9.0) == (8, 1, False)
    said = capsys.readouterr().err
    assert (
        said
        == "memory: 8 x 1 images a step, takes about 9 GB; 9 GB may be, as stated; as asked for\n"
    )
    assert choose(monkeypatch, 8.9) == (4, 2, False)  # 5 GB and the gradients
    assert capsys.readouterr().err == (
        "memory: 4 x 2 images a step, takes about 5 GB; 8.9 GB may be, as stated; 8 x 1 as asked "
        "for would take 9 GB\n"
    )
    assert choose(monkeypatch, 2.1) == (1, 8, False)
    assert choose(monkeypatch, 1.9) == (1, 8, True)
    assert "stages recomputed" in capsys.readouterr().err
    assert choose(monkeypatch, 5.5, batch_size=6, accumulate=2) == (4, 3, False)
    assert choose(monkeypatch, 3.5, batch_size=6, accumulate=2) == (2, 6, False)
    assert choose(monkeypatch, 4.0, recompute=True) == (4, 2, True)
    # Batch norms follow what is computed at once, so that there recomputation comes first.
    assert choose(monkeypatch, 8.9, norm="batch") == (8, 1, True)
    assert choose(monkeypatch, 3.5, norm="batch") == (4, 2, True)
    assert choose(monkeypatch, 8.9, norm="frozen") == (4, 2, False)


def test_too_little(monkeypatch) -> None:
    with pytest.raises(ValueError) as error:
        choose(monkeypatch, 1.4)
    assert str(error.value) == (
        "fit_memory: a step on one image takes 1.5 GB with recomputation; 1.4 GB may be, as "
        "stated: expected a smaller min_size, or more memory"
    )
    with pytest.raises(ValueError, match="takes 2 GB; 1.4 GB may be"):
        monkeypatch.setattr(fit_memory, "stages", lambda model: None)
        choose(monkeypatch, 1.4)


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="batch_size='auto': expected a number, which fit_memory"):
        TrainConfig(fit_memory=True, batch_size="auto")
    with pytest.raises(ValueError, match="memory=-1: expected a number at least 0"):
        TrainConfig(memory=-1)
    with pytest.raises(ValueError, match="memory=3: expected fit_memory, or batch_size='auto'"):
        measured(None, None, TrainConfig(memory=3.0), mx.distributed.init())


def test_measuring_leaves_no_trace() -> None:
    model, data = tiny.build(norm="batch"), tiny.shapes()
    config = prepare_model(model, data.class_names, replace(tiny.CONFIG, recompute=True))
    before = dict(tree_flatten(model.parameters()))
    cost = cost_of_step(model, data, config, mx.distributed.init())
    assert 0 < cost.one < cost.two
    after = dict(tree_flatten(model.parameters()))
    assert all(mx.array_equal(before[k], after[k]) for k in before)


def test_a_run_records_what_was_chosen(tmp_path: Path, capsys) -> None:
    config = replace(tiny.CONFIG, batch_size=2, fit_memory=True, epochs=1)
    fit(tiny.build(), tiny.shapes(), None, config, tmp_path)
    assert "memory: 2 x 1 images a step, takes about" in capsys.readouterr().err
    recorded = read_progress(tmp_path).config
    assert (recorded["batch_size"], recorded["fit_memory"]) == (2, False)


def test_resuming_takes_what_was_chosen() -> None:
    old = TrainConfig(batch_size=2, accumulate=4, recompute=True)
    progress = Progress(1, 0, None, vars(old), ["__background__", "a"], {})

    def resumed(**given) -> TrainConfig:
        return check_resume(progress, progress.class_names, TrainConfig(**given), {})

    again = resumed(batch_size=8, fit_memory=True, memory=3.0)
    assert again == old
    with pytest.raises(ValueError, match="cannot resume.*batch_size: 2, now 6"):
        resumed(batch_size=6, fit_memory=True)


def test_machines_that_resume_take_the_first_s(monkeypatch) -> None:
    """A first machine that knows its numbers from the record measures nothing; no other may."""
    group = SimpleNamespace(size=lambda: 2, rank=lambda: 1)
    first = iter([0, 2, 4, 1])  # nothing to measure; images, accumulate, recompute
    monkeypatch.setattr(fit_memory, "number_of_first", lambda group, value: next(first))
    found = measured(None, None, TrainConfig(batch_size="auto", memory=3.0), group)
    assert found == TrainConfig(batch_size=2, accumulate=4, recompute=True)
