"""Training: what learns, the settings of a run, and the run itself."""

from collections.abc import Callable

from .config import TrainConfig
from .freeze import set_trainable
from .loggers import Logger, MlflowLogger, WandbLogger

__all__ = [
    "Logger",
    "MlflowLogger",
    "TrainConfig",
    "WandbLogger",
    "find_lr",
    "fit",
    "fit_boxes",
    "fit_svms",
    "set_trainable",
    "write_summary",
]


def __getattr__(name: str) -> Callable[..., object]:
    """What trains, when asked for: importing the package stays quick without it."""
    if name == "find_lr":
        from .lr_finder import find_lr

        return find_lr
    if name == "fit":
        from .trainer import fit

        return fit
    if name == "fit_boxes":
        from .ridge import fit_boxes

        return fit_boxes
    if name == "fit_svms":
        from .svms import fit_svms

        return fit_svms
    if name == "write_summary":
        from .summary import write_summary

        return write_summary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
