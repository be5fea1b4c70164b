// SPDX-License-Identifier: Apache-2.0
// Writes an architecture as the config.json of arch.h.
#include "policy/arch.h"

#include <string.h>

static void put_int(struct json_writer *w, const char *key, int64_t v)
{
    json_put_key(w, key);
    json_put_int(w, v);
}

// Readers that check types take 1 for an integer: a real is written with a point.
static void put_real(struct json_writer *w, const char *key, double v)
{
    json_put_key(w, key);
    size_t at = w->out->len;
    json_put_double(w, v);
    if (!strpbrk(w->out->data + at, ".e")) {
        strbuf_puts(w->out, ".0");
    }
}

static void put_bool(struct json_writer *w, const char *key, bool v)
{
    json_put_key(w, key);
    json_put_bool(w, v);
}

static void put_string(struct json_writer *w, const char *key, const char *v)
{
    json_put_key(w, key);
    json_put_string(w, v);
}

static void put_yarn(struct json_writer *w, const struct arch_yarn *y)
{
    json_begin_object(w);
    put_string(w, "type", "yarn");
    put_real(w, "factor", y->factor);
    put_int(w, "original_max_position_embeddings", y->original_positions);
    put_real(w, "beta_fast", y->beta_fast);
    put_real(w, "beta_slow", y->beta_slow);
    if (y->mscale != 0) {
        put_real(w, "mscale", y->mscale);
    }
    if (y->mscale_all_dim != 0) {
        put_real(w, "mscale_all_dim", y->mscale_all_dim);
    }
    if (y->attention_factor != 0) {
        put_real(w, "attention_factor", y->attention_factor);
    }
    if (!y->truncate) {
        put_bool(w, "truncate", false);
    }
    json_end_object(w);
}

static void put_llama3(struct json_writer *w, const struct arch_llama3 *s)
{
    json_begin_object(w);
    put_string(w, "rope_type", "llama3");
    put_real(w, "factor", s->factor);
    put_real(w, "low_freq_factor", s->low_freq_factor);
    put_real(w, "high_freq_factor", s->high_freq_factor);
    put_int(w, "original_max_position_embeddings", s->original_positions);
    json_end_object(w);
}

static void put_rope(struct json_writer *w, const struct arch *a)
{
    put_real(w, "rope_theta", a->rope_theta);
    if (arch_family_of(a->kind)->rope_interleave_key) {
        put_bool(w, "rope_interleave", !a->rope_halves);
    }
    json_put_key(w, "rope_scaling");
    if (a->yarn.factor != 0) {
        put_yarn(w, &a->yarn);
    } else if (a->llama3.factor != 0) {
        put_llama3(w, &a->llama3);
    } else {
        json_put_null(w);
    }
}

static void put_latent(struct json_writer *w, const struct arch *a)
{
    put_int(w, "num_key_value_heads", a->H);
    json_put_key(w, "q_lora_rank");
    if (a->Rq > 0) {
        json_put_int(w, a->Rq);
    } else {
        json_put_null(w);
    }
    put_int(w, "kv_lora_rank", a->R);
    put_int(w, "qk_nope_head_dim", a->Dn);
    put_int(w, "qk_rope_head_dim", a->Dr);
    put_int(w, "v_head_dim", a->Dv);
    put_bool(w, "attention_bias", false);
}

static void put_grouped(struct json_writer *w, const struct arch *a)
{
    const struct arch_family *f = arch_family_of(a->kind);
    put_int(w, "num_key_value_heads", a->Hkv);
    put_int(w, "head_dim", a->Dr);
    if (f->bias_key) {
        put_bool(w, "attention_bias", a->o_bias);
    }
    if (f->window_key) {
        put_bool(w, "use_sliding_window", false);
    }
}

