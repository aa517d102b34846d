"""What commands say on standard error: lines that begin with ``mlx_rcnn:``, above any bar."""

from __future__ import annotations

import sys

from ..progress import write
from .colour import coloured


def say_error(text: object) -> None:
    """Say why a command has failed."""
    _say(f"{coloured('error:', 'red', sys.stderr)} {text}")


def say_warning(text: object) -> None:
    """Say what the user may not want."""
    _say(f"{coloured('warning:', 'yellow', sys.stderr)} {text}")


def say_problem(text: object) -> None:
    """Say what is wrong with a part, while the rest goes on."""
    _say(str(text))


def _say(text: str) -> None:
    write(f"mlx_rcnn: {text}")
