// SPDX-License-Identifier: Apache-2.0
// GRPO: a rollout of groups, their rewards, an advantage for every token, and one or more updates
// on them (arXiv:2402.03300, section 4.1). The log-probabilities recorded by the rollout are the
// old ones; the first update's forward pass must give their very bits, which every step checks on
// all tokens that it runs.
//
// Samples whose advantage is 0 on every token have no gradient without a KL term or a balance loss,
// and are not run (but the first of each update, so that the check always has tokens): the sum is
// the same without them.
#include "rl/grpo_batch.h"
#include "rl/reference_model.h"
#include "rl/trainer.h"

#include "base/error.h"
#include "base/log.h"
#include "policy/pack.h"
#include "policy/parallel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct grpo_stage {
    struct source_mix mix;
    struct rollout_engine *engine;
    struct scoring *scoring;
    struct pack pack;
    float *values; // [3, cap]: log-probabilities, the reference's, gradients of a micro-batch
    int cap;
};

static int grpo_open(void **state, struct trainer *t)
{
    struct grpo_stage *s = mem_alloc0(sizeof *s);
    *state = s;
    const struct config_rewards *rewards = &t->stage->reward;
    if (t->prm == NULL && scoring_needs(t->config, rewards, "prm"))
        return err_set(
            ERR_CONFIG,
            "stage '%s': its reward uses a process reward model, but \"prm\" names none and no "
            "stage before it trains one",
            t->stage->name);
    int rc = 0;
    if (t->stage->beta > 0.0 && t->reference == NULL) // not resumed
        rc = reference_begin(t);
    const uint64_t done = (uint64_t)t->at.step * (uint64_t)t->stage->rollout.num_prompts;
    if (rc == 0)
        rc = source_mix_open(&s->mix, t->sources, &t->stage->sources, done);
    if (rc == 0)
        rc = scoring_open(&s->scoring, t->config, rewards, t->sandbox, t->prm);
    if (rc == 0)
        rc = trainer_open_engine(&s->engine, t, trainer_seed(t));
    if (rc == 0)
        rc = trainer_open_optimizer(t, t->policy);
    return rc;
}

static void grpo_close(void *state)
{
    struct grpo_stage *s = state;
    rollout_free(&s->engine);
    scoring_close(&s->scoring);
    pack_free(&s->pack);
    free(s->values);
    free(s);
}

// ---- the update

struct shard_result {
    struct grpo_loss_sum sum;
    double diff_max; // largest |log-probability - recorded|
};

struct update {
    const struct config_stage *config;
    const struct grpo_data *data;
    struct grpo_loss_config loss_config;
    struct shard_result shard, all; // of the shard in progress; of the batch
    struct grpo_norm norm;
    bool check;    // the weights are still those of the rollout
    bool balanced; // there is a balance loss
};

static bool needs_forward(const struct update *u, int sample)
{
    const struct grpo_data *d = u->data;
    if (u->config->beta > 0.0 || u->balanced)
        return d->valid[sample];
    for (size_t k = d->token_begin[sample]; k < d->token_begin[sample + 1]; k++)
        if (d->advantage[k] != 0.0)
            return true;
    return false;
}

// Copies a micro-batch's values to the tokens of its samples [first, end), or back.
static void scatter(double *out, const float *values, const struct grpo_data *d, const bool *run,
                    int first, int end)
{
    for (int i = first; i < end; i++)
        for (size_t k = d->token_begin[i]; run[i] && k < d->token_begin[i + 1]; k++)
            out[k] = (double)*values++;
}
static void gather(float *values, const double *in, const struct grpo_data *d, const bool *run,
                   int first, int end)
{
    for (int i = first; i < end; i++)
        for (size_t k = d->token_begin[i]; run[i] && k < d->token_begin[i + 1]; k++)
            *values++ = (float)in[k];
}

static void compare_recorded(struct update *u, const bool *run, int first, int end)
{
    const struct grpo_data *d = u->data;
    for (int i = first; i < end; i++)
        for (size_t k = d->token_begin[i]; run[i] && k < d->token_begin[i + 1]; k++)
            u->shard.diff_max = fmax(u->shard.diff_max, fabs(d->logp[k] - d->old[k]));
}

// Forward, loss and backward of samples [first, end), the ones to run being in the pack.
static int train_range(struct grpo_stage *s, struct trainer *t, struct update *u, const bool *run,
                       int first, int end)
{
    const struct grpo_data *d = u->data;
    const struct policy_batch b = pack_batch(&s->pack);
    if (b.num_targets > s->cap) {
        s->cap = b.num_targets;
        s->values = mem_realloc(s->values, 3 * (size_t)s->cap * sizeof *s->values);
    }
    float *logp = s->values, *ref = logp + s->cap, *dlogp = ref + s->cap;
    int rc = 0;
    if (b.num_targets > 0 && t->reference != NULL) {
        rc = policy_forward(t->reference, &b, /* train= */ false, ref, NULL);
        if (rc == 0)
            scatter(d->ref, ref, d, run, first, end);
    }
    if (b.num_targets > 0 && rc == 0)
        rc = policy_forward(t->policy, &b, /* train= */ true, logp, NULL);
    if (rc != 0)
        return rc;
    scatter(d->logp, logp, d, run, first, end);
    if (u->check)
        compare_recorded(u, run, first, end);
    const struct grpo_tokens x = {d->logp, d->old, d->ref, d->advantage};
    grpo_loss(d->dlogp, &u->shard.sum, &d->batch, first, end, &x, &u->norm, &u->loss_config);
    gather(dlogp, d->dlogp, d, run, first, end);
    if (b.num_targets > 0)
        rc = policy_backward(t->policy, &b, dlogp, NULL);
    pack_clear(&s->pack);
    return rc;
}

