// SPDX-License-Identifier: Apache-2.0
#include "rl/scoring.h"

#include "base/error.h"
#include "base/mem.h"
#include "reward/code.h"
#include "rl/programs.h"

#include <stdlib.h>
#include <string.h>

static const struct config_reward no_reward = {.source = ""};

static const struct config_reward *reward_of(const struct config_rewards *rewards,
                                             const char *source)
{
    const struct config_reward *r = config_reward_of(rewards, source);
    return r != NULL ? r : &no_reward;
}

bool scoring_needs(const struct config *c, const struct config_rewards *rewards, const char *use)
{
    for (int s = 0; s < c->data.count; s++) {
        const struct config_reward *r = reward_of(rewards, c->data.items[s].name);
        for (int i = 0; i < r->count; i++)
            if (strcmp(r->items[i].use, use) == 0)
                return true;
    }
    return false;
}

// ---- list programs: what the model writes is the body of a function

static int score_programs(void *state, struct arena *a, struct reward_result *out,
                          const struct reward_item *items, int n)
{
    const struct reward_scorer *code = state;
    struct reward_item *modules = arena_push(a, (size_t)(n + 1) * sizeof *modules);
    struct strbuf text = {0};
    for (int i = 0; i < n; i++) {
        strbuf_clear(&text);
        programs_source(&text, items[i].completion, items[i].len);
        modules[i] = items[i];
        modules[i].completion = arena_strndup(a, text.len ? text.data : "", text.len);
        modules[i].len = text.len;
        modules[i].token_ends = NULL; // they are of the body
    }
    strbuf_free(&text);
    return code->score(code->state, a, out, modules, n);
}

static void begin_program(void *state, const struct reward_item *item)
{
    const struct reward_scorer *code = state;
    struct strbuf text = {0};
    programs_source(&text, item->completion, item->len);
    struct reward_item module = *item;
    module.completion = text.len > 0 ? text.data : "";
    module.len = text.len;
    module.token_ends = NULL;
    code->begin(code->state, &module);
    strbuf_free(&text);
}

static void close_programs(void *state)
{
    struct reward_scorer *code = state;
    code->close(code->state);
    free(code);
}

static void wrap_programs(struct reward_scorer *scorer)
{
    struct reward_scorer *code = mem_alloc(sizeof *code);
    *code = *scorer;
    *scorer = (struct reward_scorer){.name = code->name,
                                     .score = score_programs,
                                     .begin = begin_program,
                                     .close = close_programs,
                                     .state = code};
}

// ---- opening

int scoring_open_sandbox(struct sandbox **out, const char *tier, int slots)
{
    struct sandbox_options options = {.slots = slots};
    if (!sandbox_tier_find(&options.tier, tier))
        return err_set(ERR_CONFIG, "there is no sandbox tier \"%s\"; there are: jail, cage", tier);
    return sandbox_open(out, &options);
}

static int open_code(struct reward_scorer *out, const struct config_component *c,
                     const struct config_source *source, struct sandbox *sandbox)
{
    if (sandbox == NULL)
        return err_set(ERR_ENV, "source '%s': its reward runs programs, and no sandbox is open",
                       source->name);
    struct code_scorer_options options = {
        .fraction = c->fraction,
        .limits = {.cpu_ms = (int)(c->time_limit * 1000.0), .memory_kib = c->memory_mb * 1024},
    };
    if (!sandbox_language_find(&options.language, c->language))
        return err_set(ERR_CONFIG,
                       "source '%s': no programs are run in \"%s\"; there are: python, c",
                       source->name, c->language);
    const int rc = code_scorer_open(out, sandbox, &options);
    if (rc == 0 && source->generate == GENERATE_PROGRAMS)
        wrap_programs(out);
    return rc;
}

static int open_prm(struct reward_scorer *out, const struct config_component *c, struct policy *prm,
                    int micro_batch_tokens)
{
    const struct prm_scorer_options options = {
        .aggregate = c->aggregate,
        .separator = c->separator,
        .micro_batch_tokens = micro_batch_tokens,
    };
    return prm_scorer_open(out, prm, &options);
}

// The reward of source s. Components that need a model that is not there are left out.
static int open_source(struct scoring *s, int source, const struct config *c,
                       struct sandbox *sandbox, struct policy *prm)
{
    const struct config_reward *r = s->config[source];
    struct reward_component *components = mem_array0((size_t)r->count + 1, sizeof *components);
    struct reward_scorer *given = mem_array0((size_t)r->count + 1, sizeof *given);
    s->component[source] = mem_array0((size_t)r->count + 1, sizeof *s->component[source]);
    int n = 0, num_given = 0, rc = 0;
    for (int i = 0; i < r->count && rc == 0; i++) {
        const struct config_component *x = &r->items[i];
        const bool is_prm = strcmp(x->use, "prm") == 0;
        if (is_prm && prm == NULL)
            continue;
        components[n] = (struct reward_component){
            .use = x->use,
            .weight = x->weight,
            .per_step = x->per_step,
            .kind = x->kind,
            .pattern = x->pattern,
            .separator = x->separator,
        };
        s->component[source][n++] = x;
        if (is_prm)
            rc = open_prm(&given[num_given], x, prm, c->run.micro_batch_tokens);
        else if (strcmp(x->use, "code") == 0)
            rc = open_code(&given[num_given], x, &c->data.items[source], sandbox);
        else
            continue;
        num_given += rc == 0;
    }
    if (rc == 0)
        rc = reward_open(&s->reward[source], components, n, given, num_given);
    else
        for (int i = 0; i < num_given; i++)
            given[i].close(given[i].state);
    free(components);
    free(given);
    return rc;
}

int scoring_open(struct scoring **out, const struct config *c, const struct config_rewards *rewards,
                 struct sandbox *sandbox, struct policy *prm)
{
    struct scoring *s = mem_alloc0(sizeof *s);
    const int n = c->data.count;
    s->num_sources = n;
    s->reward = mem_array0((size_t)n + 1, sizeof *s->reward);
    s->config = mem_array0((size_t)n + 1, sizeof *s->config);
    s->component = mem_array0((size_t)n + 1, sizeof *s->component);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        s->config[i] = reward_of(rewards, c->data.items[i].name);
        rc = open_source(s, i, c, sandbox, prm);
    }
    if (rc != 0) {
        scoring_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void scoring_close(struct scoring **s)
{
    if (*s == NULL)
        return;
    for (int i = 0; i < (*s)->num_sources; i++) {
        reward_close(&(*s)->reward[i]);
        free((*s)->component[i]);
    }
    free((*s)->reward);
    free((*s)->config);
    free((*s)->component);
    free(*s);
    *s = NULL;
}

int scoring_component(const struct scoring *s, int source, const char *use)
{
    const int n = reward_num_components(s->reward[source]);
    for (int i = 0; i < n; i++)
        if (strcmp(s->component[source][i]->use, use) == 0)
            return i;
    return -1;
}

int scoring_verdict(const struct scoring *s, int source)
{
    static const char *const judges[] = {"steps", "code", "answer"};
    for (size_t i = 0; i < sizeof judges / sizeof judges[0]; i++) {
        const int component = scoring_component(s, source, judges[i]);
        if (component >= 0)
            return component;
    }
    return -1;
}
