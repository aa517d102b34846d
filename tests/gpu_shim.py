"""GPU kernels on a CPU: the source that MLX would compile for a GPU, built by g++ with sanitizers.

:class:`Fake` stands in for :func:`mlx_rcnn.kernels.launch.build`. Metal's source is MLX's own, got
by exporting the call, which needs no Metal; CUDA's is put together here, as MLX does it only where
it has CUDA. A kernel runs in a process of its own, a thread after the other, with buffers of
exactly their size. What this cannot show: races, barriers, and what Apple's or NVIDIA's compiler
makes of the source.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_rcnn.kernels.dialects import METAL, Dialect
from mlx_rcnn.kernels.launch import Kernel, build

COMPILER = shutil.which("g++")
SHIM = Path(__file__).with_name("kernels") / "shim"
CHECKS = "-fsanitize=address,undefined,float-cast-overflow"
FLAGS = ["-std=c++20", "-O1", "-w", "-pthread", "-ffp-contract=off", "-fno-sanitize-recover=all"]
CUDA_NAMES = {
    mx.float32: "float",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.int32: "int32_t",
    mx.uint32: "uint32_t",
    mx.bool_: "bool",
}
REAL_BUILD = build
BUILT = Path(tempfile.gettempdir()) / "mlx_rcnn_shim"  # tests/kernels/conftest.py gives a folder


class Source(NamedTuple):
    """A kernel's whole source, how to call it, and the types of its buffers in their order."""

    text: str
    call: str
    buffers: tuple[str, ...]
    dialect: str


def metal_source(made: Any, arguments: dict[str, Any]) -> tuple[Source, list[int]]:
    """What MLX hands to Metal for a call, and grid and group."""
    found: list[Any] = []

    def note(entry: dict[str, Any]) -> None:
        if entry.get("type") == "primitive" and entry["name"] == "CustomKernel":
            found.append(entry["arguments"])

    inputs = [mx.zeros(a.shape, a.dtype) for a in arguments["inputs"]]
    mx.export_function(note, lambda *given: made(**{**arguments, "inputs": list(given)}), *inputs)
    name, text, *grid = found[0][:8]
    # the last line instantiates a template, in words that only Metal's compiler knows
    text, _, end = text.partition("template [[host_name(")
    instance = re.search(rf"decltype\(({name}<.*?>)\)", end)[1] if end else name
    signature = re.search(rf"void {name}\(\n(.*?)\) {{\n", text, re.S)[1]
    buffers = [
        line.split(" [[buffer")[0].strip() for line in signature.split(",\n") if "buffer(" in line
    ]
    others = re.findall(r"uint3 (\w+) \[\[", signature)
    types = [line.rsplit(" ", 1)[0] for line in buffers]
    return Source(text, f"{instance}(%s, {', '.join(others)})", tuple(types), "metal"), grid


def cuda_source(kernel: Kernel, header: str, body: str, arguments: dict[str, Any]) -> Source:
    """What MLX hands to CUDA for a call, after its build_kernel."""
    types = [f"const {CUDA_NAMES[a.dtype]}*" for a in arguments["inputs"]]
    types += [f"{CUDA_NAMES[d]}*" for d in arguments["output_dtypes"]]
    names = [*kernel.inputs, *kernel.outputs]
    known = ""
    for name, value in arguments["template"]:
        if isinstance(value, mx.Dtype):
            known += f"  using {name} = {CUDA_NAMES[value]};\n"
        else:
            known += f"  constexpr {type(value).__name__} {name} = {str(value).lower()};\n"
    parameters = ",\n    ".join(f"{t} {n}" for t, n in zip(types, names, strict=True))
    text = (
        f"{header}namespace mlx::core::cu {{\n\nnamespace cg = cooperative_groups;\n\n"
        f"__global__ void {kernel.name}(\n    {parameters}) {{\n{known}\n{body}\n}}\n\n}}\n"
    )
    return Source(text, f"mlx::core::cu::{kernel.name}(%s)", tuple(types), "cuda")


