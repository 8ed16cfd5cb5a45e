
// Runs a kernel; says what is wrong, or nothing.
extern "C" const char *run_kernel(const char *name, const unsigned grid[3], unsigned threads, void **args, unsigned count) {
    static_assert(sizeof(void *) == 8, "pointers of 64 bits, as on the device");
    if (threads == 0 || threads % 32 != 0 || threads > 1024) return "a block is 32 to 1024 threads, whole warps";
    for (const host::Kernel &kernel : host::kernels()) {
        if (strcmp(kernel.name, name) != 0) continue;
        if (kernel.parameters != count) return "another number of arguments than the kernel has parameters";
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {threads, 1, 1};
        host::body = [](void *kernel_and_args) {
            void **both = (void **)kernel_and_args;
            ((host::Kernel *)both[0])->call((void **)both[1]);
        };
        void *both[2] = {(void *)&kernel, args};
        host::body_args = both;
        for (unsigned z = 0; z < grid[2]; z++)
            for (unsigned y = 0; y < grid[1]; y++)
                for (unsigned x = 0; x < grid[0]; x++) {
                    blockIdx = {x, y, z};
                    host::run_block(threads);
                }
        return nullptr;
    }
    return "no such kernel";
}
