"""``mlx_rcnn train --find-lr``: a learning rate to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..messages import one_line
from ..training.config import TrainConfig
from ..training.loading import divided
from ..training.lr_finder import find_lr, write_finding
from .errors import CommandError


def look_for_rate(
    args: argparse.Namespace, model: Any, train_set: Any, val_set: Any, config: TrainConfig
) -> int:
    """Look for a learning rate, print and write it, and train nothing.

    Args:
        args: the parsed command line.
        model, train_set, val_set, config: of the run to come.

    Returns:
        The exit code: 0, or 1 if the loss fell nowhere.

    Raises:
        CommandError: an argument or data that cannot work, or an image that cannot be read.
    """
    if args.resume:
        raise CommandError("--find-lr looks before a run begins: expected no --resume")
    try:
        train_set, _ = divided(train_set, val_set, config)
        found = find_lr(model, train_set, config, args.find_lr)
        if mx.distributed.init().rank() == 0:
            write_finding(found, config, Path(args.output))
            print(found)
    except OSError as error:
        raise CommandError(one_line(error), 1) from error
    except (ValueError, TypeError) as error:
        raise CommandError(one_line(error).replace("steps=", "--find-lr ")) from error
    return 0 if found.suggestion is not None else 1
