// SPDX-License-Identifier: Apache-2.0
// Balance of the experts' load: arXiv:2412.19437, section 2.1.2.
#include "policy/weights.h"

#include <string.h>

static int64_t load_sum(const struct policy *p, int layer)
{
    int64_t sum = 0;
    for (int e = 0; e < p->arch.E; e++) {
        sum += p->expert_load[(size_t)layer * p->arch.E + e];
    }
    return sum;
}

void policy_balance_bias(struct policy *p, double u)
{
    const struct arch *a = &p->arch;
    for (int l = a->dense_layers; l < a->L && a->route_bias; l++) {
        const int64_t *load = p->expert_load + (size_t)l * a->E, sum = load_sum(p, l);
        float *bias = p->params.data + p->packed->layers[l].route_bias;
        for (int e = 0; e < a->E; e++) {
            int64_t over = load[e] * a->E - sum; // the sign of load - mean, in integers
            bias[e] += (float)(over < 0 ? u : over > 0 ? -u : 0);
        }
    }
}

double policy_max_violation(const struct policy *p)
{
    const struct arch *a = &p->arch;
    double total = 0;
    int layers = 0;
    for (int l = a->dense_layers; l < a->L; l++) {
        int64_t sum = load_sum(p, l), max = 0;
        for (int e = 0; e < a->E; e++) {
            int64_t load = p->expert_load[(size_t)l * a->E + e];
            max = load > max ? load : max;
        }
        if (sum > 0) {
            total += (double)max * a->E / (double)sum - 1;
            layers++;
        }
    }
    return layers ? total / layers : 0;
}

void policy_load_reset(struct policy *p)
{
    if (p->expert_load) {
        memset(p->expert_load, 0, (size_t)p->arch.L * p->arch.E * sizeof *p->expert_load);
    }
}
