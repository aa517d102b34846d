"""Faster R-CNN with a ResNet-50 and a feature pyramid in one file: read it, copy it, change it.

    python examples/faster_rcnn_by_hand.py photo.jpg fasterrcnn_resnet50_fpn_coco-258fb6c6.pth

The layers are MLX's own and the operations are `mlx_rcnn.ops`; nothing else of the package is in
the network. Its weights have the package's names, so that a model of the package can fill it, and a
test holds its detections and losses to the package's. One image at a time, no padding tricks, no
options: those are what the package adds.
"""

import argparse

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import load_image, ops

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's levels, in pixels
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)  # anchors: one size a level
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
ANCHORS, ROIS = 256, 512  # learned from, of an image


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with a norm, around which the input is carried."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm(4 * width)
        if stride > 1 or inputs != 4 * width:
            project = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = [project, nn.BatchNorm(4 * width)]

    def __call__(self, x):
        shortcut = x
        if "downsample" in self:
            shortcut = self.downsample[1](self.downsample[0](x))
        x = nn.relu(self.bn1(self.conv1(x)))
        x = nn.relu(self.bn2(self.conv2(x)))
        return nn.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """Four stages of 3, 4, 6 and 3 bottlenecks; each halves the map and doubles the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm(width)
        inputs = width
        for stage, blocks in enumerate((3, 4, 6, 3)):
            planes, layers = width * 2**stage, []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Bottleneck(inputs, planes, stride))
                inputs = 4 * planes
            self[f"layer{stage + 1}"] = layers

    def __call__(self, x):
        x = nn.relu(self.bn1(self.conv1(x)))
        x = nn.MaxPool2d(3, 2, 1)(x)
        maps = []
        for stage in range(1, 5):
            for block in self[f"layer{stage}"]:
                x = block(x)
            maps.append(x)
        return maps  # C2..C5


class Pyramid(nn.Module):
    """The ResNet's maps brought to equal channels, each enriched by the coarser one above it."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        inputs = [4 * width * 2**stage for stage in range(4)]
        self.inner_blocks = [[nn.Conv2d(c, channels, 1)] for c in inputs]
        self.layer_blocks = [[nn.Conv2d(channels, channels, 3, padding=1)] for _ in inputs]

    def __call__(self, maps):
        top, levels = None, []
        for [inner], [layer], x in reversed(
            list(zip(self.inner_blocks, self.layer_blocks, maps, strict=True))
        ):
            lateral = inner(x)
            if top is not None:  # nearest pixel of a map half as large, rounded up
                top = mx.repeat(mx.repeat(top, 2, axis=1), 2, axis=2)
                lateral = lateral + top[:, : lateral.shape[1], : lateral.shape[2]]
            top = lateral
            levels.insert(0, layer(top))
        return [*levels, levels[-1][:, ::2, ::2]]  # P2..P6


class RPNHead(nn.Module):
    """For each anchor of each pixel: is it an object, and how should it move?"""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = [[nn.Conv2d(channels, channels, 3, padding=1)]]
        self.cls_logits = nn.Conv2d(channels, len(RATIOS), 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * len(RATIOS), 1)

    def __call__(self, x):
        x = nn.relu(self.conv[0][0](x))
        return self.cls_logits(x).reshape(-1), self.bbox_pred(x).reshape(-1, 4)


class BoxHead(nn.Module):
    """Two linear layers over the pooled features of a proposal; then its class and its box."""

    def __init__(self, channels: int, hidden: int, classes: int):
        super().__init__()
        self.box_head = {"fc6": nn.Linear(49 * channels, hidden), "fc7": nn.Linear(hidden, hidden)}
        self.box_predictor = {
            "cls_score": nn.Linear(hidden, classes),
            "bbox_pred": nn.Linear(hidden, 4 * classes),
        }

    def __call__(self, pooled):
        x = nn.relu(self.box_head["fc6"](pooled.flatten(1)))
        x = nn.relu(self.box_head["fc7"](x))
        logits, deltas = self.box_predictor["cls_score"](x), self.box_predictor["bbox_pred"](x)
        return logits, deltas.reshape(len(x), -1, 4)  # (R, C) and (R, C, 4)


