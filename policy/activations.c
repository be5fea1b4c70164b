// SPDX-License-Identifier: Apache-2.0
#include "policy/activations.h"

#include "base/mem.h"
#include "policy/attention.h"

#include <stdlib.h>

// Carving: with the block NULL it only counts, so the same walk measures and assigns. Every piece
// starts at 64 bytes.
struct carver {
    char *block;
    size_t used;
    enum dtype type; // of the policy
};

// NULL when a row has nothing.
static void *take_rows(struct carver *c, size_t rows, size_t row_bytes)
{
    void *at = c->block && row_bytes > 0 ? c->block + c->used : NULL;
    c->used += (rows * row_bytes + 63) / 64 * 64;
    return at;
}

// Rows of n floats; of n elements of the policy's type; integers.
static float *take(struct carver *c, size_t rows, size_t n)
{
    return take_rows(c, rows, n * sizeof(float));
}

static void *take_typed(struct carver *c, size_t rows, size_t n)
{
    return take_rows(c, rows, n * dtype_size(c->type));
}

static int *take_ints(struct carver *c, size_t n) { return take_rows(c, n, sizeof(int)); }

static size_t ffn_width(const struct arch *a, int l)
{
    return l < a->dense_layers ? (size_t)a->dense_width : (size_t)a->S * a->F;
}

static size_t ffn_width_max(const struct arch *a)
{
    size_t dense = a->dense_layers > 0 ? (size_t)a->dense_width : 0, shared = (size_t)a->S * a->F;
    return dense > shared ? dense : shared;
}

// All but x and segments.
static void carve_layer(struct carver *c, const struct policy_activations *s, struct layer_acts *l,
                        const struct arch *a, size_t width, bool mixture)
{
    const size_t T = (size_t)s->T;
    const struct attention_shape shape = attention_shape_of(a);
    const bool latent = arch_is_latent(a), gathered = s->N > s->T;
    size_t H = (size_t)a->H, row = arch_row_width(a);
    l->rstd1 = take(c, T, 1);
    l->q_a = take(c, T, (size_t)a->Rq);
    l->rstd_q = take(c, T, a->Rq > 0);
    l->q = take_typed(c, T, latent ? H * (a->Dn + a->Dr) : 0);
    l->q_lat = take_typed(c, T, H * shape.Dk);
    l->kv_a = take(c, T, latent ? row : 0);
    l->rstd_kv = take(c, T, latent);
    l->qkv = a->qk_norm ? take(c, T, H * a->Dr + row) : s->qkv;
    l->kv = gathered ? s->kv : take_typed(c, T, row);
    l->keys = gathered ? take_typed(c, (size_t)s->N, row) : l->kv;
    l->o_lat = take_typed(c, T, H * shape.Dv);
    l->lse = take(c, T, H);
    l->o = take_typed(c, T, latent ? H * a->Dv : 0);
    l->h = take(c, T, (size_t)a->C);
    l->rstd2 = take(c, T, 1);
    l->gate_up = take_typed(c, T, 2 * width);
    if (mixture) {
        size_t pairs = T * a->K;
        l->scores = take(c, T, (size_t)a->E);
        l->weights = take(c, T, (size_t)a->K);
        l->exp_gate_up = take_typed(c, pairs, 2 * (size_t)a->F);
        l->ys = take_typed(c, pairs, (size_t)a->C);
        l->experts = take_ints(c, pairs);
        l->slot = take_ints(c, pairs);
        l->pair = take_ints(c, pairs);
    }
}

static void carve_layers(struct carver *c, struct policy_activations *s, const struct policy *p)
{
    const struct arch *a = &p->arch;
    const bool shared = !s->train || p->recompute; // one layer's, the widest, for all
    const int mixtures = a->L - a->dense_layers;
    size_t T = (size_t)s->T, row = (size_t)a->E + 1;
    s->kv = take_typed(c, T, s->N > s->T ? arch_row_width(a) : 0);
    const bool kept_qkv = arch_is_latent(a) || a->qk_norm; // by layers, or not needed
    s->qkv = take(c, T, kept_qkv ? 0 : (size_t)a->H * a->Dr + arch_row_width(a));
    s->segments = take_ints(c, (size_t)mixtures * row);
    for (int l = 0; l < a->L; l++) {
        struct layer_acts *at = &s->layer[l];
        const bool mixture = l >= a->dense_layers, own = l == 0 || !shared;
        if (own) {
            carve_layer(c, s, at, a, shared ? ffn_width_max(a) : ffn_width(a, l),
                        shared ? mixtures > 0 : mixture);
        } else {
            *at = s->layer[0];
        }
        if (own || s->train) {
            at->x = take(c, T, (size_t)a->C);
        }
        at->segments = s->segments;
        if (s->segments && mixture) {
            at->segments += (size_t)(l - a->dense_layers) * row;
        }
    }
}

