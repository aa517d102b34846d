"""Whole runs: resumed, killed, interrupted, refused."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.data import repeat_factors
from mlx_rcnn.training import TrainConfig, fit, trainer
from mlx_rcnn.training import metrics as report
from mlx_rcnn.training.checkpoint import LAST, read_progress
from mlx_rcnn.training.metrics import Metrics
from mlx_rcnn.training.new_heads import set_classes
from mlx_rcnn.training.step import TrainStep

SCRIPT = Path(tiny.__file__)


def state(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of the last checkpoint."""
    found = {}
    for name in ("model.safetensors", "state.safetensors"):
        arrays = mx.load(str(folder / LAST / name))
        found |= {f"{name}.{k}": np.array(v) for k, v in arrays.items()}
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def stop_after(monkeypatch, count: int, error: type[BaseException]) -> None:
    """Have the run die once so many steps are taken."""
    take, left = TrainStep.__call__, [count]

    def counted(self, *args):
        if not left[0]:
            raise error
        left[0] -= 1
        return take(self, *args)

    monkeypatch.setattr(TrainStep, "__call__", counted)


class Dead(Exception):  # noqa: N818
    """Stands for a power cut."""


def test_what_a_run_leaves(tmp_path: Path):
    done = tiny.train(tmp_path / "run", replace(tiny.CONFIG, checkpoint_steps=0, hflip=1.0))
    # 6 images at batch 2 are 3 steps, twice.
    assert (done.step, done.epoch, done.interrupted) == (6, 2, False)
    assert done.peak_memory > 0
    lines = Metrics(tmp_path / "run", 6).lines()
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2] and "AP" in epochs[0]["metrics"]
    assert done.metrics == epochs[1]["metrics"]
    assert done.best == max(epoch["metrics"]["AP"] for epoch in epochs)
    assert epochs[0]["images_per_s"] > 0 and 0 <= epochs[0]["waiting"] < 1
    # Warm-up from a thousandth over 2 steps; x 0.1 from 75 % of 6 steps, rounded to 4.
    rates = [line["lr"] / 0.005 for line in lines if line["kind"] == "step"]
    assert rates == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1])
    with Image.open(tmp_path / "run/samples/epoch-002.png") as sheet:
        assert sheet.size == (640, 320)  # two tiles
    model = mlx_rcnn.load(tmp_path / "run/best")
    assert model.class_names == ("__background__", "circle", "square", "triangle")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("faster_rcnn", {}),
        ("keypoint_rcnn", {"mosaic": 0.7}),
        ("faster_rcnn", {"ema": 0.9, "optimizer": "adamw", "schedule": "cosine"}),
        ("faster_rcnn", {"dtype": "bfloat16", "vflip": 0.5, "accumulate": 2, "batch_size": 1}),
    ],
)
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, monkeypatch, kind, options):
    config = replace(tiny.CONFIG, **options)
    tiny.train(tmp_path / "whole", config, kind)
    for count in (2, 3):  # after 2 steps, in the first epoch, and 3 later, in the second
        with monkeypatch.context() as patch, pytest.raises(Dead):
            stop_after(patch, count, Dead)
            tiny.train(tmp_path / "parts", config, kind, resume=count == 3)
    done = tiny.train(tmp_path / "parts", config, kind, resume=True)
    assert done.step == 6
    same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    whole, parts = (Metrics(tmp_path / name, 6).lines() for name in ("whole", "parts"))
    kept = ("kind", "step", "epoch", "total_loss", "lr", "metrics")
    assert [{k: v.get(k) for k in kept} for v in whole] == [
        {k: v.get(k) for k in kept} for v in parts
    ]


