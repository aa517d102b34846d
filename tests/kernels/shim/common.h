#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// The upper half of a float32, rounded to the nearest, to the even of two.
struct Bfloat16 {
    uint16_t bits;
    Bfloat16() {}
    explicit Bfloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        bits = value != value ? 0x7FC0 : uint16_t((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16);
    }
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
};
