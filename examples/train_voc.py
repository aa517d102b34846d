"""Train a small detector from scratch on a VOC folder, and test it.

    python examples/train_voc.py --data bccd --epochs 12 --size 320 --output run
    python examples/train_voc.py --data bccd --model CascadeRCNN
    python examples/train_voc.py --data bccd --model FastRCNN --proposals proposals.npz
    python examples/train_voc.py --data bccd --model RCNN --proposals proposals.npz --size 64

Afterwards `mlx_rcnn predict --model run/best photo.jpg` uses it, and run/metrics.jsonl says how
it went. Every setting of `mlx_rcnn train --help` is a field of TrainConfig.
"""

import argparse

import mlx.core as mx

from mlx_rcnn import (
    RCNN,
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    ResNetConfig,
    ResNetFPNConfig,
    load,
    reuse_large_blocks,
)
from mlx_rcnn.data import open_dataset, report, with_proposals
from mlx_rcnn.models import Detector
from mlx_rcnn.training import TrainConfig, fit

MODELS = {cls.__name__: cls for cls in (FasterRCNN, CascadeRCNN, FastRCNN, RCNN)}


def build(name: str, class_names: tuple[str, ...], size: int, width: int) -> Detector:
    """ResNet-18 with group normalisation, which learns from batches of a few images."""
    net = {"depth": 18, "width": width, "norm": "group", "norm_groups": 16, "num_classes": 0}
    if name == "RCNN":  # over crops of `size`, with the paper's share of them for context
        return RCNN(
            ResNetConfig(**net),
            8 * width,
            len(class_names),
            crop_size=size,
            crop_context=round(size * 16 / 227),
            class_names=class_names,
        )
    backbone = ResNetFPNConfig(out_channels=width, **net)
    return MODELS[name](
        backbone,
        backbone.out_channels,
        len(class_names),
        use_fpn=True,
        hidden_dim=256,
        dropout=0.0,
        min_size=size,
        max_size=2 * size,
        class_names=class_names,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="VOC folder with a train and a val split")
    parser.add_argument("--model", choices=MODELS, default="FasterRCNN")
    parser.add_argument("--proposals", help="file of all splits' proposals, for FastRCNN and RCNN")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--size", type=int, default=320, help="short side in pixels, of a crop for RCNN"
    )
    parser.add_argument("--width", type=int, default=64, help="channels, a multiple of 16")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="run")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    reuse_large_blocks()  # on Linux, a training step is several times faster with it

    def opened(split: str, names: tuple[str, ...] | None = None):
        found = open_dataset(args.data, split=split, class_names=names)
        return with_proposals(found, args.proposals) if args.proposals else found

    train_set = opened("train")
    # An R-CNN takes a minute for an image's crops: it is tested once, at the end.
    val_set = None if args.model == "RCNN" else opened("val", train_set.class_names)
    print(report(train_set))
    config = TrainConfig(
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        momentum=0.9,
        weight_decay=1e-4,
        warmup=100,
        schedule="step",
        drops=(0.75,),
        clip=0.0,
        hflip=0.5,
        vflip=0.5,
        seed=args.seed,
    )
    mx.random.seed(args.seed)  # of the first weights
    model = build(args.model, train_set.class_names, args.size, args.width)
    done = fit(model, train_set, val_set, config, args.output, resume=args.resume)
    if done.interrupted:
        print(f"stopped after step {done.step}; --resume goes on")
        return

    if "test" in train_set.splits:
        from mlx_rcnn.evaluation import evaluate_coco

        test_set = opened("test", train_set.class_names)
        for name in ("best", "last") if done.best is not None else ("last",):
            scores = evaluate_coco(load(f"{args.output}/{name}"), test_set)
            shown = ", ".join(f"{key} {scores[key]:.3f}" for key in ("AP", "AP50", "AP75"))
            print(f"{name} on test: {shown}")


if __name__ == "__main__":
    main()
