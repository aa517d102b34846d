"""What no run on small arrays shows: the text itself, CUDA's compiler, and places beyond 2^32."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gpu_shim import SHIM, Fake, Part, Source, execute
from mlx_rcnn.kernels import Plan, launch, pool, spread, suppress
from mlx_rcnn.kernels.dialects import CUDA, METAL, Dialect
from reference import noise
from scenes import oracle, oracle_gradient, plan

NVCC, CLANG = shutil.which("nvcc"), shutil.which("clang++")
SHAPE = (1, 4000, 60, 18800)  # 4.5e9 elements: 32 bits do not number them
RESERVED = {"constant", "device", "half", "kernel", "thread", "threadgroup", "vertex"}
LAST = 4  # rows that hold something
BOX = [0, 40.3, 3996.4, 58.1, 3999.7]


class Written(Fake):
    """Kernels are written, not run."""

    def run(self, source: Source, grid: Sequence[int], arguments: dict[str, Any]) -> list[mx.array]:
        self.grid = grid
        outputs = zip(arguments["output_shapes"], arguments["output_dtypes"], strict=True)
        return [mx.zeros(*kind) for kind in outputs]


@pytest.fixture
def written(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Written:
    stand_in = Written()
    monkeypatch.setattr(launch, "build", stand_in)
    return stand_in


def all_kernels(dialect: Dialect, dtype: mx.Dtype, levels: int) -> None:
    """Launch every kernel, those of RoIAlign for so many levels."""
    the = plan(scales=[1 / 4 / 2**k for k in range(levels)], ratio=0)
    shapes = [(1, 9, 9, 3)] * levels
    boxes = mx.zeros((5, 5))
    pool([mx.zeros(shape, dtype) for shape in shapes], boxes, the, dialect)
    for fixed in (False, True):
        spread(mx.zeros((5, 3, 2, 3), dtype), shapes, boxes, the, dialect, fixed)
    for labels in (None, mx.zeros((2, 9), mx.int32)):
        suppress(mx.zeros((2, 9, 4)), mx.ones((2, 9), mx.bool_), 0.5, labels, dialect)


def test_metal_can_take_the_source(written: Written) -> None:
    for dtype in (mx.float32, mx.bfloat16):
        all_kernels(METAL, dtype, 6)
    assert len(written.ran) == 14
    for kernel, source, arguments in written.ran:
        assert len(source.buffers) <= 31
        assert "double" not in source.text  # Metal has none: each number says that it is a float
        assert not re.findall(r"\b\d+\.\d*(?:e-?\d+)?(?![\dfe])", source.text)
        assert ("atomic<float>" in " ".join(source.buffers)) == kernel.atomic
        assert arguments["init_value"] == (0 if kernel.atomic else None)
        words = set(re.findall(r"[a-z]\w*", kernel.functions + kernel.body))
        assert not words & RESERVED  # Metal's words cannot be names
        # Barriers and threadgroup memory are suppression's alone
        assert ("RCNN_BARRIER;" in source.text) == kernel.grouped == ("sweep" in kernel.name)
        assert ("RCNN_SHARED unsigned" in source.text) == kernel.grouped


def test_a_name_has_one_source(written: Written) -> None:
    """MLX keeps compiled kernels by a name made of this name and the template's values."""
    for levels in (1, 2, 5):
        all_kernels(CUDA, mx.float32, levels)
    texts: dict[str, str] = {}
    for kernel, _, _ in written.ran:
        assert texts.setdefault(kernel.name, kernel.body) == kernel.body
    assert len(texts) == 12


