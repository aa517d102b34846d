"""Write resize.npz: small images resized by torch, Pillow and OpenCV.

Needs torch, opencv-python-headless and Pillow; the tests need only the file.
Made with torch 2.12.0 (x86-64, AVX2), opencv 4.14.0 (5.0.0 gives the same) and Pillow 13.0.0:

    python tests/goldens/make_resize.py
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

# (H, W, C), then the sizes asked for: up, down, mixed, exact half, a line of pixels, and outputs
# of height + width above 128, for which torch has another kernel.
CASES = [
    ((13, 18, 3), [(16, 21), (7, 9), (5, 25), (6, 9), (1, 1), (3, 126)]),
    ((24, 30, 1), [(12, 15), (23, 31), (150, 5)]),
    ((1, 1, 3), [(3, 2)]),
    ((1, 17, 3), [(2, 9)]),
    ((200, 3, 1), [(120, 10)]),
]


def main() -> None:
    rng = np.random.default_rng(7)
    arrays = {}
    for number, (shape, sizes) in enumerate(CASES):
        image = rng.integers(0, 256, shape).astype(np.uint8)
        arrays[f"{number}_image"] = image
        for height, width in sizes:
            name = f"{number}_{height}x{width}"
            batch = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None].contiguous()
            resized = torch.nn.functional.interpolate(
                batch, size=(height, width), mode="bilinear", align_corners=False
            )
            arrays[f"{name}_torch"] = resized[0].permute(1, 2, 0).contiguous().numpy()
            plane = image if shape[2] == 3 else image[..., 0]
            pillow = np.asarray(Image.fromarray(plane).resize((width, height), Image.BILINEAR))
            arrays[f"{name}_pillow"] = pillow.reshape(height, width, shape[2])
            opencv = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            arrays[f"{name}_opencv"] = opencv.reshape(height, width, shape[2])
    np.savez_compressed(Path(__file__).with_name("resize.npz"), **arrays)


if __name__ == "__main__":
    main()
