// SPDX-License-Identifier: Apache-2.0
#include "rl/config.h"

#include "base/error.h"
#include "rl/config_table.h"
#include "rl/options.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct config_memory {
    struct config_tree tree;
};

// ---- look-ups

const struct config_reward *config_reward_of(const struct config_rewards *rewards,
                                             const char *source)
{
    const struct config_reward *all = NULL;
    for (int i = 0; i < rewards->count; i++) {
        if (!strcmp(rewards->items[i].source, source))
            return &rewards->items[i];
        if (!strcmp(rewards->items[i].source, "*"))
            all = &rewards->items[i];
    }
    return all;
}

const struct config_source *config_source_of(const struct config *c, const char *name)
{
    for (int i = 0; i < c->data.count; i++)
        if (!strcmp(c->data.items[i].name, name))
            return &c->data.items[i];
    return NULL;
}

const char *config_stage_kind_name(enum config_stage_kind kind)
{
#define CONFIG_WORD_AT(constant, word) [constant] = word,
    static const char *const names[] = {CONFIG_STAGE_KIND(CONFIG_WORD_AT)};
    return names[kind];
}

bool config_stage_generates(const struct config_stage *s)
{
    return s->kind == STAGE_GRPO ||
           (s->kind == STAGE_PRM && s->samples_from == SAMPLES_FROM_POLICY);
}

// ---- checks that no single key can fail, and values derived from other keys

// Where faults are reported: the config, and the node of the object that is being checked.
struct check {
    struct config_tree *tree;
    const struct config *config;
    const struct config_node *node;
};

// The node of a member, for its place; the object's own when the key was not written.
static const struct config_node *place(const struct config_node *object, const char *key)
{
    const struct config_node *n = config_node_get(object, key);
    return n ? n : object;
}

static const struct config_node *element(const struct config_node *list, int index)
{
    const struct config_node *c = list ? list->first : NULL;
    for (int i = 0; c; c = c->next)
        if (c->type != JSON_NULL && i++ == index)
            return c;
    return list;
}

static void resolve_source(const struct check *at, struct config_source *s)
{
    const bool made = s->generate != GENERATE_NOTHING;
    if (made == (s->file != NULL))
        config_fault(at->tree, at->node, "data.%s needs either \"generate\" or \"file\"", s->name);
    if (s->for_ == FOR_DERIVED)
        s->for_ = s->holdout > 0 ? FOR_BOTH : FOR_TRAIN;
    if (made && s->for_ != FOR_TRAIN && s->holdout == 0)
        config_fault(at->tree, at->node,
                     "data.%s is for evaluation, and \"holdout\" is 0: there is nothing to measure",
                     s->name);
    if (s->for_ == FOR_TRAIN && s->holdout > 0)
        config_fault(at->tree, at->node,
                     "data.%s is for training only, and its \"holdout\" would not be used",
                     s->name);
    if (s->generate != GENERATE_GAMES)
        return;
    if (s->target.count != 2 || s->target.items[0] > s->target.items[1])
        config_fault(at->tree, place(at->node, "target"),
                     "data.%s.target is a list of two numbers: lowest and highest", s->name);
    if (s->numbers.count == 0)
        config_fault(at->tree, place(at->node, "numbers"), "data.%s.numbers is empty", s->name);
}