class FasterRCNN(nn.Module):
    """The two stages: where something is, and then what it is."""

    def __init__(self, classes: int, width: int = 64, channels: int = 256, hidden: int = 1024):
        super().__init__()
        self.backbone = {"net": ResNet(width), "fpn": Pyramid(width, channels)}
        self.rpn = {"head": RPNHead(channels)}
        self.roi_heads = BoxHead(channels, hidden, classes)

    def first_stage(self, pixels):
        """Feature maps of (1, H, W, 3), and the logits, deltas and anchors of each level."""
        features = self.backbone["fpn"](self.backbone["net"](pixels))
        outputs = [self.rpn["head"](x) for x in features]
        grids = zip(features, STRIDES, SIZES, strict=True)
        anchors = [anchors_of(*x.shape[1:3], stride, size) for x, stride, size in grids]
        return features, [(*o, a) for o, a in zip(outputs, anchors, strict=True)]

    def second_stage(self, features, boxes):
        """Class logits (R, C) and box deltas (R, C, 4) of boxes (R, 4)."""
        rois = mx.concatenate([mx.zeros((len(boxes), 1)), boxes], axis=1)  # of image 0
        scales = [1 / stride for stride in STRIDES[:4]]
        return self.roi_heads(ops.multiscale_roi_align(features[:4], rois, 7, scales, 2))

    def predict(self, image, short=800, long=1333, score_thresh=0.05, nms_thresh=0.5, top_k=100):
        """Boxes (D, 4), scores and labels of an (H, W, 3) uint8 image, best first."""
        pixels, size = network_input(image, short, long)
        features, levels = self.first_stage(pixels)
        boxes = proposals(levels, size, 1000, 1000)
        logits, deltas = self.second_stage(features, boxes)
        boxes = ops.decode_boxes(deltas, boxes[:, None], BOX_WEIGHTS)  # (R, C, 4)
        boxes, scores = ops.clip_boxes(boxes, size), mx.softmax(logits, axis=1)
        boxes, scores = np.array(boxes), np.array(scores)
        row, label = np.nonzero(scores[:, 1:] > score_thresh)  # class 0 is the background
        boxes, scores, label = boxes[row, label + 1], scores[row, label + 1], label + 1
        large = (boxes[:, 2:] - boxes[:, :2] >= 1e-2).all(axis=1)
        boxes, scores, label = boxes[large], scores[large], label[large]
        keep = ops.batched_nms(mx.array(boxes), mx.array(scores), mx.array(label), nms_thresh)
        keep = np.array(keep)[:top_k]
        boxes = boxes[keep] * ratio(image.shape, size)
        return {"boxes": boxes, "scores": scores[keep], "labels": label[keep]}

    def losses(self, image, boxes, labels, key, short=800, long=1333):
        """The four losses of one image whose objects have boxes (G, 4), pixels, and labels (G,)."""
        rpn_key, roi_key = mx.random.split(key)
        pixels, size = network_input(image, short, long)
        targets = mx.array(boxes * ratio(size, image.shape))
        features, levels = self.first_stage(pixels)
        logits, deltas, anchors = (mx.concatenate(v) for v in zip(*levels, strict=True))
        matched = match(targets, anchors, 0.7, 0.3, rescue=True)
        chosen, positive = sample(matched, ANCHORS, 0.5, rpn_key)
        found = mx.array(matched[positive])
        wanted = ops.encode_boxes(targets[found], anchors[mx.array(positive)])
        is_object = mx.array(matched[chosen] >= 0).astype(mx.float32)
        losses = {
            "rpn_cls_loss": nn.losses.binary_cross_entropy(logits[mx.array(chosen)], is_object),
            "rpn_reg_loss": smooth_l1(deltas[mx.array(positive)], wanted) / len(chosen),
        }
        fixed = [[mx.stop_gradient(v) for v in level] for level in levels]
        rois = mx.concatenate([proposals(fixed, size, 2000, 2000), targets])
        matched = match(targets, rois, 0.5, 0.5, rescue=False)
        chosen, positive = sample(matched, ROIS, 0.25, roi_key)
        logits, deltas = self.second_stage(features, rois[mx.array(chosen)])
        classes = np.where(matched[chosen] >= 0, labels[matched[chosen]], 0)
        first, found = mx.arange(len(positive)), mx.array(matched[positive])  # they come first
        moved = deltas[first, mx.array(labels)[found]]
        wanted = ops.encode_boxes(targets[found], rois[mx.array(positive)], BOX_WEIGHTS)
        losses["roi_cls_loss"] = mx.mean(nn.losses.cross_entropy(logits, mx.array(classes)))
        losses["roi_reg_loss"] = smooth_l1(moved, wanted) / len(chosen)
        return losses


