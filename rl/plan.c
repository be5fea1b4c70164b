// SPDX-License-Identifier: Apache-2.0
#include "rl/plan.h"

#include "base/error.h"
#include "policy/memory.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOKED_AT = 256 }; // tasks of a stage, and of each source of its evaluation

// ---- the tasks that stages begin with

static void add_task(struct plan_tasks *l, const struct task *task)
{
    const int sequence = task->prompt_len + task->completion_len;
    l->prompt = task->prompt_len > l->prompt ? task->prompt_len : l->prompt;
    l->sequence = sequence > l->sequence ? sequence : l->sequence;
}

static int look_at_training(struct plan_tasks *out, const struct trainer *t,
                            const struct config_stage *s, struct arena *a)
{
    struct source_mix mix;
    const int all = config_stage_generates(s) ? s->rollout.num_prompts : s->batch;
    const int n = all < LOOKED_AT ? all : LOOKED_AT;
    int rc = s->kind == STAGE_EVAL ? 0 : source_mix_open(&mix, t->sources, &s->sources, 0);
    for (int i = 0; i < n && rc == 0 && s->kind != STAGE_EVAL; i++) {
        struct task task;
        rc = source_mix_take(&task, &mix, t->sources, a);
        if (rc == 0)
            add_task(out, &task);
    }
    return rc;
}

static int look_at_evaluation(struct plan_tasks *out, const struct trainer *t,
                              const struct config_stage *s, struct arena *a)
{
    int rc = 0;
    for (int i = 0; i < t->config->data.count; i++) {
        const int all = source_evaluated(t->sources, &s->eval, i);
        const int n = all < LOOKED_AT ? all : LOOKED_AT;
        out->count += all;
        for (int j = 0; j < n && rc == 0; j++) {
            struct task task;
            rc = source_eval_task(&task, t->sources, a, i, j);
            if (rc == 0)
                add_task(out, &task);
        }
    }
    return rc;
}

static int look_at_tasks(struct plan_basis *b, const struct trainer *t)
{
    const int stages = t->config->stages.count;
    struct arena arena = {0};
    int rc = 0;
    b->train = mem_array0((size_t)stages, sizeof *b->train);
    b->eval = mem_array0((size_t)stages, sizeof *b->eval);
    for (int i = 0; i < stages && rc == 0; i++) {
        const struct config_stage *s = &t->config->stages.items[i];
        rc = look_at_training(&b->train[i], t, s, &arena);
        if (rc == 0)
            rc = look_at_evaluation(&b->eval[i], t, s, &arena);
        sources_recycle(t->sources);
        arena_release(&arena, (struct arena_mark){0});
    }
    arena_free(&arena);
    return rc;
}

static int read_archs(struct plan_basis *b, const struct config *c)
{
    int rc = 0;
    b->policy = c->model.arch;
    if (c->model.dir != NULL)
        rc = policy_read_arch(&b->policy, c->model.dir);
    b->prm = b->policy;
    if (rc == 0 && c->prm != NULL)
        rc = policy_read_arch(&b->prm, c->prm);
    b->prm.value_head = true;
    return rc;
}

int plan_open(struct plan_basis *out, const struct trainer *t)
{
    *out = (struct plan_basis){.dev = t->dev, .comm = t->comm, .available = SIZE_MAX};
    const struct device_memory *memory = t->dev->memory;
    int rc = read_archs(out, t->config);
    if (rc == 0)
        rc = look_at_tasks(out, t);
    if (rc == 0 && memory->available != NULL)
        rc = memory->available(t->dev, &out->available);
    if (rc == 0 && memory->of_host) // the ranks of a machine share it
        out->available /= (size_t)t->comm->local_size;
    return rc;
}

void plan_close(struct plan_basis *b)
{
    free(b->train);
    free(b->eval);
    b->train = b->eval = NULL;
}

// ---- what a stage needs its models for

enum model { POLICY, PRM, REFERENCE, MODELS };
enum { PASSES = 3 };

struct needs {
    bool there[MODELS];
    struct policy_use use[MODELS];
    struct policy_pass pass[MODELS][PASSES];
    struct rollout_memory samples, evaluation; // zero where there are none
};

static void add_pass(struct needs *n, enum model m, struct policy_pass pass, int positions)
{
    struct policy_use *u = &n->use[m];
    n->pass[m][u->num_passes++] = pass;
    u->positions = positions > u->positions ? positions : u->positions;
}

