// SPDX-License-Identifier: Apache-2.0
#include "policy/attention.h"

struct attention_shape attention_shape_of(const struct arch *a)
{
    const bool latent = arch_is_latent(a);
    return (struct attention_shape){.H = a->H,
                                    .kv_heads = latent ? 1 : a->Hkv,
                                    .Dk = latent ? a->R + a->Dr : a->Dr,
                                    .Dv = latent ? a->R : a->Dv,
                                    .value_at = latent ? 0 : a->Dr,
                                    .scale = (float)rope_softmax_scale(a)};
}

// New rows to their pages.
static int store_rows(const struct policy *p, const struct layer_acts *l,
                      const struct kv_cache *cache, int layer)
{
    const struct policy_activations *s = p->acts;
    return p->dev->k->kv_store(p->dev,
                               &(struct kv_store_args){.rows = l->kv,
                                                       .place = s->in.place,
                                                       .pages = kv_cache_block(cache, 0, layer),
                                                       .T = s->T,
                                                       .D = cache->width,
                                                       .type = p->dtype});
}

// keys from kv, where they are not the same.
static int gather_keys(const struct policy *p, const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    if (l->keys == l->kv) {
        return 0;
    }
    return p->dev->k->embed(p->dev, &(struct embed_args){.table = l->kv,
                                                         .ids = s->in.key_token,
                                                         .out = l->keys,
                                                         .T = s->N,
                                                         .C = (int)arch_row_width(&p->arch),
                                                         .table_type = p->dtype,
                                                         .out_type = p->dtype});
}

// dkv from dkeys: of a row and its copies the sum.
static int gather_keys_grad(const struct policy *p)
{
    const struct policy_activations *s = p->acts;
    const size_t row = arch_row_width(&p->arch);
    if (s->dkeys == s->dkv) {
        return 0;
    }
    TRY(p->dev->memory->zero(p->dev, s->dkv, (size_t)s->T * row * sizeof *s->dkv));
    return p->dev->k->embed_grad(
        p->dev,
        &(struct embed_grad_args){
            .dout = s->dkeys, .ids = s->in.key_token, .dtable = s->dkv, .T = s->N, .C = (int)row});
}

// o_lat from q_lat and the rows that the layer's kv_blocks point to.
static int attend(const struct policy *p, const struct layer_acts *l, int layer)
{
    const struct policy_activations *s = p->acts;
    const size_t first = (size_t)layer * (size_t)s->num_blocks;
    return p->dev->k->attention(
        p->dev,
        &(struct attention_args){.q = l->q_lat,
                                 .kv_blocks = s->num_blocks > 0 ? s->in.kv_blocks + first : NULL,
                                 .seqs = s->in.seqs,
                                 .shape = attention_shape_of(&p->arch),
                                 .num_seqs = s->num_seqs,
                                 .T = s->T,
                                 .max_keys = s->max_keys,
                                 .type = p->dtype,
                                 .out = l->o_lat,
                                 .lse = l->lse});
}

int attention_forward(const struct policy *p, const struct layer_weights *w,
                      const struct layer_acts *l, const struct kv_cache *cache, int layer)
{
    const bool latent = arch_is_latent(&p->arch);
    TRY(latent ? latent_inputs(p, w, l) : grouped_inputs(p, w, l));
    TRY(cache ? store_rows(p, l, cache, layer) : gather_keys(p, l));
    TRY(attend(p, l, layer));
    return latent ? latent_output(p, w, l) : grouped_output(p, w, l);
}

// From do_lat to dq_lat and dkv.
static int attend_grad(const struct policy *p, const struct layer_acts *l)
{
    const struct policy_activations *s = p->acts;
    TRY(p->dev->k->attention_grad(
        p->dev, &(struct attention_grad_args){.q = l->q_lat,
                                              .kv = l->keys,
                                              .out = l->o_lat,
                                              .lse = l->lse,
                                              .dout = s->do_lat,
                                              .dq = s->dq_lat,
                                              .dkv = s->dkeys,
                                              .type = p->dtype,
                                              .dq_type = p->dtype,
                                              .seqs = s->in.grad_seqs,
                                              .shape = attention_shape_of(&p->arch),
                                              .num_seqs = s->num_seqs,
                                              .T = s->T,
                                              .N = s->N,
                                              .prefixes = s->prefixes}));
    return gather_keys_grad(p);
}

int attention_backward(const struct policy *p, const struct layer_weights *w,
                       const struct layer_acts *l)
{
    const bool latent = arch_is_latent(&p->arch);
    TRY(latent ? latent_output_grad(p, w, l) : grouped_output_grad(p, w, l));
    TRY(attend_grad(p, l));
    TRY(hidden_norm(p, w->norm1, l->x, l->rstd1, false));
    return latent ? latent_inputs_grad(p, w, l) : grouped_inputs_grad(p, w, l);
}
