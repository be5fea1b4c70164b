// SPDX-License-Identifier: Apache-2.0
// AdamW with clipping by global norm, and learning-rate schedules.
#ifndef POLICY_OPTIMIZER_H
#define POLICY_OPTIMIZER_H

#include "policy/policy.h"

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };

struct optimizer_settings { // TRL's names
    double learning_rate, adam_beta1, adam_beta2, adam_epsilon, weight_decay;
    double max_grad_norm; // 0: no clipping
    int warmup_steps;
    enum schedule schedule;
    double min_lr_ratio; // cosine and linear end at this share of learning_rate
};

struct optimizer {
    struct optimizer_settings settings;
    struct device *dev; // borrowed
    size_t begin, end;  // the range of the parameter block that it updates; of several ranks, this
                        // one's (policy/parallel.h)
    float *m, *v;       // mirror the range, in the memory of dev
    int step;           // updates done
};

// Bytes of the moments that an optimiser of p has.
size_t optimizer_bytes(const struct policy *p);
int optimizer_open(struct optimizer **out, const struct policy *p,
                   const struct optimizer_settings *s);
void optimizer_free(struct optimizer **o);

// Learning rate of update `step` (from 0) of `total`: linear warm-up from learning_rate/warmup to
// learning_rate, then the schedule.
double optimizer_rate(const struct optimizer_settings *s, int step, int total);

// With several ranks (policy/parallel.h) the next two are collective.
// Norm of p->grad over all trained parameters, before clipping; of several ranks' ranges together.
int optimizer_grad_norm(double *out, struct policy *p);
// One update at rate lr from p->grad, summed over the ranks (g *= min(1, max_grad_norm/(norm +
// 1e-6))), then repacks the weights. ERR_NUMERIC, with nothing changed, when norm is not finite.
// *norm receives the norm before clipping.
int optimizer_update(struct optimizer *o, struct policy *p, double lr, double *norm);

// The whole optimiser on rank 0, its moments from all ranks; on other ranks, and where o is whole
// already, *out is NULL. Collective.
int optimizer_gather(struct optimizer **out, const struct optimizer *o, const struct policy *p);

// Moments and step of a whole optimiser as optimizer.safetensors in dir. Loading, which takes the
// optimiser's range, checks names and shapes against the
// policy.
int optimizer_save(const struct optimizer *o, const struct policy *p, const char *dir);
int optimizer_load(struct optimizer *o, const struct policy *p, const char *dir);

#endif
