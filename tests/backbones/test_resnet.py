import copy
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn.backbones import ResNet
from mlx_rcnn.layers import BatchNorm, FrozenBatchNorm, GroupNorm
from reference import fill_ours, last_noise

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")


@pytest.fixture(scope="module", autouse=True)
def forget():
    """The weights of ResNet-50 and ResNeXt-50, 190 MB, are kept for this file only."""
    yield
    tensor.cache_clear()


@cache
def tensor(key, shape):
    return mx.array(fill_ours(key, shape))


def build(*args, prefix="", **options):
    """A network in evaluation mode with the recipe's weights."""
    net = ResNet(*args, **options)
    weights = [(k, tensor(prefix + k, v.shape)) for k, v in tree_flatten(net.parameters())]
    return net.load_weights(weights).eval()


def image(key, *shape):
    return mx.array(last_noise(key, *shape))


def count(net):
    """Torchvision counts no statistics."""
    return sum(v.size for k, v in tree_flatten(net.parameters()) if "running" not in k)


IMAGES, ODD = ("images", 2, 3, 64, 64), ("odd image", 1, 3, 45, 67)
SMALL = ("small image", 1, 3, 32, 33)
RESNEXT = {"depth": 50, "groups": 32, "width_per_group": 4}


@pytest.mark.parametrize(
    ("name", "given", "options"),
    [
        ("resnet18", IMAGES, {"depth": 18}),
        ("resnet18_odd", ODD, {"depth": 18}),
        ("resnet50", IMAGES, {"depth": 50}),
        ("resnet50_odd", ODD, {"depth": 50}),
        ("resnet50_odd", ODD, {"depth": 50, "norm": "frozen"}),
        ("resnet50_stride_in_1x1", ODD, {"depth": 50, "stride_in_1x1": True}),
        ("resnext50", SMALL, {**RESNEXT, "prefix": "resnext."}),
    ],
)
def test_logits_are_torchvisions(name, given, options):
    logits = np.array(build(num_classes=10, **options)(image(*given)))
    np.testing.assert_allclose(logits, GOLDEN[name], atol=2e-4)
    # What the images differ by, and what a wrong stride would do, is far more than that
    assert np.abs(GOLDEN["resnet50_odd"] - GOLDEN["resnet50_stride_in_1x1"]).max() > 0.01
    assert np.ptp(GOLDEN["resnet50"], axis=0).max() > 0.01


@pytest.mark.parametrize(
    ("expected", "options"),
    [  # published by torchvision
        (11_689_512, {"depth": 18}),
        (21_797_672, {"depth": 34}),
        (25_557_032, {"depth": 50}),
        (44_549_160, {"depth": 101}),
        (60_192_808, {"depth": 152}),
        (25_028_904, RESNEXT),
        (88_791_336, {"depth": 101, "groups": 32, "width_per_group": 8}),
        (68_883_240, {"depth": 50, "width_per_group": 128}),
        (23_508_032, {"depth": 50, "num_classes": 0}),  # less fc: 2048 * 1000 + 1000
    ],
)
def test_parameters_are_counted(expected, options):
    assert count(ResNet(**options)) == expected  # nothing is computed: weights are lazy


def test_parameter_names():
    shapes = {k: v.shape for k, v in tree_flatten(ResNet(50).parameters())}
    assert shapes["conv1.weight"] == (64, 7, 7, 3) and "conv1.bias" not in shapes
    assert shapes["bn1.running_var"] == (64,)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 1, 1, 64)  # wider, not coarser
    assert shapes["layer1.0.downsample.1.running_mean"] == (256,)
    assert not any("layer1.1.downsample" in k or "layer4.2.downsample" in k for k in shapes)
    assert shapes["layer2.0.conv2.weight"] == (128, 3, 3, 128)
    assert shapes["layer4.2.conv3.weight"] == (2048, 1, 1, 512)
    assert shapes["fc.weight"] == (1000, 2048) and shapes["fc.bias"] == (1000,)
    assert len(shapes) == 267  # 53 convolutions, 53 norms of 4, fc of 2
    shapes = {k: v.shape for k, v in tree_flatten(ResNet(18).parameters())}
    assert not any("layer1.0.downsample" in k or "conv3" in k for k in shapes)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 1, 1, 64)
    assert shapes["layer4.1.conv2.weight"] == (512, 3, 3, 512)


