"""Which model of the family a state dict is of, told by the parts it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple

from mlx_rcnn.config.detector import (
    CascadeMaskRCNNConfig,
    CascadeRCNNConfig,
    DetectorConfig,
    FasterRCNNConfig,
    FastRCNNConfig,
    KeypointRCNNConfig,
    MaskRCNNConfig,
    ProposalNetworkConfig,
)
from mlx_rcnn.config.settings import cure

from .architecture import Hints
from .shapes import State

_NAMES: dict[str, tuple[str, type[DetectorConfig]]] = {
    "faster_rcnn": ("Faster R-CNN", FasterRCNNConfig),
    "mask_rcnn": ("Mask R-CNN", MaskRCNNConfig),
    "keypoint_rcnn": ("Keypoint R-CNN", KeypointRCNNConfig),
    "cascade_rcnn": ("Cascade R-CNN", CascadeRCNNConfig),
    "cascade_mask_rcnn": ("Cascade Mask R-CNN", CascadeMaskRCNNConfig),
    "fast_rcnn": ("Fast R-CNN", FastRCNNConfig),
    "proposal_network": ("RPN", ProposalNetworkConfig),
}


class Kind(NamedTuple):
    """A model of the family."""

    model: str  # a key of ``mlx_rcnn.checkpoints.load.MODELS``
    name: str
    proposes: bool  # whether it has an RPN
    detects: bool  # whether it has box heads
    masks: bool
    keypoints: bool
    stages: int | None  # the number of a cascade's box heads, else ``None``

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What stands before the keys of each box head: ``"0."`` and so on in a cascade."""
        return ("",) if self.stages is None else tuple(f"{k}." for k in range(self.stages))

    def objects(self, detector: Mapping[str, object]) -> str:
        """What it finds, in words; ``detector`` has the fields of its config."""
        count = detector.get("num_classes")
        if self.detects and isinstance(count, int):
            return f"{count - 1} classes"
        return "objects of any class"


def kind_of(
    library: str,
    *,
    proposes: bool,
    detects: bool,
    masks: bool,
    keypoints: bool,
    stages: int | None,
) -> Kind:
    """The model that has such parts; a ValueError if this package has none."""
    if not proposes and detects and (masks or keypoints or stages is not None):
        branch = "a cascade" if stages is not None else "masks" if masks else "keypoints"
        raise ValueError(
            f"this is {library}'s Fast R-CNN with {branch}: expected boxes of one head alone, or a "
            "proposal network with them"
        )
    if keypoints and stages is not None:
        raise ValueError(f"this is {library}'s Cascade R-CNN with keypoints: expected none")
    model = "mask_rcnn" if masks else "keypoint_rcnn" if keypoints else "faster_rcnn"
    if stages is not None:
        model = "cascade_mask_rcnn" if masks else "cascade_rcnn"
    if not proposes and detects:
        model = "fast_rcnn"
    if proposes and not (detects or masks or keypoints):
        model = "proposal_network"
    return Kind(model, _NAMES[model][0], proposes, detects, masks, keypoints, stages)


def box_stages(state: State, head: str, hints: Hints, fields: Mapping[str, object]) -> int | None:
    """How many box heads a cascade has, told by the number behind ``head``; ``None`` without it."""
    pattern = re.compile(re.escape(head) + r"(\d)\.")
    found = sorted({int(m[1]) for key in state if (m := pattern.match(key))})
    if not found:
        return None
    # A ValueError where one is missing, or there are other than three and nothing says what IoUs
    # they are for.
    if lacking := sorted(set(range(found[-1] + 1)) - set(found)):
        raise ValueError(
            f"a cascade with box heads {', '.join(map(str, found))}: missing {head}{lacking[0]}"
        )
    ious = hints.field(fields, "cascade_ious")
    expected = 3 if ious is None else len(ious)
    if len(found) != expected:
        why = cure(["cascade_ious", "cascade_reg_weights"]) if ious is None else ""
        raise ValueError(
            f"a cascade of {len(found)} box heads, {head}0 to {found[-1]}: expected {expected}; is "
            f"a stage missing?{why}"
        )
    return len(found)


def fields_of(model: str, values: Mapping[str, object]) -> dict[str, object]:
    """Those of the values that are fields of a model's config."""
    own = {item.name for item in fields(_NAMES[model][1])}
    # a library's rules are the same for all its models
    return {name: value for name, value in values.items() if name in own}
