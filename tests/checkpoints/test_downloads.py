"""Downloads, from a server on this machine that behaves and misbehaves."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_rcnn
from mlx_rcnn.checkpoints import downloads
from mlx_rcnn.checkpoints.downloads import cache_directory, fetch
from mlx_rcnn.checkpoints.published import PUBLISHED

DATA = bytes(range(256)) * 4000
NAME = f"/weights-{hashlib.sha256(DATA).hexdigest()[:8]}.pth"


class Handler(BaseHTTPRequestHandler):
    """Answers with ``server.answer(self, first byte asked for)`` and notes every request."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        self.server.answer(self, int(asked[len("bytes=") :].rstrip("-")) if asked else 0)

    def log_message(self, *args: object) -> None:
        pass

    def send(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def good(handler: Handler, first: int, stop: int | None = None) -> None:
    """Ranges are honoured; ``stop`` closes the connection there."""
    if first >= len(DATA):
        handler.send(416, b"")
    elif first:
        span = f"bytes {first}-{len(DATA) - 1}/{len(DATA)}"
        handler.send(206, DATA[first:stop], len(DATA) - first, Content_Range=span)
    else:
        handler.send(200, DATA[:stop], len(DATA))


def without_ranges(handler: Handler, first: int) -> None:
    handler.send(200, DATA)


def stalled(handler: Handler, first: int) -> None:
    handler.send(200, DATA[:1000], len(DATA))
    handler.wfile.flush()
    time.sleep(1)


def chunked(handler: Handler, first: int, whole: bool = True) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(DATA), DATA) if whole else b"ffff\r\nabc")
    handler.wfile.write(b"0\r\n\r\n" if whole else b"")
    handler.close_connection = True


def hung_up(handler: Handler, first: int) -> None:
    handler.close_connection = True


