"""Keypoint R-CNN equals torchvision's, on the golden of make_keypoints.py: a small network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import KeypointRCNN, ResNetFPNConfig
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.convert.libraries.architecture import Hints
from mlx_rcnn.convert.libraries.recognise import recognise
from mlx_rcnn.convert.libraries.torchvision import RULES
from mlx_rcnn.convert.rename import rename
from mlx_rcnn.heads import KeypointBranch, keypoint_targets
from mlx_rcnn.inputs.transform import keypoints_to_original, preprocess
from mlx_rcnn.ops import heatmaps_to_keypoints
from recipe import GOLDENS, fill, fill_alive, shapes
from reference import match_detections
from small import photo, recipe_state, to_torch
from test_torchvision_losses import LOSSES, NORMS, OPTIONS

GOLDEN = np.load(GOLDENS / "keypoints.npz")
FEW = {"rpn_pre_nms_top_n_train": 40, "rpn_post_nms_top_n_train": 40}  # as make_keypoints.py
PHOTOS = ("deck.jpg", "stop.jpg", "dogs.jpg")


def part(name: str) -> dict[str, np.ndarray]:
    """The arrays below one name."""
    found = [key for key in GOLDEN.files if key.startswith(f"{name}/")]
    return {key.removeprefix(f"{name}/"): GOLDEN[key] for key in found}


@cache
def model(weights=fill) -> KeypointRCNN:
    """The network of make_keypoints.py."""
    backbone = ResNetFPNConfig(
        depth=18, num_classes=0, norm="frozen", norm_eps=0.0, out_channels=32
    )
    built = KeypointRCNN(
        backbone,
        32,
        2,
        use_fpn=True,
        hidden_dim=64,
        dropout=0.0,
        min_size=96,
        max_size=160,
        num_keypoints=5,
        keypoint_layers=(32, 48, 32),
    )
    assign(built, rename(recipe_state(built, weights), RULES).weights, "the recipe")
    return built.eval()


def test_heatmaps() -> None:
    golden = part("decode")
    maps = golden["maps"].astype(np.float32)
    keypoints, scores = heatmaps_to_keypoints(maps, golden["rois"])
    assert keypoints.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(keypoints, golden["keypoints"], atol=1e-4)
    np.testing.assert_allclose(scores, golden["scores"], atol=1e-4)


def test_targets() -> None:
    golden = part("targets")
    assert 0.2 < golden["valid"].mean() < 0.8
    cells, valid = keypoint_targets(mx.array(golden["points"]), mx.array(golden["rois"]), 56)
    np.testing.assert_array_equal(np.array(valid), golden["valid"].astype(bool))
    np.testing.assert_array_equal(np.array(cells), golden["cells"])


def test_keypoints_of_the_same_boxes() -> None:
    net, images = model(), [photo(name) for name in PHOTOS]
    batch = preprocess(images, net.config)
    features = net.features(batch.pixels)
    stage = net.stage(features, net.strides(features, batch))
    for i in range(len(images)):
        golden, size, original = part(f"found/{i}"), batch.sizes[i], batch.original_sizes[i]
        rois = mx.array(np.insert(golden["rois"], 0, i, axis=1))
        heatmaps = np.array(KeypointBranch().outputs(stage, rois))
        keypoints, scores = heatmaps_to_keypoints(heatmaps, golden["rois"])
        keypoints = keypoints_to_original(keypoints, size, original)
        assert np.abs(scores - golden["keypoints_scores"]).max() <= 1e-3
        assert np.abs(keypoints - golden["keypoints"]).max() <= 0.5


def test_detections() -> None:
    """From end to end, where torch without oneDNN moves logits by up to 0.02 against itself."""
    results = model().predict([photo(name) for name in PHOTOS])
    for i, found in enumerate(results):
        golden = part(f"found/{i}")
        expected = {key: golden[key] for key in ("boxes", "scores", "labels")}
        result = match_detections(expected, found, 0.05, 100)
        assert len(golden["scores"]) >= 30
        assert result["share"] >= 0.97
        assert result["score_error"] <= 2e-3
        distance = np.abs(found["boxes"][None] - golden["boxes"][:, None]).max(axis=2)
        near, own = distance.min(axis=1) <= 0.5, distance.argmin(axis=1)
        error = np.abs(found["keypoints_scores"][own] - golden["keypoints_scores"])[near]
        assert error.max() <= 0.03 and np.median(error) <= 1e-3
        moved = np.abs(found["keypoints"][own] - golden["keypoints"])[near].max(axis=2)
        assert (moved <= 0.5).mean() >= 0.99  # two places of a heatmap may tie


def losses_and_gradients(case: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    goals = [
        {key: GOLDEN[f"{case}/{i}/{key}"] for key in ("boxes", "labels", "keypoints")}
        for i in (0, 1)
    ]
    net, images = model(fill_alive), [photo(name) for name in PHOTOS[:2]]
    config = net.config
    net.config = replace(config, **{**OPTIONS, **FEW})

    def total() -> tuple[mx.array, dict[str, mx.array]]:
        losses = net.get_loss(images, goals, key=mx.random.key(0))
        return losses["total_loss"], losses

    try:
        (_, losses), gradients = nn.value_and_grad(net, total)()
        mx.eval(losses, gradients)
    finally:
        net.config = config
    named = dict(to_torch(key, value, 7) for key, value in tree_flatten(gradients))
    return {k: v.item() for k, v in losses.items()}, {k: np.array(v) for k, v in named.items()}


@pytest.mark.parametrize("case", ["both", "one", "hidden"])
def test_losses_and_gradients(case: str) -> None:
    losses, gradients = losses_and_gradients(case)
    names = {k: v for k, v in LOSSES.items() if k != "mask_loss"} | {
        "keypoint_loss": "loss_keypoint"
    }
    expected = {ours: float(GOLDEN[f"{case}/{theirs}"]) for ours, theirs in names.items()}
    for key, value in expected.items():
        assert losses[key] == pytest.approx(value, rel=1e-4), key
    assert losses["total_loss"] == pytest.approx(sum(expected.values()), rel=1e-4)
    if case == "hidden":
        branch = [v for k, v in gradients.items() if "keypoint" in k]
        assert len(branch) == 8 and not any(v.any() for v in branch)
    if case != "both":
        return
    learned = {key for key in gradients if not any(f".{norm}." in key for norm in NORMS)}
    assert learned == {key.removeprefix("of/") for key in GOLDEN.files if key.startswith("of/")}
    errors = {}
    for key in learned:
        size, noise = GOLDEN[f"of/{key}"].tolist()
        wanted = GOLDEN[f"gradient/{key}"]
        error = np.linalg.norm(gradients[key].ravel()[GOLDEN[f"where/{key}"]] - wanted)
        error = max(error / np.linalg.norm(wanted), abs(np.linalg.norm(gradients[key]) / size - 1))
        # As in test_torchvision_losses.py. A shift of a whole heatmap changes no softmax, so that
        # the gradient of the last bias is rounding alone.
        errors[key] = float(error / max(1e-3, 2 * noise)) if size > 1e-5 else 0.0
    worst = sorted(errors, key=errors.get, reverse=True)[:5]
    assert errors[worst[0]] <= 1, {key: errors[key] for key in worst}


def test_the_published_files_are_recognised() -> None:
    state = {key: mx.zeros(shape) for key, shape in shapes("keypointrcnn_resnet50_fpn").items()}
    found = recognise(state, hints=Hints(coco=True))
    assert found.model == "keypoint_rcnn" and "17 keypoints" in found.note
    assert found.detector["class_names"] == ("__background__", "person")
    assert found.detector["keypoint_names"][5] == "left_shoulder"
    built = mlx_rcnn.keypointrcnn_resnet50_fpn()
    assert built.config.class_names is None and built.config.keypoint_layers == (512,) * 8
    assign(built, rename(state, found.rules).weights, "the keys")
