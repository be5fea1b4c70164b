// SPDX-License-Identifier: Apache-2.0
// The plan of a run: its memory is what the stages take, what does not fit is refused before
// anything is allocated, and the settings that are named do make it fit.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/team.h"
#include "rl/plan.h"
#include "tests/assert_ok.h"
#include "tests/devices.h"
#include "tests/fenced_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG TEST_GOLDEN "/../e2e/small.json"

// A run on a device that counts, before its models are opened.
struct world {
    struct config *config;
    struct comm comm;
    struct trainer t;
    struct plan_basis basis;
    struct plan plan;
};

static void open_config(struct world *w, const char *set)
{
    const struct option_list sets = {&set, set != NULL};
    config_free(&w->config);
    assert_ok(config_load(&w->config, CONFIG, &sets));
    w->t.config = w->config;
}

// limit: bytes of the device; 0: its own.
static void open_world(struct world *w, size_t limit, const char *set)
{
    *w = (struct world){.comm = {.size = 1, .local_size = 1}};
    struct trainer *t = &w->t;
    open_config(w, set);
    t->comm = &w->comm;
    assert_ok(team_open(&t->team, 1));
    assert_ok(test_device_open(&t->dev, t->team, DEVICE_FENCED));
    if (limit > 0)
        fenced_limit(t->dev, limit);
    assert_ok(tokenizer_open(&t->tokenizer, w->config->tokenizer));
    assert_ok(sources_open(&t->sources, w->config, t->tokenizer));
    assert_ok(plan_open(&w->basis, t));
    assert_ok(plan_memory(&w->plan, &w->basis, w->config));
    assert_int_equal(fenced_bytes(t->dev), 0);
}

static void close_world(struct world *w)
{
    struct trainer *t = &w->t;
    optimizer_free(&t->optimizer);
    policy_free(&t->policy);
    policy_free(&t->prm);
    policy_free(&t->reference);
    plan_close(&w->basis);
    sources_close(&t->sources);
    tokenizer_free(&t->tokenizer);
    test_device_close(&t->dev);
    team_close(&t->team);
    arena_free(&t->step_arena);
    strbuf_free(&t->trace);
    config_free(&w->config);
}

static size_t row_of(const struct plan *p, const char *name)
{
    for (int i = 0; i < p->num_rows; i++)
        if (strcmp(p->rows[i].name, name) == 0)
            return p->rows[i].bytes;
    return 0;
}

// The stage of the plan, with the models that it finds.
static int open_models(struct world *w, void **state)
{
    struct trainer *t = &w->t;
    struct config_stages *stages = &w->config->stages;
    t->stage = &stages->items[stages->count - 1];
    assert_string_equal(w->plan.stage, t->stage->name);
    assert_int_equal(t->stage->kind, STAGE_GRPO);
    t->steps = t->stage->steps;
    int rc = policy_create(&t->policy, t->dev, &w->config->model.arch, w->config->run.dtype, 1);
    if (rc == 0)
        rc = policy_clone(&t->prm, t->policy, /* value_head= */ true, /* read_only= */ false);
    if (rc == 0)
        rc = plan_reserve(t, &w->basis);
    if (rc == 0)
        rc = stage_grpo.open(state, t);
    return rc != 0 ? rc : plan_reserve(t, &w->basis);
}

static void check_stage(const char *set)
{
    struct world w;
    void *state = NULL;
    struct metrics_line line = {0};
    open_world(&w, 0, set);
    const size_t rollouts =
        row_of(&w.plan, "cache of the samples") + row_of(&w.plan, "logits and draws") +
        row_of(&w.plan, "cache of the evaluation") + row_of(&w.plan, "its logits and draws");
    assert_true(rollouts > 0 && rollouts < w.plan.total);
    assert_ok(open_models(&w, &state));
    assert_int_equal(fenced_bytes(w.t.dev), w.plan.total - rollouts);
    metrics_begin(&line, "grpo", 1, 1);
    assert_ok(stage_grpo.step(state, &w.t, 0, &line));
    assert_true(fenced_bytes(w.t.dev) <= w.plan.total); // no evaluation yet
    assert_true(fenced_bytes(w.t.dev) > w.plan.total - rollouts);
    metrics_free(&line);
    sources_recycle(w.t.sources);
    stage_grpo.close(state);
    close_world(&w);
}

