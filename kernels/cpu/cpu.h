// SPDX-License-Identifier: Apache-2.0
// What the CPU variants share: their tables, the split of an operation over the team, and scratch
// memory.
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "base/team.h"
#include "kernels/device.h"

extern const struct kernels kernels_avx2, kernels_avx512, kernels_avx512bf16, kernels_amx;

// Runs fn on the team when `work` (about one floating-point operation each) is worth waking it,
// else on the caller alone. What fn computes may not depend on the number of ranks.
void cpu_run(struct device *dev, double work, team_fn *fn, void *arg);

// Uninitialised, 64-byte aligned memory of one rank, valid until the rank asks again. Rank
// CPU_SHARED: read and written by all ranks, asked for by the caller before cpu_run.
#define CPU_SHARED (-1)
float *cpu_scratch(struct device *dev, int rank, size_t floats);

// Items [*begin, *end) of a rank, when item i costs cost[i+1] - cost[i]: contiguous shares of about
// the same cost.
void cpu_share_by_cost(const double *cost, int n, int rank, int size, int *begin, int *end);

#endif
