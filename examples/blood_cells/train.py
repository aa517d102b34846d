"""Train the detector of `make demo`: a narrow ResNet-18 and FPN, from scratch, on BCCD.

    python examples/blood_cells/train.py --data BCCD --output run --export model

BCCD is at https://github.com/Shenggan/BCCD_Dataset. Choices were made on its val split.
"""

import argparse
from dataclasses import replace

from mlx_rcnn import FasterRCNN, ResNetFPNConfig, load, reuse_large_blocks, save
from mlx_rcnn.data import open_dataset, report
from mlx_rcnn.evaluation import evaluate_coco
from mlx_rcnn.training import TrainConfig, fit

SPLITS = ("train", "val", "test")
CONFIG = TrainConfig(
    epochs=24,
    batch_size=4,
    lr=0.02,
    schedule="cosine",
    warmup=100,
    ema=0.995,
    # Predictions are made at the last one.
    min_size=(352, 384, 448, 480, 416),
    vflip=0.5,
    colour_jitter=0.5,
)


def build(class_names: tuple[str, ...]) -> FasterRCNN:
    """2.7 million parameters. Group norm, as batches of 4 are small."""
    backbone = ResNetFPNConfig(
        depth=18, width=24, out_channels=64, norm="group", norm_groups=8, num_classes=0
    )
    return FasterRCNN(
        backbone,
        backbone.out_channels,
        len(class_names),
        use_fpn=True,
        hidden_dim=256,
        dropout=0.0,
        min_size=416,
        max_size=832,
        class_names=class_names,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of BCCD, in VOC layout")
    parser.add_argument("--output", default="run", help="folder of the run")
    parser.add_argument("--export", help="where the best model goes, in float16")
    parser.add_argument("--epochs", type=int, default=CONFIG.epochs)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    args = parser.parse_args()
    reuse_large_blocks()  # on Linux, a training step is several times faster with it

    train_set, val_set, test_set = (open_dataset(args.data, split=s) for s in SPLITS)
    print(report(train_set))
    config = replace(CONFIG, epochs=args.epochs)
    model = build(train_set.class_names)
    if fit(model, train_set, val_set, config, args.output, resume=args.resume).interrupted:
        print("stopped; --resume goes on")
        return
    best = load(f"{args.output}/best", dtype="float16" if args.export else None)
    if args.export:
        save(best, args.export)
    scores = evaluate_coco(load(args.export or f"{args.output}/best", dtype="float32"), test_set)
    print(f"test: AP {scores['AP']:.3f}, AP50 {scores['AP50']:.3f}, AP75 {scores['AP75']:.3f}")


if __name__ == "__main__":
    main()