static void a_stage_takes_what_was_planned(void **state)
{
    (void)state;
    check_stage(NULL);
    check_stage("run.dtype=\"bfloat16\"");
    check_stage("run.gradient_checkpointing=true");
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += strlen(word))
        n++;
    return n;
}

static void assert_table_and_knobs(const struct plan *p)
{
    const char *said = err_message();
    for (int i = 0; i < p->num_rows; i++)
        assert_non_null(strstr(said, p->rows[i].name));
    assert_non_null(strstr(said, "\n  total "));
    assert_int_equal(count(said, "  --set "), 2);
    assert_int_equal(count(said, " saves "), 2);
}

// What stands after the i-th "--set " of the message.
static char *setting_of(const char *said, int i)
{
    const char *at = said;
    for (; i >= 0; i--)
        at = strstr(at, "--set ") + strlen("--set ");
    return mem_strndup(at, strcspn(at, " "));
}

static void what_does_not_fit_is_refused_with_settings_that_do(void **state)
{
    (void)state;
    struct world w;
    open_world(&w, 0, "run.micro_batch_tokens=16384");
    const size_t limit = w.plan.total / 100 * 97;
    assert_ok(plan_check(&w.plan, &w.basis, w.config));
    close_world(&w);
    open_world(&w, limit, "run.micro_batch_tokens=16384");
    assert_int_equal(plan_check(&w.plan, &w.basis, w.config), ERR_ENV);
    assert_table_and_knobs(&w.plan);
    char *said = mem_strdup(err_message());
    assert_null(strstr(said, "not enough"));
    assert_non_null(strstr(said, "that the device has"));
    for (int i = 0; i < 2; i++) {
        char *setting = setting_of(said, i);
        open_config(&w, setting);
        assert_ok(plan_memory(&w.plan, &w.basis, w.config));
        assert_true(w.plan.total <= limit);
        free(setting);
    }
    free(said);
    close_world(&w);
}

// Another program took memory after the plan was made.
static void an_allocation_that_fails_tells_the_plan(void **state)
{
    (void)state;
    struct world w;
    void *stage = NULL;
    open_world(&w, 0, NULL);
    const int other = err_set(ERR_ENV, "another reason");
    assert_int_equal(plan_explain(other, &w.basis, w.config), ERR_ENV);
    assert_string_equal(err_message(), "another reason");
    fenced_limit(w.t.dev, w.plan.total / 2);
    const int rc = open_models(&w, &stage);
    assert_int_equal(rc, ERR_ENV);
    char *said = mem_strdup(err_message());
    assert_int_equal(plan_explain(rc, &w.basis, w.config), ERR_ENV);
    assert_non_null(strstr(err_message(), said));
    assert_table_and_knobs(&w.plan);
    free(said);
    if (stage != NULL)
        stage_grpo.close(stage);
    close_world(&w);
}

static void the_plan_is_json(void **state)
{
    (void)state;
    struct world w;
    struct strbuf text = {0};
    struct json_doc *doc = NULL;
    open_world(&w, 0, NULL);
    plan_write_json(&(struct json_writer){.out = &text}, &w.plan, &w.basis);
    assert_ok(json_parse(&doc, text.data, text.len, 0, "plan", 1, ERR_DATA));
    int64_t sum = 0, bytes = 0, total = 0;
    const struct json *rows = json_get(json_root(doc), "memory");
    for (const struct json *v = json_first(rows); v; v = json_next(v)) {
        assert_true(json_int(doc, json_get(v, "bytes"), 1, INT64_MAX, &bytes));
        sum += bytes;
    }
    assert_true(json_int(doc, json_get(json_root(doc), "total"), 1, INT64_MAX, &total));
    assert_int_equal(sum, total);
    assert_int_equal(sum, w.plan.total);
    json_free(&doc);
    strbuf_free(&text);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_takes_what_was_planned),
        cmocka_unit_test(what_does_not_fit_is_refused_with_settings_that_do),
        cmocka_unit_test(an_allocation_that_fails_tells_the_plan),
        cmocka_unit_test(the_plan_is_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
