// Choice among the numbers of a long row without sorting it: one block of threads a row.

// Sorts like the float: both zeros are equal, a NaN is above all.
__device__ inline u32 ordered(float x) {
    u32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What stands at a place of a row that is sorted from the largest number down, the first of equals first.
struct Place {
    // Index in the row; NONE if the whole row has not enough mass.
    u32 index;
    // Entries before it.
    u32 before;
    // Their mass, and its own.
    u64 mass_before;
    u64 mass;
};

// Sort key of entry i with value x: at the top a coarse step (256 of them, from `top` down, 1 / steps wide), so that the
// threads of the first pass do not crowd a few exponents; then all bits of the value; then the index, ascending.
__device__ inline u64 sort_key(u32 i, float x, float top, float steps) {
    float below = (top - x) * steps;
    u64 step = below < 255 ? 255 - (u32)below : 0;
    return step << 56 | (u64)ordered(x) << 24 | (0xffffffu - i);
}

// The first entry, in sorted order, at which the masses up to and with it exceed `target`. value(i) and mass(i, x) are asked
// for all i < n < 2^24; masses are whole numbers, so that their sum does not depend on its order. Eight passes at most, a byte
// of the sort key each, until one entry is left.
template <class Value, class Mass>
__device__ Place find_place(u32 n, Value value, Mass mass, float top, float steps, u64 target) {
    __shared__ u64 masses[256];
    __shared__ u32 counts[256];
    __shared__ u64 prefix, mass_before, own;
    __shared__ u32 before, left, found;
    __syncthreads();
    if (threadIdx.x == 0) {
        prefix = 0;
        mass_before = 0;
        before = 0;
    }
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (u32 i = threadIdx.x; i < 256; i += blockDim.x) {
            masses[i] = 0;
            counts[i] = 0;
        }
        __syncthreads();
        u64 chosen = prefix;
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            float x = value(i);
            u64 m = mass(i, x);
            if (m == 0) continue;
            u64 key = sort_key(i, x, top, steps);
            if (shift < 56 && key >> (shift + 8) != chosen) continue;
            atomicAdd(&masses[key >> shift & 255], m);
            atomicAdd(&counts[key >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            // Each lane adds up eight bytes' masses, from byte 255 down, and the warp the lanes'.
            u64 sum = 0;
            u32 count = 0, high = 255 - 8 * threadIdx.x;
            for (u32 b = 0; b < 8; b++) {
                sum += masses[high - b];
                count += counts[high - b];
            }
            u64 sum_to = sum;
            u32 count_to = count;
            for (int offset = 1; offset < 32; offset <<= 1) {
                u64 s = __shfl_up_sync(ALL_LANES, sum_to, offset);
                u32 c = __shfl_up_sync(ALL_LANES, count_to, offset);
                if ((int)threadIdx.x >= offset) {
                    sum_to += s;
                    count_to += c;
                }
            }
            u64 base = mass_before;
            u32 past = __ballot_sync(ALL_LANES, base + sum_to > target);
            if (past == 0) {
                if (threadIdx.x == 31) {
                    left = 0;
                    before += count_to;
                    mass_before = base + sum_to;
                }
            } else if (threadIdx.x == (u32)__ffs(past) - 1) {
                u64 m = base + sum_to - sum;
                u32 c = before + count_to - count, byte = high;
                while (m + masses[byte] <= target) {
                    m += masses[byte];
                    c += counts[byte];
                    byte--;
                }
                mass_before = m;
                before = c;
                own = masses[byte];
                left = counts[byte];
                prefix = chosen << 8 | byte;
            }
        }
        __syncthreads();
        if (left == 0) {
            Place nowhere = {NONE, before, mass_before, 0};
            return nowhere;
        }
        if (left == 1) {
            u64 last = prefix;
            for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
                float x = value(i);
                if (sort_key(i, x, top, steps) >> shift == last && mass(i, x) != 0) found = i;
            }
            break;
        }
    }
    __syncthreads();
    Place place = {found, before, mass_before, own};
    return place;
}

// The k largest of every row [n], the first of equals first: indices and values, in no order. Rows longer than n have `stride`
// numbers. By `sigmoids`, the largest of sigmoid(x), which ties where x does not.
template <class T>
__device__ void top_k(const T *rows, u32 *indices, float *values, u32 n, u32 stride, u32 k, u32 sigmoids, float clamp) {
    __shared__ u32 taken;
    const T *row = rows + (u64)blockIdx.x * stride;
    auto number = [=](u32 i) { return fminf(fmaxf(to_float(row[i]), -clamp), clamp); };
    auto value = [=](u32 i) {
        float z = number(i);
        return sigmoids ? 1 / (1 + expf(-z)) : z;
    };
    float top = -infinity(), low = infinity();
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        top = fmaxf(top, value(i));
        low = fminf(low, value(i));
    }
    top = block_reduce(top, Max());
    low = -block_reduce(-low, Max());
    float steps = top > low ? 255 / (top - low) : 1;
    Place last = find_place(n, value, [](u32, float) { return (u64)1; }, top, steps, k - 1);
    if (threadIdx.x == 0) taken = 0;
    __syncthreads();
    u64 least = last.index == NONE ? 0 : sort_key(last.index, value(last.index), top, steps);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        if (sort_key(i, value(i), top, steps) < least) continue;
        u32 at = atomicAdd(&taken, 1u);
        indices[(u64)blockIdx.x * k + at] = i;
        values[(u64)blockIdx.x * k + at] = number(i);
    }
}

#define OF_TYPE(T, suffix) \
    KERNEL top_k_##suffix(const T *rows, u32 *indices, float *values, u32 n, u32 stride, u32 k, u32 sigmoids, float clamp) { \
        top_k(rows, indices, values, n, stride, k, sigmoids, clamp); \
    } \
    EXPORT(top_k_##suffix)
OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
#undef OF_TYPE