// Elements of a row that is rounded for a product; 0 in a float32 policy, which reads it as it is.
static size_t rounded_width(const struct carver *c, const struct arch *a)
{
    int widest = a->C > a->R + a->Dr ? a->C : a->R + a->Dr;
    widest = a->Rq > widest ? a->Rq : widest;
    return c->type == DTYPE_F32 ? 0 : (size_t)widest;
}

static void carve_gradients(struct carver *c, struct policy_activations *s, const struct arch *a)
{
    const struct attention_shape shape = attention_shape_of(a);
    const bool latent = arch_is_latent(a);
    size_t T = (size_t)s->T, H = (size_t)a->H, row = arch_row_width(a), pairs = T * a->K;
    s->dx = take(c, T, (size_t)a->C);
    s->dn = take(c, T, (size_t)a->C);
    s->dq_n = take(c, T, (size_t)a->Rq);
    s->do_ = take_typed(c, T, latent ? H * a->Dv : 0);
    s->do_lat = take_typed(c, T, H * shape.Dv);
    s->dq_lat = take_typed(c, T, H * shape.Dk);
    s->dq = take_typed(c, T, latent ? H * (a->Dn + a->Dr) : 0);
    s->dqkv = take_typed(c, T, latent ? 0 : H * a->Dr + row);
    s->dkv = take(c, T, row);
    s->dkeys = s->N > s->T ? take(c, (size_t)s->N, row) : s->dkv;
    s->dffn = take(c, T, ffn_width_max(a));
    s->dlogits = take(c, T, (size_t)a->E);
    s->dweights = take(c, pairs, 1);
    s->balance = take(c, (size_t)(a->L - a->dense_layers), (size_t)s->num_seqs);
    s->dxs = take(c, pairs, (size_t)a->C);
    s->dhs = take(c, pairs, (size_t)a->F);
    s->rounded = take_typed(c, T, rounded_width(c, a));
    s->dhidden = take(c, (size_t)s->num_targets, (size_t)a->C);
    s->dlogprob = take(c, (size_t)s->num_targets, 1);
    s->dentropy = take(c, (size_t)s->num_targets, 1);
    s->dbias = take(c, 1, a->value_head);
}

// Returns the bytes of the block; NULL only counts.
static size_t carve(void *block, struct policy_activations *s, const struct policy *p)
{
    const struct arch *a = &p->arch;
    struct carver carver = {.block = block, .type = p->dtype}, *c = &carver;
    size_t T = (size_t)s->T, pairs = T * a->K;
    carve_layers(c, s, p);
    s->n = take_typed(c, T, (size_t)a->C);
    s->n_f32 = p->dtype == DTYPE_F32 ? s->n : take(c, T, (size_t)a->C);
    s->q_n = take_typed(c, T, (size_t)a->Rq);
    s->y = take(c, T, (size_t)a->C);
    s->ffn = take_typed(c, T, ffn_width_max(a));
    s->logits = take(c, T, (size_t)a->E);
    s->xs = take_typed(c, pairs, (size_t)a->C);
    s->hs = take_typed(c, pairs, (size_t)a->F);
    s->x_last = take(c, T, (size_t)a->C);
    s->rstd_last = take(c, T, 1);
    s->hidden = take(c, (size_t)s->num_targets, (size_t)a->C);
    s->logprob = take(c, (size_t)s->num_targets, 1);
    s->entropy = take(c, (size_t)s->num_targets, 1);
    if (s->train) {
        carve_gradients(c, s, a);
    }
    return carver.used;
}

