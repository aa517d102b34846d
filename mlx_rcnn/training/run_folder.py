"""The folder of a run: whether it may be written, and whether a run can go on from it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from ..data.protocols import Dataset
from .checkpoint import BEST, FOLDER, LAST, DataFacts, Progress
from .config import TrainConfig, changes, from_json
from .log_files import CSV_FILE, TENSORBOARD_FOLDER
from .lr_finder import FINDER_CHART, FINDER_FILE
from .metrics import CURVES_FILE, METRICS_FILE, SAMPLES_FOLDER
from .new_heads import DataKeypoints
from .nonfinite import NONFINITE
from .summary import ABOUT_FILE, SUMMARY_FILE

FOLDERS = (FOLDER, SAMPLES_FOLDER, TENSORBOARD_FOLDER)
FILES = (METRICS_FILE, CURVES_FILE, CSV_FILE, SUMMARY_FILE, ABOUT_FILE)
OURS = {LAST, BEST, NONFINITE, *FOLDERS, *FILES}
BESIDE = {FINDER_FILE, FINDER_CHART}  # made before the run; they stay when it is removed


def check_folder(folder: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Check that a run may write to a folder, which need not exist, and change nothing."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: expected a folder")
    if resume:
        if not (folder / LAST).exists():
            raise FileNotFoundError(f"{folder} holds no checkpoint to resume from")
        return
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = {name for name in found - OURS - BESIDE if not name.startswith(".")}
    if foreign:
        raise FileExistsError(
            f"{folder} holds other things, such as {min(foreign)}: expected a new or empty folder"
        )
    # What a run leaves that was killed before its first checkpoint is no run.
    if found & {LAST, BEST, NONFINITE} and not overwrite:
        raise FileExistsError(
            f"{folder} holds another run: resume it, overwrite it, or name another folder"
        )


def clear_folder(folder: Path) -> None:
    """Remove a run that :func:`check_folder` let pass, and nothing else."""
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name in OURS and (path.is_symlink() or path.is_file()):
            path.unlink()  # the links first: never one to what is already gone
    for name in FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def describe_data(
    train_set: Dataset, group: mx.distributed.Group, keypoints: DataKeypoints | None = None
) -> DataFacts:
    """What about the data and machines must not change when a run is resumed."""
    found: DataFacts = {"images": len(train_set), "machines": group.size()}
    if keypoints is not None:
        found["keypoints"] = list(keypoints.names) if keypoints.names else keypoints.number
    return found


def check_resume(
    progress: Progress, class_names: Sequence[str], config: TrainConfig, data: DataFacts
) -> TrainConfig:
    """The config of a run that goes on as it began; ValueError for other settings or data."""
    if progress.class_names != list(class_names):
        raise ValueError(
            f"cannot resume: the run was trained for classes {', '.join(progress.class_names[1:])};"
            f" the data has {', '.join(class_names[1:])}"
        )
    old = from_json(progress.config)
    if config.freeze is None:  # what is open in it, as ``freeze``, is what it was
        config = replace(config, freeze=old.freeze)
    if config.batch_size == "auto":
        config = replace(config, batch_size=old.batch_size)
    if config.metric is None:
        config = replace(config, metric=old.metric)
    if config.fit_memory and config.images * config.accumulate == old.images * old.accumulate:
        config = replace(config, batch_size=old.batch_size, accumulate=old.accumulate)
        config = replace(config, recompute=old.recompute)
    config = replace(config, fit_memory=False, memory=0.0)  # it is known
    odd = changes(old, config)
    odd += [f"{k}: {v}, now {data.get(k)}" for k, v in progress.data.items() if data.get(k) != v]
    if odd:
        raise ValueError(f"cannot resume a run of other settings: {'; '.join(odd)}")
    if config.epochs < progress.epoch:
        raise ValueError(
            f"cannot resume: epochs={config.epochs}, and the run has done {progress.epoch}"
        )
    return config
