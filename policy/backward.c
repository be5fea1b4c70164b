// SPDX-License-Identifier: Apache-2.0
// The backward passes of policy.h: the layers of forward.c in reverse. The gradient of the residual
// stream stays in one buffer, dx, to which each norm's backward adds. Outputs of norms and of
// SwiGLU are made again rather than kept; of a policy that recomputes, whole layers are.
#include "policy/attention.h"
#include "policy/forward.h"
#include "policy/parallel_state.h"

#include <assert.h>

int weight_grad(const struct policy *p, const struct matrix *m, struct matmul_grad_args args)
{
    args.dw = p->grad + m->offset;
    args.stride_dw = m->stride;
    args.n = m->out;
    args.k = m->in;
    args.lddy = args.lddy ? args.lddy : (size_t)args.n;
    args.ldx = args.ldx ? args.ldx : (size_t)args.k;
    args.batch = m->count;
    args.dy_type = args.x_type = m->type;
    return p->dev->k->matmul_grad(p->dev, &args);
}

int own_grad(const struct policy *p, const struct matrix *m, struct matmul_grad_args args)
{
    args.overwrite = p->acts->first;
    return weight_grad(p, m, args);
}

int operand(const struct policy *p, const float *x, int width, const void **out)
{
    const struct policy_activations *s = p->acts;
    if (p->dtype == DTYPE_F32) {
        *out = x;
        return 0;
    }
    *out = s->rounded;
    return p->dev->k->convert(
        p->dev, &(struct convert_args){
                    .x = x, .y = s->rounded, .n = (size_t)s->T * width, .y_type = p->dtype});
}

// dx (+)= backward of a norm over the hidden size.
static int hidden_norm_grad(const struct policy *p, size_t weight, const float *x,
                            const float *rstd, const float *dy, bool accumulate)
{
    size_t C = (size_t)p->arch.C;
    return p->dev->k->rmsnorm_grad(p->dev, &(struct rmsnorm_grad_args){.x = x,
                                                                       .w = p->params.data + weight,
                                                                       .rstd = rstd,
                                                                       .dy = dy,
                                                                       .dx = p->acts->dx,
                                                                       .dw = p->grad + weight,
                                                                       .ldx = C,
                                                                       .lddy = C,
                                                                       .lddx = C,
                                                                       .T = p->acts->T,
                                                                       .C = p->arch.C,
                                                                       .accumulate = accumulate});
}

int gated_linear_grad(const struct policy *p, void *gate_up, const float *dh, int rows, int width)
{
    return p->dev->k->swiglu_grad(p->dev, &(struct swiglu_grad_args){.gate_up = gate_up,
                                                                     .dh = dh,
                                                                     .dgate_up = gate_up,
                                                                     .T = rows,
                                                                     .F = width,
                                                                     .gate_up_type = p->dtype,
                                                                     .dgate_up_type = p->dtype});
}

// ---- FFN and mixture: from dx, the gradient of their output, to dn

static int feed_forward_grad(const struct policy *p, const struct layer_weights *w,
                             const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    const void *dy;
    int width = w->m[W_DOWN].in;
    TRY(gated_linear(p, l->gate_up, s->ffn, s->T, width));
    TRY(operand(p, s->dx, p->arch.C, &dy));
    TRY(own_grad(p, &w->m[W_DOWN], (struct matmul_grad_args){.dy = dy, .x = s->ffn, .m = s->T}));
    TRY(product(p, &w->m[W_DOWN], TO_IN, (struct matmul_args){.a = dy, .c = s->dffn, .m = s->T}));
    TRY(gated_linear_grad(p, l->gate_up, s->dffn, s->T, width));
    TRY(own_grad(p, &w->m[W_GATE_UP],
                 (struct matmul_grad_args){.dy = l->gate_up, .x = s->n, .m = s->T}));
    return product(p, &w->m[W_GATE_UP], TO_IN,
                   (struct matmul_args){.a = l->gate_up, .c = s->dn, .m = s->T});
}

