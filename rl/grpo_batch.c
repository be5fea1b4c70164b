// SPDX-License-Identifier: Apache-2.0
#include "rl/grpo_batch.h"

#include "base/mem.h"
#include "rl/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void fill_steps(struct grpo_batch *b, const struct generated *samples, int n,
                       struct arena *a)
{
    int total = 0;
    for (int i = 0; i < n; i++)
        total += samples[i].score.total.num_steps;
    int *begin = arena_push(a, (size_t)(n + 1) * sizeof *begin);
    int *token = ARENA_ARRAY(a, int, total + 1);
    double *reward = ARENA_ARRAY(a, double, total + 1);
    bool *valid = ARENA_ARRAY(a, bool, total + 1);
    int k = 0;
    for (int i = 0; i < n; i++) {
        const struct reward_result *r = &samples[i].score.total;
        begin[i] = k;
        for (int j = 0; j < r->num_steps; j++, k++) {
            token[k] = r->steps[j].token;
            reward[k] = r->steps[j].value;
            valid[k] = r->steps[j].valid;
        }
    }
    begin[n] = k;
    b->step_begin = begin;
    b->step_token = token;
    b->step_reward = reward;
    b->step_valid = valid;
}

static bool is_right(const struct generated *s, const struct scoring *scoring)
{
    const int verdict = scoring_verdict(scoring, s->task->source);
    if (verdict < 0)
        return false;
    const struct reward_result *r = &s->score.parts[verdict];
    return r->valid && r->value >= 1.0;
}

void grpo_data_build(struct grpo_data *out, const struct generated *samples, int groups, int size,
                     const struct scoring *scoring, struct arena *a)
{
    const int n = groups * size;
    int *group_begin = arena_push(a, (size_t)(groups + 1) * sizeof *group_begin);
    for (int g = 0; g <= groups; g++)
        group_begin[g] = g * size;
    size_t *token_begin = arena_push(a, (size_t)(n + 1) * sizeof *token_begin);
    double *reward = ARENA_ARRAY(a, double, n + 1);
    bool *valid = ARENA_ARRAY(a, bool, n + 1), *right = ARENA_ARRAY(a, bool, n + 1);
    token_begin[0] = 0;
    for (int i = 0; i < n; i++) {
        token_begin[i + 1] = token_begin[i] + (size_t)samples[i].len;
        reward[i] = samples[i].score.total.value;
        valid[i] = samples[i].score.total.valid;
        right[i] = is_right(&samples[i], scoring);
    }
    const size_t tokens = token_begin[n];
    uint8_t *mask = arena_push(a, tokens + 1);
    memset(mask, 1, tokens);
    *out = (struct grpo_data){
        .samples = samples,
        .batch = {.num_groups = groups,
                  .group_begin = group_begin,
                  .token_begin = token_begin,
                  .mask = mask,
                  .reward = reward,
                  .right = right,
                  .valid = valid},
        .token_begin = token_begin,
        .valid = valid,
        .advantage = ARENA_ARRAY(a, double, tokens + 1),
        .old = ARENA_ARRAY(a, double, tokens + 1),
        .logp = ARENA_ARRAY(a, double, tokens + 1),
        .ref = ARENA_ARRAY(a, double, tokens + 1),
        .dlogp = ARENA_ARRAY(a, double, tokens + 1),
    };
    fill_steps(&out->batch, samples, n, a);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < samples[i].len; j++)
            out->old[token_begin[i] + (size_t)j] = (double)samples[i].logprob[j];
    memcpy(out->logp, out->old, tokens * sizeof *out->old);
}

// ---- metrics

// rewards/NAME/mean and rewards/NAME/unscorable, NAME over all sources that have the component.
static void put_components(struct metrics_line *line, const struct generated *samples, int n,
                           const struct scoring *scoring)
{
    struct {
        const char *name;
        double sum;
        int scored, unscorable;
    } parts[32];
    int count = 0;
    for (int i = 0; i < n; i++) {
        const struct reward *r = scoring->reward[samples[i].task->source];
        for (int c = 0; c < reward_num_components(r); c++) {
            const char *name = reward_component_name(r, c);
            int k = 0;
            while (k < count && strcmp(parts[k].name, name) != 0)
                k++;
            if (k == 32)
                continue;
            if (k == count) {
                memset(&parts[count++], 0, sizeof parts[0]);
                parts[k].name = name;
            }
            const struct reward_result *result = &samples[i].score.parts[c];
            if (result->valid) {
                parts[k].sum += result->value;
                parts[k].scored++;
            } else {
                parts[k].unscorable++;
            }
        }
    }
    for (int k = 0; k < count; k++) {
        metrics_put(line, parts[k].scored ? parts[k].sum / parts[k].scored : (double)NAN,
                    "rewards/%s/mean", parts[k].name);
        if (parts[k].unscorable > 0)
            metrics_put(line, parts[k].unscorable, "rewards/%s/unscorable", parts[k].name);
    }
}

