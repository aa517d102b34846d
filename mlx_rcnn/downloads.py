"""Published weights: downloaded once, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# Each file's name ends in the first 8 hex digits of its SHA-256.
PUBLISHED = {
    "fasterrcnn_resnet50_fpn": "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "keypointrcnn_resnet50_fpn": "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
    "maskrcnn_resnet50_fpn": "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
}
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
    """The file of published weights, from the cache or downloaded into it.

    A broken download is kept and resumed by the next call.

    Args:
        name: a key of ``PUBLISHED``.
        url: where from. Default: the published place.

    Returns:
        Path of the checked file.

    Raises:
        ValueError: the download failed, or its checksum is wrong.
    """
    import http.client

    url = url or PUBLISHED[name]
    target = cache_directory() / url.rsplit("/", 1)[-1]
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot download {name} from {url} ({reason}); with the file at hand, give its path"
        ) from error
    digest = _sha256(part)
    expected = target.stem.rsplit("-", 1)[-1]
    if not digest.startswith(expected):
        part.unlink()
        raise ValueError(
            f"{url} has SHA-256 {digest[:8]}..., expected {expected}...: download discarded"
        )
    os.replace(part, target)
    return target


def _download(url: str, part: Path) -> None:
    # Here, as the network stack would be a third of the time `import mlx_rcnn` takes.
    import urllib.error
    import urllib.request

    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to ask for: the checksum decides
            return
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        bar = tqdm(
            total=total, initial=have if resumed else 0, unit="B", unit_scale=True, desc=part.stem
        )
        with bar, part.open("ab" if resumed else "wb") as file:
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"connection closed after {size} of {total} bytes; run again to resume")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
