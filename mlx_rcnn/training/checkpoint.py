"""Checkpoints that are whole at every moment.

A run's folder holds ``last`` and ``best``, links to directories under ``checkpoints``. Each of them
is a model that :func:`mlx_rcnn.load` reads; ``last`` also has what resuming needs::

    run/
      last -> checkpoints/step-00000200     best -> checkpoints/best-00000100
      checkpoints/step-00000200/            config.json  model.safetensors
                                            training.json  state.safetensors

A checkpoint is written under another name, renamed as one directory, and then linked: a process
killed anywhere in between leaves the links at whole checkpoints, the old or the new.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..checkpoints.directory import WEIGHTS_FILE
from ..checkpoints.save import save
from ..checkpoints.weights import Arrays, assign, flatten, unflatten
from ..models import Detector
from .optimizer import optimizer_arrays, set_optimizer_arrays
from .step import TrainStep

LAST, BEST, FOLDER = "last", "best", "checkpoints"
PROGRESS_FILE, STATE_FILE = "training.json", "state.safetensors"
FORMAT_VERSION = 1


DataFacts = dict[str, int | list[str]]
"""What about data and machines must not change: how many, and the keypoints."""


class Progress(NamedTuple):
    """Where a run stands, and what it is."""

    step: int  # optimizer steps
    epoch: int  # whole passes
    metric: float | None  # the best so far, ``None`` before the first evaluation
    config: dict[str, object]  # of ``TrainConfig``
    class_names: list[str]
    data: DataFacts  # what else must not change, such as the number of images and machines


@contextmanager
def averaged(trainer: TrainStep) -> Iterator[Detector]:
    """The model with its averaged weights, where there is an average, and back afterwards."""
    model = trainer.model
    if not trainer.average:
        yield model
        return
    own = flatten(model.parameters())
    model.update(unflatten(trainer.average))
    try:
        yield model
    finally:
        model.update(unflatten(own))


def save_checkpoint(folder: Path, trainer: TrainStep, progress: Progress, name: str = LAST) -> Path:
    """Write a checkpoint and point ``folder/name`` to it, which an OSError leaves as it was."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    label = "step" if name == LAST else name
    target = place / f"{label}-{progress.step:08d}"
    part = place / f".part-{os.getpid()}-{target.name}"
    try:
        # The model is saved with its averaged weights where there are any; the others go with the
        # optimizer's state.
        with averaged(trainer) as model:
            save(model, part)
        text = json.dumps({"format_version": FORMAT_VERSION, **progress._asdict()}, indent=2)
        (part / PROGRESS_FILE).write_text(text + "\n", encoding="utf-8")
        if name != BEST:  # which is the model alone
            _write_arrays(part / STATE_FILE, _state(trainer))
        for path in (*part.iterdir(), part):
            _flush(path)
        if target.exists():  # of the same step: the same, or of a run given up
            target = _free_name(target)
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _flush(place)
    _link(folder / name, target)
    _remove_unlinked(folder)
    return target


def _state(trainer: TrainStep) -> Arrays:
    arrays = {f"optimizer.{k}": v for k, v in optimizer_arrays(trainer.optimizer).items()}
    if trainer.average:
        own = flatten(trainer.model.parameters())
        arrays |= {f"model.{k}": v for k, v in own.items()}
    return arrays


def _write_arrays(path: Path, arrays: Arrays) -> None:
    try:
        mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
    except RuntimeError as error:  # MLX's, of a full disk
        raise OSError(f"cannot write {path}: {error}") from error


def _flush(path: Path) -> None:
    """Have what was written on the disk, so that a power cut cannot reorder it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_name(target: Path) -> Path:
    number = 2
    while (path := target.with_name(f"{target.name}.{number}")).exists():
        number += 1
    return path


def _link(link: Path, target: Path) -> None:
    """Point ``link`` to ``target``, replacing where it pointed before in one step."""
    part = link.with_name(f".part-{os.getpid()}-{link.name}")
    part.unlink(missing_ok=True)
    part.symlink_to(target.relative_to(link.parent), target_is_directory=True)
    os.replace(part, link)
    _flush(link.parent)


def _remove_unlinked(folder: Path) -> None:
    """Remove checkpoints that no link leads to, and what killed processes left."""
    used = {path.resolve() for path in folder.iterdir() if path.is_symlink()}
    for path in (folder / FOLDER).iterdir():
        if path.resolve() not in used:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".part-*"):
        with suppress(OSError):
            path.unlink()


def read_progress(folder: Path, name: str = LAST) -> Progress:
    """What a checkpoint says about its run; FileNotFoundError without one."""
    path = folder / name / PROGRESS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoint to resume from")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"format {version!r}, expected {FORMAT_VERSION}")
        return Progress(**content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of this trainer: {error}") from error


def best_metric(folder: Path) -> float | None:
    """The metric of the best checkpoint of a run, ``None`` where there is none."""
    try:
        metric = read_progress(folder, BEST).metric
        return None if metric is None or not math.isfinite(metric) else metric
    except FileNotFoundError:
        return None


def load_checkpoint(folder: Path, trainer: TrainStep) -> Progress:
    """Put the state of ``folder/last`` into a trainer of the same model and config."""
    progress = read_progress(folder)
    source = folder / LAST
    weights = _read(source / WEIGHTS_FILE)
    state = _read(source / STATE_FILE)
    own = _part(state, "model.")
    if bool(own) != bool(trainer.config.ema):
        raise ValueError(
            f"{source}: with an average of the weights {bool(own)}, expected "
            f"{bool(trainer.config.ema)}"
        )
    set_optimizer_arrays(trainer.optimizer, _part(state, "optimizer."))
    assign(trainer.model, own or weights, str(source))
    trainer.average = weights if own else {}
    mx.eval(trainer.model.parameters(), trainer.optimizer.state, trainer.average)
    return progress


def _part(arrays: Mapping[str, mx.array], prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _read(path: Path) -> Arrays:
    try:
        arrays: Any = mx.load(str(path))
        mx.eval(arrays)
    except Exception as error:  # MLX raises several types on a broken file
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    return dict(arrays)
