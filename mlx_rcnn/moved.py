"""Import paths of 0.1 that moved: they work until 0.3, with a warning that names the new ones."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Below mlx_rcnn: the old module, and the modules that have its names now.
_TABLE = {
    "allocator": "memory",
    "anchors": "rpn.anchors",
    "assign": "ops.matching",
    "backbone_config": "config.backbone",
    "categories": "config.categories",
    "checks": "config.checks",
    "commands": "cli.errors",
    "commands.convert": "cli.convert.command",
    "commands.convert_flags": "cli.flags.convert",
    "commands.evaluate": "cli.evaluate.command",
    "commands.evaluate_flags": "cli.flags.evaluate",
    "commands.info": "cli.info",
    "commands.places": "cli.preflight",
    "commands.predict": "cli.predict.command",
    "commands.train": "cli.train.command",
    "commands.train_flags": "cli.flags.train",
    "commands.verify": "cli.convert.verify",
    "convert.allowed": "convert.files.pickle_names",
    "convert.classifiers": "convert.libraries.classifiers",
    "convert.detectron2": "convert.libraries.detectron2",
    "convert.detectron2_rules": "convert.libraries.detectron2_rules",
    "convert.inert": "convert.files.safe_values",
    "convert.mmdetection": "convert.libraries.mmdetection",
    "convert.recognised": "convert.libraries.architecture",
    "convert.safetensors_file": "convert.files.safetensors_file",
    "convert.state_dict": "convert.files.state_dict",
    "convert.stored_zip": "convert.files.stored_zip",
    "convert.stream": "convert.files.stream",
    "convert.strided": "convert.files.tensors",
    "convert.structure": "convert.libraries.shapes",
    "convert.timm": "convert.libraries.timm",
    "convert.torch_file": "convert.files.torch_file",
    "convert.torch_writer": "convert.files.torch_writer",
    "convert.torchvision": "convert.libraries.torchvision",
    "convert.transformers": "convert.libraries.transformers",
    "convert.unpickle": "convert.files.unpickle",
    "data.checks": "data.items",
    "data.export": "data.write",
    "downloads": "checkpoints.downloads checkpoints.published",
    "export": "checkpoints.export",
    "formats": "inputs.formats",
    "hub": "checkpoints.hub",
    "image_files": "inputs.image_files",
    "images": "inputs.images",
    "lettering": "outputs.lettering",
    "losses": "ops.losses",
    "model_card": "checkpoints.model_card checkpoints.published convert.published",
    "models.roi_branch": "heads.rois",
    "pixels": "inputs.pixels",
    "pretrained": "checkpoints.backbone_weights",
    "results": "outputs.coco files data.annotations outputs.pictures",
    "skeletons": "outputs.skeletons",
    "sources": "checkpoints.find convert.checkpoint",
    "targets": "inputs.targets structures",
    "training.heads": "training.new_heads",
    "training.report": "training.metrics training.pictures",
    "training.trees": "checkpoints.weights",
    "transforms": "inputs.transform",
    "visualize": "outputs.draw",
    "weights": "checkpoints.load checkpoints.weights checkpoints.save",
}
# Modules that are still there, and where some of their names went.
_LEFT = {
    "heads.box": "heads.detections heads.sampling",
    "training.prepare": "training.machines training.run_folder",
}
MOVED = {
    f"mlx_rcnn.{old}": tuple(f"mlx_rcnn.{home}" for home in homes.split())
    for old, homes in _TABLE.items()
}


class _OldModule(ModuleType):
    """A module whose names have several homes now; reading and patching reach them there."""

    __path__: list[str] = []  # noqa: RUF012 - as ModuleType has it

    def __getattr__(self, name: str) -> Any:
        for home in MOVED[self.__name__]:
            if not name.startswith("__") and hasattr(import_module(home), name):
                return getattr(import_module(home), name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        for home in MOVED[self.__name__]:
            if not name.startswith("__") and hasattr(import_module(home), name):
                super().__setattr__(f"_was_{name}", getattr(import_module(home), name))
                setattr(import_module(home), name, value)
                return
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:  # how pytest takes a patch back
        if f"_was_{name}" in vars(self):
            setattr(self, name, vars(self)[f"_was_{name}"])
        else:
            super().__delattr__(name)


class _Finder(MetaPathFinder, Loader):
    """Finds an old path, before an empty folder left of it is taken for a package."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        _warn(module.__name__)
        sys.modules[module.__name__] = _open(module.__name__)


def _warn(old: str, level: int = 3) -> None:
    new = " and ".join(MOVED[old])
    message = f"{old} has moved to {new}; the old path goes with mlx_rcnn 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=level)  # where the old path is written


def _open(old: str) -> ModuleType:
    homes = MOVED[old]
    if len(homes) == 1 and not any(other.startswith(f"{old}.") for other in MOVED):
        return import_module(homes[0])
    module = _OldModule(old, f"Moved to {' and '.join(homes)}.")
    module.__spec__ = ModuleSpec(old, None, is_package=True)
    return module


def install() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def attribute(package: str, name: str) -> ModuleType:
    """What ``package.name`` was, for a package's ``__getattr__``; AttributeError if nothing."""
    old = f"{package}.{name}"
    if old not in MOVED:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    _warn(old, 4)
    return sys.modules.setdefault(old, _open(old))


def names(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module, a key of ``_LEFT``, some of whose names moved."""

    def find(name: str) -> Any:
        for home in _LEFT.get(module.removeprefix("mlx_rcnn."), "").split():
            new = f"mlx_rcnn.{home}"
            if not name.startswith("_") and hasattr(import_module(new), name):
                message = f"{module}.{name} has moved to {new}; the old name goes with mlx_rcnn 0.3"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return getattr(import_module(new), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find
