// SPDX-License-Identifier: Apache-2.0
#include "policy/model_files.h"

#include "base/error.h"
#include "base/json.h"
#include "policy/adapter.h"
#include "policy/intake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shard {
    char *name;
    struct safetensors *file;
};

struct model_files {
    char *dir;
    struct shard *shards;
    int num_shards;
    const struct tensor **tensors; // [count] of all shards, by name
    int count;
};

static int by_name(const void *pa, const void *pb)
{
    return strcmp((*(const struct tensor *const *)pa)->name,
                  (*(const struct tensor *const *)pb)->name);
}

static const struct tensor *find(const struct model_files *f, const char *name)
{
    const struct tensor key = {.name = name}, *pkey = &key;
    const struct tensor **at =
        f->count ? bsearch(&pkey, f->tensors, (size_t)f->count, sizeof *f->tensors, by_name) : NULL;
    return at ? *at : NULL;
}

bool model_files_have(const struct model_files *f, const char *name)
{
    return find(f, name) != NULL;
}

// The shard of that name, opened at its first use.
static int open_shard(struct safetensors **out, struct model_files *f, const char *name)
{
    for (int i = 0; i < f->num_shards; i++) {
        if (!strcmp(f->shards[i].name, name)) {
            *out = f->shards[i].file;
            return 0;
        }
    }
    if (!*name || *name == '.' || strpbrk(name, "/\\")) {
        return err_set(ERR_MODEL,
                       "%s: the index names the file \"%s\": not a plain name in the "
                       "directory",
                       f->dir, name);
    }
    char *path = path_join(f->dir, name);
    struct safetensors *file = NULL;
    int rc = safetensors_open(&file, path, ERR_MODEL);
    free(path);
    if (rc == 0) {
        f->shards = mem_realloc(f->shards, (size_t)(f->num_shards + 1) * sizeof *f->shards);
        f->shards[f->num_shards++] = (struct shard){mem_strdup(name), file};
        *out = file;
    }
    return rc;
}

static int open_single(struct model_files *f)
{
    struct safetensors *file = NULL;
    int rc = open_shard(&file, f, "model.safetensors");
    if (rc == 0) {
        f->count = file->count;
        f->tensors = mem_array0((size_t)f->count, sizeof *f->tensors);
        for (int i = 0; i < f->count; i++) {
            f->tensors[i] = &file->tensors[i];
        }
    }
    return rc;
}

// Every tensor of every shard must be the one that the index means.
static int check_index(const struct model_files *f)
{
    for (int i = 0; i < f->num_shards; i++) {
        const struct safetensors *file = f->shards[i].file;
        for (int j = 0; j < file->count; j++) {
            if (find(f, file->tensors[j].name) != &file->tensors[j]) {
                return err_set(ERR_MODEL, "%s: tensor \"%s\" of %s is not in the index", f->dir,
                               file->tensors[j].name, f->shards[i].name);
            }
        }
    }
    return 0;
}

static int open_indexed(struct model_files *f, const struct json *map)
{
    int rc = 0;
    if (json_type(map) != JSON_OBJECT) {
        return err_set(ERR_MODEL, "%s: the index has no \"weight_map\" object", f->dir);
    }
    f->tensors = mem_array0((size_t)json_count(map), sizeof *f->tensors);
    for (const struct json *m = json_first(map); m && rc == 0; m = json_next(m)) {
        struct safetensors *file = NULL;
        const char *name = json_string(m);
        if (!name) {
            return err_set(ERR_MODEL, "%s: the index gives no file for \"%s\"", f->dir,
                           json_key(m));
        }
        rc = open_shard(&file, f, name);
        const struct tensor *t = rc == 0 ? safetensors_find(file, json_key(m)) : NULL;
        if (rc == 0 && !t) {
            return err_set(ERR_MODEL, "%s: tensor \"%s\" is not in %s, where the index has it",
                           f->dir, json_key(m), name);
        }
        if (rc == 0) {
            f->tensors[f->count++] = t;
        }
    }
    if (rc == 0) {
        qsort(f->tensors, (size_t)f->count, sizeof *f->tensors, by_name);
        rc = check_index(f);
    }
    return rc;
}

