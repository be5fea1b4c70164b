// SPDX-License-Identifier: Apache-2.0
// gradus bench kernels: the operations through the table that training uses, at the shapes of a
// model: of some hundred million parameters on a CPU, of DeepSeek-V2-Lite on a GPU.
#ifndef RL_BENCH_KERNELS_H
#define RL_BENCH_KERNELS_H

#include "rl/bench.h"

// only: a part of the names of the cases to be measured; NULL: all. Errors: ERR_CONFIG when no case
// is called so; what the device says; ERR_ENV.
int bench_kernels(const struct bench *b, const char *only);

#endif
