// SPDX-License-Identifier: Apache-2.0
// Operations on single tokens: embedding, cache rows, RoPE, SwiGLU, addition, conversion. Cut by
// tokens; the embedding's gradient by columns, since tokens share rows.
#include "kernels/cpu/element.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <string.h>

static void embed_share(void *arg, int rank, int size)
{
    const struct embed_args *a = arg;
    const size_t C = (size_t)a->C;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++)
        memcpy((float *)a->out + (size_t)t * C, a->table + (size_t)a->ids[t] * C,
               C * sizeof(float));
}

int FAST(embed)(struct device *dev, const struct embed_args *a)
{
    if (a->out_type != DTYPE_F32)
        return ref_embed(dev, a);
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

static void rope_head(const struct rope_args *a, const float *x, float *y, const float *c,
                      const float *s, float sign)
{
    const int half = a->D / 2;
    if (a->halves)
        for (int i = 0; i < half; i++) {
            const float u = x[i], v = x[i + half], sine = sign * s[i];
            y[i] = u * c[i] - v * sine;
            y[i + half] = u * sine + v * c[i];
        }
    else
        for (int i = 0; i < half; i++) {
            const float u = x[2 * i], v = x[2 * i + 1], sine = sign * s[i];
            y[2 * i] = u * c[i] - v * sine;
            y[2 * i + 1] = u * sine + v * c[i];
        }
}

static void rope_share(void *arg, int rank, int size)
{
    const struct rope_args *a = arg;
    const size_t half = (size_t)a->D / 2;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++) {
        const size_t row = (size_t)a->position[t] * half;
        for (size_t h = 0; h < (size_t)a->heads; h++)
            rope_head(a, (const float *)a->x + (size_t)t * a->ldx + h * a->stride_x,
                      (float *)a->y + (size_t)t * a->ldy + h * a->stride_y, a->cos + row,
                      a->sin + row, a->inverse ? -1.0f : 1.0f);
    }
}

int FAST(rope)(struct device *dev, const struct rope_args *a)
{
    assert(a->D % 2 == 0);
    if (a->x_type != DTYPE_F32 || a->y_type != DTYPE_F32)
        return ref_rope(dev, a);
    struct rope_args job = *a;
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
        const float *row = (const float *)a->gate_up + t * 2 * F;
        float *h = (float *)a->h + t * F;
        for (size_t f = 0; f < F; f += VEC_WIDTH) {
            const vec_mask m = vec_mask_at(F, f);
            const vec gate = vec_load_mask(row + f, m), up = vec_load_mask(row + F + f, m);
            vec_store_mask(h + f, vec_mul(vec_mul(gate, vec_sigmoid(gate)), up), m);
        }
    }
}

int FAST(swiglu)(struct device *dev, const struct swiglu_args *a)
{
    if (a->gate_up_type != DTYPE_F32 || a->h_type != DTYPE_F32)
        return ref_swiglu(dev, a);
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
        const float *row = (const float *)a->gate_up + t * 2 * F;
        float *out = (float *)a->dgate_up + t * 2 * F;
        for (size_t f = 0; f < F; f += VEC_WIDTH) {
            const vec_mask m = vec_mask_at(F, f);
            const vec gate = vec_load_mask(row + f, m), up = vec_load_mask(row + F + f, m);
            const vec dh = vec_load_mask(a->dh + t * F + f, m), s = vec_sigmoid(gate);
            const vec slope = vec_mul(s, vec_fma(gate, vec_sub(one, s), one));
            vec_store_mask(out + f, vec_mul(vec_mul(dh, up), slope), m);
            vec_store_mask(out + F + f, vec_mul(dh, vec_mul(gate, s)), m);
        }
    }
}

int FAST(swiglu_grad)(struct device *dev, const struct swiglu_grad_args *a)
{
    if (a->gate_up_type != DTYPE_F32 || a->dgate_up_type != DTYPE_F32)
        return ref_swiglu_grad(dev, a);
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
    for (size_t i = begin; i < end; i++)
        element_write(a->y, a->y_type, i, element_read(a->x, a->x_type, i));
}

int FAST(convert)(struct device *dev, const struct convert_args *a)
{
    struct convert_args job = *a;
    cpu_run(dev, 3.0 * (double)a->n, convert_share, &job);
    return 0;
}
