"""Which model of the family a state dict is of, told by the parts it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

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
    """A model of the family.

    ``model``, a key of ``mlx_rcnn.checkpoints.load.MODELS``; ``name``; ``proposes`` and
    ``detects``, whether it has an RPN and box heads; ``masks`` and ``keypoints``; ``stages``, the
    number of a cascade's box heads, else ``None``.
    """

    model: str
    name: str
    proposes: bool
    detects: bool
    masks: bool
    keypoints: bool
    stages: int | None

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What stands before the keys of each box head: ``"0."`` and so on in a cascade."""
        return ("",) if self.stages is None else tuple(f"{k}." for k in range(self.stages))


def kind_of(
    library: str,
    *,
    proposes: bool,
    detects: bool,
    masks: bool,
    keypoints: bool,
    stages: int | None,
) -> Kind:
    """The model that has such parts.

    Args:
        library: whose it is, for errors.
        proposes, detects, masks, keypoints, stages: see :class:`Kind`.

    Raises:
        ValueError: none of this package has them.
    """
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


def fields_of(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a model's config.

    Args:
        model: a key of ``mlx_rcnn.checkpoints.load.MODELS``.
        values: by name; a library's rules are the same for all its models.
    """
    own = {item.name for item in fields(_NAMES[model][1])}
    return {name: value for name, value in values.items() if name in own}
