// SPDX-License-Identifier: Apache-2.0
#include "policy/rope.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

// Dimension whose wave turns r times in the original context: arXiv:2309.00071, section 3.2, solved
// for the index.
static double correction_dim(const struct arch *a, double r)
{
    return a->Dr * log(a->yarn.original_positions / (2 * M_PI * r)) / (2 * log(a->rope_theta));
}

static double magnitude(double factor, double k)
{
    return factor <= 1 ? 1 : 0.1 * k * log(factor) + 1;
}

static double yarn_frequency(const struct arch *a, double theta, int i)
{
    const struct arch_yarn *y = &a->yarn;
    double lo = correction_dim(a, y->beta_fast), hi = correction_dim(a, y->beta_slow);
    if (y->truncate) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    lo = fmax(lo, 0);
    hi = fmin(hi, a->Dr - 1);
    if (lo == hi) {
        hi += 0.001;
    }
    double w = fmin(fmax((i - lo) / (hi - lo), 0), 1);
    return theta * (1 - w) + theta / y->factor * w;
}

// Waves that are short beside the original context stay, long ones are stretched by the factor, and
// those between the two bounds are mixed.
static double llama3_frequency(const struct arch_llama3 *s, double theta)
{
    double turns = s->original_positions * theta / (2 * M_PI); // in the original context
    double z = (turns - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    z = fmin(fmax(z, 0), 1);
    return (1 - z) * theta / s->factor + z * theta;
}

double rope_frequency(const struct arch *a, int i)
{
    double theta = pow(a->rope_theta, -2.0 * i / a->Dr);
    if (a->yarn.factor != 0) {
        return yarn_frequency(a, theta, i);
    }
    return a->llama3.factor != 0 ? llama3_frequency(&a->llama3, theta) : theta;
}

double rope_attention_factor(const struct arch *a)
{
    const struct arch_yarn *y = &a->yarn;
    if (y->factor == 0) {
        return 1;
    }
    if (y->attention_factor != 0) {
        return y->attention_factor;
    }
    if (y->mscale != 0 && y->mscale_all_dim != 0) {
        return magnitude(y->factor, y->mscale) / magnitude(y->factor, y->mscale_all_dim);
    }
    return magnitude(y->factor, 1);
}

double rope_softmax_scale(const struct arch *a)
{
    const struct arch_yarn *y = &a->yarn;
    bool scaled = arch_is_latent(a) && y->factor != 0 && y->mscale_all_dim != 0;
    double m = scaled ? magnitude(y->factor, y->mscale_all_dim) : 1;
    return m * m / sqrt(a->Dn + a->Dr);
}

// cos [rows,Dr/2] and then sin, to host memory.
static void fill_table(float *cosines, const struct arch *a, int rows)
{
    int half = a->Dr / 2;
    float *sines = cosines + (size_t)rows * half;
    double att = rope_attention_factor(a);
    for (int i = 0; i < half; i++) {
        double f = rope_frequency(a, i);
        for (int pos = 0; pos < rows; pos++) {
            cosines[(size_t)pos * half + i] = (float)(cos(pos * f) * att);
            sines[(size_t)pos * half + i] = (float)(sin(pos * f) * att);
        }
    }
}

// Rows of a table that holds at least `positions`: the same whatever it held before.
static int rows_for(int positions)
{
    int rows = 256;
    while (rows < positions) {
        rows += rows / 2;
    }
    return rows;
}

size_t rope_table_bytes(const struct arch *a, int positions)
{
    return positions > 0 ? (size_t)rows_for(positions) * (size_t)(a->Dr / 2) * 2 * sizeof(float)
                         : 0;
}

int rope_table_grow(struct rope_table *t, struct device *dev, const struct arch *a, int positions)
{
    if (positions <= t->positions) {
        return 0;
    }
    const int rows = rows_for(positions);
    const size_t n = (size_t)rows * (size_t)(a->Dr / 2), bytes = rope_table_bytes(a, positions);
    rope_table_free(t);
    int rc = device_block_reserve(&t->block, dev, bytes);
    if (rc) {
        return rc;
    }
    float *host = mem_alloc(bytes);
    fill_table(host, a, rows);
    rc = dev->memory->upload(dev, t->block.data, host, bytes);
    free(host);
    if (rc) {
        rope_table_free(t);
        return rc;
    }
    t->cos = t->block.data;
    t->sin = t->cos + n;
    t->positions = rows;
    return 0;
}

void rope_table_free(struct rope_table *t)
{
    device_block_free(&t->block);
    *t = (struct rope_table){0};
}