int model_files_open(struct model_files **out, const char *dir)
{
    char *single = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    struct model_files *f = mem_alloc0(sizeof *f);
    f->dir = mem_strdup(dir);
    int rc;
    if (file_exists(single) || !file_exists(index)) {
        rc = open_single(f);
    } else {
        struct json_doc *doc = NULL;
        rc = json_parse_file(&doc, index, 0, ERR_MODEL);
        rc = rc ? rc : open_indexed(f, json_get(json_root(doc), "weight_map"));
        json_free(&doc);
    }
    free(single);
    free(index);
    if (rc) {
        model_files_free(&f);
        return rc;
    }
    *out = f;
    return 0;
}

void model_files_free(struct model_files **f)
{
    if (f && *f) {
        for (int i = 0; i < (*f)->num_shards; i++) {
            free((*f)->shards[i].name);
            safetensors_free(&(*f)->shards[i].file);
        }
        free((*f)->shards);
        free((void *)(*f)->tensors);
        free((*f)->dir);
        free(*f);
        *f = NULL;
    }
}

// ---- against the architecture

// The scales of a weight's blocks: NAME_scale_inv; NULL: the file has none.
static const struct tensor *find_scale(const struct model_files *f, const char *name)
{
    char scale[128];
    snprintf(scale, sizeof scale, "%s_scale_inv", name);
    return find(f, scale);
}

// A weight in float8, of the right shape, needs a scale for each block.
static void check_scale(struct tensor_report *r, const struct model_files *f, const struct arch *a,
                        const struct tensor *weight)
{
    const struct tensor *scale = find_scale(f, weight->name);
    char x[64], y[64];
    if (a->fp8_rows == 0 || weight->rank != 2) {
        tensor_report_add(r, weight->name,
                          "dtype F8_E4M3 needs \"weight_block_size\" in config.json's "
                          "\"quantization_config\", and two dimensions");
        return;
    }
    const int64_t want[2] = {(weight->shape[0] + a->fp8_rows - 1) / a->fp8_rows,
                             (weight->shape[1] + a->fp8_columns - 1) / a->fp8_columns};
    if (!scale) {
        tensor_report_add(r, weight->name, "dtype F8_E4M3 without its scales, *_scale_inv %s",
                          tensor_shape_text(x, 2, want));
    } else if (!tensor_has_shape(scale, 2, want) || !tensor_is_float(scale)) {
        tensor_report_add(r, scale->name, "want %s in F32, BF16 or F16, have %s in %s",
                          tensor_shape_text(x, 2, want),
                          tensor_shape_text(y, scale->rank, scale->shape),
                          tensor_dtype_name(scale->dtype));
    }
}

static void check_expected(struct tensor_report *r, const struct model_files *f,
                           const struct arch *a, const struct param_tensor *want)
{
    const struct tensor *have = find(f, want->name);
    int64_t shape[2] = {want->shape[0], want->shape[1]};
    char x[64], y[64];
    if (!have) {
        tensor_report_add(r, want->name, "missing, want %s",
                          tensor_shape_text(x, want->rank, shape));
    } else if (!tensor_has_shape(have, want->rank, shape)) {
        tensor_report_add(r, want->name, "want %s, have %s",
                          tensor_shape_text(x, want->rank, shape),
                          tensor_shape_text(y, have->rank, have->shape));
    } else if (have->dtype == TENSOR_F8_E4M3) {
        check_scale(r, f, a, have);
    } else if (!tensor_is_float(have)) {
        tensor_report_add(r, want->name,
                          "dtype %s is not supported (F32, BF16, F16 and F8_E4M3 are)",
                          tensor_dtype_name(have->dtype));
    }
}

static bool ends_with(const char *s, const char *end)
{
    const size_t len = strlen(s), n = strlen(end);
    return len > n && !strcmp(s + len - n, end);
}

// Whether it holds the scales of a weight in float8.
static bool is_scale(const struct model_files *f, const char *name)
{
    const char *end = "_scale_inv";
    if (!ends_with(name, end)) {
        return false;
    }
    char *weight = mem_strndup(name, strlen(name) - strlen(end));
    const struct tensor *t = find(f, weight);
    free(weight);
    return t && t->dtype == TENSOR_F8_E4M3;
}

// The layer in a tensor's name; -1: none.
static long layer_of(const char *name)
{
    const char *prefix = "model.layers.";
    return strncmp(name, prefix, strlen(prefix)) ? -1 : strtol(name + strlen(prefix), NULL, 10);
}

