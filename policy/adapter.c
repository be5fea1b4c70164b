// SPDX-License-Identifier: Apache-2.0
#include "policy/adapter.h"

#include "base/error.h"
#include "base/json.h"
#include "base/team.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct adapter {
    struct adapter_config config;
    struct safetensors *file;
    int matrices;
};

// ---- adapter_config.json

// Keys that change nothing of what the matrices mean; the others that are not read must be empty:
// null, false, "", [] or {}.
static const char *const ignored[] = {"auto_mapping",      "inference_mode", "layers_pattern",
                                      "lora_dropout",      "megatron_core",  "peft_version",
                                      "qalora_group_size", "revision",       "runtime_config"};
static const char *const read_below[] = {"base_model_name_or_path",
                                         "bias",
                                         "init_lora_weights",
                                         "lora_alpha",
                                         "peft_type",
                                         "r",
                                         "rank_pattern",
                                         "alpha_pattern",
                                         "target_modules",
                                         "task_type",
                                         "use_rslora"};

static bool is_among(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(names[i], name)) {
            return true;
        }
    }
    return false;
}
#define IS_AMONG(names, name) is_among(names, sizeof names / sizeof names[0], name)

static bool is_empty(const struct json *v)
{
    bool flag = true;
    switch (json_type(v)) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return json_bool(v, &flag) && !flag;
    case JSON_STRING:
        return json_string(v)[0] == '\0';
    case JSON_ARRAY:
    case JSON_OBJECT:
        return json_count(v) == 0;
    case JSON_NUMBER:
        break;
    }
    return false;
}

static void put_value(struct strbuf *out, const struct json_doc *doc, const struct json *v)
{
    struct json_writer w = {.out = out};
    if (v) {
        json_put_value(&w, doc, v);
    } else {
        strbuf_puts(out, "missing");
    }
}

// "is VALUE, expected WHAT"
static void fault(struct tensor_report *r, const struct json_doc *doc, const struct json *v,
                  const char *key, const char *what)
{
    struct strbuf text = {0};
    put_value(&text, doc, v);
    tensor_report_add(r, key, "is %.100s, expected %s", text.data, what);
    strbuf_free(&text);
}

static void expect_word(struct tensor_report *r, const struct json_doc *doc, const char *key,
                        const char *word, bool required)
{
    const struct json *v = json_get(json_root(doc), key);
    const char *s = json_string(v);
    if ((v || required) && (!s || strcmp(s, word)) && (required || json_type(v) != JSON_NULL)) {
        char what[64];
        snprintf(what, sizeof what, "\"%s\" (no other is supported)", word);
        fault(r, doc, v, key, what);
    }
}

// Ranks or scales of their own for some modules.
static void expect_no_pattern(struct tensor_report *r, const struct json_doc *doc, const char *key,
                              const char *common)
{
    const struct json *v = json_get(json_root(doc), key);
    const struct json *first = json_first(v), *one = json_get(json_root(doc), common);
    if (is_empty(v)) {
        return;
    }
    if (json_type(v) != JSON_OBJECT) {
        fault(r, doc, v, key, "an object");
        return;
    }
    struct strbuf text = {0};
    strbuf_printf(&text, "gives \"%.80s\" ", json_key(first));
    put_value(&text, doc, first);
    strbuf_printf(&text, ", \"%s\" is ", common);
    put_value(&text, doc, one);
    tensor_report_add(r, key, "%.200s: one for all modules is supported", text.data);
    strbuf_free(&text);
}

// Ways of starting A and B that also change the matrices that they stand beside.
static void expect_base_as_it_is(struct tensor_report *r, const struct json_doc *doc)
{
    static const char *const leave_it[] = {"gaussian", "eva", "orthogonal"};
    const struct json *v = json_get(json_root(doc), "init_lora_weights");
    const char *s = json_string(v);
    bool flag;
    if (v && json_type(v) != JSON_NULL && !json_bool(v, &flag) && !(s && IS_AMONG(leave_it, s))) {
        fault(r, doc, v, "init_lora_weights",
              "true, false, \"gaussian\", \"eva\" or \"orthogonal\" (others change the base)");
    }
}

static void add_target(struct adapter_config *c, const char *name)
{
    c->targets = mem_realloc(c->targets, (size_t)(c->num_targets + 1) * sizeof *c->targets);
    c->targets[c->num_targets++] = mem_strdup(name);
}

// Names; one string is one name, unless it is a regular expression.
static void read_targets(struct adapter_config *c, struct tensor_report *r,
                         const struct json_doc *doc)
{
    const struct json *v = json_get(json_root(doc), "target_modules");
    const char *s = json_string(v);
    bool sound = json_count(v) > 0;
    for (const struct json *m = json_type(v) == JSON_ARRAY ? json_first(v) : NULL; m;
         m = json_next(m)) {
        const char *name = json_string(m);
        sound = sound && name;
        if (name) {
            add_target(c, name);
        }
    }
    if (s && *s && !strpbrk(s, "^$*+?()[]{}|\\")) {
        sound = true;
        add_target(c, s);
    }
    if (!sound || json_type(v) == JSON_OBJECT) {
        fault(r, doc, v, "target_modules",
              "a list of names (patterns and \"all-linear\" are not supported)");
    }
}

