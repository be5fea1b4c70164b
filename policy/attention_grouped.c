// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention (arXiv:2305.13245): one product makes queries, keys and values, the heads
// slot turns them into what attention reads.
#include "policy/attention.h"

// x += a bias: the weight of an input that is 1.
static int add_bias(const struct policy *p, const struct matrix *m, float *x)
{
    const struct policy_activations *s = p->acts;
    return m->count == 0 ? 0
                         : product(p, m, TO_OUT,
                                   (struct matmul_args){
                                       .a = s->in.ones, .c = x, .m = s->T, .accumulate = true});
}

static int bias_grad(const struct policy *p, const struct matrix *m, const void *dx)
{
    const struct policy_activations *s = p->acts;
    return m->count == 0
               ? 0
               : own_grad(p, m, (struct matmul_grad_args){.dy = dx, .x = s->in.ones, .m = s->T});
}

int grouped_inputs(const struct policy *p, const struct layer_weights *w,
                   const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    const float *weights = p->params.data;
    TRY(product(p, &w->m[W_QKV], TO_OUT, (struct matmul_args){.a = s->n, .c = l->qkv, .m = s->T}));
    TRY(add_bias(p, &w->m[W_QKV_BIAS], l->qkv));
    return p->dev->k->heads(p->dev,
                            &(struct heads_args){.x = l->qkv,
                                                 .q_norm = a->qk_norm ? weights + w->q_norm : NULL,
                                                 .k_norm = a->qk_norm ? weights + w->kv_norm : NULL,
                                                 .cos = s->rope.cos,
                                                 .sin = s->rope.sin,
                                                 .position = s->in.position,
                                                 .q = l->q_lat,
                                                 .kv = l->kv,
                                                 .T = s->T,
                                                 .H = a->H,
                                                 .Hkv = a->Hkv,
                                                 .D = a->Dr,
                                                 .eps = (float)a->norm_eps,
                                                 .type = p->dtype});
}

int grouped_output(const struct policy *p, const struct layer_weights *w,
                   const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    TRY(product(p, &w->m[W_O], TO_OUT, (struct matmul_args){.a = l->o_lat, .c = s->y, .m = s->T}));
    return add_bias(p, &w->m[W_O_BIAS], s->y);
}

int grouped_output_grad(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    const void *dy;
    TRY(operand(p, s->dx, p->arch.C, &dy));
    TRY(own_grad(p, &w->m[W_O], (struct matmul_grad_args){.dy = dy, .x = l->o_lat, .m = s->T}));
    TRY(bias_grad(p, &w->m[W_O_BIAS], dy));
    return product(p, &w->m[W_O], TO_IN,
                   (struct matmul_args){.a = dy, .c = s->do_lat, .c_type = p->dtype, .m = s->T});
}

int grouped_inputs_grad(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    const float *weights = p->params.data;
    const bool norm = a->qk_norm;
    TRY(p->dev->k->heads_grad(
        p->dev, &(struct heads_grad_args){.x = norm ? l->qkv : NULL,
                                          .q_norm = norm ? weights + w->q_norm : NULL,
                                          .k_norm = norm ? weights + w->kv_norm : NULL,
                                          .cos = s->rope.cos,
                                          .sin = s->rope.sin,
                                          .position = s->in.position,
                                          .dq = s->dq_lat,
                                          .dkv = s->dkv,
                                          .dx = s->dqkv,
                                          .dq_norm = norm ? p->grad + w->q_norm : NULL,
                                          .dk_norm = norm ? p->grad + w->kv_norm : NULL,
                                          .T = s->T,
                                          .H = a->H,
                                          .Hkv = a->Hkv,
                                          .D = a->Dr,
                                          .eps = (float)a->norm_eps,
                                          .type = p->dtype}));
    TRY(own_grad(p, &w->m[W_QKV], (struct matmul_grad_args){.dy = s->dqkv, .x = s->n, .m = s->T}));
    TRY(bias_grad(p, &w->m[W_QKV_BIAS], s->dqkv));
    return product(p, &w->m[W_QKV], TO_IN,
                   (struct matmul_args){.a = s->dqkv, .c = s->dn, .m = s->T});
}
