// SPDX-License-Identifier: Apache-2.0
#include "policy/optimizer.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/block.h"
#include "policy/parallel.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int open_range(struct optimizer **out, struct device *dev, size_t begin, size_t end,
                      const struct optimizer_settings *s)
{
    struct optimizer *o = mem_alloc0(sizeof *o);
    o->settings = *s;
    o->dev = dev;
    o->begin = begin;
    o->end = end;
    int rc = device_alloc_floats(o->dev, &o->m, end - begin);
    rc = rc ? rc : device_alloc_floats(o->dev, &o->v, end - begin);
    if (rc) {
        optimizer_free(&o);
        return rc;
    }
    *out = o;
    return 0;
}

size_t optimizer_bytes(const struct policy *p)
{
    size_t begin, end;
    parallel_range(p, parallel_rank(p), &begin, &end);
    return 2 * (end - begin) * sizeof(float);
}

int optimizer_open(struct optimizer **out, const struct policy *p,
                   const struct optimizer_settings *s)
{
    size_t begin, end;
    parallel_range(p, parallel_rank(p), &begin, &end);
    return open_range(out, p->dev, begin, end, s);
}

void optimizer_free(struct optimizer **o)
{
    if (o && *o) {
        device_release((*o)->dev, (*o)->m);
        device_release((*o)->dev, (*o)->v);
        free(*o);
        *o = NULL;
    }
}

double optimizer_rate(const struct optimizer_settings *s, int step, int total)
{
    if (step < s->warmup_steps) {
        return s->learning_rate * (step + 1) / s->warmup_steps;
    }
    int span = total - s->warmup_steps;
    double done = span > 0 ? fmin((double)(step - s->warmup_steps) / span, 1) : 1;
    double share = 1;
    switch (s->schedule) {
    case SCHEDULE_CONSTANT:
        break;
    case SCHEDULE_LINEAR:
        share = 1 - (1 - s->min_lr_ratio) * done;
        break;
    case SCHEDULE_COSINE:
        share = s->min_lr_ratio + (1 - s->min_lr_ratio) * 0.5 * (1 + cos(M_PI * done));
        break;
    }
    return s->learning_rate * share;
}

int optimizer_grad_norm(double *out, struct policy *p)
{
    // Padding and what is not trained have no gradient.
    const int blocks = parallel_blocks(p);
    double *squares = mem_array0((size_t)blocks, sizeof *squares), sum = 0;
    int first, rc = 0;
    const int own = parallel_own_blocks(p, &first);
    for (int b = 0; b < own && rc == 0; b++) {
        const size_t begin = parallel_block(p, first + b), end = parallel_block(p, first + b + 1);
        rc = p->dev->k->sum_squares(p->dev, &(struct sum_squares_args){.x = p->grad + begin,
                                                                       .n = end - begin,
                                                                       .out = p->grad_squares + b});
    }
    rc = rc ? rc
            : p->dev->memory->download(p->dev, squares + first, p->grad_squares,
                                       (size_t)own * sizeof *squares);
    rc = rc ? rc : parallel_sum(p, squares, blocks); // each is 0 on all ranks but one
    for (int b = 0; b < blocks; b++) {
        sum += squares[b];
    }
    free(squares);
    if (rc == 0) {
        *out = sqrt(sum);
    }
    return rc;
}

// One AdamW step of the part of a param that lies in the optimiser's range.
static int update_param(struct optimizer *o, struct policy *p, const struct param *q, double lr,
                        double scale)
{
    const struct optimizer_settings *s = &o->settings;
    const size_t begin = q->offset > o->begin ? q->offset : o->begin;
    const size_t end = q->offset + q->size < o->end ? q->offset + q->size : o->end;
    if (!q->trained || begin >= end) {
        return 0;
    }
    return p->dev->k->adamw(
        p->dev, &(struct adamw_args){.p = p->params.data + begin,
                                     .m = o->m + (begin - o->begin),
                                     .v = o->v + (begin - o->begin),
                                     .g = p->grad + begin,
                                     .n = end - begin,
                                     .lr = (float)lr,
                                     .beta1 = (float)s->adam_beta1,
                                     .beta2 = (float)s->adam_beta2,
                                     .eps = (float)s->adam_epsilon,
                                     .weight_decay = q->decay ? (float)s->weight_decay : 0.0f,
                                     .grad_scale = (float)scale,
                                     .step = o->step + 1});
}

int optimizer_update(struct optimizer *o, struct policy *p, double lr, double *norm)
{
    assert(p->grad);
    const struct optimizer_settings *s = &o->settings;
    double n = 0;
    int rc = parallel_reduce(p);
    rc = rc ? rc : optimizer_grad_norm(&n, p);
    if (rc) {
        return rc;
    }
    if (!isfinite(n)) {
        return parallel_common(p, err_set(ERR_NUMERIC, "the norm of the gradient is %g", n));
    }
    double scale = s->max_grad_norm > 0 ? fmin(1, s->max_grad_norm / (n + 1e-6)) : 1;
    for (int i = 0; i < p->params.count && rc == 0; i++) {
        rc = update_param(o, p, &p->params.list[i], lr, scale);
    }
    rc = rc ? rc : parallel_collect(p, p->params.data + o->begin, p->params.data, -1);
    if (rc) {
        return rc;
    }
    o->step++;
    *norm = n;
    return policy_weights_changed(p);
}