// Likewise of the inputs.
static size_t carve_inputs(struct pass_inputs *in, void *block, const struct policy_activations *s,
                           const struct policy *p)
{
    const bool biased = p->arch.qkv_bias || p->arch.o_bias;
    struct carver carver = {.block = block}, *c = &carver;
    size_t T = (size_t)s->T, n = (size_t)s->num_targets;
    in->tokens = take_rows(c, T, sizeof *in->tokens);
    in->position = take_rows(c, T, sizeof *in->position);
    in->place = take_rows(c, T, sizeof *in->place);
    in->target_row = take_rows(c, n, sizeof *in->target_row);
    in->target_token = take_rows(c, n, sizeof *in->target_token);
    in->target_tau = take_rows(c, n, sizeof *in->target_tau);
    in->key_token = take_rows(c, s->N > s->T ? (size_t)s->N : 0, sizeof *in->key_token);
    in->seqs = take_rows(c, (size_t)s->num_seqs, sizeof *in->seqs);
    in->grad_seqs = take_rows(c, s->train ? (size_t)s->num_seqs : 0, sizeof *in->grad_seqs);
    in->kv_blocks = take_rows(c, (size_t)p->arch.L * (size_t)s->num_blocks, sizeof *in->kv_blocks);
    in->ones = take_rows(c, T, biased ? dtype_size(p->dtype) : 0);
    return carver.used;
}

static void fill_ones(void *to, size_t n, enum dtype type)
{
    const uint16_t one_bf16 = 0x3f80;
    for (size_t i = 0; i < n; i++) {
        if (type == DTYPE_BF16) {
            ((uint16_t *)to)[i] = one_bf16;
        } else {
            ((float *)to)[i] = 1;
        }
    }
}

static void set_shape(struct policy_activations *s, const struct policy_pass *shape)
{
    s->T = shape->T;
    s->N = shape->N ? shape->N : shape->T;
    s->num_targets = shape->num_targets;
    s->num_seqs = shape->num_seqs;
    s->num_blocks = shape->num_blocks;
    s->prefixes = shape->prefixes;
    s->train = shape->train;
    s->values = shape->values;
}

void activations_bytes(size_t *block, size_t *inputs, const struct policy *p,
                       const struct policy_pass *shape)
{
    struct policy_activations s = {.layer = mem_array0((size_t)p->arch.L, sizeof *s.layer)};
    set_shape(&s, shape);
    *block = carve(NULL, &s, p);
    *inputs = carve_inputs(&s.host, NULL, &s, p);
    free(s.layer);
}

static struct policy_activations *activations_of(struct policy *p)
{
    if (!p->acts) {
        p->acts = mem_alloc0(sizeof *p->acts);
        p->acts->layer = mem_array0((size_t)p->arch.L, sizeof *p->acts->layer);
    }
    return p->acts;
}

int activations_reserve(struct policy *p, size_t block, size_t inputs)
{
    struct policy_activations *s = activations_of(p);
    int rc = device_block_reserve(&s->block, p->dev, block);
    rc = rc ? rc : device_block_reserve(&s->inputs, p->dev, inputs);
    if (rc == 0 && inputs > s->cap_host) {
        free(s->host_inputs);
        s->cap_host = s->inputs.bytes;
        s->host_inputs = mem_aligned(s->cap_host);
    }
    return rc;
}

int activations_begin(struct policy *p, const struct policy_pass *shape)
{
    struct policy_activations *s = activations_of(p);
    set_shape(s, shape);
    s->inputs_bytes = carve_inputs(&s->host, NULL, s, p);
    const int rc = activations_reserve(p, carve(NULL, s, p), s->inputs_bytes);
    if (rc) {
        s->train = false;
        return rc;
    }
    carve(s->block.data, s, p);
    carve_inputs(&s->host, s->host_inputs, s, p);
    carve_inputs(&s->in, s->inputs.data, s, p);
    if (s->host.ones) {
        fill_ones(s->host.ones, (size_t)s->T, p->dtype);
    }
    return 0;
}

int activations_upload(struct policy *p)
{
    const struct policy_activations *s = p->acts;
    return p->dev->memory->upload(p->dev, s->inputs.data, s->host_inputs, s->inputs_bytes);
}

void activations_free(struct policy_activations **a)
{
    if (a && *a) {
        replay_free(&(*a)->steps);
        free((*a)->layer);
        free((*a)->host_inputs);
        device_block_free(&(*a)->block);
        device_block_free(&(*a)->inputs);
        rope_table_free(&(*a)->rope);
        free(*a);
        *a = NULL;
    }
}