def test_an_evaluation_that_died_is_made_up_for(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Dead):
        patch.setattr(tiny, "score", lambda *_: (_ for _ in ()).throw(Dead))
        tiny.train(tmp_path)
    assert read_progress(tmp_path).step == 3
    tiny.train(tmp_path, resume=True)
    epochs = [line for line in Metrics(tmp_path, 6).lines() if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    again = tiny.train(tmp_path, resume=True)  # a run that is over has nothing to do
    assert again.step == 6 and len(Metrics(tmp_path, 6).lines()) == 8


def test_a_run_ends_when_patience_is_over(tmp_path: Path, capsys):
    scores = iter([0.1, 0.3, 0.3, math.nan, 0.2, 0.4, 0.4, 0.1])

    def run(**options):
        return fit(
            tiny.build(),
            tiny.shapes(2),
            tiny.shapes(2, 1),
            replace(tiny.CONFIG, epochs=8, **options),
            tmp_path / "run",
            evaluate=lambda *_: {"AP": next(scores)},
            resume=(tmp_path / "run").exists(),
        )

    done = run(patience=2)  # an equal score is no better, and NaN is none
    assert (done.epoch, done.best, done.interrupted) == (4, 0.3, False)
    assert "stopped: no better in 2 epochs" in capsys.readouterr().err
    before = state(tmp_path / "run")
    done = run(patience=2)  # it is over: nothing is done again
    assert done.epoch == 4
    same(before, state(tmp_path / "run"))
    done = run(patience=3)  # the two epochs waited count
    assert done.epoch == 5
    done = run(patience=4)
    assert (done.epoch, done.best) == (8, 0.4)
    assert [len(Metrics(tmp_path / "run", 8).epochs())] == [8]


def test_patience_needs_an_evaluation(tmp_path: Path):
    with pytest.raises(ValueError, match="patience=2: no epoch is evaluated"):
        fit(tiny.build(), tiny.shapes(2), None, replace(tiny.CONFIG, patience=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rare_classes_come_up_more_often(tmp_path: Path):
    data = tiny.shapes(6)
    factors = repeat_factors(data, 1.0)
    assert factors.max() > 1
    config = replace(tiny.CONFIG, epochs=1, batch_size=1, repeat_thresh=1.0)
    done = fit(tiny.build(), data, None, config, tmp_path / "run")
    assert done.step == math.floor(factors.sum()) > len(data)


def test_a_run_that_is_over_may_be_made_longer(tmp_path: Path):
    done = tiny.train(tmp_path, replace(tiny.CONFIG, epochs=1))
    assert (done.step, done.epoch) == (3, 1)
    before = state(tmp_path)
    done = tiny.train(tmp_path, replace(tiny.CONFIG, epochs=3), resume=True)
    assert (done.step, done.epoch) == (9, 3) and not done.interrupted
    lines = Metrics(tmp_path, 9).lines()
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]
    # The drop is at 75 % of the longer run: 6.75 of 9 steps, rounded to 7.
    rates = [line["lr"] / 0.005 for line in lines if line["kind"] == "step"][3:]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1])
    after = state(tmp_path)
    assert any((before[name] != after[name]).any() for name in before)
    with pytest.raises(ValueError, match="epochs"):  # but not shorter than it is
        tiny.train(tmp_path, replace(tiny.CONFIG, epochs=2), resume=True)


def start(folder: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *args],
        cwd=SCRIPT.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_step(folder: Path, process: subprocess.Popen[bytes], step: int) -> None:
    for _ in range(1500):
        try:
            if read_progress(folder).step >= step:
                return
        except FileNotFoundError:
            pass
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    raise AssertionError(f"no step {step}")


