// SPDX-License-Identifier: Apache-2.0
// `gradus score`: judges completions that exist already, by component and by step.
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "rl/data_config.h"
#include "rl/rows.h"
#include "rl/scoring.h"
#include "rl/verb.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64 }; // rows that are scored together

struct counts {
    int rows, scored;
    double sum;
};

static void put_steps(struct json_writer *w, const struct reward_result *r, const char *text)
{
    json_put_key(w, "steps");
    json_begin_array(w);
    for (int i = 0; i < r->num_steps; i++) {
        const struct reward_step *s = &r->steps[i];
        json_begin_object(w);
        json_put_key(w, "text");
        json_put_text(w, text + s->begin, s->end - s->begin);
        json_put_key(w, "value");
        if (s->valid)
            json_put_double(w, s->value);
        else
            json_put_null(w);
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_result(struct json_writer *w, const struct reward_result *r, const char *text)
{
    json_begin_object(w);
    json_put_key(w, "value");
    if (r->valid)
        json_put_double(w, r->value);
    else
        json_put_null(w);
    json_put_key(w, "reason");
    json_put_string(w, r->reason);
    if (r->num_steps > 0) {
        json_put_key(w, "first_wrong");
        json_put_int(w, r->first_wrong);
        put_steps(w, r, text);
    }
    json_end_object(w);
}

static void put_row(struct strbuf *out, const struct problem *p, const struct reward_score *s,
                    const struct reward *reward)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_put_key(&w, "id");
    json_put_string(&w, p->id);
    json_put_key(&w, "reward");
    put_result(&w, &s->total, p->completion);
    json_put_key(&w, "rewards");
    json_begin_object(&w);
    for (int i = 0; i < reward_num_components(reward); i++) {
        json_put_key(&w, reward_component_name(reward, i));
        put_result(&w, &s->parts[i], p->completion);
    }
    json_end_object(&w);
    json_end_object(&w);
    strbuf_putc(out, '\n');
}

// What rows [0, n) are judged by, and what is judged.
struct chunk {
    struct problem problems[CHUNK];
    struct json_doc *docs[CHUNK]; // of their tests; NULL: none
    struct reward_reference refs[CHUNK];
    struct reward_item items[CHUNK];
    struct reward_score scores[CHUNK];
};

static int read_row(struct chunk *c, int i, struct arena *a, struct rows *rows, int row)
{
    struct problem *p = &c->problems[i];
    *p = (struct problem){0};
    int rc = rows_problem(p, a, rows, row);
    if (rc == 0 && p->completion == NULL)
        rc = err_set(ERR_DATA, "row '%s' has no completion to score", p->id);
    if (rc == 0 && p->tests != NULL)
        rc = json_parse(&c->docs[i], p->tests, strlen(p->tests), 0, p->id, 1, ERR_DATA);
    if (rc != 0)
        return rc;
    c->refs[i] = (struct reward_reference){p->answer, c->docs[i], json_root(c->docs[i]), p->puzzle};
    c->items[i] = (struct reward_item){
        .prompt = p->prompt != NULL ? p->prompt : "",
        .completion = p->completion,
        .len = strlen(p->completion),
        .finished = true,
        .ref = &c->refs[i],
    };
    return 0;
}

// Scores rows [first, first + n) together, so that programs run in all slots of the sandbox.
static int score_chunk(struct strbuf *out, struct counts *counts, struct reward *reward,
                       struct rows *rows, int first, int n)
{
    struct arena arena = {0};
    struct chunk *c = mem_alloc0(sizeof *c);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = read_row(c, i, &arena, rows, first + i);
    if (rc == 0)
        rc = reward_run(reward, &arena, c->scores, c->items, n);
    for (int i = 0; i < n && rc == 0; i++) {
        const struct reward_result *total = &c->scores[i].total;
        put_row(out, &c->problems[i], &c->scores[i], reward);
        counts->rows++;
        counts->scored += total->valid;
        counts->sum += total->valid ? total->value : 0.0;
    }
    for (int i = 0; i < n; i++)
        json_free(&c->docs[i]);
    free(c);
    arena_free(&arena);
    return rc;
}

static int score_rows(struct strbuf *out, struct counts *counts, struct reward *reward,
                      const char *path)
{
    struct rows *rows = NULL;
    int rc = rows_open(&rows, path, 0, INT_MAX, path);
    const int count = rc == 0 ? rows_eval_count(rows) : 0;
    for (int i = 0; i < count && rc == 0; i += CHUNK)
        rc = score_chunk(out, counts, reward, rows, i, count - i < CHUNK ? count - i : CHUNK);
    rows_close(&rows);
    return rc;
}

static void say_programs(struct sandbox *sandbox)
{
    struct sandbox_counts n;
    uint64_t all = 0;
    sandbox_count(&n, sandbox);
    for (int v = 0; v <= SANDBOX_INTERNAL; v++)
        all += n.verdicts[v];
    fprintf(stderr,
            "%" PRIu64 " programs in tier %s: %" PRIu64 " ok, %" PRIu64
            " without a verdict, %" PRIu64 " judged weakly\n",
            all, sandbox_tier_name(sandbox_tier_of(sandbox)), n.verdicts[SANDBOX_OK],
            n.verdicts[SANDBOX_INTERNAL], n.weak);
}

int verb_score(int argc, char **argv)
{
    const char *reward_file = NULL, *traces = NULL, *out = NULL, *tier = "jail";
    const struct option options[] = {
        {"TRACES.jsonl", NULL, OPTION_STRING, &traces, 0, 0, true,
         "rows with a completion and what it is judged by"},
        {"--reward", "FILE", OPTION_STRING, &reward_file, 0, 0, false,
         "array of reward components; default: by what the first row can be judged by"},
        {"--out", "FILE", OPTION_STRING, &out, 0, 0, false, "default: standard output"},
        {"--tier", "TIER", OPTION_STRING, &tier, 0, 0, false,
         "weakest isolation of programs that will do, jail or cage; default: jail"},
        {0},
    };
    bool done = false;
    int rc = options_parse(options, argc, argv, "scores existing completions", &done);
    if (rc != 0 || done)
        return rc;
    struct config *config = NULL;
    struct sandbox *sandbox = NULL;
    struct scoring *scoring = NULL;
    struct strbuf text = {0};
    struct counts counts = {0};
    rc = data_config_open(&config, traces, reward_file, NULL);
    if (rc == 0 && scoring_needs(config, &config->reward, "prm"))
        rc = err_set(ERR_CONFIG,
                     "\"prm\" reads tokens, not text: evaluate with `gradus eval --prm`");
    if (rc == 0 && scoring_needs(config, &config->reward, "code"))
        rc = scoring_open_sandbox(&sandbox, tier, 0);
    if (rc == 0)
        rc = scoring_open(&scoring, config, &config->reward, sandbox, NULL);
    if (rc == 0)
        rc = score_rows(&text, &counts, scoring->reward[0], traces);
    if (rc == 0 && out != NULL)
        rc = file_write_atomic(out, text.data, text.len);
    else if (rc == 0)
        fwrite(text.data, 1, text.len, stdout);
    if (rc == 0)
        fprintf(stderr, "%d rows, %d scored, mean %.4f\n", counts.rows, counts.scored,
                counts.scored > 0 ? counts.sum / counts.scored : 0.0);
    if (rc == 0 && sandbox != NULL)
        say_programs(sandbox);
    strbuf_free(&text);
    scoring_close(&scoring);
    sandbox_close(&sandbox);
    config_free(&config);
    return rc;
}
