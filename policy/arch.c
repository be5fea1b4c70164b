// SPDX-License-Identifier: Apache-2.0
#include "policy/arch_reader.h"

#include "base/error.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

// A token id; -1 when absent.
static int read_token_id(struct reader *r, const struct json *v, const char *key, int V)
{
    int64_t id = -1;
    if (v && !json_int(r->doc, v, -1, V - 1, &id)) {
        char what[64];
        snprintf(what, sizeof what, "a token id below vocab_size %d", V);
        reader_fault_value(r, v, key, what);
    }
    return (int)id;
}

// One id, or several.
static void read_eos_ids(struct reader *r, struct arch *a)
{
    const char *key = "eos_token_id";
    const struct json *v = reader_member(r->v, key);
    if (json_type(v) != JSON_ARRAY) {
        a->eos_id = read_token_id(r, v, key, a->V);
        return;
    }
    a->eos_id = -1;
    if (json_count(v) > ARCH_EOS_MAX) {
        reader_fault(r, v, "\"%s\" lists %d tokens, expected at most %d", key, json_count(v),
                     ARCH_EOS_MAX);
        return;
    }
    for (const struct json *id = json_first(v); id; id = json_next(id)) {
        a->eos_ids[a->num_eos_ids++] = read_token_id(r, id, key, a->V);
    }
    if (a->num_eos_ids > 0) {
        a->eos_id = a->eos_ids[0];
    }
}

static void read_kind(struct reader *r, struct arch *a)
{
    const struct json *v = reader_member(r->v, "model_type");
    const char *s = json_string(v);
    struct strbuf known = {0};
    if (!v) {
        reader_fault(r, NULL, "\"model_type\" is missing");
        return;
    }
    for (int kind = 0; kind < ARCH_KINDS; kind++) {
        const char *name = arch_family_of(kind)->model_type;
        if (s && !strcmp(s, name)) {
            a->kind = kind;
            strbuf_free(&known);
            return;
        }
        strbuf_printf(&known, "%s\"%s\"", kind == 0 ? "one of " : ", ", name);
    }
    strbuf_puts(&known, " (unknown architecture)");
    reader_fault_value(r, v, "model_type", known.data);
    strbuf_free(&known);
}

// Positions rotate pairs of the elements that a key counts.
static void check_pairs(struct reader *r, const struct arch *a, const char *key)
{
    if (a->Dr % 2) {
        reader_fault(r, json_get(r->v, key), "\"%s\" %d is odd: positions rotate pairs", key,
                     a->Dr);
    }
}

static void read_latent(struct reader *r, struct arch *a)
{
    a->Rq = reader_int(r, r->v, "q_lora_rank", 0, READER_WIDE, 0);
    a->R = reader_int(r, r->v, "kv_lora_rank", 1, READER_WIDE, READER_REQUIRED);
    a->Dn = reader_int(r, r->v, "qk_nope_head_dim", 1, READER_WIDE, READER_REQUIRED);
    a->Dr = reader_int(r, r->v, "qk_rope_head_dim", 2, READER_WIDE, READER_REQUIRED);
    a->Dv = reader_int(r, r->v, "v_head_dim", 1, READER_WIDE, READER_REQUIRED);
    const int kv_heads = reader_int(r, r->v, "num_key_value_heads", 1, 1024, a->H);
    if (kv_heads != a->H) {
        reader_fault(
            r, json_get(r->v, "num_key_value_heads"),
            "\"num_key_value_heads\" %d differs from \"num_attention_heads\" %d: latent attention "
            "has one set of keys and values a head",
            kv_heads, a->H);
    }
    check_pairs(r, a, "qk_rope_head_dim");
    reader_expect_false(r, "attention_bias");
}

static void expect_full_attention(struct reader *r)
{
    const char *key = "layer_types";
    const struct json *list = reader_member(r->v, key);
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        const char *s = json_string(v);
        if (!s || strcmp(s, "full_attention")) {
            reader_fault_value(r, list, key, "\"full_attention\" alone (no other is supported)");
            return;
        }
    }
}

// The width of a head: head_dim, or C/H.
static int read_head_dim(struct reader *r, const struct arch *a, bool required)
{
    const char *key = "head_dim";
    if (!required && !reader_member(r->v, key) && a->C % a->H) {
        reader_fault(r, json_get(r->v, "num_attention_heads"),
                     "\"hidden_size\" %d is not a multiple of \"num_attention_heads\" %d, and "
                     "there is no \"%s\"",
                     a->C, a->H, key);
    }
    return reader_int(r, r->v, key, 1, 1024, required ? (int)READER_REQUIRED : a->C / a->H);
}

static void read_grouped(struct reader *r, struct arch *a)
{
    const struct arch_family *f = arch_family_of(a->kind);
    const bool biased = f->bias_key && reader_bool(r, r->v, "attention_bias", false);
    a->Hkv = reader_int(r, r->v, "num_key_value_heads", 1, 1024, a->H);
    if (a->H % a->Hkv) {
        reader_fault(r, json_get(r->v, "num_key_value_heads"),
                     "\"num_attention_heads\" %d is not a multiple of \"num_key_value_heads\" %d",
                     a->H, a->Hkv);
    }
    a->Dr = a->Dv = read_head_dim(r, a, f->head_dim_key);
    check_pairs(r, a, "head_dim");
    a->qk_norm = f->qk_norm;
    a->qkv_bias = f->qkv_bias || biased;
    a->o_bias = biased;
    if (f->window_key) {
        reader_expect_false(r, "use_sliding_window");
    }
    expect_full_attention(r);
}

