"""Whether kernels run, and how one is compiled and launched."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import mlx.core as mx

from .dialects import CUDA, METAL, Dialect

SWITCH = "MLX_RCNN_KERNELS"
OFF, ON, DETERMINISTIC = "0", "1", "deterministic"

# Threads of a group, and of these the lanes at most.
_GROUP, _LANES = 256, 64
# Groups of rows that CUDA takes at most; each thread then goes on to further rows.
_ROW_GROUPS = 65535
# An input of fewer elements lies in Metal's constant memory, where no `device` pointer reaches.
LEAST = 8

Template = Sequence[tuple[str, int | bool | mx.Dtype]]


class Kernel(NamedTuple):
    """A kernel of any dialect.

    Attributes:
        name: of its own, as compiled kernels are kept by name.
        inputs: names of the inputs.
        outputs: names of the outputs.
        functions: what the body calls.
        body: the text, in the words of :mod:`.dialects`.
        atomic: whether the outputs are added to by many threads; then they are float32.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    functions: str
    body: str
    atomic: bool = False


def switch() -> str:
    """The environment's say: ``"0"`` no kernels, ``"1"`` (default) or ``"deterministic"``.

    Raises:
        ValueError: it says anything else.
    """
    value = os.environ.get(SWITCH) or ON
    if value not in (OFF, ON, DETERMINISTIC):
        raise ValueError(f"{SWITCH}={value!r}: expected {OFF}, {ON} or {DETERMINISTIC}")
    return value


def backend() -> Dialect | None:
    """The dialect that MLX's default device runs, or None: a CPU, or kernels are switched off."""
    if switch() == OFF or mx.default_device().type != mx.DeviceType.gpu:
        return None
    if mx.metal.is_available():
        return METAL
    cuda = getattr(mx, "cuda", None)
    return CUDA if cuda is not None and cuda.is_available() else None


@functools.cache
def build(kernel: Kernel, dialect: Dialect) -> Any:
    """MLX's kernel object, made once; it compiles when it first runs."""
    names: dict[str, Any] = {
        "name": kernel.name,
        "input_names": list(kernel.inputs),
        "output_names": list(kernel.outputs),
        "header": dialect.header + kernel.functions,
        "source": dialect.place + kernel.body,
    }
    if dialect is METAL:
        return mx.fast.metal_kernel(**names, atomic_outputs=kernel.atomic)
    return mx.fast.cuda_kernel(**names)


def layout(lanes: int, rows: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and group, both in threads (x: lanes, y: rows), for this many lanes and rows."""
    across = min(lanes, _LANES)
    down = min(_GROUP // across, rows)
    return (lanes, min(rows, _ROW_GROUPS * down), 1), (across, down, 1)


def launch(
    kernel: Kernel,
    dialect: Dialect,
    inputs: Sequence[mx.array],
    shapes: Sequence[tuple[int, ...]],
    dtype: mx.Dtype,
    template: Template,
    lanes: int,
    rows: int,
) -> list[mx.array]:
    """Run a kernel.

    Args:
        kernel: what to run.
        dialect: what to compile it as, :func:`backend`'s.
        inputs: in the order of the kernel's names.
        shapes: of the outputs.
        dtype: of the outputs; with ``atomic`` float32, and they start as zeros.
        template: what is known when it is compiled.
        lanes: threads along x, at least 1.
        rows: of work, at least 1; a thread takes several where there are too many.

    Returns:
        The outputs, unevaluated.
    """
    grid, group = layout(lanes, rows)
    outputs = build(kernel, dialect)(
        inputs=list(inputs),
        template=list(template),
        grid=grid,
        threadgroup=group,
        output_shapes=list(shapes),
        output_dtypes=[dtype] * len(shapes),
        init_value=0 if kernel.atomic else None,
    )
    return cast("list[mx.array]", outputs)
