"""How much of `predict`, or of a training step, lies outside convolutions and matrix products.

Records every convolution and linear of one run, times each alone on arrays of its shape, there and
back if it is a training, and compares their sum with the whole. Needs no torch.

    LD_PRELOAD=$(make -s openblas) python benchmarks/share.py [faster | mask | train-small | train]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

import mlx_rcnn
from mlx_rcnn.benchmark.cases import CASES
from mlx_rcnn.benchmark.inputs import inputs
from mlx_rcnn.benchmark.ours import prepare
from mlx_rcnn.layers import Conv2d, ConvTranspose2d, Linear

PLACES = ((Conv2d, "convolve"), (ConvTranspose2d, "__call__"), (Linear, "__call__"))


class Call(NamedTuple):
    """A layer as it was called."""

    function: Callable[..., mx.array]
    layer: Any
    shapes: list[tuple[int, ...]]


def best(run: Callable[[], object], rounds: int) -> float:
    """Least seconds of a few runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """What the layers are called with inside the block."""
    calls: list[Call] = []
    originals = [(cls, name, getattr(cls, name)) for cls, name in PLACES]

    def recording(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(layer: Any, *arrays: mx.array) -> mx.array:
            calls.append(Call(function, layer, [a.shape for a in arrays]))
            return function(layer, *arrays)

        return call

    try:
        for cls, name, function in originals:
            setattr(cls, name, recording(function))
        yield calls
    finally:
        for cls, name, function in originals:
            setattr(cls, name, function)


def alone(call: Call, there_and_back: bool, rounds: int) -> float:
    """Seconds of one layer on arrays of its shapes."""
    function, layer = call.function, call.layer
    arrays = [mx.random.normal(shape) for shape in call.shapes]
    mx.eval(arrays)
    if not there_and_back:
        return best(lambda: mx.eval(function(layer, *arrays)), rounds)
    own = layer.weight
    x, weight = (*arrays, own)[:2]
    passed = len(arrays) == 2  # its weight is among what it is called with

    def run(weight: mx.array, x: mx.array) -> mx.array:
        layer.weight = own if passed else weight
        return function(layer, x, weight) if passed else function(layer, x)

    pull = mx.random.normal(run(weight, x).shape)
    if x.shape[-1] == 3:  # a photo wants no gradient
        seconds = best(lambda: mx.eval(mx.vjp(lambda w: run(w, x), [weight], [pull])), rounds)
    else:
        seconds = best(lambda: mx.eval(mx.vjp(run, [weight, x], [pull])), rounds)
    layer.weight = own
    return seconds


def main() -> None:
    """Print the two times and the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = [name for name, case in CASES.items() if case.kind in ("predict", "train")]
    parser.add_argument("case", nargs="?", default="faster", choices=kinds)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    case = CASES[args.case]
    mx.set_cache_limit(1 << 30)  # layers of all sizes come by
    mlx_rcnn.reuse_large_blocks()  # as the command line does
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(
            case.kind, case.options, inputs(case.kind, case.options), Path(folder) / "weights.npz"
        )
    whole = best(run, args.rounds)
    with recorded() as calls:
        run()
    inside = sum(alone(call, case.kind == "train", args.rounds) for call in calls)
    print(f"{case.title}: {whole * 1e3:.0f} ms")
    print(f"{len(calls)} convolutions and linears alone: {inside * 1e3:.0f} ms")
    print(f"outside: {max(0.0, 1 - inside / whole):.1%}")


if __name__ == "__main__":
    main()