@pytest.mark.skipif(CLANG is None, reason="no clang++, which alone knows address spaces")
def test_pointers_stay_in_their_address_space(written: Written, tmp_path: Path) -> None:
    all_kernels(METAL, mx.float16, 3)
    pool([mx.zeros((1, 1, 2, 1))], mx.zeros((1, 5)), plan(scales=[1.0]), METAL)  # small inputs
    for _, source, _ in written.ran:
        kinds = [kind.replace("const ", "") for kind in source.buffers]
        given = ", ".join(f"{kind} b{i}" for i, kind in enumerate(kinds))
        places = ", ".join(f"uint3 {v}" for v in source.call.split("%s, ")[1][:-1].split(", "))
        call = source.call % ", ".join(f"b{i}" for i in range(len(kinds)))
        file = tmp_path / "spaces.cpp"
        file.write_text(
            f'#define SPACES\n#include "metal.h"\n{source.text}\n'
            f"void run({given}, {places}) {{ {call}; }}\n"
        )
        command = [str(CLANG), "-std=c++20", "-w", "-c", f"-I{SHIM}", str(file)]
        command += ["-o", str(tmp_path / "spaces.o")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_nvidias_compiler_takes_the_source(
    written: Written, tmp_path: Path, dtype: mx.Dtype
) -> None:
    all_kernels(CUDA, dtype, 4)
    found = {kernel.name: (kernel, source) for kernel, source, _ in written.ran}.values()
    texts = [source.text.replace(CUDA.header + kernel.functions, "") for kernel, source in found]
    assert len(texts) == 6
    header = CUDA.header + "".join(sorted({kernel.functions for kernel, _ in found}))
    file = tmp_path / "kernels.cu"
    types = "".join(f"#include <{name}>\n" for name in ("cstdint", "cuda_bf16.h", "cuda_fp16.h"))
    types += "namespace cooperative_groups {}\n"
    file.write_text(types + header + "".join(texts))
    command = [str(NVCC), "-arch=sm_80", "-ptx", "-o", str(tmp_path / "kernels.ptx"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "kernels.ptx").read_text()
    assert len(re.findall(r"\.entry", made)) == 6
    assert re.search(r"(red|atom)[.\w]*\.add\.f32", made)
    assert ".f64" not in made


def _sparse(
    written: Written, call: Callable[[], Any], huge: int, buffer: Part, **options: Any
) -> list[bytes]:
    """Run what ``call`` launches, with a buffer that only partly exists."""
    call()
    _, source, arguments = written.ran.pop()
    given = [np.array(a).tobytes() if a.size < 1e6 else b"" for a in arguments["inputs"]]
    outputs = zip(arguments["output_shapes"], arguments["output_dtypes"], strict=True)
    buffers = [*given, *(int(np.prod(shape)) * dtype.size for shape, dtype in outputs)]
    buffers[huge] = buffer
    return execute(source, written.grid, buffers, **options)


def test_beyond_four_billion_elements(written: Written, dialect: Dialect) -> None:
    """The lower right corner of a map of 9 GB, of which only that corner exists."""
    count, first = int(np.prod(SHAPE)), int(np.prod(SHAPE[2:])) * (SHAPE[1] - LAST)
    assert first > 2**32
    rois, the = np.array([BOX], np.float32), Plan((2, 3), (1.0,), (), 2, False)
    corner = noise("corner", 1, LAST, *SHAPE[2:]).astype(np.float16)
    moved = rois - np.array([0, 0, SHAPE[1] - LAST, 0, SHAPE[1] - LAST], np.float32)
    part = Part(2 * count, 2 * first, corner.tobytes())
    huge = mx.zeros(SHAPE, mx.float16)  # never evaluated
    found = _sparse(written, lambda: pool([huge], mx.array(rois), the, dialect), 0, part)[-1]
    expected = oracle([corner], moved, the)
    values = np.frombuffer(found, np.float16).reshape(expected.shape)
    np.testing.assert_allclose(values, expected, atol=0.01)

    cotangent = noise("corner cotangent", *expected.shape)
    [wanted] = oracle_gradient(cotangent, [corner.shape], moved, the)
    part = Part(4 * count, 4 * first, bytes(4 * corner.size))
    for fixed in (False, True):
        found = _sparse(
            written,
            lambda f=fixed: spread(mx.array(cotangent), [SHAPE], mx.array(rois), the, dialect, f),
            -1,
            part,
            # of the deterministic form, the threads of the last pixels alone
            **({"order": "backward", "limit": LAST * 60 * 1175} if fixed else {}),
        )[-1]
        values = np.frombuffer(found, np.float32).reshape(corner.shape)
        np.testing.assert_allclose(values, wanted, atol=1e-4)
        assert values.any()
