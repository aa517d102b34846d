"""Writes docs/models.md: python docs/write_models.py [--check].

Names, AP, terms and addresses are the package's own tables; sizes are those of the models built.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import ResNetConfig, ResNetFPNConfig
from mlx_rcnn.checkpoints.published import PUBLISHED, PUBLISHED_BACKBONES, TERMS
from mlx_rcnn.convert.published import KNOWN
from mlx_rcnn.layers import weights_to_come

KINDS: dict[str, Any] = {  # by how a name starts, the longer ones first
    "cascade_mask": mlx_rcnn.CascadeMaskRCNN,
    "cascade": mlx_rcnn.CascadeRCNN,
    "mask": mlx_rcnn.MaskRCNN,
    "keypoint": mlx_rcnn.KeypointRCNN,
    "faster": mlx_rcnn.FasterRCNN,
    "fast": mlx_rcnn.FastRCNN,
    "rpn": mlx_rcnn.ProposalNetwork,
}
OF_A_COPY = (  # in the terms, but of a converted file's own card
    " Changes made: tensors were renamed and their axes reordered, as the command below says."
)
BUILDERS = (
    "`{fast,faster,mask,cascade,cascade_mask}_rcnn_resnet_50_fpn`\n(some with 101), "
    "`{rcnn,fast_rcnn,faster_rcnn}_vgg_16`, `rcnn_alexnet`, and torchvision's names"
)
PAGE = Path(__file__).resolve().with_name("models.md")
HEAD = """# Models

Published weights that load here as they are. AP is on COCO val2017 as their authors published it,
of boxes and of masks or keypoints; we have not run COCO. What is proven of each is in
[Checkpoints](coming_from.md). Size is that of all values as float32; `mlx_rcnn convert ... --dtype
float16` halves it.

This page is written by `python docs/write_models.py` from the tables that the package itself uses.
"""
BY_NAME = """
By these names weights are downloaded once, checked by their digest and kept (`--model
fasterrcnn_resnet50_fpn_v2`, `mlx_rcnn.load("fasterrcnn_resnet50_fpn_v2")`):
"""
BY_FILE = """
Their files are fetched from the library's model zoo and given by path. The digest that ends a
file's name, or the file's own where it was renamed, tells which it is:
"""
TAIL = """
## Ours

| model | AP | AP50 | licence | size |
|---|---|---|---|---|
| [blood cells](../examples/blood_cells/README.md), `model` | 57.4 | 90.6 | MIT | {own} |

In `examples/blood_cells`; trained here from scratch on 205 photos of BCCD; AP on 72 others of it.

## Classifiers to start from

`mlx_rcnn train --model faster_rcnn_resnet_50_fpn --backbone resnet50` starts from a classifier of
ImageNet.

{backbones}

A file of timm or transformers with such a network does as well, by its path:
`mlx_rcnn.load_backbone(model, "resnet50")` is the same from Python.

## Untrained

`train --model` and `mlx_rcnn` know builders by name: {builders}.
Any ResNet-18 to 152 with FPN in torchvision's layout loads too, whatever its width, classes and
norm. Or a model over any backbone:

```python
from mlx_rcnn import FasterRCNN

model = FasterRCNN(MyBackbone(), feat_channels=128, num_classes=5)  # any MLX module, channels last
cls_logits, bbox_deltas = model(pixels)  # raw outputs
losses = model.get_loss(images, targets)  # torchvision's, to train with
```
"""


def title(name: str) -> str:
    """What a table's row is called."""
    return name.removesuffix(".COCO_V1").removesuffix("_coco")


def library(name: str) -> str:
    """Whose weights they are: the titles have each library's own form."""
    if name.endswith(".COCO_V1"):
        return "torchvision"
    return "detectron2" if "/" in name else "mmdetection"


def network(name: str) -> nn.Module:
    """The model of a row, its weights not computed."""
    with weights_to_come():
        if library(name) == "torchvision":
            model: nn.Module = getattr(mlx_rcnn, title(name))()
            return model
        return _of_a_zoo(name.rsplit("/", 1)[-1].lower())


def _of_a_zoo(name: str) -> nn.Module:
    """By the parts that detectron2's and mmdetection's names have in common."""
    kind = next(cls for start, cls in KINDS.items() if name.startswith(start))
    options: dict[str, Any] = {}
    if kind is not mlx_rcnn.ProposalNetwork:
        options = {"num_classes": 2 if "keypoint" in name else 81, "hidden_dim": 1024}
    if name.startswith("cascade_mask") and name.endswith("_coco"):
        options["cascade_mask_heads"] = True  # mmdetection's, one a stage
    if "_c4_" in name:
        if options:
            del options["hidden_dim"]
            options |= {"res5_head": True, "pool_size": (14, 14)}
        return kind(ResNetConfig(depth=50, last_stage=3), 1024, **options)
    if "_dc5_" in name:
        return kind(ResNetConfig(depth=50, dilated=True), 2048, **options)
    wide: dict[str, int] = {}
    if groups := re.search(r"x_?101_(\d+)x(\d+)d", name):
        wide = {"groups": int(groups[1]), "width_per_group": int(groups[2])}
    depth = 101 if re.search(r"[rx]_?101", name) else 50
    body = ResNetFPNConfig(depth=depth, num_classes=0, **wide)
    return kind(body, 256, use_fpn=True, **options)


def size(model: nn.Module) -> str:
    """Of all values as float32."""
    return f"{4 * sum(value.size for _, value in tree_flatten(model.parameters())) / 1e6:.0f} MB"


def rows(whose: str) -> Iterator[str]:
    """The table of one library."""
    named = whose == "torchvision"
    yield f"| {'name' if named else 'model'} | box AP | mask or keypoint AP | size | file ends in |"
    yield "|---|---|---|---|---|"
    for digest, known in KNOWN.items():
        if library(known.title) == whose:
            if named and title(known.title) not in PUBLISHED:
                raise SystemExit(f"{known.title} has no address in checkpoints/published.py")
            points = [f"{ap:.1f}" if ap else "-" for ap in (known.box, known.other)]
            name = f"`{title(known.title)}`"
            yield f"| {name} | {' | '.join(points)} | {size(network(known.title))} | `{digest}` |"


def page() -> str:
    """The whole text."""
    text = [HEAD]
    for whose, terms in TERMS.items():
        said = fill(f"{terms.text.replace(OF_A_COPY, '')} Source: <{terms.address}>.")
        where = BY_NAME if whose == "torchvision" else BY_FILE
        text.append(f"## {whose}\n\n{said}\n{where}\n" + "\n".join(rows(whose)) + "\n")
    own = Path(mlx_rcnn.__file__).parents[1] / "examples/blood_cells/model/model.safetensors"
    classifiers = ", ".join(f"`{name}`" for name in PUBLISHED_BACKBONES)
    text.append(
        TAIL.format(
            own=f"{own.stat().st_size / 1e6:.1f} MB",
            builders=BUILDERS,
            backbones=fill(f"Known by name, on torchvision's terms: {classifiers}."),
        ).lstrip()
    )
    return "\n".join(text)


def fill(text: str) -> str:
    """A paragraph in lines."""
    return textwrap.fill(text, 114, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    if "--check" in sys.argv:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(None if current else "docs/models.md is old: python docs/write_models.py")
    PAGE.write_text(page(), encoding="utf-8")
