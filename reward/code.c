// SPDX-License-Identifier: Apache-2.0
#include "reward/code.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A program that the sandbox has.
struct submitted {
    bool is;
    uint64_t id;
    struct sandbox_tests *tests;
};

struct code_scorer {
    struct sandbox *sandbox;
    struct code_scorer_options options;
    struct submitted *begun; // [num_begun] by ticket, from 1
    int num_begun;
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
    if (fraction && r->verdict != SANDBOX_OK && r->verdict != SANDBOX_VIOLATION &&
        r->tests_total > 0) {
        const int most = r->tests_total - 1;
        value = (double)(r->tests_passed < most ? r->tests_passed : most) / r->tests_total;
    }
    reward_set_value(out, value);
    out->weak = r->weak;
    if (r->verdict != SANDBOX_OK || r->weak)
        snprintf(out->reason, sizeof out->reason, "%s%s: %.120s", name, r->weak ? " (weak)" : "",
                 r->verdict == SANDBOX_OK ? "the tests ran in the program's own process"
                                          : r->detail);
}

// Hands one item to the sandbox. One that cannot be judged is not handed over, and out says why.
static int submit(const struct code_scorer *s, struct submitted *to, struct reward_result *out,
                  const struct reward_item *item)
{
    *to = (struct submitted){0};
    if (item->ref == NULL || item->ref->tests == NULL) {
        reward_set_unscorable(out, "the item has no tests");
        return 0;
    }
    if (sandbox_tests_from_json(&to->tests, item->ref->doc, item->ref->tests, "tests") != 0) {
        reward_set_unscorable(out, "%s", err_message());
        return 0;
    }
    struct strbuf source = {0};
    code_extract(&source, item->prompt, item->completion, item->len);
    const struct sandbox_job job = {
        .language = s->options.language,
        .source = source.data != NULL ? source.data : "",
        .source_len = source.len,
        .tests = to->tests,
        .limits = s->options.limits,
        .run_all = s->options.fraction,
    };
    const int rc = sandbox_submit(s->sandbox, &job, &to->id);
    to->is = rc == 0;
    strbuf_free(&source);
    return rc;
}

// Waits for one item's result, which the caller clears.
static int collect(const struct code_scorer *s, struct submitted *from, struct sandbox_result *out)
{
    *out = (struct sandbox_result){0};
    const int rc = from->is ? sandbox_collect(s->sandbox, from->id, out) : 0;
    sandbox_tests_free(&from->tests);
    from->is = false;
    return rc;
}

// Of an item that was begun and will not be asked for.
static void drop(const struct code_scorer *s, struct submitted *begun)
{
    struct sandbox_result unused;
    (void)collect(s, begun, &unused);
    sandbox_result_clear(&unused);
}

static void begin_item(void *state, const struct reward_item *item)
{
    struct code_scorer *s = state;
    if (item->ticket > s->num_begun) {
        s->begun = mem_realloc(s->begun, (size_t)item->ticket * sizeof *s->begun);
        memset(s->begun + s->num_begun, 0,
               (size_t)(item->ticket - s->num_begun) * sizeof *s->begun);
        s->num_begun = item->ticket;
    }
    struct submitted *to = &s->begun[item->ticket - 1];
    struct reward_result unused;
    drop(s, to);
    (void)submit(s, to, &unused, item); // what is wrong with it is found again when it is asked for
}

static int score_items(void *state, struct arena *a, struct reward_result *out,
                       const struct reward_item *items, int n)
{
    struct code_scorer *s = state;
    struct submitted *all = ARENA_ARRAY(a, struct submitted, n + 1);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        const int ticket = items[i].ticket;
        if (ticket > 0 && ticket <= s->num_begun && s->begun[ticket - 1].is) {
            all[i] = s->begun[ticket - 1];
            s->begun[ticket - 1] = (struct submitted){0};
        } else {
            rc = submit(s, &all[i], &out[i], &items[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        struct sandbox_result result;
        const bool was_submitted = all[i].is;
        const int collected = collect(s, &all[i], &result);
        if (was_submitted && collected == 0)
            set_verdict(&out[i], &result, s->options.fraction);
        rc = rc == 0 ? collected : rc;
        sandbox_result_clear(&result);
    }
    return rc;
}

static void close_scorer(void *state)
{
    struct code_scorer *s = state;
    for (int i = 0; i < s->num_begun; i++)
        drop(s, &s->begun[i]);
    free(s->begun);
    free(s);
}

int code_scorer_open(struct reward_scorer *out, struct sandbox *sandbox,
                     const struct code_scorer_options *options)
{
    struct code_scorer *s = mem_alloc(sizeof *s);
    *s = (struct code_scorer){.sandbox = sandbox, .options = *options};
    *out = (struct reward_scorer){.name = "code",
                                  .score = score_items,
                                  .begin = begin_item,
                                  .close = close_scorer,
                                  .state = s};
    return 0;
}
