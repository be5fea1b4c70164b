// SPDX-License-Identifier: Apache-2.0
#include "policy/forward.h"

#include "base/error.h"
#include "policy/attention.h"
#include "policy/parallel_state.h"

#include <assert.h>
#include <math.h>

int product(const struct policy *p, const struct matrix *m, enum way way, struct matmul_args args)
{
    args.b = way == TO_OUT ? m->to_out : m->to_in;
    if (!args.b) {
        assert(way == TO_IN && p->dev->reads_plain);
        args.plain = p->params.data + m->offset;
        args.ldb = (size_t)m->in;
        args.stride_b = m->stride;
    }
    args.k = way == TO_OUT ? m->in : m->out;
    args.n = way == TO_OUT ? m->out : m->in;
    args.lda = args.lda ? args.lda : (size_t)args.k;
    args.ldc = args.ldc ? args.ldc : (size_t)args.n;
    args.batch = m->count;
    args.a_type = args.b_type = m->type;
    return p->dev->k->matmul(p->dev, &args);
}

void *element(const struct policy *p, void *array, size_t i)
{
    return (char *)array + i * dtype_size(p->dtype);
}

// A norm over the hidden size. args gives x, rstd, and add and sum where something is added.
static int norm_of_rows(const struct policy *p, size_t weight, struct rmsnorm_args args, bool exact)
{
    const struct arch *a = &p->arch;
    args.w = p->params.data + weight;
    args.y = exact ? p->acts->n_f32 : p->acts->n;
    args.y_type = exact ? DTYPE_F32 : p->dtype;
    args.ldx = args.ldy = (size_t)a->C;
    args.eps = (float)a->norm_eps;
    args.T = p->acts->T;
    args.C = a->C;
    return p->dev->k->rmsnorm(p->dev, &args);
}

int hidden_norm(const struct policy *p, size_t weight, const float *x, float *rstd, bool exact)
{
    return norm_of_rows(p, weight, (struct rmsnorm_args){.x = x, .rstd = rstd}, exact);
}

// sum = x + acts->y, then as above.
static int residual_norm(const struct policy *p, size_t weight, const float *x, float *sum,
                         float *rstd, bool exact)
{
    return norm_of_rows(p, weight,
                        (struct rmsnorm_args){.x = x, .add = p->acts->y, .sum = sum, .rstd = rstd},
                        exact);
}

int round_norm(const struct policy *p)
{
    const struct policy_activations *s = p->acts;
    if (p->dtype == DTYPE_F32) {
        return 0;
    }
    return p->dev->k->convert(
        p->dev, &(struct convert_args){
                    .x = s->n_f32, .y = s->n, .n = (size_t)s->T * p->arch.C, .y_type = p->dtype});
}

// ---- FFN and mixture

int gated_linear(const struct policy *p, const void *gate_up, void *h, int rows, int width)
{
    return p->dev->k->swiglu(p->dev, &(struct swiglu_args){.gate_up = gate_up,
                                                           .h = h,
                                                           .T = rows,
                                                           .F = width,
                                                           .gate_up_type = p->dtype,
                                                           .h_type = p->dtype});
}

// y = FFN(n): the dense one, or the shared experts.
static int feed_forward(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    TRY(product(p, &w->m[W_GATE_UP], TO_OUT,
                (struct matmul_args){.a = s->n, .c = l->gate_up, .c_type = p->dtype, .m = s->T}));
    TRY(gated_linear(p, l->gate_up, s->ffn, s->T, w->m[W_DOWN].in));
    return product(p, &w->m[W_DOWN], TO_OUT,
                   (struct matmul_args){.a = s->ffn, .c = s->y, .m = s->T});
}

// Chooses the experts of each token and sorts the choices by expert.
static int route(const struct policy *p, const struct layer_weights *w, const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    const float *bias = a->route_bias ? p->params.data + w->route_bias : NULL;
    TRY(product(p, &w->m[W_GATE], TO_OUT,
                (struct matmul_args){.a = s->n_f32, .c = s->logits, .m = s->T}));
    TRY(p->dev->k->moe_route(p->dev, &(struct moe_route_args){.logits = s->logits,
                                                              .bias = bias,
                                                              .T = s->T,
                                                              .E = a->E,
                                                              .K = a->K,
                                                              .n_group = a->n_group,
                                                              .topk_group = a->topk_group,
                                                              .scoring = a->scoring,
                                                              .group_rank = a->group_rank,
                                                              .normalise = a->route_normalise,
                                                              .scale = (float)a->route_scale,
                                                              .scores = l->scores,
                                                              .experts = l->experts,
                                                              .weights = l->weights}));
    return p->dev->k->moe_sort(p->dev, &(struct moe_sort_args){.experts = l->experts,
                                                               .T = s->T,
                                                               .K = a->K,
                                                               .E = a->E,
                                                               .segments = l->segments,
                                                               .slot = l->slot,
                                                               .pair = l->pair});
}

