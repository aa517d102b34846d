"""Write masks.npz: torchvision's pasted masks and pycocotools' RLE strings.

Needs torch, torchvision and pycocotools; the tests need only the file.
Made with torch 2.12.0 (x86-64, AVX2), torchvision 0.27.0 and pycocotools 2.0.11:

    python tests/goldens/make_masks.py

masks_detectron2.npz beside it holds outputs of paste_masks_in_image of detectron2 0.6 (mmdetection
3.3 gives the same), which is not remade here.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco
from torchvision.models.detection.roi_heads import paste_masks_in_image

IMAGE_SIZE = (110, 151)
BOXES = [
    [10.3, 5.2, 60.7, 50.1],
    [0.0, 0.0, 151.0, 110.0],  # the whole image
    [-30.5, -20.25, 190.0, 140.0],  # beyond it on every side
    [20.0, 40.0, 140.5, 41.0],  # wide and thin
    [150.2, 60.9, 151.0, 110.0],  # at the right border
    [64.0, 48.0, 64.4, 48.3],  # less than a pixel
    [33.5, 5.5, 33.5, 65.5],  # no width
    [70.25, 30.75, 100.5, 90.5],
]


def main() -> None:
    rng = np.random.default_rng(3)
    steps = rng.normal(size=(len(BOXES), 14, 14))
    masks = 1 / (1 + np.exp(-np.cumsum(np.cumsum(steps, axis=1), axis=2) / 2))
    masks[-1] = masks[-1].round()  # zeros and ones, for values equal to the threshold
    masks = masks.astype(np.float32)
    boxes = np.array(BOXES, np.float32)
    pasted = paste_masks_in_image(
        torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), IMAGE_SIZE
    )
    binary = (pasted[:, 0] > 0.5).numpy()
    counts = [coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in binary]
    np.savez_compressed(
        Path(__file__).with_name("masks.npz"),
        masks=masks,
        boxes=boxes,
        image_size=np.array(IMAGE_SIZE),
        pasted_packed=np.packbits(binary, axis=-1),
        counts=np.array(json.dumps([string.decode() for string in counts])),
    )


if __name__ == "__main__":
    main()
