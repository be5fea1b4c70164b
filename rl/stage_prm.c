// SPDX-License-Identifier: Apache-2.0
// Training of the process reward model: samples of the policy, which does not change, with the step
// checker's exact labels (1: the goal is still reachable and nothing was wrong so far), or the
// labelled steps of a data set. Every batch is judged before the model learns from it, so the
// accuracies logged are of samples it has not seen.
#include "rl/trainer.h"

#include "base/error.h"
#include "base/log.h"
#include "policy/parallel.h"
#include "reward/prm.h"
#include "reward/split.h"
#include "rl/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct prm_stage {
    struct source_mix mix;
    struct rollout_engine *engine;
    struct scoring *scoring;
};

static int prm_open(void **state, struct trainer *t)
{
    struct prm_stage *s = mem_alloc0(sizeof *s);
    *state = s;
    int rc = 0;
    if (t->prm == NULL) // none yet: the backbone starts as the policy, the head at zero
        rc = policy_clone(&t->prm, t->policy, /* value_head= */ true, /* read_only= */ false);
    const int tasks = t->stage->samples_from == SAMPLES_FROM_POLICY ? t->stage->rollout.num_prompts
                                                                    : t->stage->batch;
    const uint64_t done = (uint64_t)t->at.step * (uint64_t)tasks;
    if (rc == 0)
        rc = source_mix_open(&s->mix, t->sources, &t->stage->sources, done);
    if (rc == 0)
        rc = scoring_open(&s->scoring, t->config, &t->stage->reward, t->sandbox, NULL);
    if (rc == 0)
        rc = trainer_open_engine(&s->engine, t, trainer_seed(t));
    if (rc == 0)
        rc = trainer_open_optimizer(t, t->prm);
    return rc;
}

static void prm_close(void *state)
{
    struct prm_stage *s = state;
    rollout_free(&s->engine);
    scoring_close(&s->scoring);
    free(s);
}

// The labels of a completion from those of its steps: at the last token of each, and, with
// every_token, at its other tokens too. at [n] rises; label < 0: masked.
static void put_labels(struct prm_example *out, const int *at, const float *label, int n,
                       bool every_token, struct arena *a)
{
    const int most = every_token ? out->len : n;
    int *token = ARENA_ARRAY(a, int, most + 1);
    float *labels = ARENA_ARRAY(a, float, most + 1);
    bool *end = ARENA_ARRAY(a, bool, most + 1);
    out->value = ARENA_ARRAY(a, float, most + 1);
    int k = 0;
    for (int j = 0, next = 0; j < n; next = at[j] + 1, j++) {
        for (int i = every_token ? next : at[j]; i <= at[j]; i++, k++) {
            token[k] = i;
            labels[k] = label[j];
            end[k] = i == at[j];
        }
    }
    out->num_labels = k;
    out->token = token;
    out->label = labels;
    out->step_end = end;
}

// A sample with the checker's labels. No steps: no labels.
static struct prm_example example_of(const struct generated *s, const struct scoring *scoring,
                                     bool every_token, struct arena *a)
{
    struct prm_example e = {
        .prompt = s->task->prompt_tokens,
        .prompt_len = s->task->prompt_len,
        .completion = s->tokens,
        .len = s->len,
    };
    const int checker = scoring_component(scoring, s->task->source, "steps");
    const struct reward_result *r = &s->score.parts[checker];
    if (!r->valid)
        return e;
    int *at = ARENA_ARRAY(a, int, r->num_steps + 1);
    float *label = ARENA_ARRAY(a, float, r->num_steps + 1);
    for (int j = 0; j < r->num_steps; j++) {
        at[j] = r->steps[j].token;
        label[j] = (r->steps[j].flags & REWARD_STEP_REACHABLE) != 0;
        if (!r->steps[j].valid)
            label[j] = -1.0f;
    }
    put_labels(&e, at, label, r->num_steps, every_token, a);
    return e;
}

static int check_labelled(const struct task *tasks, int n, const struct scoring *scoring)
{
    for (int i = 0; i < n; i++)
        if (scoring_component(scoring, tasks[i].source, "steps") < 0)
            return err_set(ERR_CONFIG,
                           "a prm stage labels the steps of source '%s', whose reward has no "
                           "\"steps\" component",
                           tasks[i].group);
    return 0;
}

