"""A few steps of a tiny Mask R-CNN, for as many machines as ``mlx.launch`` starts.

    python tests/distributed_run.py FOLDER BATCH_SIZE [resume] [patience]

With every candidate sampled nothing is random, so that a batch may be shared out. With
``patience`` no epoch is better than the first, and the second is the last. A machine whose logger
is told of a line writes FOLDER-told-RANK.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

import tiny
from mlx_rcnn.training import TrainConfig
from mlx_rcnn.training.trainer import fit

if __name__ == "__main__":
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    model = tiny.build(
        "mask_rcnn", dropout=0.0, rpn_batch_size_per_image=10**6, box_batch_size_per_image=10**6
    )
    config = TrainConfig(epochs=2, batch_size=size, workers=1, warmup=2, lr=0.02, ema=0.9, clip=1.0)
    patient = "patience" in sys.argv
    if patient:
        config = replace(config, epochs=6, patience=1)
    rank = mx.distributed.init().rank()

    def told(line):
        with folder.with_name(f"{folder.name}-told-{rank}").open("a") as file:
            file.write(f"{line['kind']} {line['step']}\n")

    fit(
        model,
        tiny.shapes(8),
        tiny.shapes(2, 1),
        config,
        folder,
        evaluate=(lambda *_: {"AP": 0.5}) if patient else tiny.score,
        resume="resume" in sys.argv,
        loggers=[told],
    )