GROUPS = {
    "metal": """
    const uint3 threads_per_threadgroup = {grid.tx, 1, 1};
    for (unsigned g = 0; g < grid.x / grid.tx; g++) {
        run_group(grid.tx, [&, g](unsigned i) {
            const unsigned last = grid.x / grid.tx - 1;
            const uint3 threadgroup_position_in_grid = {backward ? last - g : g, 0, 0};
            const uint3 thread_position_in_threadgroup = {i, 0, 0};
            CALL;
        });
    }""",
    "cuda": """
    blockDim = {grid.tx, 1, 1};
    for (unsigned g = 0; g < grid.x / grid.tx; g++) {
        run_group(grid.tx, [&, g](unsigned i) {
            blockIdx = {backward ? grid.x / grid.tx - 1 - g : g, 0, 0};
            threadIdx = {i, 0, 0};
            CALL;
        });
    }""",
}
LOOPS = {
    "metal": """
    const uint3 threads_per_grid = {grid.x, grid.y, grid.z};
    const int64_t all = int64_t(grid.x) * grid.y * grid.z;
    for (int64_t n = 0; n < all && n < limit; n++) {
        const int64_t i = backward ? all - 1 - n : n;
        const uint3 thread_position_in_grid = {
            uint(i % grid.x), uint(i / grid.x % grid.y), uint(i / grid.x / grid.y)};
        CALL;
    }""",
    "cuda": """
    blockDim = {grid.tx, grid.ty, grid.tz};
    gridDim = {(grid.x + grid.tx - 1) / grid.tx, (grid.y + grid.ty - 1) / grid.ty, 1};
    const int64_t group = grid.tx * grid.ty, all = group * gridDim.x * gridDim.y;
    for (int64_t n = 0; n < all && n < limit; n++) {
        const int64_t i = backward ? all - 1 - n : n;
        threadIdx = {unsigned(i % grid.tx), unsigned(i / grid.tx % grid.ty), 0};
        blockIdx = {unsigned(i / group % gridDim.x), unsigned(i / group / gridDim.x), 0};
        CALL;
    }""",
}


def program(source: Source) -> str:
    """The C++ file: shim, kernel, and a loop over the grid."""
    casts = [f"({kind})buffers[{i}]" for i, kind in enumerate(source.buffers)]
    grouped = "RCNN_BARRIER;" in source.text
    loop = (GROUPS if grouped else LOOPS)[source.dialect]
    loop = loop.replace("CALL", source.call % ", ".join(casts))
    header = '#include "groups.h"\n' if grouped else ""
    return (
        f'{header}#include "{source.dialect}.h"\n{source.text}\n'
        "struct Grid { unsigned x, y, z, tx, ty, tz; };\n"
        f"static void run(void** buffers, Grid grid, bool backward, int64_t limit) {{{loop}\n}}\n"
        '#include "main.cpp"\n'
    )


def compiled(source: Source, checks: str = CHECKS) -> Path:
    """The program, built once a session for each text."""
    text = f"// {checks}\n{program(source)}"
    folder = BUILT
    folder.mkdir(exist_ok=True)
    made = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            file, target = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel"
            file.write_text(text)
            command = [COMPILER, *FLAGS, checks, f"-I{SHIM}", str(file), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, env=plain())
            assert done.returncode == 0, done.stderr[:4000]
            target.rename(made)
    return made


def plain() -> dict[str, str]:
    """The environment without preloaded libraries, which a sanitizer refuses."""
    kept = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return {**kept, "ASAN_OPTIONS": "redzone=1024:max_redzone=2048:detect_leaks=0"}


def to_bytes(value: mx.array) -> bytes:
    """An array as it lies in memory."""
    value = mx.view(value, mx.uint16) if value.dtype == mx.bfloat16 else value
    return np.array(value).tobytes()


