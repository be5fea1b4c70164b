// SPDX-License-Identifier: Apache-2.0
#include "rl/evaluate.h"

#include "base/mem.h"
#include "reward/answer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// Samples of evaluation draw from a step of their own, which no training step reaches.
#define EVALUATE_STEP UINT64_C(0xffffffff)

static bool is_right(const struct reward_result *r) { return r->value >= 1.0 - 1e-9; }

struct task_outcome {
    int right, scored, programs, weak;
    double best; // whether the sample that the process reward model prefers is right; NaN: no model
    double majority; // whether the commonest answer is right; NaN: the samples have no answers
};

// Whether the most frequent of the samples' final answers is right; of equally frequent ones the
// first.
static double majority_right(const struct generated *samples, int n, int verdict)
{
    int most = 0;
    double right = 0.0; // when no sample states an answer
    for (int i = 0; i < n; i++) {
        struct answer_span a, b;
        if (!answer_find(&a, samples[i].text, samples[i].text_len))
            continue;
        int votes = 0;
        for (int j = 0; j < n; j++)
            votes += answer_find(&b, samples[j].text, samples[j].text_len) && answer_equal(a, b);
        if (votes > most) {
            most = votes;
            right = is_right(&samples[i].score.parts[verdict]);
        }
    }
    return right;
}

static struct task_outcome judge_task(const struct generated *samples, int n,
                                      const struct scoring *scoring)
{
    struct task_outcome out = {.best = (double)NAN, .majority = (double)NAN};
    const int verdict = scoring_verdict(scoring, samples[0].task->source);
    const int prm = scoring_component(scoring, samples[0].task->source, "prm");
    const int code = scoring_component(scoring, samples[0].task->source, "code");
    if (verdict < 0)
        return out;
    double highest = -1.0;
    for (int i = 0; i < n; i++) {
        const struct reward_result *part = samples[i].score.parts;
        out.programs += code >= 0 && part[code].valid;
        out.weak += code >= 0 && part[code].weak;
        if (!part[verdict].valid)
            continue;
        out.scored++;
        out.right += is_right(&part[verdict]);
        if (prm >= 0 && part[prm].valid && part[prm].value > highest) {
            highest = part[prm].value;
            out.best = is_right(&part[verdict]);
        }
    }
    if (out.scored > 0 && verdict == scoring_component(scoring, samples[0].task->source, "answer"))
        out.majority = majority_right(samples, n, verdict);
    return out;
}

static int group_index(struct evaluation *e, struct arena *a, const char *name, int max)
{
    for (int i = 0; i < e->num_groups; i++)
        if (strcmp(e->groups[i].name, name) == 0)
            return i;
    if (e->groups == NULL)
        e->groups = ARENA_ARRAY(a, struct evaluate_group, max);
    e->groups[e->num_groups].name = arena_strndup(a, name, strlen(name));
    return e->num_groups++;
}

// Fills one group from the outcomes of its tasks, group_of[i] == g.
static void summarise(struct evaluate_group *group, int g, const int *group_of,
                      const struct task_outcome *outcome, const struct generated *samples, int n,
                      const struct evaluate_options *o, double *scratch)
{
    double best = 0.0, majority = 0.0, length = 0.0, finished = 0.0;
    int scored = 0, judged = 0, voted = 0, drawn = 0;
    group->num_k = o->num_k < 8 ? o->num_k : 8;
    for (int i = 0; i < n; i++) {
        if (group_of[i] != g)
            continue;
        for (int j = 0; j < o->samples; j++) {
            const struct generated *s = &samples[i * o->samples + j];
            length += s->len;
            finished += s->finished;
            drawn++;
        }
        const struct task_outcome *t = &outcome[i];
        group->unscorable += o->samples - t->scored;
        group->programs += t->programs;
        group->weak += t->weak;
        if (t->scored == 0)
            continue;
        scratch[scored++] = (double)t->right / t->scored;
        group->samples += t->scored;
        for (int k = 0; k < group->num_k; k++)
            group->pass_at_k[k] +=
                stats_pass_at_k(t->scored, t->right, o->k[k] < t->scored ? o->k[k] : t->scored);
        if (!isnan(t->best)) {
            best += t->best;
            judged++;
        }
        if (!isnan(t->majority)) {
            majority += t->majority;
            voted++;
        }
    }
    group->tasks = scored;
    group->pass_at_1 = stats_mean(scratch, scored, 0.0, 1.0);
    for (int k = 0; k < group->num_k; k++) {
        group->k[k] = o->k[k];
        group->pass_at_k[k] = scored > 0 ? group->pass_at_k[k] / scored : 0.0;
    }
    group->best_of_n = judged > 0 ? best / judged : (double)NAN;
    group->majority = voted > 0 ? majority / voted : (double)NAN;
    group->mean_length = drawn > 0 ? length / drawn : 0.0;
    group->finished = drawn > 0 ? finished / drawn : 0.0;
}

