"""Models on disk: saved and loaded bit for bit, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import FasterRCNN, FastRCNNPredictor, MaskRCNN, MaskRCNNPredictor, ResNetFPNConfig
from mlx_rcnn.checkpoints.weights import assign, cast_weights
from mlx_rcnn.inputs.transform import preprocess
from small import OPTIONS, photo, untrained

Models = Callable[..., FasterRCNN]
KINDS = ("faster_rcnn", "mask_rcnn")
FILES = ["config.json", "model.safetensors"]


class TwoMaps(nn.Module):
    """A backbone of the user's own: strides 4 and 8, eight channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.down = nn.Conv2d(8, 8, 2, stride=2)

    def __call__(self, x):
        fine = nn.relu(self.stem(x))
        return [fine, nn.relu(self.down(fine))]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Equal names, dtypes and bits."""
    left, right = dict(tree_flatten(a.parameters())), dict(tree_flatten(b.parameters()))
    return left.keys() == right.keys() and all(
        value.dtype == right[key].dtype and bool(mx.array_equal(value, right[key]))
        for key, value in left.items()
    )


def same_results(a: FasterRCNN, b: FasterRCNN) -> bool:
    left, right = a.predict(photo())[0], b.predict(photo())[0]
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_bit_for_bit(
    folder: Path, fresh_model: Models, kind: str, dtype: str | None
) -> None:
    model = fresh_model(kind, class_names=["-", "a", "b", "c", "d"], box_score_thresh=0.1)
    if dtype:  # norms stay float32, so this is a mixture
        cast_weights(model, dtype)
    model.source = "made up"
    mlx_rcnn.save(model, folder / "new" / "model")
    assert sorted(os.listdir(folder / "new" / "model")) == FILES
    back = mlx_rcnn.load(str(folder / "new" / "model"))
    assert type(back) is type(model) and same_weights(back, model)
    assert back.config == model.config.__class__(
        **{**vars(model.config), "backbone": model.backbone.config}
    )
    assert (back.class_names, back.source) == (("-", "a", "b", "c", "d"), "made up")
    assert not any(module.training for module in back.modules())
    assert same_results(back, model)


def test_config_is_for_people_and_weights_are_mlx(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    config = json.loads(text)
    assert text.startswith('{\n  "model_type": "faster_rcnn",\n  "format_version": 1,')
    assert config["min_size"] == 96 and config["backbone"]["depth"] == 18
    assert str(saved.parent) not in text
    _, metadata = mx.load(str(saved / "model.safetensors"), return_metadata=True)
    assert metadata["format"] == "mlx" and metadata["config_id"] == config.pop("config_id")
    assert json.loads(metadata["config"]) == config


def test_saving_draws_no_random_numbers(folder: Path, fresh_model: Models) -> None:
    model = fresh_model("mask_rcnn")
    mx.random.seed(5)
    expected = mx.random.uniform().item()
    mx.random.seed(5)
    mlx_rcnn.save(model, folder)
    assert mx.random.uniform().item() == expected


def test_overrides(saved: Path) -> None:
    model = mlx_rcnn.load(saved, box_score_thresh=0.3, min_size=64, norm_eps=1e-3)
    assert (model.config.box_score_thresh, model.config.min_size) == (0.3, 64)
    assert model.backbone.config.norm_eps == 1e-3
    with pytest.raises(TypeError, match="has no field 'box_score_tresh'.*'box_score_thresh'"):
        mlx_rcnn.load(saved, box_score_tresh=0.3)
    with pytest.raises(ValueError, match="box_score_thresh=2"):
        mlx_rcnn.load(saved, box_score_thresh=2)
    with pytest.raises(ValueError, match="misshaped.*box_predictor"):
        mlx_rcnn.load(saved, num_classes=7)
    with pytest.raises(ValueError, match="dtype='int8': expected one of"):
        mlx_rcnn.load(saved, dtype="int8")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_near_float32(saved: Path, small_model: Models, dtype: str) -> None:
    model = mlx_rcnn.load(saved, dtype=dtype)
    kinds = {key: v.dtype for key, v in tree_flatten(model.parameters())}
    assert kinds["backbone.net.conv1.weight"] == getattr(mx, dtype)
    assert kinds["roi_heads.box_head.fc6.weight"] == getattr(mx, dtype)
    assert kinds["backbone.net.bn1.running_var"] == mx.float32
    found = model.predict(photo())[0]
    assert found["boxes"].dtype == found["scores"].dtype == np.float32
    assert len(found["scores"]) > 10
    # Stage by stage, on float32's proposals: suppression of random boxes amplifies any rounding.
    full, epsilon = small_model("faster_rcnn"), {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
    batch = preprocess([photo()], full.config)
    maps, halves = full.features(batch.pixels), model.features(batch.pixels)
    strides = full.strides(maps, batch)
    proposals = full.propose(maps, batch, strides)
    both = ((full, maps), (model, halves))
    outputs = [x.box_outputs(x.stage(f, strides), proposals) for x, f in both]
    assert all(value.dtype == mx.float32 for value in outputs[1])
    for want, got in (*zip(maps, halves, strict=True), *zip(*outputs, strict=True)):
        error = mx.abs(want - got.astype(mx.float32)).max() / mx.abs(want).max()
        assert error.item() < 4 * epsilon


def test_head_swap(folder: Path, fresh_model: Models) -> None:
    model = fresh_model("faster_rcnn", class_names=("-", "a", "b", "c", "d"), box_score_thresh=0.0)
    in_features = model.roi_heads.box_predictor.cls_score.in_features
    assert in_features == OPTIONS["hidden_dim"]
    model.roi_heads.box_predictor = FastRCNNPredictor(in_features, 3)
    assert model.class_names is None  # five names say nothing about three classes
    assert set(model.predict(photo())[0]["labels"]) == {1, 2}
    mlx_rcnn.save(model, folder)
    back = mlx_rcnn.load(folder)
    assert back.config.num_classes == 3 and back.config.class_names is None
    assert same_weights(back, model) and same_results(back, model)


def test_mask_head_swap(folder: Path, fresh_model: Models) -> None:
    model = fresh_model("mask_rcnn", box_score_thresh=0.0)
    heads = model.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, 7)
    with pytest.raises(ValueError, match="do not fit num_classes=7.*mask_fcn_logits"):
        mlx_rcnn.save(model, folder)
    assert os.listdir(folder) == []
    hidden = heads.mask_predictor.conv5_mask.in_channels
    heads.mask_predictor = MaskRCNNPredictor(hidden, hidden, 7)
    found = model.predict(photo())[0]
    assert set(found["labels"]) <= set(range(1, 7)) and len(set(found["labels"])) > 1
    assert found["masks"].shape == (len(found["labels"]), 220, 330)
    mlx_rcnn.save(model, folder)
    back = mlx_rcnn.load(folder)
    assert same_weights(back, model) and same_results(back, model)


def test_the_same_swap_as_in_torchvisions_tutorial() -> None:
    model = mlx_rcnn.maskrcnn_resnet50_fpn()
    in_features = model.roi_heads.box_predictor.cls_score.in_features
    model.roi_heads.box_predictor = FastRCNNPredictor(in_features, 5)
    channels = model.roi_heads.mask_predictor.conv5_mask.in_channels
    model.roi_heads.mask_predictor = MaskRCNNPredictor(channels, 256, 5)
    assert (in_features, channels) == (1024, 256)


def test_class_agnostic_swap(folder: Path, fresh_model: Models) -> None:
    model = fresh_model("faster_rcnn", box_score_thresh=0.0)
    model.roi_heads.box_predictor = FastRCNNPredictor(64, 4, class_agnostic=True)
    mlx_rcnn.save(model, folder)
    back = mlx_rcnn.load(folder)
    assert back.config.class_agnostic_bbox
    assert same_weights(back, model) and same_results(back, model)


def test_own_backbone(folder: Path) -> None:
    model = FasterRCNN(TwoMaps(), 8, 4, **OPTIONS).eval()
    mlx_rcnn.save(model, folder)
    assert json.loads((folder / "config.json").read_text())["backbone"] is None
    with pytest.raises(ValueError, match="backbone of your own: pass load"):
        mlx_rcnn.load(folder)
    back = mlx_rcnn.load(folder, backbone=TwoMaps())
    assert same_weights(back, model) and same_results(back, model)
    with pytest.raises(ValueError, match="does not fit the model.*backbone.stem.weight"):
        mlx_rcnn.load(folder, backbone=nn.Conv2d(3, 8, 4))


def test_models_that_cannot_be_saved(folder: Path) -> None:
    class Mine(FasterRCNN):
        pass

    for model in (Mine(TwoMaps(), 8, 4), nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="cannot save a (Mine|Linear): expected"):
            mlx_rcnn.save(model, folder / "x")
    model = FasterRCNN(TwoMaps(), 8, 4, **OPTIONS)
    model.roi_heads.box_predictor = nn.Linear(64, 4)
    with pytest.raises(TypeError, match="cannot save a head that is not of this package"):
        mlx_rcnn.save(model, folder / "x")
    assert not (folder / "x").exists()


def test_places_that_cannot_be_written(folder: Path, fresh_model: Models) -> None:
    model = fresh_model("faster_rcnn")
    (folder / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file: expected a directory"):
        mlx_rcnn.save(model, folder / "file")
    with pytest.raises(OSError, match="file"):
        mlx_rcnn.save(model, folder / "file" / "below")
    if os.geteuid():  # root may write anywhere
        (folder / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="locked"):
            mlx_rcnn.save(model, folder / "locked")


def stop(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def full(*args: object, **kwargs: object) -> None:
    raise RuntimeError("no space left")


@pytest.mark.parametrize(
    ("target", "function", "error"),
    [
        ("mlx.core.save_safetensors", stop, KeyboardInterrupt),
        ("mlx.core.save_safetensors", full, OSError),
        ("pathlib.Path.write_text", stop, KeyboardInterrupt),
        ("os.replace", stop, KeyboardInterrupt),
    ],
)
def test_interrupted_save_leaves_the_old_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch, target: str, function, error
) -> None:
    before = {name: (saved / name).read_bytes() for name in FILES}
    with monkeypatch.context() as patch:
        patch.setattr(target, function)
        with pytest.raises(error):
            mlx_rcnn.save(untrained("mask_rcnn"), saved)
    assert sorted(os.listdir(saved)) == FILES  # no part of the new one
    assert {name: (saved / name).read_bytes() for name in FILES} == before


def test_save_over_an_old_model(saved: Path, fresh_model: Models) -> None:
    model = fresh_model("mask_rcnn")
    mlx_rcnn.save(model, saved)
    back = mlx_rcnn.load(saved)
    assert isinstance(back, MaskRCNN) and same_weights(back, model)


def test_backbone_net_alone(folder: Path) -> None:
    """Pretrain `backbone.net` as a classifier, save it with MLX's own means, load it back."""
    net = ResNetFPNConfig(depth=18, width=16, num_classes=10, out_channels=8)
    model, other = (FasterRCNN(net, 8, 3, use_fpn=True, hidden_dim=8) for _ in range(2))
    classifier, images = model.backbone.net, mx.random.uniform(shape=(2, 64, 64, 3))
    classifier.train()
    assert classifier(images).shape == (2, 10)
    model.eval()
    assert mx.abs(classifier.bn1.running_mean).max().item() > 0  # it has learnt
    expected = classifier(images)
    for suffix in ("safetensors", "npz"):
        classifier.save_weights(str(folder / f"net.{suffix}"))
        other.backbone.net.load_weights(str(folder / f"net.{suffix}"))
        assert same_weights(other.backbone.net, classifier)
        assert mx.array_equal(other.eval().backbone.net(images), expected)


def test_assign_takes_all_or_nothing() -> None:
    layer = nn.Linear(2, 3)
    before = mx.array(layer.weight)
    good = {"weight": mx.zeros((3, 2)), "bias": mx.zeros((3,))}
    for bad, message in (
        ({"weight": mx.zeros((3, 2))}, "missing 'bias'"),
        ({**good, "other": mx.zeros((1,))}, "unexpected 'other'"),
        ({**good, "bias": mx.zeros((4,))}, r"misshaped 'bias \(4,\) \(expected \(3,\)\)'"),
        ({**good, "bias": mx.zeros((3,), dtype=mx.int32)}, "not float32.*'bias .*int32'"),
    ):
        with pytest.raises(ValueError, match=f"^x does not fit the model: {message}"):
            assign(layer, bad, "x")
        assert mx.array_equal(layer.weight, before)
    assign(layer, good, "x")
    assert mx.array_equal(layer.weight, good["weight"])
