// Runs a kernel over its whole grid: program INPUT OUTPUT forward|backward THREADS.
// INPUT: the grid and the group (6 integers), the number of buffers, then of each its bytes and what
// follows: 0 nothing, 1 all of it, 2 an offset, a length and a part of it. A buffer of which nothing
// is given holds ones in every bit, as memory that was not cleared may; one of a part is zero
// elsewhere and takes no memory there. OUTPUT: all buffers, of a part the same part.
struct Buffer {
    int64_t size, offset, length;
    char* data;
};

static int64_t number(FILE* file) {
    int64_t value;
    if (fread(&value, 8, 1, file) != 1) abort();
    return value;
}

static Buffer load(FILE* file) {
    Buffer buffer = {number(file), 0, 0, nullptr};
    const int64_t given = number(file);
    buffer.length = buffer.size;
    if (given == 2) {
        buffer.offset = number(file);
        buffer.length = number(file);
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* memory = mmap(nullptr, buffer.size, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) abort();
        buffer.data = static_cast<char*>(memory);
    } else {  // of exactly its size, so that the sanitizer sees its end
        buffer.data = static_cast<char*>(malloc(buffer.size));
        memset(buffer.data, 0xFF, buffer.size);
    }
    if (given) {
        const size_t length = buffer.length;
        if (fread(buffer.data + buffer.offset, 1, length, file) != length) abort();
    }
    return buffer;
}

int main(int, char** arguments) {
    FILE* file = fopen(arguments[1], "rb");
    Grid grid;
    for (unsigned* v : {&grid.x, &grid.y, &grid.z, &grid.tx, &grid.ty, &grid.tz}) *v = number(file);
    std::vector<Buffer> buffers;
    std::vector<void*> pointers;
    for (int64_t count = number(file); count > 0; count--) {
        buffers.push_back(load(file));
        pointers.push_back(buffers.back().data);
    }
    fclose(file);
    run(pointers.data(), grid, arguments[3][0] == 'b', atoll(arguments[4]));
    file = fopen(arguments[2], "wb");
    for (const Buffer& b : buffers) fwrite(b.data + b.offset, 1, b.length, file);
    return fclose(file);
}
