// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/probe.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

bool probe_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool probe_avx512(void)
{
    return probe_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

bool probe_avx512bf16(void) { return probe_avx512() && __builtin_cpu_supports("avx512bf16"); }

// Tiles are state that a process has to ask the kernel for (Linux 5.16 and later).
bool probe_amx(void)
{
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24; // leaf 7, EDX
    const long request = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d;
    if (!probe_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        (d & (amx_bf16 | amx_tile)) != (amx_bf16 | amx_tile))
        return false;
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

// Twelve chains that wait for no other, so that the rate is what counts.
enum { CHAINS = 12, ROUNDS = 1000, TRIES = 12 };

#define PROBE_ISA __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

PROBE_ISA static float run_fmas(float x)
{
    const __m512 factor = _mm512_set1_ps(x);
    __m512 c[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        c[i] = factor;
    for (int round = 0; round < ROUNDS; round++)
        _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) c[i] =
            _mm512_fmadd_ps(c[i], factor, factor);
    for (int i = 1; i < CHAINS; i++)
        c[0] = _mm512_add_ps(c[0], c[i]);
    return _mm512_cvtss_f32(c[0]);
}

PROBE_ISA static float run_dots(float x)
{
    const __m512 factor = _mm512_set1_ps(x);
    __m512 c[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        c[i] = factor;
    for (int round = 0; round < ROUNDS; round++)
        _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) c[i] = _mm512_dpbf16_ps(
            c[i], (__m512bh)_mm512_castps_si512(factor), (__m512bh)_mm512_castps_si512(factor));
    for (int i = 1; i < CHAINS; i++)
        c[0] = _mm512_add_ps(c[0], c[i]);
    return _mm512_cvtss_f32(c[0]);
}

static double seconds_of(float (*run)(float))
{
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    volatile const float result = run(0.5f);
    clock_gettime(CLOCK_MONOTONIC, &to);
    (void)result;
    return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}

// A dot is two multiply-adds. On the CPUs that are known it does either twice the operations of
// float32 or at most as many: between the two, noise does not change the answer. The fastest of
// each counts, since others share the machine.
bool probe_dots_pay(void)
{
    double fmas = 1.0, dots = 1.0;
    for (int i = 0; i < TRIES; i++) {
        const double f = seconds_of(run_fmas), d = seconds_of(run_dots);
        fmas = f < fmas ? f : fmas;
        dots = d < dots ? d : dots;
    }
    return 2.0 * fmas > 1.4 * dots;
}

#else

bool probe_avx2(void) { return false; }
bool probe_avx512(void) { return false; }
bool probe_avx512bf16(void) { return false; }
bool probe_amx(void) { return false; }
bool probe_dots_pay(void) { return false; }

#endif
