"""Metal and CUDA as two sets of macros around one text of arithmetic.

A kernel's text is written once, in what C++, Metal and CUDA share. What they do not share goes by
these names: ``RCNN_FN`` before a function; ``RCNN_IN`` and ``RCNN_OUT`` before what a pointer
points to; ``RCNN_SUM``, an output that many threads add to, and ``RCNN_ADD(pointer, index, value)``
for the addition; ``RCNN_MUL``, a product that is rounded before it is added, and ``RCNN_FMA``, one
that is not; ``RCNN_SQRT``, ``RCNN_FLOOR``, ``RCNN_CEIL``; and ``rcnn_long``, 64 bits. A body finds
its place in ``lane``, ``first_row`` and ``row_step``. In a body whose threads work in groups it is
``thread_id`` of ``threads`` in ``group``; they share what is declared ``RCNN_SHARED``, and wait for
each other at ``RCNN_BARRIER``, which all must reach.
"""

from __future__ import annotations

from typing import NamedTuple


class Dialect(NamedTuple):
    """A language that kernels are compiled as."""

    name: str  # ``"metal"`` or ``"cuda"``
    header: str  # macros, put before the kernel's functions
    place: str  # first lines of a body: which lane and rows a thread works on
    grouped: str  # likewise where threads work in groups


# Contraction is off, as whether a sample lies inside the map must not depend on the compiler; the
# pragma came with Metal 3.2.
METAL = Dialect(
    "metal",
    """
#if __METAL_VERSION__ >= 320
#pragma METAL fp contract(off)
#endif
#define RCNN_FN inline
#define RCNN_IN const device
#define RCNN_OUT device
#define RCNN_SUM device atomic<float>
#define RCNN_ADD(pointer, index, value) \\
    atomic_fetch_add_explicit((pointer) + (index), (value), memory_order_relaxed)
#define RCNN_MUL(a, b) ((a) * (b))
#define RCNN_FMA(a, b, c) metal::fma(a, b, c)
#define RCNN_SQRT(a) metal::precise::sqrt(a)
#define RCNN_FLOOR(a) metal::floor(a)
#define RCNN_CEIL(a) metal::ceil(a)
#define RCNN_SHARED threadgroup
#define RCNN_BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
typedef long rcnn_long;
""",
    """
    const unsigned lane = thread_position_in_grid.x;
    const unsigned first_row = thread_position_in_grid.y;
    const unsigned row_step = threads_per_grid.y;
""",
    """
    const unsigned thread_id = thread_position_in_threadgroup.x;
    const unsigned threads = threads_per_threadgroup.x;
    const unsigned group = threadgroup_position_in_grid.x;
""",
)

# MLX rounds a CUDA grid up to whole blocks: a body must leave lanes beyond the last one alone.
CUDA = Dialect(
    "cuda",
    """
#define RCNN_FN __device__ inline
#define RCNN_IN const
#define RCNN_OUT
#define RCNN_SUM float
#define RCNN_ADD(pointer, index, value) atomicAdd((pointer) + (index), (value))
#define RCNN_MUL(a, b) __fmul_rn(a, b)
#define RCNN_FMA(a, b, c) __fmaf_rn(a, b, c)
#define RCNN_SQRT(a) __fsqrt_rn(a)
#define RCNN_FLOOR(a) floorf(a)
#define RCNN_CEIL(a) ceilf(a)
#define RCNN_SHARED __shared__
#define RCNN_BARRIER __syncthreads()
typedef long long rcnn_long;
""",
    """
    const unsigned lane = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned first_row = blockIdx.y * blockDim.y + threadIdx.y;
    const unsigned row_step = gridDim.y * blockDim.y;
""",
    """
    const unsigned thread_id = threadIdx.x;
    const unsigned threads = blockDim.x;
    const unsigned group = blockIdx.x;
""",
)
