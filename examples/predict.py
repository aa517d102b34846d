"""Detect objects in photos with the library; `mlx_rcnn predict` does the same and more.

    python examples/predict.py fasterrcnn_resnet50_fpn_coco-258fb6c6.pth photo.jpg another.jpg

prints what is found and writes photo_detections.png and another_detections.png.
"""

import argparse
from pathlib import Path

import mlx_rcnn
from mlx_rcnn import draw_detections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="checkpoint file, directory or name of a model")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--score-thresh", type=float, default=0.5, help="default: 0.5")
    args = parser.parse_args()

    model = mlx_rcnn.load(args.model)
    names = model.class_names
    for path in args.images:
        [found] = model.predict(path, score_thresh=args.score_thresh)
        print(f"{path}: {len(found['boxes'])} detections")
        for label, score, box in zip(found["labels"], found["scores"], found["boxes"], strict=True):
            x1, y1, x2, y2 = box.round()
            name = names[label] if names else f"class {label}"
            print(f"  {name:<15} {score:.3f}  ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
        draw_detections(path, found, names).save(path.with_name(f"{path.stem}_detections.png"))


if __name__ == "__main__":
    main()
