"""Losses and gradients of torchvision's v2 and MobileNetV3 models, on make_zoo_losses.py's golden.

Everything is sampled there, so nothing random is left.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
import recipe
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from mlx_rcnn.layers import BatchNorm
from recipe import GOLDENS
from small import photo
from test_torchvision_losses import GOLDEN as TARGETS
from test_torchvision_losses import LOSSES, OPTIONS

GOLDEN = np.load(GOLDENS / "zoo_losses.npz")
CASES = [
    ("fasterrcnn_mobilenet_v3_large_fpn", "eval"),
    ("fasterrcnn_mobilenet_v3_large_fpn", "train"),
    pytest.param("maskrcnn_resnet50_fpn_v2", "train", marks=pytest.mark.slow),
]


def build(name: str, mode: str) -> nn.Module:
    """In training mode with the recipe's weights; all learns but frozen norms."""
    norm = {"norm": "batch"} if mode == "train" else {}
    model = getattr(mlx_rcnn, name)(**OPTIONS, **norm)
    state = {key: mx.array(value) for key, value in recipe.state_dict(name).items()}
    assign(model, rename(state, RULES).weights, name)
    model.train()
    for part in model.modules():
        if isinstance(part, BatchNorm) and mode == "eval":
            part.eval()
    return model


def run(model: nn.Module) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    goals = [{k: TARGETS[f"both/{i}/{k}"] for k in ("boxes", "labels", "masks")} for i in (0, 1)]

    def total() -> tuple[mx.array, dict[str, mx.array]]:
        images = [photo("deck.jpg"), photo("stop.jpg")]
        losses = model.get_loss(images, goals, key=mx.random.key(0))
        return losses["total_loss"], losses

    (_, losses), gradients = nn.value_and_grad(model, total)()
    mx.eval(losses, gradients, model.parameters())
    return losses, dict(tree_flatten(gradients))


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_losses_and_gradients(name: str, mode: str) -> None:
    model = build(name, mode)
    losses, gradients = run(model)
    golden = {
        k.removeprefix(f"{name}/{mode}/"): GOLDEN[k]
        for k in GOLDEN.files
        if k.startswith(f"{name}/{mode}/")
    }
    expected = {ours: float(golden[theirs]) for ours, theirs in LOSSES.items() if theirs in golden}
    assert set(losses) == {*expected, "total_loss"}
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4), key

    parameters = dict(tree_flatten(model.parameters()))
    statistics = [key for key in golden if ".running_" in key]
    assert (len(statistics) >= 2) == (mode == "train")
    for key in statistics:
        (ours,) = rename({key: mx.array(golden[key])}, RULES).weights
        np.testing.assert_allclose(np.array(parameters[ours]), golden[key], rtol=1e-4, atol=1e-6)

    keys = [k.split("/")[1] for k in golden if k.startswith("gradient/") and k.count("/") == 1]
    assert len(keys) >= 8
    shapes = recipe.shapes(name)
    for key in keys:
        where = golden[f"gradient/{key}/where"]
        size, noise = golden[f"gradient/{key}/of"].tolist()
        # Their places in our layout: rename an array that numbers torch's
        number = np.arange(np.prod(shapes[key]), dtype=np.float32).reshape(shapes[key])
        ((ours, order),) = rename({key: mx.array(number)}, RULES).weights.items()
        gradient = np.array(gradients[ours]).ravel()
        place = np.empty(gradient.size, np.int64)
        place[np.array(order).ravel().astype(np.int64)] = np.arange(gradient.size)
        wanted = golden[f"gradient/{key}"]
        error = np.linalg.norm(gradient[place[where]] - wanted) / np.linalg.norm(wanted)
        error = max(error, abs(np.linalg.norm(gradient) - size) / size)
        # Twice torch's own: with oneDNN off, or the input moved by 1e-6
        assert error <= max(1e-3, 2 * noise), key


def test_batch_norm_over_rois_takes_those_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """More room for RoIs than there are: the rows left empty must change nothing."""
    options = {**OPTIONS, "box_head_convs": 1, "box_head_norm": "batch", "mask_head_norm": "batch"}
    options |= {"hidden_dim": 16, "mask_hidden_channels": 8, "mask_num_convs": 1, "use_fpn": True}
    backbone = mlx_rcnn.ResNetFPNConfig(18, 0, width=8, out_channels=8, fpn_norm="batch")
    found = []
    for room in (120, 900):
        mx.random.seed(0)
        model = partial(mlx_rcnn.MaskRCNN, backbone, 8, 91, dropout=0.0)(
            **{**options, "box_batch_size_per_image": room, "rpn_post_nms_top_n_train": 50}
        ).train()
        losses, gradients = run(model)
        heads = model.roi_heads
        found.append(
            (
                losses["total_loss"],
                heads.box_head.norms[0].running_var,
                heads.mask_head.norms[0].running_var,
                gradients["roi_heads.box_head.convs.0.weight"],
            )
        )
    for few, many in zip(*found, strict=True):
        np.testing.assert_allclose(np.array(many), np.array(few), rtol=1e-4, atol=1e-6)
