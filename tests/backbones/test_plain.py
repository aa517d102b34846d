"""VGG and AlexNet: torchvision's shapes and outputs, alone and as a detector's one map."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import AlexNetConfig, FasterRCNN, VGGConfig
from mlx_rcnn.backbones import (
    VGG,
    AlexNet,
    AlexNetMap,
    MobileNetV3,
    ResNet,
    VGGMap,
    backbone_type,
    make_backbone,
)
from mlx_rcnn.backbones.vgg import conv_places
from mlx_rcnn.checkpoints.weights import assign, flat_parameters
from mlx_rcnn.convert.libraries.classifiers import read_classifier
from mlx_rcnn.layers import BatchNorm, Conv2d, FrozenBatchNorm, GroupNorm
from recipe import GOLDENS, fill_alive, shapes
from reference import last_noise

GOLDEN = np.load(GOLDENS / "backbones.npz")
SLIM = {"num_classes": 20, "width": 8, "hidden_dim": 32}
SMALL = ("backbone image", 1, 3, 64, 72)
LARGE = ("large backbone image", 1, 3, 300, 270)
VGGS = [(depth, norm) for depth in (11, 13, 16, 19) for norm in (None, "batch")]
NETWORKS = [f"vgg{depth}{'_bn' if norm else ''}" for depth, norm in VGGS] + ["alexnet"]
TINY = {"width": 8, "hidden_dim": 16}


def slim(name, **options):
    """A narrow network of that name, untrained."""
    if name == "alexnet":
        return AlexNet(20, 64, 32, **options)
    depth, norm = VGGS[NETWORKS.index(name)]
    return VGG(depth, **{"norm": norm, **SLIM, **options})


def filled(net, name):
    state = {k: mx.array(fill_alive(k, s)) for k, s in shapes(f"backbone_{name}").items()}
    assign(net, read_classifier(state).weights, name)
    return net.eval()


def image(given):
    return mx.array(last_noise(*given))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_torchvisions(name):
    """Of an image whose pooled map is smaller than the grid, and of one where it is larger."""
    key = f"torchvision_{name}_slim"
    net = filled(slim(name), key)
    for given, expected in ((SMALL, GOLDEN[key]), (LARGE, GOLDEN[f"{key}_large"])):
        logits = np.array(net(image(given)))[0]
        np.testing.assert_allclose(logits, expected, atol=1e-5 * max(1, np.abs(expected).max()))
        assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("name", ["vgg16_bn", "alexnet"])
def test_maps_are_torchvisions(name):
    key = f"torchvision_{name}_slim"
    net = filled(slim(name), key)
    found = np.array(net.last_map(image(SMALL)))[0]
    np.testing.assert_allclose(found, GOLDEN[f"{key}_map"], atol=1e-5)
    assert np.ptp(found) > 0.1


@pytest.mark.slow  # 130 million weights are drawn
@pytest.mark.parametrize(("name", "cls"), [("vgg16", VGG), ("alexnet", AlexNet)])
def test_whole_networks_are_torchvisions(name, cls):
    net = filled(cls(num_classes=20), f"torchvision_{name}")
    logits = np.array(net(image(SMALL)))[0]
    np.testing.assert_allclose(logits, GOLDEN[f"torchvision_{name}"], atol=1e-4)


@pytest.mark.parametrize(
    ("net", "expected"),
    [  # published by torchvision; nothing is computed, as weights are lazy
        (lambda: VGG(11), 132_863_336),
        (lambda: VGG(11, norm="batch"), 132_868_840),
        (lambda: VGG(13), 133_047_848),
        (lambda: VGG(13, norm="frozen"), 133_053_736),
        (lambda: VGG(16), 138_357_544),
        (lambda: VGG(16, norm="group"), 138_365_992),
        (lambda: VGG(19), 143_667_240),
        (lambda: VGG(19, norm="batch"), 143_678_248),
        (lambda: AlexNet(), 61_100_840),
        (lambda: VGG(16, 0), 14_714_688),  # the convolutions alone
        (lambda: AlexNet(0), 2_469_696),
    ],
)
def test_parameters_are_counted(net, expected):
    named = tree_flatten(net().parameters())
    assert sum(v.size for k, v in named if "running" not in k) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_names_are_torchvisions(name):
    theirs = shapes(f"backbone_torchvision_{name}_slim")
    ours = flat_parameters(slim(name))
    assert ours.keys() == {k for k in theirs if "num_batches" not in k}
    for key, value in ours.items():
        given = theirs[key]
        assert value.shape == ((given[0], *given[2:], given[1]) if len(given) == 4 else given)


@pytest.mark.parametrize(("depth", "norm"), VGGS)
def test_places_of_convolutions(depth, norm):
    net = VGG(depth, 0, norm, width=8)
    places = tuple(i for i, m in enumerate(net.features) if isinstance(m, Conv2d))
    assert places == conv_places(depth, norm is not None)
    assert len(places) == depth - 3  # the paper counts the linear layers as well
    assert len(net.stage_starts) == 5 and set(net.stage_starts) <= set(places)


def test_the_map_of_a_detector():
    vgg, alex = VGGMap(VGGConfig(width=8)), AlexNetMap(AlexNetConfig(width=8))
    assert (VGGConfig().channels, AlexNetConfig().channels) == (512, 256)
    assert (vgg.config.channels, alex.config.channels) == (64, 32)
    for body in (vgg, alex):
        assert "classifier" not in body.net
        assert body.net.channels == body.config.channels
        small, large = (body(mx.zeros((2, side, 2 * side, 3))) for side in (256, 512))
        assert small.shape[0] == 2 and small.shape[-1] == body.config.channels
        grown = np.array(large.shape[1:3]) - small.shape[1:3]
        assert grown.tolist() == [256 // 16, 512 // 16]
    assert vgg(mx.zeros((1, 224, 239, 3))).shape == (1, 14, 14, 64)
    assert alex(mx.zeros((1, 224, 224, 3))).shape == (1, 13, 13, 32)  # of the paper
    assert backbone_type(make_backbone(VGGConfig(11, width=8))) == "vgg"
    assert backbone_type(make_backbone(AlexNetConfig(width=8))) == "alexnet"


@pytest.mark.parametrize(
    ("net", "pooled", "units"),
    [
        (lambda n: VGG(11, n, **TINY), (7, 7, 64), {3: 16, 0: 7 * 7 * 64}),
        (lambda n: AlexNet(n, **TINY), (6, 6, 32), {3: 16, 0: 6 * 6 * 32}),
        (lambda n: ResNet(18, n, width=8), (3, 3, 64), {3: 64, 0: 64}),
        (lambda n: MobileNetV3("small", n, width=0.5), (3, 3, 288), {3: 512, 0: 288}),
    ],
)
def test_pooled_map_and_units(net, pooled, units):
    x = image(("pooled", 2, 3, 70, 80))
    for classes, count in units.items():
        one = net(classes).eval()
        assert one.classifier_size == 224 and one.unit_channels == count
        found = one.pooled(x)
        assert found.shape == (2, *pooled)
        seen = one.units(found)
        assert seen.shape == (2, count)
        if classes:
            last = one.fc if "fc" in one else one.classifier[-1]
            np.testing.assert_allclose(np.array(last(seen)), np.array(one(x)), atol=1e-6)
        else:
            np.testing.assert_array_equal(np.array(seen), np.array(one(x)))


def test_a_classifier_s_image_is_not_averaged():
    for net, side in ((VGG(11, 0, width=8), 7), (AlexNet(0, 8), 6)):
        x = image(("whole", 1, 3, 224, 224))
        last = net.features[-1](net.last_map(x))
        assert last.shape[1:3] == (side, side)
        np.testing.assert_array_equal(np.array(net.pooled(x)), np.array(last))


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", BatchNorm), ("frozen", FrozenBatchNorm), ("group", GroupNorm)]
)
def test_norms(norm, kind):
    body = VGGMap(VGGConfig(13, norm=norm, norm_eps=0.25, norm_groups=4, width=8))
    norms = [m for m in body.modules() if isinstance(m, BatchNorm | GroupNorm)]
    assert len(norms) == 10 and all(type(m) is kind and m.eps == 0.25 for m in norms)
    assert not any(isinstance(m, BatchNorm | GroupNorm) for m in VGG(13, 0, width=8).modules())


@pytest.mark.parametrize("name", ["vgg13_bn", "alexnet"])
def test_batch_equals_singles_and_half_precision(name):
    net = filled(slim(name), f"torchvision_{name}_slim")
    images = mx.array(last_noise("two", 2, 3, 64, 80))
    together = np.array(net(images))
    for i in range(2):
        np.testing.assert_allclose(np.array(net(images[i : i + 1]))[0], together[i], atol=1e-4)
    net.set_dtype(mx.float16)
    half = net(images.astype(mx.float16))
    assert half.dtype == mx.float16
    np.testing.assert_allclose(np.array(half.astype(mx.float32)), together, atol=2e-2)


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn", "alexnet"])
def test_every_parameter_learns(name):
    """Alone, as a classifier, without dropout; a bias before a batch's norm has no say."""
    mx.random.seed(0)
    net = slim(name, dropout=0.0).train()
    x = mx.random.normal((4, 64, 64, 3))

    def loss(parameters):
        net.update(parameters)
        return mx.sum(mx.square(net(x)) * mx.arange(20))

    gradients = dict(tree_flatten(mx.grad(loss)(net.trainable_parameters())))
    assert not any("running" in key for key in gradients)
    assert [k for k, g in gradients.items() if not mx.any(g != 0).item()] == []