static void check_source_name(const struct check *at, const struct config_node *where,
                              const char *name, const char *what)
{
    const struct config *c = at->config;
    if (config_source_of(c, name))
        return;
    const char **names = mem_array0((size_t)c->data.count + 1, sizeof *names);
    for (int i = 0; i < c->data.count; i++)
        names[i] = c->data.items[i].name;
    const char *near = options_nearest(name, names, c->data.count);
    config_fault(at->tree, where, "%s names \"%s\", which is no source in data%s%s%s", what, name,
                 near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    free(names);
}

static void check_component(const struct check *at, const char *source,
                            const struct config_component *k)
{
    if (!k->use)
        return; // reported when it was read
    const bool steps = !strcmp(k->use, "steps") || !strcmp(k->use, "prm");
    if (k->per_step && !steps)
        config_fault(at->tree, at->node,
                     "reward.%s: \"%s\" gives no values of steps, so it cannot be per_step", source,
                     k->use);
    if (strcmp(k->use, "format") != 0)
        return;
    const bool by_pattern = k->kind && !strcmp(k->kind, "pattern");
    if (by_pattern != (k->pattern != NULL))
        config_fault(
            at->tree, at->node,
            "reward.%s: format needs a \"pattern\" when its kind is pattern, and only then",
            source);
}

// Adds the components of "*" to every other source's, and gives sources that have none theirs.
static void resolve_rewards(const struct check *at, struct config_rewards *rewards)
{
    const struct config *c = at->config;
    bool files = false; // rows of a file may name sources of their own
    for (int i = 0; i < c->data.count; i++)
        files = files || c->data.items[i].file;
    const struct config_reward *all = config_reward_of(rewards, "*");
    for (int i = 0; i < rewards->count; i++) {
        struct config_reward *r = &rewards->items[i];
        const struct config_node *node = config_node_get(at->node, r->source);
        if (!node)
            continue;
        for (int j = 0; j < r->own; j++)
            check_component(&(struct check){at->tree, c, element(node, j)}, r->source,
                            &r->items[j]);
        r->count = r->own;
        if (strcmp(r->source, "*") != 0 && c->data.count > 0 && !files)
            check_source_name(at, node, r->source, "reward");
        if (!all || all == r)
            continue;
        const size_t own = (size_t)r->own, more = (size_t)all->own;
        struct config_component *items =
            arena_push(&at->tree->arena, (own + more) * sizeof *items + 1);
        memcpy(items, r->items, own * sizeof *items);
        memcpy(items + own, all->items, more * sizeof *items);
        r->items = items;
        r->count = r->own + all->own;
    }
}

static void resolve_eval(const struct check *at, struct config_eval *e)
{
    for (int i = 0; i < e->sources.count; i++)
        if (e->sources.items[i])
            check_source_name(at, place(at->node, "sources"), e->sources.items[i], "eval.sources");
    if (e->k.count == 0) {
        int *k = arena_push(&at->tree->arena, 2 * sizeof *k);
        k[0] = 1;
        k[1] = e->samples;
        e->k = (struct config_ints){e->samples > 1 ? 2 : 1, k};
    }
    for (int i = 0; i < e->k.count; i++)
        if (e->k.items[i] > e->samples)
            config_fault(at->tree, place(at->node, "k"),
                         "eval.k holds %d, which needs as many samples; \"samples\" is %d",
                         e->k.items[i], e->samples);
}

// Whether the stage's reward of the source has this scorer.
static bool uses(const struct config_stage *s, const char *source, const char *scorer)
{
    const struct config_reward *r = config_reward_of(&s->reward, source);
    for (int i = 0; r && i < r->count; i++)
        if (r->items[i].use && !strcmp(r->items[i].use, scorer))
            return true;
    return false;
}

static bool has_step_rewards(const struct config_stage *s)
{
    for (int i = 0; i < s->reward.count; i++)
        for (int j = 0; j < s->reward.items[i].count; j++)
            if (s->reward.items[i].items[j].per_step && s->reward.items[i].items[j].weight != 0)
                return true;
    return false;
}

// Shares of the sources that the stage trains on, summing to 1.
static void resolve_shares(const struct check *at, struct config_stage *s)
{
    const struct config *c = at->config;
    const bool checked_steps = s->kind == STAGE_PRM && s->samples_from == SAMPLES_FROM_POLICY;
    double sum = 0;
    for (int i = 0; i < s->sources.count; i++) {
        const struct config_share *share = &s->sources.items[i];
        const struct config_source *source = config_source_of(c, share->source);
        check_source_name(at, place(at->node, "sources"), share->source, "sources");
        if (source && source->for_ == FOR_EVAL)
            config_fault(at->tree, place(at->node, "sources"),
                         "stage \"%s\" trains on \"%s\", which is for evaluation", s->name,
                         share->source);
        if (checked_steps && source && !uses(s, share->source, "steps"))
            config_fault(at->tree, place(at->node, "sources"),
                         "stage \"%s\" labels steps of \"%s\", whose reward has no \"steps\"",
                         s->name, share->source);
        sum += share->share;
    }
    if (s->sources.count == 0) {
        s->sources.items =
            arena_push0(&at->tree->arena, ((size_t)c->data.count + 1) * sizeof *s->sources.items);
        for (int i = 0; i < c->data.count; i++) {
            const struct config_source *source = &c->data.items[i];
            if (source->for_ == FOR_EVAL || (checked_steps && !uses(s, source->name, "steps")))
                continue;
            s->sources.items[s->sources.count++] = (struct config_share){source->name, 1};
            sum += 1;
        }
    }
    // Shares that sum to 1 are kept as they are: a config that was resolved reads back the same.
    for (int i = 0; i < s->sources.count && fabs(sum - 1) > 1e-12; i++)
        s->sources.items[i].share /= sum;
    if (s->sources.count == 0)
        config_fault(at->tree, at->node, "stage \"%s\" has no source to train on", s->name);
}

// steps or epochs, and the size of a batch.
static void resolve_length(const struct check *at, struct config_stage *s)
{
    if (s->kind == STAGE_EVAL) {
        if (s->steps > 0 || s->epochs > 0)
            config_fault(at->tree, at->node, "stage \"%s\" only evaluates: it has no steps",
                         s->name);
        return;
    }
    if ((s->steps > 0) == (s->epochs > 0))
        config_fault(at->tree, at->node, "stage \"%s\" needs either \"steps\" or \"epochs\"",
                     s->name);
    for (int i = 0; s->epochs > 0 && i < s->sources.count; i++) {
        const struct config_source *source =
            config_source_of(at->config, s->sources.items[i].source);
        if (source && source->generate != GENERATE_NOTHING)
            config_fault(at->tree, place(at->node, "epochs"),
                         "stage \"%s\" counts epochs, but \"%s\" is generated without end", s->name,
                         source->name);
    }
    const bool samples = s->kind == STAGE_GRPO || s->samples_from == SAMPLES_FROM_POLICY;
    const int64_t all = (int64_t)s->rollout.num_prompts * s->rollout.num_generations;
    if (samples && all > 100000000)
        config_fault(at->tree, at->node, "stage \"%s\" samples %lld completions in a step", s->name,
                     (long long)all);
    else if (s->batch == 0)
        s->batch = samples ? (int)all : 64;
    else if (samples && s->batch > all)
        config_fault(at->tree, place(at->node, "batch"),
                     "stage \"%s\": a batch of %d is more than the %lld samples of a rollout",
                     s->name, s->batch, (long long)all);
}

static void check_grpo(const struct check *at, struct config_stage *s, int index)
{
    s->advantage.scale = s->scale_rewards;
    if (s->epsilon_high < 0)
        s->epsilon_high = s->epsilon;
    const struct config_node *advantage = place(at->node, "advantage");
    if (s->rollout.num_generations < 2)
        config_fault(at->tree, at->node,
                     "stage \"%s\": num_generations is 1, and a group of one has no advantage",
                     s->name);
    if (s->advantage.outcome == 0 && s->advantage.process == 0)
        config_fault(at->tree, advantage, "stage \"%s\": both advantages have weight 0", s->name);
    if (s->advantage.process > 0 && !has_step_rewards(s))
        config_fault(at->tree, advantage,
                     "stage \"%s\": advantage.process needs a reward with \"per_step\"", s->name);
    bool prm = at->config->prm != NULL;
    for (int i = 0; i < index; i++)
        prm = prm || at->config->stages.items[i].kind == STAGE_PRM;
    for (int i = 0; i < s->sources.count; i++) {
        const char *source = s->sources.items[i].source;
        if (!config_reward_of(&s->reward, source))
            config_fault(at->tree, at->node, "stage \"%s\": source \"%s\" has no reward", s->name,
                         source);
        else if (uses(s, source, "prm") && !prm)
            config_fault(at->tree, at->node,
                         "stage \"%s\": the reward of \"%s\" uses prm, but no \"prm\" is given and "
                         "no prm stage comes "
                         "before",
                         s->name, source);
    }
}

static void resolve_stage(const struct check *at, struct config_stage *s, int index)
{
    const struct check eval = {at->tree, at->config, place(at->node, "eval")};
    const struct check reward = {at->tree, at->config, config_node_get(at->node, "reward")};
    if (!s->name)
        s->name = config_stage_kind_name(s->kind);
    for (int i = 0; i < index; i++)
        if (!strcmp(at->config->stages.items[i].name, s->name))
            config_fault(at->tree, at->node,
                         "two stages are called \"%s\": give one of them another \"name\"",
                         s->name);
    if (reward.node)
        resolve_rewards(&reward, &s->reward);
    resolve_eval(&eval, &s->eval);
    if (s->kind != STAGE_EVAL)
        resolve_shares(at, s);
    resolve_length(at, s);
    if (s->kind == STAGE_GRPO)
        check_grpo(at, s, index);
}

// A config.json may hold keys that mean nothing here, but hardly one that is a slip of the pen away
// from one that does.
static void check_model_keys(const struct check *at, const struct config_model *m)
{
    struct strbuf text = {0};
    arch_to_json(&(struct json_writer){.out = &text}, &m->arch);
    const struct json_doc *known = NULL;
    if (config_tree_parse(at->tree, &known, text.data, text.len, 0, "model", 1) != 0)
        config_fault_text(at->tree, err_message());
    for (const struct json *v = json_first(m->value); v; v = json_next(v)) {
        if (json_get(json_root(known), json_key(v)))
            continue;
        for (const struct json *k = json_first(json_root(known)); k; k = json_next(k)) {
            const int distance = str_distance(json_key(v), json_key(k));
            const bool same_length = strlen(json_key(v)) == strlen(json_key(k));
            if (distance == 1 || (distance == 2 && same_length))
                config_fault(at->tree, place(at->node, json_key(v)),
                             "unknown key \"%s\" in \"model\"; did you mean \"%s\"?", json_key(v),
                             json_key(k));
        }
    }
    strbuf_free(&text);
}

// The architecture of a new model; its own faults are joined to the others.
static void resolve_model(const struct check *at, struct config_model *m)
{
    if (m->dir || !m->value)
        return;
    int64_t seed = 1;
    const struct json *v = json_get(m->value, "init_seed");
    if (v && !json_int(m->doc, v, 0, INT64_MAX, &seed))
        config_fault(at->tree, place(at->node, "init_seed"),
                     "model.init_seed is not a whole number in [0, 2^63)");
    m->init_seed = (uint64_t)seed;
    if (arch_from_json(&m->arch, m->doc, m->value, at->node->file, ERR_CONFIG) != 0)
        config_fault_text(at->tree, err_message());
    else
        check_model_keys(at, m);
}

static void check_adapter(const struct check *at, const struct config *c)
{
    if (c->adapter && !c->model.dir)
        config_fault(at->tree, at->node,
                     "\"adapter\" is for a model directory; \"model\" is a new one");
}

static void resolve(struct config_tree *t, struct config *c)
{
    const struct config_node *root = t->root;
    const struct config_node *data = config_node_get(root, "data");
    for (int i = 0; i < c->data.count; i++)
        resolve_source(&(struct check){t, c, place(data, c->data.items[i].name)},
                       &c->data.items[i]);
    if (config_node_get(root, "reward"))
        resolve_rewards(&(struct check){t, c, config_node_get(root, "reward")}, &c->reward);
    resolve_eval(&(struct check){t, c, place(root, "eval")}, &c->eval);
    if (config_node_get(root, "model"))
        resolve_model(&(struct check){t, c, config_node_get(root, "model")}, &c->model);
    check_adapter(&(struct check){t, c, place(root, "adapter")}, c);
    const struct config_node *stages = config_node_get(root, "stages");
    for (int i = 0; i < c->stages.count; i++)
        resolve_stage(&(struct check){t, c, element(stages, i)}, &c->stages.items[i], i);
}

// ---- loading

// A stage inherits what it does not say of the sections that it may repeat.
static void inherit_sections(struct config_tree *t)
{
    static const char *const sections[] = {"reward", "rollout", "optimizer", "eval"};
    const struct config_node *stages = config_node_get(t->root, "stages");
    for (struct config_node *s = stages ? stages->first : NULL; s; s = s->next) {
        struct config_node given = {.type = JSON_OBJECT};
        struct config_node **tail = &given.first;
        for (int i = 0; i < 4; i++) {
            const struct config_node *section = config_node_get(t->root, sections[i]);
            if (!section)
                continue;
            struct config_node *copy = arena_push(&t->arena, sizeof *copy);
            *copy = *section;
            copy->next = NULL;
            *tail = copy;
            tail = &copy->next;
        }
        config_node_inherit(t, s, &given);
    }
}

int config_parse(struct config **out, const char *text, size_t len, const char *name,
                 const struct option_list *sets)
{
    struct config *c = mem_alloc0(sizeof *c);
    struct config_memory *memory = mem_alloc0(sizeof *memory);
    struct config_tree *t = &memory->tree;
    int rc = config_tree_open(t, name, text, len, sets);
    if (rc == 0) {
        inherit_sections(t);
        config_table_read(t, t->root, config_table_root(), c);
    }
    c->memory = memory;
    if (rc == 0 && t->num_faults == 0)
        resolve(t, c);
    if (rc == 0 && t->num_faults > 0)
        rc = err_set(ERR_CONFIG, "%s", t->faults.data);
    if (rc == 0)
        *out = c;
    else
        config_free(&c);
    return rc;
}

int config_load(struct config **out, const char *path, const struct option_list *sets)
{
    struct config *c = NULL;
    const int rc = config_parse(&c, NULL, 0, path, sets);
    if (rc != 0)
        return rc;
    const bool model = c->model.dir || c->model.value;
    if (!model || c->stages.count == 0) {
        config_free(&c);
        return err_set(ERR_CONFIG, "%s: a run needs \"%s\"", path, model ? "stages" : "model");
    }
    *out = c;
    return 0;
}

void config_free(struct config **c)
{
    if (!*c)
        return;
    config_tree_free(&(*c)->memory->tree);
    free((*c)->memory);
    free(*c);
    *c = NULL;
}

// ---- printing

void config_dump(struct strbuf *out, const struct config *c)
{
    struct strbuf text = {0};
    config_table_write(&(struct json_writer){.out = &text}, config_table_root(), c);
    config_json_indent(out, text.data, text.len);
    strbuf_free(&text);
}

int config_explain(struct strbuf *out, const char *key)
{
    if (key)
        return config_table_explain(out, key);
    config_table_explain_all(out);
    return 0;
}

void config_schema(struct strbuf *out)
{
    struct strbuf text = {0};
    config_table_schema(&(struct json_writer){.out = &text});
    config_json_indent(out, text.data, text.len);
    strbuf_free(&text);
}
