"""Write ops_torchvision.npz: what torch and torchvision compute on small inputs.

Inputs that are not stored come from ``noise`` of reference.py and weights from ``fill`` of
recipe.py, by key. Needs torch and torchvision; the
tests need only the file. Made with torch 2.12.0 (x86-64, AVX2) and torchvision 0.27.0:

    python tests/goldens/make_ops.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import (
    FeaturePyramidNetwork,
    FrozenBatchNorm2d,
    MultiScaleRoIAlign,
    batched_nms,
    boxes,
    nms,
    roi_align,
    roi_pool,
)
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipe import fill
from reference import noise

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(11)

ROIS = [  # image, x1, y1, x2, y2 in pixels of the input; the maps have half its resolution
    [0, 2.0, 4.0, 14.0, 12.0],
    [1, 3.3, 1.7, 20.9, 15.2],
    [0, -3.5, -2.25, 5.1, 6.4],  # over the top left corner
    [1, 20.2, 11.4, 29.7, 22.6],  # over the bottom right corner
    [0, -30.0, -40.0, -12.0, -9.0],  # outside
    [1, 40.0, 3.0, 60.0, 12.0],
    [1, -90.0, -70.0, 130.0, 95.0],  # far beyond the map on every side
    [0, 15.0, 12.0, 6.0, 3.0],  # inverted
    [1, 12.0, 3.0, 5.0, 13.0],
    [0, 9.1, 7.3, 9.4, 7.5],  # a fraction of a map pixel
    [1, 8.0, 6.0, 8.0, 6.0],  # a point
    [0, 0.0, 0.0, 26.0, 18.0],  # the whole map
]
LEVEL_SIDES = [  # width, height
    (112, 112),
    (224, 224),
    (448, 448),
    (111.9999, 112),
    (223.999, 224),
    (447.99, 448),
    (56, 224),
    (112, 448),
    (896, 224),
    (1, 1),
    (5, 9),
    (600, 500),
    (896, 896),
    (449, 448),
]
RPN_MAPS = [(5, 7), (3, 4), (2, 2)]
RPN_CASES = {  # before, after suppression, its threshold, least score
    "a": (30, 25, 0.5, 0.0),
    "b": (1000, 1000, 0.7, 0.0),
    "c": (20, 1000, 0.7, 0.45),
}
DETECTION_CASES = {"a": (0.05, 0.5, 100), "b": (0.05, 0.3, 7), "c": (0.4, 0.7, 100)}
FPN_MAPS = {"0": (2, 8, 13, 18), "1": (2, 12, 7, 9), "2": (2, 16, 4, 5)}


def tensor(key: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(noise(key, *shape))


def last(x: torch.Tensor) -> np.ndarray:
    """NCHW -> NHWC."""
    return x.permute(0, 2, 3, 1).contiguous().detach().numpy()


def random_boxes(n: int, extent: float, side: float) -> np.ndarray:
    corner = RNG.uniform(0, extent, (n, 2))
    return np.concatenate([corner, corner + RNG.uniform(1, side, (n, 2))], 1).astype(np.float32)


def fill_module(module: nn.Module, prefix: str = "") -> nn.Module:
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    filled = {key: torch.from_numpy(fill(prefix + key, shape)) for key, shape in shapes.items()}
    module.load_state_dict(filled)
    return module.eval()


def make_boxes() -> Arrays:
    a, b = random_boxes(9, 30, 25), random_boxes(7, 30, 25)
    a[-1] = [5, 5, 5, 9]  # empty
    b[-1] = [20, 20, 10, 30]  # inverted
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    out = {"boxes_a": a, "boxes_b": b, "box_area": boxes.box_area(ta).numpy()}
    out["box_iou"] = boxes.box_iou(ta, tb).numpy()
    out["giou"] = boxes.generalized_box_iou(ta, tb).numpy()
    out["clip"] = boxes.clip_boxes_to_image(ta * 2 - 9, (30, 41)).numpy()
    for kind in ("xywh", "cxcywh"):
        out[kind] = boxes.box_convert(ta, "xyxy", kind).numpy()
    anchors, targets = random_boxes(8, 60, 40), random_boxes(8, 60, 40)
    deltas = (RNG.standard_normal((8, 4)) * [8, 8, 4, 4]).astype(np.float32)
    deltas[0, 2:] = [30, 21]  # beyond the clip of weights 5
    out.update(coder_anchors=anchors, coder_targets=targets, coder_deltas=deltas)
    for name, weights in (("unit", (1.0, 1.0, 1.0, 1.0)), ("box", (10.0, 10.0, 5.0, 5.0))):
        coder = torchvision.models.detection._utils.BoxCoder(weights)
        targets_, anchors_ = torch.from_numpy(targets), torch.from_numpy(anchors)
        out[f"encode_{name}"] = coder.encode_single(targets_, anchors_).numpy()
        out[f"decode_{name}"] = coder.decode_single(torch.from_numpy(deltas), anchors_).numpy()
    return out


def make_nms() -> Arrays:
    seeds = random_boxes(12, 200, 80)
    crowd = np.repeat(seeds, 5, axis=0) + RNG.normal(0, 6, (60, 4)).astype(np.float32)
    scores = np.round(RNG.random(60), 1).astype(np.float32)  # many are equal
    groups = RNG.integers(0, 3, 60)
    args = [torch.from_numpy(v) for v in (crowd, scores, groups)]
    out = {"nms_boxes": crowd, "nms_scores": scores, "nms_groups": groups}
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        out[f"nms_{threshold}"] = nms(*args[:2], threshold).numpy()
        out[f"batched_nms_{threshold}"] = batched_nms(*args, threshold).numpy()
    return out


def make_rois() -> Arrays:
    maps, rois = tensor("roi maps", 2, 2, 9, 13), torch.tensor(ROIS)
    out = {"rois": rois.numpy()}
    for bins in ((3, 2), (7, 7)):
        size = f"{bins[0]}x{bins[1]}"
        for aligned in (False, True):
            for ratio in (-1, 0, 1, 2, 3):
                # Without a fixed grid torchvision fails on the row inverted in x alone.
                rows = rois[[i for i in range(len(rois)) if not (aligned and ratio < 1 and i == 8)]]
                y = roi_align(maps, rows, bins, 0.5, ratio, aligned)
                out[f"roi_align_{size}_{ratio}_{aligned}"] = last(y)
        out[f"roi_pool_{size}"] = last(roi_pool(maps, rois, bins, 0.5))
    sides = torch.tensor(LEVEL_SIDES)
    corner = torch.from_numpy(RNG.uniform(0, 60, (len(sides), 2)).astype(np.float32)).round()
    batch = [torch.cat([corner, corner + sides], 1)[i::2] for i in (0, 1)]
    features = {str(i): tensor(f"level {i}", 2, 1, 128 >> i, 160 >> i) for i in range(4)}
    pool = MultiScaleRoIAlign(list(features), 2, 2)
    out["multiscale"] = last(pool(features, batch, [(512, 640), (500, 640)]))
    index = torch.repeat_interleave(torch.tensor([0.0, 1.0]), torch.tensor([len(b) for b in batch]))
    out["multiscale_rois"] = torch.cat([index[:, None], torch.cat(batch)], 1).numpy()
    out["multiscale_levels"] = pool.map_levels(batch).numpy()
    return out


def anchors_of(sizes, ratios, maps, image) -> list[np.ndarray]:
    generator = AnchorGenerator(sizes, (ratios,) * len(sizes))
    features = [torch.zeros(1, 1, *size) for size in maps]
    anchors = generator(ImageList(torch.zeros(1, 3, *image), [image]), features)[0]
    counts = [h * w * len(sizes[0]) * len(ratios) for h, w in maps]
    return [v.numpy() for v in anchors.split(counts)]


def make_anchors() -> Arrays:
    ratios = (0.5, 1.0, 2.0)
    single = anchors_of(((128, 256, 512),), ratios, [(3, 2)], (48, 33))
    pyramid = anchors_of(((32,), (64,)), ratios, [(4, 5), (2, 3)], (50, 83))
    odd = anchors_of(((7, 10.5), (30, 33)), (0.4, 3.0), [(2, 2), (1, 2)], (16, 21))
    pairs = [("single", single), ("pyramid", pyramid), ("odd", odd)]
    return {f"anchors_{name}_{i}": a for name, all_ in pairs for i, a in enumerate(all_)}


def make_rpn() -> Arrays:
    maps = [tensor(f"rpn map {i}", 2, 8, h, w) for i, (h, w) in enumerate(RPN_MAPS)]
    head = fill_module(RPNHead(8, 3), "rpn test.")
    logits, deltas = head(maps)
    out = {f"rpn_logits_{i}": last(v).reshape(2, -1) for i, v in enumerate(logits)}
    shape = logits[0].shape[0], -1, 4
    out.update({f"rpn_deltas_{i}": last(v).reshape(shape) for i, v in enumerate(deltas)})
    counts = [v[0].numel() for v in logits]
    levels = anchors_of(((12,), (20,), (36,)), (0.5, 1.0, 2.0), RPN_MAPS, (40, 56))
    anchors = np.concatenate(levels)
    _, flat = concat_box_prediction_layers(logits, deltas)
    objectness = torch.from_numpy((RNG.permutation(2 * sum(counts)) / 60 - 3).astype(np.float32))
    regression = torch.from_numpy(RNG.normal(0, 0.25, flat.shape).astype(np.float32))
    sizes = [(40, 50), (33, 56)]
    out.update(
        rpn_anchors=anchors,
        rpn_objectness=objectness.view(2, -1).numpy(),
        rpn_regression=regression.view(2, -1, 4).numpy(),
        rpn_sizes=np.array(sizes, np.float32),
    )
    for case, (pre, post, overlap, score) in RPN_CASES.items():
        top = {"training": pre, "testing": pre}, {"training": post, "testing": post}
        rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, *top, overlap, score).eval()
        proposals = rpn.box_coder.decode(regression, [torch.from_numpy(anchors)] * 2).view(2, -1, 4)
        found, scores = rpn.filter_proposals(proposals, objectness.view(2, -1), sizes, counts)
        for i in (0, 1):
            out[f"proposals_{case}_{i}"] = found[i].numpy()
            out[f"proposal_scores_{case}_{i}"] = scores[i].numpy()
    return out


def make_detections() -> Arrays:
    counts, classes, sizes = [25, 18], 5, [(90, 120), (100, 81)]
    proposals = np.repeat(random_boxes(11, 80, 60), 4, axis=0)[: sum(counts)]
    proposals = (proposals + RNG.normal(0, 3, proposals.shape)).astype(np.float32)
    logits = (RNG.normal(0, 2, (sum(counts), classes)) + [2, 0, 0, 0, 0]).astype(np.float32)
    deltas = (RNG.normal(0, 1, (sum(counts), 4 * classes))).astype(np.float32)
    out = {"det_proposals": proposals, "det_logits": logits, "det_deltas": deltas}
    out["det_sizes"] = np.array(sizes, np.float32)
    for case, (score, overlap, top_k) in DETECTION_CASES.items():
        heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, score, overlap, top_k)
        found = heads.postprocess_detections(
            torch.from_numpy(logits),
            torch.from_numpy(deltas),
            list(torch.from_numpy(proposals).split(counts)),
            sizes,
        )
        for name, values in zip(("boxes", "scores", "labels"), found, strict=True):
            for i in (0, 1):
                out[f"det_{name}_{case}_{i}"] = values[i].numpy()
    return out


def make_layers() -> Arrays:
    out = {}
    frozen = fill_module(FrozenBatchNorm2d(6, eps=0.0), "frozen.")
    frozen.running_var.copy_(torch.tensor([1e-5, 3e-6, 1.2e-5, 1e-8, 1.0, 40.0]))
    x = tensor("norm input", 3, 6, 4, 5)
    out["frozen_eps_0"] = last(frozen(x))
    frozen.eps = 1e-5
    out["frozen_eps_1e-5"] = last(frozen(x))
    batch = fill_module(nn.BatchNorm2d(6), "batch.").train()
    for step in range(2):
        x = (tensor(f"norm input {step}", 3, 6, 4, 5) + 2).requires_grad_()
        y = batch(x)
        (y * tensor("norm cotangent", 3, 6, 4, 5)).sum().backward()
    out["batch_norm"], out["batch_norm_dx"] = last(y), last(x.grad)
    for name in ("running_mean", "running_var"):
        out[f"batch_norm_{name}"] = getattr(batch, name).numpy()
    for name in ("weight", "bias"):  # the sum over both steps
        out[f"batch_norm_d{name}"] = getattr(batch, name).grad.numpy()
    group = fill_module(nn.GroupNorm(3, 6), "group.")
    out["group_norm"] = last(group(tensor("norm input", 3, 6, 4, 5)))
    x = torch.arange(7 * 5.0).view(1, 1, 7, 5)
    for size in ((14, 10), (13, 9), (7, 5), (15, 11), (3, 2), (20, 16), (1, 1)):
        name = f"nearest_{size[0]}x{size[1]}"
        out[name] = nn.functional.interpolate(x, size=size)[0, 0].numpy().astype(np.uint8)
    heads = fill_module(MaskRCNNHeads(4, (8, 8), 1), "mask test.")
    predictor = fill_module(MaskRCNNPredictor(8, 6, 3), "mask test.")
    out["mask_logits"] = last(predictor(heads(tensor("mask rois", 2, 4, 5, 5))))
    return out


def make_backbones() -> Arrays:
    out = {}
    images, odd = tensor("images", 2, 3, 64, 64), tensor("odd image", 1, 3, 45, 67)
    net18 = fill_module(torchvision.models.resnet18(num_classes=10))
    out["resnet18"], out["resnet18_odd"] = net18(images), net18(odd)
    net50 = fill_module(torchvision.models.resnet50(num_classes=10))
    out["resnet50"], out["resnet50_odd"] = net50(images), net50(odd)
    for stage in (net50.layer2, net50.layer3, net50.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    out["resnet50_stride_in_1x1"] = net50(odd)
    resnext = fill_module(torchvision.models.resnext50_32x4d(num_classes=10), "resnext.")
    out["resnext50"] = resnext(tensor("small image", 1, 3, 32, 33))
    out = {k: v.detach().numpy() for k, v in out.items()}
    fpn = FeaturePyramidNetwork([8, 12, 16], 8, LastLevelMaxPool())
    maps = {i: tensor(f"fpn map {i}", *shape) for i, shape in FPN_MAPS.items()}
    for i, level in enumerate(fill_module(fpn, "fpn test.")(maps).values()):
        out[f"fpn_{i}"] = last(level)
    return out


def main() -> None:
    arrays = make_boxes() | make_nms() | make_rois() | make_anchors() | make_rpn()
    arrays |= make_detections() | make_layers() | make_backbones()
    np.savez_compressed(Path(__file__).with_name("ops_torchvision.npz"), **arrays)


if __name__ == "__main__":
    main()
