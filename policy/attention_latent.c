// SPDX-License-Identifier: Apache-2.0
// Latent attention in the absorbed form (arXiv:2405.04434, section 2.1).
#include "policy/attention.h"

// eps of the norms over latents (kv_a_layernorm, q_a_layernorm), whatever rms_norm_eps is.
#define LATENT_NORM_EPS 1e-6f

// q_n = norm of q_a.
static int query_norm(const struct policy *p, const struct layer_weights *w,
                      const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    return p->dev->k->rmsnorm(p->dev, &(struct rmsnorm_args){.x = l->q_a,
                                                             .w = p->params.data + w->q_norm,
                                                             .y = p->acts->q_n,
                                                             .y_type = p->dtype,
                                                             .rstd = l->rstd_q,
                                                             .ldx = (size_t)a->Rq,
                                                             .ldy = (size_t)a->Rq,
                                                             .eps = LATENT_NORM_EPS,
                                                             .T = p->acts->T,
                                                             .C = a->Rq});
}

// Queries of H heads in the latent space: q_nope through W_UK, q_rope rotated.
static int project_queries(const struct policy *p, const struct layer_weights *w,
                           const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    size_t part = (size_t)(a->Dn + a->Dr), row = (size_t)(a->R + a->Dr), H = (size_t)a->H;
    const void *x = s->n;
    if (a->Rq > 0) {
        TRY(product(p, &w->m[W_Q_A], TO_OUT,
                    (struct matmul_args){.a = s->n, .c = l->q_a, .m = s->T}));
        TRY(query_norm(p, w, l));
        x = s->q_n;
    }
    TRY(product(p, &w->m[W_Q], TO_OUT,
                (struct matmul_args){.a = x, .c = l->q, .c_type = p->dtype, .m = s->T}));
    TRY(product(p, &w->m[W_UK], TO_IN,
                (struct matmul_args){.a = l->q,
                                     .lda = H * part,
                                     .stride_a = part,
                                     .c = l->q_lat,
                                     .c_type = p->dtype,
                                     .ldc = H * row,
                                     .stride_c = row,
                                     .m = s->T}));
    return p->dev->k->rope(p->dev, &(struct rope_args){.x = element(p, l->q, (size_t)a->Dn),
                                                       .y = element(p, l->q_lat, (size_t)a->R),
                                                       .x_type = p->dtype,
                                                       .y_type = p->dtype,
                                                       .ldx = H * part,
                                                       .stride_x = part,
                                                       .ldy = H * row,
                                                       .stride_y = row,
                                                       .cos = s->rope.cos,
                                                       .sin = s->rope.sin,
                                                       .position = s->in.position,
                                                       .T = s->T,
                                                       .heads = a->H,
                                                       .D = a->Dr,
                                                       .halves = a->rope_halves});
}

// The rows (c, k_rope) that are cached: the norm of the latent part, and the one rotated key of all
// heads.
static int project_latents(const struct policy *p, const struct layer_weights *w,
                           const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    size_t row = (size_t)(a->R + a->Dr);
    TRY(product(p, &w->m[W_KV_A], TO_OUT,
                (struct matmul_args){.a = s->n, .c = l->kv_a, .m = s->T}));
    TRY(p->dev->k->rmsnorm(p->dev, &(struct rmsnorm_args){.x = l->kv_a,
                                                          .w = p->params.data + w->kv_norm,
                                                          .y = l->kv,
                                                          .y_type = p->dtype,
                                                          .rstd = l->rstd_kv,
                                                          .ldx = row,
                                                          .ldy = row,
                                                          .eps = LATENT_NORM_EPS,
                                                          .T = s->T,
                                                          .C = a->R}));
    return p->dev->k->rope(p->dev, &(struct rope_args){.x = l->kv_a + a->R,
                                                       .y = element(p, l->kv, (size_t)a->R),
                                                       .y_type = p->dtype,
                                                       .ldx = row,
                                                       .stride_x = (size_t)a->Dr,
                                                       .ldy = row,
                                                       .stride_y = (size_t)a->Dr,
                                                       .cos = s->rope.cos,
                                                       .sin = s->rope.sin,
                                                       .position = s->in.position,
                                                       .T = s->T,
                                                       .heads = 1,
                                                       .D = a->Dr,
                                                       .halves = a->rope_halves});
}

int latent_inputs(const struct policy *p, const struct layer_weights *w, const struct layer_acts *l)
{
    TRY(project_queries(p, w, l));
    return project_latents(p, w, l);
}

// y = concat_h(W_UV[h] o_lat[h]) W_O
int latent_output(const struct policy *p, const struct layer_weights *w, const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    size_t H = (size_t)a->H;
    TRY(product(p, &w->m[W_UV], TO_OUT,
                (struct matmul_args){.a = l->o_lat,
                                     .lda = H * a->R,
                                     .stride_a = (size_t)a->R,
                                     .c = l->o,
                                     .c_type = p->dtype,
                                     .ldc = H * a->Dv,
                                     .stride_c = (size_t)a->Dv,
                                     .m = s->T}));
    return product(p, &w->m[W_O], TO_OUT, (struct matmul_args){.a = l->o, .c = s->y, .m = s->T});
}

// ---- back

