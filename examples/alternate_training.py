"""Train a Faster R-CNN in the paper's four alternate steps (Ren et al., 2015, section 3.2).

    python examples/alternate_training.py --data bccd --backbone vgg16-397923af.pth --output run

1. A proposal network is trained. 2. A Fast R-CNN with a backbone of its own is trained on its
proposals. 3. A proposal network is trained on that backbone, which stays fixed. 4. The Fast R-CNN's
heads are trained on the new proposals, over the same fixed backbone. Backbone, network and heads
are then one Faster R-CNN, written to run/model. `fit` on a FasterRCNN does all of it in one run.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import mlx_rcnn
from mlx_rcnn import FasterRCNN, FastRCNN, ProposalNetwork, VGGConfig, load_backbone
from mlx_rcnn.data import open_dataset, with_proposals, write_proposals
from mlx_rcnn.inputs.proposals import Proposed
from mlx_rcnn.training import TrainConfig, fit

EVERY_STAGE = 5  # of a VGG


def options(cls, size):
    """Fields of the four models that a model's config has."""
    given = {
        "roi_pooling": "pool",
        "hidden_dim": 512,
        "anchor_sizes": (size // 10, size // 5, size // 2),
        "min_size": size,
        "max_size": 2 * size,
        "rpn_post_nms_top_n_train": 1000,
        "rpn_post_nms_top_n_test": 300,
    }
    return {k: v for k, v in given.items() if k in cls.config_class.__dataclass_fields__}


def proposed(network, dataset):
    """A data set with the network's proposals."""
    found = {}
    for i, item in enumerate(dataset.items):
        result = network.predict(dataset[i].image)[0]
        whole = (result["boxes"][:, 2:] > result["boxes"][:, :2]).all(axis=1)
        found[item.path.name] = Proposed(result["boxes"][whole], result["scores"][whole])
    return with_proposals(dataset, found), found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="VOC folder or COCO file")
    parser.add_argument("--backbone", help="VGG-16 classifier of torchvision (default: scratch)")
    parser.add_argument("--split", help="trained on (default: all, or train of a VOC folder)")
    parser.add_argument("--epochs", type=int, default=4, help="of each of the four steps")
    parser.add_argument("--size", type=int, default=320, help="short side in pixels")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--output", default="run")
    args = parser.parse_args()
    mlx_rcnn.reuse_large_blocks()
    data = open_dataset(args.data, split=args.split)
    names = data.class_names
    # From scratch a narrow net with norms; from a classifier's weights the paper's VGG-16.
    net = VGGConfig(16) if args.backbone else VGGConfig(11, norm="group", norm_groups=8, width=16)

    def build(cls, *classes):
        """A model on a backbone of its own, which begins as the classifier."""
        model = cls(net, net.channels, *classes, **options(cls, args.size))
        if args.backbone:
            load_backbone(model, args.backbone)
        return model

    def learn(step, model, dataset, freeze=0):
        config = TrainConfig(
            args.epochs, args.batch_size, lr=args.lr, warmup=20, schedule="cosine", freeze=freeze
        )
        fit(model, dataset, None, config, Path(args.output) / step, overwrite=True)
        return model

    network = learn("1-proposals", build(ProposalNetwork), data)
    detector = learn("2-detector", build(FastRCNN, len(names)), proposed(network, data)[0])

    again = build(ProposalNetwork)
    again.backbone = detector.backbone
    again = learn("3-proposals", again, data, freeze=EVERY_STAGE)
    fixed = proposed(again, data)
    write_proposals(Path(args.output) / "proposals.npz", fixed[1], {"source": "step 3"})
    detector = learn("4-detector", detector, fixed[0], freeze=EVERY_STAGE)

    whole = build(FasterRCNN, len(names))
    whole.backbone, whole.rpn, whole.roi_heads = detector.backbone, again.rpn, detector.roi_heads
    whole.config = replace(whole.config, class_names=names)
    mlx_rcnn.save(whole, Path(args.output) / "model")
    print(f"wrote {Path(args.output) / 'model'}")


if __name__ == "__main__":
    main()
