"""A model served over HTTP: a page, JSON, and Label Studio's ML backend (extra ``serve``)."""

from __future__ import annotations

from importlib import import_module


def check_installed() -> None:
    """Refuse without the extra, by an ImportError that says how to install it."""
    for name in ("starlette", "uvicorn", "python_multipart"):
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                'a server needs Starlette and uvicorn: pip install "mlx-rcnn[serve]" '
                "(or pip install starlette uvicorn python-multipart)"
            ) from error
