// As much of Metal's language as the kernels use, for g++; one thread after the other.
#include "common.h"
typedef unsigned uint;
#ifdef SPACES  // clang then refuses a pointer that leaves the memory it belongs to
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup static __attribute__((address_space(3)))
enum class mem_flags { mem_threadgroup };
inline void threadgroup_barrier(mem_flags) {}
#else
#define device
#define constant
#endif
#define kernel
#define __METAL_VERSION__ 320
struct uint3 {
    uint x, y, z;
};
typedef _Float16 float16_t;
typedef Bfloat16 bfloat16_t;
enum memory_order { memory_order_relaxed };
template <typename T>
struct atomic {  // no conversions: an output of atomics cannot be read or written otherwise
    T held;
};
inline float atomic_fetch_add_explicit(device atomic<float>* at, float value, memory_order) {
    const float old = at->held;
    at->held = old + value;
    return old;
}
inline uint atomic_fetch_or_explicit(device atomic<uint>* at, uint value, memory_order) {
    const uint old = at->held;
    at->held = old | value;
    return old;
}
namespace metal {
inline float floor(float a) { return std::floor(a); }
inline float ceil(float a) { return std::ceil(a); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
namespace precise {
inline float sqrt(float a) { return std::sqrt(a); }
}
}  // namespace metal