def network_input(image, short, long):
    """(1, H, W, 3) padded to a multiple of 32, and its (height, width) before that."""
    height, width = image.shape[:2]
    scale = min(short / min(height, width), long / max(height, width))
    size = int(height * scale), int(width * scale)
    pixels = (ops.resize_torch(image, size) / 255 - np.array(MEAN)) / np.array(STD)
    pixels = np.pad(pixels, [(0, -size[0] % 32), (0, -size[1] % 32), (0, 0)])
    return mx.array(pixels[None], dtype=mx.float32), size


def ratio(size, other):
    """What takes the boxes (x1, y1, x2, y2) of a picture of one (height, width) to another."""
    (height, width), (h, w) = size[:2], other[:2]
    return np.array([width / w, height / h] * 2, np.float32)


def anchors_of(height, width, stride, size):
    """(height * width * 3, 4): a wide, a square and a high box around every pixel of a map."""
    high = np.sqrt(np.array(RATIOS))
    cell = np.round(np.stack([-1 / high, -high, 1 / high, high], axis=1) * size / 2)
    x, y = np.meshgrid(np.arange(width) * stride, np.arange(height) * stride)
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return mx.array((shifts + cell).reshape(-1, 4), dtype=mx.float32)


def proposals(levels, size, before, after):
    """The best boxes of each level after suppression in that level, (P, 4), best first."""
    boxes, scores, level = [], [], []
    for number, (logits, deltas, anchors) in enumerate(levels):
        best = mx.argsort(-logits)[:before]
        boxes.append(ops.clip_boxes(ops.decode_boxes(deltas[best], anchors[best]), size))
        scores.append(mx.sigmoid(logits[best]))
        level.append(mx.full(best.shape, number))
    boxes, scores, level = (mx.concatenate(v) for v in (boxes, scores, level))
    sides = np.array(boxes[:, 2:] - boxes[:, :2])
    large = mx.array(np.flatnonzero((sides >= 1e-3).all(axis=1)))
    boxes, scores, level = boxes[large], scores[large], level[large]
    return boxes[ops.batched_nms(boxes, scores, level, 0.7)[:after]]


def match(targets, boxes, foreground, background, rescue):
    """(n,) the target that each box overlaps most; -1 below `background`, -2 in between."""
    iou = np.array(ops.box_iou(targets, boxes))  # (G, n)
    best, index = iou.max(axis=0), iou.argmax(axis=0)
    matched = np.where(best < background, -1, np.where(best < foreground, -2, index))
    if rescue:  # the anchors that overlap a target most, however little that is
        top = (iou == iou.max(axis=1, keepdims=True)).any(axis=0)
        matched[top] = index[top]
    return matched


def sample(matched, count, fraction, key):
    """Rows to learn from, positives first, and the positives among them; random, balanced."""
    order = np.argsort(np.array(mx.random.uniform(shape=matched.shape, key=key)))
    positive = order[matched[order] >= 0][: int(count * fraction)]
    negative = order[matched[order] == -1][: count - len(positive)]
    return np.concatenate([positive, negative]), positive


def smooth_l1(prediction, target, beta=1 / 9):
    return mx.sum(nn.losses.smooth_l1_loss(prediction, target, beta, "none"))


def by_hand(model):
    """This file's network with the weights of a `faster_rcnn` R50-FPN of the package."""
    backbone, heads = model.backbone.config, model.roi_heads
    classes, hidden = heads.box_predictor.cls_score.weight.shape
    net = FasterRCNN(classes, backbone.width, backbone.out_channels, hidden)
    weights = {k: v for k, v in tree_flatten(model.parameters()) if ".net.fc." not in k}
    net.load_weights(list(weights.items()))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm):
            module.eps = backbone.norm_eps
    net.eval()
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("model", help="weights of fasterrcnn_resnet50_fpn")
    args = parser.parse_args()
    model = mlx_rcnn.load(args.model)
    found = by_hand(model).predict(load_image(args.photo))
    for box, score, label in zip(*found.values(), strict=True):
        if score > 0.5:
            print(model.class_names[label], f"{score:.3f}", box.round().astype(int))


if __name__ == "__main__":
    main()
