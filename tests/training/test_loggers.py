"""Where a run is logged: files, others' loggers, and what happens when one fails."""

from __future__ import annotations

import csv
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from mlx_rcnn.training import Logger, MlflowLogger, WandbLogger, fit, log_files
from mlx_rcnn.training.loggers import Loggers, scalars
from mlx_rcnn.training.step import TrainStep

CONFIG = replace(tiny.CONFIG, checkpoint_steps=2)


class Dead(Exception):  # noqa: N818
    """Stands for a power cut."""


def die_at(monkeypatch, step: int) -> None:
    """Have the run die before the step that follows so many."""
    take = TrainStep.__call__

    def dying(self, batches, at, *args):
        if at == step:
            raise Dead
        return take(self, batches, at, *args)

    monkeypatch.setattr(TrainStep, "__call__", dying)


def run(folder: Path, resume: bool = False, loggers=(), **options):
    config = replace(CONFIG, **options)
    return fit(
        tiny.build(),
        tiny.shapes(),
        tiny.shapes(2, 1),
        config,
        folder,
        evaluate=lambda *_: {"AP": 0.25, "AP75": float("nan"), "per_class": {"circle": {"AP": 1}}},
        resume=resume,
        loggers=loggers,
    )


def record(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows of a folder: each file's records, less what a later one takes back."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    shown: dict[tuple[str, int], float] = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)  # then a checksum of 4 bytes
            event = proto.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log") and event.session_log.status == 1:  # START
                shown = {key: v for key, v in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in shown, "a step comes twice"
                shown[value.tag, event.step] = value.simple_value
    return shown


def test_csv_and_tensorboard_hold_the_record_once_after_a_resumed_run(tmp_path, monkeypatch):
    folder, log = tmp_path / "run", ("csv", "tensorboard")
    with monkeypatch.context() as patch, pytest.raises(Dead):
        die_at(patch, 5)  # a step after the last checkpoint, in the second epoch
        run(folder, log=log)
    # Of what was logged step 5 comes again.
    assert [key[1] for key in events(folder / "tensorboard") if key[0] == "train/lr"][-1] == 5
    run(folder, resume=True, log=log)
    lines = record(folder)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], int(row["step"])) for row in rows] == [
        (line["kind"], line["step"]) for line in lines
    ]
    assert list(rows[0])[:3] == ["kind", "step", "epoch"]
    for row, line in zip(rows, lines, strict=True):
        if line["kind"] == "step":
            assert float(row["total_loss"]) == line["total_loss"] and row["AP"] == ""
        else:
            assert (row["AP"], row["per_class/circle/AP"], row["lr"]) == ("0.25", "1", "")
    shown = events(folder / "tensorboard")
    wanted = {(k, line["step"]): v for line in lines for k, v in scalars(line).items()}
    assert shown.keys() == wanted.keys()
    assert all(shown[key] == pytest.approx(wanted[key], rel=1e-6) for key in wanted)
    assert ("val/AP", 6) in shown and ("epoch/images_per_s", 3) in shown


def test_two_logs_of_one_second_are_two_files(tmp_path, monkeypatch):
    """A file of tensorboardX is named by the second in which it was begun."""
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1_800_000_000.5)
    run(tmp_path / "run", epochs=1, log=("tensorboard",))
    run(tmp_path / "run", resume=True, log=("tensorboard",))
    found = sorted(p.name for p in (tmp_path / "run/tensorboard").iterdir())
    assert len(found) == 2 and [name[-4:] for name in found] == [".000", ".001"]
    steps = {step for name, step in events(tmp_path / "run/tensorboard") if name == "train/lr"}
    assert steps == set(range(1, 7))


