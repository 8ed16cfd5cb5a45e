// From logits to tokens: guidance, suppression, penalty and bans; confidence and entropy; the token that is drawn. What
// decides about a row lies in a RowPlan, what comes out of it in a RowResult: numbers of 32 bits, in this order.

struct RowPlan {
    // Row of the model's logits, and under guidance that of the unconditional sequence, else NONE.
    u32 conditional;
    u32 unconditional;
    // What is added to the unconditional logit of the difference of both: scale + 1.
    float strength;
    // Row of the suppression vectors that are subtracted, or NONE.
    u32 suppression;
    // Penalised columns, from .. to, and by what.
    u32 columns_from;
    u32 columns_to;
    float penalty;
    // Columns that become -inf.
    u32 banned[3];
    // 0: largest logit; 1: nucleus at `temperature`; 2: at a temperature between 0.3 and 0.7 that follows the entropy.
    u32 sampling;
    float temperature;
    float top_p;
    // The draw, a number in [0, 1) as 32 + 32 binary places.
    u32 uniform_high;
    u32 uniform_low;
    // Rows of the same sequence; only the `drawn` most confident ones draw a token.
    u32 group_from;
    u32 group_to;
    u32 drawn;
};

struct RowResult {
    float max;
    u32 argmax;
    // NaN if a logit is not a number or +inf.
    float sum_exp;
    float entropy;
    // The drawn token, its logit after all edits, and the model's logit of it (after guidance).
    u32 id;
    float decision_logit;
    float target_logit;
};

template <class T> __device__ inline float guided(const T *logits, const RowPlan &plan, u32 vocab, u32 i) {
    float c = to_float(logits[(u64)plan.conditional * vocab + i]);
    if (plan.unconditional == NONE) return c;
    float u = to_float(logits[(u64)plan.unconditional * vocab + i]);
    return u + plan.strength * (c - u);
}

// Guidance, suppression and bans of every row, [rows, vocab]; blockIdx.y is its part of a row.
template <class T>
__device__ void edit_logits(const T *logits, const RowPlan *plans, const float *suppressions, float *edited, u32 vocab) {
    RowPlan plan = plans[blockIdx.x];
    for (u32 i = blockIdx.y * blockDim.x + threadIdx.x; i < vocab; i += gridDim.y * blockDim.x) {
        float x = guided(logits, plan, vocab, i);
        if (plan.suppression != NONE) x -= suppressions[(u64)plan.suppression * vocab + i];
        if (i == plan.banned[0] || i == plan.banned[1] || i == plan.banned[2]) x = -infinity();
        edited[(u64)blockIdx.x * vocab + i] = x;
    }
}

// The repetition penalty, at each column of a row's list, which names none twice.
KERNEL penalise(const RowPlan *plans, const u32 *columns, float *edited, u32 vocab) {
    RowPlan plan = plans[blockIdx.x];
    for (u32 at = plan.columns_from + threadIdx.x; at < plan.columns_to; at += blockDim.x) {
        float *x = edited + (u64)blockIdx.x * vocab + columns[at];
        *x = *x > 0 ? *x / plan.penalty : *x * plan.penalty;
    }
}
EXPORT(penalise)

KERNEL row_stats(const float *edited, RowResult *results, u32 vocab) {
    const float *row = edited + (u64)blockIdx.x * vocab;
    u64 best = 0;
    u32 broken = 0;
    for (u32 i = threadIdx.x; i < vocab; i += blockDim.x) {
        float x = row[i];
        broken |= !(x < infinity());
        u64 key = (u64)ordered(x) << 32 | (NONE - i);
        best = key > best ? key : best;
    }
    best = block_reduce(best, Max());
    broken = block_reduce(broken, Max());
    u32 argmax = NONE - (u32)best;
    float max = row[argmax], sum = 0, weighted = 0;
    if (max > -infinity()) {
        for (u32 i = threadIdx.x; i < vocab; i += blockDim.x) {
            float below = row[i] - max, weight = expf(below);
            sum += weight;
            // A ban adds nothing, rather than 0 * -inf.
            weighted += weight * fmaxf(below, -1e4f);
        }
    }
    sum = block_reduce(sum, Sum());
    weighted = block_reduce(weighted, Sum());
    if (threadIdx.x == 0) {
        RowResult result = {max, argmax, broken ? __uint_as_float(0x7fc00000u) : sum, fmaxf(logf(sum) - weighted / sum, 0.0f),
                            argmax, max, max};
        results[blockIdx.x] = result;
    }
}
EXPORT(row_stats)

// A probability as a whole number of 2^-40.
__device__ inline u64 fixed(float p) { return (u64)(p * 1099511627776.0f); }

template <class T>
__device__ void draw(const T *logits, const RowPlan *plans, const float *edited, RowResult *results, u32 vocab) {
    RowPlan plan = plans[blockIdx.x];
    RowResult result = results[blockIdx.x];
    // Rows of its sequence that are more confident, earlier ones first among equals.
    u32 surer = 0;
    for (u32 r = plan.group_from + threadIdx.x; r < plan.group_to; r += blockDim.x) {
        float other = results[r].sum_exp;
        surer += other < result.sum_exp || (other == result.sum_exp && r < blockIdx.x);
    }
    surer = block_reduce(surer, Sum());
    if (surer >= plan.drawn || !(result.sum_exp < infinity())) return;
    const float *row = edited + (u64)blockIdx.x * vocab;
    u32 id = result.argmax;
    float max = result.max, temperature = plan.temperature, top_p = plan.top_p;
    auto value = [=](u32 i) { return row[i]; };
    u64 within = (u64)((double)top_p * 1099511627776.0);
    if (plan.sampling == 2) {
        float scale = 1 / result.sum_exp;
        auto mass = [=](u32, float x) { return fixed(expf(x - max) * scale); };
        u32 kept = 1 + find_place(vocab, value, mass, max, 8, within).before;
        float relative = result.entropy / logf((float)(kept > 2 ? kept : 2));
        temperature = 0.3f + 0.4f * fminf(relative, 1.0f);
    }
    if (plan.sampling != 0) {
        float shift = max / temperature, sum = 0;
        for (u32 i = threadIdx.x; i < vocab; i += blockDim.x) sum += expf(row[i] / temperature - shift);
        float scale = 1 / block_reduce(sum, Sum());
        auto mass = [=](u32, float x) { return fixed(expf(x / temperature - shift) * scale); };
        Place last = find_place(vocab, value, mass, max, 8, within);
        double total = (double)(last.mass_before + last.mass);
        double uniform = (plan.uniform_high + plan.uniform_low / 4294967296.0) / 4294967296.0;
        u32 drawn = find_place(vocab, value, mass, max, 8, (u64)(uniform * total)).index;
        id = drawn == NONE ? id : drawn;
    }
    if (threadIdx.x == 0) {
        results[blockIdx.x].id = id;
        results[blockIdx.x].decision_logit = row[id];
        results[blockIdx.x].target_logit = guided(logits, plan, vocab, id);
    }
}

#define OF_TYPE(T, suffix) \
    KERNEL edit_logits_##suffix(const T *logits, const RowPlan *plans, const float *suppressions, float *edited, u32 vocab) { \
        edit_logits(logits, plans, suppressions, edited, vocab); \
    } \
    EXPORT(edit_logits_##suffix) \
    KERNEL draw_##suffix(const T *logits, const RowPlan *plans, const float *edited, RowResult *results, u32 vocab) { \
        draw(logits, plans, edited, results, vocab); \
    } \
    EXPORT(draw_##suffix)
OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
#undef OF_TYPE
