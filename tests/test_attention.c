// SPDX-License-Identifier: Apache-2.0
// Backward of attention with a prefix that several sequences share against the same sequences, each
// packed whole: gradients of queries to the bit, those of the prefix's rows as the sum over its
// copies.
#include "base/mem.h"
#include "base/philox.h"
#include "kernels/block.h"
#include "tests/devices.h"

// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FOLLOWERS = 5 };
static const int own_len[FOLLOWERS] = {70, 1, 0, 33, 128};

struct setting {
    struct attention_shape shape;
    int prefix;
};

// The rows of a batch: which token of the family each is. The prefix's tokens are the first, then
// those of each sequence.
struct batch {
    struct attention_grad_seq seqs[FOLLOWERS + 1];
    int *token, *key; // [T], [N]
    int num_seqs, T, N;
};

static int first_token(const struct setting *s, int follower)
{
    int at = s->prefix;
    for (int i = 0; i < follower; i++)
        at += own_len[i];
    return at;
}

static void new_batch(struct batch *b)
{
    const size_t most = 4096;
    *b = (struct batch){.token = mem_array0(most, sizeof(int)),
                        .key = mem_array0(most, sizeof(int))};
}

static void free_batch(struct batch *b)
{
    free(b->token);
    free(b->key);
}

// A sequence of tokens from `first` on, after the key rows of `copies` tokens of the prefix.
static void push(struct batch *b, struct attention_grad_seq seq, int first, int copies)
{
    seq.query = b->T;
    seq.key = b->N;
    b->seqs[b->num_seqs++] = seq;
    for (int i = copies; i > 0; i--)
        b->key[b->N++] = seq.pos - i;
    for (int i = 0; i < seq.len; i++)
        b->token[b->T++] = b->key[b->N++] = first + i;
}

static void pack_shared(struct batch *b, const struct setting *s)
{
    new_batch(b);
    push(b, (struct attention_grad_seq){.len = s->prefix, .prefix = -1}, 0, 0);
    for (int i = 0; i < FOLLOWERS; i++)
        push(b, (struct attention_grad_seq){.len = own_len[i], .pos = s->prefix, .prefix = 0},
             first_token(s, i), s->prefix % ATTENTION_BLOCK);
}

// The prefix on its own, and each sequence with the prefix's tokens before its own, which are
// queries as well: their dout is 0, so that they add nothing.
static void pack_whole(struct batch *b, const struct setting *s)
{
    new_batch(b);
    push(b, (struct attention_grad_seq){.len = s->prefix, .prefix = -1}, 0, 0);
    for (int i = 0; i < FOLLOWERS; i++) {
        push(b, (struct attention_grad_seq){.len = s->prefix + own_len[i], .prefix = -1}, 0, 0);
        const int from = b->N - s->prefix - own_len[i];
        for (int j = 0; j < own_len[i]; j++)
            b->token[b->T - own_len[i] + j] = b->key[from + s->prefix + j] = first_token(s, i) + j;
    }
}

// Element i of row `token` of an array.
static float number(const char *name, int token, size_t i)
{
    const uint32_t v = philox4x32((uint64_t)name[0], (uint64_t)token, i).v[0];
    return (float)v * 0x1p-31F - 1.0F;
}

// Rows [count,width] of tokens on the device.
static float *rows(struct device *dev, const char *name, const int *token, int count, size_t width)
{
    float *x = mem_floats((size_t)count * width + 1);
    for (size_t t = 0; t < (size_t)count; t++)
        for (size_t i = 0; i < width; i++)
            x[t * width + i] = number(name, token[t], i);
    float *out = device_new(dev, x, ((size_t)count * width + 1) * sizeof *x);
    free(x);
    return out;
}

struct gradients {
    float *dq, *dkv; // [T,H,Dk], [N,row]
};

// dout of the copies of the prefix is 0, their out too, and so are their gradients.
static float *outputs(struct device *dev, const char *name, const struct setting *s,
                      const struct batch *b, size_t width)
{
    float *x = mem_array0((size_t)b->T * width + 1, sizeof *x);
    for (size_t t = 0; t < (size_t)b->T; t++)
        for (size_t i = 0; i < width; i++)
            if (t < (size_t)s->prefix || b->token[t] >= s->prefix)
                x[t * width + i] = number(name, b->token[t], i);
    float *out = device_new(dev, x, ((size_t)b->T * width + 1) * sizeof *x);
    free(x);
    return out;
}

