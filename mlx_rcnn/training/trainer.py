"""The trainer's front door: what is checked before a run, and the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx

from ..data.protocols import SizedDataset
from ..models import Detector
from .config import TrainConfig
from .loading import check_needs, check_objects, check_overlap, divided
from .log_files import file_loggers
from .loggers import Line, Logger, Loggers
from .metrics import Evaluate, Summary
from .run import Trainer
from .watch import watched


def fit(
    model: Detector,
    train_set: SizedDataset,
    val_set: SizedDataset | None = None,
    config: TrainConfig | None = None,
    output_dir: str | os.PathLike[str] = "run",
    *,
    resume: bool = False,
    overwrite: bool = False,
    evaluate: Evaluate | None = None,
    allow_overlap: bool = False,
    loggers: Sequence[Logger | Callable[[Line], object]] = (),
) -> Summary:
    """Train a detector.

    The folder gets ``last`` and ``best`` (directories that :func:`mlx_rcnn.load` reads),
    ``metrics.jsonl``, and each epoch ``curves.png`` and a picture of validation predictions. Under
    ``mlx.launch`` the machines share the work, and the first one writes. Ctrl-C finishes the step
    under way, saves and returns.

    Args:
        model: of this package; its predictors are replaced if its classes, or its keypoints, are
            not the data's.
        train_set: a data set, see :mod:`mlx_rcnn.data`. Of one that gives keypoints and is none of
            this package's, ``keypoint_names`` is what a mirror swaps left and right by.
        val_set: evaluated after each epoch. Default: none.
        config: Default: ``TrainConfig()``.
        output_dir: the run's folder. Default: ``"run"``.
        resume: go on from ``last``, bit for bit as if never stopped. Default: ``False``.
        overwrite: remove the run that is in the folder. Default: ``False``.
        evaluate: ``(model, val_set) -> metrics``, ``config.metric`` of them deciding which is the
            best. Default: COCO metrics, if faster-coco-eval is installed.
        allow_overlap: images may be in both sets. Default: ``False``.
        loggers: are told each line of the record, after those of ``config.log``. Each is a
            :class:`~mlx_rcnn.training.Logger`, such as a ``WandbLogger``, or a function. Default:
            none.

    Returns:
        What became of it.

    Raises:
        FileExistsError, FileNotFoundError: a folder that holds another run, or none to resume.
        ValueError: data, config or checkpoint that do not go together.
        FloatingPointError: a loss that is not finite, naming the images.
        OSError: a checkpoint that cannot be written, or an image that cannot be read.
        ImportError: a log whose extra is not installed.
    """
    config = config or TrainConfig()
    told = Loggers(loggers)
    with watched(mx.distributed.init()):
        train_set, val_set = divided(train_set, val_set, config)
        check_objects(train_set)
        check_needs(model, train_set, val_set)
        if not allow_overlap and val_set is not None:
            check_overlap(train_set, val_set)
        if mx.distributed.init().rank() == 0:
            told = Loggers([*file_loggers(config.log), *loggers])
        trainer = Trainer(model, train_set, val_set, config, Path(output_dir), evaluate, told)
        return trainer.run(resume, overwrite)
