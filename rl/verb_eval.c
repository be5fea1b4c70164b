// SPDX-License-Identifier: Apache-2.0
// `gradus eval`: pass@1, pass@k, maj@k and best-of-n of a model on a data file, with 95 %
// intervals; against the file of an earlier evaluation, a paired test on the items that both have.
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "rl/data_config.h"
#include "rl/evaluate.h"
#include "rl/session.h"
#include "rl/source.h"
#include "rl/verb.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct eval {
    struct session_options model;
    const char *data, *reward, *prm, *out, *baseline, *tier;
    int samples, max_tokens, limit, seed;
    double temperature, top_p;
    struct session session;
    struct policy *prm_model;
    struct sandbox *sandbox;
    struct config *config;
    struct sources *sources;
    struct scoring *scoring;
    struct rollout_engine *engine;
    struct arena arena;
};

static int open_all(struct eval *e)
{
    int rc = data_config_open(&e->config, e->data, e->reward, e->model.model);
    if (rc == 0 && scoring_needs(e->config, &e->config->reward, "code"))
        rc = scoring_open_sandbox(&e->sandbox, e->tier, 0);
    if (rc == 0)
        rc = session_open(&e->session, &e->model);
    const struct policy_source prm = {
        .dir = e->prm,
        .value_head = true,
        .allow_nonfinite = e->model.allow_nonfinite,
        .read_only = true,
    };
    if (rc == 0 && e->prm != NULL)
        rc = policy_open_source(&e->prm_model, e->session.dev, &prm, e->session.policy->dtype);
    if (rc == 0)
        rc = sources_open(&e->sources, e->config, e->session.tokenizer);
    if (rc == 0)
        rc = scoring_open(&e->scoring, e->config, &e->config->reward, e->sandbox, e->prm_model);
    const struct rollout_options o = {.seed = (uint64_t)e->seed};
    if (rc == 0)
        rc = rollout_open(&e->engine, e->session.policy, &o);
    return rc;
}

static void close_all(struct eval *e)
{
    rollout_free(&e->engine);
    scoring_close(&e->scoring);
    sources_close(&e->sources);
    config_free(&e->config);
    policy_free(&e->prm_model);
    session_close(&e->session);
    sandbox_close(&e->sandbox);
    arena_free(&e->arena);
}

static int run(struct evaluation *out, struct task **tasks, struct eval *e)
{
    int n = source_eval_count(e->sources, 0);
    if (e->limit > 0 && n > e->limit)
        n = e->limit;
    *tasks = ARENA_ARRAY(&e->arena, struct task, n + 1);
    for (int i = 0; i < n; i++) {
        const int rc = source_eval_task(&(*tasks)[i], e->sources, &e->arena, 0, i);
        if (rc != 0)
            return rc;
    }
    struct generator g = {
        .tokenizer = e->session.tokenizer,
        .engine = e->engine,
        .scoring = e->scoring,
        .stops = stops_of(e->session.policy, e->session.tokenizer),
    };
    const int k[] = {1, e->samples};
    const struct evaluate_options o = {
        .samples = e->samples,
        .k = k,
        .num_k = e->samples > 1 ? 2 : 1,
        .temperature = e->temperature,
        .top_p = e->top_p,
        .max_tokens = e->max_tokens,
    };
    return evaluate(out, &g, &e->arena, *tasks, n, &o);
}

static void put_metrics(struct json_writer *w, const struct evaluation *r)
{
    struct metrics_line line = {0};
    metrics_begin(&line, "eval", 0, 0);
    evaluate_metrics(&line, r);
    for (int i = 0; i < line.count; i++) {
        json_put_key(w, line.items[i].name);
        json_put_double(w, line.items[i].value);
    }
    metrics_free(&line);
}

static void report_json(struct strbuf *out, const struct eval *e, const struct evaluation *r,
                        const struct task *tasks)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_put_key(&w, "model");
    json_put_string(&w, e->model.model);
    if (e->model.adapter != NULL) {
        json_put_key(&w, "adapter");
        json_put_string(&w, e->model.adapter);
    }
    if (e->model.allow_nonfinite) {
        json_put_key(&w, "allow_nonfinite");
        json_put_bool(&w, true);
    }
    json_put_key(&w, "data");
    json_put_string(&w, e->data);
    json_put_key(&w, "samples");
    json_put_int(&w, e->samples);
    put_metrics(&w, r);
    json_put_key(&w, "items");
    json_begin_array(&w);
    for (int i = 0; i < r->num_tasks; i++) {
        json_begin_object(&w);
        json_put_key(&w, "id");
        json_put_string(&w, tasks[i].id);
        json_put_key(&w, "pass");
        json_put_double(&w, r->task_pass[i]); // NaN: null
        json_end_object(&w);
    }
    json_end_array(&w);
    json_end_object(&w);
    strbuf_putc(out, '\n');
}

// ---- comparison

static double baseline_pass(const struct json *items, const char *id)
{
    double pass;
    for (const struct json *i = json_first(items); i != NULL; i = json_next(i)) {
        const char *name = json_string(json_get(i, "id"));
        if (name != NULL && strcmp(name, id) == 0)
            return json_double(json_get(i, "pass"), &pass) ? pass : (double)NAN;
    }
    return (double)NAN;
}

