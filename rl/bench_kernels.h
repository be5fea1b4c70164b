// SPDX-License-Identifier: Apache-2.0
// gradus bench kernels: the operations through the table that training uses, at the shapes of a
// model: of some hundred million parameters on a CPU, of DeepSeek-V2-Lite on a GPU.
#ifndef RL_BENCH_KERNELS_H
#define RL_BENCH_KERNELS_H

#include "rl/bench.h"

// Errors: what the device says; ERR_ENV.
int bench_kernels(const struct bench *b);

#endif
