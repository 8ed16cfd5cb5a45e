// Runs kernels on the host. The threads of a block are coroutines on one thread of the system: each runs until it waits for
// others (a barrier, a warp's exchange) and hands over to the next, so that every run is the same. Blocks run one by one,
// which is why a kernel's shared memory may be static.

#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define STEERLING_HOST
#define __device__
#define __shared__ static
#define __align__(n)

struct Dim {
    unsigned x, y, z;
};
static Dim gridDim, blockDim, blockIdx;

namespace host {

// Threads that meet at a place, and how often they have.
struct Meeting {
    unsigned arrived = 0, rounds = 0;
};

struct Thread {
    Dim index;
    bool started = false;
    jmp_buf here;
};

// Of a block, and the bytes of a thread's stack: not a power of two, so that stacks do not share lines of the cache.
const unsigned MOST = 1024;
const size_t STACK = (32 << 10) + 832;
static std::vector<Thread> threads;
// Which of them have come to their end in this block.
static bool done[MOST];
static std::vector<char> stacks;
static std::vector<Meeting> warps;
static std::vector<uint64_t> slots;
static Meeting block;
static unsigned size, current, live, idle;
static ucontext_t outside;
static jmp_buf back;
static void (*body)(void *);
static void *body_args;

static void enter();

static void resume(unsigned next) {
    current = next;
    Thread &thread = threads[next];
    if (thread.started) _longjmp(thread.here, 1);
    thread.started = true;
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = &stacks[next * STACK];
    start.uc_stack.ss_size = STACK;
    start.uc_link = &outside;
    makecontext(&start, enter, 0);
    setcontext(&start);
}

// The next thread that has not ended, in a circle, those of the same warp first.
static unsigned following(bool in_warp) {
    unsigned first = current / 32 * 32;
    if (in_warp)
        for (unsigned i = 1; i < 32; i++) {
            unsigned at = first + (current + i) % 32;
            if (!done[at]) return at;
        }
    for (unsigned at = current + 1; at < size; at++)
        if (!done[at]) return at;
    for (unsigned at = 0; at < current; at++)
        if (!done[at]) return at;
    return current;
}

static void yield(bool in_warp) {
    // A full circle in which nobody gets on is a kernel whose threads wait for different things.
    if (++idle > 4 * size + 64) {
        fprintf(stderr, "the threads of a block wait for each other at different places\n");
        abort();
    }
    unsigned next = following(in_warp);
    if (next == current) return;
    if (_setjmp(threads[current].here) == 0) resume(next);
}

static void meet(Meeting &meeting, unsigned all, bool in_warp) {
    unsigned round = meeting.rounds;
    idle = 0;
    if (++meeting.arrived == all) {
        meeting.arrived = 0;
        meeting.rounds++;
        return;
    }
    while (meeting.rounds == round) {
        // A warp whose other lanes wait elsewhere lets other warps run.
        static unsigned turns = 0;
        yield(in_warp && ++turns % 64 != 0);
    }
}

// A thread's life: the kernel, once for every block.
static void enter() {
    for (;;) {
        body(body_args);
        done[current] = true;
        live--;
        idle = 0;
        if (block.arrived > 0 && block.arrived == live) {
            block.arrived = 0;
            block.rounds++;
        }
        if (_setjmp(threads[current].here) != 0) continue;
        if (live == 0) _longjmp(back, 1);
        resume(following(false));
    }
}

static void run_block(unsigned n) {
    if (stacks.empty()) {
        stacks.resize(MOST * STACK);
        threads.resize(MOST);
        slots.resize(2 * 4 * MOST);
    }
    size = n;
    warps.assign(n / 32, Meeting());
    for (unsigned i = 0; i < n; i++) {
        threads[i].index = {i, 0, 0};
        done[i] = false;
    }
    block = Meeting();
    live = n;
    idle = 0;
    if (_setjmp(back) == 0) resume(0);
}

static void meet_warp() { meet(warps[current / 32], 32, true); }

// Each lane shows a value to its warp and takes what `take` finds among the 32.
template <class V, class Take> static auto exchange(V value, Take take) {
    static_assert(sizeof(V) <= 4 * sizeof(uint64_t), "a value fits its slot");
    // Two slots in turn: no lane can be two exchanges ahead of another.
    unsigned turn = warps[current / 32].rounds % 2;
    uint64_t *mine = &slots[turn * 4 * MOST];
    memcpy(mine + current * 4, &value, sizeof(V));
    meet_warp();
    unsigned first = current / 32 * 32;
    return take([first, mine](unsigned lane) {
        V v;
        memcpy(&v, mine + (first + lane) * 4, sizeof(V));
        return v;
    });
}

static unsigned lane() { return current % 32; }

typedef void (*Call)(void **);
struct Kernel {
    const char *name;
    Call call;
    unsigned parameters;
};
static std::vector<Kernel> &kernels() {
    static std::vector<Kernel> all;
    return all;
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*(A *)args[I]...);
}
template <class... A> void call(void (*kernel)(A...), void **args) {
    call(kernel, args, std::index_sequence_for<A...>());
}
template <class... A> constexpr unsigned parameters(void (*)(A...)) { return sizeof...(A); }
struct Registration {
    Registration(const char *name, Call call, unsigned parameters) { kernels().push_back({name, call, parameters}); }
};

} // namespace host

