// SPDX-License-Identifier: Apache-2.0
#include "policy/arch.h"

#include "base/error.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

// Theory of operation. A reader collects faults, one line each, and goes on with a default, so that
// all faults of an object come out in one message. Checks across fields run only when the fields
// themselves were sound.
struct reader {
    const struct json_doc *doc;
    const struct json *v; // the object
    const char *name;
    struct strbuf faults;
    int num_faults;
};

static void fault(struct reader *r, const struct json *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void fault(struct reader *r, const struct json *at, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    strbuf_printf(&r->faults, "%s%s:%d: %s", r->num_faults++ ? "\n" : "", r->name,
                  json_line(r->doc, at ? at : r->v), text);
}

// The member, or NULL when it is absent or null.
static const struct json *member(const struct json *object, const char *key)
{
    const struct json *v = json_get(object, key);
    return json_type(v) == JSON_NULL ? NULL : v;
}

// "key" is VALUE, expected WHAT
static void fault_value(struct reader *r, const struct json *v, const char *key, const char *what)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_put_value(&w, r->doc, v);
    fault(r, v, "\"%s\" is %.120s, expected %s", key, text.data, what);
    strbuf_free(&text);
}

enum { REQUIRED = INT32_MIN };

// value_if_absent REQUIRED: absence is a fault.
static int read_int(struct reader *r, const struct json *object, const char *key, int lo, int hi,
                    int value_if_absent)
{
    const struct json *v = member(object, key);
    int64_t value;
    if (!v && value_if_absent == REQUIRED) {
        fault(r, object, "\"%s\" is missing", key);
    }
    if (!v) {
        return value_if_absent == REQUIRED ? lo : value_if_absent;
    }
    if (!json_int(r->doc, v, lo, hi, &value)) {
        char what[64];
        snprintf(what, sizeof what, "an integer in %d..%d", lo, hi);
        fault_value(r, v, key, what);
        return lo;
    }
    return (int)value;
}

// A real in [lo, hi].
static double read_real(struct reader *r, const struct json *object, const char *key, double lo,
                        double hi, double value_if_absent)
{
    const struct json *v = member(object, key);
    double value = value_if_absent;
    if (v && (!json_double(v, &value) || !(value >= lo && value <= hi))) {
        char what[64];
        snprintf(what, sizeof what, "a number in %g..%g", lo, hi);
        fault_value(r, v, key, what);
        return value_if_absent;
    }
    return value;
}

static bool read_bool(struct reader *r, const struct json *object, const char *key,
                      bool value_if_absent)
{
    const struct json *v = member(object, key);
    bool value = value_if_absent;
    if (v && !json_bool(v, &value)) {
        fault_value(r, v, key, "true or false");
    }
    return value;
}

// The key, when given, must hold this text, truth or integer: what the code computes.
static void expect_string(struct reader *r, const char *key, const char *text)
{
    const struct json *v = member(r->v, key);
    const char *s = json_string(v);
    if (v && (!s || strcmp(s, text))) {
        char what[96];
        snprintf(what, sizeof what, "\"%s\" (no other is supported)", text);
        fault_value(r, v, key, what);
    }
}

static void expect_false(struct reader *r, const char *key)
{
    const struct json *v = member(r->v, key);
    bool value = false;
    if (v && (!json_bool(v, &value) || value)) {
        fault_value(r, v, key, "false (no other is supported)");
    }
}

// A token id; -1 when absent.
static int read_token_id(struct reader *r, const struct json *v, const char *key, int V)
{
    int64_t id = -1;
    if (v && !json_int(r->doc, v, -1, V - 1, &id)) {
        char what[64];
        snprintf(what, sizeof what, "a token id below vocab_size %d", V);
        fault_value(r, v, key, what);
    }
    return (int)id;
}

