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
    """The directory of ``owner/name[@revision]`` with ``FILES``, from the cache or downloaded."""
    hub = _client()
    repository, _, revision = name.partition("@")
    commit = revision or None
    for file in FILES:
        # without a connection, the one in the cache
        path = Path(_call(name, hub.hf_hub_download, repository, file, revision=commit))
        commit = path.parent.name  # so that all files are of one commit
    return path.parent


def upload(directory: Path, repository: str) -> str:
    """Put a model directory into a repository, made if need be, and give the commit's address."""
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
    return str(done)  # from older clients, of the repository


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
