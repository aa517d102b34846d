"""Where a subcommand runs and writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .errors import CommandError


def check_writable(folder: Path) -> None:
    """Try a file in a folder, or where it would be made, and leave nothing behind."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise CommandError(f"cannot write to {folder}: {existing} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise CommandError(f"cannot write to {folder}: {error.strerror}") from error


def make_folders(folders: list[Path]) -> None:
    """Make folders that are missing, and those above them."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"cannot make folder {folder}: {error.strerror}") from error


def set_device(name: str | None) -> None:
    """Make MLX run on ``"cpu"`` or ``"gpu"``; ``None`` is MLX's choice."""
    if name is None:
        return
    import mlx.core as mx

    device = mx.gpu if name == "gpu" else mx.cpu
    if not mx.is_available(mx.Device(device)):
        raise CommandError(f"--device {name}: MLX has no {name.upper()} on this machine")
    mx.set_default_device(mx.Device(device))