def test_killed_at_any_moment(tmp_path: Path):
    """It saves after every step, so that most kills fall into the middle of that."""
    random, reached = np.random.default_rng(0), 0
    for _ in range(4):
        process = start(tmp_path, *(["resume"] if reached else []))
        wait_for_step(tmp_path, process, reached + 1)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.communicate()
        step = read_progress(tmp_path).step
        assert step > reached
        reached = step
        assert mlx_rcnn.load(tmp_path / LAST).class_names[1] == "circle"
        assert all(np.isfinite(v).all() for v in state(tmp_path).values())
    # What was interrupted so often is what one run gives.
    config = TrainConfig(epochs=40, workers=1, warmup=2, checkpoint_steps=1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Dead):
        stop_after(patch, reached, Dead)
        tiny.train(tmp_path / "whole", config)
    same(state(tmp_path), state(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, number):
    process = start(tmp_path)
    wait_for_step(tmp_path, process, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    step = read_progress(tmp_path).step
    assert process.returncode == 130, errors.decode()
    assert f"stopped at step {step}, saved" in errors.decode()
    assert "Traceback" not in errors.decode()
    assert not list(tmp_path.rglob(".part-*"))


def test_loss_that_is_not_finite_names_the_images(tmp_path: Path, monkeypatch):
    model = tiny.build()
    real = TrainStep.__call__

    def poisoned(self, batches, step, *args):
        if step == 4:
            tiny.poison(model, batches[0].images)
        return real(self, batches, step, *args)

    monkeypatch.setattr(TrainStep, "__call__", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 4: not finite: rpn_cls_loss.*shapes"):
        trainer.fit(model, tiny.shapes(), None, tiny.CONFIG, tmp_path)
    found = json.loads((tmp_path / "nonfinite/batch.json").read_text())
    assert found["step"] == 4 and len(found["images"]) == len(found["image_ids"]) == 2
    progress = read_progress(tmp_path, "nonfinite")
    assert progress.step == 4
    weights = mx.load(str(tmp_path / "nonfinite/model.safetensors"))
    assert all(np.isfinite(np.array(v)).all() for v in weights.values())
    assert read_progress(tmp_path).step == 4


def test_box_without_area_names_its_image(tmp_path: Path):
    class Bad:
        def __init__(self):
            self.inner = tiny.shapes()
            self.class_names, self.sizes = self.inner.class_names, self.inner.sizes

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, index):
            sample = self.inner[index]
            sample.target["boxes"][0, 2] = sample.target["boxes"][0, 0]
            return sample

    with pytest.raises(ValueError, match="no area.*images of the step: shapes 0/"):
        trainer.fit(tiny.build(), Bad(), None, tiny.CONFIG, tmp_path)
    assert read_progress(tmp_path).step == 0


def test_folders_that_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        tiny.train(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    one = replace(tiny.CONFIG, epochs=1)
    tiny.train(tmp_path / "run", one)
    before = state(tmp_path / "run")
    with pytest.raises(FileExistsError, match="holds another run"):
        tiny.train(tmp_path / "run", one)
    same(before, state(tmp_path / "run"))
    done = tiny.train(tmp_path / "run", replace(one, seed=1), overwrite=True)
    assert done.step == 3 and len(Metrics(tmp_path / "run", 9).lines()) == 4
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other things, such as run"):
        tiny.train(tmp_path, one, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(NotADirectoryError, match="is a file"):
        tiny.train(tmp_path / "thesis.tex", one)


def test_runs_that_do_not_go_together(tmp_path: Path):
    tiny.train(tmp_path, replace(tiny.CONFIG, epochs=1))
    with pytest.raises(ValueError, match="other settings: lr: 0.005, now 1.0"):
        tiny.train(tmp_path, replace(tiny.CONFIG, lr=1.0), resume=True)
    other = tiny.shapes()
    other.class_names = ("__background__", "cat", "dog", "bird")
    with pytest.raises(ValueError, match="trained for classes circle, .*the data has cat, dog"):
        trainer.fit(tiny.build(), other, None, tiny.CONFIG, tmp_path, resume=True)
    more = replace(tiny.CONFIG, epochs=1)
    with pytest.raises(ValueError, match="images: 6, now 8"):
        trainer.fit(tiny.build(), tiny.shapes(8), None, more, tmp_path, resume=True)


def test_too_few_images(tmp_path: Path):
    with pytest.raises(ValueError, match="expected"):
        trainer.fit(tiny.build(), tiny.shapes(6), None, TrainConfig(batch_size=8), tmp_path)
    with pytest.raises(ValueError, match="6 images make no step"):
        trainer.fit(tiny.build(), tiny.shapes(6), None, TrainConfig(accumulate=4), tmp_path)
    assert not any(tmp_path.iterdir())


def test_heads_and_freezing(tmp_path: Path):
    model = tiny.build("mask_rcnn", norm="frozen", classes=7)
    model.source = "a checkpoint"
    before = {k: np.array(v) for k, v in tree_flatten(model.backbone.net.parameters())}
    config = replace(tiny.CONFIG, epochs=1, min_size=(48, 64))
    trainer.fit(model, tiny.shapes(), tiny.shapes(2), config, tmp_path, evaluate=tiny.score)
    assert model.class_names == tiny.shapes().class_names and model.config.num_classes == 4
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.shape[0] == 4
    assert model.config.min_size == (48, 64)
    moved = {
        k.split(".")[0]
        for k, v in tree_flatten(model.backbone.net.parameters())
        if (np.array(v) != before[k]).any()
    }
    assert moved == {"layer2", "layer3", "layer4"}
    assert read_progress(tmp_path).config["freeze"] == 2
    # Classes that fit already keep their predictors.
    weight = np.array(model.roi_heads.box_predictor.cls_score.weight)
    assert not set_classes(model, tiny.shapes().class_names)
    np.testing.assert_array_equal(model.roi_heads.box_predictor.cls_score.weight, weight)


def test_without_an_evaluation(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    config = replace(tiny.CONFIG, epochs=1)
    done = trainer.fit(tiny.build(), tiny.shapes(), tiny.shapes(2), config, tmp_path)
    assert done.best is None and done.metrics == {}
    assert (tmp_path / "best/model.safetensors").is_file()
    assert "mlx-rcnn[eval]" in capsys.readouterr().err


def test_outside_the_main_thread(tmp_path: Path):
    done = []
    config = replace(tiny.CONFIG, epochs=1)
    thread = threading.Thread(target=lambda: done.append(tiny.train(tmp_path, config)))
    thread.start()
    thread.join()
    assert done[0].step == 3 and not math.isnan(done[0].best)
