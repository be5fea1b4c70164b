// SPDX-License-Identifier: Apache-2.0
#include "policy/weights.h"

#include "base/mem.h"
#include "kernels/block.h"

#include <assert.h>
#include <stdlib.h>

// The matrices of a param of rank 2 or 3.
static struct matrix whole(const struct param *q, enum dtype type)
{
    if (!q) {
        return (struct matrix){0};
    }
    const int d = q->rank == 3, count = params_parts(q);
    return (struct matrix){.param = q,
                           .offset = q->offset,
                           .stride = q->size / (size_t)count,
                           .count = count,
                           .out = q->shape[d],
                           .in = q->shape[d + 1],
                           .type = type};
}

static size_t offset_of(const struct param *q) { return q ? q->offset : 0; }

// A kind of param of layer l, or NULL.
static const struct param *find(const struct policy *p, int l, const char *name)
{
    return params_find(&p->params, "model.layers.%d.%s.weight", l, name);
}

static void find_latent_attention(struct layer_weights *w, const struct policy *p, int l)
{
    const struct arch *a = &p->arch;
    const enum dtype type = p->dtype;
    w->q_norm = offset_of(find(p, l, "self_attn.q_a_layernorm"));
    w->kv_norm = offset_of(find(p, l, "self_attn.kv_a_layernorm"));
    w->m[W_Q_A] = whole(find(p, l, "self_attn.q_a_proj"), type);
    w->m[W_Q] = whole(find(p, l, a->Rq > 0 ? "self_attn.q_b_proj" : "self_attn.q_proj"), type);
    w->m[W_KV_A] = whole(find(p, l, "self_attn.kv_a_proj_with_mqa"), type);
    // kv_b_proj is, a head, Dn rows of W_UK and then Dv of W_UV.
    const struct param *q = find(p, l, "self_attn.kv_b_proj");
    size_t at = q->offset, stride = (size_t)(a->Dn + a->Dv) * a->R;
    w->m[W_UK] = (struct matrix){q, at, stride, a->H, a->Dn, a->R, type, NULL, NULL};
    at += (size_t)a->Dn * a->R;
    w->m[W_UV] = (struct matrix){q, at, stride, a->H, a->Dv, a->R, type, NULL, NULL};
}

// A vector as the one column of a matrix.
static struct matrix column(const struct param *q, enum dtype type)
{
    return q ? (struct matrix){q, q->offset, q->size, 1, q->shape[0], 1, type, NULL, NULL}
             : (struct matrix){0};
}

static void find_grouped_attention(struct layer_weights *w, const struct policy *p, int l)
{
    w->q_norm = offset_of(find(p, l, "self_attn.q_norm"));
    w->kv_norm = offset_of(find(p, l, "self_attn.k_norm"));
    w->m[W_QKV] = whole(find(p, l, "self_attn.qkv_proj"), p->dtype);
    w->m[W_QKV_BIAS] =
        column(params_find(&p->params, "model.layers.%d.self_attn.qkv_proj.bias", l), p->dtype);
    w->m[W_O_BIAS] =
        column(params_find(&p->params, "model.layers.%d.self_attn.o_proj.bias", l), p->dtype);
}

static void find_layer(struct layer_weights *w, const struct policy *p, int l)
{
    const struct arch *a = &p->arch;
    const enum dtype type = p->dtype;
    const char *ffn = l < a->dense_layers ? "mlp" : "mlp.shared_experts";
    w->norm1 = offset_of(find(p, l, "input_layernorm"));
    w->norm2 = offset_of(find(p, l, "post_attention_layernorm"));
    w->route_bias =
        offset_of(params_find(&p->params, "model.layers.%d.mlp.gate.e_score_correction_bias", l));
    w->m[W_O] = whole(find(p, l, "self_attn.o_proj"), type);
    w->m[W_GATE] = whole(find(p, l, "mlp.gate"), DTYPE_F32);
    w->m[W_GATE_UP] =
        whole(params_find(&p->params, "model.layers.%d.%s.gate_up_proj.weight", l, ffn), type);
    w->m[W_DOWN] =
        whole(params_find(&p->params, "model.layers.%d.%s.down_proj.weight", l, ffn), type);
    if (l >= a->dense_layers) {
        w->m[W_EXP_GATE_UP] = whole(find(p, l, "mlp.experts.gate_up_proj"), type);
        w->m[W_EXP_DOWN] = whole(find(p, l, "mlp.experts.down_proj"), type);
    }
    if (arch_is_latent(a)) {
        find_latent_attention(w, p, l);
    } else {
        find_grouped_attention(w, p, l);
    }
}

// Bytes of `count` packed matrices [k,n], in whole lines of 64.
static size_t packed_bytes(const struct matrix *m, const struct device *dev, int k, int n)
{
    return (matmul_packed_size(dev, k, n) * m->count * dtype_size(m->type) + 63) / 64 * 64;
}

