// SPDX-License-Identifier: Apache-2.0
// The threads of a block as fibers. See emul.h.
#include "tests/cuda_emul/emul.h"
#include "tests/cuda_emul/fiber.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Static shared memory of all kernels (cuda_runtime.h).
extern "C" char __start_cuda_shared[] __attribute__((weak));
extern "C" char __stop_cuda_shared[] __attribute__((weak));

namespace emul
{

namespace
{

constexpr int WARP = 32, NAMED_BARRIERS = 16;
constexpr size_t GUARD = 256;
constexpr unsigned char POISON = 0xff, GUARD_BYTE = 0xa5;

enum class state { ready, at_barrier, at_collective, polling, done };

struct copy {
    void *to;
    const void *from;
    int bytes, size;
};

struct thread {
    fiber f;
    uint3 index;
    state s;
    site at;
    int named; // the barrier it waits at
    unsigned int mask;
    collective_op *op;
    void *frame;
    bool (*until)(void *); // what a polling thread waits for
    void *until_arg;
    std::vector<copy> open;                // since the last commit
    std::vector<std::vector<copy>> groups; // committed, oldest first
};

struct block_barrier {
    int waiting = 0, wanted = 0;
    int any = 0, all = 1, count = 0;
    site first = {};
};

struct block {
    const grid *g;
    std::vector<std::unique_ptr<thread>> threads;
    std::vector<int> order;
    int size = 0, live = 0;
    thread *current = nullptr;
    block_barrier barriers[NAMED_BARRIERS];
    int result_any = 0, result_all = 0, result_count = 0;
    std::vector<unsigned char> shared_store;
    unsigned char *shared = nullptr;
};

block &the_block()
{
    static block b;
    return b;
}

unsigned int seed()
{
    static const char *const text = getenv("CUDA_EMUL_SEED");
    return text ? static_cast<unsigned int>(strtoul(text, nullptr, 10)) : 0;
}

int index_of(const thread &t)
{
    return static_cast<int>(t.index.x + blockDim.x * (t.index.y + blockDim.y * t.index.z));
}

void report(const thread &t)
{
    static const char *const words[] = {"can run", "waits at a barrier", "waits for its warp",
                                        "waits for others", "has returned"};
    fprintf(stderr, "cuda_emul:   thread %d (%u,%u,%u) %s", index_of(t), t.index.x, t.index.y,
            t.index.z, words[static_cast<int>(t.s)]);
    if (t.s != state::ready && t.s != state::done)
        fprintf(stderr, ": %s, %s:%d", t.at.what, t.at.file, t.at.line);
    if (t.s == state::at_collective)
        fprintf(stderr, ", mask %08x", t.mask);
    fputc('\n', stderr);
}

[[noreturn]] void stop(const char *message)
{
    block &b = the_block();
    fprintf(stderr, "cuda_emul: %s\ncuda_emul: block (%u,%u,%u) of (%u,%u,%u), %d threads\n",
            message, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, b.size);
    // One thread of each kind of waiting.
    for (int i = 0; i < b.size; i++) {
        const thread &t = *b.threads[static_cast<size_t>(i)], *p = nullptr;
        if (i > 0)
            p = b.threads[static_cast<size_t>(i) - 1].get();
        if (!p || p->s != t.s || p->at.line != t.at.line || p->mask != t.mask)
            report(t);
    }
    fflush(stderr);
    abort();
}

void wait_as(thread &t, state s, const site &at)
{
    t.s = s;
    t.at = at;
    fiber_leave(t.f);
}

void release_barrier(block &b, int id)
{
    block_barrier &bar = b.barriers[id];
    if (id == 0) {
        b.result_any = bar.any;
        b.result_all = bar.all;
        b.result_count = bar.count;
    }
    for (int i = 0; i < b.size; i++) {
        thread &t = *b.threads[static_cast<size_t>(i)];
        if (t.s == state::at_barrier && t.named == id)
            t.s = state::ready;
    }
    bar = {};
}

void finish_copies(std::vector<copy> &group)
{
    for (const copy &c : group) {
        memset(c.to, 0, static_cast<size_t>(c.size));
        memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
    }
    group.clear();
}

void thread_main(void *arg)
{
    thread &t = *static_cast<thread *>(arg);
    block &b = the_block();
    b.g->call(b.g->args);
    async_commit();
    async_wait(0);
    t.s = state::done;
    b.live--;
    if (b.live > 0 && b.barriers[0].waiting == b.live)
        release_barrier(b, 0);
}

// Runs the threads of one warp until none of them can go on; false when none could.
bool run_warp(block &b, int first)
{
    bool any = false, again = true;
    while (again) {
        again = false;
        for (int i = first; i < std::min(first + WARP, b.size); i++) {
            thread &t = *b.threads[static_cast<size_t>(b.order[static_cast<size_t>(i)])];
            if (t.s == state::polling && t.until(t.until_arg))
                t.s = state::ready;
            if (t.s != state::ready)
                continue;
            b.current = &t;
            threadIdx = t.index;
            fiber_enter(t.f);
            any = again = true;
        }
    }
    return any;
}

void check_shared(const block &b)
{
    for (size_t i = 0; i < GUARD; i++)
        if (b.shared[b.g->shared_bytes + i] != GUARD_BYTE)
            stop("a thread wrote past the end of dynamic shared memory");
}

void poison_shared(block &b)
{
    memset(b.shared, POISON, b.g->shared_bytes);
    memset(b.shared + b.g->shared_bytes, GUARD_BYTE, GUARD);
    if (__start_cuda_shared)
        memset(__start_cuda_shared, POISON,
               static_cast<size_t>(__stop_cuda_shared - __start_cuda_shared));
}

void run_block(block &b)
{
    poison_shared(b);
    for (block_barrier &bar : b.barriers)
        bar = {};
    b.live = b.size;
    for (int i = 0; i < b.size; i++) {
        thread &t = *b.threads[static_cast<size_t>(i)];
        const unsigned int u = static_cast<unsigned int>(i);
        t.index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y};
        t.s = state::ready;
        fiber_start(t.f, thread_main, &t);
    }
    while (b.live > 0) {
        bool any = false;
        for (int first = 0; first < b.size; first += WARP)
            any |= run_warp(b, first);
        if (!any)
            stop("the threads of a block wait for each other for ever");
    }
    check_shared(b);
}

// Dynamic shared memory is 1024-byte aligned, as on a GPU when nothing static stands before it.
void reserve_shared(block &b, size_t bytes)
{
    const size_t align = 1024;
    b.shared_store.resize(bytes + GUARD + align);
    const uintptr_t p = reinterpret_cast<uintptr_t>(b.shared_store.data());
    b.shared = b.shared_store.data() + (align - p % align) % align;
}

void shuffle_threads(block &b, std::mt19937 &random)
{
    b.order.resize(static_cast<size_t>(b.size));
    std::iota(b.order.begin(), b.order.end(), 0);
    if (seed() == 0)
        return;
    // Warps in any order, and the lanes of each.
    std::vector<int> warps(static_cast<size_t>((b.size + WARP - 1) / WARP)), order;
    std::iota(warps.begin(), warps.end(), 0);
    if (b.size % WARP == 0)
        std::shuffle(warps.begin(), warps.end(), random);
    for (int w : warps) {
        const size_t begin = order.size();
        for (int i = w * WARP; i < std::min(b.size, (w + 1) * WARP); i++)
            order.push_back(i);
        std::shuffle(order.begin() + static_cast<std::ptrdiff_t>(begin), order.end(), random);
    }
    b.order = order;
}

} // namespace

