"""`predict` waits for the device at most three times a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import FasterRCNN
from mlx_rcnn.models import boxing
from small import photo

READS = (
    "item",
    "tolist",
    "__array__",
    "__buffer__",
    "__dlpack__",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
    "__repr__",
    "__str__",
    "__format__",
    "__bytes__",
    "__reduce__",
    "__getstate__",
)


class Counter:
    """How often the host waited: evaluations, and reads of arrays that were never evaluated.

    An array counts as evaluated after it went through ``mx.eval`` or a read. Arrays that were made
    from host data are not known to be, so the count errs upwards only.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.known: dict[int, mx.array] = {}  # held, so that no identity is used again

    def evaluated(self, *trees: object) -> None:
        for tree in trees:
            if isinstance(tree, mx.array):
                self.known[id(tree)] = tree
            elif isinstance(tree, dict):
                self.evaluated(*tree.values())
            elif isinstance(tree, list | tuple):
                self.evaluated(*tree)

    def read(self, how: str, array: mx.array) -> None:
        if id(array) not in self.known:
            self.waits.append(how)
        self.evaluated(array)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Counts every way Python has to make MLX wait, while a test runs."""
    count = Counter()

    def waits(name: str, function: Callable) -> Callable:
        def call(*trees, **options):
            count.waits.append(name)
            count.evaluated(trees)
            return function(*trees, **options)

        return call

    def reads(name: str, function: Callable) -> Callable:
        def call(array, *args, **options):
            if isinstance(array, mx.array):
                count.read(name, array)
            return function(array, *args, **options)

        return call

    for name in ("eval", "async_eval", "synchronize", "save", "save_safetensors"):
        monkeypatch.setattr(mx, name, waits(name, getattr(mx, name)))
    for name in READS:
        if name in vars(mx.array):
            monkeypatch.setattr(mx.array, name, reads(name, getattr(mx.array, name)))
    if "__buffer__" not in vars(mx.array):  # before Python 3.12 the buffer protocol has no name
        for name in ("array", "asarray", "ascontiguousarray"):
            monkeypatch.setattr(np, name, reads(name, getattr(np, name)))
    yield count


def lazy() -> mx.array:
    return mx.ones((2,)) + mx.ones((2,))


WAYS: dict[str, Callable[[mx.array], object]] = {
    "np.array": lambda a: np.array(a),
    "np.asarray": lambda a: np.asarray(a),
    "np.ascontiguousarray": lambda a: np.ascontiguousarray(a),
    "tolist": lambda a: a.tolist(),
    "item": lambda a: a[0].item(),
    "bool": lambda a: bool(a[0]),
    "if": lambda a: 1 if a[0] > 0 else 2,
    "all": lambda a: all(a > 0),
    "float": lambda a: float(a[0]),
    "int": lambda a: int(a[0]),
    "range": lambda a: range(a[0].astype(mx.int32)),
    "str": lambda a: str(a),
    "format": lambda a: f"{a}",
    "eval": lambda a: mx.eval({"key": [a]}),
    "async_eval": lambda a: mx.async_eval(a),
    "synchronize": lambda a: mx.synchronize(),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_counter_sees_every_read(counter: Counter, way: str) -> None:
    array = lazy()
    assert counter.waits == []
    WAYS[way](array)
    assert len(counter.waits) >= 1


def test_the_counter_tells_lazy_from_evaluated(counter: Counter) -> None:
    a, b = lazy(), lazy()
    mx.eval(a, [b])
    np.array(a)
    b.tolist()
    assert counter.waits == ["eval"]
    np.array(a + b)  # a new array, not evaluated: this waits
    assert len(counter.waits) == 2
    values = np.array([1.0, 2.0])  # not MLX's: free
    assert len(counter.waits) == 2 and values.sum() == 3


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_at_most_three_waits_a_batch(
    small_model: Callable[[str], FasterRCNN], counter: Counter, kind: str
) -> None:
    model, images = small_model(kind), [photo(), photo("stop.jpg")]
    model.predict(images)  # on a GPU the first call also tries the kernels
    counter.waits.clear()
    found = model.predict(images)
    assert all(len(result["scores"]) > 0 for result in found)
    assert 1 <= len(counter.waits) <= 3, counter.waits


def test_a_hidden_read_fails_the_test_above(
    small_model: Callable[[str], FasterRCNN], counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a stage that looks at its values, as a per-image loop would, is caught."""
    model, batch_rows = small_model("faster_rcnn"), boxing.batch_rows

    def peeking(boxes: mx.array) -> mx.array:
        for image in boxes:
            np.array(image)
            image.max().item()
        return batch_rows(boxes)

    monkeypatch.setattr(boxing, "batch_rows", peeking)
    model.predict([photo(), photo("stop.jpg")])
    assert len(counter.waits) >= 5, counter.waits
