// From the joint projection to queries, and to keys and values in their pages: one warp a head.

struct QkvShape {
    u32 heads;
    u32 kv_heads;
    u32 head_dim;
    u32 page;
};

// qkv [R, (heads + 2 kv_heads) head_dim] -> queries [R, heads, head_dim] and the rows places[r] = page * S + slot of the
// pools [P, kv_heads, S, head_dim]; rows without a place (NONE) are padding, whose keys go nowhere. Clamped to +-clip, normed where
// there are weights [head_dim], rotated where there are tables [context, head_dim / 2].
template <class T>
__device__ void qkv_prepare(const T *qkv, const float *q_weight, const float *k_weight, const float *cosines,
                            const float *sines, const u32 *positions, const u32 *places, T *queries, T *keys, T *values,
                            QkvShape shape, float clip, float eps) {
    u32 row = blockIdx.x, lane = threadIdx.x % 32;
    u32 head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    u32 width = shape.head_dim, all = shape.heads + 2 * shape.kv_heads;
    if (head >= all) return;
    const T *in = qkv + ((u64)row * all + head) * width;
    float limit = rounded<T>(clip);
    bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.kv_heads;
    T *out;
    if (is_query) {
        out = queries + ((u64)row * shape.heads + head) * width;
    } else {
        if (places[row] == NONE) return;
        u32 group = (head - shape.heads) % shape.kv_heads, page = places[row] / shape.page, slot = places[row] % shape.page;
        out = (is_value ? values : keys) + (((u64)page * shape.kv_heads + group) * shape.page + slot) * width;
    }
    const float *weight = is_value ? 0 : is_query ? q_weight : k_weight;
    float scale = 1;
    if (weight) {
        float squares = 0;
        for (u32 i = lane; i < width; i += 32) {
            float x = fminf(fmaxf(to_float(in[i]), -limit), limit);
            squares += x * x;
        }
        scale = 1 / sqrtf(warp_reduce(squares, Sum()) / width + eps);
    }
    bool rotates = cosines && !is_value;
    u32 half = width / 2;
    for (u32 i = lane; i < (rotates ? half : width); i += 32) {
        float x = fminf(fmaxf(to_float(in[i]), -limit), limit);
        if (weight) x = rounded<T>(x * scale * weight[i]);
        if (!rotates) {
            out[i] = from_float<T>(x);
            continue;
        }
        float y = fminf(fmaxf(to_float(in[half + i]), -limit), limit);
        if (weight) y = rounded<T>(y * scale * weight[half + i]);
        float c = cosines[(u64)positions[row] * half + i], s = sines[(u64)positions[row] * half + i];
        out[i] = from_float<T>(x * c - y * s);
        out[half + i] = from_float<T>(y * c + x * s);
    }
}

#define OF_TYPE(T, suffix) \
    KERNEL qkv_prepare_##suffix(const T *qkv, const float *q_weight, const float *k_weight, const float *cosines, \
                                const float *sines, const u32 *positions, const u32 *places, T *queries, T *keys, \
                                T *values, u32 heads, u32 kv_heads, u32 head_dim, u32 page, float clip, float eps) { \
        QkvShape shape = {heads, kv_heads, head_dim, page}; \
        qkv_prepare(qkv, q_weight, k_weight, cosines, sines, positions, places, queries, keys, values, shape, clip, eps); \
    } \
    EXPORT(qkv_prepare_##suffix)
OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
#undef OF_TYPE