def test_a_log_begun_later_is_told_from_the_start(tmp_path):
    run(tmp_path / "run", epochs=1, log=("none",))
    assert not {"metrics.csv", "tensorboard"} & {p.name for p in (tmp_path / "run").iterdir()}
    run(tmp_path / "run", resume=True, log=("csv", "tensorboard"))
    steps = {step for name, step in events(tmp_path / "run" / "tensorboard") if "lr" in name}
    assert steps == set(range(1, 7))
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 9
    done = fit(  # what a run leaves is removed with it
        tiny.build(), tiny.shapes(), None, replace(CONFIG, log=("none",)), tmp_path / "run",
        overwrite=True,
    )  # fmt: skip
    assert done.step == 6
    assert not {"metrics.csv", "tensorboard"} & {p.name for p in (tmp_path / "run").iterdir()}


class Wandb:
    """A run of wandb as far as it is used."""

    def __init__(self):
        self.rows, self.config = [], self
        self.settings = {}

    def update(self, values, allow_val_change):
        self.settings |= values

    def log(self, values, step):
        self.rows.append((step, values))


class Mlflow:
    """The module mlflow as far as it is used; a parameter never changes."""

    def __init__(self):
        self.rows, self.params = [], {}

    def log_params(self, params):
        for name, value in params.items():
            assert self.params.setdefault(name, value) == value, f"{name} changes"

    def log_metrics(self, metrics, step):
        assert all(isinstance(v, float) for v in metrics.values())
        self.rows.append((step, metrics))


def test_wandb_mlflow_and_functions_are_told_each_line(tmp_path):
    wandb, mlflow, lines = Wandb(), Mlflow(), []
    loggers = [WandbLogger(wandb), MlflowLogger(mlflow), lines.append]
    run(tmp_path / "run", epochs=1, loggers=loggers)
    run(tmp_path / "run", resume=True, epochs=2, loggers=loggers)
    assert lines == record(tmp_path / "run")
    assert wandb.rows == mlflow.rows == [(line["step"], scalars(line)) for line in lines]
    assert [step for step, _ in wandb.rows] == [1, 2, 3, 3, 4, 5, 6, 6]
    first, last = wandb.rows[0][1], wandb.rows[-1][1]
    assert first["train/lr"] == lines[0]["lr"] and first["train/total_loss"] > 0
    assert "val/AP75" not in last  # not a number
    assert (last["val/AP"], last["val/per_class/circle/AP"]) == (0.25, 1.0)
    assert (wandb.settings["epochs"], wandb.settings["lr"]) == (2, 0.005)
    assert mlflow.params["lr"] == 0.005 and "epochs" not in mlflow.params


def test_a_logger_that_fails_is_named_once_and_left_out(tmp_path):
    class Broken(Logger):
        closed, count = False, 0

        def log(self, line):
            self.count += 1
            if self.count == 2:
                raise ConnectionError("no network\nat all")

        def close(self):
            self.closed = True

    broken, lines = Broken(), []
    with pytest.warns(UserWarning) as caught:
        done = run(tmp_path / "run", loggers=[broken, lines.append])
    said = [str(w.message) for w in caught if "logger" in str(w.message)]
    assert said == [
        "the logger Broken failed and is left out, training goes on: "
        "ConnectionError: no network at all"
    ]
    assert (done.step, len(lines), broken.count, broken.closed) == (6, 8, 2, False)


def test_all_are_closed_when_a_run_dies(tmp_path, monkeypatch):
    class Closing(Logger):
        closed = 0

        def close(self):
            self.closed += 1

    logger = Closing()
    die_at(monkeypatch, 1)
    with pytest.raises(Dead):
        run(tmp_path / "run", loggers=[logger])
    assert logger.closed == 1


def test_what_is_refused(tmp_path, monkeypatch):
    for wrong in (3, Logger):
        with pytest.raises(TypeError, match=r"loggers\[1\]=.*expected a mlx_rcnn.training.Logger"):
            Loggers([print, wrong])
    monkeypatch.setattr(log_files, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'mlx-rcnn\[tensorboard\]'"):
        run(tmp_path / "run", log=("tensorboard",))
    assert not (tmp_path / "run").exists()  # before anything is written
