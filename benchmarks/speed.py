"""Speed against torchvision on this machine, in one run, as ratios.

Two worker processes, one a library, take turns on the same inputs; the parent never computes. On
Linux preload OpenBLAS for the MLX half (LD_PRELOAD is removed from torch's environment):

    LD_PRELOAD=$(make -s openblas) python benchmarks/speed.py [CASE...] [--rounds 7]

Needs torch and torchvision beside mlx_rcnn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [
    str(Path(__file__).parents[1] / "tests"),
    str(Path(__file__).parents[1] / "tests/goldens"),
]
THREADS = 2
CASES = {
    "roi_align": ("roi_align forward, 1000 boxes, 200x272x256, 7x7, ratio 2", 0.6),
    "roi_align_grad": ("roi_align backward, the same", 1.5),
    "batched_nms": ("batched_nms, 5 x 1000 proposals, IoU 0.7", 1.5),
    "paste_masks": ("paste 100 masks, 1920x1080", 1.0),
    "preprocess": ("resize, normalise, pad a 12-megapixel photo", 1.5),
    "predict": ("predict, fasterrcnn_resnet50_fpn, 800x1088", 2.6),
    "predict_mask": ("predict, maskrcnn_resnet50_fpn, 800x1088", None),
    "train": ("a training step, ResNet-18 with group norm, 4 x 320x426", None),
}


def inputs(case: str) -> dict[str, np.ndarray]:
    """The same arrays for both workers."""
    rng = np.random.default_rng(0)
    if case.startswith("roi_align"):
        center, side = rng.uniform(0, 1, (1000, 2)) * [1088, 800], rng.uniform(16, 112, (1000, 2))
        boxes = np.concatenate([np.zeros((1000, 1)), center - side / 2, center + side / 2], axis=1)
        return {
            "map": rng.standard_normal((1, 200, 272, 256), np.float32),
            "boxes": boxes.astype(np.float32),
        }
    if case == "batched_nms":
        center = np.repeat(rng.uniform(0, 800, (5, 100, 2)), 10, axis=1) + rng.normal(
            0, 8, (5, 1000, 2)
        )
        side = np.repeat(rng.uniform(20, 100, (5, 100, 2)), 10, axis=1) * rng.uniform(
            0.8, 1.2, (5, 1000, 2)
        )
        boxes = np.concatenate([center - side / 2, center + side / 2], axis=2).reshape(-1, 4)
        return {
            "boxes": boxes.astype(np.float32),
            "scores": rng.uniform(0, 1, 5000).astype(np.float32),
            "idxs": np.repeat(np.arange(5), 1000),
        }
    if case == "paste_masks":
        corner, side = (
            rng.uniform(0, 1, (100, 2)) * [1700, 900],
            np.exp(rng.uniform(3, 6.5, (100, 2))),
        )
        return {
            "masks": rng.uniform(0, 1, (100, 28, 28)).astype(np.float32),
            "boxes": np.concatenate([corner, corner + side], axis=1).astype(np.float32),
        }
    if case == "preprocess":
        return {"image": rng.integers(0, 256, (3000, 4000, 3), np.uint8)}
    if case == "train":
        corner = rng.uniform(0, 1, (12, 2)) * [520, 360]
        boxes = np.concatenate([corner, corner + rng.uniform(40, 120, (12, 2))], axis=1)
        return {
            "image": _scene(480, 640),
            "boxes": boxes.astype(np.float32),
            "labels": rng.integers(1, 4, 12),
        }
    return {"image": _scene(800, 1088)}


def _scene(height: int, width: int) -> np.ndarray:
    """Smooth blobs: noise would give no proposals to speak of."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 110.0)
    for _ in range(40):
        cy, cx, s = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(8, 90)
        image += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s))[..., None] * rng.uniform(
            -120, 120, 3
        )
    return np.clip(image, 0, 255).astype(np.uint8)


def mlx_case(case: str, data: dict[str, np.ndarray]):
    """A function that runs the case once, and the bytes it needs above its inputs."""
    import mlx.core as mx

    import mlx_rcnn
    from mlx_rcnn import ops
    from mlx_rcnn.inputs.transform import preprocess
    from recipe import state_dict

    arrays = {k: mx.array(v) for k, v in data.items()}
    mx.eval(arrays)
    if case == "roi_align":
        return lambda: mx.eval(ops.roi_align(arrays["map"], arrays["boxes"], 7, 0.25, 2))
    if case == "roi_align_grad":
        cotangent = mx.random.normal((1000, 7, 7, 256))
        mx.eval(cotangent)

        def align(features: mx.array) -> mx.array:
            return ops.roi_align(features, arrays["boxes"], 7, 0.25, 2)

        # The outputs are not evaluated, and no gradient needs them.
        return lambda: mx.eval(mx.vjp(align, [arrays["map"]], [cotangent])[1])
    if case == "batched_nms":
        return lambda: mx.eval(
            ops.batched_nms(arrays["boxes"], arrays["scores"], arrays["idxs"], 0.7)
        )
    if case == "paste_masks":
        return lambda: ops.paste_masks(data["masks"], data["boxes"], (1080, 1920))
    if case == "preprocess":
        config = mlx_rcnn.fasterrcnn_resnet50_fpn().config
        return lambda: mx.eval(preprocess([data["image"]], config).pixels)
    if case == "train":
        return mlx_training(data)
    name = "maskrcnn_resnet50_fpn" if case == "predict_mask" else "fasterrcnn_resnet50_fpn"
    path = Path(os.environ["BENCH_FOLDER"]) / f"{name}.safetensors"
    mx.save_safetensors(str(path), {k: mx.array(v) for k, v in state_dict(name).items()})
    model = mlx_rcnn.load(path)
    return lambda: model.predict(data["image"])


