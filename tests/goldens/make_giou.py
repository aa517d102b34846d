"""Losses of boxes by torchvision, for tests/ops/test_losses.py.

    python tests/goldens/make_giou.py      # torch 2.12.0, torchvision 0.27.0

writes giou.npz: ``prediction`` and ``target`` (R, 4), ``loss`` (R,) of
``torchvision.ops.generalized_box_iou_loss``, ``gradient`` (R, 4) of its sum by the prediction, and
``smooth_l1_{beta}`` of torch's ``smooth_l1_loss`` of the same numbers, with ``l1`` for beta 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import generalized_box_iou_loss


def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    corner, side = rng.uniform(0, 60, (2, 40, 2)), rng.uniform(1, 40, (2, 40, 2))
    a, b = np.concatenate([corner, corner + side], axis=2).astype(np.float32)
    a[:10] = b[:10] + rng.normal(0, 2, (10, 4)).astype(np.float32)  # near
    a[10] = b[10]  # the same
    a[11], b[11] = [0, 0, 10, 10], [10, 0, 20, 10]  # touching
    a[12], b[12] = [0, 0, 10, 10], [2, 2, 4, 4]  # inside
    a[13], b[13] = [5, 5, 5, 9], [0, 0, 10, 10]  # no width
    a[14], b[14] = [3, 3, 3, 3], [3, 3, 3, 3]  # a point, twice
    a[15], b[15] = [0, 0, 1e4, 1e4], [5e3, 5e3, 2e4, 2e4]
    return a, b


def main() -> None:
    a, b = pairs()
    prediction, target = torch.from_numpy(a).requires_grad_(), torch.from_numpy(b)
    loss = generalized_box_iou_loss(prediction, target)
    loss.sum().backward()
    out = {"prediction": a, "target": b, "loss": loss.detach().numpy()}
    out["gradient"] = prediction.grad.numpy()
    for beta in (0.0, 1 / 9, 1.0):
        error = smooth_l1_loss(prediction, target, beta=beta, reduction="none")
        out["l1" if beta == 0 else f"smooth_l1_{beta:.2f}"] = error.detach().numpy()
    np.savez_compressed(Path(__file__).with_name("giou.npz"), **out)


if __name__ == "__main__":
    main()
