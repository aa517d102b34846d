"""Cascades equal to detectron2's and mmdetection's: every stage, end to end, and their losses."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from cascade_goldens import compare_cascade, targets_of
from library_recipe import blobs, cascade_state
from mlx_rcnn import CascadeMaskRCNN, CascadeMaskRCNNConfig, CascadeRCNN
from mlx_rcnn.checkpoints.export import export_state
from mlx_rcnn.convert.checkpoint import read_checkpoint
from mlx_rcnn.convert.libraries.recognise import recognise, rules_of
from mlx_rcnn.convert.rename import rename, source_key
from mlx_rcnn.heads.sampling import box_loss, box_losses, match_rois, sample_rois
from mlx_rcnn.models.strides import Strides
from mlx_rcnn.ops import resize_pillow
from mlx_rcnn.structures import Proposals, Targets
from recipe import GOLDENS

LIBRARIES = ("detectron2", "mmdet")


@cache
def golden(library: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDENS / f"{library}_cascade_mask_blobs.npz"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each library, as it writes it."""
    folder = tmp_path_factory.mktemp("cascades")
    found = {}
    for library, name, wrapper in (
        ("detectron2", "x.pkl", "model"),
        ("mmdet", "x.pth", "state_dict"),
    ):
        found[library] = folder / f"{library}-{name}"
        content = {wrapper: cascade_state(library, "cascade_mask")}
        found[library].write_bytes(pickle.dumps(content, 2))
    return found


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_stage(files: dict[str, Path], library: str) -> None:
    model = mlx_rcnn.load(files[library], min_size=320)
    assert type(model) is CascadeMaskRCNN and model.config.num_classes == 81
    rows = compare_cascade(model, golden(library), blobs())
    assert len(rows) == (23 if library == "detectron2" else 20)
    assert [row for row in rows if not row.within] == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_there_and_back_is_the_same_file(files: dict[str, Path], library: str) -> None:
    name = {"mmdet": "mmdetection"}.get(library, library)
    found = read_checkpoint(files[library])
    model = mlx_rcnn.load(files[library])
    state = export_state(model, name)
    assert list(state) and set(state) == set(found.state)
    for key, value in found.state.items():
        assert mx.array_equal(value, state[key]).item(), key


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_masks_it_is_a_cascade_of_boxes(library: str) -> None:
    state = {k: mx.array(v) for k, v in cascade_state(library, "cascade").items()}
    name = {"mmdet": "mmdetection"}.get(library, library)
    found = recognise(state, name)
    assert found.model == "cascade_rcnn" and f"{name} Cascade R-CNN, ResNet-50" in found.note
    weights = rename(state, found.rules).weights
    assert weights["roi_heads.box_head.2.fc6.weight"].shape == (1024, 12544)


def test_losses_are_detectron2s(files: dict[str, Path]) -> None:
    """Every proposal is sampled, so nothing is random; its RPN divides by another number."""
    want = golden("detectron2")
    theirs = dict(zip(want["loss_names"].tolist(), want["loss_values"].tolist(), strict=True))
    model, image, target = training(files["detectron2"])
    losses = {k: v.item() for k, v in model.get_loss(image, target, key=mx.random.key(0)).items()}
    for ours, parts in (("roi_cls_loss", "loss_cls"), ("roi_reg_loss", "loss_box_reg")):
        total = sum(theirs[f"{parts}_stage{k}"] for k in range(3))
        assert losses[ours] == pytest.approx(total, rel=2e-5)
    assert losses["mask_loss"] == pytest.approx(theirs["loss_mask"], rel=2e-5)
    ratio = losses["rpn_cls_loss"] / theirs["loss_rpn_cls"]
    assert losses["rpn_reg_loss"] == pytest.approx(ratio * theirs["loss_rpn_loc"], rel=1e-4)


def training(path: Path) -> tuple[Any, list[np.ndarray], list[dict[str, np.ndarray]]]:
    """The model as the golden trained it, its image and targets."""
    model = mlx_rcnn.load(
        path,
        min_size=320,
        rpn_batch_size_per_image=10**7,
        box_batch_size_per_image=10**5,
        box_positive_fraction=0.5,
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=300,
    )
    size = tuple(golden("detectron2")["resized_hw"].tolist())
    return model, [np.asarray(resize_pillow(blobs(), size))], [targets_of(golden("detectron2"))]


@pytest.mark.slow
def test_gradients_are_detectron2s(files: dict[str, Path]) -> None:
    want = golden("detectron2")
    theirs = dict(zip(want["loss_names"].tolist(), want["loss_values"].tolist(), strict=True))
    norms = dict(zip(want["grad_names"].tolist(), want["grad_norms"].tolist(), strict=True))
    model, image, target = training(files["detectron2"])
    model.unfreeze()

    def total(net: Any) -> mx.array:
        losses = net.get_loss(image, target, key=mx.random.key(0))
        rpn = mx.stop_gradient(theirs["loss_rpn_cls"] / losses["rpn_cls_loss"])
        heads = losses["roi_cls_loss"] + losses["roi_reg_loss"] + losses["mask_loss"]
        return heads + rpn * (losses["rpn_cls_loss"] + losses["rpn_reg_loss"])

    _, gradients = nn.value_and_grad(model, total)(model)
    rules, seen = rules_of("detectron2", True), 0
    for name, value in tree_flatten(gradients):
        key, _ = source_key(name, rules)
        norm = float(np.linalg.norm(np.array(value).astype(np.float64)))
        assert norm == pytest.approx(norms[str(key)], rel=2e-3), key
        seen += 1
    assert seen == len(norms) == 111


