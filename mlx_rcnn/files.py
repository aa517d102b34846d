"""Files that are whole at every moment: written under another name, flushed, and renamed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_NUMBER = count()  # threads of one process may write the same file


class Closing:
    """What is closed at the end of a ``with`` block."""

    def close(self) -> None:
        """Give up what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file beside ``path`` that takes its place if the block succeeds."""
    # A process killed at any moment leaves the old file or the new one; what it had begun is
    # removed by the next that writes the same file.
    if is_opened(path):
        with _passed_on(path) as part:
            yield part
        return
    _remove_leftovers(path)
    # The suffix stays: writers such as MLX's go by it.
    part = path.with_name(f"{_prefix(path)}{os.getpid()}-{next(_NUMBER)}.part{path.suffix}")
    try:
        yield part
        flush(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give the name of a folder beside ``path`` that becomes it if the block succeeds."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty: expected a new folder")
    above = [folder for folder in path.absolute().parents if not folder.exists()]
    _remove_leftovers(path)
    part = path.with_name(f"{_prefix(path)}{os.getpid()}-{next(_NUMBER)}.part{path.suffix}")
    try:
        try:
            part.mkdir(parents=True)
        except OSError as error:  # of the folder asked for, not of ours beside it
            raise type(error)(error.errno, error.strerror, str(path)) from error
        yield part
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            for folder in above:  # those made above it go, too: nothing is left behind
                folder.rmdir()
        raise
    flush(path.parent)


def is_opened(path: Path) -> bool:
    """Whether a path is a device, a pipe or an open file, which no file may replace."""
    # Such as /dev/stderr, /dev/fd/3 or a named pipe: they are written to, once all is there.
    folder = path.absolute().parent
    if not path.exists() or path.is_dir():
        return False
    if folder in (Path("/dev"), Path("/dev/fd")) or folder.is_relative_to("/proc"):
        return True
    return not path.is_file()


@contextmanager
def _passed_on(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlx_rcnn-") as folder:
        part = Path(folder) / (path.name or "part")
        yield part
        with part.open("rb") as whole, path.open("wb") as sink:
            shutil.copyfileobj(whole, sink)


def flush(path: Path) -> None:
    """Have a file's or a folder's contents on the disk: a power cut must not reorder renames."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def _prefix(path: Path) -> str:
    """Of the names that this machine writes ``path`` under."""
    host = zlib.crc32(platform.node().encode())
    return f".{path.name[:200]}.{host:08x}-"


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine began and, being gone, will never finish."""
    prefix = _prefix(path)
    pattern = re.compile(re.escape(prefix) + r"(\d+)-\d+\.part" + re.escape(path.suffix))
    with suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            match = pattern.fullmatch(entry.name)
            if match and not _alive(int(match[1])):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
