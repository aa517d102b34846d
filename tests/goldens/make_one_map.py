"""detectron2's models without a pyramid (C4 and DC5), and its keypoint head, in plain torch.

Not detectron2 itself but its rules, written again with torch and torchvision's operators: the same
functions as the R50-FPN models use, which the goldens of detectron2 prove, around another body. It
shares no code with this package but the recipe of the weights.

    python tests/goldens/make_one_map.py    (needs torch and torchvision)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torchvision.ops import batched_nms, roi_align

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from library_recipe import CLASSES, blobs, one_map_state  # noqa: E402

MEAN = torch.tensor([103.53, 116.28, 123.675]).reshape(3, 1, 1)  # BGR
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
State = dict[str, torch.Tensor]


def norm(x: torch.Tensor, state: State, key: str) -> torch.Tensor:
    """Convolution's frozen norm, epsilon 1e-5."""
    mean, var, weight, bias = (
        state[f"{key}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, var, weight, bias, False, eps=1e-5)


def stage(
    x: torch.Tensor, state: State, place: str, blocks: int, stride: int, dilation: int = 1
) -> torch.Tensor:
    """Bottlenecks, the stride in the first 1x1."""
    for i in range(blocks):
        step, key = stride if i == 0 else 1, f"{place}.{i}"
        shortcut = x
        if i == 0:
            shortcut = F.conv2d(x, state[f"{key}.shortcut.weight"], stride=step)
            shortcut = norm(shortcut, state, f"{key}.shortcut")
        y = F.conv2d(x, state[f"{key}.conv1.weight"], stride=step)
        y = F.relu(norm(y, state, f"{key}.conv1"))
        y = F.conv2d(y, state[f"{key}.conv2.weight"], padding=dilation, dilation=dilation)
        y = F.relu(norm(y, state, f"{key}.conv2"))
        y = norm(F.conv2d(y, state[f"{key}.conv3.weight"]), state, f"{key}.conv3")
        x = F.relu(y + shortcut)
    return x


def anchors(height: int, width: int) -> torch.Tensor:
    """(h * w * 15, 4): sizes vary slower than ratios, stride 16, no rounding."""
    cells = []
    for size in SIZES:
        for ratio in RATIOS:
            w = (size**2 / ratio) ** 0.5
            cells.append([-w / 2, -ratio * w / 2, w / 2, ratio * w / 2])
    y, x = torch.meshgrid(torch.arange(height) * 16.0, torch.arange(width) * 16.0, indexing="ij")
    shift = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shift + torch.tensor(cells)).reshape(-1, 4)


def decode(
    deltas: torch.Tensor, boxes: torch.Tensor, factors: tuple[float, ...], size: tuple[int, int]
) -> torch.Tensor:
    """Boxes moved by deltas, log sizes clamped from above, clipped to (height, width)."""
    d = deltas / torch.tensor(factors)
    side = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * side + d[..., :2] * side
    half = 0.5 * side * d[..., 2:].clamp(max=float(np.log(1000 / 16))).exp()
    moved = torch.cat([centre - half, centre + half], dim=-1)
    limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    return moved.clamp(min=torch.tensor(0.0)).minimum(limit)


def run(kind: str, image: np.ndarray) -> dict[str, np.ndarray]:
    """Stages and results for an image that needs no resize."""
    state = {key: torch.from_numpy(value) for key, value in one_map_state(kind).items()}
    pixels = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).float()
    size = image.shape[:2]
    x = F.conv2d((pixels - MEAN)[None], state["backbone.stem.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(norm(x, state, "backbone.stem.conv1")), 3, 2, 1)
    for number, blocks, stride in ((2, 3, 1), (3, 4, 2), (4, 6, 2)):
        x = stage(x, state, f"backbone.res{number}", blocks, stride)
    if kind == "dc5":
        x = stage(x, state, "backbone.res5", 3, 1, dilation=2)

    head = "proposal_generator.rpn_head"
    y = F.relu(F.conv2d(x, state[f"{head}.conv.weight"], state[f"{head}.conv.bias"], padding=1))
    logits, deltas = (
        F.conv2d(y, state[f"{head}.{part}.weight"], state[f"{head}.{part}.bias"])[0]
        for part in ("objectness_logits", "anchor_deltas")
    )
    out = {"map": x[0], "rpn_logits": logits, "rpn_deltas": deltas}
    flat = logits.permute(1, 2, 0).reshape(-1)
    moves = deltas.reshape(15, 4, *x.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4)
    score, order = flat.topk(min(6000, len(flat)))
    boxes = decode(moves[order], anchors(*x.shape[2:])[order], (1, 1, 1, 1), size)
    whole = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, score = boxes[whole], score[whole]
    proposals = boxes[batched_nms(boxes, score, torch.zeros(len(score)), 0.7)[:1000]]

    def pool(rois: torch.Tensor, bins: int) -> torch.Tensor:
        return roi_align(x, [rois], bins, 1 / 16, 0, aligned=True)

    if kind == "c4":
        hidden = stage(pool(proposals, 14), state, "roi_heads.res5", 3, 2).mean(dim=(2, 3))
    else:
        hidden = pool(proposals, 7).flatten(1)
        for i in (1, 2):
            key = f"roi_heads.box_head.fc{i}"
            hidden = F.relu(F.linear(hidden, state[f"{key}.weight"], state[f"{key}.bias"]))
    scores, moves = (
        F.linear(
            hidden,
            state[f"roi_heads.box_predictor.{part}.weight"],
            state[f"roi_heads.box_predictor.{part}.bias"],
        )
        for part in ("cls_score", "bbox_pred")
    )
    out |= {"proposals": proposals, "cls_logits": scores[:50], "box_deltas": moves[:50]}
    boxes = decode(moves.reshape(-1, CLASSES, 4), proposals[:, None], (10, 10, 5, 5), size)
    chance = scores.softmax(dim=1)[:, :-1]
    row, label = torch.nonzero(chance > 0.05, as_tuple=True)
    boxes, chance = boxes[row, label], chance[row, label]
    keep = batched_nms(boxes, chance, label, 0.5)[:100]
    out |= {"det_boxes": boxes[keep], "det_scores": chance[keep], "det_classes": label[keep]}
    if kind == "c4":
        y = stage(pool(boxes[keep], 14), state, "roi_heads.res5", 3, 2)
        key = "roi_heads.mask_head"
        y = F.conv_transpose2d(y, state[f"{key}.deconv.weight"], state[f"{key}.deconv.bias"], 2)
        y = F.conv2d(F.relu(y), state[f"{key}.predictor.weight"], state[f"{key}.predictor.bias"])
        out["mask_probs"] = y[torch.arange(len(keep)), label[keep]].sigmoid()
    return {name: value.numpy() for name, value in out.items()}


def main() -> None:
    """Write one file a kind, large arrays thinned out."""
    torch.set_num_threads(1)
    for kind in ("c4", "dc5"):
        with torch.no_grad():
            found = run(kind, blobs(203, 250))
        print(kind, {k: v.shape for k, v in found.items()})
        print(found["det_scores"][:5], np.abs(found["map"]).mean())
        for name in ("map", "rpn_logits", "rpn_deltas"):
            found[name] = found[name][::3]
        found["mask_probs"] = found.get("mask_probs", np.zeros(0)).astype(np.float16)
        np.savez_compressed(HERE / f"detectron2_{kind}.npz", **found)


if __name__ == "__main__":
    main()
