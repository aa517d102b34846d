"""From R-CNN to Cascade R-CNN: where the time of one image goes, over the same backbone and photo.

    python examples/evolution.py photo.jpg --chart evolution.png

R-CNN runs its network once a proposal, Fast R-CNN once an image, Faster R-CNN makes the proposals
with it, Mask R-CNN adds masks, Cascade R-CNN box heads. Each takes the papers' 2000 proposals.
Weights are random: what is measured is time. Selective Search needs pip install
"mlx-rcnn[proposals]", the chart pip install "mlx-rcnn[plots]"; without the first, proposals are
random boxes and their time is left out.
"""

import argparse
import time

import mlx.core as mx
import numpy as np

from mlx_rcnn import (
    RCNN,
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    MaskRCNN,
    ResNetFPNConfig,
    load_image,
    reuse_large_blocks,
)
from mlx_rcnn.heads import select_detections
from mlx_rcnn.heads.detections import detection_rule
from mlx_rcnn.inputs.proposals import prepare_proposals
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.models.boxing import BoxOutputs
from mlx_rcnn.models.results import to_results

# Seconds an image as published, proposals included, each on a GPU of its year: the papers', and
# for the cascade mmdetection's 16.1 images a second with a ResNet-50 on a V100.
PAPERS = {RCNN: 47.0, FastRCNN: 2.0, FasterRCNN: 0.2, MaskRCNN: 0.195, CascadeRCNN: 0.062}
PARTS = ("proposals", "features", "heads", "post-processing")


def build(cls, depth, size, count):
    """A model on a ResNet of random weights, the pyramid over it unless it is an R-CNN."""
    net = ResNetFPNConfig(depth=depth, num_classes=0)
    if cls is RCNN:
        return cls(net, 512 * (4 if depth >= 50 else 1), 21)
    given = {
        "use_fpn": True,
        "hidden_dim": 1024,
        "min_size": size,
        "max_size": 2 * size,
        "rpn_pre_nms_top_n_test": count,
        "rpn_post_nms_top_n_test": count,
    }
    own = cls.config_class.__dataclass_fields__
    return cls(net, net.out_channels, 21, **{k: v for k, v in given.items() if k in own})


def search(image, count):
    """Selective Search's proposals and its seconds; random boxes and 0 without OpenCV."""
    try:
        from mlx_rcnn.data import selective_search

        began = time.perf_counter()
        return selective_search(image, limit=count), time.perf_counter() - began
    except ImportError as error:
        print(f"no Selective Search, random boxes instead: {error}")
    height, width = image.shape[:2]
    corners = np.random.default_rng(0).uniform(0, 1, (count, 2, 2)) * (width - 17, height - 17)
    return np.concatenate([corners.min(1), corners.max(1) + 16], axis=1).astype(np.float32), 0.0


def measure(model, image, boxes, seconds):
    """Seconds of each part of one prediction."""
    batch, found = preprocess([image], model.config, model.input_sizes([image])), {}
    sizes = mx.array(batch.sizes.astype(np.float32))
    net, began = model.to_predict(), time.perf_counter()

    def lap(name, *results):
        nonlocal began
        mx.eval(*results)
        found[name] = found.get(name, 0.0) + time.perf_counter() - began
        began = time.perf_counter()

    features = net.features(batch.pixels)
    lap("features", features)
    strides = net.strides(features, batch)
    if model.needs_proposals:
        proposals = prepare_proposals([boxes], batch)
        found["proposals"] = seconds
    else:
        proposals = net.propose(features, batch, strides)
    lap("proposals", proposals)
    stage = net.stage(features, strides)
    outputs = BoxOutputs(*net.box_stage(stage, proposals, sizes))
    # An R-CNN's features are of its crops: its heads are two matrix products.
    lap("features" if isinstance(model, RCNN) else "heads", outputs)
    rule = detection_rule(model.config)
    logits, deltas, proposals = outputs
    detections = select_detections(logits, deltas, proposals, sizes, rule, rounds=1000)
    lap("post-processing", detections)
    results = to_results(detections, batch)
    for branch in model.branches:
        branch.add_results(stage, detections, batch, results, {"masks": "full"})
        lap("heads")
    lap("post-processing")
    return [found.get(part, 0.0) for part in PARTS]


def draw(path, names, rows):
    """Horizontal bars, one a model, on a logarithmic axis: an R-CNN's would hide the others."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    totals = [sum(row) for row in rows]
    papers = list(PAPERS.values())
    places = np.arange(len(names))
    axes.barh(places - 0.2, totals, 0.38, label="here")
    axes.barh(places + 0.2, papers, 0.38, label="published", color="0.75")
    for place, row, total in zip(places, rows, totals, strict=True):
        most = int(np.argmax(row))
        share = f"{total:.{0 if total > 10 else 1}f} s, {row[most] / total:.0%} {PARTS[most]}"
        axes.text(total * 1.08, place - 0.2, share, va="center", fontsize=8)
    axes.set(xscale="log", xlabel="seconds an image", yticks=places, yticklabels=names)
    axes.set_xlim(min(papers + totals) / 2, max(papers + totals) * 12)
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    print(f"chart: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet (default: 50)")
    parser.add_argument("--size", type=int, default=800, help="short side (default: 800)")
    parser.add_argument("--proposals", type=int, default=2000, metavar="N", help="(default: 2000)")
    parser.add_argument("--chart", metavar="FILE", help="picture to draw (default: none)")
    args = parser.parse_args()
    reuse_large_blocks()
    image = load_image(args.photo)
    boxes, seconds = search(image, args.proposals)
    rows = []
    print(
        f"{'':14}"
        + "".join(f"{part:>16}" for part in (*PARTS, "total s", "of R-CNN", "published s"))
    )
    for cls in PAPERS:
        mx.random.seed(0)
        model = build(cls, args.depth, args.size, args.proposals)
        if cls is not RCNN:  # once for the memory; an R-CNN takes minutes
            measure(model, image, boxes, seconds)
        row = measure(model, image, boxes, seconds)
        rows.append(row)
        ratio, paper = sum(row) / sum(rows[0]), PAPERS[cls] / PAPERS[RCNN]
        print(
            f"{cls.__name__:14}"
            + "".join(f"{part:16.3f}" for part in (*row, sum(row)))
            + f"{f'1/{1 / ratio:.0f} (1/{1 / paper:.0f})':>16}{PAPERS[cls]:16g}",
            flush=True,
        )
    if args.chart:
        draw(args.chart, [cls.__name__ for cls in PAPERS], rows)


if __name__ == "__main__":
    main()
