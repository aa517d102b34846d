"""Classification weights of torchvision, timm and transformers into `backbone.net`."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import FasterRCNN, MobileNetFPNConfig, ResNetFPNConfig, load_backbone
from mlx_rcnn.backbones import VGG, AlexNet, MobileNetV3, ResNet
from mlx_rcnn.checkpoints.published import PUBLISHED_BACKBONES
from mlx_rcnn.convert.files.torch_writer import save_torch_file
from mlx_rcnn.layers import BatchNorm
from recipe import GOLDENS, fill_alive, shapes
from reference import last_noise

GOLDEN = np.load(GOLDENS / "backbones.npz")
State = dict[str, mx.array]
SLIM = {"width": 8, "hidden_dim": 32}
NETWORKS = {
    "torchvision_mobilenet_v3_large": (MobileNetV3, {"variant": "large"}),
    "torchvision_mobilenet_v3_small": (MobileNetV3, {"variant": "small"}),
    "timm_mobilenetv3_large_100": (MobileNetV3, {"variant": "large"}),
    "timm_mobilenetv3_small_100": (MobileNetV3, {"variant": "small"}),
    "timm_resnext50_32x4d": (ResNet, {"depth": 50, "groups": 32, "width_per_group": 4}),
    "transformers_resnet18": (ResNet, {"depth": 18}),
    "transformers_resnet50": (ResNet, {"depth": 50}),
    "torchvision_vgg13_slim": (VGG, {"depth": 13, **SLIM}),
    "torchvision_vgg19_bn_slim": (VGG, {"depth": 19, "norm": "frozen", **SLIM}),
    "timm_vgg16_slim": (VGG, {"depth": 16, **SLIM}),
    "timm_vgg11_bn_slim": (VGG, {"depth": 11, "norm": "batch", **SLIM}),
    "torchvision_alexnet_slim": (AlexNet, {"hidden_dim": 32}),
}
OPTIONS = {"use_fpn": True, "hidden_dim": 8, "min_size": 64}


def state_of(name: str) -> State:
    keys = shapes(f"backbone_{name}")
    return {key: mx.array(fill_alive(key, shape)) for key, shape in keys.items()}


def save(path: Path, state: State) -> Path:
    mx.save_safetensors(str(path), state, metadata={"format": "pt"})
    return path


def detector(classes: int = 20, **options) -> FasterRCNN:
    net = ResNetFPNConfig(18, classes, out_channels=8, **options)
    return FasterRCNN(net, 8, 3, **OPTIONS)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_source_s(name: str, folder: Path) -> None:
    cls, options = NETWORKS[name]
    eps = {} if cls is AlexNet else {"norm_eps": 0.5}  # it comes with the weights
    net = cls(num_classes=20, **eps, **options)
    note = load_backbone(net, save(folder / "model.safetensors", state_of(name)))
    logits = np.array(net.eval()(mx.array(last_noise("backbone image", 1, 3, 64, 72))))[0]
    scale = np.abs(GOLDEN[name]).max()
    np.testing.assert_allclose(logits, GOLDEN[name], atol=2e-5 * max(scale, 1))
    library = name.split("_")[0]
    assert library in note and "20 classes" in note
    named = {
        "torchvision_mobilenet_v3_large": "MobileNetV3-large",
        "timm_resnext50_32x4d": "ResNeXt-50 32x4d",
        "transformers_resnet18": "ResNet-18",
        "torchvision_vgg13_slim": "VGG-13 with",
        "timm_vgg11_bn_slim": "VGG-11-BN with",
        "torchvision_alexnet_slim": "AlexNet with",
    }
    assert named.get(name, "") in note


@pytest.mark.parametrize("prefix", ["", "module.", "timm_model."])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_directories_and_prefixes(prefix: str, file: str, folder: Path) -> None:
    state = {prefix + key: value for key, value in state_of("transformers_resnet18").items()}
    if file.endswith("bin"):
        save_torch_file(state, folder / file)
    else:
        save(folder / file, state)
    model = detector()
    load_backbone(model, folder)
    logits = model.eval().backbone.net(mx.array(last_noise("backbone image", 1, 3, 64, 72)))
    np.testing.assert_allclose(np.array(logits)[0], GOLDEN["transformers_resnet18"], atol=2e-4)


def test_the_classifier_is_optional(folder: Path) -> None:
    state = state_of("transformers_resnet18")
    path = save(folder / "a.safetensors", state)
    bare = {k.removeprefix("resnet."): v for k, v in state.items() if "classifier" not in k}
    headless = save(folder / "b.safetensors", bare)
    for source in (path, headless):
        model = detector(0)
        load_backbone(model, source)
        assert "fc" not in model.backbone.net
    model = detector(7)
    mine = np.array(model.backbone.net.fc.weight)
    with pytest.raises(
        ValueError,
        match="has 20 classes, and the model's backbone.net 7: build the model with "
        "backbone_num_classes=20, or 0 to leave the classifier out, or pass classifier=False",
    ):
        load_backbone(model, path)
    with pytest.raises(ValueError, match="has no classifier, .* 7: .* backbone_num_classes=0 or"):
        load_backbone(model, headless)
    for source in (path, headless):
        load_backbone(model, source, classifier=False)
        np.testing.assert_array_equal(np.array(model.backbone.net.fc.weight), mine)
    assert mx.array_equal(model.backbone.net.bn1.weight, detector_weight(state)).item()


def detector_weight(state: State) -> mx.array:
    return state["resnet.embedder.embedder.normalization.weight"]


def test_nothing_changes_on_an_error(folder: Path) -> None:
    state = state_of("transformers_resnet18")
    state.pop("resnet.encoder.stages.3.layers.1.layer.1.normalization.weight")
    model = detector()
    before = [np.array(v) for _, v in tree_flatten(model.parameters())]
    with pytest.raises(ValueError, match="missing 'layer4.1.bn2.weight'"):
        load_backbone(model, save(folder / "x.safetensors", state))
    for old, (_, new) in zip(before, tree_flatten(model.parameters()), strict=True):
        np.testing.assert_array_equal(np.array(new), old)


def test_the_epsilon_outlives_a_save(folder: Path) -> None:
    """The published detectors have epsilon 0; classification weights were made with another."""
    net = MobileNetFPNConfig("small", 20, norm="frozen", out_channels=8)
    model = FasterRCNN(net, 8, 3, **OPTIONS)
    source = save(folder / "x.safetensors", state_of("torchvision_mobilenet_v3_small"))
    load_backbone(model, source)
    assert model.backbone.config.norm_eps == model.config.backbone.norm_eps == 1e-3
    mlx_rcnn.save(model, folder / "saved")
    back = mlx_rcnn.load(folder / "saved")
    norms = [m for m in back.backbone.modules() if isinstance(m, BatchNorm)]
    assert norms and all(m.eps == 1e-3 for m in norms)
    image = mx.array(last_noise("backbone image", 1, 3, 64, 72))
    expected = GOLDEN["torchvision_mobilenet_v3_small"]
    np.testing.assert_allclose(np.array(back.backbone.net(image))[0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_files(dtype: mx.Dtype, folder: Path) -> None:
    state = {k: v.astype(dtype) for k, v in state_of("transformers_resnet18").items()}
    model = detector()
    load_backbone(model, save(folder / "x.safetensors", state))
    assert {v.dtype for _, v in tree_flatten(model.parameters())} == {mx.float32}


def test_other_networks_are_named(folder: Path) -> None:
    small = save(folder / "s.safetensors", state_of("torchvision_mobilenet_v3_small"))
    deep = save(folder / "d.safetensors", state_of("transformers_resnet50"))
    with pytest.raises(ValueError, match="is a MobileNetV3-small .*, and the model's backbone a R"):
        load_backbone(detector(), small)
    with pytest.raises(ValueError, match=r"ResNet-50 with the keys of transformers.*does not fit"):
        load_backbone(detector(), deep)
    other = save(folder / "e.safetensors", state_of("transformers_resnet18"))
    with pytest.raises(ValueError, match="has batch norms, .* group norms: .* norm='batch'"):
        load_backbone(detector(norm="group"), other)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("conv1.0.weight", "layer1.0.conv1.weight"), "ResNet-D"),
        (("conv1.weight", "layer1.0.conv1.weight", "layer1.0.se.fc1.weight"), "ours has not"),
        (("features.0.weight", "classifier.0.weight"), "expected a ResNet, ResNeXt, MobileNet"),
        (("backbone.body.conv1.weight",), "expected a ResNet, .*, VGG or AlexNet with the keys"),
        (("features.0.weight", "features.3.squeeze.weight"), "not a classifier this package kn"),
    ],
)
def test_what_is_no_classifier_of_ours(keys: tuple, message: str, folder: Path) -> None:
    state = {key: mx.zeros((2, 2)) for key in keys}
    with pytest.raises(ValueError, match=message):
        load_backbone(detector(), save(folder / "x.safetensors", state))


def test_tensorflow_s_padding_is_refused(folder: Path) -> None:
    state = state_of("timm_mobilenetv3_small_100")
    net = MobileNetV3("small", 20)
    with pytest.raises(ValueError, match="tf_ models, whose convolutions pad as TensorFlow's"):
        load_backbone(net, save(folder / "tf_mobilenetv3_small_100.safetensors", state))
    save(folder / "model.safetensors", state)
    (folder / "config.json").write_text(json.dumps({"architecture": "tf_mobilenetv3_small_100"}))
    with pytest.raises(ValueError, match="expected one without tf_"):
        load_backbone(net, folder)
    (folder / "config.json").write_text(json.dumps({"architecture": "mobilenetv3_small_100"}))
    load_backbone(net, folder)


def test_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="has none of model.safetensors, pytorch_model.bin"):
        load_backbone(detector(), folder)
    names = "resnet50.*vgg16_bn.*alexnet"
    with pytest.raises(FileNotFoundError, match=f"no weights 'nothing': expected a .*{names}"):
        load_backbone(detector(), "nothing")
    with pytest.raises(TypeError, match="backbone Linear: expected one with a ResNet"):
        load_backbone(mlx_rcnn.backbones.fpn.nn.Linear(2, 2), folder)
    path = save(folder / "x.safetensors", state_of("transformers_resnet18"))
    asked = []
    monkeypatch.setattr(
        "mlx_rcnn.checkpoints.backbone_weights.fetch", lambda *a: asked.append(a) or path
    )
    load_backbone(detector(), "torchvision/resnet18")
    assert asked == [("resnet18", PUBLISHED_BACKBONES["resnet18"])]
    for name, url in PUBLISHED_BACKBONES.items():
        assert url.startswith(f"https://download.pytorch.org/models/{name}-")
        assert int(url.removesuffix(".pth")[-8:], 16) >= 0  # of the file's SHA-256
        assert len(url.rsplit("-", 1)[-1]) == len("01234567.pth")
