from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import ResNetFPNConfig
from mlx_rcnn.backbones import FeaturePyramidNetwork, ResNetFPN
from mlx_rcnn.layers import FrozenBatchNorm
from reference import fill_ours, last_noise, noise, slow_conv

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
CHANNELS = (8, 12, 16)
SIZES = [(13, 18), (7, 9), (4, 5)]


def build(channels=CHANNELS, outputs=8):
    fpn = FeaturePyramidNetwork(channels, outputs)
    shapes = {key: value.shape for key, value in tree_flatten(fpn.parameters())}
    filled = {key: mx.array(fill_ours("fpn test." + key, v)) for key, v in shapes.items()}
    return fpn.load_weights(list(filled.items()))


def maps(n=2, sizes=SIZES, channels=CHANNELS):
    shapes = [(n, c, *s) for c, s in zip(channels, sizes, strict=True)]
    return [mx.array(last_noise(f"fpn map {i}", *shape)) for i, shape in enumerate(shapes)]


def slow_fpn(fpn, features):
    def conv(block, x):
        weight = np.array(block[0].weight)
        return slow_conv(x, weight, padding=weight.shape[1] // 2) + np.array(block[0].bias)

    inner = [conv(b, np.array(x)) for b, x in zip(fpn.inner_blocks, features, strict=True)]
    for fine, coarse in zip(inner[-2::-1], inner[:0:-1], strict=True):
        for i, j in np.ndindex(fine.shape[1:3]):
            y, x = i * coarse.shape[1] // fine.shape[1], j * coarse.shape[2] // fine.shape[2]
            fine[:, i, j] += coarse[:, y, x]
    levels = [conv(b, x) for b, x in zip(fpn.layer_blocks, inner, strict=True)]
    return [*levels, levels[-1][:, ::2, ::2]]


def test_odd_sizes_are_torchvisions():
    levels = build()(maps())
    assert len(levels) == 4
    for i, level in enumerate(levels):
        np.testing.assert_allclose(np.array(level), GOLDEN[f"fpn_{i}"], atol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        SIZES,
        [(8, 12), (4, 6), (2, 3)],
        [(5, 3), (3, 2), (2, 1)],
        [(1, 1)] * 3,
        [(9, 8), (2, 2), (1, 1)],  # stages left out
    ],
)
def test_oracle(sizes):
    fpn, features = build(), maps(1, sizes)
    for got, expected in zip(fpn(features), slow_fpn(fpn, features), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(np.array(got), expected, atol=2e-5)


def test_by_hand():
    # One channel, all kernels the identity: each level is its map plus everything coarser, and the
    # last is every other pixel of the one before, not their maximum.
    fpn = FeaturePyramidNetwork((1, 1, 1), 1)
    for block in (*fpn.inner_blocks, *fpn.layer_blocks):
        kernel = np.zeros(block[0].weight.shape, np.float32)
        kernel[:, kernel.shape[1] // 2, kernel.shape[2] // 2] = 1
        block[0].weight, block[0].bias = mx.array(kernel), mx.zeros((1,))
    rows = [[1, 2, 3, 4, 5], [10, 20, 30], [100, 200]]
    features = [mx.array(r, dtype=mx.float32).reshape(1, 1, -1, 1) for r in rows]
    # 2 -> 3: 100 100 200; 3 -> 5: 110 110 120 120 230
    expected = [[111, 112, 123, 124, 235], [110, 120, 230], [100, 200], [100]]
    assert [level.flatten().tolist() for level in fpn(features)] == expected


def test_one_map():
    fpn = build((8,), 4)
    levels = fpn(maps(1, SIZES[:1], CHANNELS[:1]))
    assert [level.shape for level in levels] == [(1, 13, 18, 4), (1, 7, 9, 4)]


def test_batch_equals_singles_and_inputs_stay():
    fpn, features = build(), maps()
    before = [np.array(f) for f in features]
    together = [np.array(level) for level in fpn(features)]
    for i in range(2):
        for level, expected in zip(fpn([f[i : i + 1] for f in features]), together, strict=True):
            np.testing.assert_allclose(np.array(level)[0], expected[i], atol=1e-5)
    for feature, expected in zip(features, before, strict=True):
        np.testing.assert_array_equal(np.array(feature), expected)


def test_structure():
    mx.random.seed(1)
    fpn = FeaturePyramidNetwork((64, 128), 32)
    shapes = {k: v.shape for k, v in tree_flatten(fpn.parameters())}
    assert shapes == {
        "inner_blocks.0.0.weight": (32, 1, 1, 64),
        "inner_blocks.0.0.bias": (32,),
        "inner_blocks.1.0.weight": (32, 1, 1, 128),
        "inner_blocks.1.0.bias": (32,),
        "layer_blocks.0.0.weight": (32, 3, 3, 32),
        "layer_blocks.0.0.bias": (32,),
        "layer_blocks.1.0.weight": (32, 3, 3, 32),
        "layer_blocks.1.0.bias": (32,),
    }
    # kaiming_uniform_(a=1): variance 1 / inputs, with 9 inputs a channel in a 3x3 kernel
    for block, inputs in ((fpn.inner_blocks[0], 64), (fpn.layer_blocks[1], 32 * 9)):
        assert mx.std(block[0].weight).item() == pytest.approx(inputs**-0.5, rel=0.1)
        assert not mx.any(block[0].bias).item()


@pytest.mark.parametrize("returned", [(1, 2, 3, 4), (2, 3, 4), (4,), (1, 3)])
def test_returned_layers(returned):
    config = ResNetFPNConfig(18, num_classes=0, out_channels=16, returned_layers=returned)
    net = ResNetFPN(config)
    inner = [block[0].in_channels for block in net.fpn.inner_blocks]
    assert inner == [64 * 2 ** (stage - 1) for stage in returned]
    down = [2 ** (stage + 1) for stage in returned]
    down.append(2 * down[-1])
    levels = net(mx.zeros((2, 70, 101, 3)))
    assert [v.shape for v in levels] == [(2, -(-70 // d), -(-101 // d), 16) for d in down]


def test_backbone_is_the_classifier_under_the_pyramid():
    config = ResNetFPNConfig(
        depth=18, num_classes=7, norm="frozen", norm_eps=0.5, out_channels=8, stride_in_1x1=True
    )
    net = ResNetFPN(config)
    assert net.config == config
    x = mx.array(noise("image", 1, 40, 50, 3))
    assert net.net(x).shape == (1, 7)
    for level, expected in zip(net(x), net.fpn(net.net.features(x)), strict=True):
        np.testing.assert_array_equal(np.array(level), np.array(expected))
    assert all(m.eps == 0.5 for m in net.modules() if isinstance(m, FrozenBatchNorm))
    names = {k.split(".")[0] for k, _ in tree_flatten(net.parameters())}
    assert names == {"net", "fpn"}
    net = ResNetFPN(
        ResNetFPNConfig(depth=50, num_classes=0, groups=2, width_per_group=32, stride_in_1x1=True)
    )
    assert (net.net.layer2[0].conv1.stride, net.net.layer2[0].conv2.stride) == (2, 1)
    assert net.net.layer1[0].conv2.weight.shape == (64, 3, 3, 32)
    grouped = ResNetFPN(ResNetFPNConfig(depth=18, norm="group", norm_groups=4, out_channels=8))
    assert grouped.net.bn1.num_groups == 4