def no_http(handler: Handler, first: int) -> None:
    handler.wfile.write(b"220 smtp ready\r\n")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server that answers well until told otherwise, and an empty cache."""
    monkeypatch.setenv("MLX_RCNN_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.requests, httpd.answer = [], good
    httpd.url = f"http://127.0.0.1:{httpd.server_port}{NAME}"
    thread = threading.Thread(target=partial(httpd.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def cached(url: str = NAME) -> list[str]:
    folder = cache_directory()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refused(url: str, match: str) -> None:
    """Checks that the download fails in one line that names where from."""
    with pytest.raises(ValueError, match=match) as caught:
        fetch("weights", url)
    message = str(caught.value)
    assert url in message and "\n" not in message and len(message) < 400


def test_good_file_is_fetched_once(server) -> None:
    path = fetch("weights", server.url)
    assert path == cache_directory() / NAME[1:]
    assert path.read_bytes() == DATA
    assert cached() == [NAME[1:]]  # no part beside it
    server.answer = hung_up
    assert fetch("weights", server.url) == path
    assert len(server.requests) == 1


def test_a_broken_download_is_resumed(server) -> None:
    server.answer = partial(good, stop=300_000)
    refused(server.url, f"connection closed after 300000 of {len(DATA)} bytes; run again to resume")
    assert cached() == [f"{NAME[1:]}.part"]
    server.answer = partial(good, stop=500_000)
    refused(server.url, "connection closed after 500000 of")
    server.answer = good
    assert fetch("weights", server.url).read_bytes() == DATA
    assert server.requests == [None, "bytes=300000-", "bytes=500000-"]
    assert cached() == [NAME[1:]]


def test_a_server_without_ranges_starts_again(server) -> None:
    server.answer = partial(good, stop=300_000)
    refused(server.url, "connection closed")
    server.answer = without_ranges
    assert fetch("weights", server.url).read_bytes() == DATA


def test_a_whole_part_is_not_fetched_again(server) -> None:
    """All bytes came, but the process ended before the file had its name."""
    cache_directory().mkdir(parents=True)
    (cache_directory() / f"{NAME[1:]}.part").write_bytes(DATA)
    assert fetch("weights", server.url).read_bytes() == DATA
    assert server.requests == [f"bytes={len(DATA)}-"]


def test_a_foreign_part_is_discarded(server) -> None:
    cache_directory().mkdir(parents=True)
    (cache_directory() / f"{NAME[1:]}.part").write_bytes(b"x" * 1000)
    refused(server.url, f"SHA-256 is .*expected {NAME[9:17]}.*: download discarded")
    assert cached() == []
    assert fetch("weights", server.url).read_bytes() == DATA


@pytest.mark.parametrize("body", [DATA[:-1] + b"?", b"<html>Sign in</html>", b""])
def test_a_wrong_file_is_discarded(server, body: bytes) -> None:
    server.answer = lambda handler, first: handler.send(200, body)
    what = "an HTML page, its" if b"html" in body else "a file whose"
    digest = hashlib.sha256(body).hexdigest()[:8]
    refused(server.url, f"gave {what} SHA-256 is {digest}.*expected {NAME[9:17]}.*discarded")
    assert cached() == []
    server.answer = good
    assert fetch("weights", server.url).read_bytes() == DATA


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (503, "")])
def test_error_pages(server, status: int, reason: str) -> None:
    server.answer = lambda handler, first: handler.send(status, b"<html>no</html>")
    refused(server.url, f"cannot download weights from .*{status}.*{reason}.*give its path")
    assert cached() == []


def test_a_stall_ends_and_keeps_what_came(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.answer = stalled
    start = time.monotonic()
    refused(server.url, "timed out")
    assert time.monotonic() - start < 0.9
    server.answer = good
    assert fetch("weights", server.url).read_bytes() == DATA


def test_a_file_that_changes_between_two_tries(server) -> None:
    """Half of the old one and half of the new: discarded, and fetched whole by the next call."""
    old = bytes(len(DATA))
    server.answer = lambda handler, first: handler.send(200, old[:300_000], len(old))
    refused(server.url, "connection closed after 300000")
    server.answer = good
    refused(server.url, "SHA-256 is .*download discarded")
    assert cached() == []
    assert fetch("weights", server.url).read_bytes() == DATA


def test_a_shorter_file_than_what_came_before(server) -> None:
    cache_directory().mkdir(parents=True)
    (cache_directory() / f"{NAME[1:]}.part").write_bytes(DATA + b"more")
    refused(server.url, "SHA-256 is .*download discarded")  # after a 416
    assert fetch("weights", server.url).read_bytes() == DATA


def test_callers_at_the_same_time_share_one_download(server) -> None:
    def slowly(handler: Handler, first: int) -> None:
        time.sleep(0.2)
        good(handler, first)

    server.answer = slowly
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch("weights", server.url), range(8)))
    assert set(paths) == {cache_directory() / NAME[1:]}
    assert paths[0].read_bytes() == DATA
    assert server.requests == [None] and cached() == [NAME[1:]]


def test_whoever_waited_goes_on_where_another_broke_off(server) -> None:
    def once(handler: Handler, first: int) -> None:
        time.sleep(0.1)
        good(handler, first, None if first else 300_000)

    server.answer = once

    def attempt(_: int) -> str:
        try:
            return str(fetch("weights", server.url))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        results = sorted(pool.map(attempt, range(3)))
    assert "connection closed after 300000" in "".join(results)
    assert sum(result.endswith(NAME) for result in results) == 2
    assert server.requests == [None, "bytes=300000-"]


@pytest.mark.parametrize("length", ["-1", "many", "1e3", ""])
def test_a_length_that_is_none(server, length: str) -> None:
    def answer(handler: Handler, first: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(DATA)

    server.answer = answer
    assert fetch("weights", server.url).read_bytes() == DATA


def test_length_unknown(server) -> None:
    server.answer = chunked
    assert fetch("weights", server.url).read_bytes() == DATA


@pytest.mark.parametrize("answer", [partial(chunked, whole=False), hung_up, no_http])
def test_broken_conversations(server, answer: Callable[[Handler, int], None]) -> None:
    server.answer = answer
    refused(server.url, "cannot download weights from")


def test_offline(server) -> None:
    server.shutdown()
    server.server_close()
    refused(server.url, "cannot download weights .*refused.*with the file at hand, give its path")


def test_a_cache_that_cannot_be_made(server, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_RCNN_CACHE", str(tmp_path / "file" / "cache"))
    refused(server.url, "cannot download weights .*file")


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLX_RCNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "mlx_rcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "mlx_rcnn"
    monkeypatch.setenv("MLX_RCNN_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_published_names_end_in_their_checksum() -> None:
    for name, url in PUBLISHED.items():
        stem = url.rsplit("/", 1)[-1].removesuffix(".pth")
        assert stem.startswith((f"{name}_coco-", f"{name}-"))
        assert len(stem.rsplit("-", 1)[-1]) == 8 and url.startswith("https://")


@pytest.mark.parametrize("source", ["maskrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn"])
def test_load_by_name(
    server, monkeypatch: pytest.MonkeyPatch, folder: Path, small_state, source: str
) -> None:
    file = folder / "weights.safetensors"
    mx.save_safetensors(str(file), small_state("mask_rcnn"))
    data = file.read_bytes()
    name = f"/published-{hashlib.sha256(data).hexdigest()[:8]}.safetensors"
    monkeypatch.setitem(PUBLISHED, "maskrcnn_resnet50_fpn", server.url.replace(NAME, name))
    monkeypatch.chdir(folder)
    server.answer = lambda handler, first: handler.send(200, data)
    for _ in range(2):
        model = mlx_rcnn.load(source)
        assert isinstance(model, mlx_rcnn.MaskRCNN) and model.config.num_classes == 5
    assert len(server.requests) == 1
