// SPDX-License-Identifier: Apache-2.0
// Operations on single tokens: embedding, cache rows, RoPE, SwiGLU, addition, conversion. Cut by
// tokens; the embedding's gradient by columns, since tokens share rows.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <string.h>

static void embed_share(void *arg, int rank, int size)
{
    const struct embed_args *a = arg;
    const size_t C = (size_t)a->C;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++)
        copy_as(a->out, a->out_type, (size_t)t * C, a->table, a->table_type, (size_t)a->ids[t] * C,
                C);
}

int FAST(embed)(struct device *dev, const struct embed_args *a)
{
    struct embed_args job = *a;
    cpu_run(dev, 2.0 * a->T * a->C, embed_share, &job);
    return 0;
}

static void embed_grad_share(void *arg, int rank, int size)
{
    const struct embed_grad_args *a = arg;
    const size_t C = (size_t)a->C;
    int begin, end;
    team_share(a->C, VEC_WIDTH, rank, size, &begin, &end);
    for (size_t t = 0; t < (size_t)a->T; t++) {
        float *to = a->dtable + (size_t)a->ids[t] * C;
        const float *from = a->dout + t * C;
        for (int c = begin; c < end; c++)
            to[c] += from[c];
    }
}

int FAST(embed_grad)(struct device *dev, const struct embed_grad_args *a)
{
    struct embed_grad_args job = *a;
    cpu_run(dev, 4.0 * a->T * a->C, embed_grad_share, &job);
    return 0;
}

static void kv_store_share(void *arg, int rank, int size)
{
    const struct kv_store_args *a = arg;
    const size_t row = (size_t)a->D * dtype_size(a->type);
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++)
        memcpy((char *)a->pages + a->place[t] * row, (const char *)a->rows + (size_t)t * row, row);
}

int FAST(kv_store)(struct device *dev, const struct kv_store_args *a)
{
    struct kv_store_args job = *a;
    cpu_run(dev, 2.0 * a->T * a->D, kv_store_share, &job);
    return 0;
}

// n pairs, the i-th (x[step i], x[step i + apart]); y may be x.
static inline void rope_pairs(const float *x, float *y, int n, int step, int apart, const float *c,
                              const float *s, float sign)
{
    for (int i = 0; i < n; i++) {
        const float u = x[step * i], v = x[step * i + apart], sine = sign * s[i];
        y[step * i] = u * c[i] - v * sine;
        y[step * i + apart] = u * sine + v * c[i];
    }
}

// A head of half pairs.
static void rope_head(const float *x, float *y, int half, bool halves, const float *c,
                      const float *s, float sign)
{
    if (halves)
        rope_pairs(x, y, half, 1, half, c, s, sign);
    else
        rope_pairs(x, y, half, 2, 1, c, s, sign);
}

struct rope_job {
    struct device *dev;
    const struct rope_args *a;
};

// One head, from element x on to element y on; bfloat16 by way of wide[D].
static void rope_typed_head(const struct rope_args *a, float *wide, size_t x, size_t y,
                            const float *c, const float *s)
{
    const size_t D = (size_t)a->D;
    const float *from = wide;
    float *to = wide;
    if (a->x_type == DTYPE_F32)
        from = (const float *)a->x + x;
    else
        copy_as(wide, DTYPE_F32, 0, a->x, a->x_type, x, D);
    if (a->y_type == DTYPE_F32)
        to = (float *)a->y + y;
    rope_head(from, to, a->D / 2, a->halves, c, s, a->inverse ? -1.0f : 1.0f);
    if (a->y_type != DTYPE_F32)
        copy_as(a->y, a->y_type, y, wide, DTYPE_F32, 0, D);
}

static void rope_share(void *arg, int rank, int size)
{
    const struct rope_job *job = arg;
    const struct rope_args *a = job->a;
    float *wide = cpu_scratch(job->dev, rank, (size_t)a->D);
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t t = (size_t)begin; t < (size_t)end; t++) {
        const size_t row = (size_t)a->position[t] * (size_t)(a->D / 2);
        for (size_t h = 0; h < (size_t)a->heads; h++)
            rope_typed_head(a, wide, t * a->ldx + h * a->stride_x, t * a->ldy + h * a->stride_y,
                            a->cos + row, a->sin + row);
    }
}

