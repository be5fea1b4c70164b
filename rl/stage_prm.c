// SPDX-License-Identifier: Apache-2.0
// Training of the process reward model: samples of the policy, which does not change, with the step
// checker's exact labels (1: the goal is still reachable and nothing was wrong so far), or the
// labelled steps of a data set. Every batch is judged before the model learns from it, so the
// accuracies logged are of samples it has not seen.
#include "rl/trainer.h"

#include "base/error.h"
#include "base/log.h"
#include "reward/prm.h"
#include "reward/split.h"

#include <math.h>
#include <stdlib.h>

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
    if (t->prm == NULL) // not resumed: the backbone starts as the policy, the head at zero
        rc = policy_clone(&t->prm, t->policy, /* value_head= */ true);
    const uint64_t done = (uint64_t)t->at.step * (uint64_t)t->stage->rollout.num_prompts;
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

// A sample with the checker's labels as an example. No steps: an example without any.
static struct prm_example example_of(const struct generated *s, const struct scoring *scoring,
                                     struct arena *a)
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
    int *token = arena_push(a, (size_t)(r->num_steps + 1) * sizeof *token);
    float *label = arena_push(a, (size_t)(r->num_steps + 1) * sizeof *label);
    for (int j = 0; j < r->num_steps; j++) {
        token[j] = r->steps[j].token;
        label[j] = !r->steps[j].valid                          ? -1.0f
                   : r->steps[j].flags & REWARD_STEP_REACHABLE ? 1.0f
                                                               : 0.0f;
    }
    e.num_steps = r->num_steps;
    e.step_token = token;
    e.label = label;
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

static int prm_step(void *state, struct trainer *t, int step, struct metrics_line *line)
{
    struct prm_stage *s = state;
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
    const struct generate_request request = {
        .tasks = tasks,
        .num_tasks = r->num_prompts,
        .samples = r->num_generations,
        .temperature = r->temperature,
        .top_p = r->top_p,
        .min_p = r->min_p,
        .top_k = r->top_k,
        .max_tokens = r->max_completion_length,
        .step = (uint64_t)step,
    };
    struct generated *samples;
    struct generate_times times = {0};
    rc = generate(&samples, &g, &t->step_arena, &request, &times);
    if (rc != 0)
        return rc;
    const int n = r->num_prompts * r->num_generations;
    struct prm_example *examples = ARENA_ARRAY(&t->step_arena, struct prm_example, n);
    for (int i = 0; i < n; i++) {
        examples[i] = example_of(&samples[i], s->scoring, &t->step_arena);
        t->at.num_tokens += examples[i].prompt_len + examples[i].len;
        trace_sample(&t->trace, &samples[i], s->scoring, NULL);
    }
    struct prm_loss loss;
    policy_grad_zero(t->prm);
    rc = prm_train_batch(&loss, t->prm, examples, n, t->config->run.micro_batch_tokens);
    if (rc != 0)
        return rc;
    const double steps = fmax(1.0, (double)loss.num_steps);
    const double positive = (double)loss.num_positive;
    const double right_negative = (double)(loss.num_right - loss.right_positive);
    metrics_put(line, loss.loss, "loss");
    metrics_put(line, (double)loss.num_right / steps, "process/prm_accuracy");
    metrics_put(line, fmax(positive, steps - positive) / steps, "process/majority_accuracy");
    metrics_put(line, positive / steps, "process/positive_share");
    metrics_put(line, positive > 0 ? (double)loss.right_positive / positive : NAN,
                "process/prm_recall_right");
    metrics_put(line, positive < steps ? right_negative / (steps - positive) : NAN,
                "process/prm_recall_wrong");
    metrics_put(line, (double)loss.num_steps, "process/steps");
    metrics_put(line, times.rollout, "time/rollout");
    metrics_put(line, times.score, "time/reward");
    rc = trainer_update(t, step, line);
    trainer_balance(t, line);
    return rc;
}

static const char *const prm_shown[] = {"loss", "process/prm_accuracy", "process/majority_accuracy",
                                        NULL};

const struct stage stage_prm = {prm_open, prm_step, prm_close, prm_shown};