// Labelled samples of the policy.
static int sampled_examples(struct prm_example **out, int *count, struct prm_stage *s,
                            struct trainer *t, int step, struct metrics_line *line)
{
    const struct config_rollout *r = &t->stage->rollout;
    struct task *tasks = ARENA_ARRAY(&t->step_arena, struct task, r->num_prompts);
    int rc = 0;
    for (int i = 0; i < r->num_prompts && rc == 0; i++)
        rc = source_mix_take(&tasks[i], &s->mix, t->sources, &t->step_arena);
    if (rc == 0)
        rc = check_labelled(tasks, r->num_prompts, s->scoring);
    if (rc != 0)
        return rc;
    struct generator g = trainer_generator(t, s->engine, s->scoring);
    const struct generate_request request = trainer_request(t, tasks, step);
    struct generated *samples;
    struct generate_times times = {0};
    rc = generate(&samples, &g, &t->step_arena, &request, &times);
    if (rc != 0)
        return rc;
    *count = r->num_prompts * r->num_generations;
    *out = ARENA_ARRAY(&t->step_arena, struct prm_example, *count);
    for (int i = 0; i < *count; i++)
        (*out)[i] = example_of(&samples[i], s->scoring, t->stage->every_token, &t->step_arena);
    trace_samples(t, samples, s->scoring, NULL, NULL);
    metrics_put(line, times.rollout, "time/rollout");
    metrics_put(line, times.score, "time/reward");
    return 0;
}

// A row's labelled steps, each followed by the separator.
static int example_of_row(struct prm_example *out, const struct task *task,
                          const struct tokenizer *tokenizer, bool every_token, struct arena *a)
{
    if (task->num_steps == 0 || task->labels == NULL)
        return err_set(ERR_DATA, "item '%s' of '%s' has no labelled steps", task->id, task->group);
    struct strbuf text = {0};
    struct token_list tokens = {0};
    size_t *end = ARENA_ARRAY(a, size_t, task->num_steps);
    for (int j = 0; j < task->num_steps; j++) {
        strbuf_printf(&text, "%s\n", task->steps[j]);
        end[j] = text.len;
    }
    const int rc = tokenizer_encode(&tokens, tokenizer, text.data, text.len, false);
    strbuf_free(&text);
    if (rc != 0)
        return rc;
    int *ids = ARENA_ARRAY(a, int, tokens.count), *at = ARENA_ARRAY(a, int, task->num_steps);
    float *label = ARENA_ARRAY(a, float, task->num_steps);
    size_t bytes = 0, len;
    for (int i = 0, j = 0; i < tokens.count; i++) {
        ids[i] = tokens.ids[i];
        tokenizer_token_bytes(tokenizer, ids[i], &len);
        for (bytes += len; j < task->num_steps && end[j] <= bytes; j++)
            at[j] = i;
    }
    for (int j = 0; j < task->num_steps; j++)
        label[j] = isnan(task->labels[j]) ? -1.0f : task->labels[j];
    *out = (struct prm_example){task->prompt_tokens, ids, task->prompt_len, tokens.count};
    put_labels(out, at, label, task->num_steps, every_token, a);
    token_list_free(&tokens);
    return 0;
}

static int row_examples(struct prm_example **out, int *count, struct prm_stage *s,
                        struct trainer *t)
{
    *count = t->stage->batch;
    *out = ARENA_ARRAY(&t->step_arena, struct prm_example, *count);
    int rc = 0;
    for (int i = 0; i < *count && rc == 0; i++) {
        struct task task;
        rc = source_mix_take(&task, &s->mix, t->sources, &t->step_arena);
        if (rc == 0)
            rc = example_of_row(&(*out)[i], &task, t->tokenizer, t->stage->every_token,
                                &t->step_arena);
    }
    return rc;
}

static double share(double part, double whole) { return whole > 0.0 ? part / whole : (double)NAN; }

// How well the values rank right steps above wrong ones, whatever their shares.
static double ranking(const struct prm_example *examples, int n, int64_t steps, struct arena *a)
{
    struct stats_scored *x = ARENA_ARRAY(a, struct stats_scored, steps + 1);
    int k = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < examples[i].num_labels; j++)
            if (examples[i].step_end[j] && examples[i].label[j] >= 0.0f)
                x[k++] = (struct stats_scored){(double)examples[i].value[j],
                                               examples[i].label[j] > 0.5f};
    return stats_auc(x, k);
}

static void put_loss(struct metrics_line *line, const struct prm_loss *loss)
{
    const double steps = (double)loss->num_steps, positive = (double)loss->num_positive;
    const double right_negative = (double)(loss->num_right - loss->right_positive);
    metrics_put(line, loss->loss, "loss");
    metrics_put(line, share((double)loss->num_right, steps), "process/prm_accuracy");
    metrics_put(line, share(fmax(positive, steps - positive), steps), "process/majority_accuracy");
    metrics_put(line, share(positive, steps), "process/positive_share");
    metrics_put(line, share((double)loss->right_positive, positive), "process/prm_recall_right");
    metrics_put(line, share(right_negative, steps - positive), "process/prm_recall_wrong");
    metrics_put(line, steps, "process/steps");
}

static void add_counts(struct prm_loss *sum, const struct prm_loss *x)
{
    sum->num_labels += x->num_labels;
    sum->num_steps += x->num_steps;
    sum->num_right += x->num_right;
    sum->num_positive += x->num_positive;
    sum->right_positive += x->right_positive;
}

