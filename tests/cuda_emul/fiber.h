// SPDX-License-Identifier: Apache-2.0
// A function on a stack of its own, which can be left in the middle and entered again. One host
// thread; the address sanitizer is told of every switch.
#ifndef TESTS_CUDA_EMUL_FIBER_H
#define TESTS_CUDA_EMUL_FIBER_H

#include <cstddef>

namespace emul
{

struct fiber {
    void *stack = nullptr; // mapped by the first fiber_start, kept for the next
    void *context = nullptr;
    void (*run)(void *) = nullptr;
    void *arg = nullptr;
    bool done = true;
    void *sanitizer = nullptr;
    fiber() = default;
    fiber(const fiber &) = delete;
    fiber &operator=(const fiber &) = delete;
    ~fiber();
};

void fiber_start(fiber &f, void (*run)(void *), void *arg); // entered by the next fiber_enter
void fiber_enter(fiber &f); // returns when the fiber leaves or its function returns
void fiber_leave(fiber &f); // called inside; returns at the next fiber_enter

} // namespace emul

#endif
