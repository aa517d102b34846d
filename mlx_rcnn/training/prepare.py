"""A model made ready for a data set, and a folder for a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..models import FasterRCNN
from .checkpoint import BEST, FOLDER, LAST, Progress
from .config import TrainConfig, changes, from_json
from .freeze import set_trainable, stages
from .heads import DataKeypoints, set_classes, set_keypoints
from .report import CURVES_FILE, METRICS_FILE, SAMPLES_FOLDER
from .step import TrainStep
from .trees import Arrays, flatten, unflatten

NONFINITE = "nonfinite"
OURS = {LAST, BEST, NONFINITE, FOLDER, METRICS_FILE, CURVES_FILE, SAMPLES_FOLDER}
TRAINED_STAGES = 3  # of a model with weights, as torchvision


def prepare_model(
    model: FasterRCNN,
    class_names: Sequence[str],
    config: TrainConfig,
    keypoints: DataKeypoints | None = None,
) -> TrainConfig:
    """Set classes, keypoints, input size and what learns; weights become float32.

    Args:
        model: changed in place, left in training mode.
        class_names: of the data.
        config: the fields ``freeze``, ``min_size`` and ``seed``.
        keypoints: of the data, for a model that learns them. Default: none.

    Returns:
        The config with ``freeze`` resolved.

    Raises:
        TypeError: ``freeze`` for a backbone that is none of this package.
        ValueError: ``freeze`` of more stages than there are.
    """
    mx.random.seed(config.seed)
    set_classes(model, class_names)
    set_keypoints(model, keypoints)
    model.set_dtype(mx.float32)
    if config.min_size is not None:
        sizes = config.min_size
        model.config = replace(model.config, min_size=sizes if len(sizes) > 1 else sizes[0])
    frozen = config.freeze
    if frozen is None:
        if not hasattr(model.backbone, "net"):  # its owner has frozen what should be
            model.train()
            return replace(config, freeze=0)
        frozen = len(stages(model)) - TRAINED_STAGES if model.source else 0
    if hasattr(model.backbone, "net") or frozen:
        count = len(stages(model))
        if frozen > count:
            raise ValueError(f"freeze={frozen}: expected at most {count}, the backbone's stages")
        set_trainable(model, count - frozen)
    model.train()
    return replace(config, freeze=frozen)


def share_from_first(trainer: TrainStep, step: int) -> int:
    """Give all machines the state that the first one has.

    Args:
        trainer: of this machine, changed in place; its shapes are the same everywhere.
        step: of this machine.

    Returns:
        The first machine's step.
    """
    group = trainer.group
    if group.size() == 1:
        return step
    first = group.rank() == 0

    def share(value: mx.array) -> mx.array:
        shared = mx.distributed.all_sum(value if first else mx.zeros_like(value), group=group)
        mx.eval(shared)  # one after the other, in the same order everywhere
        return shared

    def share_all(tree: Any) -> Arrays:
        return {name: share(value) for name, value in sorted(flatten(tree).items())}

    trainer.model.update(unflatten(share_all(trainer.model.parameters())))
    trainer.optimizer.state = unflatten(share_all(trainer.optimizer.state))
    trainer.average = share_all(trainer.average)
    return int(share(mx.array(step, dtype=mx.int32)).item())  # type: ignore[arg-type]


def check_folder(folder: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Check that a run may write to a folder, and change nothing.

    Args:
        folder: need not exist.
        resume: the run in it goes on. Default: ``False``.
        overwrite: the run in it may be removed. Default: ``False``.

    Raises:
        FileExistsError: it holds another run, or other things.
        FileNotFoundError: ``resume``, and it holds no checkpoint.
        NotADirectoryError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: expected a folder")
    if resume:
        if not (folder / LAST).exists():
            raise FileNotFoundError(f"{folder} holds no checkpoint to resume from")
        return
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = {name for name in found - OURS if not name.startswith(".")}
    if foreign:
        raise FileExistsError(
            f"{folder} holds other things, such as {min(foreign)}: expected a new or empty folder"
        )
    # What a run leaves that was killed before its first checkpoint is no run.
    if found & {LAST, BEST, NONFINITE} and not overwrite:
        raise FileExistsError(f"{folder} holds another run: resume it, overwrite it, or name "
                              "another folder")  # fmt: skip


def clear_folder(folder: Path) -> None:
    """Remove a run and nothing else.

    Args:
        folder: that :func:`check_folder` let pass; need not exist.
    """
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name in OURS and (path.is_symlink() or path.is_file()):
            path.unlink()  # the links first: never one to what is already gone
    for name in (FOLDER, SAMPLES_FOLDER):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def describe_data(
    train_set: Any, group: mx.distributed.Group, keypoints: DataKeypoints | None = None
) -> dict[str, Any]:
    """What about the data and machines must not change when a run is resumed."""
    found: dict[str, Any] = {"images": len(train_set), "machines": group.size()}
    if keypoints is not None:
        found["keypoints"] = list(keypoints.names) if keypoints.names else keypoints.number
    return found


def check_resume(
    progress: Progress, class_names: Sequence[str], config: TrainConfig, data: dict[str, Any]
) -> TrainConfig:
    """Check that a run goes on as it began.

    Args:
        progress: of its checkpoint.
        class_names: of the data now.
        config: asked for now; an open ``freeze`` is what it was.
        data: of :func:`describe_data`.

    Returns:
        The config.

    Raises:
        ValueError: other classes, settings or data, or fewer epochs than are done.
    """
    if progress.class_names != list(class_names):
        raise ValueError(
            f"cannot resume: the run was trained for classes {', '.join(progress.class_names[1:])};"
            f" the data has {', '.join(class_names[1:])}"
        )
    old = from_json(progress.config)
    if config.freeze is None:
        config = replace(config, freeze=old.freeze)
    if config.metric is None:
        config = replace(config, metric=old.metric)
    odd = changes(old, config)
    odd += [f"{k}: {v}, now {data.get(k)}" for k, v in progress.data.items() if data.get(k) != v]
    if odd:
        raise ValueError(f"cannot resume a run of other settings: {'; '.join(odd)}")
    if config.epochs < progress.epoch:
        raise ValueError(
            f"cannot resume: epochs={config.epochs}, and the run has done {progress.epoch}"
        )
    return config
