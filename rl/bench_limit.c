// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_limit.h"

#include "base/log.h"
#include "base/mem.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Many short runs, of which the fastest counts: other programs disturb some of them.
enum { SPINS = 300, ROUNDS = 100000, CHAINS = 12, READS = 20, READ_BYTES = 64 << 20 };

struct work {
    enum device_isa isa;
    bool bf16;         // what products of bfloat16 are made of
    uint64_t **memory; // [ranks] READ_BYTES each
    double *results;   // [ranks] so that no work is dropped
};

// ROUNDS rounds of CHAINS multiply-adds that wait for no other chain; the value is of no interest.
typedef float spin_fn(float x);

static float spin_reference(float x)
{
    float c[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        c[i] = x;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++)
            c[i] = c[i] * x + x;
    float sum = 0;
    for (int i = 0; i < CHAINS; i++)
        sum += c[i];
    return sum;
}

#if defined(__x86_64__)
// A step of one chain, z = x y + z, or of pairs of bfloat16: z += x1 y1 + x2 y2.
#define STEP_FMA_256(x, y, z) _mm256_fmadd_ps(z, y, x)
#define STEP_FMA_512(x, y, z) _mm512_fmadd_ps(z, y, x)
#define STEP_DOT_512(x, y, z)                                                                      \
    _mm512_dpbf16_ps(z, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(y))
#define SPIN(name, isa_, vector, set1, step, store)                                                \
    __attribute__((target(isa_))) static float name(float x)                                       \
    {                                                                                              \
        const vector factor = set1(x);                                                             \
        vector c[CHAINS];                                                                          \
        for (int i = 0; i < CHAINS; i++)                                                           \
            c[i] = set1(x + (float)i);                                                             \
        for (int round = 0; round < ROUNDS; round++)                                               \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) c[i] =                       \
                step(factor, factor, c[i]);                                                        \
        float lanes[sizeof(vector) / sizeof(float)], sum = 0;                                      \
        for (int i = 0; i < CHAINS; i++) {                                                         \
            store(lanes, c[i]);                                                                    \
            sum += lanes[0];                                                                       \
        }                                                                                          \
        return sum;                                                                                \
    }
SPIN(spin_avx2, "avx2,fma", __m256, _mm256_set1_ps, STEP_FMA_256, _mm256_storeu_ps)
SPIN(spin_avx512, "avx512f", __m512, _mm512_set1_ps, STEP_FMA_512, _mm512_storeu_ps)
SPIN(spin_dots, "avx512f,avx512bf16", __m512, _mm512_set1_ps, STEP_DOT_512, _mm512_storeu_ps)
#endif

#if defined(__x86_64__)
// Products of tiles of 16 x 16, 32 deep, each of which takes as long as TILE_ROUNDS other steps.
enum { TILE_ROUNDS = 16 };
__attribute__((target("amx-tile,amx-bf16"))) static float spin_tiles(float x)
{
    struct {
        uint8_t palette, rest[15];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    float sums[16][16] = {{x}};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = 16;
    }
    __asm__ volatile("" : : "r"(&config), "r"(sums) : "memory");
    _tile_loadconfig(&config);
    _tile_loadd(6, sums, 64);
    _tile_loadd(7, sums, 64);
    for (int round = 0; round < ROUNDS / TILE_ROUNDS; round++)
        for (int i = 0; i < CHAINS; i += 4) {
            _tile_dpbf16ps(0, 6, 7);
            _tile_dpbf16ps(1, 6, 7);
            _tile_dpbf16ps(2, 6, 7);
            _tile_dpbf16ps(3, 6, 7);
        }
    _tile_stored(0, sums, 64);
    _tile_release();
    __asm__ volatile("" : : "r"(sums) : "memory");
    return sums[0][0];
}
#endif

// The spin of an instruction set, and the multiply-adds of one of its steps.
static spin_fn *choose_spin(enum device_isa isa, bool bf16, int *lanes)
{
    *lanes = 1;
#if defined(__x86_64__)
    switch (isa) {
    case DEVICE_AVX2:
        *lanes = 8;
        return spin_avx2;
    case DEVICE_AVX512BF16:
        *lanes = bf16 ? 32 : 16;
        return bf16 ? spin_dots : spin_avx512;
    case DEVICE_AMX:
        *lanes = bf16 ? 16 * 16 * 32 / TILE_ROUNDS : 16;
        return bf16 ? spin_tiles : spin_avx512;
    case DEVICE_AVX512:
        *lanes = 16;
        return spin_avx512;
    case DEVICE_REFERENCE:
    case DEVICE_BEST:
    default:
        break;
    }
#else
    (void)isa, (void)bf16;
#endif
    return spin_reference;
}

static void spin(void *arg, int rank, int size)
{
    (void)size;
    const struct work *w = arg;
    int lanes;
    w->results[rank] = (double)choose_spin(w->isa, w->bf16, &lanes)(0.5F);
}

static void read_memory(void *arg, int rank, int size)
{
    (void)size;
    typedef uint64_t vec __attribute__((vector_size(32)));
    const struct work *w = arg;
    const vec *v = (const vec *)(const void *)w->memory[rank];
    vec sum[4] = {{0}};
    for (size_t i = 0; i < READ_BYTES / sizeof(vec); i += 4)
        for (size_t j = 0; j < 4; j++)
            sum[j] += v[i + j];
    w->results[rank] = (double)(sum[0][0] + sum[1][1] + sum[2][2] + sum[3][3]);
}

// Seconds of the fastest of some runs.
static double fastest(struct team *team, team_fn *fn, struct work *w, int repeats)
{
    double best = 1e30;
    for (int i = 0; i < repeats; i++) {
        const double start = log_clock();
        team_run(team, fn, w);
        const double seconds = log_clock() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

void bench_limit_measure(struct bench_limit *out, struct team *team, enum device_isa isa)
{
    const int ranks = team_size(team);
    struct work w = {.isa = isa,
                     .memory = mem_array0((size_t)ranks, sizeof *w.memory),
                     .results = mem_array0((size_t)ranks, sizeof *w.results)};
    for (int i = 0; i < ranks; i++) {
        w.memory[i] = mem_aligned(READ_BYTES);
        memset(w.memory[i], i, READ_BYTES);
    }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        int lanes;
        w.bf16 = bf16;
        choose_spin(isa, bf16, &lanes);
        *(bf16 ? &out->flops_bf16 : &out->flops) =
            2.0 * ROUNDS * CHAINS * lanes * ranks / fastest(team, spin, &w, SPINS);
    }
    out->bytes = (double)READ_BYTES * ranks / fastest(team, read_memory, &w, READS);
    for (int i = 0; i < ranks; i++)
        free(w.memory[i]);
    free(w.memory);
    free(w.results);
}