// The gradient of samples [first, end), of those that are to be run, in micro-batches. A prompt
// stands before the samples of its group once, and once more where they go on in another
// micro-batch.
static int train_shard(struct grpo_stage *s, struct trainer *t, struct update *u, const bool *run,
                       int first, int end)
{
    const float tau = (float)t->stage->rollout.temperature;
    const int limit = t->config->run.micro_batch_tokens;
    const struct task *packed = NULL; // the prompt that the last samples of the pack continue
    int begin = first, rc = 0;
    for (int i = first; i < end && rc == 0; i++) {
        const struct generated *g = &u->data->samples[i];
        if (!run[i])
            continue;
        const int len = g->len + (g->task != packed ? g->task->prompt_len : 0);
        if (!pack_has_room(&s->pack, len, limit)) {
            rc = train_range(s, t, u, run, begin, i);
            begin = i;
            packed = NULL;
        }
        if (g->task != packed)
            pack_sequence(&s->pack, g->task->prompt_tokens, g->task->prompt_len, NULL, 0);
        packed = g->task;
        pack_shared(&s->pack, g->tokens, g->len, tau);
    }
    return rc ? rc : train_range(s, t, u, run, begin, end);
}

// Cuts the samples [first, end) into shards, begin [shards + 1] counting from 0, by the tokens that
// are run: a prompt counts once, with the first of its samples. Where a shard begins inside a group
// depends on the number of shards alone, not on that of ranks. Returns how many samples are run.
static int cut_batch(int *begin, bool *run, struct trainer *t, const struct update *u, int first,
                     int end, int shards)
{
    int64_t *cost = ARENA_ARRAY(&t->step_arena, int64_t, end - first);
    const struct task *before = NULL; // of the last sample that is run
    int count = 0;
    for (int i = first; i < end; i++) {
        const struct generated *g = &u->data->samples[i];
        run[i] = g->len > 0 && (i == first || needs_forward(u, i));
        cost[i - first] = 0;
        if (!run[i])
            continue;
        cost[i - first] = g->len + (g->task != before ? g->task->prompt_len : 0);
        before = g->task;
        t->at.num_tokens += g->task->prompt_len + g->len;
        count++;
    }
    trainer_cut(begin, cost, end - first, shards);
    return count;
}

// The gradient of samples [first, end), one optimiser batch, of which this rank computes its
// shards; u->all is of the whole batch.
static int train_batch(struct grpo_stage *s, struct trainer *t, struct update *u, int first,
                       int end)
{
    const struct grpo_batch *b = &u->data->batch;
    const int shards = parallel_shards(t->policy);
    bool *run = ARENA_ARRAY(&t->step_arena, bool, b->group_begin[b->num_groups]);
    int *begin = ARENA_ARRAY(&t->step_arena, int, shards + 1), first_shard;
    const int own = parallel_own_shards(t->policy, &first_shard);
    struct shard_result *results = ARENA_ARRAY(&t->step_arena, struct shard_result, own);
    u->norm = grpo_norm(b, first, end);
    const int count = cut_batch(begin, run, t, u, first, end, shards);
    int rc = trainer_begin_batch(t, count);
    for (int i = 0; i < own && rc == 0; i++) {
        const int *at = begin + first_shard + i;
        u->shard = (struct shard_result){0};
        rc = train_shard(s, t, u, run, first + at[0], first + at[1]);
        if (rc == 0)
            rc = parallel_shard_done(t->policy, i);
        results[i] = u->shard;
    }
    void *all = NULL;
    if (rc == 0)
        rc = trainer_gather_shards(&all, t, results, sizeof *results);
    u->all = (struct shard_result){0};
    for (int i = 0; i < shards && rc == 0; i++) {
        const struct shard_result *x = &((const struct shard_result *)all)[i];
        grpo_loss_add(&u->all.sum, &x->sum);
        u->all.diff_max = fmax(u->all.diff_max, x->diff_max);
    }
    return rc;
}

struct update_means { // over the updates of a step
    struct grpo_loss_stats stats;
    int updates;
};

static void add_stats(struct update_means *m, const struct grpo_loss_stats *s)
{
    m->updates++;
    m->stats.loss += s->loss;
    m->stats.kl += s->kl;
    m->stats.clip_low_mean += s->clip_low_mean;
    m->stats.clip_high_mean += s->clip_high_mean;
    m->stats.clip_region_mean += s->clip_region_mean;
}

