"""Write backbones.npz and keys_backbone_*.txt: logits of other libraries' classifiers.

Weights are recipe.py's, by each library's own keys, the image is noise of reference.py. Needs
torch, torchvision, timm and transformers; the tests need only the files. Made with torch 2.12.0,
torchvision 0.27.0, timm 1.0.31 and transformers 4.49.0. The last two can lie in folders of their
own:

    python tests/goldens/make_backbones.py [FOLDER_OF_TIMM FOLDER_OF_TRANSFORMERS]

With ``ONLY=plain`` before it, only VGG and AlexNet are made again, which transformers has not.
VGG and AlexNet are narrow, and their linear layers small; one of each is whole.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipe import fill_alive
from reference import noise

sys.path[1:1] = sys.argv[1:]

HERE = Path(__file__).parent
IMAGE = ("backbone image", 1, 3, 64, 72)
LARGE = ("large backbone image", 1, 3, 300, 270)  # more than the grid of the linear layers
UNITS = 32  # of a small network's hidden linear layers


def networks():
    """(name, network) pairs; torchvision's MobileNetV3 also narrow and with a reduced tail."""
    import timm
    import torchvision.models as tv
    from transformers import ResNetConfig, ResNetForImageClassification

    for variant in ("large", "small"):
        build = getattr(tv, f"mobilenet_v3_{variant}")
        yield f"torchvision_mobilenet_v3_{variant}", build(num_classes=20)
        slim = build(num_classes=20, width_mult=0.5, reduced_tail=True)
        yield f"torchvision_mobilenet_v3_{variant}_slim", slim
        yield (
            f"timm_mobilenetv3_{variant}_100",
            timm.create_model(f"mobilenetv3_{variant}_100", num_classes=20),
        )
    yield "timm_resnext50_32x4d", timm.create_model("resnext50_32x4d", num_classes=20)
    for depth, kind, sizes in (
        (18, "basic", [64, 128, 256, 512]),
        (50, "bottleneck", [256, 512, 1024, 2048]),
    ):
        blocks = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
        config = ResNetConfig(layer_type=kind, depths=blocks, hidden_sizes=sizes, num_labels=20)
        yield f"transformers_resnet{depth}", ResNetForImageClassification(config)


def plain():
    """(name, network) pairs of VGG and AlexNet."""
    import timm.models.vgg as other
    import torchvision.models as tv
    from torch.nn import BatchNorm2d

    for depth, letter in ((11, "A"), (13, "B"), (16, "D"), (19, "E")):
        plan = [v if v == "M" else v // 8 for v in tv.vgg.cfgs[letter]]
        for norm in ("", "_bn"):
            net = tv.VGG(tv.vgg.make_layers(plan, bool(norm)), 20)
            yield f"torchvision_vgg{depth}{norm}_slim", small(net, 64 * 7 * 7)
        if depth in (11, 16):
            norm = BatchNorm2d if depth == 11 else None
            net = other.VGG(plan, 20, norm_layer=norm)
            net.pre_logits = other.ConvMlp(64, UNITS, 7)
            net.head = other.ClassifierHead(UNITS, 20)
            yield f"timm_vgg{depth}{'_bn' if norm else ''}_slim", net
    yield "torchvision_alexnet_slim", small(tv.alexnet(num_classes=20), 256 * 6 * 6)
    yield "torchvision_vgg16", tv.vgg16(num_classes=20)
    yield "torchvision_alexnet", tv.alexnet(num_classes=20)


def small(network, values):
    """A network whose linear layers have few units."""
    sizes = iter(((values, UNITS), (UNITS, UNITS), (UNITS, 20)))
    for place, layer in enumerate(network.classifier):
        if isinstance(layer, torch.nn.Linear):
            network.classifier[place] = torch.nn.Linear(*next(sizes))
    return network


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    image, large = (torch.from_numpy(noise(*given)) for given in (IMAGE, LARGE))
    file = HERE / "backbones.npz"
    only = os.environ.get("ONLY") == "plain"
    out = dict(np.load(file)) if only else {}
    for name, network in [*([] if only else networks()), *plain()]:
        state = {
            k: torch.from_numpy(fill_alive(k, tuple(v.shape)))
            for k, v in network.state_dict().items()
        }
        network.load_state_dict(state)
        found = network.eval()(image)
        out[name] = getattr(found, "logits", found)[0].numpy()
        if name.startswith("torchvision") and name.endswith("_slim") and "mobile" not in name:
            out[f"{name}_large"] = network(large)[0].numpy()
            if name in ("torchvision_vgg16_bn_slim", "torchvision_alexnet_slim"):
                out[f"{name}_map"] = network.features[:-1](image)[0].permute(1, 2, 0).numpy()
        print(name, np.abs(out[name]).max())
        lines = [f"{k} {'x'.join(map(str, v.shape))}\n" for k, v in state.items()]
        (HERE / f"keys_backbone_{name}.txt").write_text("".join(lines))
    np.savez_compressed(file, **out)


if __name__ == "__main__":
    main()
