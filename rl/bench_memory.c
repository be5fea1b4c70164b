// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_memory.h"

#include "base/mem.h"
#include "base/philox.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 1 << 20 }; // different ones

static size_t size_of(enum dtype type) { return type == DTYPE_BF16 ? 2 : 4; }

static void *allocate(struct bench_memory *m, size_t bytes)
{
    void *p = NULL;
    if (m->rc == 0)
        m->rc = m->dev->memory->alloc(m->dev, &p, bytes);
    if (m->rc != 0)
        return NULL;
    m->arrays = mem_realloc(m->arrays, (size_t)(m->count + 1) * sizeof *m->arrays);
    m->arrays[m->count++] = p;
    return p;
}

static void release(struct bench_memory *m, const void *p)
{
    for (int i = 0; i < m->count; i++)
        if (m->arrays[i] == p) {
            m->dev->memory->release(m->dev, m->arrays[i]);
            m->arrays[i] = m->arrays[--m->count];
            return;
        }
}

void *bench_upload(struct bench_memory *m, const void *from, size_t bytes)
{
    void *p = allocate(m, bytes);
    if (m->rc == 0)
        m->rc = m->dev->memory->upload(m->dev, p, from, bytes);
    m->bytes += (double)bytes;
    return p;
}

// Different numbers of that type, on the device.
static const void *numbers_of(struct bench_memory *m, enum dtype type)
{
    if (m->numbers && m->numbers_type == type)
        return m->numbers;
    float *x = mem_array0(NUMBERS, sizeof *x);
    struct philox_stream s = philox_stream(1, 0);
    for (size_t i = 0; i < NUMBERS; i++) {
        x[i] = (float)(philox_next_unit(&s) - 0.5);
        if (type == DTYPE_BF16) {
            const uint16_t *half = (const uint16_t *)(const void *)(x + i);
            memcpy((uint16_t *)(void *)x + i, half + 1, sizeof *half); // the upper one
        }
    }
    const double counted = m->bytes;
    m->numbers = bench_upload(m, x, NUMBERS * size_of(type));
    m->numbers_type = type;
    m->bytes = counted;
    free(x);
    return m->numbers;
}

void *bench_numbers(struct bench_memory *m, enum dtype type, size_t count, int moves)
{
    const void *from = numbers_of(m, type);
    const size_t bytes = count * size_of(type), block = NUMBERS * size_of(type);
    unsigned char *p = allocate(m, bytes);
    for (size_t at = 0; at < bytes && m->rc == 0; at += block)
        m->rc = m->dev->memory->copy(m->dev, p + at, from, bytes - at < block ? bytes - at : block);
    m->bytes += (double)bytes * moves;
    return p;
}

void *bench_zeros(struct bench_memory *m, size_t bytes, int moves)
{
    void *p = allocate(m, bytes);
    if (m->rc == 0)
        m->rc = m->dev->memory->zero(m->dev, p, bytes);
    m->bytes += (double)bytes * moves;
    return p;
}

void *bench_packed(struct bench_memory *m, enum dtype type, int k, int n, int count)
{
    const size_t one = (size_t)k * (size_t)n;
    const size_t packed = (size_t)count * matmul_packed_size(m->dev, k, n);
    const void *plain = bench_numbers(m, type, (size_t)count * one, 1);
    void *out = allocate(m, packed * size_of(type));
    const struct pack_args args = {.b = plain,
                                   .ldb = (size_t)n,
                                   .stride_b = one,
                                   .k = k,
                                   .n = n,
                                   .count = count,
                                   .out = out,
                                   .b_type = type,
                                   .out_type = type};
    if (m->rc == 0)
        m->rc = m->dev->k->matmul_pack(m->dev, &args);
    if (m->rc == 0)
        m->rc = m->dev->memory->sync(m->dev);
    release(m, plain);
    return out;
}

void bench_memory_free(struct bench_memory *m)
{
    for (int i = 0; i < m->count; i++)
        m->dev->memory->release(m->dev, m->arrays[i]);
    free(m->arrays);
    *m = (struct bench_memory){.dev = m->dev, .rc = m->rc};
}
