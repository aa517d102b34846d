"""Models on the Hub: the client's calls against a fake of the Hub's endpoints, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from fake_hub import COMMIT, OLDER, fake_hub
from mlx_rcnn.checkpoints.hub import looks_like_repository

pytest.importorskip("huggingface_hub")
SAVED = ("config.json", "model.safetensors")


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with fake_hub() as hub:
        yield hub


def client(folder: Path, server: ThreadingHTTPServer, code: str, **more: str) -> str:
    """What ``code`` prints in a process whose Hub is ``server`` and whose cache is ``folder``."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**kept, **own, **more},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LOADS = """
import sys, mlx_rcnn
for name in {names}:
    try:
        config = mlx_rcnn.load(name).config
        print(config.num_classes, config.box_score_thresh)
    except (FileNotFoundError, ValueError, ImportError) as error:
        print(type(error).__name__, error)
"""


def test_load_by_repository(server, saved: Path, folder: Path) -> None:
    for name in SAVED:
        server.files["someone/cells", COMMIT, name] = (saved / name).read_bytes()
        server.files["someone/cells", OLDER, name] = (saved / name).read_bytes()
    config = json.loads((saved / "config.json").read_text()) | {"box_score_thresh": 0.25}
    server.files["someone/cells", OLDER, "config.json"] = json.dumps(config).encode()
    server.files["someone/text", COMMIT, "README.md"] = b"no model"
    names = [
        "someone/cells",
        f"someone/cells@{COMMIT}",
        "someone/cells@v1",
        "someone/cells@v9",
        "someone/nothing",
        "someone/text",
    ]
    out = client(folder, server, LOADS.format(names=names)).splitlines()
    assert out[:3] == ["5 0.05", "5 0.05", "5 0.25"]
    assert out[3].startswith("FileNotFoundError no 'someone/cells@v9' here, and the Hub says:")
    assert out[4].startswith("FileNotFoundError no 'someone/nothing' here, and the Hub says:")
    assert "someone/text" in out[5] and "config.json" in out[5] and len(out) == 6
    got = [r for r in server.requests if r.startswith("GET") and "/someone/cells/" in r]
    assert len(got) == 3  # weights of one content are fetched once, the second config anew

    server.requests.clear()
    offline = client(folder, server, LOADS.format(names=names[:1]), HF_HUB_OFFLINE="1")
    assert offline.strip() == "5 0.05" and server.requests == []
    server.shutdown()
    server.server_close()
    impatient = "import time; time.sleep = lambda _: None"  # the client waits between its tries
    code = impatient + LOADS.format(names=[names[0], "someone/else"])
    unreachable = client(folder, server, code)
    first, second = unreachable.splitlines()
    assert first == "5 0.05"
    assert "no 'someone/else' here or in the Hub's cache, and the Hub cannot be reached" in second


def test_upload_and_load_again(server, saved: Path, folder: Path) -> None:
    command = ["convert", str(saved), "dest", "--upload-repo", "someone/new"]
    code = f"import sys; from mlx_rcnn.cli.main import main; sys.exit(main({command}))"
    out = client(folder, server, code, HF_TOKEN="hf_secret")
    assert f"uploaded to {server.url}/someone/new/commit/{COMMIT}" in out
    assert server.created == ["someone/new"]
    held = {name for repository, _, name in server.files if repository == "someone/new"}
    assert held == {*SAVED, "README.md"}
    for name in held:
        assert server.files["someone/new", COMMIT, name] == (folder / "dest" / name).read_bytes()
    card = server.files["someone/new", COMMIT, "README.md"].decode()
    assert "library_name: mlx" in card and 'mlx_rcnn.load("someone/new")' in card
    assert client(folder, server, LOADS.format(names=["someone/new"])).strip() == "5 0.05"


def test_an_upload_that_fails_keeps_the_directory(server, saved: Path, folder: Path) -> None:
    command = ["convert", str(saved), "dest", "--upload-repo", "someone/new"]
    code = (
        "import contextlib, io, sys; from mlx_rcnn.cli.main import main; error = io.StringIO()\n"
        f"with contextlib.redirect_stderr(error): code = main({command})\n"
        "print(code, error.getvalue())"
    )
    out = client(folder, server, code, HF_TOKEN="hf_wrong")
    assert "\n1 mlx_rcnn: error: " in out and "someone/new" in out.split("error: ")[1]
    assert sorted(os.listdir(folder / "dest")) == ["README.md", *SAVED]


def test_the_missing_client_is_named(saved: Path, folder: Path) -> None:
    code = "import sys; sys.modules['huggingface_hub'] = None\n" + LOADS.format(names=["a/b"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, text=True, capture_output=True, timeout=120
    )
    assert done.stdout.startswith("ImportError") and "pip install 'mlx-rcnn[hub]'" in done.stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("a.b/c-d_e", True),
        ("owner/name@v1.0", True),
        ("o/n@a/b", True),
        ("name", False),
        ("a/b/c", False),
        ("../b", False),
        ("./b", False),
        ("a/..", False),
        ("/a/b", False),
        ("a/b ", False),
        ("", False),
        ("a/", False),
        ("a/b@", False),
    ],
)
def test_names_of_repositories(name: str, expected: bool) -> None:
    assert looks_like_repository(name) is expected
