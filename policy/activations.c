// SPDX-License-Identifier: Apache-2.0
#include "policy/activations.h"

#include "base/mem.h"

#include <stdlib.h>

// Carving: with the blocks NULL it only counts, so the same walk measures and assigns.
struct carver {
    float *floats;
    int *ints;
    size_t num_floats, num_ints;
    size_t T;
};

// T rows of n floats, 64-byte aligned; NULL when n is 0.
static float *take(struct carver *c, size_t rows, size_t n)
{
    float *at = c->floats && n ? c->floats + c->num_floats : NULL;
    c->num_floats += (rows * n + 15) / 16 * 16;
    return at;
}

static int *take_ints(struct carver *c, size_t n)
{
    int *at = c->ints && n ? c->ints + c->num_ints : NULL;
    c->num_ints += n;
    return at;
}

static size_t ffn_width(const struct arch *a, int l)
{
    return l < a->dense_layers ? (size_t)a->dense_width : (size_t)a->S * a->F;
}

static size_t ffn_width_max(const struct arch *a)
{
    size_t dense = a->dense_layers > 0 ? (size_t)a->dense_width : 0, shared = (size_t)a->S * a->F;
    return dense > shared ? dense : shared;
}

static void carve_layer(struct carver *c, struct layer_acts *l, const struct arch *a, size_t width,
                        bool mixture)
{
    size_t T = c->T, H = (size_t)a->H, row = (size_t)(a->R + a->Dr);
    l->x = take(c, T, (size_t)a->C);
    l->rstd1 = take(c, T, 1);
    l->q_a = take(c, T, (size_t)a->Rq);
    l->rstd_q = take(c, T, a->Rq > 0);
    l->q = take(c, T, H * (a->Dn + a->Dr));
    l->q_lat = take(c, T, H * row);
    l->kv_a = take(c, T, row);
    l->rstd_kv = take(c, T, 1);
    l->kv = take(c, T, row);
    l->o_lat = take(c, T, H * a->R);
    l->lse = take(c, T, H);
    l->o = take(c, T, H * a->Dv);
    l->h = take(c, T, (size_t)a->C);
    l->rstd2 = take(c, T, 1);
    l->gate_up = take(c, T, 2 * width);
    if (mixture) {
        size_t pairs = T * a->K;
        l->scores = take(c, T, (size_t)a->E);
        l->weights = take(c, T, (size_t)a->K);
        l->exp_gate_up = take(c, pairs, 2 * (size_t)a->F);
        l->ys = take(c, pairs, (size_t)a->C);
        l->experts = take_ints(c, pairs);
        l->segments = take_ints(c, (size_t)a->E + 1);
        l->slot = take_ints(c, pairs);
        l->pair = take_ints(c, pairs);
    }
}

static void carve_layers(struct carver *c, struct layer_acts *layers, const struct arch *a,
                         bool train)
{
    if (!train) { // one for all, the widest
        carve_layer(c, &layers[0], a, ffn_width_max(a), a->dense_layers < a->L);
        for (int l = 1; l < a->L; l++) {
            layers[l] = layers[0];
        }
        return;
    }
    for (int l = 0; l < a->L; l++) {
        carve_layer(c, &layers[l], a, ffn_width(a, l), l >= a->dense_layers);
    }
}

static void carve_gradients(struct carver *c, struct policy_activations *s, const struct arch *a)
{
    size_t T = c->T, H = (size_t)a->H, row = (size_t)(a->R + a->Dr), pairs = T * a->K;
    s->dx = take(c, T, (size_t)a->C);
    s->dn = take(c, T, (size_t)a->C);
    s->dq_n = take(c, T, (size_t)a->Rq);
    s->do_ = take(c, T, H * a->Dv);
    s->do_lat = take(c, T, H * a->R);
    s->dq_lat = take(c, T, H * row);
    s->dq = take(c, T, H * (a->Dn + a->Dr));
    s->dkv = take(c, T, row);
    s->dffn = take(c, T, ffn_width_max(a));
    s->dlogits = take(c, T, (size_t)a->E);
    s->dweights = take(c, pairs, 1);
    s->dxs = take(c, pairs, (size_t)a->C);
    s->dhs = take(c, pairs, (size_t)a->F);
    s->dhidden = take(c, (size_t)s->num_targets, (size_t)a->C);
}

static void carve(struct carver *c, struct policy_activations *s, const struct arch *a)
{
    size_t T = c->T, pairs = T * a->K;
    carve_layers(c, s->layer, a, s->train);
    s->n = take(c, T, (size_t)a->C);
    s->q_n = take(c, T, (size_t)a->Rq);
    s->y = take(c, T, (size_t)a->C);
    s->ffn = take(c, T, ffn_width_max(a));
    s->logits = take(c, T, (size_t)a->E);
    s->xs = take(c, pairs, (size_t)a->C);
    s->hs = take(c, pairs, (size_t)a->F);
    s->x_last = take(c, T, (size_t)a->C);
    s->rstd_last = take(c, T, 1);
    s->hidden = take(c, (size_t)s->num_targets, (size_t)a->C);
    if (s->train) {
        carve_gradients(c, s, a);
    }
    s->position = take_ints(c, T);
}

// Memory for n elements of `size` bytes; what was in it is lost.
static void *regrown(void *block, size_t n, size_t *cap, size_t size)
{
    if (n <= *cap) {
        return block;
    }
    free(block);
    *cap = n + n / 4;
    return mem_aligned(*cap * size);
}

void activations_begin(struct policy *p, int T, int num_targets, int num_seqs, int num_blocks,
                       bool train)
{
    if (!p->acts) {
        p->acts = mem_alloc0(sizeof *p->acts);
        p->acts->layer = mem_array0((size_t)p->arch.L, sizeof *p->acts->layer);
    }
    struct policy_activations *s = p->acts;
    s->T = T;
    s->num_targets = num_targets;
    s->num_seqs = num_seqs;
    s->num_blocks = num_blocks;
    s->train = train;
    struct carver c = {.T = (size_t)T};
    carve(&c, s, &p->arch);
    s->floats = regrown(s->floats, c.num_floats, &s->cap_floats, sizeof *s->floats);
    s->ints = regrown(s->ints, c.num_ints, &s->cap_ints, sizeof *s->ints);
    s->seqs = regrown(s->seqs, (size_t)num_seqs, &s->cap_seqs, sizeof *s->seqs);
    s->kv_blocks = regrown(s->kv_blocks, (size_t)num_blocks, &s->cap_blocks, sizeof *s->kv_blocks);
    c = (struct carver){.floats = s->floats, .ints = s->ints, .T = (size_t)T};
    carve(&c, s, &p->arch);
}

void activations_free(struct policy_activations **a)
{
    if (a && *a) {
        free((*a)->layer);
        free((*a)->floats);
        free((*a)->ints);
        free((*a)->seqs);
        free(*(void **)&(*a)->kv_blocks);
        rope_table_free(&(*a)->rope);
        free(*a);
        *a = NULL;
    }
}