void adapter_config_read(struct adapter_config *out, const struct json_doc *doc,
                         struct tensor_report *faults)
{
    const struct json *root = json_root(doc);
    int64_t r = 1;
    double alpha = 1;
    bool rslora = false;
    *out = (struct adapter_config){0};
    if (json_type(root) != JSON_OBJECT) {
        fault(faults, doc, root, "adapter_config.json", "an object");
        return;
    }
    expect_word(faults, doc, "peft_type", "LORA", true);
    expect_word(faults, doc, "task_type", "CAUSAL_LM", false);
    expect_word(faults, doc, "bias", "none", false);
    if (!json_int(doc, json_get(root, "r"), 1, 1 << 20, &r)) {
        fault(faults, doc, json_get(root, "r"), "r", "an integer in 1..1048576");
    }
    if (!json_double(json_get(root, "lora_alpha"), &alpha)) {
        fault(faults, doc, json_get(root, "lora_alpha"), "lora_alpha", "a number");
    }
    if (json_get(root, "use_rslora") && !json_bool(json_get(root, "use_rslora"), &rslora)) {
        fault(faults, doc, json_get(root, "use_rslora"), "use_rslora", "true or false");
    }
    expect_no_pattern(faults, doc, "rank_pattern", "r");
    expect_no_pattern(faults, doc, "alpha_pattern", "lora_alpha");
    expect_base_as_it_is(faults, doc);
    read_targets(out, faults, doc);
    for (const struct json *m = json_first(root); m; m = json_next(m)) {
        if (!IS_AMONG(ignored, json_key(m)) && !IS_AMONG(read_below, json_key(m)) && !is_empty(m)) {
            fault(faults, doc, m, json_key(m), "null or false (nothing else is supported)");
        }
    }
    const char *base = json_string(json_get(root, "base_model_name_or_path"));
    out->r = (int)r;
    out->scale = alpha / (rslora ? sqrt((double)r) : (double)r);
    out->base = base ? mem_strdup(base) : NULL;
}

void adapter_config_free(struct adapter_config *c)
{
    for (int i = 0; i < c->num_targets; i++) {
        free(c->targets[i]);
    }
    free(c->targets);
    free(c->base);
    *c = (struct adapter_config){0};
}

// ---- adapter_model.safetensors

#define PREFIX "base_model.model."

static const char *const parts[] = {"lora_A", "lora_B"};

// The A or B of a matrix of the model, by the name of its module: t's without ".weight". NULL:
// there is none.
static const struct tensor *find_part(const struct adapter *a, const struct param_tensor *t,
                                      const char *part)
{
    char name[192];
    snprintf(name, sizeof name, PREFIX "%.*s.%s.weight", (int)(strlen(t->name) - strlen(".weight")),
             t->name, part);
    return safetensors_find(a->file, name);
}

static bool is_matrix(const struct param_tensor *t)
{
    const size_t len = strlen(t->name);
    return t->rank == 2 && len > 7 && !strcmp(t->name + len - 7, ".weight");
}

// Whether a target is the module's name, or its end after a point.
static bool is_target(const struct adapter_config *c, const struct param_tensor *t)
{
    const size_t len = strlen(t->name) - strlen(".weight");
    for (int i = 0; i < c->num_targets; i++) {
        const size_t n = strlen(c->targets[i]);
        if (n <= len && !strncmp(t->name + len - n, c->targets[i], n) &&
            (n == len || t->name[len - n - 1] == '.')) {
            return true;
        }
    }
    return false;
}

static void check_finite_part(struct tensor_report *r, const struct tensor *t)
{
    const size_t n = (size_t)tensor_count(t);
    float *x = mem_floats(n);
    tensor_to_floats(x, t);
    size_t first;
    const size_t bad = tensor_nonfinite(x, n, &first);
    if (bad > 0) {
        tensor_report_add(r, t->name, "holds %g at index %zu (%zu of its %zu values)",
                          (double)x[first], first, bad, n);
    }
    free(x);
}

// A is [r,in], B [out,r].
static void check_part(struct tensor_report *r, const struct adapter *a,
                       const struct param_tensor *t, int which, bool allow_nonfinite)
{
    const struct tensor *have = find_part(a, t, parts[which]);
    const int64_t rank = a->config.r;
    const int64_t want[2] = {which ? t->shape[0] : rank, which ? rank : t->shape[1]};
    char x[64], y[64];
    if (!have) {
        tensor_report_add(r, t->name, "has no %s, want %s", parts[which],
                          tensor_shape_text(x, 2, want));
    } else if (!tensor_has_shape(have, 2, want)) {
        tensor_report_add(r, have->name, "want %s (\"r\" is %d), have %s",
                          tensor_shape_text(x, 2, want), a->config.r,
                          tensor_shape_text(y, have->rank, have->shape));
    } else if (!tensor_is_float(have)) {
        tensor_report_add(r, have->name, "dtype %s is not supported (F32, BF16 and F16 are)",
                          tensor_dtype_name(have->dtype));
    } else if (!allow_nonfinite) {
        check_finite_part(r, have);
    }
}

