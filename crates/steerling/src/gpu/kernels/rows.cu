// Work on rows of the residual stream: one block of threads a row.

// out[r] = table[ids[r]]; table [.., width].
template <class T> __device__ void gather_rows(const T *table, const u32 *ids, T *out, u32 width) {
    const T *row = table + (u64)ids[blockIdx.x] * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[(u64)blockIdx.x * width + i] = row[i];
}

// x / sqrt(mean(x^2) + eps) * weight, rounded; with a residual, that plus the residual.
template <class T>
__device__ void rms_norm(const T *x, const float *weight, const T *residual, T *out, u32 width, float eps) {
    u64 first = (u64)blockIdx.x * width;
    float squares = 0;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float v = to_float(x[first + i]);
        squares += v * v;
    }
    float scale = 1 / sqrtf(block_reduce(squares, Sum()) / width + eps);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float y = rounded<T>(to_float(x[first + i]) * scale * weight[i]);
        out[first + i] = from_float<T>(residual ? to_float(residual[first + i]) + y : y);
    }
}

// silu(gate) * up for rows of [up, gate], 2 width long.
template <class T> __device__ void swiglu(const T *x, T *out, u32 width) {
    const T *up = x + (u64)blockIdx.x * 2 * width;
    const T *gate = up + width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float z = to_float(gate[i]);
        out[(u64)blockIdx.x * width + i] = from_float<T>(rounded<T>(z / (1 + expf(-z))) * to_float(up[i]));
    }
}

// x[rows[r]] += vector.
KERNEL add_to_rows(float *x, const float *vector, const u32 *rows, u32 width) {
    float *row = x + (u64)rows[blockIdx.x] * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) row[i] += vector[i];
}
EXPORT(add_to_rows)

#define OF_TYPE(T, suffix) \
    KERNEL gather_rows_##suffix(const T *table, const u32 *ids, T *out, u32 width) { gather_rows(table, ids, out, width); } \
    EXPORT(gather_rows_##suffix) \
    KERNEL rms_norm_##suffix(const T *x, const float *weight, const T *residual, T *out, u32 width, float eps) { \
        rms_norm(x, weight, residual, out, width, eps); \
    } \
    EXPORT(rms_norm_##suffix) \
    KERNEL swiglu_##suffix(const T *x, T *out, u32 width) { swiglu(x, out, width); } \
    EXPORT(swiglu_##suffix)
OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
#undef OF_TYPE
