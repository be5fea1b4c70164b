// SPDX-License-Identifier: Apache-2.0
// Operations on single tokens: embedding, cache rows, RoPE, SwiGLU, addition, conversion.
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>

int ref_embed(struct device *dev, const struct embed_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C;
    for (size_t t = 0; t < (size_t)a->T; t++) {
        assert(a->ids[t] >= 0);
        for (size_t c = 0; c < C; c++)
            element_write(a->out, a->out_type, t * C + c,
                          element_read(a->table, a->table_type, (size_t)a->ids[t] * C + c));
    }
    return 0;
}

int ref_embed_grad(struct device *dev, const struct embed_grad_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C;
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t c = 0; c < C; c++)
            a->dtable[(size_t)a->ids[t] * C + c] += a->dout[t * C + c];
    return 0;
}

int ref_kv_store(struct device *dev, const struct kv_store_args *a)
{
    (void)dev;
    const size_t row = (size_t)a->D * dtype_size(a->type);
    for (size_t t = 0; t < (size_t)a->T; t++)
        memcpy((char *)a->pages + a->place[t] * row, (const char *)a->rows + t * row, row);
    return 0;
}

int ref_rope(struct device *dev, const struct rope_args *a)
{
    (void)dev;
    assert(a->D % 2 == 0);
    const size_t half = (size_t)a->D / 2;
    const size_t step = a->halves ? 1 : 2, apart = a->halves ? half : 1;
    for (size_t t = 0; t < (size_t)a->T; t++) {
        const float *c = a->cos + (size_t)a->position[t] * half;
        const float *s = a->sin + (size_t)a->position[t] * half;
        for (size_t h = 0; h < (size_t)a->heads; h++) {
            for (size_t i = 0; i < half; i++) {
                const size_t x = t * a->ldx + h * a->stride_x + step * i;
                const size_t y = t * a->ldy + h * a->stride_y + step * i;
                const double u = (double)element_read(a->x, a->x_type, x);
                const double v = (double)element_read(a->x, a->x_type, x + apart);
                const double sine = a->inverse ? -(double)s[i] : (double)s[i];
                element_write(a->y, a->y_type, y, (float)(u * (double)c[i] - v * sine));
                element_write(a->y, a->y_type, y + apart, (float)(u * sine + v * (double)c[i]));
            }
        }
    }
    return 0;
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

int ref_swiglu(struct device *dev, const struct swiglu_args *a)
{
    (void)dev;
    const size_t F = (size_t)a->F;
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t f = 0; f < F; f++) {
            const size_t at = t * 2 * F + f;
            const double gate = (double)element_read(a->gate_up, a->gate_up_type, at);
            const double up = (double)element_read(a->gate_up, a->gate_up_type, at + F);
            element_write(a->h, a->h_type, t * F + f, (float)(gate * sigmoid(gate) * up));
        }
    return 0;
}

// d SiLU(x)/dx = sigmoid(x) (1 + x (1 - sigmoid(x)))
int ref_swiglu_grad(struct device *dev, const struct swiglu_grad_args *a)
{
    (void)dev;
    const size_t F = (size_t)a->F;
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t f = 0; f < F; f++) {
            const size_t at = t * 2 * F + f;
            const double gate = (double)element_read(a->gate_up, a->gate_up_type, at);
            const double up = (double)element_read(a->gate_up, a->gate_up_type, at + F);
            const double dh = (double)a->dh[t * F + f], s = sigmoid(gate);
            element_write(a->dgate_up, a->dgate_up_type, at,
                          (float)(dh * up * s * (1.0 + gate * (1.0 - s))));
            element_write(a->dgate_up, a->dgate_up_type, at + F, (float)(dh * gate * s));
        }
    return 0;
}

int ref_add(struct device *dev, const struct add_args *a)
{
    (void)dev;
    for (size_t i = 0; i < a->n; i++)
        a->y[i] += a->x[i];
    return 0;
}

int ref_convert(struct device *dev, const struct convert_args *a)
{
    (void)dev;
    for (size_t i = 0; i < a->n; i++)
        element_write(a->y, a->y_type, i, element_read(a->x, a->x_type, i));
    return 0;
}
