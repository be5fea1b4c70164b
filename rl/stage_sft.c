// SPDX-License-Identifier: Apache-2.0
// Supervised fine-tuning: cross-entropy of the completions of tasks, the mean over all their tokens
// in a batch.
#include "rl/trainer.h"

#include "base/error.h"
#include "base/log.h"
#include "policy/pack.h"
#include "policy/parallel.h"

#include <stdlib.h>

struct sft {
    struct source_mix mix;
    struct pack pack;
    float *logprob, *dlogprob; // of a micro-batch
    int cap;
};

static int sft_open(void **state, struct trainer *t)
{
    struct sft *s = mem_alloc0(sizeof *s);
    *state = s;
    const uint64_t done = (uint64_t)t->at.step * (uint64_t)t->stage->batch;
    int rc = source_mix_open(&s->mix, t->sources, &t->stage->sources, done);
    if (rc == 0)
        rc = trainer_open_optimizer(t, t->policy);
    return rc;
}

static void sft_close(void *state)
{
    struct sft *s = state;
    pack_free(&s->pack);
    free(s->logprob);
    free(s->dlogprob);
    free(s);
}

static bool learned(const struct task *task, int i)
{
    return task->loss_mask == NULL || task->loss_mask[i];
}

// Adds a task to the pack. Targets are the learned tokens of the completion.
static void pack_task(struct pack *p, const struct task *task)
{
    const int row = pack_sequence(p, task->prompt_tokens, task->prompt_len, task->completion_tokens,
                                  task->completion_len);
    for (int i = 0; i < task->completion_len; i++)
        if (learned(task, i))
            pack_target(p, row + task->prompt_len - 1 + i, task->completion_tokens[i], 1.0f);
}

// Forward and backward of the pack; adds to the sum of log-probabilities.
static int train_pack(struct sft *s, struct policy *p, int64_t total, double *sum)
{
    const struct policy_batch b = pack_batch(&s->pack);
    if (b.num_targets > s->cap) {
        s->cap = b.num_targets;
        s->logprob = mem_realloc(s->logprob, (size_t)s->cap * sizeof *s->logprob);
        s->dlogprob = mem_realloc(s->dlogprob, (size_t)s->cap * sizeof *s->dlogprob);
    }
    int rc = policy_forward(p, &b, /* train= */ true, s->logprob, NULL);
    if (rc != 0)
        return rc;
    for (int i = 0; i < b.num_targets; i++) {
        *sum += (double)s->logprob[i];
        s->dlogprob[i] = (float)(-1.0 / (double)total);
    }
    rc = policy_backward(p, &b, s->dlogprob, NULL);
    pack_clear(&s->pack);
    return rc;
}

static int take_tasks(struct task *tasks, int64_t *total, struct sft *s, struct trainer *t)
{
    *total = 0;
    for (int i = 0; i < t->stage->batch; i++) {
        const int rc = source_mix_take(&tasks[i], &s->mix, t->sources, &t->step_arena);
        if (rc != 0)
            return rc;
        if (tasks[i].completion_tokens == NULL)
            return err_set(ERR_DATA, "item '%s' has no completion to learn from", tasks[i].id);
        for (int j = 0; j < tasks[i].completion_len; j++)
            *total += learned(&tasks[i], j);
    }
    if (*total == 0)
        return err_set(ERR_DATA, "a batch has no token to learn from (item '%s')", tasks[0].id);
    return 0;
}

// Forward and backward of the tasks [first, end).
static int train_range(struct sft *s, struct trainer *t, const struct task *tasks, int first,
                       int end, int64_t total, double *sum)
{
    const int limit = t->config->run.micro_batch_tokens;
    int rc = 0;
    for (int i = first; i < end && rc == 0; i++) {
        if (!pack_has_room(&s->pack, tasks[i].prompt_len + tasks[i].completion_len, limit))
            rc = train_pack(s, t->policy, total, sum);
        pack_task(&s->pack, &tasks[i]);
    }
    return rc == 0 && s->pack.T > 0 ? train_pack(s, t->policy, total, sum) : rc;
}

// The gradient of the batch, of which this rank computes its shards; *sum is that of all
// log-probabilities.
static int train_batch(struct sft *s, struct trainer *t, const struct task *tasks, int64_t total,
                       double *sum)
{
    const int n = t->stage->batch, shards = parallel_shards(t->policy);
    int64_t *cost = ARENA_ARRAY(&t->step_arena, int64_t, n);
    int *begin = ARENA_ARRAY(&t->step_arena, int, shards + 1), first;
    const int own = parallel_own_shards(t->policy, &first);
    double *sums = ARENA_ARRAY(&t->step_arena, double, own);
    for (int i = 0; i < n; i++) {
        cost[i] = tasks[i].prompt_len + tasks[i].completion_len;
        t->at.num_tokens += cost[i];
    }
    trainer_cut(begin, cost, n, shards);
    int rc = trainer_begin_batch(t, n);
    for (int i = 0; i < own && rc == 0; i++) {
        const int shard = first + i;
        rc = train_range(s, t, tasks, begin[shard], begin[shard + 1], total, &sums[i]);
        if (rc == 0)
            rc = parallel_shard_done(t->policy, i);
    }
    void *all = NULL;
    if (rc == 0)
        rc = trainer_gather_shards(&all, t, sums, sizeof *sums);
    *sum = 0.0;
    for (int i = 0; i < shards && rc == 0; i++)
        *sum += ((const double *)all)[i];
    return rc;
}

static int sft_step(void *state, struct trainer *t, int step, struct metrics_line *line)
{
    struct sft *s = state;
    struct task *tasks = ARENA_ARRAY(&t->step_arena, struct task, t->stage->batch);
    int64_t total;
    int rc = take_tasks(tasks, &total, s, t);
    double sum;
    if (rc == 0)
        rc = train_batch(s, t, tasks, total, &sum);
    if (rc != 0)
        return rc;
    metrics_put(line, -sum / (double)total, "loss");
    rc = trainer_update(t, step, line);
    return rc != 0 ? rc : trainer_balance(t, line);
}

static const char *const sft_shown[] = {"loss", "grad_norm", "learning_rate", NULL};

const struct stage stage_sft = {sft_open, sft_step, sft_close, sft_shown};
