"""Train a backbone as a classifier of object crops, then train a detector on top of it.

    python examples/pretrain_backbone.py --data bccd --output run

The classifier is `model.backbone.net`, a plain ResNet: its weights go through a file here, as they
would from any other classification data.
"""

import argparse
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from PIL import Image

from mlx_rcnn import FasterRCNN, ResNetFPNConfig, reuse_large_blocks
from mlx_rcnn.backbones import ResNet
from mlx_rcnn.data import open_dataset
from mlx_rcnn.training import TrainConfig, fit

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def crops(dataset, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Every annotated object as a normalised square picture, and its class."""
    images, labels = [], []
    for i in range(len(dataset)):
        sample = dataset[i]
        picture = Image.fromarray(sample.image)
        for box, label in zip(sample.target["boxes"], sample.target["labels"], strict=True):
            crop = np.asarray(picture.resize((side, side), box=tuple(map(float, box)))) / 255
            images.append(((crop - MEAN) / STD).astype(np.float32))
            labels.append(int(label))
    return np.stack(images), np.array(labels)


def train_classifier(net: ResNet, images: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    optimizer = optim.AdamW(1e-3, weight_decay=1e-2)
    step = nn.value_and_grad(net, lambda x, y: nn.losses.cross_entropy(net(x), y, reduction="mean"))
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        losses = []
        for rows in np.array_split(rng.permutation(len(images)), max(len(images) // 32, 1)):
            loss, gradients = step(mx.array(images[rows]), mx.array(labels[rows]))
            optimizer.update(net, gradients)
            mx.eval(net.parameters(), optimizer.state)
            losses.append(loss.item())
        print(f"classifier, epoch {epoch + 1}: loss {np.mean(losses):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="VOC folder with a train and a val split")
    parser.add_argument("--classifier-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=320, help="short side in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels, a multiple of 16")
    parser.add_argument("--output", type=Path, default=Path("run"))
    args = parser.parse_args()
    reuse_large_blocks()  # on Linux, a training step is several times faster with it
    train_set = open_dataset(args.data, split="train")
    val_set = open_dataset(args.data, split="val", class_names=train_set.class_names)
    classes = len(train_set.class_names)

    mx.random.seed(0)
    net = ResNet(18, classes, norm="group", norm_groups=16, width=args.width)
    train_classifier(net, *crops(train_set, 64), args.classifier_epochs)
    weights = args.output.with_name(f"{args.output.name}_backbone.safetensors")
    net.save_weights(str(weights))

    backbone = ResNetFPNConfig(
        18, classes, norm="group", norm_groups=16, width=args.width, out_channels=args.width
    )
    model = FasterRCNN(
        backbone,
        args.width,
        classes,
        use_fpn=True,
        hidden_dim=256,
        dropout=0.0,
        min_size=args.size,
        max_size=2 * args.size,
        class_names=train_set.class_names,
    )
    model.backbone.net.load_weights(str(weights))
    config = TrainConfig(epochs=args.epochs, batch_size=4, lr=0.02, clip=0.0, vflip=0.5, freeze=0)
    fit(model, train_set, val_set, config, args.output)


if __name__ == "__main__":
    main()