def from_bytes(data: bytes, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """The reverse of :func:`to_bytes`."""
    if dtype == mx.bfloat16:
        return mx.view(mx.array(np.frombuffer(data, np.uint16).reshape(shape)), mx.bfloat16)
    kind = str(dtype).rsplit(".", 1)[1]
    return mx.array(np.frombuffer(data, np.dtype(kind.rstrip("_"))).reshape(shape))


class Part(NamedTuple):
    """A buffer too large to be held: zeros, but for ``data`` at byte ``offset``."""

    size: int
    offset: int
    data: bytes


def execute(
    source: Source,
    grid: Sequence[int],
    buffers: Sequence[bytes | int | Part],
    order: str = "forward",
    limit: int = 1 << 62,
    checks: str = CHECKS,
) -> list[bytes]:
    """Run a kernel's program.

    Args:
        source: the kernel.
        grid: grid and group, six numbers.
        buffers: inputs, then outputs: what they hold, or the bytes of one that holds nothing yet.
        order: of the threads, ``"forward"`` or ``"backward"``.
        limit: run so many threads only.
        checks: the sanitizers.

    Returns:
        The buffers afterwards; of a part, the same part.
    """
    words = [np.array([*grid, len(source.buffers)], np.int64).tobytes()]
    for buffer in buffers:
        if isinstance(buffer, int):
            words.append(np.array([buffer, 0], np.int64).tobytes())
        elif isinstance(buffer, Part):
            numbers = [buffer.size, 2, buffer.offset, len(buffer.data)]
            words += [np.array(numbers, np.int64).tobytes(), buffer.data]
        else:
            words += [np.array([len(buffer), 1], np.int64).tobytes(), buffer]
    with tempfile.TemporaryDirectory() as scratch:
        there, back = Path(scratch) / "there", Path(scratch) / "back"
        there.write_bytes(b"".join(words))
        command = [str(compiled(source, checks)), str(there), str(back), order, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, env=plain())
        assert done.returncode == 0, f"{done.returncode}: {done.stderr[:4000]}"
        data = back.read_bytes()
    sizes = [b if isinstance(b, int) else len(getattr(b, "data", b)) for b in buffers]
    ends = np.cumsum(sizes)
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


class Fake:
    """Stands in for ``launch.build``: kernels run by g++'s program, and are written down.

    Attributes:
        order: ``"forward"`` or ``"backward"``, of the threads.
        checks: the sanitizers.
        ran: (kernel, source, arguments) of every launch.
    """

    def __init__(self, order: str = "forward") -> None:
        self.order = order
        self.checks = CHECKS
        self.ran: list[tuple[Kernel, Source, dict[str, Any]]] = []

    def __call__(self, kernel: Kernel, dialect: Dialect) -> Callable[..., list[mx.array]]:
        def call(**arguments: Any) -> list[mx.array]:
            if dialect is METAL:
                source, grid = metal_source(REAL_BUILD(kernel, dialect), arguments)
            else:
                header = dialect.header + kernel.functions
                body = (dialect.grouped if kernel.grouped else dialect.place) + kernel.body
                source = cuda_source(kernel, header, body, arguments)
                grid = [*arguments["grid"], *arguments["threadgroup"]]
            self.ran.append((kernel, source, arguments))
            return self.run(source, grid, arguments)

        return call

    def run(self, source: Source, grid: Sequence[int], arguments: dict[str, Any]) -> list[mx.array]:
        """Run the kernel on what it was launched with."""
        given = [to_bytes(value) for value in arguments["inputs"]]
        outputs = list(zip(arguments["output_shapes"], arguments["output_dtypes"], strict=True))
        sizes = [int(np.prod(shape)) * dtype.size for shape, dtype in outputs]
        cleared = arguments["init_value"] is not None
        empty = [bytes(size) if cleared else size for size in sizes]
        after = execute(source, grid, [*given, *empty], self.order, checks=self.checks)
        assert after[: len(given)] == given, "a kernel wrote to its inputs"
        found = after[len(given) :]
        return [from_bytes(d, *kind) for d, kind in zip(found, outputs, strict=True)]
