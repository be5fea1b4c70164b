// SPDX-License-Identifier: Apache-2.0
#include "policy/intake.h"

#include "kernels/block.h"
#include "policy/weights.h"

#include <stdlib.h>

// Floats of what is packed at once: a matrix of a stack, or all of a param.
static size_t part_size(const struct param *q) { return q->size / (size_t)params_parts(q); }

static size_t largest_part(const struct params *p)
{
    size_t largest = 0;
    for (int i = 0; i < p->count; i++) {
        const struct param *q = &p->list[i];
        if (!params_hold(p, q) && part_size(q) > largest) {
            largest = part_size(q);
        }
    }
    return largest;
}

int intake_open(struct intake *out, struct policy *p)
{
    *out = (struct intake){.p = p};
    const size_t staged = largest_part(&p->params) * sizeof *out->staged;
    int rc = params_alloc(&p->params, p->dev);
    rc = rc ? rc : weights_open(&p->packed, p);
    if (rc == 0 && staged > 0) {
        rc = p->dev->memory->alloc(p->dev, (void **)&out->staged, staged);
    }
    if (rc == 0 && !p->dev->memory->of_host) {
        out->host = params_tensor_buffer(&p->params);
    }
    return rc;
}

// The part of its param that a tensor belongs to, and where the tensor begins in it, in floats.
static size_t part_of(const struct intake *in, const struct param_tensor *t, size_t *at)
{
    const struct param *q = &in->p->params.list[t->param];
    *at = (t->offset - q->offset) % part_size(q);
    return (t->offset - q->offset) / part_size(q);
}

// The memory of the device for that part.
static float *part_data(const struct intake *in, const struct param *q, size_t part)
{
    const struct params *p = &in->p->params;
    return params_hold(p, q) ? p->data + q->offset + part * part_size(q) : in->staged;
}

static float *tensor_data(const struct intake *in, const struct param_tensor *t)
{
    size_t at;
    const size_t part = part_of(in, t, &at);
    return part_data(in, &in->p->params.list[t->param], part) + at;
}

float *intake_room(const struct intake *in, const struct param_tensor *t)
{
    return in->host ? in->host : tensor_data(in, t);
}

int intake_take(const struct intake *in, const struct param_tensor *t)
{
    const struct policy *p = in->p;
    const struct param *q = &p->params.list[t->param];
    size_t at;
    const size_t part = part_of(in, t, &at);
    int rc = 0;
    if (in->host) {
        rc = p->dev->memory->upload(p->dev, tensor_data(in, t), in->host,
                                    t->size * sizeof *in->host);
    }
    const bool complete = at + t->size == part_size(q);
    return rc || !complete
               ? rc
               : weights_pack_param(p->packed, p, q, part_data(in, q, part), (int)part, 1);
}

void intake_close(struct intake *in)
{
    device_release(in->p->dev, in->staged);
    free(in->host);
    *in = (struct intake){0};
}
