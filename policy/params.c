// SPDX-License-Identifier: Apache-2.0
#include "policy/params.h"

#include "base/mem.h"
#include "base/philox.h"
#include "base/team.h"
#include "kernels/block.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Theory of operation. params_layout walks the architecture once; add() appends a param, part()
// names a piece of the last param as a tensor on disk. Both lists grow by doubling. Places in the
// block are given at the end.
struct builder {
    struct params *p;
    int layer;
    int cap, cap_tensors;
};

static void *grown(void *list, int count, int *cap, size_t size)
{
    if (count < *cap) {
        return list;
    }
    *cap = *cap ? 2 * *cap : 64;
    return mem_realloc(list, (size_t)*cap * size);
}

// shape: [a], [a,b] or [a,b,c]; unused sizes are 0. The name is completed by the layer's prefix.
static struct param *add(struct builder *b, const char *name, int n0, int n1, int n2)
{
    struct params *p = b->p;
    p->list = grown(p->list, p->count, &b->cap, sizeof *p->list);
    struct param *q = &p->list[p->count++];
    *q = (struct param){
        .index = p->count - 1, .layer = b->layer, .shape = {n0, n1, n2}, .trained = true};
    q->rank = n1 == 0 ? 1 : (n2 == 0 ? 2 : 3);
    q->size = (size_t)n0 * (size_t)(n1 ? n1 : 1) * (size_t)(n2 ? n2 : 1);
    q->decay = q->packed = q->rank >= 2;
    if (b->layer >= 0) {
        snprintf(q->name, sizeof q->name, "model.layers.%d.%s", b->layer, name);
    } else {
        snprintf(q->name, sizeof q->name, "%s", name);
    }
    return q;
}

// A tensor on disk: n0 rows of n1 (0: a vector) that begin `row` rows into param q.
static void part(struct builder *b, const struct param *q, const char *name, int row, int n0,
                 int n1)
{
    struct params *p = b->p;
    p->tensors = grown(p->tensors, p->num_tensors, &b->cap_tensors, sizeof *p->tensors);
    struct param_tensor *t = &p->tensors[p->num_tensors++];
    size_t width = (size_t)(n1 ? n1 : 1);
    *t = (struct param_tensor){.shape = {n0, n1}, .rank = n1 ? 2 : 1, .trained = q->trained};
    t->param = q->index;
    t->offset = (size_t)row * width;
    t->size = (size_t)n0 * width;
    snprintf(t->name, sizeof t->name, "%s", name);
}

// A param that is one tensor on disk.
static struct param *add_whole(struct builder *b, const char *name, int n0, int n1)
{
    struct param *q = add(b, name, n0, n1, 0);
    part(b, q, q->name, 0, n0, n1);
    return q;
}

// gate and up, one above the other, and down, of `count` FFNs of one width (0: a single FFN, not
// numbered).
static void add_ffn(struct builder *b, const char *stem, int count, int C, int width)
{
    char name[96];
    snprintf(name, sizeof name, "%s.gate_up_proj.weight", stem);
    struct param *q = count ? add(b, name, count, 2 * width, C) : add(b, name, 2 * width, C, 0);
    struct param gate_up = *q; // the list may move
    snprintf(name, sizeof name, "%s.down_proj.weight", stem);
    q = count ? add(b, name, count, C, width) : add(b, name, C, width, 0);
    struct param down = *q;
    for (int e = 0; e < (count ? count : 1); e++) {
        char prefix[64] = "";
        if (count) {
            snprintf(prefix, sizeof prefix, ".%d", e);
        }
        static const char *const halves[2] = {"gate_proj", "up_proj"};
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s%s.%s.weight", b->layer, stem, prefix,
                     halves[i]);
            part(b, &gate_up, name, (2 * e + i) * width, width, C);
        }
        snprintf(name, sizeof name, "model.layers.%d.%s%s.down_proj.weight", b->layer, stem,
                 prefix);
        part(b, &down, name, e * C, C, width);
    }
}

