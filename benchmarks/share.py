"""How much of `predict` lies outside convolutions and matrix products, on 800x1088.

Records every convolution and linear of one prediction, times each alone on arrays of its shape, and
compares their sum with the whole. Needs no torch.

    LD_PRELOAD=$(make -s openblas) python benchmarks/share.py [--model maskrcnn_resnet50_fpn]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

import mlx_rcnn
from mlx_rcnn.benchmark.inputs import scene
from mlx_rcnn.layers import Conv2d, ConvTranspose2d, Linear

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]
from recipe import state_dict  # noqa: E402


def best(run: Callable[[], object], rounds: int = 4) -> float:
    """Least seconds of a few runs, after one that does not count."""
    mx.eval(run())
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        mx.eval(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Print the two times and the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="fasterrcnn_resnet50_fpn")
    name = parser.parse_args().model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        mx.save_safetensors(str(path), {k: mx.array(v) for k, v in state_dict(name).items()})
        model = mlx_rcnn.load(path)
    image = scene(800, 1088)
    whole = best(lambda: model.predict(image) and None)

    calls: list[tuple[Callable[..., mx.array], tuple[object, ...], list[tuple[int, ...]]]] = []

    def record(cls: type, method: str) -> Callable[..., mx.array]:
        original = getattr(cls, method)

        def call(self: object, *arrays: mx.array) -> mx.array:
            calls.append((original, (self,), [a.shape for a in arrays]))
            return original(self, *arrays)

        setattr(cls, method, call)
        return original

    places = ((Conv2d, "convolve"), (ConvTranspose2d, "__call__"), (Linear, "__call__"))
    originals = [record(*place) for place in places]
    model.predict(image)
    for (cls, method), original in zip(places, originals, strict=True):
        setattr(cls, method, original)

    inside = 0.0
    for function, owner, shapes in calls:
        arrays = [mx.random.normal(shape) for shape in shapes]
        mx.eval(arrays)
        inside += best(lambda f=function, o=owner, a=arrays: f(*o, *a))
    print(
        f"predict {whole * 1e3:.0f} ms, {len(calls)} convolutions and linears {inside * 1e3:.0f} ms"
    )
    print(f"outside: {max(0.0, 1 - inside / whole):.1%}")


if __name__ == "__main__":
    main()
