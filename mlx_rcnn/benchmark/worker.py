"""A process that runs one case of one library, whenever it is told to.

    python -m mlx_rcnn.benchmark.worker LIBRARY KIND OPTIONS WEIGHTS

It says in a line when it is ready, answers every line on standard input with one of seconds, and at
the end of the input says what memory it took; all lines are JSON. With MLX and torch in processes
of their own neither holds the other's threads or memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from .inputs import inputs

SELF = "mlx_rcnn.benchmark.worker"
P = ParamSpec("P")
R = TypeVar("R")


def main(library: str, kind: str, options: str, weights: str) -> None:
    """Prepare a case, its options as JSON, and serve it until standard input ends."""
    if library == "mlx":
        from ..memory import reuse_large_blocks
        from . import ours as side

        reuse_large_blocks()
    else:
        from . import theirs as side  # type: ignore[no-redef]
    known = json.loads(options)
    # through the file of weights both libraries have the same
    run = side.prepare(kind, known, inputs(kind, known), Path(weights))
    run()  # kernels are compiled, pages touched
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        before = time.perf_counter()
        run()
        print(time.perf_counter() - before, flush=True)
    peak = _peak(library)
    print(json.dumps({"peak": peak, "waits": waits(run) if library == "mlx" else None}), flush=True)


def waits(run: Callable[[], object]) -> int:
    """How often a run asks MLX to evaluate, each time waiting for the device."""
    import mlx.core as mx

    count = 0

    def counted(function: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **options: P.kwargs) -> R:
            nonlocal count
            count += 1
            return function(*args, **options)

        return call

    places = [(mx, "eval"), (mx, "async_eval"), *((mx.array, n) for n in ("item", "tolist"))]
    # Calls of ``mx.eval`` and of what reads an array: an array that was already there counts as
    # well, so that the true number may be less.
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]
    try:
        for owner, name, function in originals:
            setattr(owner, name, counted(function))
        run()
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
    return count


def _peak(library: str) -> int:
    """Bytes in use at most: of a GPU what the library reports, else of this process."""
    if library == "mlx":
        import mlx.core as mx

        if mx.default_device().type == mx.gpu:
            return int(mx.get_peak_memory())
    else:
        from . import theirs

        of_gpu = theirs.peak()
        if of_gpu is not None:
            return of_gpu
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the parent had before this process began
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    main(*sys.argv[1:])
