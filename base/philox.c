// SPDX-License-Identifier: Apache-2.0
#include "base/philox.h"

#include <assert.h>
#include <math.h>

// Constants of Philox4x32 (Salmon et al., SC 2011, section 3.3 and Random123): two multipliers, two
// Weyl increments.
#define ROUNDS 10
#define MUL_0  0xD2511F53u
#define MUL_1  0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

struct philox_block philox4x32(uint64_t key, uint64_t counter_lo, uint64_t counter_hi)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
    uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)MUL_0 * c0, p1 = (uint64_t)MUL_1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    return (struct philox_block){{c0, c1, c2, c3}};
}

double philox_unit(uint32_t v) { return ((double)v + 0.5) * 0x1p-32; }

struct philox_stream philox_stream(uint64_t key, uint64_t id)
{
    return (struct philox_stream){.key = key, .id = id};
}

uint32_t philox_next(struct philox_stream *s)
{
    if (s->next % 4 == 0)
        s->block = philox4x32(s->key, s->next / 4, s->id);
    return s->block.v[s->next++ % 4];
}

// Lemire, "Fast random integer generation in an interval", ACM TOMACS 29 (2019), algorithm 5.
uint32_t philox_below(struct philox_stream *s, uint32_t n)
{
    assert(n > 0);
    uint64_t product = (uint64_t)philox_next(s) * n;
    if ((uint32_t)product < n) {
        const uint32_t threshold = -n % n; // 2^32 mod n
        while ((uint32_t)product < threshold)
            product = (uint64_t)philox_next(s) * n;
    }
    return (uint32_t)(product >> 32);
}

double philox_next_unit(struct philox_stream *s) { return philox_unit(philox_next(s)); }

// The cosine half only: one call always takes two numbers, so that a position in the stream says
// how many were drawn.
double philox_next_normal(struct philox_stream *s)
{
    const double radius = sqrt(-2.0 * log(philox_next_unit(s)));
    return radius * cos(2.0 * M_PI * philox_next_unit(s));
}

static uint64_t finalise(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t philox_mix(uint64_t a, uint64_t b)
{
    return finalise(finalise(a + 0x9E3779B97F4A7C15u) + b);
}
