"""What a state dict was recognised as, and what its file says beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..published import known_weights
from ..rename import Rule
from .mmdetection_config import MmdetConfig, read_mmdet_config

_ZOO = "Detectron2 Model Zoo"  # who signs files of detectron2's zoo; a fine-tune is not signed


class Recognised(NamedTuple):
    """How to build the network of a state dict and fill it."""

    library: str
    model: str  # a key of ``mlx_rcnn.checkpoints.load.MODELS``
    # fields of its config; ``type`` is a key of ``mlx_rcnn.backbones.BACKBONES``
    backbone: dict[str, object]
    detector: dict[str, object]  # fields of the model's config
    rules: Sequence[Rule]  # that rename its keys
    note: str  # one line that says what was recognised and why


class Hints(NamedTuple):
    """What keys and shapes cannot tell."""

    name: str = ""  # of the file
    config: str = ""  # the text of the configuration stored in it
    class_names: tuple[str, ...] | None = None  # stored in it, without a background
    style: str | None = None  # mmdetection's ``"pytorch"`` or ``"caffe"`` where the caller knows it
    settings: Mapping[str, object] = MappingProxyType({})  # the config fields that the caller gives
    mmdet: MmdetConfig | None = None  # what the config says if it is mmdetection's
    coco: bool = False  # whether the file says that its classes are COCO's

    def field(self, fields: Mapping[str, object], name: str, default: object = None) -> Any:
        """A config field as it will be: the caller's, or that in ``fields``."""
        return self.settings.get(name, fields.get(name, default))


NO_HINTS = Hints()


def hints_of(content: object, name: str, style: str | None = None) -> Hints:
    """What a checkpoint says beside its tensors; what is missing or of another type is left out."""
    meta = content.get("meta") if isinstance(content, dict) else None  # where mmdetection stores it
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")  # 3.x; 2.x has CLASSES at the top
    dataset = dataset if isinstance(dataset, Mapping) else meta
    classes = next((dataset[k] for k in ("classes", "CLASSES") if k in dataset), None)
    classes = (classes,) if isinstance(classes, str) else classes
    texts = [meta[k] for k in ("config", "cfg") if isinstance(meta.get(k), str)]
    named = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
    listed = tuple(classes) if named and classes else None
    config = next((c for c in map(read_mmdet_config, texts) if c is not None), None)
    if config is not None:
        listed = listed or config.class_names
    zoo = isinstance(content, dict) and content.get("__author__") == _ZOO
    coco = known_weights(name) is not None or zoo or (config is not None and config.coco)
    return Hints(name, "\n".join(texts), listed, style, mmdet=config, coco=coco)