static struct gradients run(struct device *dev, const struct setting *s, const struct batch *b)
{
    const struct attention_shape *shape = &s->shape;
    const size_t keys = (size_t)(shape->H * shape->Dk), values = (size_t)(shape->H * shape->Dv);
    const size_t row = (size_t)attention_row(shape), H = (size_t)shape->H;
    const size_t dq = (size_t)b->T * keys, dkv = (size_t)b->N * row;
    float *lse = mem_floats((size_t)b->T * H + 1);
    for (size_t i = 0; i < (size_t)b->T * H; i++)
        lse[i] = 5.0F + number("lse", b->token[i / H], i % H);
    struct attention_grad_args a = {
        .q = rows(dev, "q", b->token, b->T, keys),
        .kv = rows(dev, "kv", b->key, b->N, row),
        .out = outputs(dev, "out", s, b, values),
        .lse = device_new(dev, lse, ((size_t)b->T * H + 1) * sizeof *lse),
        .dout = outputs(dev, "dout", s, b, values),
        .dq = device_new(dev, NULL, (dq + 1) * sizeof(float)),
        .dkv = device_new(dev, NULL, (dkv + 1) * sizeof(float)),
        .seqs = device_new(dev, b->seqs, sizeof b->seqs),
        .shape = *shape,
        .num_seqs = b->num_seqs,
        .T = b->T,
        .N = b->N,
        .prefixes = b->seqs[1].prefix >= 0,
    };
    free(lse);
    assert_int_equal(dev->k->attention_grad(dev, &a), 0);
    const struct gradients g = {device_floats(dev, a.dq, dq), device_floats(dev, a.dkv, dkv)};
    const void *const all[] = {a.q, a.kv, a.out, a.lse, a.dout, a.dq, a.dkv, a.seqs};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device_release(dev, (void *)(uintptr_t)all[i]);
    return g;
}

// Sums of dkv by token [tokens,row], and of its magnitudes.
static void add_by_token(const struct batch *b, const float *dkv, size_t row, double *sum,
                         double *magnitude)
{
    for (size_t n = 0; n < (size_t)b->N; n++)
        for (size_t i = 0; i < row; i++) {
            sum[(size_t)b->key[n] * row + i] += (double)dkv[n * row + i];
            magnitude[(size_t)b->key[n] * row + i] += fabs((double)dkv[n * row + i]);
        }
}

static void compare(const struct setting *s, const struct batch *shared, struct gradients one,
                    const struct batch *whole, struct gradients other)
{
    const size_t keys = (size_t)(s->shape.H * s->shape.Dk), row = (size_t)attention_row(&s->shape);
    const size_t n = (size_t)first_token(s, FOLLOWERS) * row;
    for (int t = 0, w = 0; t < shared->T; t++, w++) {
        while (whole->token[w] != shared->token[t])
            w++;
        assert_memory_equal(one.dq + (size_t)t * keys, other.dq + (size_t)w * keys,
                            keys * sizeof(float));
    }
    double *sums = mem_array0(4 * n, sizeof *sums);
    add_by_token(shared, one.dkv, row, sums, sums + n);
    add_by_token(whole, other.dkv, row, sums + 2 * n, sums + 3 * n);
    // The terms are the same to the bit; chains of at most 128 queries of 8 heads and two products,
    // and then of 6 sequences, differ by the rounding of that many sums, of which most cancel.
    for (size_t i = 0; i < n; i++)
        assert_true(fabs(sums[i] - sums[2 * n + i]) <=
                    0x1p-24 * 256 * (1.0 + sums[n + i] + sums[3 * n + i]));
    free(sums);
}

static void shared_prefixes_are_whole_sequences(void **state)
{
    (void)state;
    static const struct setting settings[] = {
        {{.H = 4, .kv_heads = 1, .Dk = 40, .Dv = 32, .scale = 0.2F}, 130},
        {{.H = 8, .kv_heads = 2, .Dk = 16, .Dv = 16, .value_at = 16, .scale = 0.2F}, 65},
        {{.H = 3, .kv_heads = 3, .Dk = 7, .Dv = 7, .value_at = 7, .scale = 0.2F}, 64},
        {{.H = 2, .kv_heads = 1, .Dk = 20, .Dv = 12, .scale = 0.2F}, 63}};
    int devices[TEST_DEVICES_MAX];
    const int n = test_devices(devices);
    for (int i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
            struct device *dev = NULL;
            struct batch shared, whole;
            assert_int_equal(test_device_open(&dev, NULL, devices[i]), 0);
            pack_shared(&shared, &settings[k]);
            pack_whole(&whole, &settings[k]);
            struct gradients one = run(dev, &settings[k], &shared);
            struct gradients other = run(dev, &settings[k], &whole);
            compare(&settings[k], &shared, one, &whole, other);
            free(one.dq), free(one.dkv), free(other.dq), free(other.dkv);
            free_batch(&shared);
            free_batch(&whole);
            test_device_close(&dev);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shared_prefixes_are_whole_sequences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