// From ys, which holds d(loss)/d(ys), to dxs.
static int slots_grad(const struct policy *p, const struct layer_weights *w,
                      const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    const int *segments = l->segments;
    TRY(gather_experts(p, l));
    TRY(gated_linear(p, l->exp_gate_up, s->hs, s->T * a->K, a->F));
    TRY(own_grad(p, &w->m[W_EXP_DOWN],
                 (struct matmul_grad_args){
                     .dy = l->ys, .x = s->hs, .segments = segments, .m = s->T * a->K}));
    TRY(product(
        p, &w->m[W_EXP_DOWN], TO_IN,
        (struct matmul_args){.a = l->ys, .c = s->dhs, .segments = segments, .m = s->T * a->K}));
    TRY(gated_linear_grad(p, l->exp_gate_up, s->dhs, s->T * a->K, a->F));
    TRY(own_grad(p, &w->m[W_EXP_GATE_UP],
                 (struct matmul_grad_args){
                     .dy = l->exp_gate_up, .x = s->xs, .segments = segments, .m = s->T * a->K}));
    return product(p, &w->m[W_EXP_GATE_UP], TO_IN,
                   (struct matmul_args){
                       .a = l->exp_gate_up, .c = s->dxs, .segments = segments, .m = s->T * a->K});
}

// Through the chosen experts, by slot: dn += the gradient of their input; dweights that of their
// weights.
static int experts_grad(struct policy *p, const struct layer_weights *w, const struct layer_acts *l,
                        int layer)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    TRY(p->dev->k->moe_combine_grad(p->dev, &(struct moe_combine_grad_args){.ys = l->ys,
                                                                            .weights = l->weights,
                                                                            .dy = s->dx,
                                                                            .slot = l->slot,
                                                                            .dys = l->ys,
                                                                            .ys_type = p->dtype,
                                                                            .dys_type = p->dtype,
                                                                            .dweights = s->dweights,
                                                                            .T = s->T,
                                                                            .K = a->K,
                                                                            .C = a->C}));
    TRY(experts_are_spread(p) ? experts_backward(p, layer, l) : slots_grad(p, w, l));
    return p->dev->k->moe_gather_grad(
        p->dev, &(struct moe_gather_grad_args){
                    .dxs = s->dxs, .slot = l->slot, .dx = s->dn, .T = s->T, .K = a->K, .C = a->C});
}

static int mixture_grad(struct policy *p, const struct layer_weights *w, const struct layer_acts *l,
                        int layer)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    if (a->S > 0) {
        TRY(round_norm(p));
        TRY(feed_forward_grad(p, w, l));
    } else {
        TRY(p->dev->memory->zero(p->dev, s->dn, (size_t)s->T * a->C * sizeof *s->dn));
    }
    TRY(experts_grad(p, w, l, layer));
    TRY(p->dev->k->moe_route_grad(p->dev,
                                  &(struct moe_route_grad_args){.scores = l->scores,
                                                                .weights = l->weights,
                                                                .dweights = s->dweights,
                                                                .experts = l->experts,
                                                                .dlogits = s->dlogits,
                                                                .T = s->T,
                                                                .E = a->E,
                                                                .K = a->K,
                                                                .scoring = a->scoring,
                                                                .normalise = a->route_normalise,
                                                                .scale = (float)a->route_scale}));
    TRY(balance_grad(p, l, layer));
    TRY(own_grad(p, &w->m[W_GATE],
                 (struct matmul_grad_args){.dy = s->dlogits, .x = s->n_f32, .m = s->T}));
    return product(
        p, &w->m[W_GATE], TO_IN,
        (struct matmul_args){.a = s->dlogits, .c = s->dn, .m = s->T, .accumulate = true});
}

// ---- the stack