void run(const grid &g)
{
    block &b = the_block();
    std::mt19937 random(seed());
    b.g = &g;
    b.size = static_cast<int>(g.threads.x * g.threads.y * g.threads.z);
    while (static_cast<int>(b.threads.size()) < b.size)
        b.threads.push_back(std::make_unique<thread>());
    reserve_shared(b, g.shared_bytes);
    gridDim = dim3(g.blocks.x, g.blocks.y, g.blocks.z);
    blockDim = dim3(g.threads.x, g.threads.y, g.threads.z);
    std::vector<size_t> blocks(size_t(g.blocks.x) * g.blocks.y * g.blocks.z);
    std::iota(blocks.begin(), blocks.end(), size_t(0));
    if (seed() != 0)
        std::shuffle(blocks.begin(), blocks.end(), random);
    for (size_t i : blocks) {
        blockIdx = {static_cast<unsigned int>(i % g.blocks.x),
                    static_cast<unsigned int>(i / g.blocks.x % g.blocks.y),
                    static_cast<unsigned int>(i / g.blocks.x / g.blocks.y)};
        shuffle_threads(b, random);
        run_block(b);
    }
}

void fail(const site &at, const char *message)
{
    fprintf(stderr, "cuda_emul: %s, %s:%d\n", at.what, at.file, at.line);
    stop(message);
}

