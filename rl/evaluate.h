// SPDX-License-Identifier: Apache-2.0
// Evaluation on held-out tasks: several samples of each, scored by the same rewards as in training.
#ifndef RL_EVALUATE_H
#define RL_EVALUATE_H

#include "rl/generate.h"
#include "rl/metrics.h"
#include "rl/source.h"
#include "rl/stats.h"

struct evaluate_group { // SOURCE of eval/SOURCE/...
    const char *name;
    int tasks, samples; // tasks that could be scored, and their samples
    int unscorable;     // samples
    int programs, weak; // samples judged by running them; of these, judged weakly (reward.h)
    struct stats_interval pass_at_1;
    int num_k;
    int k[8];
    double pass_at_k[8];
    double best_of_n; // by the process reward model; NaN without one
    double majority;  // maj@samples, of answers; NaN without them
    double mean_length, finished;
};

struct evaluation {
    int samples; // of a task
    int num_groups;
    struct evaluate_group *groups; // in the arena
    double pass_at_1;              // over all groups' tasks
    double *task_pass;             // [num_tasks] share of right samples, NaN: unscorable
    int num_tasks;
};

struct evaluate_options {
    int samples;
    const int *k;
    int num_k;
    double temperature, top_p;
    int max_tokens;
};

// Evaluates tasks [n]. The randomness depends on the engine's seed and the tasks' keys alone, so
// that evaluations of two models are paired. A sample is right when its source's verdict
// (scoring_verdict) is 1.
int evaluate(struct evaluation *out, struct generator *g, struct arena *a, const struct task *tasks,
             int n, const struct evaluate_options *o);

void evaluate_metrics(struct metrics_line *line, const struct evaluation *e);

#endif
