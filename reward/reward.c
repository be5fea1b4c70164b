// SPDX-License-Identifier: Apache-2.0
#include "reward/reward.h"

#include "base/error.h"
#include "reward/answer.h"
#include "reward/format.h"
#include "reward/steps.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 64 };

struct component {
    struct reward_scorer scorer;
    bool owned; // closed with the reward; false for a given scorer, which `given` owns
    double weight;
    bool per_step;
    char name[NAME_MAX_LEN];
};

struct reward {
    int num_components, num_given;
    struct component *components;
    struct reward_scorer *given;
    bool *taken; // [num_given] by a component
};

void reward_set_value(struct reward_result *out, double value)
{
    *out = (struct reward_result){.value = value, .valid = true, .first_wrong = -1};
}

void reward_set_unscorable(struct reward_result *out, const char *fmt, ...)
{
    *out = (struct reward_result){.first_wrong = -1};
    va_list args;
    va_start(args, fmt);
    vsnprintf(out->reason, sizeof(out->reason), fmt, args);
    va_end(args);
}

// ---- composing

// Components of one name take the given scorers of that name in order, and the last one again when
// there are no more; -1: there is none.
static int find_given(const struct reward *r, const char *name)
{
    int found = -1;
    for (int i = 0; i < r->num_given && (found < 0 || r->taken[found]); i++)
        if (strcmp(r->given[i].name, name) == 0)
            found = i;
    return found;
}

static int open_scorer(struct component *out, struct reward *r, const struct reward_component *c)
{
    const bool has_format_keys =
        (c->kind != NULL && c->kind[0] != '\0') || (c->pattern != NULL && c->pattern[0] != '\0');
    if (strcmp(c->use, "format") == 0) {
        out->owned = true;
        return format_scorer_open(&out->scorer, c->kind, c->pattern);
    }
    if (has_format_keys)
        return err_set(ERR_CONFIG, "reward \"%s\" takes no kind or pattern", c->use);
    if (strcmp(c->use, "steps") == 0) {
        out->scorer = steps_scorer(c->separator);
        return 0;
    }
    if (strcmp(c->use, "answer") == 0) {
        out->scorer = answer_scorer();
        return 0;
    }
    const int given = find_given(r, c->use);
    if (given >= 0) {
        r->taken[given] = true;
        out->scorer = r->given[given];
        return 0;
    }
    return err_set(ERR_CONFIG, "unknown reward \"%s\"", c->use);
}

// "code", then "code_2", "code_3" for further ones.
static void name_component(struct reward *r, int index, const char *use)
{
    int same = 1;
    for (int i = 0; i < index; i++)
        same += strcmp(r->components[i].scorer.name, use) == 0;
    char *name = r->components[index].name;
    if (same == 1)
        snprintf(name, NAME_MAX_LEN, "%s", use);
    else
        snprintf(name, NAME_MAX_LEN, "%.40s_%d", use, same);
}

int reward_open(struct reward **out, const struct reward_component *components, int num_components,
                const struct reward_scorer *given, int num_given)
{
    struct reward *r = mem_alloc0(sizeof(*r));
    r->components = mem_array0((size_t)num_components, sizeof(*r->components));
    r->given = mem_array0((size_t)num_given, sizeof(*r->given));
    r->taken = mem_array0((size_t)num_given, sizeof(*r->taken));
    r->num_given = num_given;
    for (int i = 0; i < num_given; i++)
        r->given[i] = given[i];
    for (int i = 0; i < num_components; i++) {
        struct component *c = &r->components[r->num_components++];
        c->weight = components[i].weight;
        c->per_step = components[i].per_step;
        const int rc = open_scorer(c, r, &components[i]);
        if (rc != 0) {
            reward_close(&r);
            return rc;
        }
        name_component(r, i, components[i].use);
    }
    *out = r;
    return 0;
}

static void close_scorer(const struct reward_scorer *s)
{
    if (s->close != NULL)
        s->close(s->state);
}

