// SPDX-License-Identifier: Apache-2.0
// What a CPU has and what of it is worth using, where the two differ.
#ifndef KERNELS_CPU_PROBE_H
#define KERNELS_CPU_PROBE_H

#include <stdbool.h>

bool probe_avx2(void);
bool probe_avx512(void);
bool probe_avx512bf16(void); // AVX-512 and its dot products of bfloat16
bool probe_amx(void); // AVX-512 and tiles of bfloat16, which the kernel lets this process use

// Whether dot products of bfloat16 do clearly more operations a second than float32 multiply-adds,
// measured in some 50 microseconds. Only where probe_avx512bf16.
bool probe_dots_pay(void);

#endif
