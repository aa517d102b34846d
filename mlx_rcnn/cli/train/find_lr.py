"""``mlx_rcnn train --find-lr``: a learning rate to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ...inputs.images import ImageError
from ...messages import one_line
from ...training.config import TrainConfig
from ...training.loading import divided
from ...training.lr_finder import find_lr, write_finding
from ..errors import CommandError

if TYPE_CHECKING:
    from ...data import DetectionDataset
    from ...models import Detector


def look_for_rate(
    args: argparse.Namespace,
    model: Detector,
    train_set: DetectionDataset,
    val_set: DetectionDataset | None,
    config: TrainConfig,
) -> int:
    """Look for a learning rate, print and write it, train nothing; 1 if the loss fell nowhere."""
    if args.resume:
        raise CommandError("--find-lr looks before a run begins: expected no --resume")
    try:
        learned, _ = divided(train_set, val_set, config)
        found = find_lr(model, learned, config, args.find_lr)
        if mx.distributed.init().rank() == 0:
            write_finding(found, config, Path(args.output))
            print(found)
    except (ImageError, OSError) as error:
        raise CommandError(one_line(error), 1) from error
    except (ValueError, TypeError) as error:
        raise CommandError(one_line(error).replace("steps=", "--find-lr ")) from error
    return 0 if found.suggestion is not None else 1
