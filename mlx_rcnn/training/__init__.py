"""Training: what learns, the settings of a run, and the run itself."""

from typing import Any

from .config import TrainConfig
from .freeze import set_trainable

__all__ = ["TrainConfig", "fit", "set_trainable"]


def __getattr__(name: str) -> Any:
    """``fit``, when it is asked for: importing the package stays quick without the trainer."""
    if name == "fit":
        from .trainer import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
