"""Mask R-CNN: Faster R-CNN, and a mask of each detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config.detector import MaskRCNNConfig
from ..heads import Branch, MaskBranch
from ..heads.detections import detection_rule
from ..outputs.detections import Detections
from ..structures import Images
from .augmented import TestTimeAugment
from .faster_rcnn import FasterRCNN


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask branch (He et al., 2017).

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.MaskRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.MaskRCNNConfig`.

    Called on network input (N, H, W, 3) it adds ``mask_logits`` (N, R, 28, 28, C) to the raw
    outputs; :meth:`get_loss` adds ``mask_loss`` and needs ``masks`` in the targets.
    """

    config_class: type[MaskRCNNConfig] = MaskRCNNConfig
    config: MaskRCNNConfig
    branches: tuple[Branch[Any], ...] = (MaskBranch(),)
    needs_masks = True

    def predict(
        self,
        images: Images,
        *,
        score_thresh: float | Sequence[float] | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
        masks: str = "full",
        augment: TestTimeAugment | None = None,
    ) -> list[Detections]:
        """Detect objects and their masks.

        Args:
            images: as :meth:`FasterRCNN.predict`.
            score_thresh, nms_thresh, top_k: as :meth:`FasterRCNN.predict`.
            masks: ``"full"`` pastes each mask into an image (D, H, W) bool, ``"raw"`` gives the
                network's (D, 28, 28) probabilities over each box. Default: ``"full"``.
            augment: as :meth:`FasterRCNN.predict`; masks are averaged.

        Returns:
            One dict an image: ``boxes``, ``scores``, ``labels`` and ``masks``.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or options that cannot be used.
        """
        if masks not in ("full", "raw"):
            raise ValueError(f"masks={masks!r}: expected 'full' or 'raw'")
        rule = detection_rule(self.config, score_thresh, nms_thresh, top_k)
        return self.find_or_augment(images, rule, augment, masks=masks)