// Gives m its place in the block (NULL: only counts), and returns the bytes it takes.
static size_t place(struct matrix *m, const struct device *dev, bool to_out, bool to_in,
                    char *block)
{
    size_t out = to_out ? packed_bytes(m, dev, m->in, m->out) : 0;
    size_t in = to_in ? packed_bytes(m, dev, m->out, m->in) : 0;
    m->to_out = block && to_out ? block : NULL;
    m->to_in = block && to_in ? block + out : NULL;
    return out + in;
}

static size_t place_all(struct policy_packed *w, const struct policy *p, char *block)
{
    const bool to_in = w->train && !p->dev->reads_plain; // else the block itself serves
    size_t used = 0;
    for (int l = 0; l < p->arch.L; l++) {
        for (int i = 0; i < W_LAYER_COUNT; i++) {
            used += place(&w->layers[l].m[i], p->dev, i != W_UK || w->train, i == W_UK || to_in,
                          block ? block + used : NULL);
        }
    }
    used += place(&w->head, p->dev, true, w->train, block ? block + used : NULL);
    used += place(&w->score, p->dev, true, to_in, block ? block + used : NULL);
    return used;
}

// `count` matrices from number `first` on, which stand at b, into the packed form that begins at
// out; NULL: into none.
static int pack_way(const struct matrix *m, struct device *dev, const float *b, int first,
                    int count, bool transposed, void *out)
{
    const int k = transposed ? m->in : m->out, n = transposed ? m->out : m->in;
    const size_t one = matmul_packed_size(dev, k, n) * dtype_size(m->type);
    if (!out) {
        return 0;
    }
    return dev->k->matmul_pack(dev, &(struct pack_args){.b = b,
                                                        .ldb = (size_t)m->in,
                                                        .stride_b = m->stride,
                                                        .k = k,
                                                        .n = n,
                                                        .count = count,
                                                        .transposed = transposed,
                                                        .out = (char *)out + (size_t)first * one,
                                                        .out_type = m->type});
}

// As weights_pack_param; nothing where m is of another param.
static int pack(const struct matrix *m, struct device *dev, const struct param *q,
                const float *from, int first, int count)
{
    if (m->param != q) {
        return 0;
    }
    const float *b = from + (m->offset - q->offset);
    if (params_parts(q) == 1) { // the matrices inside it all together
        count = m->count;
    }
    int rc = pack_way(m, dev, b, first, count, true, m->to_out);
    return rc ? rc : pack_way(m, dev, b, first, count, false, m->to_in);
}

int weights_pack_param(const struct policy_packed *w, const struct policy *p, const struct param *q,
                       const float *from, int first, int count)
{
    int rc = 0;
    for (int i = 0; q->layer >= 0 && i < W_LAYER_COUNT && rc == 0; i++) {
        rc = pack(&w->layers[q->layer].m[i], p->dev, q, from, first, count);
    }
    rc = rc ? rc : pack(&w->head, p->dev, q, from, first, count);
    return rc ? rc : pack(&w->score, p->dev, q, from, first, count);
}

// Room for all packed forms that are needed.
static int make_block(struct policy_packed *w, const struct policy *p)
{
    w->train = p->grad != NULL;
    device_release(w->dev, w->block);
    w->block = NULL;
    int rc = device_alloc_zero(w->dev, &w->block, place_all(w, p, NULL));
    place_all(w, p, w->block);
    return rc;
}

int weights_pack(struct policy_packed *w, const struct policy *p)
{
    int rc = 0;
    assert(!p->params.read_only);
    if (!w->block || w->train != (p->grad != NULL)) {
        rc = make_block(w, p);
    }
    for (int i = 0; i < p->params.count && rc == 0; i++) {
        const struct param *q = &p->params.list[i];
        rc = weights_pack_param(w, p, q, p->params.data + q->offset, 0, params_parts(q));
    }
    return rc;
}

static struct policy_packed *find_all(const struct policy *p)
{
    struct policy_packed *w = mem_alloc0(sizeof *w);
    w->dev = p->dev;
    w->layers = mem_array0((size_t)p->arch.L, sizeof *w->layers);
    for (int l = 0; l < p->arch.L; l++) {
        find_layer(&w->layers[l], p, l);
    }
    const struct param *embed = params_find(&p->params, "model.embed_tokens.weight");
    w->embed = embed->offset;
    w->norm = params_find(&p->params, "model.norm.weight")->offset;
    w->head = whole(p->arch.tied ? embed : params_find(&p->params, "lm_head.weight"), p->dtype);
    w->score = whole(params_find(&p->params, "score.weight"), DTYPE_F32);
    w->score_bias = offset_of(params_find(&p->params, "score.bias"));
    return w;
}

size_t weights_bytes(const struct policy *p, bool train)
{
    struct policy_packed *w = find_all(p);
    w->train = train;
    const size_t bytes = place_all(w, p, NULL);
    weights_free(&w);
    return bytes;
}

int weights_open(struct policy_packed **out, const struct policy *p)
{
    struct policy_packed *w = find_all(p);
    int rc = make_block(w, p);
    if (rc) {
        weights_free(&w);
        return rc;
    }
    *out = w;
    return 0;
}

void weights_free(struct policy_packed **w)
{
    if (w && *w) {
        free((*w)->layers);
        device_release((*w)->dev, (*w)->block);
        free(*w);
        *w = NULL;
    }
}