// ---- files: m/NAME and v/NAME of each trained tensor, in the shapes of the model's file; "step"
// in the metadata

static char *moment_name(char kind, const char *name)
{
    struct strbuf b = {0};
    strbuf_printf(&b, "%c/%s", kind, name);
    return strbuf_take(&b);
}

int optimizer_gather(struct optimizer **out, const struct optimizer *o, const struct policy *p)
{
    struct optimizer *whole = NULL;
    int rc = 0;
    *out = NULL;
    if (o->end - o->begin == p->params.size) {
        return 0;
    }
    if (parallel_rank(p) == 0) {
        rc = open_range(&whole, o->dev, 0, p->params.size, &o->settings);
    }
    rc = rc ? rc : parallel_collect(p, o->m, whole ? whole->m : NULL, 0);
    rc = rc ? rc : parallel_collect(p, o->v, whole ? whole->v : NULL, 0);
    if (rc) {
        optimizer_free(&whole);
        return rc;
    }
    if (whole) {
        whole->step = o->step;
    }
    *out = whole;
    return 0;
}

int optimizer_save(const struct optimizer *o, const struct policy *p, const char *dir)
{
    assert(o->end - o->begin == p->params.size);
    const struct params *list = &p->params;
    struct tensor *views = mem_array0((size_t)list->num_tensors, sizeof *views);
    struct tensor *tensors = mem_array0(2 * (size_t)list->num_tensors, sizeof *tensors);
    int count = 0;
    for (int i = 0; i < 2; i++) {
        params_view(views, list, i ? o->v : o->m);
        for (int j = 0; j < list->num_tensors; j++) {
            if (list->tensors[j].trained) {
                tensors[count] = views[j];
                tensors[count++].name = moment_name("mv"[i], views[j].name);
            }
        }
    }
    struct strbuf step = {0};
    strbuf_printf(&step, "%d", o->step);
    const char *metadata[] = {"step", step.data};
    char *path = path_join(dir, "optimizer.safetensors");
    int rc = safetensors_write(path, o->dev, tensors, count, metadata, 1);
    for (int i = 0; i < count; i++) {
        free((char *)(uintptr_t)tensors[i].name);
    }
    strbuf_free(&step);
    free(path);
    free(tensors);
    free(views);
    return rc;
}

// Copies the moments of one kind into a block of the host, each checked against the model.
static int load_moments(float *block, const struct safetensors *file, const struct params *list,
                        char kind, const char *path)
{
    for (int i = 0; i < list->num_tensors; i++) {
        const struct param_tensor *t = &list->tensors[i];
        if (!t->trained) {
            continue;
        }
        char *name = moment_name(kind, t->name);
        const struct tensor *found = safetensors_find(file, name);
        bool fits = found && found->dtype == TENSOR_F32 && found->rank == t->rank &&
                    found->shape[0] == t->shape[0] &&
                    (t->rank == 1 || found->shape[1] == t->shape[1]);
        int rc = fits ? 0
                      : err_set(ERR_MODEL, "%s: \"%s\" %s", path, name,
                                found ? "is not of the model's shape" : "is missing");
        free(name);
        if (rc) {
            return rc;
        }
        tensor_to_floats(block + t->offset, found);
    }
    return 0;
}

int optimizer_load(struct optimizer *o, const struct policy *p, const char *dir)
{
    const size_t size = p->params.size, bytes = (o->end - o->begin) * sizeof(float);
    char *path = path_join(dir, "optimizer.safetensors");
    float *m = mem_floats(size), *v = mem_floats(size);
    struct safetensors *file = NULL;
    long long step = 0;
    int rc = safetensors_open(&file, path, ERR_MODEL);
    if (rc == 0) {
        const char *text = safetensors_metadata(file, "step");
        if (!text || !str_to_int(text, 0, INT32_MAX, &step)) {
            rc = err_set(ERR_MODEL, "%s: the metadata give no \"step\"", path);
        }
    }
    rc = rc ? rc : load_moments(m, file, &p->params, 'm', path);
    rc = rc ? rc : load_moments(v, file, &p->params, 'v', path);
    rc = rc ? rc : o->dev->memory->upload(o->dev, o->m, m + o->begin, bytes);
    rc = rc ? rc : o->dev->memory->upload(o->dev, o->v, v + o->begin, bytes);
    if (rc == 0) {
        o->step = (int)step;
    }
    free(m);
    free(v);
    safetensors_free(&file);
    free(path);
    return rc;
}