void reward_close(struct reward **reward)
{
    struct reward *r = *reward;
    if (r == NULL)
        return;
    for (int i = 0; i < r->num_components; i++)
        if (r->components[i].owned)
            close_scorer(&r->components[i].scorer);
    for (int i = 0; i < r->num_given; i++)
        close_scorer(&r->given[i]);
    free(r->components);
    free(r->given);
    free(r->taken);
    free(r);
    *reward = NULL;
}

int reward_num_components(const struct reward *r) { return r->num_components; }

const char *reward_component_name(const struct reward *r, int i) { return r->components[i].name; }

bool reward_has_steps(const struct reward *r)
{
    for (int i = 0; i < r->num_components; i++)
        if (r->components[i].per_step && r->components[i].weight != 0)
            return true;
    return false;
}

// ---- scoring

// The sum over the outcome components; not valid as soon as one with a weight is not.
static void total_value(struct reward_result *total, const struct reward *r,
                        const struct reward_result *parts)
{
    reward_set_value(total, 0);
    for (int k = 0; k < r->num_components; k++) {
        const struct component *c = &r->components[k];
        if (c->weight == 0)
            continue;
        if (!parts[k].valid) {
            reward_set_unscorable(total, "%s: %.100s", c->name, parts[k].reason);
            return;
        }
        total->value += c->per_step ? 0 : c->weight * parts[k].value;
    }
}

// Adds the steps of one component to the total's; the first one brings where they end.
static bool add_steps(struct reward_result *total, bool first, struct arena *a,
                      const struct reward_result *part, double weight)
{
    if (first) {
        total->num_steps = part->num_steps;
        total->steps = ARENA_ARRAY(a, struct reward_step, part->num_steps);
        for (int j = 0; j < part->num_steps; j++) {
            total->steps[j] = part->steps[j];
            total->steps[j].value = 0;
        }
    }
    if (part->num_steps != total->num_steps)
        return false;
    for (int j = 0; j < part->num_steps; j++) {
        struct reward_step *t = &total->steps[j];
        const struct reward_step *p = &part->steps[j];
        if (p->end != t->end)
            return false;
        t->value += weight * p->value;
        t->valid = t->valid && p->valid && isfinite(p->value);
        t->flags |= p->flags;
    }
    return true;
}

// The steps of the per_step components, added up. They must agree about where the steps end.
static void total_steps(struct reward_result *total, const struct reward *r, struct arena *a,
                        const struct reward_result *parts)
{
    bool first = true;
    for (int k = 0; k < r->num_components; k++) {
        const struct component *c = &r->components[k];
        if (c->weight == 0 || !c->per_step)
            continue;
        if (!add_steps(total, first, a, &parts[k], c->weight)) {
            reward_set_unscorable(total, "%s: its steps are not those of the components before it",
                                  c->name);
            return;
        }
        first = false;
    }
}

void reward_begin(struct reward *r, const struct reward_item *item)
{
    for (int k = 0; k < r->num_components; k++) {
        const struct reward_scorer *s = &r->components[k].scorer;
        if (s->begin != NULL)
            s->begin(s->state, item);
    }
}

int reward_run(struct reward *r, struct arena *a, struct reward_score *out,
               const struct reward_item *items, int n)
{
    const int components = r->num_components;
    struct reward_result *results = ARENA_ARRAY(a, struct reward_result, n); // of one component
    for (int i = 0; i < n; i++)
        out[i] = (struct reward_score){.parts = ARENA_ARRAY(a, struct reward_result, components)};
    for (int k = 0; k < components; k++) {
        const struct reward_scorer *s = &r->components[k].scorer;
        const int rc = s->score(s->state, a, results, items, n);
        if (rc != 0)
            return rc;
        for (int i = 0; i < n; i++) {
            if (results[i].valid && !isfinite(results[i].value))
                reward_set_unscorable(&results[i], "a value that is not finite");
            out[i].parts[k] = results[i];
        }
    }
    for (int i = 0; i < n; i++) {
        total_value(&out[i].total, r, out[i].parts);
        if (out[i].total.valid)
            total_steps(&out[i].total, r, a, out[i].parts);
    }
    return 0;
}
