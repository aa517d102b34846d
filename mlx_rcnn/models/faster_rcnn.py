"""Faster R-CNN: the two-stage flow as it is."""

from __future__ import annotations

from .flow import TwoStageDetector


class FasterRCNN(TwoStageDetector):
    """A two-stage detector (Ren et al., 2015): a backbone, proposals, and a box head over them.

    Args:
        backbone: an MLX module or a config (see :class:`~mlx_rcnn.FasterRCNNConfig`), or a whole
            ``FasterRCNNConfig``, whose fields ``config`` then overrides.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background, which is class 0.
        **config: further fields of :class:`~mlx_rcnn.FasterRCNNConfig`.

    Raises:
        TypeError, ValueError: a field that does not exist or breaks its rule.

    Attributes:
        backbone, rpn, roi_heads: the parts, under torchvision's names.
        config: what it was built from.
        class_names: one name a class, or ``None``.
        source: where its weights came from, or ``None``.
        origin: what the way back to their library needs (``convert/origin.py``), or ``None``.
        dtype: the type it was asked to run in, or ``None``: see :meth:`to_predict`.
    """
