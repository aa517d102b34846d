"""Memory of a process that predicts many photos, each of its own size: it must stop growing.

    LD_PRELOAD=$(make -s openblas) python benchmarks/memory.py [--photos N] [--model DIR] [--plain]

Prints the resident memory of the process and MLX's own figures every tenth of the way. Long and
short sides are drawn evenly on a log scale, so that hardly two network inputs are alike. The
command line's way of taking large blocks from the C library is on; ``--plain`` leaves it off.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_rcnn

BUNDLED = Path(__file__).parents[1] / "examples/blood_cells/model"


def resident() -> float:
    """Resident memory of this process in MB: now on Linux, at most so far elsewhere."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--model", default=str(BUNDLED))
    parser.add_argument("--least", type=int, default=200, help="shortest side in pixels")
    parser.add_argument("--most", type=int, default=1600, help="longest side in pixels")
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    if not args.plain:
        mlx_rcnn.reuse_large_blocks()
    model = mlx_rcnn.load(args.model)
    random = np.random.default_rng(0)
    sides = np.exp(random.uniform(*np.log([args.least, args.most]), (args.photos, 2))).astype(int)
    print(f"{mx.default_device()}, mlx {mx.__version__}, {args.photos} photos, {args.model}")
    print("photos  resident MB  most so far  MLX active  MLX cache")
    most, curve = 0.0, []
    for i, (height, width) in enumerate(sides.tolist(), 1):
        model.predict(random.integers(0, 256, (height, width, 3), np.uint8))
        most = max(most, resident())
        if i % max(args.photos // 10, 1) == 0:
            curve.append(most)
            active, cache = mx.get_active_memory() / 1e6, mx.get_cache_memory() / 1e6
            row = f"{i:6}  {resident():11.0f}  {most:11.0f}  {active:10.0f}  {cache:9.0f}"
            print(row, flush=True)
    half, end = curve[len(curve) // 2 - 1], curve[-1]
    print(f"growth of the most in the second half: {100 * (end / half - 1):.1f} %")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
