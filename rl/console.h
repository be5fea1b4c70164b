// SPDX-License-Identifier: Apache-2.0
// What a person sees of a run: a line for each stage, step and evaluation, and a progress bar on a
// terminal.
#ifndef RL_CONSOLE_H
#define RL_CONSOLE_H

#include "policy/policy.h"
#include "rl/evaluate.h"
#include "rl/metrics.h"

void console_run(const char *run, const struct policy *p, const struct device *dev);
void console_stage(const char *name, const char *kind, int steps);
// Every logging_steps-th step: the named metrics that the line has. steps: of the stage; seconds:
// so far in it.
void console_step(const struct metrics_line *line, const char *const *shown, int steps,
                  double seconds, int logging_steps);
void console_evaluation(const struct evaluation *e, const char *stage, int step);
void console_done(const char *run, double seconds);

#endif