int gather_experts(const struct policy *p, const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    return p->dev->k->moe_gather(p->dev, &(struct moe_gather_args){.x = s->n_f32,
                                                                   .pair = l->pair,
                                                                   .xs = s->xs,
                                                                   .xs_type = p->dtype,
                                                                   .T = s->T,
                                                                   .K = p->arch.K,
                                                                   .C = p->arch.C});
}

// ys = FFN_i(xs) of each slot's expert.
static int experts(const struct policy *p, const struct layer_weights *w,
                   const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    TRY(product(p, &w->m[W_EXP_GATE_UP], TO_OUT,
                (struct matmul_args){.a = s->xs,
                                     .c = l->exp_gate_up,
                                     .c_type = p->dtype,
                                     .segments = l->segments,
                                     .m = s->T * a->K}));
    TRY(gated_linear(p, l->exp_gate_up, s->hs, s->T * a->K, a->F));
    return product(
        p, &w->m[W_EXP_DOWN], TO_OUT,
        (struct matmul_args){
            .a = s->hs, .c = l->ys, .c_type = p->dtype, .segments = l->segments, .m = s->T * a->K});
}

// y = FFN_shared(n) + sum over the chosen of g_i FFN_i(n), from n_f32.
static int mixture(struct policy *p, const struct layer_weights *w, const struct layer_acts *l,
                   int layer)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    if (a->S > 0) {
        TRY(round_norm(p));
        TRY(feed_forward(p, w, l));
    } else {
        TRY(p->dev->memory->zero(p->dev, s->y, (size_t)s->T * a->C * sizeof *s->y));
    }
    TRY(route(p, w, l));
    TRY(gather_experts(p, l));
    TRY(s->train && experts_are_spread(p) ? experts_forward(p, layer, l) : experts(p, w, l));
    return p->dev->k->moe_combine(p->dev, &(struct moe_combine_args){.ys = l->ys,
                                                                     .ys_type = p->dtype,
                                                                     .weights = l->weights,
                                                                     .slot = l->slot,
                                                                     .y = s->y,
                                                                     .T = s->T,
                                                                     .K = a->K,
                                                                     .C = a->C});
}

// ---- the stack

bool is_recomputed(const struct policy *p, int layer)
{
    return p->recompute && layer < p->arch.L - 1;
}

int forward_layer(struct policy *p, const struct kv_cache *cache, int layer)
{
    const struct policy_activations *s = p->acts;
    const struct layer_weights *w = &p->packed->layers[layer];
    const struct layer_acts *l = &s->layer[layer];
    const bool mixed = layer >= p->arch.dense_layers;
    TRY(attention_forward(p, w, l, cache, layer));
    TRY(residual_norm(p, w->norm2, l->x, l->h, l->rstd2, mixed));
    return !mixed ? feed_forward(p, w, l) : mixture(p, w, l, layer);
}

int forward_layers(struct policy *p, const struct kv_cache *cache)
{
    const struct arch *a = &p->arch;
    struct policy_activations *s = p->acts;
    TRY(p->dev->k->embed(p->dev, &(struct embed_args){.table = p->params.data + p->packed->embed,
                                                      .ids = s->in.tokens,
                                                      .out = s->layer[0].x,
                                                      .T = s->T,
                                                      .C = a->C}));
    for (int i = 0; i < a->L; i++) {
        const struct layer_weights *w = &p->packed->layers[i];
        const struct layer_acts *l = &s->layer[i];
        if (i == 0) {
            TRY(hidden_norm(p, w->norm1, l->x, l->rstd1, false));
        } else {
            TRY(residual_norm(p, w->norm1, s->layer[i - 1].h, l->x, l->rstd1, false));
        }
        TRY(forward_layer(p, cache, i));
    }
    TRY(residual_norm(p, p->packed->norm, s->layer[a->L - 1].h, s->x_last, s->rstd_last, true));
    return p->dev->k->embed(p->dev,
                            &(struct embed_args){.table = s->n_f32,
                                                 .ids = s->in.target_row,
                                                 .out = s->hidden,
                                                 .out_type = s->values ? DTYPE_F32 : p->dtype,
                                                 .T = s->num_targets,
                                                 .C = a->C});
}

// ---- checks

int check_tokens(const struct policy *p, const int *tokens, int n)
{
    for (int i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= p->arch.V) {
            return err_set(ERR_DATA, "token id %d is not in the model's vocabulary of %d",
                           tokens[i], p->arch.V);
        }
    }
    return 0;
}

int check_positions(const struct policy *p, int positions)
{
    if (positions > p->arch.max_positions) {
        return err_set(ERR_DATA,
                       "a sequence of %d tokens is longer than the model's max_position_embeddings "
                       "%d",
                       positions, p->arch.max_positions);
    }
    return 0;
}

int check_finite(const float *x, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return err_set(ERR_NUMERIC, "%s %zu of %zu is %g", what, i, n, (double)x[i]);
        }
    }
    return 0;
}