static void add_latent_attention(struct builder *b, const struct arch *a)
{
    int per_head = a->Dn + a->Dr;
    if (a->Rq > 0) {
        add_whole(b, "self_attn.q_a_proj.weight", a->Rq, a->C);
        add_whole(b, "self_attn.q_a_layernorm.weight", a->Rq, 0);
        add_whole(b, "self_attn.q_b_proj.weight", a->H * per_head, a->Rq);
    } else {
        add_whole(b, "self_attn.q_proj.weight", a->H * per_head, a->C);
    }
    add_whole(b, "self_attn.kv_a_proj_with_mqa.weight", a->R + a->Dr, a->C);
    add_whole(b, "self_attn.kv_a_layernorm.weight", a->R, 0);
    add_whole(b, "self_attn.kv_b_proj.weight", a->H * (a->Dn + a->Dv), a->R);
    add_whole(b, "self_attn.o_proj.weight", a->C, a->H * a->Dv);
}

// The projections of queries, keys and values, one above the other: rows of n1, or (n1 0) a bias.
static void add_qkv(struct builder *b, const struct arch *a, const char *kind, int n1)
{
    static const char *const names[3] = {"q_proj", "k_proj", "v_proj"};
    const int rows[3] = {a->H * a->Dr, a->Hkv * a->Dr, a->Hkv * a->Dv};
    char name[96];
    snprintf(name, sizeof name, "self_attn.qkv_proj.%s", kind);
    struct param *q = add(b, name, rows[0] + rows[1] + rows[2], n1, 0);
    q->packed = true;
    const struct param qkv = *q;
    for (int i = 0, row = 0; i < 3; row += rows[i++]) {
        snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.%s", b->layer, names[i], kind);
        part(b, &qkv, name, row, rows[i], n1);
    }
}

static void add_grouped_attention(struct builder *b, const struct arch *a)
{
    add_qkv(b, a, "weight", a->C);
    if (a->qkv_bias) {
        add_qkv(b, a, "bias", 0);
    }
    if (a->qk_norm) {
        add_whole(b, "self_attn.q_norm.weight", a->Dr, 0);
        add_whole(b, "self_attn.k_norm.weight", a->Dr, 0);
    }
    add_whole(b, "self_attn.o_proj.weight", a->C, a->H * a->Dv);
    if (a->o_bias) {
        add_whole(b, "self_attn.o_proj.bias", a->C, 0)->packed = true;
    }
}

static void add_layer(struct builder *b, const struct arch *a)
{
    add_whole(b, "input_layernorm.weight", a->C, 0);
    if (arch_is_latent(a)) {
        add_latent_attention(b, a);
    } else {
        add_grouped_attention(b, a);
    }
    add_whole(b, "post_attention_layernorm.weight", a->C, 0);
    if (b->layer < a->dense_layers) {
        add_ffn(b, "mlp", 0, a->C, a->dense_width);
        return;
    }
    add_whole(b, "mlp.gate.weight", a->E, a->C);
    if (a->route_bias) {
        struct param *bias = add(b, "mlp.gate.e_score_correction_bias", a->E, 0, 0);
        bias->trained = false;
        part(b, bias, bias->name, 0, a->E, 0);
    }
    add_ffn(b, "mlp.experts", a->E, a->C, a->F);
    if (a->S > 0) {
        add_ffn(b, "mlp.shared_experts", 0, a->C, a->S * a->F);
    }
}

bool params_hold(const struct params *p, const struct param *q)
{
    return !p->read_only || !q->packed;
}

int params_parts(const struct param *q) { return q->rank == 3 ? q->shape[0] : 1; }

// Places in the block.
static void place(struct params *p)
{
    for (int i = 0; i < p->count; i++) {
        struct param *q = &p->list[i];
        if (params_hold(p, q)) {
            q->offset = p->size;
            p->size += (q->size + 15) / 16 * 16;
        }
    }
    for (int i = 0; i < p->num_tensors; i++) {
        p->tensors[i].offset += p->list[p->tensors[i].param].offset;
    }
}

