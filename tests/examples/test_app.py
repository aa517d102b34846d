"""examples/app: the C++ program, built against MLX's own library, gives what Python gives."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_rcnn import FasterRCNN, export_function, load_function
from small import photo

SOURCE = Path(__file__).resolve().parents[2] / "examples/app/main.cpp"
MLX = Path(mx.__file__).parent
COMPILER = shutil.which("c++") or shutil.which("g++")
SIZE = (96, 128)

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(
        not (MLX / "include/mlx/mlx.h").exists() or not list((MLX / "lib").glob("libmlx.*")),
        reason="this MLX came without headers or library",
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built as docs/app.md says."""
    built = tmp_path_factory.mktemp("app") / "main"
    where = [f"-I{MLX / 'include'}", f"-L{MLX / 'lib'}", f"-Wl,-rpath,{MLX / 'lib'}"]
    command = [COMPILER, "-std=c++20", "-Wall", str(SOURCE), *where, "-lmlx", "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "main.cpp" not in done.stderr  # no warnings of ours
    return built


def run(program: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, args)], capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["mask_rcnn", "keypoint_rcnn"])
def test_the_program_gives_what_python_gives(
    kind: str, program: Path, fresh_model: Callable[..., FasterRCNN], tmp_path: Path
) -> None:
    names = ("__background__", "cat", 'a "b" \\ c]', "straße", "dog")
    model = fresh_model(kind, class_names=names)
    path, image = tmp_path / "app.mlxfn", tmp_path / "image.ppm"
    export_function(model, path, [SIZE, (64, 64)], top_k=20)
    pixels = photo()[:96, 30:158]
    Image.fromarray(pixels).save(image)
    function = load_function(path)
    for content in ((), (70, 101)):
        done = run(program, path, image, *content)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        want = function(pixels, content or None)
        assert len(rows) == len(want["scores"]) > 0
        assert [row["label"] for row in rows] == want["labels"].tolist()
        assert [row["class"] for row in rows] == [names[label] for label in want["labels"]]
        assert rows[0].keys() == {"label", "class", *want} - {"labels"}
        for name in want.keys() - {"labels"}:
            got = np.array([row[name] for row in rows], np.float32).reshape(want[name].shape)
            np.testing.assert_allclose(got, want[name], atol=1e-5, rtol=1e-6)


def test_what_the_program_refuses(
    program: Path, small_model: Callable[..., FasterRCNN], tmp_path: Path
) -> None:
    path, image = tmp_path / "app.mlxfn", tmp_path / "image.ppm"
    export_function(small_model("faster_rcnn"), path, [SIZE])
    Image.fromarray(photo()[:64, :64]).save(image)
    assert run(program).returncode == 2
    done = run(program, path, image)  # another size than was exported
    assert done.returncode == 1 and "(96,128,3)" in done.stderr.replace(" ", "")
    image.write_bytes(image.read_bytes()[:-1])
    assert "is cut off" in run(program, path, image).stderr
    image.write_bytes(b"GIF89a")
    assert "is no binary PPM" in run(program, path, image).stderr
    assert "Failed to open" in run(program, tmp_path / "none.mlxfn", image).stderr