// One id, or several.
static void read_eos_ids(struct reader *r, struct arch *a)
{
    const char *key = "eos_token_id";
    const struct json *v = member(r->v, key);
    if (json_type(v) != JSON_ARRAY) {
        a->eos_id = read_token_id(r, v, key, a->V);
        return;
    }
    a->eos_id = -1;
    if (json_count(v) > ARCH_EOS_MAX) {
        fault(r, v, "\"%s\" lists %d tokens, expected at most %d", key, json_count(v),
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
    const struct json *v = member(r->v, "model_type");
    const char *s = json_string(v);
    if (!v) {
        fault(r, NULL, "\"model_type\" is missing");
    } else if (s && !strcmp(s, "deepseek_v2")) {
        a->kind = ARCH_DEEPSEEK_V2;
    } else if (s && !strcmp(s, "deepseek_v3")) {
        a->kind = ARCH_DEEPSEEK_V3;
    } else {
        fault_value(r, v, "model_type",
                    "\"deepseek_v2\" or \"deepseek_v3\" (unknown architecture)");
    }
}

static void read_sizes(struct reader *r, struct arch *a)
{
    const int wide = 1 << 20;
    a->V = read_int(r, r->v, "vocab_size", 1, 1 << 24, REQUIRED);
    a->C = read_int(r, r->v, "hidden_size", 1, wide, REQUIRED);
    a->L = read_int(r, r->v, "num_hidden_layers", 1, 512, REQUIRED);
    a->H = read_int(r, r->v, "num_attention_heads", 1, 1024, REQUIRED);
    a->Rq = read_int(r, r->v, "q_lora_rank", 0, wide, 0);
    a->R = read_int(r, r->v, "kv_lora_rank", 1, wide, REQUIRED);
    a->Dn = read_int(r, r->v, "qk_nope_head_dim", 1, wide, REQUIRED);
    a->Dr = read_int(r, r->v, "qk_rope_head_dim", 2, wide, REQUIRED);
    a->Dv = read_int(r, r->v, "v_head_dim", 1, wide, REQUIRED);
    a->max_positions = read_int(r, r->v, "max_position_embeddings", 1, 1 << 24, REQUIRED);
    a->num_mtp_layers = read_int(r, r->v, "num_nextn_predict_layers", 0, 64, 0);
    int kv_heads = read_int(r, r->v, "num_key_value_heads", 1, 1024, a->H);
    if (kv_heads != a->H) {
        fault(
            r, json_get(r->v, "num_key_value_heads"),
            "\"num_key_value_heads\" %d differs from \"num_attention_heads\" %d: latent attention "
            "has one set of keys and values a head",
            kv_heads, a->H);
    }
    if (a->Dr % 2) {
        fault(r, json_get(r->v, "qk_rope_head_dim"),
              "\"qk_rope_head_dim\" %d is odd: positions rotate pairs", a->Dr);
    }
    a->norm_eps = read_real(r, r->v, "rms_norm_eps", 1e-12, 1, 1e-6);
    a->init_range = read_real(r, r->v, "initializer_range", 0, 100, 0.02);
    a->tied = read_bool(r, r->v, "tie_word_embeddings", false);
    a->bos_id = read_token_id(r, member(r->v, "bos_token_id"), "bos_token_id", a->V);
    read_eos_ids(r, a);
    a->pad_id = read_token_id(r, member(r->v, "pad_token_id"), "pad_token_id", a->V);
    expect_string(r, "hidden_act", "silu");
    expect_false(r, "attention_bias");
    expect_false(r, "mlp_bias");
}

// Weights in blocks of float8 (DeepSeek-V3's README_WEIGHTS.md) are the one kind of quantised ones
// that is read. How activations would be quantised is not asked: the weights are dequantised.
static void read_quantization(struct reader *r, struct arch *a)
{
    const struct json *q = member(r->v, "quantization_config");
    const struct json *method = member(q, "quant_method"), *fmt = member(q, "fmt");
    const struct json *block = member(q, "weight_block_size");
    const char *s = json_string(method), *f = json_string(fmt);
    int64_t rows, columns;
    if (!q) {
        return;
    }
    if (!s || strcmp(s, "fp8") || (fmt && (!f || strcmp(f, "e4m3")))) {
        fault_value(r, q, "quantization_config",
                    "\"quant_method\" \"fp8\" with \"fmt\" \"e4m3\" (no other is supported)");
    } else if (json_count(block) != 2 || !json_int(r->doc, json_first(block), 1, 1 << 20, &rows) ||
               !json_int(r->doc, json_next(json_first(block)), 1, 1 << 20, &columns)) {
        fault_value(r, q, "quantization_config",
                    "\"weight_block_size\" [rows, columns] (only weights in blocks are supported)");
    } else {
        a->fp8_rows = (int)rows;
        a->fp8_columns = (int)columns;
    }
}

static void read_gate(struct reader *r, struct arch *a)
{
    bool v3 = a->kind == ARCH_DEEPSEEK_V3;
    a->scoring = v3 ? MOE_SIGMOID : MOE_SOFTMAX;
    a->group_rank = v3 ? MOE_GROUP_TOP2 : MOE_GROUP_MAX;
    a->route_bias = v3;
    expect_string(r, "scoring_func", v3 ? "sigmoid" : "softmax");
    a->route_normalise = read_bool(r, r->v, "norm_topk_prob", v3);
    if (!v3 && a->route_normalise) {
        fault(r, json_get(r->v, "norm_topk_prob"),
              "\"norm_topk_prob\" is true: for deepseek_v2 implementations disagree about what it "
              "means, so it is refused");
    }
    const struct json *method = member(r->v, "topk_method");
    const char *s = json_string(method);
    if (v3) {
        expect_string(r, "topk_method", "noaux_tc");
    } else if (!method || (s && !strcmp(s, "greedy"))) {
        a->n_group = a->topk_group = 1;
    } else if (!s || strcmp(s, "group_limited_greedy")) {
        fault_value(r, method, "topk_method", "\"greedy\" or \"group_limited_greedy\"");
    }
}

static void check_groups(struct reader *r, const struct arch *a)
{
    int per_group = a->E / a->n_group;
    if (a->E % a->n_group) {
        fault(r, NULL, "\"n_routed_experts\" %d is not a multiple of \"n_group\" %d", a->E,
              a->n_group);
    } else if (a->topk_group > a->n_group) {
        fault(r, NULL, "\"topk_group\" %d is more than \"n_group\" %d", a->topk_group, a->n_group);
    } else if (a->K > a->topk_group * per_group) {
        fault(r, NULL,
              "\"num_experts_per_tok\" %d is more than the %d experts that routing can choose from "
              "(\"topk_group\" %d of groups of %d)",
              a->K, a->topk_group * per_group, a->topk_group, per_group);
    } else if (a->group_rank == MOE_GROUP_TOP2 && a->n_group > 1 && per_group < 2) {
        fault(r, NULL, "groups of one expert (\"n_group\" %d) have no two best scores to rank by",
              a->n_group);
    }
}

static void read_mixture(struct reader *r, struct arch *a)
{
    const int wide = 1 << 20;
    a->E = read_int(r, r->v, "n_routed_experts", 0, 1024, 0);
    a->dense_layers = a->L;
    if (a->E > 0) {
        a->dense_layers = read_int(r, r->v, "first_k_dense_replace", 0, a->L, 0);
        a->K = read_int(r, r->v, "num_experts_per_tok", 1, 1024, REQUIRED);
        a->S = read_int(r, r->v, "n_shared_experts", 0, 1024, 0);
        a->F = read_int(r, r->v, "moe_intermediate_size", 1, wide, REQUIRED);
        a->n_group = read_int(r, r->v, "n_group", 1, 1024, 1);
        a->topk_group = read_int(r, r->v, "topk_group", 1, 1024, 1);
        a->route_scale = read_real(r, r->v, "routed_scaling_factor", 1e-6, 1e6, 1);
        if (read_int(r, r->v, "moe_layer_freq", 1, 512, 1) != 1) {
            fault_value(r, json_get(r->v, "moe_layer_freq"), "moe_layer_freq",
                        "1 (every layer after the dense ones is a mixture)");
        }
        read_gate(r, a);
        check_groups(r, a);
    }
    a->dense_width =
        read_int(r, r->v, "intermediate_size", 1, wide, a->dense_layers > 0 ? (int)REQUIRED : 1);
}

static void read_yarn(struct reader *r, struct arch *a, const struct json *v)
{
    struct arch_yarn *y = &a->yarn;
    y->factor = read_real(r, v, "factor", 1, 1e6, 0);
    if (!member(v, "factor")) {
        fault(r, v, "\"factor\" is missing");
    }
    y->original_positions =
        read_int(r, v, "original_max_position_embeddings", 1, 1 << 24, a->max_positions);
    y->beta_fast = read_real(r, v, "beta_fast", 1e-6, 1e6, 32);
    y->beta_slow = read_real(r, v, "beta_slow", 1e-6, 1e6, 1);
    y->mscale = read_real(r, v, "mscale", 0, 1e3, 0);
    y->mscale_all_dim = read_real(r, v, "mscale_all_dim", 0, 1e3, 0);
    y->attention_factor = read_real(r, v, "attention_factor", 1e-6, 1e3, 0);
    y->truncate = read_bool(r, v, "truncate", true);
}

// rope_parameters (transformers 5) holds both the base and the scaling; published files have
// rope_theta beside rope_scaling.
static void read_rope(struct reader *r, struct arch *a)
{
    const struct json *both = member(r->v, "rope_parameters");
    const struct json *scaling = both ? both : member(r->v, "rope_scaling");
    const char *key = both ? "rope_parameters" : "rope_scaling";
    const struct json *base = member(both, "rope_theta") ? both : r->v;
    a->rope_theta = read_real(r, base, "rope_theta", 1 + 1e-6, 1e12, 10000);
    a->rope_halves = a->kind == ARCH_DEEPSEEK_V3 && !read_bool(r, r->v, "rope_interleave", true);
    if (!scaling) {
        return;
    }
    if (json_type(scaling) != JSON_OBJECT) {
        fault_value(r, scaling, key, "an object");
        return;
    }
    const struct json *type = member(scaling, "rope_type");
    if (!type) {
        type = member(scaling, "type");
    }
    const char *s = json_string(type);
    if (s && !strcmp(s, "yarn")) {
        read_yarn(r, a, scaling);
    } else if (type ? !s || strcmp(s, "default") : !both) {
        fault_value(r, scaling, key, "a scaling of type \"yarn\" or \"default\"");
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
        read_mixture(&r, &a);
        read_rope(&r, &a);
    }
    if (!r.num_faults && arch_num_parameters(&a, false) > (int64_t)1 << 42) {
        fault(&r, NULL, "the sizes make %.3g parameters, more than any machine holds",
              (double)arch_num_parameters(&a, false));
    }
    int rc = r.num_faults ? err_set(code, "%s", r.faults.data) : 0;
    strbuf_free(&r.faults);
    if (rc == 0) {
        *out = a;
    }
    return rc;
}

size_t arch_cache_width(const struct arch *a) { return (size_t)(a->R + a->Dr) * a->L; }

int64_t arch_num_parameters(const struct arch *a, bool active)
{
    int64_t C = a->C, per_head = a->Dn + a->Dr;
    int64_t q = a->Rq > 0 ? a->Rq * (C + 1 + a->H * per_head) : C * a->H * per_head;
    int64_t kv = C * (a->R + a->Dr) + a->R + (int64_t)a->H * (a->Dn + a->Dv) * a->R;
    int64_t attention = q + kv + (int64_t)a->H * a->Dv * C + 2 * C; // and the two norms
    int64_t dense = 3 * C * a->dense_width;
    int64_t experts = active ? a->K : a->E;
    int64_t mixture = 3 * C * a->F * (experts + a->S) + a->E * (C + a->route_bias);
    int64_t ends = (a->tied ? 1 : 2) * a->V * C + C + (a->value_head ? C + 1 : 0);
    return ends + a->L * attention + a->dense_layers * dense + (a->L - a->dense_layers) * mixture;
}