void wait_until(const site &at, bool (*ready)(void *arg), void *arg)
{
    thread &t = *the_block().current;
    t.until = ready;
    t.until_arg = arg;
    if (!ready(arg))
        wait_as(t, state::polling, at);
}

int lane() { return index_of(*the_block().current) % WARP; }

void *dynamic_shared()
{
    block &b = the_block();
    return b.shared;
}

int barrier(const site &at, vote v, int value)
{
    block &b = the_block();
    block_barrier &bar = b.barriers[0];
    thread &t = *b.current;
    if (bar.waiting > 0 && (bar.first.line != at.line || strcmp(bar.first.file, at.file) != 0 ||
                            strcmp(bar.first.what, at.what) != 0))
        fail(at, "threads of a block are at different barriers");
    bar.first = at;
    bar.waiting++;
    bar.any |= value != 0;
    bar.all &= value != 0;
    bar.count += value != 0;
    t.named = 0;
    if (bar.waiting == b.live) {
        t.s = state::at_barrier;
        release_barrier(b, 0);
    } else {
        wait_as(t, state::at_barrier, at);
    }
    if (v == vote::any)
        return b.result_any;
    return v == vote::all ? b.result_all : b.result_count;
}

void named_barrier(const site &at, int id, int threads)
{
    block &b = the_block();
    if (id < 1 || id >= NAMED_BARRIERS || threads % WARP != 0 || threads > b.size)
        fail(at, "a named barrier takes a number from 1 to 15 and whole warps");
    block_barrier &bar = b.barriers[id];
    if (bar.waiting > 0 && bar.wanted != threads)
        fail(at, "threads disagree on how many a barrier waits for");
    thread &t = *b.current;
    bar.wanted = threads;
    t.named = id;
    if (++bar.waiting == threads) {
        t.s = state::at_barrier;
        release_barrier(b, id);
    } else {
        wait_as(t, state::at_barrier, at);
    }
}

void collective(const site &at, unsigned int mask, collective_op *op, void *frame)
{
    block &b = the_block();
    thread &t = *b.current;
    const int me = index_of(t), first = me / WARP * WARP;
    if (!(mask >> (me - first) & 1))
        fail(at, "the calling lane is not in its own mask");
    t.mask = mask;
    t.op = op;
    t.frame = frame;
    void *frames[WARP] = {};
    bool complete = true;
    for (int l = 0; l < WARP; l++) {
        if (!(mask >> l & 1))
            continue;
        if (first + l >= b.size)
            fail(at, "the mask has lanes that the block does not have");
        const thread &other = *b.threads[static_cast<size_t>(first + l)];
        if (other.s == state::done)
            fail(at, "the mask has a lane that has returned");
        const bool here = &other == &t || (other.s == state::at_collective && other.mask == mask);
        if (here && (other.op != op || (&other != &t && other.at.line != at.line)))
            fail(at, "lanes of one mask are at different operations");
        complete &= here;
        frames[l] = other.frame;
    }
    if (!complete) {
        wait_as(t, state::at_collective, at);
        return;
    }
    op(mask, frames);
    for (int l = 0; l < WARP; l++)
        if (frames[l])
            b.threads[static_cast<size_t>(first + l)]->s = state::ready;
}

void async_copy(void *to, const void *from, int bytes, int size)
{
    const site at = {"cp.async", 0, "cp.async"};
    const bool aligned = reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(size) == 0 &&
                         reinterpret_cast<uintptr_t>(from) % static_cast<uintptr_t>(size) == 0;
    if (!aligned)
        fail(at, "an asynchronous copy is not aligned to its size");
    if (bytes < 0 || bytes > size)
        fail(at, "an asynchronous copy reads more than it copies");
    the_block().current->open.push_back({to, from, bytes, size});
}

void async_commit()
{
    thread &t = *the_block().current;
    t.groups.push_back(std::move(t.open));
    t.open.clear();
}

void async_wait(int pending)
{
    thread &t = *the_block().current;
    const size_t keep = static_cast<size_t>(pending);
    while (t.groups.size() > keep) {
        finish_copies(t.groups.front());
        t.groups.erase(t.groups.begin());
    }
}

std::function<void()> async_take()
{
    async_commit();
    auto groups = std::move(the_block().current->groups);
    the_block().current->groups.clear();
    return [groups]() mutable {
        for (std::vector<copy> &group : groups)
            finish_copies(group);
    };
}

} // namespace emul
