// SPDX-License-Identifier: Apache-2.0
#include "rl/source.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/philox.h"
#include "rl/chat.h"
#include "rl/games.h"
#include "rl/programs.h"
#include "rl/rows.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct source {
    const struct config_source *config;
    struct games *games; // exactly one of these is there
    struct programs *programs;
    struct rows *rows;
};

struct sources {
    const struct config *config;
    const struct tokenizer *tokenizer;
    int count;
    struct source *items;
    struct chat chat; // opened by the first conversation
    bool chat_open;
    struct json_doc **docs; // of the tests of tasks, until sources_recycle
    int num_docs, cap_docs;
};

// ---- opening

static int open_source(struct source *s, const struct config_source *c, uint64_t seed)
{
    s->config = c;
    if (c->generate == GENERATE_GAMES) {
        const struct games_settings settings = {
            .numbers = c->numbers.items,
            .num_numbers = c->numbers.count,
            .max = c->max,
            .target_min = c->target.items[0],
            .target_max = c->target.items[c->target.count - 1],
            .holdout = c->holdout,
            .wins = c->wins,
            .seed = seed,
        };
        return games_open(&s->games, &settings);
    }
    if (c->generate == GENERATE_PROGRAMS) {
        const struct programs_settings settings = {c->depth, c->examples, c->holdout, seed};
        return programs_open(&s->programs, &settings);
    }
    const int held_out = c->for_ == FOR_EVAL ? INT_MAX : c->holdout;
    return rows_open(&s->rows, c->file, c->limit, held_out, c->name);
}

