"""Models on the Hugging Face Hub, through its own client, which keeps the cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

from ..messages import one_line

P = ParamSpec("P")
T = TypeVar("T")
_REPOSITORY = re.compile(r"(?![\d.-]+/)[\w.-]+/[\w.-]+(@[\w./-]+)?")
FILES = ("config.json", "model.safetensors")
"""Of a model directory, as ``mlx_rcnn.save`` writes it."""


def looks_like_repository(name: str) -> bool:
    """Whether a name has the form ``owner/name`` or ``owner/name@revision``."""
    parts = name.partition("@")[0].split("/")
    return bool(_REPOSITORY.fullmatch(name)) and not any(set(p) <= {"."} for p in parts)


def fetch_repository(name: str) -> Path:
    """The directory of a model in a repository, from the client's cache or downloaded into it.

    Args:
        name: ``owner/name``, or ``owner/name@revision`` (a branch, tag or commit).

    Returns:
        A directory with ``FILES``. Without a connection, the one in the cache.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: no such repository, revision or file, or offline and not in the cache.
        ValueError: the download failed.
    """
    hub = _client()
    repository, _, revision = name.partition("@")
    commit = revision or None
    for file in FILES:
        path = Path(_call(name, hub.hf_hub_download, repository, file, revision=commit))
        commit = path.parent.name  # so that all files are of one commit
    return path.parent


def upload(directory: Path, repository: str) -> str:
    """Put a model directory into a repository, which is made if it does not exist.

    Args:
        directory: with a config, weights and a card.
        repository: ``owner/name``.

    Returns:
        The address of the commit or, from older clients, of the repository.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: the Hub does not know the repository, or does not let the user write.
        ValueError: the upload failed.
    """
    api = _client().HfApi()
    _call(repository, api.create_repo, repository, exist_ok=True)
    done = _call(
        repository,
        api.upload_folder,
        repo_id=repository,
        folder_path=str(directory),
        commit_message="Upload weights converted with mlx_rcnn",
        allow_patterns=[*FILES, "README.md"],
    )
    return str(done)


def _client() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "models on the Hugging Face Hub (owner/name) need its client: "
            "pip install 'mlx-rcnn[hub]'"
        ) from error
    return huggingface_hub


def _call(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the client and turn its errors, of several libraries, into one line."""
    errors = _client().errors
    absent = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    )
    try:
        return function(*args, **kwargs)
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"no {name!r} here or in the Hub's cache, and the Hub cannot be reached: "
            f"{one_line(error)}"
        ) from error
    except absent as error:
        raise FileNotFoundError(f"no {name!r} here, and the Hub says: {one_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name!r} on the Hugging Face Hub: {one_line(error)}") from error