static int compare(struct eval *e, const struct evaluation *r, const struct task *tasks)
{
    struct json_doc *doc = NULL;
    int rc = json_parse_file(&doc, e->baseline, 0, ERR_DATA);
    if (rc != 0)
        return rc;
    const struct json *items = json_get(json_root(doc), "items");
    double *before = ARENA_ARRAY(&e->arena, double, r->num_tasks + 1);
    double *after = ARENA_ARRAY(&e->arena, double, r->num_tasks + 1);
    int n = 0;
    for (int i = 0; i < r->num_tasks; i++) {
        before[n] = baseline_pass(items, tasks[i].id);
        after[n] = r->task_pass[i];
        n += !isnan(before[n]) && !isnan(after[n]);
    }
    json_free(&doc);
    if (n == 0)
        return err_set(ERR_DATA, "'%s' has no item of '%s'", e->baseline, e->data);
    const struct stats_paired p = stats_paired(before, after, n, 1, 10000);
    fprintf(stderr,
            "against the baseline, %d items: pass@1 %+.3f [%+.3f, %+.3f], p = %.4f; better on %d, "
            "worse on %d\n",
            n, p.difference.mean, p.difference.low, p.difference.high, p.p_value, p.better,
            p.worse);
    if (p.difference.mean < 0.0 && p.p_value < 0.05)
        return err_set(ERR_CHECK, "pass@1 is lower than the baseline's by %.3f (p = %.4f)",
                       -p.difference.mean, p.p_value);
    return 0;
}

static void print_groups(const struct evaluation *r)
{
    for (int i = 0; i < r->num_groups; i++) {
        const struct evaluate_group *g = &r->groups[i];
        fprintf(stderr, "%s: pass@1 %.3f [%.3f, %.3f]", g->name, g->pass_at_1.mean,
                g->pass_at_1.low, g->pass_at_1.high);
        for (int k = 1; k < g->num_k; k++)
            fprintf(stderr, "  pass@%d %.3f", g->k[k], g->pass_at_k[k]);
        if (!isnan(g->majority))
            fprintf(stderr, "  maj@%d %.3f", r->samples, g->majority);
        if (!isnan(g->best_of_n))
            fprintf(stderr, "  best of n by prm %.3f", g->best_of_n);
        if (g->programs > 0)
            fprintf(stderr, "  %d of %d programs judged weakly", g->weak, g->programs);
        fprintf(stderr, "  (%d items, %d samples unscorable)\n", g->tasks, g->unscorable);
    }
}

int verb_eval(int argc, char **argv)
{
    struct eval e = {.model.need_tokenizer = true,
                     .samples = 4,
                     .max_tokens = 256,
                     .temperature = 1.0,
                     .top_p = 1.0,
                     .seed = 1,
                     .tier = "jail"};
    const struct option options[] = {
        SESSION_ROWS(&e.model),
        {"--data", "FILE", OPTION_STRING, &e.data, 0, 0, true, "JSON Lines with references"},
        {"--reward", "FILE", OPTION_STRING, &e.reward, 0, 0, false,
         "array of reward components; default: by what the first row can be judged by"},
        {"--prm", "DIR", OPTION_STRING, &e.prm, 0, 0, false,
         "process reward model, for rewards that use one: best of n"},
        {"-k", "N", OPTION_INT, &e.samples, 1, 65536, false, "samples of an item; default 4"},
        {"--temperature", "T", OPTION_REAL, &e.temperature, 0, 100, false, "default 1; 0: greedy"},
        {"--top-p", "P", OPTION_REAL, &e.top_p, 1e-6, 1, false, "default 1"},
        {"--max-tokens", "M", OPTION_INT, &e.max_tokens, 1, 10000000, false, "default 256"},
        {"--limit", "N", OPTION_INT, &e.limit, 0, 1000000000, false, "at most this many items"},
        {"--seed", "S", OPTION_INT, &e.seed, 0, 2147483647, false, "default 1"},
        {"--tier", "TIER", OPTION_STRING, &e.tier, 0, 0, false,
         "weakest isolation of programs that will do, jail or cage; default: jail"},
        {"--out", "FILE", OPTION_STRING, &e.out, 0, 0, false,
         "where the result goes as JSON; default: standard output"},
        {"--baseline", "EVAL.json", OPTION_STRING, &e.baseline, 0, 0, false,
         "an earlier result: paired test on the same items; exit 1 when this one is worse"},
        {0},
    };
    bool done = false;
    int rc = options_parse(options, argc, argv, "measures a model on held-out items", &done);
    if (rc != 0 || done)
        return rc;
    struct evaluation result;
    struct task *tasks;
    rc = open_all(&e);
    if (rc == 0)
        rc = run(&result, &tasks, &e);
    if (rc == 0) {
        struct strbuf text = {0};
        report_json(&text, &e, &result, tasks);
        if (e.out != NULL)
            rc = file_write_atomic(e.out, text.data, text.len);
        else
            fputs(text.data, stdout);
        strbuf_free(&text);
        print_groups(&result);
    }
    if (rc == 0 && e.baseline != NULL)
        rc = compare(&e, &result, tasks);
    close_all(&e);
    return rc;
}
