"""Side by side with torchvision: the same weights and images, stage by stage, one table.

Needs torch and torchvision. MLX on Linux wants OpenBLAS preloaded; the torch half runs in a process
of its own without it.

    python benchmarks/parity.py PHOTO... [--model maskrcnn_resnet50_fpn] [--min-size 800]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "goldens")]


def load(paths: list[str]) -> list[np.ndarray]:
    """RGB arrays of the photos; `SEED:HxW` is uniform noise."""
    from mlx_rcnn import load_image

    images = []
    for path in paths:
        if ":" in path and not os.path.exists(path):
            seed, size = path.split(":")
            shape = (*(int(n) for n in size.split("x")), 3)
            images.append(np.random.default_rng(int(seed)).integers(0, 256, shape).astype(np.uint8))
        else:
            images.append(load_image(path))
    return images


def reference(args: argparse.Namespace) -> None:
    """The child process: torchvision's stages and its state dict."""
    import torch
    import torchvision_reference as tv

    torch.set_num_threads(args.threads)
    model = tv.build(args.model, **input_size(args))
    torch.save(model.state_dict(), f"{args.reference}/{args.model}.pth")
    np.savez(f"{args.reference}/stages.npz", **tv.run(model, load(args.images)))


def input_size(args: argparse.Namespace) -> dict[str, int]:
    """Of the input, where they are not the model's own."""
    given = {"min_size": args.min_size, "max_size": args.max_size}
    return {name: value for name, value in given.items() if value}


def compare(args: argparse.Namespace, folder: str) -> list[tuple[str, str, str, bool]]:
    """Rows of (stage, measured, bound, within)."""
    import mlx.core as mx

    import mlx_rcnn
    from mlx_rcnn.inputs.transform import preprocess
    from mlx_rcnn.rpn.network import RPNOutputs, proposal_rule, select_proposals
    from reference import match_boxes, match_detections

    want = dict(np.load(f"{folder}/stages.npz"))
    model = mlx_rcnn.load(f"{folder}/{args.model}.pth", **input_size(args))
    config, images = model.config, load(args.images)
    rows = []

    def row(name: str, measured: float, bound: float, least: bool = False) -> None:
        good = measured >= bound if least else measured <= bound
        rows.append((name, f"{measured:.3g}", f"{'>=' if least else '<='} {bound:g}", good))

    def worst(got: mx.array, key: str) -> float:
        return float(np.abs(np.array(got) - want[key]).max())

    batch = preprocess(images, config)
    row("network input, max error", worst(batch.pixels, "input"), 1e-4)
    levels = [f"p{i}" for i in range(2, 7) if f"p{i}" in want]
    features = model.features(mx.array(want["input"]))
    row(
        "FPN levels, max error",
        max(worst(f, p) for f, p in zip(features, levels, strict=True)),
        2e-4,
    )
    maps = [mx.array(want[p]) for p in levels]
    logits, deltas = model.rpn.head(maps)
    row(
        "RPN logits, max error",
        max(worst(v, f"rpn_logits_{p}") for v, p in zip(logits, levels, strict=True)),
        2e-4,
    )
    row(
        "RPN deltas, max error",
        max(worst(v, f"rpn_deltas_{p}") for v, p in zip(deltas, levels, strict=True)),
        2e-4,
    )

    n = want["input"].shape[0]
    sizes = mx.array(batch.sizes.astype(np.float32))
    strides = model.strides(maps, batch)
    anchors = model.anchors(maps, strides)
    outputs = RPNOutputs(
        [mx.array(want[f"rpn_logits_{p}"]) for p in levels],
        [mx.array(want[f"rpn_deltas_{p}"]) for p in levels],
        anchors,
    )
    proposals = select_proposals(outputs, sizes, proposal_rule(config))
    shares = []
    for i in range(n):
        ours = np.array(proposals.boxes[i])[np.array(proposals.valid[i])]
        shares.append(match_boxes(want[f"proposals_{i}"], ours, 0.5))
    row("proposals matched within 0.5 px", min(shares), 0.99, least=True)

    theirs = [want[f"proposals_{i}"] for i in range(n)]
    flat = np.concatenate([np.insert(b, 0, i, axis=1) for i, b in enumerate(theirs)])
    scales = strides.scales
    pooled = model.pool(maps, mx.array(flat), scales, config.pool_size)
    row("RoI features, max error", worst(pooled, "roi_features"), 1e-4)
    pooled = mx.array(want["roi_features"])
    scores, moves = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    row("class logits, max error", worst(scores, "cls_logits"), 1e-3)
    row("box deltas, max error", worst(moves, "bbox_deltas"), 5e-4)

    for i, found in enumerate(model.predict(images)):
        expected = {k: want[f"{k}_{i}"] for k in ("boxes", "scores", "labels")}
        if "masks" in found:
            expected |= {"masks": want[f"masks_{i}"]}
        if "keypoints" in found:
            expected |= {k: want[f"{k}_{i}"] for k in ("keypoints", "keypoints_scores")}
        got = match_detections(
            expected, found, config.box_score_thresh, config.box_detections_per_img
        )
        row(
            f"image {i}: {len(expected['scores'])} detections, matched",
            got["share"],
            0.97,
            least=True,
        )
        row(f"image {i}: score error of matched", got["score_error"], 2e-3)
        row(f"image {i}: box error of matched, px", got["box_error"], 0.5)
        if "masks" in found:
            row(f"image {i}: mask area error, of its bound", got["area_error"], 1.0)
        if "keypoints" in found:
            row(f"image {i}: keypoints within 0.5 px", got["point_share"], 0.99, least=True)
            row(f"image {i}: error of their scores", got["point_error"], 0.03)
    return rows


def main() -> int:
    """Run both halves and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", help="image files, or SEED:HxW for noise")
    parser.add_argument("--model", default="maskrcnn_resnet50_fpn")
    parser.add_argument("--min-size", type=int, help="default: the model's")
    parser.add_argument("--max-size", type=int, help="default: the model's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reference:
        reference(args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        subprocess.run([sys.executable, *sys.argv, "--reference", folder], check=True, env=env)
        rows = compare(args, folder)
    wide = max(len(r[0]) for r in rows)
    for name, measured, bound, good in rows:
        print(f"{name:{wide}}  {measured:>10}  {bound:>9}  {'ok' if good else 'OUTSIDE'}")
    return 0 if all(r[3] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
