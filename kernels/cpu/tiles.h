// SPDX-License-Identifier: Apache-2.0
// AMX: eight tiles of up to 16 rows of 64 bytes, and products of them in bfloat16. With
// TILES_EMULATED the same in plain C, so that what is built on them can be tested on a CPU that has
// none; the emulation follows the description of TDPBF16PS in Intel's instruction set reference,
// but keeps denormals. Included by one file alone, which holds the emulated tiles.
#ifndef KERNELS_CPU_TILES_H
#define KERNELS_CPU_TILES_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// What LDTILECFG reads.
struct tiles_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#if defined(TILES_EMULATED)

#include <math.h>

static _Thread_local struct {
    struct tiles_config config;
    uint32_t word[8][16][16];
} tiles;

static inline void tiles_configure(const struct tiles_config *c)
{
    memset(&tiles, 0, sizeof tiles);
    tiles.config = *c;
}
static inline void tiles_release(void) { memset(&tiles, 0, sizeof tiles); }
static inline void tile_zero(int t) { memset(tiles.word[t], 0, sizeof tiles.word[t]); }
static inline void tile_load(int t, const void *p, size_t stride)
{
    tile_zero(t);
    for (size_t i = 0; i < tiles.config.rows[t]; i++)
        memcpy(tiles.word[t][i], (const char *)p + i * stride, tiles.config.row_bytes[t]);
}
static inline void tile_store(int t, void *p, size_t stride)
{
    for (size_t i = 0; i < tiles.config.rows[t]; i++)
        memcpy((char *)p + i * stride, tiles.word[t][i], tiles.config.row_bytes[t]);
}

static inline float tile_number(uint32_t word, int half)
{
    const uint32_t bits = half ? word & 0xffff0000u : word << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline void tile_dot(int c, int a, int b)
{
    for (int i = 0; i < tiles.config.rows[c]; i++)
        for (int j = 0; j < tiles.config.row_bytes[c] / 4; j++) {
            float sum[2] = {0.0f, 0.0f}, old;
            for (int l = 0; l < tiles.config.row_bytes[a] / 4; l++)
                for (int half = 0; half < 2; half++)
                    sum[half] = fmaf(tile_number(tiles.word[a][i][l], half),
                                     tile_number(tiles.word[b][l][j], half), sum[half]);
            memcpy(&old, &tiles.word[c][i][j], sizeof old);
            old += sum[0] + sum[1];
            memcpy(&tiles.word[c][i][j], &old, sizeof old);
        }
}

#else

#define tiles_configure(c)       _tile_loadconfig(c)
#define tiles_release()          _tile_release()
#define tile_zero(t)             _tile_zero(t)
#define tile_load(t, p, stride)  _tile_loadd(t, p, stride)
#define tile_store(t, p, stride) _tile_stored(t, p, stride)
#define tile_dot(c, a, b)        _tile_dpbf16ps(c, a, b)

#endif

// Orders what is written before it at p with loads of tiles after it, and stores of tiles with what
// is read after: some compilers' intrinsics do not say that they touch memory.
#define tiles_fence(p) __asm__ volatile("" : : "r"(p) : "memory")

#endif