int evaluate(struct evaluation *out, struct generator *g, struct arena *a, const struct task *tasks,
             int n, const struct evaluate_options *o)
{
    struct evaluation e = {.num_tasks = n, .samples = o->samples};
    struct generated *samples = NULL;
    struct generate_times times = {0};
    const struct generate_request request = {
        .tasks = tasks,
        .num_tasks = n,
        .samples = o->samples,
        .temperature = o->temperature,
        .top_p = o->top_p,
        .max_tokens = o->max_tokens,
        .step = EVALUATE_STEP,
    };
    const int rc = generate(&samples, g, a, &request, &times);
    if (rc != 0)
        return rc;
    int *group_of = arena_push(a, (size_t)(n + 1) * sizeof *group_of);
    struct task_outcome *outcome = ARENA_ARRAY(a, struct task_outcome, n + 1);
    e.task_pass = ARENA_ARRAY(a, double, n + 1);
    double sum = 0.0;
    int scored = 0;
    for (int i = 0; i < n; i++) {
        group_of[i] = group_index(&e, a, tasks[i].group, n);
        outcome[i] = judge_task(&samples[i * o->samples], o->samples, g->scoring);
        e.task_pass[i] = (double)NAN;
        if (outcome[i].scored > 0) {
            e.task_pass[i] = (double)outcome[i].right / outcome[i].scored;
            sum += e.task_pass[i];
            scored++;
        }
    }
    double *scratch = ARENA_ARRAY(a, double, n + 1);
    for (int i = 0; i < e.num_groups; i++)
        summarise(&e.groups[i], i, group_of, outcome, samples, n, o, scratch);
    e.pass_at_1 = scored > 0 ? sum / scored : 0.0;
    *out = e;
    return 0;
}

void evaluate_metrics(struct metrics_line *line, const struct evaluation *e)
{
    metrics_put(line, e->pass_at_1, "eval/pass@1");
    for (int i = 0; i < e->num_groups; i++) {
        const struct evaluate_group *g = &e->groups[i];
        metrics_put(line, g->pass_at_1.mean, "eval/%s/pass@1", g->name);
        metrics_put(line, g->pass_at_1.low, "eval/%s/pass@1_low", g->name);
        metrics_put(line, g->pass_at_1.high, "eval/%s/pass@1_high", g->name);
        for (int k = 0; k < g->num_k; k++)
            if (g->k[k] != 1)
                metrics_put(line, g->pass_at_k[k], "eval/%s/pass@%d", g->name, g->k[k]);
        if (!isnan(g->best_of_n))
            metrics_put(line, g->best_of_n, "eval/%s/best_of_n", g->name);
        if (!isnan(g->majority))
            metrics_put(line, g->majority, "eval/%s/maj@%d", g->name, e->samples);
        metrics_put(line, g->tasks, "eval/%s/n", g->name);
        metrics_put(line, g->unscorable, "eval/%s/unscorable", g->name);
        metrics_put(line, g->mean_length, "eval/%s/mean_length", g->name);
        if (g->programs > 0) {
            metrics_put(line, g->programs, "eval/%s/sandbox/programs", g->name);
            metrics_put(line, g->weak, "eval/%s/sandbox/weak", g->name);
        }
    }
}