@pytest.mark.parametrize(("depth", "finest"), [(18, 64), (50, 256)])
def test_stages(depth, finest):
    net, stage_channels = build(depth, num_classes=10), (finest, 2 * finest, 4 * finest, 8 * finest)
    assert net.stage_channels == stage_channels
    for height, width in ((64, 64), (45, 67), (33, 31), (1, 1)):
        maps = net.features(mx.zeros((1, height, width, 3)))
        for stage, (feature, channels) in enumerate(zip(maps, stage_channels, strict=True)):
            down = 4 * 2**stage
            assert feature.shape == (1, -(-height // down), -(-width // down), channels)
            assert mx.min(feature).item() >= 0  # every block ends in a ReLU


def test_batch_equals_singles():
    net, images = build(18, num_classes=10), image(*IMAGES)
    together = np.array(net(images))
    for i in range(2):
        np.testing.assert_allclose(np.array(net(images[i : i + 1]))[0], together[i], atol=1e-4)


def test_classifier_is_the_mean_of_the_last_stage():
    net = build(18, num_classes=10)
    last = net.features(image(*ODD))[-1]
    pooled = np.array(last).mean(axis=(1, 2))
    expected = pooled @ np.array(net.fc.weight).T + np.array(net.fc.bias)
    np.testing.assert_allclose(np.array(net(image(*ODD))), expected, atol=1e-4)
    bare = build(18, num_classes=0)
    assert "fc" not in bare
    np.testing.assert_allclose(np.array(bare(image(*ODD))), pooled, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", BatchNorm), ("frozen", FrozenBatchNorm), ("group", GroupNorm)]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_norms(norm, kind, depth):
    net = ResNet(depth, norm=norm, norm_eps=0.25, norm_groups=8)
    norms = [m for m in net.modules() if isinstance(m, BatchNorm | GroupNorm)]
    assert len(norms) == {18: 20, 50: 53}[depth]
    assert all(type(m) is kind and m.eps == 0.25 for m in norms)
    if norm == "group":
        assert all(m.num_groups == 8 for m in norms)
    net.unfreeze()
    trainable = [k for k, _ in tree_flatten(net.trainable_parameters())]
    assert ("bn1.weight" in trainable) == (norm != "frozen")
    assert not any("running" in k for k in trainable)


def test_epsilon_counts():
    """The recipe has channels whose variance is near 1e-5."""
    x = image(*ODD)
    default = np.array(build(18, num_classes=10, norm="frozen", norm_eps=1e-5)(x))
    zero = np.array(build(18, num_classes=10, norm="frozen", norm_eps=0.0)(x))
    np.testing.assert_allclose(default, GOLDEN["resnet18_odd"], atol=2e-4)
    assert np.abs(default - zero).max() > 0.01


def test_training_uses_the_batch_and_moves_the_statistics():
    x = image(*IMAGES)
    for norm in ("batch", "frozen"):
        net = build(18, num_classes=10, norm=norm)
        expected, mean = np.array(net(x)), np.array(net.bn1.running_mean)
        net.train()
        same = np.allclose(np.array(net(x)), expected, atol=1e-3)
        assert same == (norm == "frozen")
        assert np.array_equal(np.array(net.bn1.running_mean), mean) == (norm == "frozen")


def test_where_a_bottleneck_strides():
    strides = {}
    for first in (False, True):
        block = ResNet(50, stride_in_1x1=first).layer2[0]
        strides[first] = [block.conv1.stride, block.conv2.stride, block.downsample[0].stride]
    assert strides == {False: [1, 2, 2], True: [2, 1, 2]}
    block = ResNet(18).layer2[0]
    assert [block.conv1.stride, block.conv2.stride, block.downsample[0].stride] == [2, 1, 2]


def test_narrow_networks():
    """The stem has ``width`` channels, and every stage twice those of the one before."""
    for depth, expansion in ((18, 1), (50, 4)):
        net = ResNet(depth, num_classes=3, width=16)
        assert net.stage_channels == tuple(16 * expansion * 2**i for i in range(4))
        assert net.conv1.out_channels == 16 and net.fc.in_features == 128 * expansion
        assert net.layer3[0].conv2.weight.shape == (64, 3, 3, 64)
        assert net(mx.zeros((1, 32, 32, 3))).shape == (1, 3)
    # ResNeXt's bottlenecks: planes * width_per_group / 64 * groups
    assert ResNet(50, width=16, groups=4, width_per_group=32).layer2[0].conv2.out_channels == 64


def test_copies_are_independent():
    net, x = build(18, num_classes=10, norm="frozen"), image(*ODD)
    other = copy.deepcopy(net)
    other.conv1.weight = 0 * other.conv1.weight
    np.testing.assert_allclose(np.array(net(x)), GOLDEN["resnet18_odd"], atol=2e-4)
    assert np.abs(np.array(other(x)) - GOLDEN["resnet18_odd"]).max() > 0.1


def test_unknown_depth():
    with pytest.raises(ValueError, match=r"depth=20: expected one of \(18, 34, 50, 101, 152\)"):
        ResNet(20)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision(dtype):
    net = build(18, num_classes=10, norm="frozen")
    net.set_dtype(dtype)
    logits = net(image(*ODD).astype(dtype))
    assert logits.dtype == dtype
    logits = np.array(logits.astype(mx.float32))
    atol = 0.02 if dtype == mx.float16 else 0.3
    np.testing.assert_allclose(logits, GOLDEN["resnet18_odd"], atol=atol)