// A pass over packed sequences, of at most `longest` tokens each (0: not known).
static struct policy_pass packed_pass(const struct config *c, int sequences, int longest)
{
    const int64_t all = longest > 0 ? (int64_t)sequences * longest : INT_MAX;
    int T = all < c->run.micro_batch_tokens ? (int)all : c->run.micro_batch_tokens;
    T = longest > T ? longest : T;
    const int count = sequences < T ? sequences : T;
    return (struct policy_pass){
        .T = T, .num_targets = T, .num_seqs = count, .num_blocks = T / ATTENTION_BLOCK + count};
}

// The same of samples that stand behind their prompts, with room for the copies that each makes of
// rows of its prompt's last block.
static struct policy_pass shared_pass(const struct config *c, int samples, int longest)
{
    struct policy_pass pass = packed_pass(c, samples, longest);
    pass.N = pass.T + pass.num_seqs * (ATTENTION_BLOCK - 1);
    pass.num_blocks = pass.num_seqs * (longest / ATTENTION_BLOCK + 2);
    pass.num_seqs *= 2; // and the prompts
    pass.prefixes = true;
    return pass;
}

// Room for what the model learns from, and for the same without a backward pass.
static void add_update(struct needs *n, enum model trained, struct policy_pass pass, int longest)
{
    const int positions = longest > 0 ? longest : pass.T;
    if (n->there[REFERENCE])
        add_pass(n, REFERENCE, pass, positions);
    pass.train = true;
    pass.values = trained == PRM;
    n->use[trained].train = true;
    add_pass(n, trained, pass, positions);
}

static int add_rollout(struct needs *n, struct rollout_memory *out, const struct plan_basis *b,
                       const struct config_stage *s, int tasks, int samples, int prompt)
{
    const struct rollout_options o = {.max_batch = s->rollout.max_batch};
    const struct rollout_request q = {
        .prompt_len = prompt,
        .n = samples,
        .sampling = {.max_tokens = s->rollout.max_completion_length},
    };
    const int own = (tasks + b->comm->size - 1) / b->comm->size;
    const int rc = rollout_plan(out, b->dev, &b->policy, n->use[POLICY].dtype, &o, &q, own);
    if (rc == 0)
        add_pass(n, POLICY, out->pass, out->positions);
    return rc;
}

static bool has_prm(const struct config *c, int stage)
{
    bool there = c->prm != NULL;
    for (int i = 0; i <= stage; i++)
        there = there || c->stages.items[i].kind == STAGE_PRM;
    return there;
}

static void add_scores(struct needs *n, const struct config *c, const struct config_stage *s,
                       int sequences, int longest)
{
    if (!n->there[PRM] || !scoring_needs(c, &s->reward, "prm"))
        return;
    struct policy_pass pass = packed_pass(c, sequences, longest);
    pass.values = true;
    add_pass(n, PRM, pass, longest);
}

static void begin_needs(struct needs *n, const struct config *c, int stage)
{
    const struct config_stage *s = &c->stages.items[stage];
    memset(n, 0, sizeof *n);
    n->there[POLICY] = true;
    n->there[PRM] = has_prm(c, stage);
    n->there[REFERENCE] = s->kind == STAGE_GRPO && s->beta > 0.0;
    for (int m = 0; m < MODELS; m++)
        n->use[m] = (struct policy_use){.dtype = c->run.dtype,
                                        .read_only = m == REFERENCE,
                                        .recompute = c->run.gradient_checkpointing,
                                        .passes = n->pass[m]};
}

static int add_samples(struct needs *n, const struct plan_basis *b, const struct config *c,
                       int stage)
{
    const struct config_stage *s = &c->stages.items[stage];
    const int prompt = b->train[stage].prompt, longest = prompt + s->rollout.max_completion_length;
    const int drawn = s->rollout.num_prompts, group = s->rollout.num_generations;
    const int rc = add_rollout(n, &n->samples, b, s, drawn, group, prompt);
    if (rc == 0 && s->kind == STAGE_GRPO)
        add_scores(n, c, s, drawn * group, longest);
    if (rc == 0 && s->kind == STAGE_GRPO)
        add_update(n, POLICY, shared_pass(c, s->batch, longest), longest);
    else if (rc == 0)
        add_update(n, PRM, packed_pass(c, s->batch, longest), longest);
    return rc;
}

