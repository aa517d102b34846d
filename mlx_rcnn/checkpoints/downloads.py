"""Published weights: downloaded once, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..progress import bar
from .published import PUBLISHED

TIMEOUT = 30  # seconds without a byte


def cache_directory() -> Path:
    """``$MLX_RCNN_CACHE``, or ``mlx_rcnn`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("MLX_RCNN_CACHE")
    return (
        Path(own)
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx_rcnn"
    )


def fetch(name: str, url: str | None = None) -> Path:
    """The checked file of published weights, from the cache or downloaded into it."""
    import http.client

    url = url or PUBLISHED[name]
    target = cache_directory() / url.rsplit("/", 1)[-1]
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A broken download is kept and resumed by the next call; callers at the same time wait for
        # the one that downloads.
        with _alone(part) as file:
            try:
                if not target.exists():
                    _download(url, file, part.stem)
                    _check(file, url, target.stem.rsplit("-", 1)[-1])
                    os.replace(part, target)
            finally:
                if part.exists() and not part.stat().st_size:
                    part.unlink()
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot download {name} from {url} ({reason}); with the file at hand, give its path"
        ) from error
    return target


@contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """A file open to read and append, once nobody else has it."""
    import fcntl

    while True:
        with part.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:  # whoever had it may have renamed or removed it since: then open another
                same = os.path.samestat(part.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                continue
            if same:
                yield file
                return


def _download(url: str, file: BinaryIO, label: str) -> None:
    # Here, as the network stack would be a third of the time `import mlx_rcnn` takes.
    import urllib.error
    import urllib.request

    have = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to ask for: the checksum decides
            return
        raise
    with response:
        if response.status != 206:  # all of it, whatever was asked for
            file.truncate(0)
            have = 0
        length = response.headers.get("Content-Length") or ""
        total = int(length) + have if length.isdigit() else None
        with bar(total=total, initial=have, unit="B", unit_scale=True, desc=label) as shown:
            while block := response.read(1 << 18):
                file.write(block)
                shown.update(len(block))
    file.flush()
    size = file.seek(0, os.SEEK_END)
    if total is not None and size != total:
        raise OSError(f"connection closed after {size} of {total} bytes; run again to resume")


def _check(file: BinaryIO, url: str, expected: str) -> None:
    """Empty the file and raise ValueError if its SHA-256 does not begin as expected."""
    file.seek(0)
    digest, html = hashlib.sha256(), file.read(64).lstrip().lower().startswith((b"<!doc", b"<html"))
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    if not digest.hexdigest().startswith(expected):
        file.truncate(0)
        what = "an HTML page, its" if html else "a file whose"
        raise ValueError(
            f"{url} gave {what} SHA-256 is {digest.hexdigest()[:8]}..., expected {expected}...: "
            "download discarded"
        )
