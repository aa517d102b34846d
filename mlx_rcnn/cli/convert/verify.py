"""``mlx_rcnn convert --verify``: the result read again and compared with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_rcnn.convert.checkpoint import Checkpoint, read_checkpoint

from ...checkpoints.export import export_state
from ...checkpoints.load import from_checkpoint, load
from ...checkpoints.weights import flat_parameters
from ...messages import listing, one_line
from ...models import Detector
from ...models.quantized import quantization_of

_SHORT_SIDE, _LONG_SIDE = 320, 480  # of the test image as the network sees it, to be quick
_BITS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


def verify(dest: Path, model: Detector, source: Checkpoint | None, to: str) -> bool:
    """Read what was written, compare it with the source and print; whether all is well."""
    try:
        # Every tensor is the source's, bit for bit or as the model's dtype rounds it, and an image
        # gives the same detections.
        return _verify(dest, model, source, to)
    except Exception as error:  # whatever it is, the user asked whether all is well
        print(f"verify: what was written cannot be compared: {one_line(error)}")
        return False


def _verify(dest: Path, model: Detector, source: Checkpoint | None, to: str) -> bool:
    if to == "mlx":
        again = load(dest)
        library = source.found.library if source and not quantization_of(model) else None
        got = export_state(again, library) if library else flat_parameters(again)
    else:
        written = read_checkpoint(dest, to)
        again, got = from_checkpoint(written), dict(written.state)  # its settings are in the file
        again.eval()
        library = to
    own = source is not None and library is not None and source.found.library == library
    wanted = source.state if source and own else None
    if wanted is None:
        wanted = export_state(model, to) if to != "mlx" else flat_parameters(model)
    source_s = own or (to == "mlx" and not quantization_of(model))
    same = _compare(wanted, got, "the source's" if source_s else "the model's")
    return _predict(model, again, to) and same


def _compare(wanted: Mapping[str, mx.array], got: Mapping[str, mx.array], whose: str) -> bool:
    """Compare tensor by tensor; a changed dtype must be the rounded original."""
    lost, added = [k for k in wanted if k not in got], [k for k in got if k not in wanted]
    shared = [k for k in wanted if k in got]
    cast = [k for k in shared if wanted[k].dtype != got[k].dtype]
    wrong = [k for k in shared if not _same_bits(wanted[k].astype(got[k].dtype), got[k])]
    equal = len(shared) - len(cast) - len([k for k in wrong if k not in cast])
    print(f"verify: {equal} of {len(wanted)} tensors are {whose}, bit for bit")
    if cast:
        largest = max(_change(wanted[k], got[k]) for k in cast)
        print(
            f"verify: {len(cast)} more were cast; the largest change is {largest:.1e} of a "
            "tensor's largest value"
        )
    for names, what in ((lost, "missing"), (added, "not in the source"), (wrong, "changed")):
        if names:
            print(f"verify: {what}: {listing(names)}")
    return not (lost or added or wrong)


def _same_bits(a: mx.array, b: mx.array) -> bool:
    kind = _BITS[a.dtype.size]
    return a.shape == b.shape and bool(mx.array_equal(a.view(kind), b.view(kind)))


def _change(a: mx.array, b: mx.array) -> float:
    wide, other = a.astype(mx.float32), b.astype(mx.float32)
    if not wide.size:
        return 0.0
    return float(mx.abs(wide - other).max() / mx.maximum(mx.abs(wide).max(), 1e-30))


def _predict(model: Detector, again: Detector, to: str) -> bool:
    """Run an image through both."""
    results = []
    for one in (model, again):
        config = one.config
        one.config = replace(config, min_size=_SHORT_SIDE, max_size=_LONG_SIDE)
        given = (_boxes(),) if one.needs_proposals else ()
        results.append(one.predict(_image(), *given, score_thresh=0.0)[0])
        one.config = config
    source, result = results
    same = source.keys() == result.keys() and all(
        np.array_equal(source[k], result[k]) for k in source
    )
    count = len(result["scores"])
    print(
        f"verify: a test image gives {count} detections, "
        + ("the same before writing and after reading" if same else "OTHERS than before writing")
    )
    return same


def _boxes() -> np.ndarray:
    """(P, 4) proposals on that image: windows of three sizes, for models that need some."""
    windows = [
        (x, y, x + side, y + side)
        for side in (60, 120, 200)
        for y in range(0, 241 - side, side // 2)
        for x in range(0, 321 - side, side // 2)
    ]
    return np.array(windows, np.float32)


def _image() -> np.ndarray:
    """(240, 320, 3) uint8: coloured boxes on a gradient, the same each time."""
    random = np.random.default_rng(0)
    ramp = np.linspace(40, 215, 320)[None, :, None]
    image = np.repeat(np.repeat(ramp, 240, axis=0), 3, axis=2)
    for _ in range(12):
        x, y = random.integers(0, 280), random.integers(0, 200)
        w, h = random.integers(20, 120, 2)
        image[y : y + h, x : x + w] = random.integers(0, 256, 3)
    return (image + random.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