static void put_deepseek_mixture(struct json_writer *w, const struct arch *a)
{
    const bool sigmoid = a->scoring == MOE_SIGMOID;
    put_int(w, "first_k_dense_replace", a->dense_layers);
    if (a->E == 0) {
        return; // n_routed_experts is left out: every layer is dense
    }
    put_int(w, "moe_layer_freq", 1);
    put_int(w, "n_routed_experts", a->E);
    put_int(w, "num_experts_per_tok", a->K);
    put_int(w, "n_shared_experts", a->S);
    put_int(w, "moe_intermediate_size", a->F);
    put_int(w, "n_group", a->n_group);
    put_int(w, "topk_group", a->topk_group);
    put_string(w, "topk_method",
               sigmoid ? "noaux_tc" : (a->n_group > 1 ? "group_limited_greedy" : "greedy"));
    put_string(w, "scoring_func", sigmoid ? "sigmoid" : "softmax");
    put_bool(w, "norm_topk_prob", a->route_normalise);
    put_real(w, "routed_scaling_factor", a->route_scale);
}

static void put_qwen_mixture(struct json_writer *w, const struct arch *a)
{
    put_int(w, "num_experts", a->E);
    put_int(w, "num_experts_per_tok", a->K);
    put_int(w, "moe_intermediate_size", a->F);
    put_bool(w, "norm_topk_prob", a->route_normalise);
    put_int(w, "decoder_sparse_step", 1);
    json_put_key(w, "mlp_only_layers");
    json_begin_array(w);
    for (int l = 0; l < a->dense_layers; l++) {
        json_put_int(w, l);
    }
    json_end_array(w);
}

static void put_mixture(struct json_writer *w, const struct arch *a)
{
    switch (arch_family_of(a->kind)->mixture) {
    case ARCH_MIXTURE_NONE:
        break;
    case ARCH_MIXTURE_DEEPSEEK_V2:
        put_deepseek_mixture(w, a);
        break;
    case ARCH_MIXTURE_DEEPSEEK_V3:
        put_deepseek_mixture(w, a);
        put_int(w, "num_nextn_predict_layers", 0);
        break;
    case ARCH_MIXTURE_QWEN:
        put_qwen_mixture(w, a);
        break;
    }
}

static void put_eos_ids(struct json_writer *w, const struct arch *a)
{
    json_begin_array(w);
    for (int i = 0; i < a->num_eos_ids; i++) {
        json_put_int(w, a->eos_ids[i]);
    }
    json_end_array(w);
}

static void put_token_ids(struct json_writer *w, const struct arch *a)
{
    const struct {
        const char *key;
        int id;
    } ids[] = {
        {"bos_token_id", a->bos_id}, {"eos_token_id", a->eos_id}, {"pad_token_id", a->pad_id}};
    for (int i = 0; i < 3; i++) {
        json_put_key(w, ids[i].key);
        if (i == 1 && a->num_eos_ids > 1) {
            put_eos_ids(w, a);
        } else if (ids[i].id >= 0) {
            json_put_int(w, ids[i].id);
        } else {
            json_put_null(w);
        }
    }
}

void arch_to_json(struct json_writer *w, const struct arch *a)
{
    const struct arch_family *f = arch_family_of(a->kind);
    json_begin_object(w);
    json_put_key(w, "architectures");
    json_begin_array(w);
    json_put_string(w, f->class_name);
    json_end_array(w);
    put_string(w, "model_type", f->model_type);
    put_string(w, "torch_dtype", "float32");
    put_int(w, "vocab_size", a->V);
    put_int(w, "hidden_size", a->C);
    put_int(w, "intermediate_size", a->dense_width);
    put_int(w, "num_hidden_layers", a->L);
    put_int(w, "num_attention_heads", a->H);
    if (f->latent) {
        put_latent(w, a);
    } else {
        put_grouped(w, a);
    }
    put_mixture(w, a);
    put_string(w, "hidden_act", "silu");
    put_real(w, "rms_norm_eps", a->norm_eps);
    put_real(w, "initializer_range", a->init_range);
    put_int(w, "max_position_embeddings", a->max_positions);
    put_rope(w, a);
    put_bool(w, "tie_word_embeddings", a->tied);
    put_token_ids(w, a);
    json_end_object(w);
}