// The mean over the labels of both.
static void add_loss(struct prm_loss *sum, const struct prm_loss *x)
{
    const double labels = (double)(sum->num_labels + x->num_labels);
    if (labels > 0.0)
        sum->loss += (x->loss - sum->loss) * (double)x->num_labels / labels;
    add_counts(sum, x);
}

// The values that the examples [begin[s], begin[s + 1]) of this rank's shards s were given, to all
// ranks.
static int share_values(struct trainer *t, const struct prm_example *examples, const int *begin)
{
    if (t->comm->size == 1)
        return 0;
    int first;
    const int own = parallel_own_shards(t->prm, &first), n = begin[parallel_shards(t->prm)];
    struct strbuf mine = {0};
    for (int i = begin[first]; i < begin[first + own]; i++)
        strbuf_append(&mine, examples[i].value,
                      (size_t)examples[i].num_labels * sizeof *examples[i].value);
    size_t *offset = ARENA_ARRAY(&t->step_arena, size_t, t->comm->size + 1);
    void *all;
    const int rc = comm_gather(t->comm, COMM_SAMPLES, mine.data, mine.len, &all, offset);
    strbuf_free(&mine);
    if (rc != 0)
        return rc;
    const char *at = all; // shards, and with them examples, are in the order of ranks
    for (int i = 0; i < n; i++) {
        const size_t bytes = (size_t)examples[i].num_labels * sizeof *examples[i].value;
        if (bytes > 0)
            memcpy(examples[i].value, at, bytes);
        at += bytes;
    }
    free(all);
    return 0;
}

// The gradient of a batch of n examples, of which this rank computes its shards; *out is of all.
static int train_batch(struct prm_loss *out, struct trainer *t, const struct prm_example *examples,
                       int n)
{
    const int shards = parallel_shards(t->prm);
    const int64_t labels = prm_num_labels(examples, n);
    int64_t *cost = ARENA_ARRAY(&t->step_arena, int64_t, n);
    int *begin = ARENA_ARRAY(&t->step_arena, int, shards + 1), first;
    const int own = parallel_own_shards(t->prm, &first);
    struct prm_loss *losses = ARENA_ARRAY(&t->step_arena, struct prm_loss, own);
    for (int i = 0; i < n; i++)
        cost[i] = examples[i].prompt_len + examples[i].len;
    trainer_cut(begin, cost, n, shards);
    int rc = trainer_begin_batch(t, n);
    for (int i = 0; i < own && rc == 0; i++) {
        const int from = begin[first + i], end = begin[first + i + 1];
        rc = prm_train_batch(&losses[i], t->prm, examples + from, end - from, labels,
                             t->config->run.micro_batch_tokens);
        if (rc == 0)
            rc = parallel_shard_done(t->prm, i);
    }
    void *all = NULL;
    if (rc == 0)
        rc = trainer_gather_shards(&all, t, losses, sizeof *losses);
    *out = (struct prm_loss){0};
    for (int i = 0; i < shards && rc == 0; i++) {
        const struct prm_loss *x = &((const struct prm_loss *)all)[i];
        out->loss += x->loss;
        add_counts(out, x);
    }
    return rc != 0 ? rc : share_values(t, examples, begin);
}

// Updates of `batch` examples each; what is logged is of the whole step.
static int learn(struct trainer *t, int step, const struct prm_example *examples, int n,
                 struct metrics_line *line)
{
    struct prm_loss sum = {0};
    for (int first = 0, count; first < n; first += count) {
        count = n - first < t->stage->batch ? n - first : t->stage->batch;
        struct prm_loss loss;
        int rc = train_batch(&loss, t, examples + first, count);
        if (rc != 0)
            return rc;
        add_loss(&sum, &loss);
        struct metrics_line unused = {0};
        rc = trainer_update(t, step, first + count == n ? line : &unused);
        metrics_free(&unused);
        if (rc != 0)
            return rc;
    }
    put_loss(line, &sum);
    metrics_put(line, ranking(examples, n, sum.num_steps, &t->step_arena), "process/prm_auc");
    return 0;
}

static int prm_step(void *state, struct trainer *t, int step, struct metrics_line *line)
{
    struct prm_stage *s = state;
    struct prm_example *examples;
    int n;
    int rc = t->stage->samples_from == SAMPLES_FROM_POLICY
                 ? sampled_examples(&examples, &n, s, t, step, line)
                 : row_examples(&examples, &n, s, t);
    if (rc != 0)
        return rc;
    for (int i = 0; i < n; i++)
        t->at.num_tokens += examples[i].prompt_len + examples[i].len;
    rc = learn(t, step, examples, n, line);
    return rc != 0 ? rc : trainer_balance(t, line);
}

static const char *const prm_shown[] = {"loss", "process/prm_accuracy", "process/majority_accuracy",
                                        "process/prm_auc", NULL};

const struct stage stage_prm = {prm_open, prm_step, prm_close, prm_shown};