void params_layout(struct params *out, const struct arch *a, bool read_only)
{
    struct params p = {.read_only = read_only};
    struct builder b = {.p = &p, .layer = -1};
    struct param *embed = add_whole(&b, "model.embed_tokens.weight", a->V, a->C);
    embed->decay = embed->packed = false;
    for (b.layer = 0; b.layer < a->L; b.layer++) {
        add_layer(&b, a);
    }
    b.layer = -1;
    add_whole(&b, "model.norm.weight", a->C, 0);
    if (!a->tied) {
        add_whole(&b, "lm_head.weight", a->V, a->C);
    }
    if (a->value_head) {
        add_whole(&b, "score.weight", 1, a->C);
        add_whole(&b, "score.bias", 1, 0);
    }
    place(&p);
    *out = p;
}

int params_alloc(struct params *p, struct device *dev)
{
    p->dev = dev;
    return device_alloc_floats(dev, &p->data, p->size);
}

void params_free(struct params *p)
{
    free(p->list);
    free(p->tensors);
    if (p->dev) {
        device_release(p->dev, p->data);
    }
    *p = (struct params){0};
}

const struct param *params_find(const struct params *p, const char *fmt, ...)
{
    char name[sizeof p->list->name];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    for (int i = 0; i < p->count; i++) {
        if (!strcmp(p->list[i].name, name)) {
            return &p->list[i];
        }
    }
    return NULL;
}

// FNV-1a, 64 bits: names of tensors become keys.
static uint64_t name_hash(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) {
        h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    }
    return h;
}

struct normal_job {
    float *x;
    size_t n;
    double sd;
    uint64_t key;
};

// Element i takes lane i % 4 of block i / 4: two Box-Muller pairs a block.
static void fill_normal_share(void *arg, int rank, int size)
{
    const struct normal_job *job = arg;
    const size_t blocks = (job->n + 3) / 4;
    const size_t begin = blocks * (size_t)rank / (size_t)size;
    const size_t end = blocks * ((size_t)rank + 1) / (size_t)size;
    for (size_t b = begin; b < end; b++) {
        struct philox_block r = philox4x32(job->key, b, 0);
        double z[4];
        for (int j = 0; j < 4; j += 2) {
            double radius = sqrt(-2 * log(philox_unit(r.v[j])));
            double angle = 2 * M_PI * philox_unit(r.v[j + 1]);
            z[j] = radius * cos(angle);
            z[j + 1] = radius * sin(angle);
        }
        for (size_t j = 0; j < 4 && 4 * b + j < job->n; j++) {
            job->x[4 * b + j] = (float)(job->sd * z[j]);
        }
    }
}

void params_init(float *x, const struct param_tensor *t, double init_range, uint64_t seed,
                 struct team *team)
{
    if (t->rank == 2 && strcmp(t->name, "score.weight")) {
        struct normal_job job = {x, t->size, init_range, philox_mix(seed, name_hash(t->name))};
        team_run(team, fill_normal_share, &job);
        return;
    }
    float value = strstr(t->name, "norm.weight") ? 1.0f : 0.0f;
    for (size_t i = 0; i < t->size; i++) {
        x[i] = value;
    }
}

float *params_tensor_buffer(const struct params *p)
{
    size_t largest = 0;
    for (int i = 0; i < p->num_tensors; i++) {
        largest = p->tensors[i].size > largest ? p->tensors[i].size : largest;
    }
    return mem_floats(largest);
}

void params_view(struct tensor *out, const struct params *p, const float *block)
{
    assert(!p->read_only);
    for (int i = 0; i < p->num_tensors; i++) {
        const struct param_tensor *t = &p->tensors[i];
        out[i] = (struct tensor){.name = t->name,
                                 .dtype = TENSOR_F32,
                                 .rank = t->rank,
                                 .shape = {t->shape[0], t->shape[1]},
                                 .data = block + t->offset,
                                 .size = t->size * sizeof(float)};
    }
}
