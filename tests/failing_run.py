"""One of two machines fails, in a way given; the other waits in a collective or trains.

    python tests/failing_run.py HOW RANK FOLDER

Started with ``MLX_RANK`` and ``MLX_HOSTFILE``, as ``mlx.launch`` does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx

import tiny
from mlx_rcnn.training import TrainConfig
from mlx_rcnn.training.trainer import fit
from mlx_rcnn.training.watch import watched


def fail(how: str) -> None:
    if how == "raises":
        raise ValueError("no such luck:\n  at all")
    if how == "exits":
        sys.exit("told to")
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "both fail":
        raise ValueError("both know why")


class Bad:
    """Pictures of which one cannot be used, on one machine."""

    def __init__(self, how: str, fails: bool) -> None:
        self.data, self.how, self.fails, self.count = tiny.shapes(16), how, fails, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        self.count += 1
        if self.fails and self.count > 8:
            fail(self.how)
        return self.data[i]


if __name__ == "__main__":
    how, failing, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    group = mx.distributed.init()
    assert group.size() == 2
    mine = group.rank() == failing
    if how.startswith("in a step "):
        how = how.removeprefix("in a step ")
        config = TrainConfig(epochs=50, batch_size=1, workers=1, checkpoint_steps=1)
        fit(tiny.build(), Bad(how, mine), None, config, folder)
    with watched(group):
        mx.eval(mx.distributed.all_sum(mx.array(1.0), group=group))
        if how == "both end":
            sys.exit()
        if mine or how == "both fail":
            time.sleep(0.2)
            fail(how)
        mx.eval(mx.distributed.all_sum(mx.array(1.0), group=group))  # for ever