int FAST(rope)(struct device *dev, const struct rope_args *a)
{
    assert(a->D % 2 == 0);
    struct rope_job job = {dev, a};
    cpu_run(dev, 8.0 * a->T * a->heads * a->D, rope_share, &job);
    return 0;
}

static void swiglu_share(void *arg, int rank, int size)
{
    const struct swiglu_args *a = arg;
    const size_t F = (size_t)a->F;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t t = (size_t)begin; t < (size_t)end; t++) {
        const size_t row = t * 2 * F;
        for (size_t f = 0; f < F; f += VEC_WIDTH) {
            const int n = vec_lanes_at(F, f);
            const vec gate = vec_load_as(a->gate_up, a->gate_up_type, row + f, n);
            const vec up = vec_load_as(a->gate_up, a->gate_up_type, row + F + f, n);
            vec_store_as(a->h, a->h_type, t * F + f, vec_mul(vec_mul(gate, vec_sigmoid(gate)), up),
                         n);
        }
    }
}

int FAST(swiglu)(struct device *dev, const struct swiglu_args *a)
{
    struct swiglu_args job = *a;
    cpu_run(dev, 16.0 * a->T * a->F, swiglu_share, &job);
    return 0;
}

static void swiglu_grad_share(void *arg, int rank, int size)
{
    const struct swiglu_grad_args *a = arg;
    const size_t F = (size_t)a->F;
    const vec one = vec_set1(1.0f);
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t t = (size_t)begin; t < (size_t)end; t++) {
        const size_t row = t * 2 * F;
        for (size_t f = 0; f < F; f += VEC_WIDTH) {
            const int n = vec_lanes_at(F, f);
            const vec gate = vec_load_as(a->gate_up, a->gate_up_type, row + f, n);
            const vec up = vec_load_as(a->gate_up, a->gate_up_type, row + F + f, n);
            const vec dh = vec_load_n(a->dh + t * F + f, n);
            const vec s = vec_sigmoid(gate);
            const vec slope = vec_mul(s, vec_fma(gate, vec_sub(one, s), one));
            vec_store_as(a->dgate_up, a->dgate_up_type, row + f, vec_mul(vec_mul(dh, up), slope),
                         n);
            vec_store_as(a->dgate_up, a->dgate_up_type, row + F + f, vec_mul(dh, vec_mul(gate, s)),
                         n);
        }
    }
}

int FAST(swiglu_grad)(struct device *dev, const struct swiglu_grad_args *a)
{
    struct swiglu_grad_args job = *a;
    cpu_run(dev, 20.0 * a->T * a->F, swiglu_grad_share, &job);
    return 0;
}

static void add_share(void *arg, int rank, int size)
{
    const struct add_args *a = arg;
    const size_t begin = a->n * (size_t)rank / (size_t)size;
    const size_t end = a->n * ((size_t)rank + 1) / (size_t)size;
    for (size_t i = begin; i < end; i++)
        a->y[i] += a->x[i];
}

int FAST(add)(struct device *dev, const struct add_args *a)
{
    struct add_args job = *a;
    cpu_run(dev, 3.0 * (double)a->n, add_share, &job);
    return 0;
}

static void convert_share(void *arg, int rank, int size)
{
    const struct convert_args *a = arg;
    const size_t begin = a->n * (size_t)rank / (size_t)size;
    const size_t end = a->n * ((size_t)rank + 1) / (size_t)size;
    copy_as(a->y, a->y_type, begin, a->x, a->x_type, begin, end - begin);
}

int FAST(convert)(struct device *dev, const struct convert_args *a)
{
    struct convert_args job = *a;
    cpu_run(dev, 3.0 * (double)a->n, convert_share, &job);
    return 0;
}
