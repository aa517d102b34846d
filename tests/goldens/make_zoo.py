"""Write zoo_*.npz and keys_*.txt of torchvision's v2 and MobileNetV3 models.

Weights are recipe.py's. Needs torch and torchvision; the tests need only the files. Made
with torch 2.12.0 (x86-64, AVX2) and torchvision 0.27.0:

    python tests/goldens/make_zoo.py

Arrays are kept as in make_torchvision.py. Faster and Mask R-CNN v2 share all but the mask branch,
and the two MobileNetV3 models their network, both of which is checked here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision_reference as reference
from make_torchvision import packed
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo import CASES, PHOTOS

HERE = Path(__file__).parent


def write_keys(name: str, model: torch.nn.Module) -> None:
    lines = [f"{k} {'x'.join(map(str, v.shape))}\n" for k, v in model.state_dict().items()]
    path = HERE / f"keys_{name.replace('_320_fpn', '_fpn')}.txt"
    if "_320_fpn" in name:
        assert path.read_text() == "".join(lines)
    path.write_text("".join(lines))


def main() -> None:
    torch.set_num_threads(1)
    images = [np.array(Image.open(HERE / "images" / name)) for name in PHOTOS]
    for name, options in CASES.items():
        model = reference.build(name, **options)
        write_keys(name, model)
        stages = reference.run(model, images)
        print(name, *(len(stages[f"scores_{i}"]) for i in range(len(images))))
        if name == "fasterrcnn_resnet50_fpn_v2":
            shared = stages
            continue
        if name == "maskrcnn_resnet50_fpn_v2":
            for stage, value in shared.items():
                np.testing.assert_array_equal(value, stages[stage], err_msg=stage)
        path = HERE / f"zoo_{name}.npz"
        np.savez_compressed(path, **packed(stages))
        print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
