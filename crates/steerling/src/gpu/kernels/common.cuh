// What all kernels share. They need no header: NVRTC compiles them on a machine with a GPU, and a C++ compiler with
// tests/gpu/host.h, which runs a block's threads one after the other, in the tests.
//
// Rows are contiguous. A kernel's name ends in the type of its activations; sums are float32.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef STEERLING_HOST
#define KERNEL extern "C" __global__ void
// Kernels are found by their names.
#define EXPORT(name)
#endif

#define NONE 0xffffffffu
#define ALL_LANES 0xffffffffu

struct bf16 {
    u16 bits;
};

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <class T> __device__ T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
// To nearest, ties to even; a NaN stays one.
template <> __device__ inline bf16 from_float<bf16>(float x) {
    u32 bits = __float_as_uint(x);
    bf16 y;
    y.bits = (bits & 0x7fffffffu) > 0x7f800000u ? (u16)(bits >> 16 | 0x40) : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    return y;
}

// x as the type holds it.
template <class T> __device__ inline float rounded(float x) { return to_float(from_float<T>(x)); }

struct Sum {
    template <class V> __device__ V operator()(V a, V b) const { return a + b; }
};
struct Max {
    template <class V> __device__ V operator()(V a, V b) const { return a > b ? a : b; }
};

#ifndef STEERLING_HOST
template <class V, class Op> __device__ inline V warp_reduce(V v, Op op) {
    for (int offset = 16; offset > 0; offset >>= 1) v = op(v, __shfl_xor_sync(ALL_LANES, v, offset));
    return v;
}
#endif

// The same value for all threads of the block, combined in the same order always. The block is made of whole warps. What the threads
// wrote to shared memory before is seen by all of them after.
template <class V, class Op> __device__ inline V block_reduce(V v, Op op) {
    __shared__ V of_warp[32];
    v = warp_reduce(v, op);
    __syncthreads();
    if (blockDim.x == 32) return v;
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = of_warp[0];
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) v = op(v, of_warp[warp]);
    return v;
}
