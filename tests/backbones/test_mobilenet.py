"""MobileNetV3: torchvision's shapes and outputs, alone and under a pyramid."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import MobileNetFPNConfig
from mlx_rcnn.backbones import MobileNetFPN, MobileNetV3
from mlx_rcnn.backbones.mobilenet import divisible
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.convert.libraries.classifiers import read_classifier
from mlx_rcnn.layers import BatchNorm, FrozenBatchNorm, GroupNorm
from recipe import GOLDENS, fill_alive, shapes
from reference import last_noise

GOLDEN = np.load(GOLDENS / "backbones.npz")
SLIM = {"width": 0.5, "reduced_tail": True}
VARIANTS = [("large", {}), ("small", {}), ("large", SLIM), ("small", SLIM)]


def count(net):
    return sum(v.size for k, v in tree_flatten(net.parameters()) if "running" not in k)


def filled(variant, options):
    net = MobileNetV3(variant, 20, **options)
    name = f"torchvision_mobilenet_v3_{variant}{'_slim' if options else ''}"
    state = {k: mx.array(fill_alive(k, s)) for k, s in shapes(f"backbone_{name}").items()}
    assign(net, read_classifier(state).weights, name)
    return net.eval(), GOLDEN[name]


@pytest.mark.parametrize(("variant", "options"), VARIANTS)
def test_logits_are_torchvisions(variant, options):
    net, expected = filled(variant, options)
    logits = np.array(net(mx.array(last_noise("backbone image", 1, 3, 64, 72))))[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    for module in net.modules():  # the epsilon of the detector is not the classifier's
        if isinstance(module, BatchNorm):
            module.eps = 1e-5
    other = np.array(net(mx.array(last_noise("backbone image", 1, 3, 64, 72))))[0]
    assert np.abs(other - expected).max() > 5e-5


@pytest.mark.parametrize(
    ("variant", "options", "expected"),
    [  # published by torchvision, and counted with width_mult=0.75, reduced_tail=True
        ("large", {}, 5_483_032),
        ("small", {}, 2_542_856),
        ("large", {"width": 0.75, "reduced_tail": True}, 1_620_728),
        ("small", {"width": 0.75, "reduced_tail": True}, 752_848),
        ("large", {"num_classes": 0}, 5_483_032 - 960 * 1280 - 1280 - 1280 * 1000 - 1000),
    ],
)
def test_parameters_are_counted(variant, options, expected):
    assert count(MobileNetV3(variant, **options)) == expected


def test_stages():
    large, small = MobileNetV3("large", 0), MobileNetV3("small", 0)
    assert large.stage_starts == (0, 2, 4, 7, 13, 16)
    assert large.stage_channels == (16, 24, 40, 80, 160, 960)
    assert small.stage_starts == (0, 1, 2, 4, 9, 12)
    assert small.stage_channels == (16, 16, 24, 40, 96, 576)
    for net in (large, small):
        for height, width in ((64, 96), (45, 67), (1, 1)):
            maps = net.features(mx.zeros((1, height, width, 3)))
            for feature, channels, down in zip(
                maps, net.stage_channels, (2, 4, 8, 16, 32, 32), strict=True
            ):
                assert feature.shape == (1, -(-height // down), -(-width // down), channels)
        assert net(mx.zeros((2, 32, 32, 3))).shape == (2, net.stage_channels[-1])


def test_channels_are_multiples_of_8():
    # 18 -> 16 is less than 0.9 * 18 = 16.2, so 24; 30 -> 32; 4 -> at least 8
    assert [divisible(c) for c in (18, 30, 4, 16, 120.0)] == [24, 32, 8, 16, 120]


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", BatchNorm), ("frozen", FrozenBatchNorm), ("group", GroupNorm)]
)
def test_norms(norm, kind):
    body = MobileNetFPN(MobileNetFPNConfig(norm=norm, norm_eps=0.25, fpn_norm=norm, width=0.5))
    norms = [m for m in body.modules() if isinstance(m, BatchNorm | GroupNorm)]
    assert len(norms) == 46 + 4 and all(type(m) is kind and m.eps == 0.25 for m in norms)


def test_pyramid():
    for returned, down in (((4, 5), (32, 32, 64)), ((1, 3, 5), (4, 16, 32, 64))):
        config = MobileNetFPNConfig("small", 0, width=0.5, out_channels=8, returned_layers=returned)
        maps = MobileNetFPN(config).eval()(mx.random.normal((1, 128, 192, 3)))
        assert [m.shape for m in maps] == [(1, 128 // d, 192 // d, 8) for d in down]


def test_batch_equals_singles_and_half_precision():
    net, _ = filled("small", SLIM)
    images = mx.array(last_noise("two", 2, 3, 40, 56))
    together = np.array(net(images))
    for i in range(2):
        np.testing.assert_allclose(np.array(net(images[i : i + 1]))[0], together[i], atol=1e-5)
    net.set_dtype(mx.float16)
    half = net(images.astype(mx.float16))
    assert half.dtype == mx.float16
    np.testing.assert_allclose(np.array(half.astype(mx.float32)), together, atol=5e-3)


def test_every_parameter_learns():
    """Alone, as a classifier; dropout and batch statistics included."""
    mx.random.seed(0)
    net = MobileNetV3("small", 3, width=0.5).train()
    x = mx.random.normal((4, 64, 64, 3))
    gradients = dict(tree_flatten(mx.grad(lambda p: _loss(net, p, x))(net.trainable_parameters())))
    assert not any("running" in key for key in gradients)
    silent = [k for k, g in gradients.items() if not mx.any(g != 0).item()]
    assert silent == []


def _loss(net, parameters, x):
    net.update(parameters)
    return mx.sum(mx.square(net(x)) * mx.arange(3))


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"variant='huge': expected one of \('large', 'small'\)"):
        MobileNetV3("huge")