def rule_of_mmdetection() -> tuple[CascadeMaskRCNN, dict[str, np.ndarray]]:
    """A cascade with the layers of cascade_losses.npz, on its one map."""
    want = dict(np.load(GOLDENS / "cascade_losses.npz"))

    class OneMap(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            return mx.array(want["feature"].transpose(0, 2, 3, 1))

    config = CascadeMaskRCNNConfig(
        OneMap(),
        8,
        5,
        hidden_dim=16,
        mask_hidden_channels=8,
        mask_num_convs=1,
        dropout=0.0,
        anchor_stride=4,
        roi_levels=1,
        roi_aligned=True,
        roi_sampling_ratio=0,
        bbox_clamp_both=True,
        box_batch_size_per_image=10**5,
        box_positive_fraction=0.9,
        box_reg_loss="smooth_l1",
        box_smooth_l1_beta=1.0,
        mask_paste_rule="detectron2",
        cascade_mask_heads=True,
        cascade_loss_weights=(1.0, 0.5, 0.25),
        cascade_reg_weights=(
            (10, 10, 5, 5),
            (20, 20, 10, 10),
            tuple(1 / v for v in (0.033, 0.033, 0.067, 0.067)),
        ),
    )
    model = CascadeMaskRCNN(config)
    state = {}
    for key, value in want.items():
        if key[:1].isdigit():
            part = "mask_head" if "conv" in key or "upsample" in key else "bbox_head"
            state[f"roi_head.{part}.{key}"] = mx.array(value)
    weights = rename(state, rules_of("mmdetection", True)).weights
    model.load_weights(list(weights.items()), strict=False)
    return model, want


def test_losses_are_mmdetections() -> None:
    """Its rules written again in torch: tests/goldens/make_cascade_losses.py."""
    model, want = rule_of_mmdetection()
    count = len(want["proposals"])
    targets = Targets(
        mx.array(want["boxes"])[None],
        mx.array(want["labels"].astype(np.int32) + 1)[None],
        mx.ones((1, 3)) > 0,
        mx.array(want["masks"].astype(np.uint8))[None],
    )
    given = Proposals(
        mx.array(want["proposals"])[None], mx.ones((1, count)), mx.ones((1, count)) > 0, mx.array(1)
    )
    features = model.features(mx.zeros((1, 64, 96, 3)))
    stage = model.stage(features, Strides([((4.0, 4.0),)], [(0.25,)]))
    keys = (mx.random.key(0), mx.random.key(1))
    sizes = mx.array([[64.0, 96.0]])
    learned = model.box_training(stage, given, targets, sizes, keys, None)
    masks = model.branches[0].loss(stage, learned.rois, targets, None)
    got = [learned.losses["roi_cls_loss"], learned.losses["roi_reg_loss"], masks]
    total = (want["losses"] * np.array([[1], [0.5], [0.25]])).sum(axis=0)
    np.testing.assert_allclose(
        [v.item() for v in got], total, rtol=1e-4
    )  # of a mask one pixel may round


def test_boxes_between_stages_are_kept_or_sampled_anew() -> None:
    """detectron2 keeps all rows; mmdetection appends the targets' boxes to each sample."""
    model, want = rule_of_mmdetection()
    targets = Targets(
        mx.array(want["boxes"])[None],
        mx.array(want["labels"].astype(np.int32) + 1)[None],
        mx.array([[True, True, False]]),
        None,
    )
    boxes = mx.array(np.concatenate([want["boxes"][::-1], [[0, 0, 3, 3]]]).astype(np.float32))[None]
    valid = mx.array([[True, True, True, True]])
    given = Proposals(boxes, valid.astype(mx.float32), valid, mx.array(True))
    rule = model.config.box_stages[0]
    kept = match_rois(given, targets, rule)
    # The third target is padding: its box is background. Positives stand first.
    assert kept.labels[0].tolist() == [4, 1, 0, 0] and kept.matched[0, :2].tolist() == [1, 0]
    assert kept.positive[0].tolist() == [True, True, False, False]
    assert not mx.any(kept.appended).item()
    sampled = sample_rois(given, targets, model.config, mx.random.key(0), rule)
    assert (
        mx.sum(sampled.valid).item() == 6 and mx.sum(sampled.appended & sampled.valid).item() == 2
    )
    logits, deltas = mx.zeros((1, 4, 5)), mx.zeros((1, 4, 4))
    loss = box_losses(logits, deltas, kept, None, box_loss(model.config, rule))
    assert loss[0].item() == pytest.approx(np.log(5), rel=1e-5) and loss[1].item() == 0
    assert type(model) is not CascadeRCNN
