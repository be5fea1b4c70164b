// SPDX-License-Identifier: Apache-2.0
#include "reward/code.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct code_scorer {
    struct sandbox *sandbox;
    struct code_scorer_options options;
};

// ---- the program of a completion

// The inside of the last fenced block, false when there is none. A block that was not closed goes
// to the end.
static bool last_fence(const char **begin, const char **end, const char *text, size_t len)
{
    const char *stop = text + len, *open = NULL;
    bool found = false;
    for (const char *line = text; line < stop;) {
        const char *newline = memchr(line, '\n', (size_t)(stop - line));
        const char *next = newline != NULL ? newline + 1 : stop;
        if (stop - line >= 3 && memcmp(line, "```", 3) == 0) {
            if (open == NULL) {
                open = next;
            } else {
                *begin = open;
                *end = line;
                open = NULL;
                found = true;
            }
        }
        line = next;
    }
    if (open != NULL) {
        *begin = open;
        *end = stop;
        found = true;
    }
    return found;
}

static bool continues_prompt(const char *prompt, const char *text, size_t len)
{
    size_t i = 0;
    while (i < len && text[i] == '\n')
        i++;
    return i < len && (text[i] == ' ' || text[i] == '\t') && strstr(prompt, "def ") != NULL;
}

void code_extract(struct strbuf *out, const char *prompt, const char *completion, size_t len)
{
    const char *begin = completion, *end = completion + len;
    if (last_fence(&begin, &end, completion, len)) {
        strbuf_append(out, begin, (size_t)(end - begin));
        return;
    }
    if (prompt != NULL && continues_prompt(prompt, completion, len))
        strbuf_puts(out, prompt);
    strbuf_append(out, completion, len);
}

// ---- scoring

static void set_verdict(struct reward_result *out, const struct sandbox_result *r, bool fraction)
{
    const char *name = sandbox_verdict_name(r->verdict);
    if (r->verdict == SANDBOX_INTERNAL) {
        reward_set_unscorable(out, "%s: %.120s", name, r->detail);
        return;
    }
    double value = r->verdict == SANDBOX_OK;
    // Calls may all have been answered by a program that then ended badly: only `ok` is 1.
    if (fraction && !value && r->verdict != SANDBOX_VIOLATION && r->tests_total > 0) {
        const int most = r->tests_total - 1;
        value = (double)(r->tests_passed < most ? r->tests_passed : most) / r->tests_total;
    }
    reward_set_value(out, value);
    if (r->verdict != SANDBOX_OK)
        snprintf(out->reason, sizeof out->reason, "%s: %.130s", name, r->detail);
}

// Submits one item; false when it cannot be judged, and then out says why.
static int submit(struct code_scorer *s, struct reward_result *out, struct sandbox_tests **tests,
                  uint64_t *id, bool *submitted, const struct reward_item *item)
{
    *submitted = false;
    if (item->ref == NULL || item->ref->tests == NULL) {
        reward_set_unscorable(out, "the item has no tests");
        return 0;
    }
    if (sandbox_tests_from_json(tests, item->ref->doc, item->ref->tests, "tests") != 0) {
        reward_set_unscorable(out, "%s", err_message());
        return 0;
    }
    struct strbuf source = {0};
    code_extract(&source, item->prompt, item->completion, item->len);
    const struct sandbox_job job = {
        .source = source.data != NULL ? source.data : "",
        .source_len = source.len,
        .tests = *tests,
        .limits = s->options.limits,
        .run_all = s->options.fraction,
    };
    const int rc = sandbox_submit(s->sandbox, &job, id);
    *submitted = rc == 0;
    strbuf_free(&source);
    return rc;
}

static int score_items(void *state, struct arena *a, struct reward_result *out,
                       const struct reward_item *items, int n)
{
    struct code_scorer *s = state;
    struct sandbox_tests **tests = ARENA_ARRAY(a, struct sandbox_tests *, n + 1);
    uint64_t *ids = ARENA_ARRAY(a, uint64_t, n + 1);
    bool *submitted = ARENA_ARRAY(a, bool, n + 1);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = submit(s, &out[i], &tests[i], &ids[i], &submitted[i], &items[i]);
    for (int i = 0; i < n; i++) {
        struct sandbox_result result = {0};
        if (submitted[i]) {
            const int collected = sandbox_collect(s->sandbox, ids[i], &result);
            if (collected == 0)
                set_verdict(&out[i], &result, s->options.fraction);
            else if (rc == 0)
                rc = collected;
            sandbox_result_clear(&result);
        }
        sandbox_tests_free(&tests[i]);
    }
    return rc;
}

int code_scorer_open(struct reward_scorer *out, struct sandbox *sandbox,
                     const struct code_scorer_options *options)
{
    struct code_scorer *s = mem_alloc(sizeof *s);
    *s = (struct code_scorer){sandbox, *options};
    *out = (struct reward_scorer){"code", score_items, free, s};
    return 0;
}