// From dhidden, the gradient of the rows that the head read, to the embeddings.
static int backward_layers(struct policy *p)
{
    const struct arch *a = &p->arch;
    struct policy_activations *s = p->acts;
    TRY(p->dev->memory->zero(p->dev, s->dn, (size_t)s->T * a->C * sizeof *s->dn));
    TRY(p->dev->k->embed_grad(p->dev, &(struct embed_grad_args){.dout = s->dhidden,
                                                                .ids = s->in.target_row,
                                                                .dtable = s->dn,
                                                                .T = s->num_targets,
                                                                .C = a->C}));
    TRY(hidden_norm_grad(p, p->packed->norm, s->x_last, s->rstd_last, s->dn, false));
    for (int i = a->L - 1; i >= 0; i--) {
        const struct layer_weights *w = &p->packed->layers[i];
        const struct layer_acts *l = &s->layer[i];
        const bool mixed = i >= a->dense_layers;
        if (is_recomputed(p, i)) {
            TRY(hidden_norm(p, w->norm1, l->x, l->rstd1, false));
            TRY(forward_layer(p, NULL, i));
        }
        TRY(hidden_norm(p, w->norm2, l->h, l->rstd2, mixed));
        TRY(!mixed ? feed_forward_grad(p, w, l) : mixture_grad(p, w, l, i));
        TRY(hidden_norm_grad(p, w->norm2, l->h, l->rstd2, s->dn, true));
        TRY(attention_backward(p, w, l));
        TRY(hidden_norm_grad(p, w->norm1, l->x, l->rstd1, s->dn, true));
    }
    TRY(balance_count(p));
    s->train = false; // activations were written over
    s->first = false;
    return p->dev->k->embed_grad(p->dev,
                                 &(struct embed_grad_args){.dout = s->dx,
                                                           .ids = s->in.tokens,
                                                           .dtable = p->grad + p->packed->embed,
                                                           .T = s->T,
                                                           .C = a->C});
}

// A backward pass follows the forward pass of its batch, once.
static bool follows(const struct policy *p, const struct policy_batch *b)
{
    return p->grad && p->acts && p->acts->train && p->acts->T == b->T &&
           p->acts->num_targets == b->num_targets;
}

static void begin_gradients(struct policy *p)
{
    p->acts->first = p->grad_is_zero;
    p->grad_is_zero = false;
}

int policy_backward(struct policy *p, const struct policy_batch *b, const float *dlogprob,
                    const float *dentropy)
{
    assert(follows(p, b));
    begin_gradients(p);
    const struct policy_activations *s = p->acts;
    const struct matrix *head = &p->packed->head;
    const size_t bytes = (size_t)b->num_targets * sizeof *dlogprob;
    TRY(p->dev->memory->upload(p->dev, s->dlogprob, dlogprob, bytes));
    if (dentropy) {
        TRY(p->dev->memory->upload(p->dev, s->dentropy, dentropy, bytes));
    }
    TRY(p->dev->k->linear_logprob_grad(
        p->dev, &(struct linear_logprob_grad_args){.hidden = s->hidden,
                                                   .w = head->to_out,
                                                   .w_t = head->to_in,
                                                   .token = s->in.target_token,
                                                   .tau = s->in.target_tau,
                                                   .dlogprob = s->dlogprob,
                                                   .dentropy = dentropy ? s->dentropy : NULL,
                                                   .dhidden = s->dhidden,
                                                   .dw = p->grad + head->offset,
                                                   .T = b->num_targets,
                                                   .C = p->arch.C,
                                                   .V = p->arch.V,
                                                   .type = p->dtype}));
    return backward_layers(p);
}

// grad of the value head's bias += the sum of dscore.
static int bias_grad(const struct policy *p, const float *dscore, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)dscore[i];
    }
    const float rounded = (float)sum;
    TRY(p->dev->memory->upload(p->dev, p->acts->dbias, &rounded, sizeof rounded));
    return p->dev->k->add(
        p->dev,
        &(struct add_args){.x = p->acts->dbias, .y = p->grad + p->packed->score_bias, .n = 1});
}

int policy_backward_values(struct policy *p, const struct policy_batch *b, const float *dscore)
{
    assert(follows(p, b) && p->arch.value_head);
    begin_gradients(p);
    const struct policy_activations *s = p->acts;
    const struct matrix *score = &p->packed->score;
    TRY(bias_grad(p, dscore, b->num_targets));
    TRY(p->dev->memory->upload(p->dev, s->dlogprob, dscore,
                               (size_t)b->num_targets * sizeof *dscore));
    TRY(own_grad(
        p, score,
        (struct matmul_grad_args){.dy = s->dlogprob, .x = s->hidden, .m = b->num_targets}));
    TRY(product(p, score, TO_IN,
                (struct matmul_args){.a = s->dlogprob, .c = s->dhidden, .m = b->num_targets}));
    return backward_layers(p);
}
