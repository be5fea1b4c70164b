// SPDX-License-Identifier: Apache-2.0
// What the cores of this machine do at most, measured in the same run as what is compared with it:
// multiply-adds that depend on nothing, and reading of memory that no cache holds.
#ifndef RL_BENCH_LIMIT_H
#define RL_BENCH_LIMIT_H

#include "base/team.h"
#include "kernels/device.h"

struct bench_limit {
    double flops;      // float32 operations a second of all ranks; a multiply-add counts as two
    double flops_bf16; // of products of bfloat16: dots of pairs or tiles where isa has them, else
                       // as flops
    double bytes;      // bytes read a second by all ranks
};

void bench_limit_measure(struct bench_limit *out, struct team *team, enum device_isa isa);

#endif
