"""detectron2's C4 and DC5 models against its rules in plain torch (goldens/make_one_map.py)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_rcnn
from library_goldens import background_last, nchw, pair
from library_recipe import blobs, one_map_state
from mlx_rcnn import FasterRCNN, MaskRCNN, ResNetConfig
from mlx_rcnn.checkpoints.export import export_state
from mlx_rcnn.config.detector import MaskRCNNConfig
from mlx_rcnn.convert.libraries.detectron2 import ONE_MAP_RULES, recognise
from mlx_rcnn.convert.rename import rename, rename_back
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.structures import Proposals
from mlx_rcnn.training import set_trainable
from recipe import GOLDENS
from reference import match_boxes

kinds = pytest.mark.parametrize("kind", ["c4", "dc5"])
Models = Callable[[str], FasterRCNN]


@cache
def golden(kind: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDENS / f"detectron2_{kind}.npz"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By kind: through a file of detectron2, for an image that is not resized."""

    @cache
    def get(kind: str) -> FasterRCNN:
        path = tmp_path_factory.mktemp(kind) / "model.pkl"
        path.write_bytes(pickle.dumps({"model": one_map_state(kind)}, 2))
        return mlx_rcnn.load(path, min_size=203)

    return get


@kinds
def test_what_was_built(models: Models, kind: str) -> None:
    model = models(kind)
    assert type(model) is (MaskRCNN if kind == "c4" else FasterRCNN)
    assert f"ResNet-50 {kind.upper()}, 80 classes" in str(model.source)
    net = model.backbone.config
    assert isinstance(net, ResNetConfig) and net.stride_in_1x1
    assert (net.last_stage, net.dilated) == ((3, False) if kind == "c4" else (4, True))
    config = model.config
    assert (config.anchor_stride, config.size_divisible) == (16, 1)
    assert config.rpn_pre_nms_top_n_test == 6000
    assert config.pool_size == ((14, 14) if kind == "c4" else (7, 7))


@kinds
def test_every_stage(models: Models, kind: str) -> None:
    model, want = models(kind), golden(kind)
    batch = preprocess([blobs(203, 250)], model.config)
    assert batch.pixels.shape == (1, 203, 250, 3)  # not padded
    features = model.features(batch.pixels)
    strides = model.strides(features, batch)
    assert len(features) == 1
    np.testing.assert_allclose(nchw(features[0])[0, ::3], want["map"], atol=2e-4)
    outputs = model.rpn(features, model.anchors(features, strides))
    for values, name, size in ((outputs.logits, "logits", 1), (outputs.deltas, "deltas", 4)):
        # ours go by ratio and then size, theirs by size and then ratio
        grid = np.array(values[0]).reshape(13, 16, 3, 5, size).transpose(3, 2, 4, 0, 1)
        ours = grid.reshape(-1, 13, 16)[::3]
        np.testing.assert_allclose(ours, want[f"rpn_{name}"], atol=2e-4)
    proposals = model.propose(features, batch, strides)
    boxes = np.array(proposals.boxes[0])[np.array(proposals.valid[0])]
    assert match_boxes(want["proposals"], boxes, 0.5) >= 0.99
    assert match_boxes(boxes, want["proposals"], 0.5) >= 0.99
    theirs = mx.array(want["proposals"])[None]
    given = Proposals(theirs, mx.ones((1, 1000)), mx.ones((1, 1000), mx.bool_), mx.array(True))
    stage = model.stage(features, strides)
    logits, deltas = (np.array(v[0, :50]) for v in model.box_outputs(stage, given))
    np.testing.assert_allclose(background_last(logits), want["cls_logits"], atol=1e-3)
    np.testing.assert_allclose(background_last(deltas, 4), want["box_deltas"], atol=5e-4)


@kinds
def test_detections(models: Models, kind: str) -> None:
    model, want = models(kind), golden(kind)
    found = model.predict(blobs(203, 250), **({"masks": "raw"} if kind == "c4" else {}))[0]
    pairs = pair(found, want)
    assert len(found["scores"]) == len(want["det_scores"]) == 100 and len(pairs) >= 97
    ours, theirs = ([p[i] for p in pairs] for i in (0, 1))
    assert np.abs(found["scores"][ours] - want["det_scores"][theirs]).max() <= 2e-3
    if kind == "c4":
        assert found["masks"].shape == (100, 14, 14)
        assert np.abs(found["masks"][ours] - want["mask_probs"][theirs]).max() <= 1e-2


@kinds
def test_saved_and_loaded(models: Models, folder: Path, kind: str) -> None:
    model = models(kind)
    mlx_rcnn.save(model, folder / "saved")
    again = mlx_rcnn.load(folder / "saved")
    assert again.backbone.config == model.backbone.config
    for a, b in zip(model.predict(blobs(203, 250)), again.predict(blobs(203, 250)), strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@kinds
def test_back_to_detectron2(models: Models, kind: str) -> None:
    back, source = export_state(models(kind), "detectron2"), one_map_state(kind)
    assert back.keys() == source.keys()
    assert all(np.array_equal(np.array(back[key]), source[key]) for key in source)


@kinds
def test_rules_read_both_ways(kind: str) -> None:
    state = {key: mx.array(value) for key, value in one_map_state(kind).items()}
    found = recognise(state)
    assert found.rules is ONE_MAP_RULES
    weights = rename(state, found.rules, found.detector["pool_size"]).weights
    again = rename_back(weights, found.rules, found.detector["pool_size"])
    assert again.keys() == state.keys()
    assert all(mx.array_equal(again[key], state[key]).item() for key in state)


@kinds
def test_learns(kind: str) -> None:
    """The losses have gradients in every part that is not frozen."""
    state = {key: mx.array(value) for key, value in one_map_state(kind).items()}
    found = recognise(state)
    cls = MaskRCNN if kind == "c4" else FasterRCNN
    body = {k: v for k, v in found.backbone.items() if k != "type"} | {"norm": "group"}
    small = {"min_size": 96, "rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 8}
    model = cls(ResNetConfig(**body, norm_groups=4), **{**found.detector, **small})
    set_trainable(model, 5)
    masks = np.zeros((1, 96, 120), np.uint8)
    masks[0, 10:60, 20:90] = 1
    target = {"boxes": [[20, 10, 90, 60]], "labels": [3], "masks": masks}
    target = target if kind == "c4" else {k: v for k, v in target.items() if k != "masks"}

    def loss(parameters):
        model.update(parameters)
        return model.get_loss(blobs(96, 120), [target], key=mx.random.key(0))["total_loss"]

    value, gradients = mx.value_and_grad(loss)(model.trainable_parameters())
    assert np.isfinite(value.item())
    first = gradients["backbone"]["net"]["conv1"]["weight"]
    assert mx.abs(first).max().item() > 0


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match="res5_head=True: expected a ResNetConfig with last_stage=3"
    ):
        FasterRCNN(ResNetConfig(), 2048, 3, res5_head=True)
    with pytest.raises(ValueError, match="mask_out_size=28: expected mask_pool_size, 14"):
        MaskRCNNConfig(ResNetConfig(last_stage=3), 1024, 3, res5_head=True)
    with pytest.raises(ValueError, match="last_stage=5"):
        ResNetConfig(last_stage=5)