def test_dropout_is_of_training():
    for net in (VGG(11, 3, **TINY), AlexNet(3, **TINY)):
        x = image(SMALL)
        assert not mx.array_equal(net.train()(x), net(x)).item()
        assert mx.array_equal(net.eval()(x), net(x)).item()


@pytest.mark.parametrize(
    "config",
    [VGGConfig(11, norm="frozen", width=4), VGGConfig(11, 7, **TINY), AlexNetConfig(7, **TINY)],
)
def test_a_detector_is_saved_and_loaded(config, folder):
    model = FasterRCNN(config, config.channels, 3, hidden_dim=8, min_size=64).eval()
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (expected,) = model.predict([photo])
    mlx_rcnn.save(model, folder / "saved")
    back = mlx_rcnn.load(folder / "saved")
    assert back.config.backbone == back.backbone.config == config
    (found,) = back.predict([photo])
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])
    with pytest.raises(ValueError, match="does not fit the model"):
        mlx_rcnn.load(folder / "saved", hidden_dim=9)  # the detector's, where both have it
    assert ("classifier" in back.backbone.net) == bool(config.num_classes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VGG(12), r"depth=12: expected one of \(11, 13, 16, 19\)"),
        (lambda: VGGConfig(12), r"depth=12: expected one of \(11, 13, 16, 19\)"),
        (lambda: VGGConfig(norm="layer"), "norm='layer': expected one of"),
        (lambda: VGGConfig(width=0), "width=0: expected an integer of at least 1"),
        (lambda: AlexNetConfig(hidden_dim=0), "hidden_dim=0: expected an integer of at least 1"),
        (lambda: VGG(11, 0, "group", width=8), "norm_groups=32: does not divide 8 channels"),
        (lambda: VGG(11, 0, width=8).last_map(mx.zeros((1, 15, 40, 3))), "input is too small"),
        (lambda: VGG(11, 0, width=8).pooled(mx.zeros((1, 40, 31, 3))), "input is too small"),
        (lambda: AlexNet(0, 8).last_map(mx.zeros((1, 30, 40, 3))), "input is too small: 3x3 w"),
        (lambda: AlexNet(0, 8).pooled(mx.zeros((1, 63, 62, 3))), "of a map of 3x2 pixels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_smallest_images():
    assert VGG(11, 0, width=8).last_map(mx.zeros((1, 16, 16, 3))).shape == (1, 1, 1, 64)
    assert AlexNet(0, 8).last_map(mx.zeros((1, 31, 31, 3))).shape == (1, 1, 1, 32)
    assert VGG(11, 0, width=8).pooled(mx.zeros((1, 32, 32, 3))).shape == (1, 7, 7, 64)
    assert AlexNet(0, 8).pooled(mx.zeros((1, 63, 63, 3))).shape == (1, 6, 6, 32)
