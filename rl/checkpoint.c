// SPDX-License-Identifier: Apache-2.0
#include "rl/checkpoint.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *checkpoints_dir(const char *run_path) { return path_join(run_path, "checkpoints"); }

static int save_model(const struct policy *p, const char *dir, const char *sub)
{
    char *path = sub ? path_join(dir, sub) : mem_strdup(dir);
    int rc = dir_make_all(path);
    if (rc == 0)
        rc = policy_save(p, path);
    free(path);
    return rc;
}

static int copy_model(const char *from, const char *dir, const char *sub)
{
    char *path = path_join(dir, sub);
    int rc = dir_make_all(path);
    if (rc == 0)
        rc = dir_copy_files(from, path);
    free(path);
    return rc;
}

static int save_state(const struct checkpoint_state *s, const char *dir)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "stage");
    json_put_int(&w, s->stage);
    json_put_key(&w, "step");
    json_put_int(&w, s->step);
    json_put_key(&w, "global_step");
    json_put_int(&w, s->global_step);
    json_put_key(&w, "num_tokens");
    json_put_int(&w, s->num_tokens);
    json_put_key(&w, "metrics_bytes");
    json_put_int(&w, s->metrics_bytes);
    json_put_key(&w, "seconds");
    json_put_double(&w, s->seconds);
    json_put_key(&w, "stage_seconds");
    json_put_double(&w, s->stage_seconds);
    json_put_key(&w, "config");
    json_put_string(&w, s->config);
    json_end_object(&w);
    char *path = path_join(dir, "state.json");
    const int rc = file_write_atomic(path, text.data, text.len);
    free(path);
    strbuf_free(&text);
    return rc;
}

// ---- the manifest

// Adds every file below dir/prefix to the list, by paths relative to dir.
static int manifest_add(struct json_writer *w, const char *dir, const char *prefix)
{
    char *folder = prefix[0] ? path_join(dir, prefix) : mem_strdup(dir);
    char **names = NULL;
    int rc = dir_list(&names, folder, ERR_WRITE);
    for (int i = 0; rc == 0 && names[i] != NULL; i++) {
        char *relative = prefix[0] ? path_join(prefix, names[i]) : mem_strdup(names[i]);
        char *full = path_join(dir, relative);
        struct file_map map = {0};
        if (dir_exists(full)) {
            rc = manifest_add(w, dir, relative);
        } else if ((rc = file_map_open(&map, full, ERR_WRITE)) == 0) {
            char hash[33];
            hash_hex(hash, map.data, map.size);
            json_put_key(w, relative);
            json_begin_object(w);
            json_put_key(w, "bytes");
            json_put_int(w, (int64_t)map.size);
            json_put_key(w, "xxh3_128");
            json_put_string(w, hash);
            json_end_object(w);
            file_map_close(&map);
        }
        free(full);
        free(relative);
    }
    free(names);
    free(folder);
    return rc;
}

static int save_manifest(const char *dir)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "files");
    json_begin_object(&w);
    int rc = manifest_add(&w, dir, "");
    json_end_object(&w);
    json_end_object(&w);
    if (rc == 0) {
        char *path = path_join(dir, "MANIFEST.json");
        rc = file_write_atomic(path, text.data, text.len);
        free(path);
    }
    strbuf_free(&text);
    return rc;
}

// Compares one file with its manifest entry.
static int verify_file(const char *dir, const struct json_doc *doc, const struct json *entry)
{
    char *path = path_join(dir, json_key(entry));
    const char *want = json_string(json_get(entry, "xxh3_128"));
    int64_t bytes = -1;
    json_int(doc, json_get(entry, "bytes"), 0, INT64_MAX, &bytes);
    struct file_map map;
    int rc = file_map_open(&map, path, ERR_DATA);
    if (rc == 0) {
        char have[33];
        hash_hex(have, map.data, map.size);
        if ((int64_t)map.size != bytes)
            rc = err_set(ERR_DATA, "'%s' has %zu bytes, its manifest says %" PRId64, path, map.size,
                         bytes);
        else if (want == NULL || strcmp(have, want) != 0)
            rc = err_set(ERR_DATA, "'%s' does not agree with its hash", path);
        file_map_close(&map);
    }
    free(path);
    return rc;
}

static int verify(const char *dir)
{
    char *path = path_join(dir, "MANIFEST.json");
    struct json_doc *doc = NULL;
    int rc = json_parse_file(&doc, path, 0, ERR_DATA);
    if (rc == 0) {
        const struct json *files = json_get(json_root(doc), "files");
        if (json_count(files) == 0)
            rc = err_set(ERR_DATA, "'%s' lists no files", path);
        for (const struct json *f = json_first(files); f != NULL && rc == 0; f = json_next(f))
            rc = verify_file(dir, doc, f);
    }
    json_free(&doc);
    free(path);
    return rc;
}

// ---- saving

