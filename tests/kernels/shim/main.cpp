// Runs a kernel over its whole grid: program INPUT OUTPUT forward|backward.
// INPUT: the grid and the group (6 integers), the number of buffers, then of each its bytes, whether
// data follows, and the data. A buffer without data holds ones in every bit before the kernel runs,
// as memory that was not cleared may. OUTPUT: all buffers.
#include <cstdio>
#include <cstdlib>
#include <vector>

static int64_t number(FILE* file) {
    int64_t value;
    if (fread(&value, 8, 1, file) != 1) abort();
    return value;
}

int main(int, char** arguments) {
    FILE* file = fopen(arguments[1], "rb");
    Grid grid;
    for (unsigned* v : {&grid.x, &grid.y, &grid.z, &grid.tx, &grid.ty, &grid.tz}) *v = number(file);
    std::vector<void*> buffers(number(file));
    std::vector<int64_t> sizes;
    for (void*& buffer : buffers) {  // of exactly its size, so that the sanitizer sees its end
        sizes.push_back(number(file));
        const bool given = number(file);
        buffer = malloc(sizes.back());
        memset(buffer, 0xFF, sizes.back());
        if (given && fread(buffer, 1, sizes.back(), file) != size_t(sizes.back())) abort();
    }
    fclose(file);
    run(buffers.data(), grid, arguments[3][0] == 'b');
    file = fopen(arguments[2], "wb");
    for (size_t i = 0; i < buffers.size(); i++) {
        fwrite(buffers[i], 1, sizes[i], file);
        free(buffers[i]);
    }
    return fclose(file);
}
