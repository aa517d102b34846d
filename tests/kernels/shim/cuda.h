// As much of CUDA's language as the kernels use, for g++; one thread after the other.
#include "common.h"
#define __global__
#define __device__
struct dim3 {
    unsigned x, y, z;
};
static thread_local dim3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
typedef _Float16 __half;
typedef Bfloat16 __nv_bfloat16;
inline float atomicAdd(float* at, float value) {
    const float old = *at;
    *at = old + value;
    return old;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
namespace cooperative_groups {}
