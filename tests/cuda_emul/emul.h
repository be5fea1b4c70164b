// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on the CPU, for tests: the threads of a block are fibers of one host thread,
// which run until they wait for each other; blocks run one after another. What a GPU would leave
// undefined ends the process with a message: threads at different barriers, lanes that wait for
// lanes which never come, a shuffle that reads a lane outside its mask.
//
// Shared memory and fresh device memory are filled with 0xff (NaN); copies by cp.async happen no
// sooner than they are waited for; outside kernels and copies device memory cannot be touched.
// CUDA_EMUL_SEED=n runs the blocks of a grid and the threads of a block in another order.
#ifndef TESTS_CUDA_EMUL_EMUL_H
#define TESTS_CUDA_EMUL_EMUL_H

#include <cstddef>
#include <cstdint>
#include <functional>

#if defined(__SANITIZE_ADDRESS__)
#define EMUL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMUL_ASAN 1
#endif
#endif

namespace emul
{

// Where in the source a thread waits.
struct site {
    const char *file;
    int line;
    const char *what;
};

struct uint3_bits {
    unsigned int x, y, z;
};

// A launch: call(args) is run by every thread.
struct grid {
    uint3_bits blocks, threads;
    size_t shared_bytes;
    void (*call)(void *args);
    void *args;
};
void run(const grid &g);

// ---- called by the threads of a kernel

[[noreturn]] void fail(const site &at, const char *message);

enum class vote { none, any, all, count };
// The barrier of the block; returns the vote over its threads.
int barrier(const site &at, vote v, int value);
// A barrier of `threads` threads of the block, by number (1 to 15).
void named_barrier(const site &at, int id, int threads);

// Waits until all lanes of the mask have come with the same operation; the last to come runs
// op(mask, frames), frames[lane] being what that lane passed.
typedef void collective_op(unsigned int mask, void *const *frames);
void collective(const site &at, unsigned int mask, collective_op *op, void *frame);

// Waits until ready(arg), which other threads of the block bring about.
void wait_until(const site &at, bool (*ready)(void *arg), void *arg);

int lane();
void *dynamic_shared();

// An asynchronous copy of this thread: `bytes` from `from`, the rest of `size` zero.
void async_copy(void *to, const void *from, int bytes, int size);
void async_commit();
void async_wait(int pending);
// All copies of this thread that are under way, for the caller to complete.
std::function<void()> async_take();

} // namespace emul

#endif
