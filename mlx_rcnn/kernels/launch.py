"""Whether kernels run, and how one is compiled and launched."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import mlx.core as mx

from .dialects import CUDA, METAL, Dialect
from .plain import plain

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
    """A kernel of any dialect."""

    name: str  # of its own, as compiled kernels are kept by name
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    functions: str  # what the body calls
    body: str  # the text, in the words of :mod:`.dialects`
    atomic: bool = False  # whether the outputs are added to by many threads; then they are float32
    grouped: bool = False  # whether threads work in groups, and wait for each other


def switch() -> str:
    """The environment's say: ``"0"`` no kernels, ``"1"`` (default) or ``"deterministic"``."""
    value = os.environ.get(SWITCH) or ON
    if value not in (OFF, ON, DETERMINISTIC):
        raise ValueError(f"{SWITCH}={value!r}: expected {OFF}, {ON} or {DETERMINISTIC}")
    return value


_FIXED = ContextVar("fixed", default=False)


@contextmanager
def fixed_order(wanted: bool = True) -> Iterator[None]:
    """Have gradients that are traced inside the block summed in a fixed order, without atomics."""
    before = _FIXED.set(wanted or _FIXED.get())  # ``wanted=False`` leaves it as it is outside
    try:
        yield
    finally:
        _FIXED.reset(before)


def in_fixed_order() -> bool:
    """Whether a block of :func:`fixed_order` or the environment asks for it."""
    return _FIXED.get() or switch() == DETERMINISTIC


def adds_by_atomics() -> bool:
    """Whether what is added at indices is so in no order: on a GPU, where no other is asked for."""
    return mx.default_device().type == mx.DeviceType.gpu and not in_fixed_order()


@contextmanager
def adding_in_order() -> Iterator[None]:
    """Have what the block scatters, or gathers with a gradient, add up in a fixed order."""
    # A GPU adds by atomics, in no order. Where :func:`in_fixed_order` holds, the operations of the
    # block are put on the CPU, which shares the memory and goes through the indices one by one.
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    with mx.stream(mx.cpu) if on_gpu and in_fixed_order() else nullcontext():
        yield


def backend() -> Dialect | None:
    """The dialect that MLX's default device runs, or None: a CPU, or kernels are not wanted."""
    if plain() or switch() == OFF or mx.default_device().type != mx.DeviceType.gpu:
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
        "source": (dialect.grouped if kernel.grouped else dialect.place) + kernel.body,
    }
    if dialect is METAL:
        return mx.fast.metal_kernel(**names, atomic_outputs=kernel.atomic)
    return mx.fast.cuda_kernel(**names)


class Layout(NamedTuple):
    """Threads of a launch and of each of its groups, both (x, y, z)."""

    grid: tuple[int, int, int]
    group: tuple[int, int, int]


def rows(lanes: int, count: int) -> Layout:
    """Threads that work alone: ``lanes`` along x, ``count`` rows along y, both at least 1."""
    across = min(lanes, _LANES)
    down = min(_GROUP // across, count)
    # a thread takes several rows where there are too many
    return Layout((lanes, min(count, _ROW_GROUPS * down), 1), (across, down, 1))


def groups(threads: int, count: int) -> Layout:
    """So many groups of threads that work together."""
    return Layout((threads * count, 1, 1), (threads, 1, 1))


def launch(
    kernel: Kernel,
    dialect: Dialect,
    inputs: Sequence[mx.array],
    shapes: Sequence[tuple[int, ...]],
    dtype: mx.Dtype,
    template: Template,
    layout: Layout,
) -> list[mx.array]:
    """Run a kernel on inputs in the order of its names, and give its unevaluated outputs."""
    outputs = build(kernel, dialect)(
        inputs=list(inputs),
        template=list(template),  # what is known when it is compiled
        grid=layout.grid,
        threadgroup=layout.group,
        output_shapes=list(shapes),
        output_dtypes=[dtype] * len(shapes),
        init_value=0 if kernel.atomic else None,  # float32 then
    )
    return cast("list[mx.array]", outputs)