#define threadIdx (host::threads[host::current].index)
#define KERNEL static void
#define EXPORT(name) \
    static host::Registration registration_##name(#name, [](void **args) { host::call(name, args); }, \
                                                     host::parameters(name));

static void __syncthreads() { host::meet(host::block, host::live, false); }
template <class V> static V __shfl_xor_sync(unsigned, V v, int mask) {
    return host::exchange(v, [mask](auto of) { return of(host::lane() ^ mask); });
}
template <class V> static V __shfl_up_sync(unsigned, V v, unsigned by) {
    return host::exchange(v, [by](auto of) { return of(host::lane() < by ? host::lane() : host::lane() - by); });
}
// The kernels' `warp_reduce`, in one exchange instead of five.
template <class V, class Op> static V warp_reduce(V v, Op op) {
    return host::exchange(v, [op](auto of) {
        V values[32];
        for (unsigned lane = 0; lane < 32; lane++) values[lane] = of(lane);
        for (unsigned offset = 16; offset > 0; offset >>= 1) {
            V next[32];
            for (unsigned lane = 0; lane < 32; lane++) next[lane] = op(values[lane], values[lane ^ offset]);
            memcpy(values, next, sizeof next);
        }
        return values[host::lane()];
    });
}
static unsigned __ballot_sync(unsigned, int holds) {
    return host::exchange(holds != 0, [](auto of) {
        unsigned bits = 0;
        for (unsigned lane = 0; lane < 32; lane++) bits |= (unsigned)of(lane) << lane;
        return bits;
    });
}
static int __ffs(unsigned bits) { return __builtin_ffs((int)bits); }
template <class V> static V atomicAdd(V *at, V by) {
    V before = *at;
    *at += by;
    return before;
}
static float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
struct uint4 {
    unsigned x, y, z, w;
};

// mma.m16n8k16 and ldmatrix.x4.trans, by the layouts of PTX: lane = 4 g + t.
struct bf16;
static float bf16_at(unsigned pair, unsigned half) { return __uint_as_float((half ? pair >> 16 : pair & 0xffff) << 16); }

static void multiply_add(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    struct Fragments {
        unsigned a[4], b[2];
    } mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    struct Four {
        float c[4];
    };
    Four sums = host::exchange(mine, [&](auto of) {
        Four sums;
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = host::lane() / 4 + i / 2 * 8, column = host::lane() % 4 * 2 + i % 2;
            float sum = c[i];
            for (unsigned k = 0; k < 16; k++) {
                unsigned of_a = row / 8 + k / 8 * 2;
                float x = bf16_at(of(row % 8 * 4 + k % 8 / 2).a[of_a], k % 2);
                float y = bf16_at(of(column * 4 + k % 8 / 2).b[k / 8], k % 2);
                sum += x * y;
            }
            sums.c[i] = sum;
        }
        return sums;
    });
    memcpy(c, sums.c, sizeof sums.c);
}

static void load_transposed(unsigned r[4], const bf16 *row) {
    struct Four {
        unsigned r[4];
    };
    Four loaded = host::exchange(row, [](auto of) {
        Four loaded;
        for (unsigned i = 0; i < 4; i++) {
            unsigned column = host::lane() / 4, first = host::lane() % 4 * 2;
            auto number = [&](unsigned at) { return (unsigned)((const uint16_t *)of(i * 8 + at))[column]; };
            loaded.r[i] = number(first) | number(first + 1) << 16;
        }
        return loaded;
    });
    memcpy(r, loaded.r, sizeof loaded.r);
}
