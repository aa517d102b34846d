"""Keypoint R-CNN: Faster R-CNN, and where each keypoint of each detection lies."""

from __future__ import annotations

from typing import Any

from ..config.detector import KeypointRCNNConfig
from ..heads import Branch, KeypointBranch
from .faster_rcnn import FasterRCNN


class KeypointRCNN(FasterRCNN):
    """Faster R-CNN with a keypoint branch (He et al., 2017, section 5).

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.KeypointRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.KeypointRCNNConfig`.

    :meth:`predict` adds ``keypoints`` (D, K, 3) float32 of x, y in pixels of the image given and a
    visibility that is always 1, and ``keypoints_scores`` (D, K) float32, logits (torchvision's
    examples draw those above 2) or, with ``keypoint_score="probability"``, probabilities. Called on
    network input (N, H, W, 3) the model adds ``keypoint_logits`` (N, R, 56, 56, K) to the raw
    outputs. :meth:`get_loss` adds ``keypoint_loss``, 0 where no keypoint is visible, and needs
    ``keypoints`` (G, K, 3) in the targets: x, y in pixels of the image given, and a visibility;
    those of 0 are not learned from, as are those outside a proposal.

    Attributes:
        keypoint_names: one name a keypoint, or ``None``.
        keypoint_skeleton: pairs of keypoints to join, or ``None``.
    """

    config_class: type[KeypointRCNNConfig] = KeypointRCNNConfig
    config: KeypointRCNNConfig
    branches: tuple[Branch[Any], ...] = (KeypointBranch(),)
    needs_keypoints = True

    @property
    def keypoint_names(self) -> tuple[str, ...] | None:
        """One name a keypoint; ``None`` if unknown, as after a head swap."""
        return self.config.keypoint_names if self._own_keypoints() else None

    @property
    def keypoint_skeleton(self) -> tuple[tuple[int, int], ...] | None:
        """Pairs of keypoints to join when drawn; ``None`` if unknown, as after a head swap."""
        return self.config.keypoint_skeleton if self._own_keypoints() else None

    def _own_keypoints(self) -> bool:
        """Whether the predictor still has the keypoints that the config speaks of."""
        count: int = self.roi_heads.keypoint_predictor.num_keypoints
        return count == self.config.num_keypoints
