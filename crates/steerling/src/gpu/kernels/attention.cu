// Attention of blocks of queries [R, heads, D] over the pages [P, kv_heads, S, D] of their sequences. Nothing is masked but the end:
// a block sees all keys of the blocks before it and its own.

// Of one attention block: its first row, its rows, where its page numbers begin, and its keys.
struct Block {
    u32 row;
    u32 rows;
    u32 pages;
    u32 keys;
};

__device__ inline u64 key_at(const u32 *pages, u32 key, u32 group, u32 kv_heads, u32 page, u32 width) {
    return (((u64)pages[key / page] * kv_heads + group) * page + key % page) * width;
}

// Any type and head: a block of threads for one query and head, keys in turns of as many as there are threads.
template <class T>
__device__ void attend(const T *queries, const T *keys, const T *values, const Block *blocks, const u32 *pages, T *out,
                       u32 heads, u32 kv_heads, u32 width, u32 page) {
    __shared__ float query[256], weights[256];
    Block block = blocks[blockIdx.x / page];
    u32 row = blockIdx.x % page, head = blockIdx.y, group = head / (heads / kv_heads);
    if (row >= block.rows) return;
    u64 at = ((u64)(block.row + row) * heads + head) * width;
    pages += block.pages;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) query[i] = to_float(queries[at + i]);
    float scale = 1 / sqrtf((float)width), largest = -infinity(), total = 0, sum = 0;
    for (u32 first = 0; first < block.keys; first += blockDim.x) {
        u32 turn = block.keys - first < blockDim.x ? block.keys - first : blockDim.x;
        float score = -infinity();
        __syncthreads();
        if (threadIdx.x < turn) {
            const T *key = keys + key_at(pages, first + threadIdx.x, group, kv_heads, page, width);
            float dot = 0;
            for (u32 i = 0; i < width; i++) dot += query[i] * to_float(key[i]);
            score = dot * scale;
        }
        float before = largest;
        largest = fmaxf(largest, block_reduce(score, Max()));
        float weight = threadIdx.x < turn ? expf(score - largest) : 0, shrink = expf(before - largest);
        weights[threadIdx.x] = weight;
        total = total * shrink + block_reduce(weight, Sum());
        sum *= shrink;
        if (threadIdx.x < width)
            for (u32 i = 0; i < turn; i++)
                sum += weights[i] * to_float(values[key_at(pages, first + i, group, kv_heads, page, width) + threadIdx.x]);
    }
    if (threadIdx.x < width) out[at + threadIdx.x] = from_float<T>(sum / total);
}