// sandbox/programs: completions that were run as programs and judged; sandbox/weak: of these, the
// ones that could have tampered with their tests. Both only where a reward runs programs.
static void put_programs(struct metrics_line *line, const struct generated *samples, int n,
                         const struct scoring *scoring)
{
    int programs = 0, weak = 0;
    bool any = false;
    for (int i = 0; i < n; i++) {
        const int code = scoring_component(scoring, samples[i].task->source, "code");
        any = any || code >= 0;
        programs += code >= 0 && samples[i].score.parts[code].valid;
        weak += code >= 0 && samples[i].score.parts[code].weak;
    }
    if (any) {
        metrics_put(line, programs, "sandbox/programs");
        metrics_put(line, weak, "sandbox/weak");
    }
}

static void put_completions(struct metrics_line *line, const struct generated *samples, int n,
                            int limit)
{
    double length = 0.0, entropy = 0.0;
    int longest = 0, shortest = n > 0 ? samples[0].len : 0, clipped = 0;
    for (int i = 0; i < n; i++) {
        const struct generated *s = &samples[i];
        length += s->len;
        longest = s->len > longest ? s->len : longest;
        shortest = s->len < shortest ? s->len : shortest;
        clipped += !s->finished && s->len >= limit;
        for (int j = 0; j < s->len; j++)
            entropy += (double)s->entropy[j];
    }
    metrics_put(line, length / n, "completions/mean_length");
    metrics_put(line, shortest, "completions/min_length");
    metrics_put(line, longest, "completions/max_length");
    metrics_put(line, (double)clipped / n, "completions/clipped_ratio");
    metrics_put(line, length > 0.0 ? entropy / length : 0.0, "entropy");
}

// The process reward model's and the step checker's results of a sample, when it has both.
static int audited_steps(const struct generated *sample, const struct scoring *scoring,
                         const struct reward_result **model, const struct reward_result **exact)
{
    const int m = scoring_component(scoring, sample->task->source, "prm");
    const int e = scoring_component(scoring, sample->task->source, "steps");
    if (m < 0 || e < 0 || !sample->score.parts[m].valid || !sample->score.parts[e].valid)
        return 0;
    *model = &sample->score.parts[m];
    *exact = &sample->score.parts[e];
    return (*model)->num_steps < (*exact)->num_steps ? (*model)->num_steps : (*exact)->num_steps;
}

// The audit: the model's step values against the exact labels.
static void put_audit(struct metrics_line *line, const struct generated *samples, int n,
                      const struct scoring *scoring)
{
    const struct reward_result *model, *exact;
    int steps = 0, agree = 0, positive = 0;
    for (int i = 0; i < n; i++)
        steps += audited_steps(&samples[i], scoring, &model, &exact);
    if (steps == 0)
        return;
    struct stats_scored *x = mem_alloc((size_t)steps * sizeof *x);
    for (int i = 0, k = 0; i < n; i++) {
        const int here = audited_steps(&samples[i], scoring, &model, &exact);
        for (int j = 0; j < here; j++, k++) {
            x[k].score = model->steps[j].value;
            x[k].positive = (exact->steps[j].flags & REWARD_STEP_REACHABLE) != 0;
            positive += x[k].positive;
            agree += x[k].positive == (x[k].score > 0.5);
        }
    }
    metrics_put(line, (double)agree / steps, "process/prm_accuracy");
    metrics_put(line, stats_auc(x, steps), "process/prm_auc");
    metrics_put(line, (double)positive / steps, "process/exact_mean");
    free(x);
}

void grpo_metrics(struct metrics_line *line, const struct grpo_data *d,
                  const struct grpo_reward_stats *stats, const struct scoring *scoring,
                  int max_completion_length)
{
    const int n = d->batch.group_begin[d->batch.num_groups];
    metrics_put(line, stats->reward, "reward");
    metrics_put(line, stats->reward_std, "reward_std");
    metrics_put(line, stats->frac_reward_zero_std, "frac_reward_zero_std");
    metrics_put(line, stats->num_unscorable, "num_unscorable");
    put_components(line, d->samples, n, scoring);
    put_programs(line, d->samples, n, scoring);
    if (d->batch.step_begin[n] > 0) {
        metrics_put(line, stats->step_reward, "process/reward");
        metrics_put(line, stats->step_reward_std, "process/reward_std");
        metrics_put(line, d->batch.step_begin[n], "process/steps");
    }
    put_audit(line, d->samples, n, scoring);
    put_completions(line, d->samples, n, max_completion_length);
}
