"""Losses and the gradient of every parameter equal torchvision's, on the golden of make_losses.py.

Everything is sampled there, so nothing random is left.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
import recipe
from mlx_rcnn import FasterRCNN
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from recipe import GOLDENS
from small import photo, to_torch

GOLDEN = np.load(GOLDENS / "losses.npz")
NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
OPTIONS = {  # as make_losses.py
    "min_size": 160,
    "max_size": 260,
    "rpn_batch_size_per_image": 100_000,
    "box_batch_size_per_image": 5000,
    "rpn_positive_fraction": 0.5,
    "box_positive_fraction": 0.5,
    "rpn_pre_nms_top_n_train": 300,
    "rpn_post_nms_top_n_train": 300,
}
LOSSES = {
    "rpn_cls_loss": "loss_objectness",
    "rpn_reg_loss": "loss_rpn_box_reg",
    "roi_cls_loss": "loss_classifier",
    "roi_reg_loss": "loss_box_reg",
    "mask_loss": "loss_mask",
}
NORMS = ("bn1", "bn2", "bn3", "downsample.1")  # frozen


def build(name: str) -> FasterRCNN:
    """Torchvision's network as make_losses.py has it."""
    model = getattr(mlx_rcnn, name)(**OPTIONS)
    state = {k: mx.array(v) for k, v in recipe.state_dict(name, recipe.fill_alive).items()}
    assign(model, rename(state, RULES).weights, name)
    return model.eval()


def run(model: FasterRCNN, case: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Losses, and gradients by torch's names in its layout."""
    keys = ("boxes", "labels", "masks")
    goals = [{key: GOLDEN[f"{case}/{i}/{key}"] for key in keys} for i in (0, 1)]
    images = [photo("deck.jpg"), photo("stop.jpg")]

    def total() -> tuple[mx.array, dict[str, mx.array]]:
        losses = model.get_loss(images, goals, key=mx.random.key(0))
        return losses["total_loss"], losses

    (_, losses), gradients = nn.value_and_grad(model, total)()
    mx.eval(losses, gradients)
    named = dict(to_torch(key, value, 7) for key, value in tree_flatten(gradients))
    return {k: v.item() for k, v in losses.items()}, {k: np.array(v) for k, v in named.items()}


def check_gradient(gradient: np.ndarray, prefix: str, key: str) -> float:
    """Error over the bound: 1e-3 of the tensor's own size; with masks, or twice torch's own noise.

    Torch without oneDNN, or with pixels moved by 1e-6, differs from itself by up to 1e-2 over these
    samples: rounding puts some activations on the other side of a ReLU's kink, and one step of a
    sum in or out is more than 1e-3 of a small tensor.
    """
    size, noise = GOLDEN[f"{prefix}/of/{key}"].tolist()
    wanted, got = GOLDEN[f"{prefix}/gradient/{key}"], gradient.ravel()[GOLDEN[f"where/{key}"]]
    error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
    error = max(error, abs(np.linalg.norm(gradient) - size) / size)
    return float(error / (max(1e-3, 2 * noise) if "mask" in prefix else 1e-3))


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (NAMES[0], "one"),
        (NAMES[1], "both"),
        pytest.param(NAMES[0], "both", marks=pytest.mark.slow),
        pytest.param(NAMES[1], "one", marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients(name: str, case: str) -> None:
    losses, gradients = run(build(name), case)
    prefix = f"{case}/{name}"
    expected = {
        ours: float(GOLDEN[f"{prefix}/{theirs}"])
        for ours, theirs in LOSSES.items()
        if f"{prefix}/{theirs}" in GOLDEN.files
    }
    assert set(losses) == {*expected, "total_loss"}
    for key, value in expected.items():
        assert losses[key] == pytest.approx(value, rel=1e-4), key
    assert losses["total_loss"] == pytest.approx(sum(expected.values()), rel=1e-4)

    start = f"{prefix}/of/"
    keys = {key.removeprefix(start) for key in GOLDEN.files if key.startswith(start)}
    learned = {key for key in gradients if not any(f".{norm}." in key for norm in NORMS)}
    assert learned == keys
    errors = {key: check_gradient(gradients[key], prefix, key) for key in keys}
    worst = sorted(errors, key=errors.get, reverse=True)[:5]
    assert errors[worst[0]] <= 1, {key: errors[key] for key in worst}
