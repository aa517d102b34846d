"""What every detector has: a backbone, a config, how prediction and training begin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones import make_backbone
from ..config.detector import make_config
from ..config.network import DetectorConfig
from ..inputs.targets import prepare_targets
from ..inputs.transform import draw_sizes, load_images, prepared, preprocess
from ..layers import inference
from ..outputs.detections import Detections
from ..processes import about_to_compute
from ..structures import Batch, GivenTargets, ImageLike, Images, Prepared, Targets
from .maps import Maps, MapSteps
from .quantized import check_trainable
from .stream import stream
from .strides import Strides, image_strides

if TYPE_CHECKING:
    import os

    from typing_extensions import Self, Unpack

    from mlx_rcnn.convert.origin import Origin

    from ..config.backbone import BackboneConfig
    from ..config.keywords import ModelSettings
    from ..inputs.video import Video


class Detector(MapSteps):
    """A backbone and a config; what stands over its maps, ``build`` adds."""

    config_class: type[DetectorConfig]
    config: DetectorConfig
    needs_masks = False
    needs_keypoints = False
    needs_proposals = False
    finds_objects = False  # of any class, and does not tell them apart

    def __init__(
        self,
        backbone: nn.Module | BackboneConfig | DetectorConfig,
        feat_channels: int | None = None,
        num_classes: int | None = None,
        **config: Unpack[ModelSettings],
    ):
        super().__init__()
        self.config = make_config(self.config_class, backbone, feat_channels, num_classes, config)
        body = self.config.backbone
        self.backbone = body if isinstance(body, nn.Module) else make_backbone(body)
        self.build()
        self.source: str | None = None
        self.origin: Origin | None = None
        self.dtype: str | None = None

    def build(self) -> None:
        """Add the layers over the maps."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class, the background's first; ``None`` if unknown, as after a head swap."""
        names = self.config.class_names
        return names if names and len(names) == self.num_classes else None

    @property
    def num_classes(self) -> int:
        """Classes of the box predictor as it is now, with the background."""
        return self.config.num_classes

    def to_predict(self) -> Self:
        """The model as prediction runs it: a view in evaluation mode, which shares its arrays.

        Weights of 16 bits run in float32 on a CPU, which is faster there and keeps more digits,
        unless ``dtype`` names the type to run in.
        """
        on_cpu = mx.default_device().type == mx.cpu
        return inference(self, widen=self.dtype is None and on_cpu)

    def input_sizes(
        self, images: Sequence[np.ndarray], key: mx.array | None = None
    ) -> list[tuple[int, int]] | None:
        """To which (height, width) images are resized.

        Args:
            images: (H, W, 3) each.
            key: of the sizes that are drawn, in training. Default: none are.

        Returns:
            One an image; ``None`` as :func:`~mlx_rcnn.inputs.transform.resized_size` has it.
        """
        return None if key is None else draw_sizes(images, self.config, key)

    def prepare(self, images: Images) -> Prepared:
        """Load and resize images on the host; a thread may, while others are predicted.

        No MLX is used. What comes out is a batch of this model's, as long as ``config`` stays.

        Args:
            images: as ``predict``.

        Returns:
            What ``predict`` takes in their place.

        Raises:
            ValueError, TypeError, OSError: images that cannot be used.
        """
        if isinstance(images, Prepared):
            return images
        return prepared(images, self.config, self.input_sizes)

    def stream(
        self, source: str | os.PathLike[str] | int | Video | Iterable[ImageLike], **options: Any
    ) -> Iterator[Detections]:
        """Predict the frames of a video or camera, or images, one after the other.

        Frames are decoded and resized in a thread while others are predicted; nothing is kept, so
        that memory stays flat however long the source is.

        Args:
            source: path of a video, number of a camera (0 is the first), an open
                :class:`~mlx_rcnn.inputs.video.Video`, or an iterable of images.
            **options: ``batch_size``, frames predicted at once (default: ``1``); ``start`` and
                ``stop``, in seconds, and ``every``, only each so-manieth frame of those (an open
                video has its own); and those of ``predict``, such as ``score_thresh``.

        Returns:
            Results as ``predict`` gives them, each with its ``frame``, which has the ``image``, the
            ``number``, the ``seconds``, and the ``latency``, seconds from decoded to predicted.

        Raises:
            ImportError: PyAV is not installed; how to is said.
            VideoError, OSError: it is no video, or has no such frames; no such camera.
            ValueError, TypeError: as ``predict``; a ``batch_size`` below 1.
        """
        return stream(self, source, **options)

    def begin_training(
        self,
        images: Images,
        targets: GivenTargets,
        key: mx.array,
        size_divisible: int | None,
    ) -> Begun:
        """The maps of a batch to train on, and its targets.

        Every image has the strides that :meth:`predict` takes for it alone, whatever its neighbours
        and the padding.

        Args:
            images, targets, size_divisible: as ``get_loss``.
            key: of the sizes that are drawn.
        """
        about_to_compute()
        check_trainable(self)
        config = self.config
        padding = config
        if size_divisible is not None:
            padding = replace(config, size_divisible=size_divisible)
        given = load_images(images, config.image_levels)
        batch = preprocess(given, padding, self.input_sizes(given, key))
        points = self.roi_heads.keypoint_predictor.num_keypoints if self.needs_keypoints else None
        truth = prepare_targets(targets, batch, self.num_classes, self.needs_masks, points)
        features = self.features(batch.pixels)
        strides = image_strides(config, self.map_sizes, batch.sizes, len(features))
        return Begun(batch, truth, features, strides)


class Begun(NamedTuple):
    """What every training step begins with."""

    batch: Batch
    targets: Targets
    features: Maps
    strides: Strides


def key_or_new(key: mx.array | None) -> mx.array:
    """The key given, or one drawn from MLX's state."""
    return mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32) if key is None else key
