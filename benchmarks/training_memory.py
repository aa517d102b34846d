"""Peak memory of a training step, each way in a process of its own, beside torchvision's.

    LD_PRELOAD=$(make -s openblas) python benchmarks/training_memory.py [--batch 2] [--steps 1]
        [--size 800x1333] [--rows plain,shifted,recompute,both,torchvision] [--limit GB]
        [--cache GB,...] [--reference PYTHON]

Faster R-CNN, ResNet-50 with a pyramid, float32, the last three stages learn. `plain` unfolds maps,
`shifted` is the default, `recompute` computes the backbone's stages again, `both` does both.
`--limit` is given to `mx.set_memory_limit`; `--cache` repeats the rows for several limits of the
cache. `--reference` is a Python that has torch and torchvision, where this one has not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROWS = ("plain", "shifted", "recompute", "both", "torchvision")


def peak() -> float:
    """GB that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the parent had before this process began
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # bytes on macOS


def ours(row: str, args: argparse.Namespace) -> dict[str, float]:
    """Steps of this package."""
    import mlx.core as mx

    import mlx_rcnn
    from mlx_rcnn import models
    from mlx_rcnn.benchmark.inputs import inputs
    from mlx_rcnn.ops import conv2d
    from mlx_rcnn.training import TrainConfig
    from mlx_rcnn.training.freeze import set_trainable
    from mlx_rcnn.training.optimizer import make_optimizer
    from mlx_rcnn.training.step import TrainStep

    mlx_rcnn.reuse_large_blocks()  # as the command line does
    if row in ("plain", "recompute"):
        conv2d.LARGEST_COPY = 1 << 62
    if args.limit:
        mx.set_memory_limit(int(args.limit * 1e9))
    mx.set_cache_limit(int(args.cache * 1e9))
    height, width = args.size
    data = inputs("train", {"height": height, "width": width})
    mx.random.seed(0)
    model = models.fasterrcnn_resnet50_fpn(min_size=height, max_size=2 * height)
    set_trainable(model, 3)
    model.train()
    config = TrainConfig(size_divisible=32, recompute=row in ("recompute", "both"))
    step = TrainStep(model, make_optimizer(model, config), config)
    mx.eval(model.parameters())
    target = {"boxes": data["boxes"], "labels": data["labels"]}
    batch = SimpleNamespace(images=[data["image"]] * args.batch, targets=[target] * args.batch)
    found = timed(lambda number: step([batch], number, 1e-5).losses["total_loss"], args.steps)
    return {**found, "mlx": mx.get_peak_memory() / 1e9}


def theirs(args: argparse.Namespace) -> dict[str, float]:
    """Steps of torchvision."""
    from mlx_rcnn.benchmark import theirs
    from mlx_rcnn.benchmark.inputs import inputs

    height, width = args.size
    options = {"model": "resnet50", "height": height, "batch": args.batch, "dtype": "float32"}
    data = inputs("train", {"height": height, "width": width})
    run = theirs.prepare("train", options, data, Path())
    return timed(lambda _: run(), args.steps)


def timed(step, steps: int) -> dict[str, float]:
    """Seconds of the fastest step, those of the CPUs, the last loss, and the process's peak."""
    before, seconds, loss = peak(), [], 0.0
    for number in range(steps):
        began = time.perf_counter(), time.process_time()
        loss = step(number)
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = (min(column) for column in zip(*seconds, strict=True))
    return {"before": before, "peak": peak(), "s": wall, "cpu": cpu, "loss": loss or 0.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--size", default="800x1333")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--limit", type=float, default=0.0)
    parser.add_argument("--cache", default="2")
    parser.add_argument("--reference", default=sys.executable)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        args.size = [int(v) for v in args.size.split("x")]
        args.cache = float(args.cache)
        found = theirs(args) if args.worker == "torchvision" else ours(args.worker, args)
        print(json.dumps(found))
        return 0
    print(f"{args.batch} x {args.size}, {args.steps} steps, limit {args.limit or 'none'}")
    columns = ("cache", "process GB", "before", "MLX GB", "s", "CPU s", "loss")
    print(f"{'':12} " + " ".join(f"{name:>10}" for name in columns))
    here = str(Path(__file__).parents[1])
    for cache in args.cache.split(","):
        for row in args.rows.split(","):
            python = args.reference if row == "torchvision" else sys.executable
            command = [python, __file__, "--worker", row, "--size", args.size, "--cache", cache]
            command += [f"--batch={args.batch}", f"--steps={args.steps}", f"--limit={args.limit}"]
            env = {**os.environ, "PYTHONPATH": here}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
                print(f"{row:12} {cache:>10} failed: {last}", flush=True)
                continue
            f = json.loads(done.stdout.splitlines()[-1])
            figures = (f["peak"], f["before"], f.get("mlx", float("nan")), f["s"], f["cpu"])
            text = " ".join(f"{value:10.2f}" for value in figures)
            print(f"{row:12} {cache:>10} {text} {f['loss']:10.5f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
