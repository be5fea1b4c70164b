// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number is a pure function of (key, counter), so there is no state to save,
// and the order of use does not matter.
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stdint.h>

// Words: the key is (low, high) of `key`; the counter is (low, high) of counter_lo, then (low,
// high) of counter_hi.
struct philox_block {
    uint32_t v[4];
};
struct philox_block philox4x32(uint64_t key, uint64_t counter_lo, uint64_t counter_hi);

// Uniform in (0, 1): (v + 0.5) 2^-32 in double.
double philox_unit(uint32_t v);

// A stream: successive numbers of one (key, id), for generators that draw a variable amount. A
// plain value; copy it to fork it. Number n is word n % 4 of philox4x32(key, n / 4, id).
struct philox_stream {
    uint64_t key, id, next;
    struct philox_block block;
};
struct philox_stream philox_stream(uint64_t key, uint64_t id);
uint32_t philox_next(struct philox_stream *s);
uint32_t philox_below(struct philox_stream *s, uint32_t n); // unbiased in [0, n), n > 0
double philox_next_unit(struct philox_stream *s);
double philox_next_normal(struct philox_stream *s); // standard normal, Box-Muller

// Mixes two numbers into a key or an id (SplitMix64 finaliser).
uint64_t philox_mix(uint64_t a, uint64_t b);

#endif