int latent_output_grad(const struct policy *p, const struct layer_weights *w,
                       const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    const void *dy;
    size_t H = (size_t)a->H, R = (size_t)a->R, Dv = (size_t)a->Dv;
    TRY(operand(p, s->dx, a->C, &dy));
    TRY(own_grad(p, &w->m[W_O], (struct matmul_grad_args){.dy = dy, .x = l->o, .m = s->T}));
    TRY(product(p, &w->m[W_O], TO_IN,
                (struct matmul_args){.a = dy, .c = s->do_, .c_type = p->dtype, .m = s->T}));
    TRY(own_grad(p, &w->m[W_UV],
                 (struct matmul_grad_args){.dy = s->do_,
                                           .lddy = H * Dv,
                                           .stride_dy = Dv,
                                           .x = l->o_lat,
                                           .ldx = H * R,
                                           .stride_x = R,
                                           .m = s->T}));
    return product(p, &w->m[W_UV], TO_IN,
                   (struct matmul_args){.a = s->do_,
                                        .lda = H * Dv,
                                        .stride_a = Dv,
                                        .c = s->do_lat,
                                        .c_type = p->dtype,
                                        .ldc = H * R,
                                        .stride_c = R,
                                        .m = s->T});
}

// The transpose of the rotation, from x to y.
static int unrotate(const struct policy *p, struct rope_args args)
{
    const struct policy_activations *s = p->acts;
    args.cos = s->rope.cos;
    args.sin = s->rope.sin;
    args.position = s->in.position;
    args.T = s->T;
    args.D = p->arch.Dr;
    args.halves = p->arch.rope_halves;
    args.inverse = true;
    return p->dev->k->rope(p->dev, &args);
}

// From dq_lat to dn (overwritten), through rotation, W_UK and the query projections.
static int queries_grad(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    size_t part = (size_t)(a->Dn + a->Dr), row = (size_t)(a->R + a->Dr), H = (size_t)a->H;
    TRY(own_grad(p, &w->m[W_UK],
                 (struct matmul_grad_args){.dy = l->q,
                                           .lddy = H * part,
                                           .stride_dy = part,
                                           .x = s->dq_lat,
                                           .ldx = H * row,
                                           .stride_x = row,
                                           .m = s->T}));
    TRY(product(p, &w->m[W_UK], TO_OUT,
                (struct matmul_args){.a = s->dq_lat,
                                     .lda = H * row,
                                     .stride_a = row,
                                     .c = s->dq,
                                     .c_type = p->dtype,
                                     .ldc = H * part,
                                     .stride_c = part,
                                     .m = s->T}));
    TRY(unrotate(p, (struct rope_args){.x = element(p, s->dq_lat, (size_t)a->R),
                                       .y = element(p, s->dq, (size_t)a->Dn),
                                       .x_type = p->dtype,
                                       .y_type = p->dtype,
                                       .ldx = H * row,
                                       .stride_x = row,
                                       .ldy = H * part,
                                       .stride_y = part,
                                       .heads = a->H}));
    if (a->Rq == 0) {
        TRY(own_grad(p, &w->m[W_Q], (struct matmul_grad_args){.dy = s->dq, .x = s->n, .m = s->T}));
        return product(p, &w->m[W_Q], TO_IN,
                       (struct matmul_args){.a = s->dq, .c = s->dn, .m = s->T});
    }
    TRY(query_norm(p, w, l));
    TRY(own_grad(p, &w->m[W_Q], (struct matmul_grad_args){.dy = s->dq, .x = s->q_n, .m = s->T}));
    TRY(product(p, &w->m[W_Q], TO_IN, (struct matmul_args){.a = s->dq, .c = s->dq_n, .m = s->T}));
    TRY(p->dev->k->rmsnorm_grad(p->dev, &(struct rmsnorm_grad_args){.x = l->q_a,
                                                                    .w = p->params.data + w->q_norm,
                                                                    .rstd = l->rstd_q,
                                                                    .dy = s->dq_n,
                                                                    .dx = s->dq_n,
                                                                    .dw = p->grad + w->q_norm,
                                                                    .ldx = (size_t)a->Rq,
                                                                    .lddy = (size_t)a->Rq,
                                                                    .lddx = (size_t)a->Rq,
                                                                    .T = s->T,
                                                                    .C = a->Rq}));
    const void *dy;
    TRY(operand(p, s->dq_n, a->Rq, &dy));
    TRY(own_grad(p, &w->m[W_Q_A], (struct matmul_grad_args){.dy = dy, .x = s->n, .m = s->T}));
    return product(p, &w->m[W_Q_A], TO_IN, (struct matmul_args){.a = dy, .c = s->dn, .m = s->T});
}

// From dkv, in place through its norm and rotation, to dn (added).
static int latents_grad(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    size_t row = (size_t)(a->R + a->Dr);
    TRY(p->dev->k->rmsnorm_grad(p->dev,
                                &(struct rmsnorm_grad_args){.x = l->kv_a,
                                                            .w = p->params.data + w->kv_norm,
                                                            .rstd = l->rstd_kv,
                                                            .dy = s->dkv,
                                                            .dx = s->dkv,
                                                            .dw = p->grad + w->kv_norm,
                                                            .ldx = row,
                                                            .lddy = row,
                                                            .lddx = row,
                                                            .T = s->T,
                                                            .C = a->R}));
    TRY(unrotate(p, (struct rope_args){.x = s->dkv + a->R,
                                       .y = s->dkv + a->R,
                                       .ldx = row,
                                       .stride_x = (size_t)a->Dr,
                                       .ldy = row,
                                       .stride_y = (size_t)a->Dr,
                                       .heads = 1}));
    const void *dy;
    TRY(operand(p, s->dkv, a->R + a->Dr, &dy));
    TRY(own_grad(p, &w->m[W_KV_A], (struct matmul_grad_args){.dy = dy, .x = s->n, .m = s->T}));
    return product(p, &w->m[W_KV_A], TO_IN,
                   (struct matmul_args){.a = dy, .c = s->dn, .m = s->T, .accumulate = true});
}

int latent_inputs_grad(const struct policy *p, const struct layer_weights *w,
                       const struct layer_acts *l)
{
    TRY(queries_grad(p, w, l));
    return latents_grad(p, w, l);
}
