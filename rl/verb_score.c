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

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int score_row(struct strbuf *out, struct counts *counts, struct reward *reward,
                     const struct problem *p, struct arena *a)
{
    struct json_doc *doc = NULL;
    if (p->completion == NULL)
        return err_set(ERR_DATA, "row '%s' has no completion to score", p->id);
    int rc =
        p->tests != NULL ? json_parse(&doc, p->tests, strlen(p->tests), 0, p->id, 1, ERR_DATA) : 0;
    if (rc != 0)
        return rc;
    const struct reward_reference ref = {p->answer, doc, json_root(doc), p->puzzle};
    const struct reward_item item = {
        .prompt = p->prompt != NULL ? p->prompt : "",
        .completion = p->completion,
        .len = strlen(p->completion),
        .finished = true,
        .ref = &ref,
    };
    struct reward_score score;
    rc = reward_run(reward, a, &score, &item, 1);
    if (rc == 0) {
        put_row(out, p, &score, reward);
        counts->rows++;
        counts->scored += score.total.valid;
        counts->sum += score.total.valid ? score.total.value : 0.0;
    }
    json_free(&doc);
    return rc;
}

static int score_rows(struct strbuf *out, struct counts *counts, struct reward *reward,
                      const char *path)
{
    struct rows *rows = NULL;
    struct arena arena = {0};
    int rc = rows_open(&rows, path, 0, INT_MAX, path);
    for (int i = 0; rc == 0 && i < rows_eval_count(rows); i++) {
        struct problem p = {0};
        rc = rows_problem(&p, &arena, rows, i);
        if (rc == 0)
            rc = score_row(out, counts, reward, &p, &arena);
        arena_release(&arena, (struct arena_mark){0});
    }
    rows_close(&rows);
    arena_free(&arena);
    return rc;
}

int verb_score(int argc, char **argv)
{
    const char *reward_file = NULL, *traces = NULL, *out = NULL;
    const struct option options[] = {
        {"TRACES.jsonl", NULL, OPTION_STRING, &traces, 0, 0, true,
         "rows with a completion and what it is judged by"},
        {"--reward", "FILE", OPTION_STRING, &reward_file, 0, 0, false,
         "array of reward components; default: by what the first row can be judged by"},
        {"--out", "FILE", OPTION_STRING, &out, 0, 0, false, "default: standard output"},
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
        rc = sandbox_open(&sandbox, NULL);
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
    strbuf_free(&text);
    scoring_close(&scoring);
    sandbox_close(&sandbox);
    config_free(&config);
    return rc;
}