// Where a stack of experts is one tensor of the module, its matrices are no modules to PEFT.
static bool adapts_experts(const struct adapter *a)
{
    for (int i = 0; i < a->file->count; i++) {
        if (strstr(a->file->tensors[i].name, ".mlp.experts.")) {
            return true;
        }
    }
    return false;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void check_unexpected(struct tensor_report *r, const struct adapter *a, const char **known,
                             int n)
{
    qsort(known, (size_t)n, sizeof *known, compare_names);
    for (int i = 0; i < a->file->count; i++) {
        const char *name = a->file->tensors[i].name;
        if (!bsearch(&name, known, (size_t)n, sizeof *known, compare_names)) {
            tensor_report_add(r, name, "unexpected");
        }
    }
}

static void check_tensors(struct tensor_report *r, struct adapter *a, const struct params *p,
                          bool allow_nonfinite)
{
    const bool experts = adapts_experts(a);
    const char **known = mem_array0(2 * (size_t)p->num_tensors, sizeof *known);
    int n = 0;
    for (int i = 0; i < p->num_tensors; i++) {
        const struct param_tensor *t = &p->tensors[i];
        if (!is_matrix(t) || !is_target(&a->config, t) ||
            (!experts && strstr(t->name, ".mlp.experts."))) {
            continue;
        }
        a->matrices++;
        for (int which = 0; which < 2; which++) {
            const struct tensor *have = find_part(a, t, parts[which]);
            check_part(r, a, t, which, allow_nonfinite);
            if (have) {
                known[n++] = have->name;
            }
        }
    }
    check_unexpected(r, a, known, n);
    if (a->matrices == 0 && a->config.num_targets > 0) {
        tensor_report_add(r, "target_modules", "name no matrix of the model");
    }
    free((void *)known);
}

int adapter_open(struct adapter **out, const char *dir, const struct params *p,
                 bool allow_nonfinite)
{
    struct adapter *a = mem_alloc0(sizeof *a);
    struct tensor_report faults = {0};
    struct json_doc *doc = NULL;
    char *config = path_join(dir, "adapter_config.json");
    char *tensors = path_join(dir, "adapter_model.safetensors");
    int rc = json_parse_file(&doc, config, 0, ERR_MODEL);
    rc = rc ? rc : safetensors_open(&a->file, tensors, ERR_MODEL);
    if (rc == 0) {
        adapter_config_read(&a->config, doc, &faults);
        check_tensors(&faults, a, p, allow_nonfinite);
        rc = tensor_report_end(&faults,
                               "%.200s: the adapter, made for \"%.200s\", does not fit:", dir,
                               a->config.base ? a->config.base : "");
    }
    json_free(&doc);
    free(config);
    free(tensors);
    if (rc) {
        adapter_free(&a);
        return rc;
    }
    *out = a;
    return 0;
}

void adapter_free(struct adapter **a)
{
    if (a && *a) {
        adapter_config_free(&(*a)->config);
        safetensors_free(&(*a)->file);
        free(*a);
        *a = NULL;
    }
}

int adapter_matrices(const struct adapter *a) { return a->matrices; }

// ---- merging

struct merge {
    const float *A, *B; // [r,in], [out,r]
    float *w;
    int out, in, r;
    float scale;
};

static void merge_rows(void *arg, int rank, int size)
{
    const struct merge *m = arg;
    int begin, end;
    team_share(m->out, 1, rank, size, &begin, &end);
    for (size_t i = (size_t)begin; i < (size_t)end; i++) {
        float *row = m->w + i * (size_t)m->in;
        for (size_t k = 0; k < (size_t)m->r; k++) {
            const float factor = m->scale * m->B[i * (size_t)m->r + k];
            const float *from = m->A + k * (size_t)m->in;
            for (size_t j = 0; j < (size_t)m->in; j++) {
                row[j] += factor * from[j];
            }
        }
    }
}

void adapter_merge(const struct adapter *a, const struct param_tensor *t, float *w,
                   struct team *team)
{
    const struct tensor *A = is_matrix(t) ? find_part(a, t, parts[0]) : NULL;
    if (!A) {
        return;
    }
    const size_t r = (size_t)a->config.r;
    float *of_a = mem_floats(r * (size_t)t->shape[1]), *of_b = mem_floats((size_t)t->shape[0] * r);
    tensor_to_floats(of_a, A);
    tensor_to_floats(of_b, find_part(a, t, parts[1]));
    struct merge m = {of_a, of_b, w, t->shape[0], t->shape[1], a->config.r, (float)a->config.scale};
    team_run(team, merge_rows, &m);
    free(of_a);
    free(of_b);
}
