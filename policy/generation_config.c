// SPDX-License-Identifier: Apache-2.0
#include "policy/generation_config.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)1 << 20)

struct reader {
    const struct json_doc *doc;
    const char *path;
};

static int fault(const struct reader *r, const struct json *v, const char *key,
                 const char *expected)
{
    return err_set(ERR_MODEL, "%s:%d: \"%s\" is %s, expected %s", r->path, json_line(r->doc, v),
                   key, json_type_name(json_type(v)), expected);
}

static const struct json *member(const struct reader *r, const char *key)
{
    const struct json *v = json_get(json_root(r->doc), key);
    return json_type(v) == JSON_NULL ? NULL : v;
}

static int read_real(double *out, const struct reader *r, const char *key, double lo, double hi)
{
    const struct json *v = member(r, key);
    double x;
    if (!v)
        return 0;
    if (!json_double(v, &x) || !(x >= lo && x <= hi)) {
        char expected[64];
        snprintf(expected, sizeof expected, "a number in %g..%g", lo, hi);
        return fault(r, v, key, expected);
    }
    *out = x;
    return 0;
}

static int read_count(int *out, const struct reader *r, const char *key, int lo)
{
    const struct json *v = member(r, key);
    int64_t n;
    if (v && !json_int(r->doc, v, lo, INT_MAX, &n))
        return fault(r, v, key, "a whole number");
    if (v)
        *out = (int)n;
    return 0;
}

static void add_stop(struct generation_config *g, int id)
{
    for (int i = 0; i < g->num_stop_ids; i++)
        if (g->stop_ids[i] == id)
            return;
    if (id >= 0 && g->num_stop_ids < GENERATION_STOPS_MAX)
        g->stop_ids[g->num_stop_ids++] = id;
}

// "eos_token_id": one id or several.
static int read_stops(struct generation_config *g, const struct reader *r, int V)
{
    const struct json *eos = member(r, "eos_token_id");
    const bool several = json_type(eos) == JSON_ARRAY;
    if (json_count(several ? eos : NULL) > GENERATION_STOPS_MAX - ARCH_EOS_MAX)
        return fault(r, eos, "eos_token_id", "fewer tokens");
    for (const struct json *v = several ? json_first(eos) : eos; v;
         v = several ? json_next(v) : NULL) {
        int64_t id;
        if (!json_int(r->doc, v, 0, V - 1, &id)) {
            char expected[64];
            snprintf(expected, sizeof expected, "a token id below vocab_size %d", V);
            return fault(r, v, "eos_token_id", expected);
        }
        add_stop(g, (int)id);
    }
    return 0;
}

// Settings of transformers that change what is drawn, with the value that changes nothing.
static void find_ignored(struct generation_config *g, const struct reader *r)
{
    static const struct {
        const char *key;
        double off;
    } settings[] = {{"encoder_repetition_penalty", 1},
                    {"no_repeat_ngram_size", 0},
                    {"num_beams", 1},
                    {"num_beam_groups", 1},
                    {"penalty_alpha", 0},
                    {"typical_p", 1},
                    {"epsilon_cutoff", 0},
                    {"eta_cutoff", 0},
                    {"min_new_tokens", 0},
                    {"min_length", 0},
                    {"diversity_penalty", 0}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings && !*g->ignored; i++) {
        double x = settings[i].off;
        json_double(member(r, settings[i].key), &x);
        if (x != settings[i].off)
            snprintf(g->ignored, sizeof g->ignored, "\"%s\" %g", settings[i].key, x);
    }
    static const char *const lists[] = {"bad_words_ids",       "suppress_tokens",
                                        "forced_eos_token_id", "forced_bos_token_id",
                                        "sequence_bias",       "stop_strings"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists && !*g->ignored; i++)
        if (member(r, lists[i]))
            snprintf(g->ignored, sizeof g->ignored, "\"%s\"", lists[i]);
}

static int read_settings(struct generation_config *g, const struct reader *r, int V)
{
    const struct json *sample = member(r, "do_sample");
    bool do_sample = true;
    if (json_type(json_root(r->doc)) != JSON_OBJECT)
        return err_set(ERR_MODEL, "%s: is %s, expected an object", r->path,
                       json_type_name(json_type(json_root(r->doc))));
    if (sample && !json_bool(sample, &do_sample))
        return fault(r, sample, "do_sample", "true or false");
    g->greedy = !do_sample;
    int rc = read_stops(g, r, V);
    rc = rc ? rc : read_real(&g->temperature, r, "temperature", 0, 100);
    rc = rc ? rc : read_real(&g->top_p, r, "top_p", 1e-9, 1);
    rc = rc ? rc : read_real(&g->min_p, r, "min_p", 0, 1);
    rc = rc ? rc : read_real(&g->repetition_penalty, r, "repetition_penalty", 1e-3, 1e3);
    rc = rc ? rc : read_count(&g->top_k, r, "top_k", 0);
    rc = rc ? rc : read_count(&g->max_new_tokens, r, "max_new_tokens", 1);
    if (rc == 0)
        find_ignored(g, r);
    return rc;
}

struct generation_config generation_config_of(const struct arch *a)
{
    struct generation_config g = {.temperature = (double)NAN,
                                  .top_p = (double)NAN,
                                  .min_p = (double)NAN,
                                  .repetition_penalty = (double)NAN,
                                  .top_k = -1,
                                  .max_new_tokens = -1};
    add_stop(&g, a->eos_id);
    for (int i = 0; i < a->num_eos_ids; i++)
        add_stop(&g, a->eos_ids[i]);
    return g;
}

int generation_config_open(struct generation_config *out, const char *dir, const struct arch *a)
{
    struct generation_config g = generation_config_of(a);
    char *path = path_join(dir, "generation_config.json");
    struct strbuf text = {0};
    struct json_doc *doc = NULL;
    int rc = 0;
    if (file_exists(path)) {
        rc = file_read(&text, path, FILE_MAX, ERR_MODEL);
        rc = rc ? rc : json_parse(&doc, text.data, text.len, 0, path, 1, ERR_MODEL);
        rc = rc ? rc : read_settings(&g, &(struct reader){doc, path}, a->V);
        if (rc == 0)
            g.text = strbuf_take(&text);
    }
    json_free(&doc);
    strbuf_free(&text);
    free(path);
    if (rc == 0)
        *out = g;
    return rc;
}

void generation_config_free(struct generation_config *g)
{
    free(g->text);
    *g = (struct generation_config){0};
}
