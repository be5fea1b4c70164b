// SPDX-License-Identifier: Apache-2.0
#include "policy/model_files.h"

#include "base/error.h"
#include "base/json.h"

#include <math.h>
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

struct report { // faults, of which the first few are told in full
    struct strbuf text;
    int count;
};

static void report(struct report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void report(struct report *r, const char *fmt, ...)
{
    char line[320];
    if (r->count++ >= 10) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    strbuf_printf(&r->text, "\n  %s", line);
}

static const char *shape_text(char buf[64], int rank, const int64_t *shape)
{
    int at = snprintf(buf, 64, "[");
    for (int i = 0; i < rank && at < 40; i++) {
        at += snprintf(buf + at, (size_t)(64 - at), "%s%lld", i ? "," : "", (long long)shape[i]);
    }
    snprintf(buf + at, (size_t)(64 - at), "]");
    return buf;
}

static void check_expected(struct report *r, const struct model_files *f,
                           const struct param_tensor *want)
{
    const struct tensor *have = find(f, want->name);
    int64_t shape[2] = {want->shape[0], want->shape[1]};
    char a[64], b[64];
    if (!have) {
        report(r, "%s: missing, want %s", want->name, shape_text(a, want->rank, shape));
        return;
    }
    bool same = have->rank == want->rank;
    for (int i = 0; i < want->rank && same; i++) {
        same = have->shape[i] == shape[i];
    }
    if (!same) {
        report(r, "%s: want %s, have %s", want->name, shape_text(a, want->rank, shape),
               shape_text(b, have->rank, have->shape));
    } else if (have->dtype != TENSOR_F32 && have->dtype != TENSOR_BF16 &&
               have->dtype != TENSOR_F16) {
        report(r, "%s: dtype %s is not supported (F32, BF16 and F16 are)", want->name,
               tensor_dtype_name(have->dtype));
    }
}

// What files may hold beside the model: prediction layers past the last, buffers of old versions, a
// copy of a tied head.
static bool passed_over(const char *name, const struct arch *a)
{
    const char *prefix = "model.layers.", *buffer = ".rotary_emb.inv_freq";
    size_t len = strlen(name);
    if (len > strlen(buffer) && !strcmp(name + len - strlen(buffer), buffer)) {
        return true;
    }
    if (!strncmp(name, prefix, strlen(prefix))) {
        long layer = strtol(name + strlen(prefix), NULL, 10);
        return layer >= a->L && layer < a->L + a->num_mtp_layers;
    }
    return a->tied && !strcmp(name, "lm_head.weight");
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check(const struct params *p, const struct arch *a, const struct model_files *f)
{
    struct report r = {0};
    bool headless = !find(f, "score.weight") && !find(f, "score.bias");
    const char **known = mem_array0((size_t)p->num_tensors, sizeof *known);
    for (int i = 0; i < p->num_tensors; i++) {
        known[i] = p->tensors[i].name;
        if (!headless || strncmp(known[i], "score.", 6)) {
            check_expected(&r, f, &p->tensors[i]);
        }
    }
    qsort(known, (size_t)p->num_tensors, sizeof *known, compare_names);
    for (int i = 0; i < f->count; i++) {
        const char *name = f->tensors[i]->name;
        if (!bsearch(&name, known, (size_t)p->num_tensors, sizeof *known, compare_names) &&
            !passed_over(name, a)) {
            report(&r, "%.200s: unexpected", name);
        }
    }
    free((void *)known);
    if (r.count > 10) {
        strbuf_printf(&r.text, "\n  and %d more", r.count - 10);
    }
    int rc = r.count == 0 ? 0
                          : err_set(ERR_MODEL, "%s: the tensors do not fit config.json:%s", f->dir,
                                    r.text.data);
    strbuf_free(&r.text);
    return rc;
}

static int check_finite_tensor(const struct model_files *f, const struct param_tensor *t,
                               const float *x)
{
    size_t bad = 0, first = 0;
    for (size_t i = t->size; i-- > 0;) {
        if (!isfinite(x[i])) {
            bad++;
            first = i;
        }
    }
    return bad == 0 ? 0
                    : err_set(ERR_MODEL,
                              "%s: tensor \"%s\" holds %g at index %zu (%zu of its %zu values are "
                              "not finite)",
                              f->dir, t->name, (double)x[first], first, bad, t->size);
}

// One tensor by way of x, host memory that it fits.
static int load_tensor(struct params *p, const struct param_tensor *t, const struct model_files *f,
                       float *x)
{
    const struct tensor *have = find(f, t->name);
    if (!have) {
        return 0;
    }
    tensor_to_floats(x, have);
    int rc = check_finite_tensor(f, t, x);
    return rc ? rc : p->dev->memory->upload(p->dev, p->data + t->offset, x, t->size * sizeof *x);
}

int model_files_load(struct params *p, struct device *dev, const struct arch *a,
                     const struct model_files *f)
{
    int rc = check(p, a, f);
    rc = rc ? rc : params_alloc(p, dev);
    if (rc) {
        return rc;
    }
    float *x = params_tensor_buffer(p);
    for (int i = 0; i < p->num_tensors && rc == 0; i++) {
        rc = load_tensor(p, &p->tensors[i], f, x);
    }
    free(x);
    return rc;
}
