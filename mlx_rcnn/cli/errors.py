"""What subcommands share: the failure that a user reads, and the loading of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..messages import one_line

if TYPE_CHECKING:
    from ..models import Detector


class CommandError(Exception):
    """A failure for the user to read in one line; code 2 for arguments, 1 for what comes later."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def load_model(
    source: str, dtype: str | None = None, given: Mapping[str, object] | None = None
) -> Detector:
    """Load a model for a subcommand; a CommandError if it cannot be."""
    from ..checkpoints.load import load

    try:
        read: Callable[..., Detector] = load  # each value was read in its field's type
        return read(source, dtype=dtype, **(given or {}))
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise CommandError(one_line(error)) from error