static int add_evaluation(struct needs *n, const struct plan_basis *b, const struct config *c,
                          int stage)
{
    const struct config_stage *s = &c->stages.items[stage];
    const struct plan_tasks *tasks = &b->eval[stage];
    if (tasks->count == 0 || s->kind == STAGE_PRM)
        return 0;
    const int longest = tasks->prompt + s->rollout.max_completion_length;
    add_scores(n, c, s, tasks->count * s->eval.samples, longest);
    return add_rollout(n, &n->evaluation, b, s, tasks->count, s->eval.samples, tasks->prompt);
}

static int stage_needs(struct needs *n, const struct plan_basis *b, const struct config *c,
                       int stage)
{
    const struct config_stage *s = &c->stages.items[stage];
    const int longest = b->train[stage].sequence;
    int rc = 0;
    begin_needs(n, c, stage);
    if (config_stage_generates(s))
        rc = add_samples(n, b, c, stage);
    else if (s->kind == STAGE_SFT)
        add_update(n, POLICY, packed_pass(c, s->batch, longest), longest);
    else if (s->kind == STAGE_PRM) // labelled steps are not counted yet
        add_update(n, PRM, packed_pass(c, s->batch, 0), 0);
    return rc != 0 ? rc : add_evaluation(n, b, c, stage);
}

// ---- the table

static void add_row(struct plan *p, const char *name, size_t bytes)
{
    if (bytes == 0)
        return;
    assert(p->num_rows < PLAN_ROWS);
    p->rows[p->num_rows++] = (struct plan_row){name, bytes};
    p->total += bytes;
}

// The model that the stage trains, or the policy, by part; the others as a whole.
static void add_models(struct plan *p, const struct needs *n, const struct plan_basis *b,
                       const struct parallel_settings *several)
{
    static const char *const parts[POLICY_PARTS] = {
        "weights, float32", "weights, packed for products",
        "gradients",        "moments of AdamW",
        "activations",      "inputs and tables of rotations",
        "exchange of ranks"};
    static const char *const models[MODELS] = {"policy", "process reward model", "reference model"};
    const enum model shown = n->use[PRM].train ? PRM : POLICY;
    for (int i = 0; i < MODELS; i++) {
        const enum model m = i == 0 ? shown : i == (int)shown ? POLICY : (enum model)i;
        struct policy_use use = n->use[m];
        struct policy_memory memory;
        if (!n->there[m])
            continue;
        use.several = several;
        policy_memory(&memory, b->dev, m == PRM ? &b->prm : &b->policy, &use);
        for (int part = 0; part < POLICY_PARTS && m == shown; part++)
            add_row(p, parts[part], memory.bytes[part]);
        if (m != shown)
            add_row(p, models[m], policy_memory_total(&memory));
    }
}

static int plan_stage(struct plan *out, const struct plan_basis *b, const struct config *c,
                      int stage)
{
    const struct parallel_settings several = trainer_parallel(&c->run, b->comm);
    struct needs n;
    const int rc = stage_needs(&n, b, c, stage);
    if (rc != 0)
        return rc;
    *out = (struct plan){.stage = c->stages.items[stage].name};
    add_models(out, &n, b, &several);
    add_row(out, "cache of the samples", n.samples.cache);
    add_row(out, "logits and draws", n.samples.sampling);
    add_row(out, "cache of the evaluation", n.evaluation.cache);
    add_row(out, "its logits and draws", n.evaluation.sampling);
    return 0;
}

int plan_memory(struct plan *out, const struct plan_basis *b, const struct config *c)
{
    struct plan most = {0};
    for (int i = 0; i < c->stages.count; i++) {
        struct plan p;
        const int rc = plan_stage(&p, b, c, i);
        if (rc != 0)
            return rc;
        if (p.total > most.total)
            most = p;
    }
    *out = most;
    return 0;
}

int plan_reserve(struct trainer *t, const struct plan_basis *b)
{
    struct policy *const models[MODELS] = {t->policy, t->prm, t->reference};
    struct needs n;
    int rc = stage_needs(&n, b, t->config, (int)(t->stage - t->config->stages.items));
    for (int m = 0; m < MODELS && rc == 0; m++)
        if (models[m] != NULL && n.use[m].num_passes > 0)
            rc = policy_reserve(models[m], &n.use[m]);
    return rc;
}