#define OF_TYPE(T, suffix) \
    KERNEL attend_##suffix(const T *queries, const T *keys, const T *values, const Block *blocks, const u32 *pages, T *out, \
                           u32 heads, u32 kv_heads, u32 width, u32 page) { \
        attend(queries, keys, values, blocks, pages, out, heads, kv_heads, width, page); \
    } \
    EXPORT(attend_##suffix)
OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
#undef OF_TYPE

// Tensor cores, bfloat16.
//
// The fragments of `mma.m16n8k16`, for lane = 4 g + t:
//   A 16 x 16: a[0] rows g, columns 2t and 2t + 1; a[1] rows g + 8; a[2], a[3] the same 8 columns further right.
//   B 16 x 8:  b[0] rows 2t and 2t + 1, column g; b[1] 8 rows further down.
//   C 16 x 8:  c[0], c[1] row g, columns 2t and 2t + 1; c[2], c[3] row g + 8.
#ifndef STEERLING_HOST
__device__ inline void multiply_add(float c[4], const u32 a[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices, transposed: lanes 8 i to 8 i + 7 name the rows of matrix i; r[i] are rows 2t and 2t + 1 of its column g.
__device__ inline void load_transposed(u32 r[4], const bf16 *row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
#endif

__device__ inline u32 pair(float low, float high) {
    return (u32)from_float<bf16>(low).bits | (u32)from_float<bf16>(high).bits << 16;
}

// 64 queries of one head and block a block of four warps, 16 each, over keys [blockIdx.z * per_split ..], 64 at a time; per_split is a
// multiple of 64. With several splits, each writes sums, largest score and total to `parts` [splits, R, heads, D + 2].
template <int D>
__device__ void attend_tiles(const bf16 *queries, const bf16 *keys, const bf16 *values, const Block *blocks,
                             const u32 *pages, bf16 *out, float *parts, u32 heads, u32 kv_heads, u32 page, u32 per_split,
                             u32 all_rows) {
    // Eight numbers more than a row has: neighbouring rows then begin in different memory banks.
    const int KEYS = 64, STRIDE = D + 8, PIECES = D / 8;
    __shared__ __align__(16) bf16 k_tile[KEYS * STRIDE];
    __shared__ __align__(16) bf16 v_tile[KEYS * STRIDE];
    u32 tiles = (page + 63) / 64;
    Block block = blocks[blockIdx.x / tiles];
    u32 first = blockIdx.x % tiles * 64, head = blockIdx.y, group = head / (heads / kv_heads);
    if (first >= block.rows) return;
    pages += block.pages;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 rows[2] = {first + warp * 16 + g, first + warp * 16 + g + 8};

    u32 q[D / 16][4];
    for (int h = 0; h < 2; h++) {
        bool there = rows[h] < block.rows;
        const u32 *query = (const u32 *)(queries + ((u64)(block.row + (there ? rows[h] : 0)) * heads + head) * D);
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            q[i][h] = there ? query[i * 8 + t] : 0;
            q[i][2 + h] = there ? query[i * 8 + 4 + t] : 0;
        }
    }
    float sums[D / 8][4], largest[2] = {-infinity(), -infinity()}, total[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < D / 8; n++)
        for (int c = 0; c < 4; c++) sums[n][c] = 0;
    float scale = 1 / sqrtf((float)D);
    u32 begin = blockIdx.z * per_split, end = begin + per_split < block.keys ? begin + per_split : block.keys;

    for (u32 start = begin; start < end; start += KEYS) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < KEYS * PIECES; i += blockDim.x) {
            u32 key = start + i / PIECES, piece = i % PIECES;
            uint4 k = {0, 0, 0, 0}, v = {0, 0, 0, 0};
            if (key < end) {
                u64 at = key_at(pages, key, group, kv_heads, page, D) + piece * 8;
                k = *(const uint4 *)(keys + at);
                v = *(const uint4 *)(values + at);
            }
            *(uint4 *)(k_tile + i / PIECES * STRIDE + piece * 8) = k;
            *(uint4 *)(v_tile + i / PIECES * STRIDE + piece * 8) = v;
        }
        __syncthreads();

        float scores[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            for (int c = 0; c < 4; c++) scores[n][c] = 0;
            const u32 *row = (const u32 *)(k_tile + (n * 8 + g) * STRIDE);
#pragma unroll
            for (int i = 0; i < D / 16; i++) multiply_add(scores[n], q[i], row[i * 8 + t], row[i * 8 + 4 + t]);
        }

#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = largest[h];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                for (int c = 2 * h; c < 2 * h + 2; c++) {
                    scores[n][c] = start + n * 8 + 2 * t + c % 2 < end ? scores[n][c] * scale : -infinity();
                    most = fmaxf(most, scores[n][c]);
                }
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            float shrink = expf(largest[h] - most), sum = 0;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                for (int c = 2 * h; c < 2 * h + 2; c++) {
                    scores[n][c] = expf(scores[n][c] - most);
                    sum += scores[n][c];
                }
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            total[h] = total[h] * shrink + sum;
            largest[h] = most;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                for (int c = 2 * h; c < 2 * h + 2; c++) sums[n][c] *= shrink;
        }

        // The scores as they lie in C are the fragments of A.
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            u32 weights[4] = {pair(scores[2 * i][0], scores[2 * i][1]), pair(scores[2 * i][2], scores[2 * i][3]),
                              pair(scores[2 * i + 1][0], scores[2 * i + 1][1]),
                              pair(scores[2 * i + 1][2], scores[2 * i + 1][3])};
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                u32 v[4];
                load_transposed(v, v_tile + (i * 16 + lane % 16) * STRIDE + n * 16 + lane / 16 * 8);
                multiply_add(sums[2 * n], weights, v[0], v[1]);
                multiply_add(sums[2 * n + 1], weights, v[2], v[3]);
            }
        }
    }

    for (int h = 0; h < 2; h++) {
        if (rows[h] >= block.rows) continue;
        u64 row = block.row + rows[h];
        if (gridDim.z == 1) {
            u32 *to = (u32 *)(out + (row * heads + head) * D);
#pragma unroll
            for (int n = 0; n < D / 8; n++) to[n * 4 + t] = pair(sums[n][2 * h] / total[h], sums[n][2 * h + 1] / total[h]);
        } else {
            float *to = parts + (((u64)blockIdx.z * all_rows + row) * heads + head) * (D + 2);
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                to[n * 8 + 2 * t] = sums[n][2 * h];
                to[n * 8 + 2 * t + 1] = sums[n][2 * h + 1];
            }
            if (t == 0) {
                to[D] = largest[h];
                to[D + 1] = total[h];
            }
        }
    }
}

#define OF_WIDTH(D) \
    KERNEL attend_tiles_##D(const bf16 *queries, const bf16 *keys, const bf16 *values, const Block *blocks, const u32 *pages, \
                            bf16 *out, float *parts, u32 heads, u32 kv_heads, u32 page, u32 per_split, u32 all_rows) { \
        attend_tiles<D>(queries, keys, values, blocks, pages, out, parts, heads, kv_heads, page, per_split, all_rows); \
    } \
    EXPORT(attend_tiles_##D)
OF_WIDTH(64)
OF_WIDTH(128)
#undef OF_WIDTH

// Puts the splits of a row and head together: one thread a number, one block a row and head.
KERNEL join_splits(const float *parts, bf16 *out, u32 splits, u32 all_rows, u32 heads, u32 width) {
    u64 at = (u64)blockIdx.x * heads + blockIdx.y, stride = (u64)all_rows * heads * (width + 2);
    const float *part = parts + at * (width + 2);
    float most = -infinity(), total = 0, sum = 0;
    for (u32 s = 0; s < splits; s++) most = fmaxf(most, part[s * stride + width]);
    if (threadIdx.x >= width) return;
    for (u32 s = 0; s < splits; s++) {
        float weight = expf(part[s * stride + width] - most);
        total += weight * part[s * stride + width + 1];
        sum += weight * part[s * stride + threadIdx.x];
    }
    out[at * width + threadIdx.x] = from_float<bf16>(sum / total);
}
EXPORT(join_splits)