static void put_stats(const struct update_means *m, const struct config_stage *c,
                      struct metrics_line *line)
{
    const double n = m->updates;
    metrics_put(line, m->stats.loss / n, "loss");
    if (c->beta > 0.0)
        metrics_put(line, m->stats.kl / n, "kl");
    metrics_put(line, m->stats.clip_low_mean / n, "clip_ratio/low_mean");
    metrics_put(line, m->stats.clip_high_mean / n, "clip_ratio/high_mean");
    metrics_put(line, m->stats.clip_region_mean / n, "clip_ratio/region_mean");
}

// End of the optimiser batch that starts at sample `first`: whole groups, at least `batch` samples.
static int batch_end(const struct grpo_batch *b, int first, int batch)
{
    for (int g = 0; g <= b->num_groups; g++)
        if (b->group_begin[g] >= first + batch)
            return b->group_begin[g];
    return b->group_begin[b->num_groups];
}

static int update_policy(struct grpo_stage *s, struct trainer *t, int step,
                         const struct grpo_data *d, struct metrics_line *line)
{
    const struct config_stage *c = t->stage;
    struct update u = {.config = c, .data = d, .check = true};
    u.balanced = c->aux_loss_alpha > 0.0 && t->policy->arch.E > 0;
    u.loss_config = (struct grpo_loss_config){
        .type = c->loss_type,
        .level = c->importance_sampling_level,
        .eps_low = c->epsilon,
        .eps_high = c->epsilon_high,
        .delta = c->delta,
        .beta = c->beta,
        .kl = c->kl_estimator,
        .max_completion_length = c->rollout.max_completion_length,
    };
    struct update_means means = {0};
    const int n = d->batch.group_begin[d->batch.num_groups];
    int rc = 0;
    for (int pass = 0; pass < c->num_iterations && rc == 0; pass++) {
        for (int first = 0; first < n && rc == 0;) {
            const int end = batch_end(&d->batch, first, c->batch);
            rc = train_batch(s, t, &u, first, end);
            if (rc != 0)
                break;
            const struct grpo_loss_stats stats = grpo_loss_stats(&u.all.sum, &u.loss_config);
            add_stats(&means, &stats);
            if (u.check)
                metrics_put(line, u.all.diff_max, "sampling/logp_diff_max");
            if (u.all.diff_max != 0.0)
                return comm_common(
                    t->comm,
                    err_set(ERR_CHECK,
                            "stage '%s', step %d: log-probabilities of the rollout and of the "
                            "update differ by %g; they must have the same bits",
                            c->name, step, u.all.diff_max));
            const bool last = pass == c->num_iterations - 1 && end == n;
            struct metrics_line unused = {0};
            rc = trainer_update(t, step, last ? line : &unused);
            metrics_free(&unused);
            u.check = false;
            first = end;
        }
    }
    if (rc == 0)
        put_stats(&means, c, line);
    return rc;
}

// ---- a step

static int grpo_step(void *state, struct trainer *t, int step, struct metrics_line *line)
{
    struct grpo_stage *s = state;
    const struct config_rollout *r = &t->stage->rollout;
    struct task *tasks = ARENA_ARRAY(&t->step_arena, struct task, r->num_prompts);
    int rc = 0;
    for (int i = 0; i < r->num_prompts && rc == 0; i++)
        rc = source_mix_take(&tasks[i], &s->mix, t->sources, &t->step_arena);
    if (rc != 0)
        return rc;
    struct generator g = trainer_generator(t, s->engine, s->scoring);
    const struct generate_request request = trainer_request(t, tasks, step);
    struct generated *samples;
    struct generate_times times = {0};
    rc = generate(&samples, &g, &t->step_arena, &request, &times);
    if (rc != 0)
        return rc;
    const double start = log_clock();
    struct grpo_data data;
    grpo_data_build(&data, samples, r->num_prompts, r->num_generations, s->scoring, &t->step_arena);
    struct grpo_advantage_config advantage = t->stage->advantage;
    advantage.scale = t->stage->scale_rewards;
    struct grpo_reward_stats stats;
    grpo_advantages(data.advantage, &stats, &data.batch, &advantage);
    grpo_metrics(line, &data, &stats, s->scoring, r->max_completion_length);
    trace_samples(t, samples, s->scoring, data.advantage, data.token_begin);
    rc = update_policy(s, t, step, &data, line);
    if (rc == 0)
        rc = trainer_balance(t, line);
    if (rc != 0)
        return rc;
    metrics_put(line, times.rollout, "time/rollout");
    metrics_put(line, times.score, "time/reward");
    metrics_put(line, log_clock() - start, "time/update");
    return 0;
}

static const char *const grpo_shown[] = {"reward",  "process/reward", "completions/mean_length",
                                         "entropy", "grad_norm",      NULL};

const struct stage stage_grpo = {grpo_open, grpo_step, grpo_close, grpo_shown};
