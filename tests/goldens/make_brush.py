"""Makes brush.json: masks as Label Studio's own converter encodes them for its brush.

    pip install label-studio-sdk  # 2.1.2 (its converter/brush.py needs NumPy and Pillow alone)
    python tests/goldens/make_brush.py

The masks are made again by the test, from the seeds.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

CASES = ((1, 1, 0.5), (3, 5, 0.5), (17, 9, 0.02), (40, 31, 0.9), (130, 140, 0.0), (260, 300, 1.0))


def mask(seed: int, height: int, width: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


def converter():
    """The module alone: its package imports much more."""
    where = next(
        Path(p, "label_studio_sdk/converter/brush.py")
        for p in sys.path
        if Path(p, "label_studio_sdk/converter/brush.py").exists()
    )
    spec = importlib.util.spec_from_file_location("brush", where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    theirs = converter()
    found = {}
    for seed, (height, width, share) in enumerate(CASES):
        pixels = mask(seed, height, width, share).astype(np.uint8) * 255
        rle = theirs.mask2rle(pixels)
        back = theirs.decode_rle(rle).reshape(height, width, 4)[..., 3]
        assert (back == pixels).all()
        found[f"{seed} {height} {width} {share}"] = base64.b64encode(bytes(rle)).decode()
    Path(__file__).with_name("brush.json").write_text(json.dumps(found, indent=1) + "\n")