def mlx_training(data: dict[str, np.ndarray]):
    """A step of examples/train_voc.py."""
    from types import SimpleNamespace

    import mlx_rcnn
    from mlx_rcnn import reuse_large_blocks
    from mlx_rcnn.training import TrainConfig
    from mlx_rcnn.training.optimizer import make_optimizer
    from mlx_rcnn.training.step import TrainStep

    reuse_large_blocks()
    backbone = mlx_rcnn.ResNetFPNConfig(
        depth=18, out_channels=64, norm="group", norm_groups=16, num_classes=0
    )
    model = mlx_rcnn.FasterRCNN(
        backbone, 64, 4, use_fpn=True, hidden_dim=256, dropout=0.0, min_size=320, max_size=640
    )
    config = TrainConfig(weight_decay=1e-4, clip=0.0)
    step = TrainStep(model, make_optimizer(model, config), config)
    target = {"boxes": data["boxes"], "labels": data["labels"]}
    batch = SimpleNamespace(images=[data["image"]] * 4, targets=[target] * 4)
    return lambda: step([batch], 0, 0.002)


def torch_training(arrays: dict):
    """The same network and step."""
    import torch
    from torch import nn
    from torchvision.models import detection, resnet18
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    body = resnet18(weights=None, norm_layer=lambda channels: nn.GroupNorm(16, channels))
    model = detection.FasterRCNN(
        BackboneWithFPN(body, layers, [64, 128, 256, 512], 64),
        min_size=320,
        max_size=640,
        box_head=detection.faster_rcnn.TwoMLPHead(64 * 49, 256),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(256, 4),
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.002, 0.9, weight_decay=1e-4)
    image = arrays["image"].permute(2, 0, 1).float() / 255
    target = {"boxes": arrays["boxes"], "labels": arrays["labels"]}

    def step() -> None:
        losses = model([image] * 4, [target] * 4)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def torch_case(case: str, data: dict[str, np.ndarray]):
    """The same by torchvision."""
    import torch
    import torchvision_reference as tv
    from torchvision.models.detection.roi_heads import paste_masks_in_image
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.ops import batched_nms, roi_align

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(case in ("train", "roi_align_grad"))
    arrays = {k: torch.from_numpy(v) for k, v in data.items()}
    if case == "roi_align":
        features = arrays["map"].permute(0, 3, 1, 2).contiguous()
        return lambda: roi_align(features, arrays["boxes"], 7, 0.25, 2)
    if case == "roi_align_grad":
        features = arrays["map"].permute(0, 3, 1, 2).contiguous().requires_grad_()
        out = roi_align(features, arrays["boxes"], 7, 0.25, 2)
        cotangent = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, features, cotangent, retain_graph=True)
    if case == "batched_nms":
        return lambda: batched_nms(arrays["boxes"], arrays["scores"], arrays["idxs"], 0.7)
    if case == "paste_masks":
        return lambda: (
            paste_masks_in_image(arrays["masks"][:, None], arrays["boxes"], (1080, 1920)) > 0.5
        )
    if case == "train":
        return torch_training(arrays)
    image = arrays["image"].permute(2, 0, 1)
    if case == "preprocess":
        transform = GeneralizedRCNNTransform(
            800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        )
        return lambda: transform([image.float() / 255])
    name = "maskrcnn_resnet50_fpn" if case == "predict_mask" else "fasterrcnn_resnet50_fpn"
    model = tv.build(name)
    return lambda: [
        {k: v > 0.5 if k == "masks" else v for k, v in r.items()}
        for r in model([image.float() / 255])
    ]


def work(library: str, case: str) -> None:
    """A worker: prepares the case, then runs it once for each line on standard input."""
    run = (mlx_case if library == "mlx" else torch_case)(case, inputs(case))
    run()  # warm up: kernels are compiled, pages touched
    report: dict[str, float] = {}
    if library == "mlx":
        import mlx.core as mx

        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        run()
        report["peak_mb"] = (mx.get_peak_memory() - before) / 1e6
    print(json.dumps(report), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def measure(case: str, rounds: int) -> str:
    """One row of the table."""
    workers, env = {}, {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    for library in ("mlx", "torch"):
        workers[library] = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--worker", library, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ) if library == "mlx" else env,
        )
    reports = {k: json.loads(w.stdout.readline()) for k, w in workers.items()}
    seconds: dict[str, list[float]] = {k: [] for k in workers}
    for _ in range(rounds):
        for library, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            seconds[library].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    ratios = [a / b for a, b in zip(seconds["mlx"], seconds["torch"], strict=True)]
    label, bound = CASES[case]
    best = min(seconds["mlx"]) / min(seconds["torch"])
    return (
        f"| {label} | {min(seconds['mlx']) * 1e3:.0f} ms | {min(seconds['torch']) * 1e3:.0f} ms | "
        f"{best:.2f} | {statistics.median(ratios):.2f} | "
        f"{bound or '-'} | {reports['mlx']['peak_mb']:.0f} MB |"
    )


def main() -> None:
    """Print a Markdown table."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    print(
        "| what | mlx_rcnn | torchvision | ratio of the best | median ratio | bound "
        "| MLX peak above inputs |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_FOLDER"] = folder
        for case in args.cases or CASES:
            print(measure(case, args.rounds), flush=True)


if __name__ == "__main__":
    main()