int checkpoint_save(const char *run_path, const struct checkpoint_parts *parts,
                    const struct checkpoint_state *state)
{
    char name[64];
    char *root = checkpoints_dir(run_path);
    snprintf(name, sizeof name, "step-%06d", state->global_step);
    char *final = path_join(root, name);
    snprintf(name, sizeof name, "tmp-step-%06d", state->global_step);
    char *dir = path_join(root, name);
    int rc = 0;
    if (dir_exists(final)) // of an earlier attempt that stopped at the same step: the same bytes
        goto out;
    rc = dir_remove_all(dir);
    if (rc == 0)
        rc = save_model(parts->policy, dir, NULL);
    if (rc == 0)
        rc = tokenizer_save(parts->tokenizer, dir);
    if (rc == 0 && parts->prm != NULL)
        rc = save_model(parts->prm, dir, "prm");
    if (rc == 0 && parts->reference != NULL)
        rc = copy_model(parts->reference, dir, "reference");
    if (rc == 0 && parts->optimizer != NULL)
        rc = optimizer_save(parts->optimizer, parts->optimized, dir);
    if (rc == 0)
        rc = save_state(state, dir);
    if (rc == 0)
        rc = save_manifest(dir);
    if (rc == 0)
        rc = dir_commit(dir, final);
out:
    free(dir);
    free(final);
    free(root);
    return rc;
}

// ---- finding

static bool is_checkpoint(const char *name) { return strncmp(name, "step-", 5) == 0; }

int checkpoint_find(char **out, char **damaged, const char *run_path)
{
    char *root = checkpoints_dir(run_path);
    char **names = NULL;
    struct strbuf bad = {0};
    char *found = NULL;
    int rc = dir_list(&names, root, ERR_DATA);
    int n = 0;
    while (rc == 0 && names[n] != NULL)
        n++;
    for (int i = n - 1; i >= 0 && found == NULL; i--) { // names sort by step
        if (!is_checkpoint(names[i]))
            continue;
        char *path = path_join(root, names[i]);
        if (verify(path) == 0) {
            found = path;
        } else {
            strbuf_printf(&bad, "%s%s", bad.len ? "\n" : "", err_message());
            free(path);
        }
    }
    if (rc == 0 && found == NULL)
        rc = err_set(ERR_DATA, "'%s' holds no whole checkpoint%s%s", root, bad.len ? ": " : "",
                     bad.len ? bad.data : "");
    free(names);
    free(root);
    if (rc != 0) {
        strbuf_free(&bad);
        return rc;
    }
    *out = found;
    *damaged = bad.len ? strbuf_take(&bad) : NULL;
    return 0;
}

static int state_int64(const struct json_doc *doc, const char *key, int64_t *out)
{
    if (!json_int(doc, json_get(json_root(doc), key), 0, INT64_MAX, out))
        return err_set(ERR_DATA, "state.json: '%s' is missing or not a whole number", key);
    return 0;
}

static int state_int(const struct json_doc *doc, const char *key, int *out)
{
    int64_t value = 0;
    const int rc = state_int64(doc, key, &value);
    if (rc != 0 || value > INT_MAX)
        return rc ? rc : err_set(ERR_DATA, "state.json: '%s' is too large", key);
    *out = (int)value;
    return 0;
}

int checkpoint_read_state(struct checkpoint_state *state, const char *path)
{
    char *file = path_join(path, "state.json");
    struct json_doc *doc = NULL;
    struct checkpoint_state s = {0};
    int rc = json_parse_file(&doc, file, 0, ERR_DATA);
    if (rc == 0)
        rc = state_int(doc, "stage", &s.stage);
    if (rc == 0)
        rc = state_int(doc, "step", &s.step);
    if (rc == 0)
        rc = state_int(doc, "global_step", &s.global_step);
    if (rc == 0)
        rc = state_int64(doc, "num_tokens", &s.num_tokens);
    if (rc == 0)
        rc = state_int64(doc, "metrics_bytes", &s.metrics_bytes);
    const char *config = rc == 0 ? json_string(json_get(json_root(doc), "config")) : NULL;
    if (rc == 0 &&
        (config == NULL || !json_double(json_get(json_root(doc), "seconds"), &s.seconds) ||
         !json_double(json_get(json_root(doc), "stage_seconds"), &s.stage_seconds)))
        rc = err_set(ERR_DATA, "'%s': config, seconds or stage_seconds is missing", file);
    if (rc == 0) {
        s.config = mem_strdup(config);
        *state = s;
    }
    json_free(&doc);
    free(file);
    return rc;
}

int checkpoint_prune(const char *run_path, int keep)
{
    if (keep <= 0)
        return 0;
    char *root = checkpoints_dir(run_path);
    char **names = NULL;
    int rc = dir_list(&names, root, ERR_WRITE);
    int have = 0;
    for (int i = 0; rc == 0 && names[i] != NULL; i++)
        have += is_checkpoint(names[i]);
    for (int i = 0; rc == 0 && names[i] != NULL && have > keep; i++) {
        if (!is_checkpoint(names[i]))
            continue;
        char *path = path_join(root, names[i]);
        rc = dir_remove_all(path);
        have--;
        free(path);
    }
    free(names);
    free(root);
    return rc;
}