int sources_open(struct sources **out, const struct config *c, const struct tokenizer *t)
{
    struct sources *s = mem_alloc0(sizeof *s);
    s->config = c;
    s->tokenizer = t;
    s->items = mem_array0((size_t)c->data.count + 1, sizeof *s->items);
    int rc = 0;
    for (; s->count < c->data.count && rc == 0; s->count++)
        rc = open_source(&s->items[s->count], &c->data.items[s->count], (uint64_t)c->run.seed);
    if (rc != 0) {
        sources_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void sources_close(struct sources **s)
{
    if (*s == NULL)
        return;
    sources_recycle(*s);
    chat_close(&(*s)->chat);
    free((*s)->docs);
    for (int i = 0; i < (*s)->count; i++) {
        games_close(&(*s)->items[i].games);
        programs_close(&(*s)->items[i].programs);
        rows_close(&(*s)->items[i].rows);
    }
    free((*s)->items);
    free(*s);
    *s = NULL;
}

void sources_recycle(struct sources *s)
{
    while (s->num_docs > 0)
        json_free(&s->docs[--s->num_docs]);
}

// ---- tasks

// Tokens of a text in the arena; with_end: followed by the end-of-sequence token.
static int encode(const int **out, int *len, const struct sources *s, struct arena *a,
                  const char *text, bool add_special, bool with_end)
{
    struct token_list list = {0};
    int rc = tokenizer_encode(&list, s->tokenizer, text, strlen(text), add_special);
    if (rc == 0 && with_end && tokenizer_eos(s->tokenizer) >= 0)
        token_list_add(&list, tokenizer_eos(s->tokenizer));
    if (rc == 0) {
        int *ids = arena_push(a, (size_t)(list.count + 1) * sizeof *ids);
        if (list.count > 0)
            memcpy(ids, list.ids, (size_t)list.count * sizeof *ids);
        *out = ids;
        *len = list.count;
    }
    token_list_free(&list);
    return rc;
}

// What a problem's completions are judged against.
static int reference_of(struct reward_reference *out, struct sources *s, const struct problem *p)
{
    *out = (struct reward_reference){.answer = p->answer, .puzzle = p->puzzle};
    if (p->tests == NULL)
        return 0;
    if (s->num_docs == s->cap_docs) {
        s->cap_docs = s->cap_docs ? 2 * s->cap_docs : 64;
        s->docs = mem_realloc(s->docs, (size_t)s->cap_docs * sizeof *s->docs);
    }
    struct json_doc *doc;
    const int rc = json_parse(&doc, p->tests, strlen(p->tests), 0, p->id, 1, ERR_DATA);
    if (rc != 0)
        return rc;
    s->docs[s->num_docs++] = doc;
    out->doc = doc;
    out->tests = json_root(doc);
    return 0;
}

// The key that names a task in the randomness of sampling: of its id and its source's name.
static uint64_t task_key(const char *source, const char *id)
{
    uint64_t h = 0;
    for (const char *c = source; *c; c++)
        h = philox_mix(h, (unsigned char)*c);
    h = philox_mix(h, 256);
    for (const char *c = id; *c; c++)
        h = philox_mix(h, (unsigned char)*c);
    return h;
}

// A row of ids: a prompt, of one token when the row does not say, and what follows.
static void use_tokens(struct task *t, const struct problem *p)
{
    t->prompt_len = p->prompt_tokens > 0 ? p->prompt_tokens : 1;
    t->prompt_tokens = p->tokens;
    t->completion_tokens = p->tokens + t->prompt_len;
    t->completion_len = p->num_tokens - t->prompt_len;
    t->loss_mask = p->loss_mask != NULL ? p->loss_mask + t->prompt_len : NULL;
}

// prompt: what the model reads; t->prompt, which scorers see, may be the question in it.
static int use_text(struct task *t, const struct sources *s, struct arena *a,
                    const struct problem *p, const char *prompt, bool add_special)
{
    int rc = encode(&t->prompt_tokens, &t->prompt_len, s, a, prompt, add_special, false);
    if (rc == 0 && t->prompt_len == 0)
        rc = err_set(ERR_DATA, "item '%s' of '%s' has an empty prompt", p->id, t->group);
    if (rc == 0 && t->completion != NULL)
        rc = encode(&t->completion_tokens, &t->completion_len, s, a, t->completion, false, true);
    return rc;
}

// A conversation: its prompt and, unless the row has one of its own, its completion. Templates are
// not told the date, so that a run can be repeated.
static int use_conversation(struct task *t, struct sources *s, struct arena *a,
                            const struct problem *p)
{
    struct chat_text text = {0};
    char where[256];
    snprintf(where, sizeof where, "item '%.100s' of '%.100s'", p->id, t->group);
    int rc = s->chat_open ? 0 : chat_open(&s->chat, s->tokenizer, -1);
    if (rc != 0)
        return rc;
    s->chat_open = true;
    rc = chat_render(&text, &s->chat, p->conversation, where);
    if (rc == 0) {
        if (text.answered)
            t->completion = NULL;
        if (text.has_completion)
            t->completion = arena_strndup(a, text.completion.len ? text.completion.data : "",
                                          text.completion.len);
        rc = use_text(t, s, a, p, text.prompt.len ? text.prompt.data : "", !text.rendered);
    }
    chat_text_free(&text);
    return rc;
}

static int task_of(struct task *out, struct sources *s, struct arena *a, int source,
                   const struct problem *p)
{
    const char *name = s->items[source].config->name;
    struct task t = {
        .id = p->id,
        .key = task_key(name, p->id),
        .source = source,
        .group = p->source != NULL ? p->source : name,
        .prompt = p->prompt,
        .completion = p->completion,
        .num_steps = p->num_steps,
        .steps = p->steps,
        .labels = p->labels,
    };
    int rc = reference_of(&t.ref, s, p);
    if (rc == 0 && p->tokens != NULL)
        use_tokens(&t, p);
    else if (rc == 0 && p->conversation != NULL)
        rc = use_conversation(&t, s, a, p);
    else if (rc == 0)
        rc = use_text(&t, s, a, p, p->prompt, true);
    if (rc == 0)
        *out = t;
    return rc;
}

int64_t source_train_count(const struct sources *s, int source)
{
    const struct source *x = &s->items[source];
    return x->rows != NULL ? rows_train_count(x->rows) : 0;
}

// Row of the index-th task: every pass goes through all rows in an order of its own.
static int row_of(uint64_t index, int n, uint64_t seed)
{
    const uint64_t pass = index / (uint64_t)n;
    // A Feistel network on the smallest even number of bits that hold n, walked until it is inside.
    int half = 1;
    while ((1u << (2 * half)) < (unsigned)n)
        half++;
    const uint32_t mask = (1u << half) - 1;
    uint32_t x = (uint32_t)(index % (uint64_t)n);
    do {
        uint32_t left = x >> half, right = x & mask;
        for (uint32_t round = 0; round < 4; round++) {
            const uint32_t f = philox4x32(seed, pass << 8 | round, right).v[0] & mask;
            const uint32_t next = left ^ f;
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint32_t)n);
    return (int)x;
}

int source_train_task(struct task *out, struct sources *s, struct arena *a, int source,
                      uint64_t index)
{
    const struct source *x = &s->items[source];
    struct problem p = {0};
    int rc = 0;
    if (x->games != NULL) {
        games_problem(&p, a, x->games, index);
    } else if (x->programs != NULL) {
        programs_problem(&p, a, x->programs, index);
    } else {
        const int n = rows_train_count(x->rows);
        if (n == 0)
            return err_set(ERR_CONFIG, "source '%s' has no rows for training", x->config->name);
        const uint64_t seed = philox_mix((uint64_t)s->config->run.seed, (uint64_t)source);
        rc = rows_problem(&p, a, x->rows, row_of(index, n, seed));
    }
    return rc != 0 ? rc : task_of(out, s, a, source, &p);
}

int source_eval_count(const struct sources *s, int source)
{
    const struct source *x = &s->items[source];
    return x->rows != NULL ? rows_eval_count(x->rows) : x->config->holdout;
}

static bool is_named(const struct config_texts *names, const char *name)
{
    for (int i = 0; i < names->count; i++)
        if (strcmp(names->items[i], name) == 0)
            return true;
    return names->count == 0;
}

int source_evaluated(const struct sources *s, const struct config_eval *e, int source)
{
    const int count = source_eval_count(s, source);
    if (!is_named(&e->sources, s->items[source].config->name))
        return 0;
    return e->limit > 0 && count > e->limit ? e->limit : count;
}

int source_eval_task(struct task *out, struct sources *s, struct arena *a, int source, int index)
{
    const struct source *x = &s->items[source];
    struct problem p = {0};
    int rc = 0;
    if (x->games != NULL)
        games_holdout(&p, a, x->games, index);
    else if (x->programs != NULL)
        programs_holdout(&p, a, x->programs, index);
    else
        rc = rows_problem(&p, a, x->rows, rows_train_count(x->rows) + index);
    return rc != 0 ? rc : task_of(out, s, a, source, &p);
}

// ---- mixtures

static int mix_next(struct source_mix *mix)
{
    // Multiples of the golden ratio fill [0, 1) evenly.
    const double u = fmod(((double)mix->next++ + 0.5) * 0.6180339887498949, 1.0);
    int k = 0;
    while (k < mix->count - 1 && u >= mix->end[k])
        k++;
    return k;
}

int source_mix_open(struct source_mix *out, const struct sources *s,
                    const struct config_shares *shares, uint64_t skip)
{
    struct source_mix mix = {.count = shares->count};
    if (shares->count > SOURCE_MIX_MAX)
        return err_set(ERR_CONFIG, "a stage has %d sources; at most %d can be mixed", shares->count,
                       SOURCE_MIX_MAX);
    double sum = 0.0;
    for (int i = 0; i < shares->count; i++) {
        mix.source[i] = -1;
        for (int j = 0; j < s->count; j++)
            if (strcmp(s->items[j].config->name, shares->items[i].source) == 0)
                mix.source[i] = j;
        if (mix.source[i] < 0)
            return err_set(ERR_CONFIG, "no source is called '%s'", shares->items[i].source);
        mix.end[i] = sum += shares->items[i].share;
    }
    while (mix.next < skip)
        mix.used[mix_next(&mix)]++;
    *out = mix;
    return 0;
}

int source_mix_take(struct task *out, struct source_mix *mix, struct sources *s, struct arena *a)
{
    const int k = mix_next(mix);
    return source_train_task(out, s, a, mix->source[k], mix->used[k]++);
}