// What files may hold beside the model: prediction layers past the last, buffers of old versions, a
// copy of a tied head.
static bool passed_over(const char *name, const struct arch *a)
{
    const long layer = layer_of(name);
    return ends_with(name, ".rotary_emb.inv_freq") ||
           (layer >= a->L && layer < a->L + a->num_mtp_layers) ||
           (a->tied && !strcmp(name, "lm_head.weight"));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check(const struct params *p, const struct arch *a, const struct model_files *f)
{
    struct tensor_report r = {0};
    bool headless = !find(f, "score.weight") && !find(f, "score.bias");
    const char **known = mem_array0((size_t)p->num_tensors, sizeof *known);
    for (int i = 0; i < p->num_tensors; i++) {
        known[i] = p->tensors[i].name;
        if (!headless || strncmp(known[i], "score.", 6)) {
            check_expected(&r, f, a, &p->tensors[i]);
        }
    }
    qsort(known, (size_t)p->num_tensors, sizeof *known, compare_names);
    for (int i = 0; i < f->count; i++) {
        const char *name = f->tensors[i]->name;
        if (!bsearch(&name, known, (size_t)p->num_tensors, sizeof *known, compare_names) &&
            !passed_over(name, a) && !is_scale(f, name)) {
            tensor_report_add(&r, name, "unexpected");
        }
    }
    free((void *)known);
    return tensor_report_end(&r, "%s: the tensors do not fit config.json:", f->dir);
}

int model_files_mtp_layers(const struct model_files *f, const struct arch *a)
{
    bool there[64] = {false};
    int count = 0;
    for (int i = 0; i < f->count; i++) {
        const long extra = layer_of(f->tensors[i]->name) - a->L;
        if (extra >= 0 && extra < a->num_mtp_layers && extra < 64 && !there[extra]) {
            there[extra] = true;
            count++;
        }
    }
    return count;
}

// w[i,j] times the scale of its block, as DeepSeek-V3's README_WEIGHTS.md has it.
static void dequantise(float *w, const struct tensor *t, const struct tensor *scale,
                       const struct arch *a)
{
    float *s = mem_floats((size_t)tensor_count(scale));
    tensor_to_floats(s, scale);
    for (int64_t i = 0; i < t->shape[0]; i++) {
        const float *row = s + i / a->fp8_rows * scale->shape[1];
        for (int64_t j = 0; j < t->shape[1]; j++) {
            w[i * t->shape[1] + j] *= row[j / a->fp8_columns];
        }
    }
    free(s);
}

static int check_finite_tensor(const struct model_files *f, const struct param_tensor *t,
                               const float *x, struct model_load *load)
{
    size_t first;
    const size_t bad = tensor_nonfinite(x, t->size, &first);
    if (load->allow_nonfinite) {
        load->nonfinite += (int64_t)bad;
        return 0;
    }
    return bad == 0 ? 0
                    : err_set(ERR_MODEL,
                              "%s: tensor \"%s\" holds %g at index %zu (%zu of its %zu values are "
                              "not finite)",
                              f->dir, t->name, (double)x[first], first, bad, t->size);
}

// The pages of a tensor that was read.
static void forget(const struct model_files *f, const struct tensor *t)
{
    const uint8_t *data = t->data;
    for (int i = 0; i < f->num_shards; i++) {
        const struct file_map *m = &f->shards[i].file->map;
        if (data >= m->data && data < m->data + m->size) {
            file_map_forget(m, (size_t)(data - m->data), t->size);
        }
    }
}

static int load_tensor(const struct intake *in, const struct param_tensor *t,
                       const struct model_files *f, struct model_load *load)
{
    const struct tensor *have = find(f, t->name);
    float *x = intake_room(in, t);
    if (!have) {
        return 0;
    }
    tensor_to_floats(x, have);
    forget(f, have);
    if (have->dtype == TENSOR_F8_E4M3) {
        dequantise(x, have, find_scale(f, have->name), &in->p->arch);
    }
    if (load->adapter) {
        adapter_merge(load->adapter, t, x, in->p->dev->team);
    }
    int rc = check_finite_tensor(f, t, x, load);
    return rc ? rc : intake_take(in, t);
}

int model_files_load(struct policy *p, const struct model_files *f, struct model_load *load)
{
    struct intake in;
    int rc = check(&p->params, &p->arch, f);
    if (rc) {
        return rc;
    }
    rc = intake_open(&in, p);
    for (int i = 0; i < p->params.num_tensors && rc == 0; i++) {
        rc = load_tensor(&in, &p->params.tensors[i], f, load);
    }
    intake_close(&in);
    return rc;
}