static void read_sizes(struct reader *r, struct arch *a)
{
    a->V = reader_int(r, r->v, "vocab_size", 1, 1 << 24, READER_REQUIRED);
    a->C = reader_int(r, r->v, "hidden_size", 1, READER_WIDE, READER_REQUIRED);
    a->L = reader_int(r, r->v, "num_hidden_layers", 1, 512, READER_REQUIRED);
    a->H = reader_int(r, r->v, "num_attention_heads", 1, 1024, READER_REQUIRED);
    if (arch_family_of(a->kind)->latent) {
        read_latent(r, a);
    } else {
        read_grouped(r, a);
    }
    a->max_positions = reader_int(r, r->v, "max_position_embeddings", 1, 1 << 24, READER_REQUIRED);
    a->num_mtp_layers = reader_int(r, r->v, "num_nextn_predict_layers", 0, 64, 0);
    a->norm_eps = reader_real(r, r->v, "rms_norm_eps", 1e-12, 1, 1e-6);
    a->init_range = reader_real(r, r->v, "initializer_range", 0, 100, 0.02);
    a->tied = reader_bool(r, r->v, "tie_word_embeddings", false);
    a->bos_id = read_token_id(r, reader_member(r->v, "bos_token_id"), "bos_token_id", a->V);
    read_eos_ids(r, a);
    a->pad_id = read_token_id(r, reader_member(r->v, "pad_token_id"), "pad_token_id", a->V);
    reader_expect_string(r, "hidden_act", "silu");
    reader_expect_false(r, "mlp_bias");
}

// Weights in blocks of float8 (DeepSeek-V3's README_WEIGHTS.md) are the one kind of quantised ones
// that is read. How activations would be quantised is not asked: the weights are dequantised.
static void read_quantization(struct reader *r, struct arch *a)
{
    const struct json *q = reader_member(r->v, "quantization_config");
    const struct json *method = reader_member(q, "quant_method"), *fmt = reader_member(q, "fmt");
    const struct json *block = reader_member(q, "weight_block_size");
    const char *s = json_string(method), *f = json_string(fmt);
    int64_t rows, columns;
    if (!q) {
        return;
    }
    if (!s || strcmp(s, "fp8") || (fmt && (!f || strcmp(f, "e4m3")))) {
        reader_fault_value(
            r, q, "quantization_config",
            "\"quant_method\" \"fp8\" with \"fmt\" \"e4m3\" (no other is supported)");
    } else if (json_count(block) != 2 || !json_int(r->doc, json_first(block), 1, 1 << 20, &rows) ||
               !json_int(r->doc, json_next(json_first(block)), 1, 1 << 20, &columns)) {
        reader_fault_value(
            r, q, "quantization_config",
            "\"weight_block_size\" [rows, columns] (only weights in blocks are supported)");
    } else {
        a->fp8_rows = (int)rows;
        a->fp8_columns = (int)columns;
    }
}

int arch_from_json(struct arch *out, const struct json_doc *doc, const struct json *v,
                   const char *name, int code)
{
    if (json_type(v) != JSON_OBJECT) {
        return err_set(code, "%s: a model's config is an object, not %s", name,
                       json_type_name(json_type(v)));
    }
    struct reader r = {.doc = doc, .v = v, .name = name};
    struct arch a = {0};
    read_kind(&r, &a);
    if (!r.num_faults) { // the fields of an unknown architecture mean nothing
        read_sizes(&r, &a);
        read_quantization(&r, &a);
        reader_mixture(&r, &a);
        reader_rope(&r, &a);
    }
    if (!r.num_faults && arch_num_parameters(&a, false) > (int64_t)1 << 42) {
        reader_fault(&r, NULL, "the sizes make %.3g parameters, more than any machine holds",
                     (double)arch_num_parameters(&a, false));
    }
    int rc = r.num_faults ? err_set(code, "%s", r.faults.data) : 0;
    strbuf_free(&r.faults);
    if (rc == 0) {
        *out = a;
    }
    return rc;
}

size_t arch_row_width(const struct arch *a)
{
    return arch_is_latent(a) ? (size_t)(a->R + a->Dr) : (size_t)a->Hkv * (size_t)(a->Dr + a->Dv);
}

size_t arch_cache_width(const struct arch *a) { return arch_row_width(a) * a->L; }

// Of a layer's attention, without the norm before it.
static int64_t attention_parameters(const struct arch *a)
{
    const int64_t C = a->C, per_head = a->Dn + a->Dr, out = (int64_t)a->H * a->Dv * C;
    if (arch_is_latent(a)) {
        const int64_t q = a->Rq > 0 ? a->Rq * (C + 1 + a->H * per_head) : C * a->H * per_head;
        const int64_t kv = C * (a->R + a->Dr) + a->R + (int64_t)a->H * (a->Dn + a->Dv) * a->R;
        return q + kv + out;
    }
    const int64_t qkv = a->H * per_head + (int64_t)arch_row_width(a);
    return qkv * (C + a->qkv_bias) + out + a->o_bias * C + a->qk_norm * 2 * a->Dr;
}

int64_t arch_num_parameters(const struct arch *a, bool active)
{
    int64_t C = a->C, attention = attention_parameters(a) + 2 * C; // and the two norms
    int64_t dense = 3 * C * a->dense_width;
    int64_t experts = active ? a->K : a->E;
    int64_t mixture = 3 * C * a->F * (experts + a->S) + a->E * (C + a->route_bias);
    int64_t ends = (a->tied ? 1 : 2) * a->V * C + C + (a->value_head ? C + 1 : 0);
    return ends + a->L * attention + a->dense_layers * dense + (a->L - a->dense_layers) * mixture;
}
